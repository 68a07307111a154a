"""What a density over the Earth says: its regions, its separate modes, its likelihood.

A density is the probability of each of the N = 12 nside**2 HEALPix pixels in RING order, (n, N), with sum one.
"""

import math
from functools import lru_cache

import healpy
import numpy as np
import torch

from locdiff.coordinates import EARTH_RADIUS_KM, great_circle_km

UNIFORM = 1e-3  # the share of a linear density that is spread evenly


def from_linear(values):
    """The density for the values (n, N) of a function sum_lm c_lm Y_lm that should be one but dips below zero.

    Cut off at l_max, every peak is surrounded by rings, half of them negative. Negative values are set to zero, the
    rest is scaled to 1 - UNIFORM, and UNIFORM is spread evenly: no place is impossible, and the sum is one.
    """
    positive = values.clamp(min=0)
    total = positive.sum(dim=-1, keepdim=True)
    even = torch.full_like(values, 1 / values.shape[-1])
    tiny = torch.finfo(values.dtype).tiny
    density = torch.where(total > tiny, (1 - UNIFORM) * positive / total.clamp(min=tiny) + UNIFORM * even, even)
    return torch.where(values.isfinite().all(dim=-1, keepdim=True), density, torch.nan)


def log_likelihood(density, lat_lon):
    """Log density in nats per steradian at the places (n, 2); the uniform density has -log(4 pi) = -2.531; (n)."""
    pixels = density.shape[-1]
    lat, lon = lat_lon.cpu().numpy().T
    pixel = torch.from_numpy(healpy.ang2pix(healpy.npix2nside(pixels), lon, lat, lonlat=True)).to(density.device)
    return density.gather(-1, pixel[:, None])[:, 0].log() + math.log(pixels / (4 * math.pi))


def log_density_at(density, lat_lon):
    """Log density in nats per steradian of each of n densities (n, N) at each of the places (m, 2): (n, m)."""
    pixels, (lat, lon) = density.shape[-1], lat_lon.cpu().numpy().T
    pixel = torch.from_numpy(healpy.ang2pix(healpy.npix2nside(pixels), lon, lat, lonlat=True))
    return density.clamp(min=1e-30).log()[:, pixel] + math.log(pixels / (4 * math.pi))


def regions(density, shares=(0.5, 0.9)):
    """The smallest sets of pixels that hold these shares of the density: masks (n, S, N) and areas (n, S) in km^2."""
    sorted_density, order = density.sort(dim=-1, descending=True)
    reached = sorted_density.cumsum(dim=-1)
    count = torch.stack([(reached < share * (1 - 1e-6)).sum(dim=-1) + 1 for share in shares], dim=-1)
    rank = torch.arange(density.shape[-1], device=density.device)
    masks = [torch.zeros_like(density, dtype=torch.bool).scatter(-1, order, rank < c[:, None]) for c in count.T]
    return torch.stack(masks, dim=1), count * (4 * math.pi * EARTH_RADIUS_KM**2 / density.shape[-1])


def radius_holding(share, density, lat_lon, anchors):
    """Radius in km around each place (n, 2) that holds `share` of its density (n, N) over the anchors (N, 2); (n,)."""
    distance, order = great_circle_km(lat_lon[:, None], anchors).sort(dim=-1)
    reached = density.gather(-1, order).cumsum(dim=-1)
    first = (reached < share * reached[:, -1:]).sum(dim=-1)
    return distance.gather(-1, first[:, None])[:, 0]


def basins(density):
    """The pixel of the top that every pixel belongs to: the one that steepest ascent from pixel to neighbouring pixel
    leads to; (n, N) -> (n, N)."""
    neighbours = torch.from_numpy(_neighbours(healpy.npix2nside(density.shape[-1]))).to(density.device)
    top = torch.empty(density.shape, dtype=torch.long, device=density.device)
    for row, uphill in zip(density, top, strict=True):
        rank = torch.empty_like(top[0]).scatter(0, row.argsort(stable=True), torch.arange(len(row), device=row.device))
        steepest = rank.index_select(0, neighbours.flatten()).view(neighbours.shape).max(dim=0).indices  # no two equal
        uphill[:] = neighbours.gather(0, steepest[None])[0]
    while not torch.equal(higher := top.gather(-1, top), top):
        top = higher
    return top


def modes(density, k, top=None):
    """The k hills of most mass: the pixel of each one's top (n, k) and its probability (n, k).

    The hills are the `basins` (given as `top`, or found): they do not overlap, and the probabilities of all of them sum
    to one. Where a density has fewer than k, the rest are zero.
    """
    top = basins(density) if top is None else top
    probability, pixel = torch.zeros_like(density).scatter_add(-1, top, density).topk(min(k, density.shape[-1]), dim=-1)
    return pixel, probability


@lru_cache(maxsize=2)
def _neighbours(nside):
    """Every pixel and its neighbours, (9, N): itself first, and again where HEALPix has only seven neighbours."""
    pixels = np.arange(12 * nside**2)
    neighbours = healpy.get_all_neighbours(nside, pixels)
    return np.concatenate([pixels[None], np.where(neighbours < 0, pixels, neighbours)])
