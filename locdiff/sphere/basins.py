"""The modes of a density over the Earth, by its pixels: which pixels lead uphill to which mode, and what they hold."""

from functools import lru_cache

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.sphere.pixels import NEGLIGIBLE, where


def basins(pixel_probs: Tensor, is_smooth: bool = False) -> Tensor:
    """Return the pixel of the mode whose basin each pixel belongs to, (n, N) -> (n, N).

    It is where the steepest ascent from pixel to neighboring pixel ends. Of equal pixels the later counts as higher.
    Where few pixels hold all but NEGLIGIBLE, as of a sharp density, the others are left alone: each is its own basin.

    Along a ridge that runs across the pixels, one of them may be higher than all neighbors and yet no mode. Where a
    density `is_smooth` on the scale of two pixels, such a basin belongs to a higher pixel among the neighbors'
    neighbors.
    """
    pixels = pixel_probs.shape[-1]
    around = neighbors(healpy.npix2nside(pixels)).to(pixel_probs.device)
    mode = torch.arange(pixels, device=pixel_probs.device).repeat(len(pixel_probs), 1)
    for row, uphill in zip(pixel_probs.float(), mode, strict=True):  # one at a time stays in the processor's cache
        bits = row.contiguous().view(torch.int32)  # ordered as the numbers are: none is negative
        rank = bits.long() * 2**32 + around[0]  # no two equal
        some = where(row > NEGLIGIBLE / pixels)
        near = around[:, some] if 8 * len(some) < pixels else around
        highest = rank.index_select(0, near[0])
        for each in near[1:]:
            highest = torch.maximum(highest, rank.index_select(0, each))
        higher = highest.remainder_(2**32)
        while True:
            uphill.scatter_(0, near[0], highest := higher)
            if torch.equal(higher := uphill.index_select(0, highest), highest):
                break
        if is_smooth:
            _join(uphill, rank, around, some)
    return mode


def _join(uphill, rank, around, some):
    """Give the basins (N,) of one density whose peak has a higher pixel two pixels away to that pixel's basin."""
    peaks = uphill.index_select(0, some).unique()
    wide = around[:, around[:, peaks].flatten()].view(-1, len(peaks))
    target = uphill[rank[wide].amax(dim=0) % 2**32]  # its own peak, where none is higher
    onward = torch.arange(len(uphill), device=uphill.device)
    onward[peaks] = target
    while not torch.equal(further := onward[onward[peaks]], onward[peaks]):
        onward[peaks] = further
    uphill.copy_(onward[uphill])


def modes(pixel_probs: Tensor, k: int, basin: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the pixels of the k most probable modes (n, k), and the probabilities of their basins (n, k).

    `basin` is what `basins` returns, found if it is not given. Basins do not overlap: all their probabilities sum to
    one. Where a density has fewer than k modes the rest are zero; where all have fewer, k is the largest number.
    """
    basin = basins(pixel_probs) if basin is None else basin
    count = min(k, pixel_probs.shape[-1])
    pixel = torch.zeros(len(pixel_probs), count, dtype=torch.long, device=pixel_probs.device)
    probability = pixel_probs.new_zeros(pixel.shape)
    for i, (row, own) in enumerate(zip(pixel_probs, basin, strict=True)):
        some = where(row > NEGLIGIBLE / len(row))
        top = own.index_select(0, some)
        total = torch.zeros_like(row).index_add_(0, top, row.index_select(0, some))
        peaks = some[top == some]
        most, order = total[peaks].topk(min(count, len(peaks)))
        pixel[i, : len(order)], probability[i, : len(order)] = peaks[order], most
    found = max(1, int((probability > 0).sum(dim=-1).max())) if len(pixel_probs) else k
    return pixel[:, :found], probability[:, :found]


@lru_cache(maxsize=4)
def neighbors(nside: int) -> Tensor:
    """Return every pixel and its neighbors, (9, N): itself first, and again where HEALPix has only seven neighbors."""
    pixels = np.arange(12 * nside**2)
    found = healpy.get_all_neighbours(nside, pixels)
    return torch.from_numpy(np.concatenate([pixels[None], np.where(found < 0, pixels, found)]))
