"""Encoders turn pictures or words into embeddings. An encoder is chosen by its name, `KIND` or `KIND:DETAILS`.

thumbnail-16               the embedded data's: 16 x 16 pixels
open_clip:MODEL/TAG        a frozen model of open_clip with pretrained weights, e.g. open_clip:ViT-L-14/openai
timm:MODEL.TAG             a frozen model of timm, e.g. timm:vit_small_patch14_dinov2.lvd142m
text:MODEL                 words: a frozen model of sentence-transformers, e.g. text:all-MiniLM-L6-v2
ngrams:DIM                 words: hashed character n-grams, e.g. ngrams:2048; no model

To add one, write a class with what `Encoder` or `TextEncoder` names, made by make(details, weights, device), and enter
it in ENCODERS.
"""

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from locdiff.data.blue_marble import THUMBNAIL_ENCODER, THUMBNAIL_SIDE, thumbnail_embeddings
from locdiff.data.text_encoders import NgramEncoder, SentenceEncoder, TextEncoder
from locdiff.errors import InputError
from locdiff.files import canonical_encoder

DEFAULT = "open_clip:ViT-L-14/openai"


class Encoder(Protocol):
    """A frozen network: `name` tells its embeddings from those of others, and `dim` is their width.

    `about` says what else changes embeddings, such as activation and preprocessing; meta.json holds it.

    An encoder may also have `encode_text(texts)`, which embeds a list of words into the same space.
    """

    name: str
    dim: int
    about: dict[str, Any]

    def prepare(self, item: Any) -> Tensor:
        """Return one picture (a PIL image in RGB) as the tensor that `encode` takes; called in other processes."""
        ...

    def encode(self, batch: Tensor) -> Tensor:
        """Return the embeddings (n, dim) float32, on the CPU, of a stack of n prepared pictures."""
        ...


class ThumbnailEncoder:
    """The embedded data's: the picture's central square, reduced to 16 x 16 pixels."""

    name, dim = THUMBNAIL_ENCODER, 3 * THUMBNAIL_SIDE**2
    about: ClassVar = {
        "preprocessing": "central square, mean of the pixels",
        "image_size": [THUMBNAIL_SIDE, THUMBNAIL_SIDE],
    }

    def __init__(self, details: str = "", weights: str | None = None, device="cpu"):
        if details or weights:
            raise InputError(f"the encoder {THUMBNAIL_ENCODER} takes no details and no weights")

    @staticmethod
    def prepare(item):
        image = ImageOps.fit(item, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1)

    @staticmethod
    def encode(batch):
        return thumbnail_embeddings(batch)


class OpenClipEncoder:
    """A frozen open_clip model, by `MODEL/TAG`: TAG names weights that open_clip downloads, or `weights` is a file.

    What open_clip says of TAG holds for a file too: the activation that the weights were trained with, and how pictures
    are prepared. Without a TAG, or with one that open_clip does not know, both are the model's own. The name of an
    encoder with weights from a file tells the file: MODEL/TAG@STEM-DIGEST, or MODEL/STEM-DIGEST.

    MODEL/TAG+gelu is the encoder of embeddings from before 0.2, which had GELU where TAG asks for QuickGELU.
    """

    def __init__(self, details: str, weights: str | None = None, device: str | torch.device = "cpu"):
        import open_clip

        architecture, _, tag = details.partition("/")
        tag, old, _ = tag.partition("+gelu")
        tag, at, _ = tag.partition("@")
        if at and not weights:
            raise InputError(f"the weights of 'open_clip:{details}' came from a file: give it by --weights FILE")
        if not architecture or not (weights or tag):
            remedy = "give open_clip:MODEL/TAG, or open_clip:MODEL with --weights FILE"
            raise InputError(f"'open_clip:{details}' names no weights: {remedy}")
        known = open_clip.get_pretrained_cfg(architecture, tag)
        quick = bool(known.get("quick_gelu")) and not old
        self.model, self.prepare = _create_open_clip(architecture, weights or tag, known, quick, device)
        self.model.eval().requires_grad_(False)
        self.device, self._architecture = torch.device(device), architecture
        self.dim = int(self.model.visual.output_dim)
        if weights:
            tag = f"{tag}{old}@" * bool(known) + f"{Path(weights).stem}-{_digest(weights)}"
            old = ""
        self.name = f"open_clip:{architecture}/{tag}{old}"
        is_quick = any(isinstance(part, open_clip.transformer.QuickGELU) for part in self.model.visual.modules())
        self.about = {
            "activation": "QuickGELU" if is_quick else "the model's own",
            "preprocessing": str(self.prepare),
            "image_size": list(self.model.visual.image_size),
            "precision": "float16 by autocast" if self.device.type == "cuda" else "float32",
        }

    @torch.inference_mode()
    def encode(self, batch):
        """Return embeddings (n, dim), not normalized, of prepared pictures (n, 3, height, width); half on a GPU."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda"):
            return self.model.encode_image(batch.to(self.device, non_blocking=True)).float().cpu()

    @torch.inference_mode()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the embeddings (n, dim) of texts by CLIP's text tower, trained to meet those of pictures."""
        import open_clip

        tokens = open_clip.get_tokenizer(self._architecture)(texts)
        return self.model.encode_text(tokens.to(self.device)).float().cpu()


def _create_open_clip(architecture, weights, known, quick_gelu, device):
    """The model and the preprocessing; `known` is what open_clip says of the tag. A mismatch that open_clip only warns
    of is an error: embeddings by the wrong activation look like others."""
    import open_clip

    options = {f"image_{key}": known[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in known}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            model, _, prepare = open_clip.create_model_and_transforms(
                architecture, pretrained=weights, device=device, force_quick_gelu=quick_gelu, **options
            )
    except Exception as error:  # whatever the download, the file format or open_clip raises
        if "QuickGELU mismatch" in str(error):
            other = architecture.removesuffix("-quickgelu")
            raise InputError(
                f"the weights '{weights}' were not trained with the activation of {architecture}: choose {other}"
            ) from None
        raise InputError(
            f"cannot get the weights '{weights}' of {architecture}: {error}; without a network, "
            "download them elsewhere and give the file by --weights FILE"
        ) from None
    return model, prepare


class TimmEncoder:
    """A frozen model of timm, by its name there (`MODEL` or `MODEL.TAG`): what its classifier would see.

    timm downloads the weights, or takes them from its cache, or `weights` is a file; then the name tells the file:
    MODEL@STEM-DIGEST. Pictures are prepared as timm's configuration of the model says.
    """

    def __init__(self, details: str, weights: str | None = None, device: str | torch.device = "cpu"):
        import timm

        model = details.partition("@")[0]
        if "@" in details and not weights:
            raise InputError(f"the weights of 'timm:{details}' came from a file: give it by --weights FILE")
        source = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
        try:
            self.model = timm.create_model(model, pretrained=True, num_classes=0, **source)
        except Exception as error:  # whatever the download, the file format or timm raises
            raise InputError(
                f"cannot get the weights of timm:{model}: {error}; without a network, download them elsewhere and give "
                "the file by --weights FILE"
            ) from None
        self.model.to(device).eval().requires_grad_(False)
        config = timm.data.resolve_model_data_config(self.model)
        self.prepare = timm.data.create_transform(**config, is_training=False)
        self.device, self.dim = torch.device(device), int(self.model.num_features)
        self.name = f"timm:{model}" + (f"@{Path(weights).stem}-{_digest(weights)}" if weights else "")
        self.about = {
            "preprocessing": str(self.prepare), "image_size": list(config["input_size"][1:]), "precision": "float32",
        }  # fmt: skip

    @torch.inference_mode()
    def encode(self, batch):
        """Return the pooled features (n, dim) of prepared pictures (n, 3, height, width)."""
        return self.model(batch.to(self.device, non_blocking=True)).float().cpu()


ENCODERS: dict[str, Callable[..., Encoder | TextEncoder]] = {
    THUMBNAIL_ENCODER: ThumbnailEncoder,
    "open_clip": OpenClipEncoder,
    "timm": TimmEncoder,
    "text": SentenceEncoder,
    "ngrams": NgramEncoder,
}

WITHOUT_WEIGHTS = (THUMBNAIL_ENCODER, "ngrams")


def is_text_encoder(name: str) -> bool:
    """Return whether the encoder of that name is of words alone."""
    make = ENCODERS.get(canonical_encoder(name).partition(":")[0])
    return hasattr(make, "encode_text") and not hasattr(make, "encode")


def make_encoder(name: str, weights: str | None = None, device: str | torch.device = "cpu") -> Encoder | TextEncoder:
    """Return the encoder of that name; `weights` is the file of its weights, if they come from one.

    Raises InputError if there is none, or if the weights cannot be had.
    """
    kind, _, details = canonical_encoder(name).partition(":")
    if kind not in ENCODERS:
        raise InputError(
            f"'{name}' is no encoder that this program knows ({', '.join(ENCODERS)}): embed the pictures with it and "
            "give the folder (embeddings.npy, locations.csv) instead"
        )
    return ENCODERS[kind](details, weights, device)


def about_of(name: str) -> dict[str, Any]:
    """Return what is known of the encoder of that name without its weights: `about`, if it has no weights, else {}."""
    kind = canonical_encoder(name).partition(":")[0]
    return {"activation": "none: it is no network"} | make_encoder(name).about if kind in WITHOUT_WEIGHTS else {}


def encoder_of(config, weights: str | None = None, device: str | torch.device = "cpu") -> Encoder | TextEncoder:
    """Return the encoder that a model's embeddings are by, for the model's configuration; see `make_encoder`.

    Raises InputError if other weights than the model's were given.
    """
    encoder = make_encoder(config.encoder, weights, device)
    config.check_encoder(encoder.name)
    return encoder


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
