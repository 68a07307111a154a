"""What a model asks of the pictures that it is trained on; `locdiff.data.embeddings.Embeddings` is such an object."""

from typing import Protocol

import numpy as np
from torch import Tensor


class TrainingData(Protocol):
    """n pictures with known locations `lat_lon` (n, 2) in degrees, embedded by `encoder`."""

    lat_lon: np.ndarray
    embeddings: np.ndarray
    encoder: str

    @property
    def photographers(self) -> list[str] | None:
        """The photographer of each picture, or None where that is not known of all."""
        ...

    def __len__(self) -> int: ...

    def batch(self, chosen) -> tuple[Tensor, Tensor]:
        """Return the embeddings (m, d) float32 and locations (m, 2) float64 at the positions `chosen`."""
        ...
