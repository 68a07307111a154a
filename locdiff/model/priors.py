"""Densities of locations before any picture, and what a posterior becomes by another one.

By Bayes' rule it is posterior / old * new, normalised. Both priors are mixed with SHARE of the uniform density first.
So a place where the old one is nearly zero gains at most a factor of new / (SHARE uniform) + 1.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from locdiff.errors import InputError
from locdiff.model.location_prior import prior_of
from locdiff.sphere import pixels
from locdiff.sphere.healpix import HealpixTransform

SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Prior:
    """A density of locations: `density` (N,) at the pixels of level 0, over that of the uniform density.

    A `region`, if there is one, is all that it has any probability in.
    """

    name: str
    density: Tensor
    region: Any = None


def uniform(grid: HealpixTransform, name: str = "uniform", region: Any = None) -> Prior:
    """Return the uniform density over the Earth, or over a region."""
    return Prior(name, torch.ones(12 * grid.nside**2, dtype=torch.float64), region)


def of_natural_params(name: str, natural_params: Tensor, grid: HealpixTransform) -> Prior:
    """Return the density q_e of natural parameters e (D,)."""
    values = grid.synthesis(natural_params.to(grid.k.device)).double()
    return Prior(name, (pixels.softmax(values) * values.shape[-1]).cpu())


def learned(model) -> Prior:
    """Return the density of a model's training places, which its posteriors contain.

    Raises InputError if the model holds none.
    """
    found = getattr(model.calibration, "prior", None)
    if found is None or not found.any():
        raise InputError(
            "the model holds no density of its training places: its loss is not likelihood, or it is of an old "
            "version; train it again"
        )
    return of_natural_params("training places", found, model.grid)


def of_places(model, name: str, lat_lon: Tensor) -> Prior:
    """Return the density of locations (n, 2), estimated as that of a model's training places is.

    Raises InputError if the model holds no prior that this could replace.
    """
    learned(model)
    return of_natural_params(name, prior_of(lat_lon, model.grid.l_max, model.device), model.grid)


def log_ratio(new: Prior, old: Prior) -> Tensor:
    """Return the log of new over old, each with its share of the uniform density, (N,)."""
    return ((1 - SHARE) * new.density + SHARE).log() - ((1 - SHARE) * old.density + SHARE).log()
