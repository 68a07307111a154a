"""What a map shows of a density: how far it exceeds the uniform density, and where its regions of 50 and 90 % end.

A ratio is a density over the uniform density, 1 / (4 pi) per steradian. Locations are (lat, lon) in degrees.
"""

from collections.abc import Callable, Sequence
from typing import Any

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import regions
from locdiff.viz.views import View, locations

Finer = tuple[np.ndarray, np.ndarray]  # locations (m, 2) and the ratios there (m,)

FAINTEST = 1e-6  # the least ratio that is told from zero
FLAT = 1.001  # a density whose values differ by less is uniform
RANGE = 10_000  # of the shades
PEAKS = 5  # modes that may have the largest density
LEAST_PEAK = 10.0  # a density whose largest ratio is lower is drawn fainter


def of_pixels(density: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return the ratio of one density (N,) of HEALPix pixels as a function (..., 2) -> (...).

    Logarithms are interpolated between pixels: those of a normal density bend least.
    """
    logs = np.log(np.maximum(density.double().numpy() * len(density), FAINTEST))

    def ratio_at(lat_lon):
        return np.exp(healpy.get_interp_val(logs, lat_lon[..., 1], lat_lon[..., 0], lonlat=True))

    return ratio_at


def of_posterior(posterior: Any, i: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the ratio of picture i's density in a LocationPosterior as a function (..., 2) -> (...)."""

    def ratio_at(lat_lon):
        logs = posterior.log_density(torch.from_numpy(lat_lon.reshape(-1, 2)))[i].double()
        return 4 * np.pi * logs.exp().numpy().reshape(lat_lon.shape[:-1])

    return ratio_at


def between_pixels(posterior: Any, i: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what `of_posterior` does, but with what is known by pixels alone interpolated as by `of_pixels`: all of a
    density of one level, and of a refined one what remains of level 0. The density is as the model made it."""
    probs, fine = posterior.remaining[i], of_posterior(posterior, i)
    coarse, ratios, nside = of_pixels(probs), len(probs) * probs.double().numpy(), healpy.npix2nside(len(probs))

    def ratio_at(lat_lon):
        own = ratios[healpy.ang2pix(nside, lat_lon[..., 1], lat_lon[..., 0], lonlat=True)]
        return np.maximum(fine(lat_lon) - own, 0) + coarse(lat_lon)

    return ratio_at


def largest_ratio(posterior: Any, i: int) -> float:
    """Return the largest ratio of picture i's density, at its modes or in its pixels."""
    probs, modes = posterior.pixel_probs[i], posterior.modes(PEAKS)[0][i]
    return max(len(probs) * probs.max().item(), of_posterior(posterior, i)(modes.double().numpy()).max().item())


def pixels_of(density: Tensor) -> Finer:
    """Return the HEALPix pixels of one density (N,) that exceed the uniform one, and the ratios there."""
    ratios = density.numpy() * len(density)
    above = ratios > 1
    return healpix_anchors(healpy.npix2nside(len(density)))[above].numpy(), ratios[above]


def on_map(
    view: View, height: int, ratio_at: Callable[[np.ndarray], np.ndarray], finer: Sequence[Finer] = ()
) -> np.ndarray:
    """Return the ratio (height, width) at the pixels of a map, zero outside the Earth.

    A pixel shows the largest of the `finer` values inside it if that is larger, so that no density is too narrow to be
    seen.
    """
    at = locations(view, height)
    values, inside = np.zeros(at.shape[:2]), np.isfinite(at[..., 0])
    values[inside] = ratio_at(at[inside])
    rows, columns = values.shape
    for lat_lon, ratio in finer:
        xy = view.forward(lat_lon)
        column = np.floor((xy[:, 0] / view.half_width + 1) / 2 * columns)
        row = np.floor((1 - xy[:, 1] / view.half_height) / 2 * rows)
        on = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        np.maximum.at(values, (row[on].astype(int), column[on].astype(int)), ratio[on])
    return values


def strength(ratio: np.ndarray, largest: float) -> np.ndarray:
    """Return how strongly to shade where the ratio is so large (...), in [0, 1]: 1 at the `largest` ratio, 0 where the
    density is the uniform one or less, or below a RANGE-th of the largest, and by the logarithm between.

    If the largest ratio is below LEAST_PEAK, all is weaker.
    """
    least = max(1, largest / RANGE)
    return np.clip(np.log(np.maximum(ratio, least) / least) / np.log(max(largest, LEAST_PEAK) / least), 0, 1)


def region_levels(density: Tensor) -> list[float]:
    """Return the ratios of one density (N,) at the rims of its 50 and 90 % regions.

    A rim's value lies halfway between the least dense pixel inside and the densest outside. A region of the whole Earth
    has none, nor has any of a density that is as good as uniform.
    """
    if density.max() < FLAT * density.min():
        return []
    masks = [mask for mask in regions(density[None])[0][0] if not mask.all()]
    return [len(density) * (density[mask].min().item() + density[~mask].max().item()) / 2 for mask in masks]
