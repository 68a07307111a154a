"""The whitening of embeddings, and how far it goes."""

import numpy as np
import torch
from torch import Tensor, nn

from locdiff.errors import InputError
from locdiff.model.training_data import TrainingData
from locdiff.sphere.coordinates import to_unit_vector

WHITENED = 20_000  # pictures whose covariance the embeddings are whitened by
FLOORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # those that `choose_floor` compares
NETWORK = 10  # times the best floor of a ridge regression is that of the network, which learns more than that does


class Whitening(nn.Module):
    """(e - mean) C^(-1/2) of embeddings e, the first d of (..., d or more) numbers; any others pass. `fit` sets it.

    Encoders give numbers of any size, and most of their variance lies in few directions: a network that is briefly
    trained sees little else.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, d):
        super().__init__()
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("matrix", torch.eye(d))

    def fit(self, embeddings, floor):
        """Take the mean of embeddings (n, d), and as C their covariance with `floor` times its mean variance added in
        every direction. Raises InputError if all of them are the same."""
        x = embeddings.double()
        mean = x.mean(dim=0)
        variance, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        if not variance.mean() > 0:
            raise InputError(
                "cannot whiten the embeddings to train on: they are all the same; look at them, or --whiten 0"
            )
        scale = (variance.clamp(min=0) + floor * variance.mean()).rsqrt()
        self.mean.copy_(mean)
        self.matrix.copy_((directions * scale) @ directions.T)

    def forward(self, x):
        d = len(self.mean)
        return torch.cat([(x[..., :d] - self.mean) @ self.matrix, x[..., d:]], dim=-1)


def fit_whitening(module: nn.Module, data: TrainingData, floor: float) -> None:
    """Fit every Whitening in a module to WHITENED random training pictures, or to all.

    Raises InputError if the embeddings are all the same.
    """
    parts = [part for part in module.modules() if isinstance(part, Whitening)]
    if parts:
        embeddings, _ = _some(data)
        for part in parts:
            part.fit(embeddings, floor)


def _some(data):
    return data.batch(np.random.default_rng(0).permutation(len(data))[:WHITENED])


def choose_floor(data: TrainingData) -> float:
    """Return the `floor` to whiten the embeddings of training pictures by: the less they say of locations, the higher.

    A ridge regression predicts unit vectors from embeddings. Its penalty, a share of their mean variance, is the one of
    FLOORS with the least error for pictures that are left out, which has a closed form. The floor is NETWORK times it.
    """
    embeddings, lat_lon = _some(data)
    x, y = embeddings.double(), to_unit_vector(lat_lon.double())
    x, y, n = x - x.mean(dim=0), y - y.mean(dim=0), len(x)
    variance, directions = torch.linalg.eigh(x.T @ x / n)
    x = x @ directions
    along, square, errors = x.T @ y / n, x.square(), {}
    for floor in FLOORS:
        penalized = variance.clamp(min=0) + floor * variance.mean() + 1e-12
        own = (square / penalized).sum(dim=1) / n + 1 / n  # how far a picture predicts itself
        error = (y - x @ (along / penalized[:, None])) / (1 - own).clamp(min=1e-6)[:, None]
        errors[floor] = error.square().sum().item()
    return NETWORK * min(errors, key=errors.__getitem__)
