"""The density of locations that are known: the prior of a model, by penalized likelihood and cross-validation."""

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.sphere import shdd
from locdiff.sphere.healpix import HealpixTransform, healpix_transform

ROUGHNESS = 0.1  # penalty of the prior, in nats of the whole training data, on the integral of |grad F|^2
ITERATIONS = 40
FOLDS = 5  # of the cross-validation


def prior_of(
    lat_lon: Tensor, l_max: int, device: torch.device | str = "cpu", photographers: list[str] | None = None
) -> Tensor:
    """Return the natural parameters (D,) of the density of locations (n, 2), on a device.

    They are those of `fit_prior` times a number up to one, the best for locations that a density was not fitted to: the
    locations of a fifth of the photographers, where two or more are known, or else a random fifth of all.
    """
    names = photographers or []
    several = len(set(names)) > 1
    groups = np.unique(names, return_inverse=True)[1] if several else np.arange(len(lat_lon))
    fold = torch.from_numpy(np.random.default_rng(0).permutation(len(np.unique(groups)))[groups] % FOLDS)
    sums = torch.zeros(FOLDS, (l_max + 1) ** 2, dtype=torch.float64)
    size = min(1024, batch_size(64 * (l_max + 1) ** 2))  # more would not be faster
    for chunk, own in zip(lat_lon.split(size), fold.split(size), strict=True):
        sums.index_add_(0, own, shdd.encode(chunk, l_max).double())
    sums, counts = sums.to(device), fold.bincount(minlength=FOLDS).double().to(device)
    transform = healpix_transform(l_max, 8 * (l_max // 8 + 2), device=device)
    total, count = sums.sum(dim=0, keepdim=True), counts.sum(dim=0, keepdim=True)
    e = fit_prior(transform, torch.cat([total, total - sums]), torch.cat([count, count - counts]).float())
    return e[0] * _sharpness(transform, e[1:], sums, counts)


def fit_prior(transform: HealpixTransform, sums: Tensor, counts: Tensor) -> Tensor:
    """Return the natural parameters e (C, D) of densities of locations, of which `sums` (C, D) are the sums of the
    encodings and `counts` (C,) the numbers, or sums of weights.

    Each e maximizes sum_i log q_e(y_i) - ROUGHNESS / 2 integral |grad F|^2, where the integral is the sum of
    l (l + 1) e_lm^2. Without locations e is zero.
    """
    degree = torch.arange(transform.l_max + 1, device=sums.device)
    degree = degree.repeat_interleave(2 * degree + 1)
    counts = counts[:, None].clamp(min=1e-6)
    mean, penalty = (sums / counts).float(), (ROUGHNESS * degree * (degree + 1) / counts).float()
    mean[:, 0] = 1 / math.sqrt(4 * math.pi)  # of l = 0, which no density depends on
    scale = (1 / (4 * math.pi) + penalty).rsqrt()  # with e = scale x, the Hessian at the uniform density is one
    x = torch.zeros_like(mean).requires_grad_()

    def loss():
        e = scale * x
        return (transform.log_partition(e) - (mean * e).sum(dim=-1) + (penalty * e.square()).sum(dim=-1) / 2).sum()

    minimize(loss, x)
    return (scale * x).detach()


def _sharpness(transform, e, sums, counts):
    """The number up to one by which natural parameters (FOLDS, D) give the most likelihood to the locations of their
    folds, of which `sums` are the sums of the encodings and `counts` the numbers; one where all say nothing."""
    if not e.any():
        return 1.0
    slope = (e * sums).sum().item()

    def loss(factor):
        return (counts * transform.log_partition_and_mean(factor * e)[0]).sum().item() - factor * slope

    found: Any = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-3})
    return found.x


@torch.enable_grad()
def minimize(loss, x):
    """Minimize loss() over the tensor `x` in place, by L-BFGS."""
    optimizer = torch.optim.LBFGS([x], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
