"""Encoders turn pictures into embeddings. An encoder is chosen by its name, `KIND` or `KIND:DETAILS`.

thumbnail-16               the embedded data's: 16 x 16 pixels
open_clip:MODEL/TAG        a frozen model of open_clip with pretrained weights, e.g. open_clip:ViT-L-14/openai

To add one, write a class with what `Encoder` names, made by make(details, weights, device), and enter it in ENCODERS.
"""

import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from locdiff.data.blue_marble import THUMBNAIL_ENCODER, THUMBNAIL_SIDE, thumbnail_embeddings
from locdiff.errors import InputError
from locdiff.files import canonical_encoder

DEFAULT = "open_clip:ViT-L-14/openai"


class Encoder(Protocol):
    """A frozen network: `name` tells its embeddings from those of others, and `dim` is their width.

    An encoder may also have `encode_text(texts)`, which embeds a list of words into the same space.
    """

    name: str
    dim: int

    def prepare(self, item: Any) -> Tensor:
        """Return one picture (a PIL image in RGB) as the tensor that `encode` takes; called in other processes."""
        ...

    def encode(self, batch: Tensor) -> Tensor:
        """Return the embeddings (n, dim) float32, on the CPU, of a stack of n prepared pictures."""
        ...


class ThumbnailEncoder:
    """The embedded data's: the picture's central square, reduced to 16 x 16 pixels."""

    name, dim = THUMBNAIL_ENCODER, 3 * THUMBNAIL_SIDE**2

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

    The name of an encoder with weights from a file holds the file's stem and digest in place of TAG.
    """

    def __init__(self, details: str, weights: str | None = None, device="cpu"):
        import open_clip

        architecture, _, tag = details.partition("/")
        weights = weights or tag
        if not architecture or not weights:
            remedy = "give open_clip:MODEL/TAG, or open_clip:MODEL with --weights FILE"
            raise InputError(f"'open_clip:{details}' names no weights: {remedy}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # open_clip's, about activations that old weights were trained with
                self.model, _, self.prepare = open_clip.create_model_and_transforms(
                    architecture, pretrained=weights, device=device
                )
        except Exception as error:  # whatever the download, the file format or open_clip raises
            raise InputError(
                f"cannot get the weights '{weights}' of {architecture}: {error}; without a network, "
                "download them elsewhere and give the file by --weights FILE"
            ) from None
        self.model.eval().requires_grad_(False)
        self.device, self._architecture = torch.device(device), architecture
        self.dim = int(self.model.visual.output_dim)
        tag = f"{Path(weights).stem}-{_digest(weights)}" if os.path.exists(weights) else weights
        self.name = f"open_clip:{architecture}/{tag}"

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


ENCODERS: dict[str, Callable[..., Encoder]] = {THUMBNAIL_ENCODER: ThumbnailEncoder, "open_clip": OpenClipEncoder}


def make_encoder(name: str, weights: str | None = None, device: str | torch.device = "cpu") -> Encoder:
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


def encoder_of(config, weights: str | None = None, device: str | torch.device = "cpu") -> Encoder:
    """Return the encoder that a model's embeddings are by, for the model's configuration; see `make_encoder`.

    Raises InputError if other weights than the model's were given.
    """
    encoder = make_encoder(config.encoder, weights, device)
    config.check_encoder(encoder.name)
    return encoder


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
