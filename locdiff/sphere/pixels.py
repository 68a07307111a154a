"""What a density over the Earth says: its regions, its modes, its log density, locations sampled from it.

A density is held as `pixel_probs` (n, N), the probability of each of the N = 12 nside**2 HEALPix pixels in RING order.
Their sum is one.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.healpix import ang2pix

THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
UNIFORM = 1e-3  # the share of a linear density that is spread evenly


def from_linear(values: Tensor) -> Tensor:
    """Return the density for the values (n, N) of a function sum_lm c_lm Y_lm that should be one but dips below zero.

    Cut off at l_max, every peak is surrounded by rings, half of them negative. Negative values are set to zero, the
    rest is scaled to 1 - UNIFORM, and UNIFORM is spread evenly: no place is impossible, and the sum is one.
    """
    positive = values.clamp(min=0)
    total = positive.sum(dim=-1, keepdim=True)
    even = torch.full_like(values, 1 / values.shape[-1])
    tiny = torch.finfo(values.dtype).tiny
    density = torch.where(total > tiny, (1 - UNIFORM) * positive / total.clamp(min=tiny) + UNIFORM * even, even)
    return torch.where(values.isfinite().all(dim=-1, keepdim=True), density, torch.nan)


def log_prob(pixel_probs: Tensor, lat_lon: Tensor) -> Tensor:
    """Return the log density in nats per steradian at one location for each density, (n, 2) -> (n,).

    The uniform density has -log(4 pi) = -2.531.
    """
    count = pixel_probs.shape[-1]
    pixel = ang2pix(healpy.npix2nside(count), lat_lon).to(pixel_probs.device)
    return pixel_probs.gather(-1, pixel[:, None])[:, 0].log() + math.log(count / (4 * math.pi))


def log_density(pixel_probs: Tensor, lat_lon: Tensor) -> Tensor:
    """Return the log density in nats per steradian of each of n densities at each of m locations, (m, 2) -> (n, m)."""
    count = pixel_probs.shape[-1]
    pixel = ang2pix(healpy.npix2nside(count), lat_lon)
    return pixel_probs.clamp(min=1e-30).log()[:, pixel] + math.log(count / (4 * math.pi))


def sample(pixel_probs: Tensor, uniform: Tensor) -> Tensor:
    """Return pixels sampled from each density by its cumulative distribution: uniform numbers (n, S) -> (n, S)."""
    pixel = torch.searchsorted(pixel_probs.cumsum(dim=-1), uniform.contiguous(), right=True)
    return pixel.clamp(max=pixel_probs.shape[-1] - 1)


def regions(pixel_probs: Tensor, shares: Sequence[float] = (0.5, 0.9)) -> tuple[Tensor, Tensor]:
    """Return the smallest sets of pixels that hold these shares: masks (n, S, N) and their areas (n, S) in km^2."""
    falling, order = pixel_probs.sort(dim=-1, descending=True)
    reached = falling.cumsum(dim=-1)
    count = torch.stack([(reached < share * (1 - 1e-6)).sum(dim=-1) + 1 for share in shares], dim=-1)
    rank = torch.arange(pixel_probs.shape[-1], device=pixel_probs.device)
    masks = [torch.zeros_like(pixel_probs, dtype=torch.bool).scatter(-1, order, rank < c[:, None]) for c in count.T]
    return torch.stack(masks, dim=1), count * (4 * math.pi * EARTH_RADIUS_KM**2 / pixel_probs.shape[-1])


def credible_radius(probs: Tensor, anchors: Tensor, lat_lon: Tensor, shares: Sequence[float] = (0.5, 0.9)) -> Tensor:
    """Return the radii in km around one location for each density, (n, 2), that hold these shares of it: (n, S).

    `probs` (n, N) are the probabilities of points `anchors` (N, 2) or (n, N, 2).
    """
    distance, order = great_circle_km(lat_lon[:, None], anchors).sort(dim=-1)
    reached = probs.gather(-1, order).cumsum(dim=-1)
    first = torch.stack([(reached < share * reached[:, -1:]).sum(dim=-1) for share in shares], dim=-1)
    return distance.gather(-1, first)


def mass_within(probs: Tensor, anchors: Tensor, lat_lon: Tensor) -> Tensor:
    """Return the probability within each threshold of one location for each density, (n, 2) -> (n, thresholds).

    `probs` (n, N) are the probabilities of points `anchors` (N, 2) or (n, N, 2). If the density is right and the
    location is the true one, the mean over pictures is the accuracy of one location sampled from the density.
    """
    distance = great_circle_km(lat_lon[:, None], anchors)
    return torch.stack([(probs * (distance <= k)).sum(dim=-1) for k in THRESHOLDS_KM], dim=-1)


def basins(pixel_probs: Tensor) -> Tensor:
    """Return the pixel of the mode whose basin each pixel belongs to, (n, N) -> (n, N).

    It is where the steepest ascent from pixel to neighboring pixel ends.
    """
    neighbors = torch.from_numpy(_neighbors(healpy.npix2nside(pixel_probs.shape[-1]))).to(pixel_probs.device)
    mode = torch.empty(pixel_probs.shape, dtype=torch.long, device=pixel_probs.device)
    for row, uphill in zip(pixel_probs, mode, strict=True):
        rank = torch.empty_like(mode[0]).scatter(0, row.argsort(stable=True), torch.arange(len(row), device=row.device))
        steepest = rank.index_select(0, neighbors.flatten()).view(neighbors.shape).max(dim=0).indices  # no two equal
        uphill[:] = neighbors.gather(0, steepest[None])[0]
    while not torch.equal(higher := mode.gather(-1, mode), mode):
        mode = higher
    return mode


def modes(pixel_probs: Tensor, k: int, basin: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the pixels of the k most probable modes (n, k), and the probabilities of their basins (n, k).

    `basin` is what `basins` returns, found if it is not given. Basins do not overlap: all their probabilities sum to
    one. Where a density has fewer than k modes the rest are zero; where all have fewer, k is the largest number.
    """
    basin = basins(pixel_probs) if basin is None else basin
    total = torch.zeros_like(pixel_probs).scatter_add(-1, basin, pixel_probs)
    probability, pixel = total.topk(min(k, pixel_probs.shape[-1]), dim=-1)
    found = max(1, int((probability > 0).sum(dim=-1).max())) if len(pixel_probs) else k
    return pixel[:, :found], probability[:, :found]


@lru_cache(maxsize=2)
def _neighbors(nside):
    """Return every pixel and its neighbors, (9, N): itself first, and again where HEALPix has only seven neighbors."""
    pixels = np.arange(12 * nside**2)
    neighbors = healpy.get_all_neighbours(nside, pixels)
    return np.concatenate([pixels[None], np.where(neighbors < 0, pixels, neighbors)])
