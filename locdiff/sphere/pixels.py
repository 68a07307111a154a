"""What a density over the Earth says: its regions, its radii, its log density, locations sampled from it.

A density is held as `pixel_probs` (n, N), the probability of each of the N = 12 nside**2 HEALPix pixels in RING order.
Their sum is one.
"""

import math
from collections.abc import Callable, Sequence

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.errors import InputError
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, check_lat_lon, to_unit_vector
from locdiff.sphere.healpix import FAINTEST, ang2pix

THRESHOLDS_KM = (1, 25, 200, 750, 2500)  # street, city, region, country, continent
NEGLIGIBLE = 1e-7  # a probability
UNIFORM = 1e-3  # the share of a linear density that is spread evenly


def logsumexp(values: Tensor) -> Tensor:
    """Return the log of the sum of exp(values) over the pixels, (..., N) -> (...).

    What is FAINTEST below the largest counts as that. Without it most exponentials of a sharp density are denormal
    numbers, with which processors are up to fifty times slower.
    """
    top = values.amax(dim=-1, keepdim=True)
    return (values - top).clamp_(min=-FAINTEST).exp_().sum(dim=-1).log_() + top[..., 0]


def softmax(values: Tensor) -> Tensor:
    """Return exp(values) over their sum over the pixels, (..., N) -> (..., N); see `logsumexp`."""
    return torch.softmax(values.clamp(min=values.amax(dim=-1, keepdim=True) - FAINTEST), dim=-1)


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


def check_shares(shares: Sequence[float]) -> None:
    """Raise InputError unless there are shares of a density, all above 0 and below 1."""
    if not shares or not all(0 < share < 1 for share in shares):
        raise InputError(f"shares must lie above 0 and below 1, got {shares}")


def regions(pixel_probs: Tensor, shares: Sequence[float] = (0.5, 0.9)) -> tuple[Tensor, Tensor]:
    """Return the smallest sets of pixels that hold these shares: masks (n, S, N) and their areas (n, S) in km^2.

    Pixels below the N-th part of what no share needs hold less than that together, so only the others are sorted.
    """
    pixels = pixel_probs.shape[-1]
    masks = np.zeros((len(pixel_probs), len(shares), pixels), bool)
    count = np.empty((len(pixel_probs), len(shares)), np.int64)
    for row, mask, own in zip(pixel_probs.cpu().numpy(), masks, count, strict=True):
        falling = np.sort(row[row >= (1 - max(shares)) / pixels])[::-1]  # NumPy sorts several times as fast as torch
        reached = falling.cumsum()
        for j, share in enumerate(shares):
            own[j] = (reached < share * (1 - 1e-6)).sum() + 1
            least = falling[own[j] - 1] if len(falling) else np.nan
            np.greater(row, least, out=mask[j])
            equal = np.flatnonzero(row == least)
            mask[j, equal[: own[j] - mask[j].sum()]] = True
    masks, count = (torch.from_numpy(part).to(pixel_probs.device) for part in (masks, count))
    return masks, count * (4 * math.pi * EARTH_RADIUS_KM**2 / pixels)


def where(mask):
    """Return where a mask (N,) is true; NumPy finds it several times faster than torch."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.device.type == "cpu" else mask.nonzero()[:, 0]


def rank(pixel_probs: Tensor, lat_lon: Tensor, uniform: Tensor) -> Tensor:
    """Return the share of the smallest region that holds one location for each density, (n, 2) -> (n,).

    It is the probability of all denser pixels, and a random part, by `uniform` (n,), of that of the location's pixel.
    """
    own = pixel_probs.gather(1, ang2pix(healpy.npix2nside(pixel_probs.shape[-1]), lat_lon)[:, None])
    return torch.where(pixel_probs > own, pixel_probs, 0).sum(dim=-1) + own[:, 0] * uniform


def mass_by_km(probs: Tensor, points: Callable[[int], Tensor], lat_lon: Tensor) -> Tensor:
    """Return the probability within 0, 1, 2, ... km of one location for each density, (n, 2) -> (n, 20_017).

    `probs` (n, N) are the probabilities of points, `points(i)` the unit vectors (3, N) of those of density i; float32
    places them to 1 m up to 10,000 km away, and to 5 km at the antipode. One pass over the points counts them by whole
    kilometers; nothing is sorted. Points that hold less than NEGLIGIBLE together are left out, most of a sharp density.
    """
    mass = probs.new_zeros(len(probs), math.ceil(math.pi * EARTH_RADIUS_KM) + 1)
    for i, location in enumerate(to_unit_vector(check_lat_lon(lat_lon).double())):
        some = where(probs[i] > NEGLIGIBLE / probs.shape[-1])
        xyz = points(i)
        away = xyz.index_select(1, some.to(xyz.device)).sub_(location.to(xyz)[:, None])
        half_chord = away.square_().sum(dim=0).sqrt_().mul_(0.5).clamp_(max=1)
        km = half_chord.asin_().mul_(2 * EARTH_RADIUS_KM).ceil_()
        mass[i].scatter_add_(0, km.long(), probs[i].index_select(0, some))
    return mass.cumsum(dim=-1)


def radius_holding(mass: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the radii in whole km that hold these shares of what `mass_by_km` returns, (n, R): (n, S), float64."""
    return torch.stack([(mass < share * mass[:, -1:]).sum(dim=-1) for share in shares], dim=-1).double()
