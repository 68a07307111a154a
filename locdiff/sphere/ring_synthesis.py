"""F = sum_lm e_lm Y_lm at a few pixels of a fine HEALPix grid, other ones for each picture.

Pixels lie on rings of one colatitude. So the Legendre sums are taken once a ring and picture, and only the sum over m
once a pixel; the harmonics of every pixel would take ten times as long.
"""

import math
from functools import lru_cache

import healpy
import numpy as np
import torch
from torch import Tensor, nn

from locdiff.sphere.healpix import rings
from locdiff.sphere.spherical_harmonics import _normalized_legendre


def synthesis_of_pixels(coeffs: Tensor, picture: np.ndarray, nside: int, pixel: np.ndarray) -> np.ndarray:
    """Return F (m,) of pictures (m,), whose coefficients are the rows of (n, D), at pixels (m,) of RING order."""
    table = _legendre(math.isqrt(coeffs.shape[-1]) - 1, nside)
    count, orders = len(table), table.shape[1]
    _, phi = healpy.pix2ang(nside, pixel)
    pair, inverse = np.unique(picture * count + healpy.pix2ring(nside, pixel) - 1, return_inverse=True)
    own, ring = (torch.from_numpy(part) for part in np.divmod(pair, count))
    where, is_there = _slots(orders - 1)
    slots = coeffs[:, where].mul_(is_there).view(-1, 2 * orders, orders)  # (n, cosines and sines of m, l)
    on_rings = (table[ring].repeat(1, 2, 1).mul_(slots[own])).sum(dim=-1)[torch.from_numpy(inverse)]  # (m, 2 orders)
    turns = torch.from_numpy(phi).float()[:, None] * torch.arange(orders)
    return (on_rings * torch.cat([turns.cos(), turns.sin()], dim=-1)).sum(dim=-1).numpy()


@lru_cache(maxsize=8)
def _legendre(l_max, nside):
    """P_lm with the factor sqrt(2) of m > 0, (ring, m, l), float32: zero where l < m."""
    theta, *_ = rings(nside)
    table = [nn.functional.pad(p, (0, 0, 0, l_max - l)) for l, p in enumerate(_normalized_legendre(theta, l_max))]
    table = torch.stack(table, dim=-1).transpose(0, 1)
    table[:, 1:] *= math.sqrt(2)
    return table.float().contiguous()


@lru_cache(maxsize=8)
def _slots(l_max):
    """Where (l, m) and (l, -m) are among the coefficients, and whether they are: of (cosines and sines, m, l), flat."""
    part, order, degree = torch.meshgrid(
        torch.tensor([1, -1]), torch.arange(l_max + 1), torch.arange(l_max + 1), indexing="ij"
    )
    is_there = (degree >= order) & ((part > 0) | (order > 0))
    return ((degree**2 + degree + part * order) * is_there).flatten(), is_there.flatten()
