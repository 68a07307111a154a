"""Picture files to the embeddings that a model was trained on."""

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from locdiff.cli import InputError
from locdiff.datasets import THUMBNAIL_ENCODER, THUMBNAIL_SIDE, thumbnail_embeddings


def embed_pictures(paths, encoder):
    """Embeddings of picture files by the named encoder: n paths -> (n, embed_dim) float32.

    InputError names the file that is missing, truncated or no picture, or says that the encoder is not known here.
    """
    if encoder != THUMBNAIL_ENCODER:
        raise InputError(
            f"this model was trained on embeddings by '{encoder}', which this program cannot make from picture files: "
            "embed the pictures with it and give the folder (embeddings.npy, locations.csv) instead"
        )
    if not paths:
        return torch.empty(0, 3 * THUMBNAIL_SIDE**2)
    return thumbnail_embeddings(torch.stack([_thumbnail(path) for path in paths]))


def _thumbnail(path):
    """The picture's central square, reduced to (3, 16, 16) in [0, 1]."""
    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the picture {path}: {error}") from None
    picture = ImageOps.fit(picture, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
