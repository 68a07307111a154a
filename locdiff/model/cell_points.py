"""The points of the cells of pictures that matter, as one list: what modes and the best caps are read off.

Most points of a cell hold next to nothing. Of a block of up to sixteen that holds no more than HEAVY only the one with
most is listed.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from healpy import npix2nside
from torch import Tensor

from locdiff.model.cell_geometry import CellGeometry, PolarCell
from locdiff.sphere.pixels import where
from locdiff.sphere.points import HEAVY, Points, width_of

LIGHT = 1e-5  # the probability of a point that may be moved to the center of its pixel
FINER = 8  # how many times as narrow as pixels of level 0 those are in which points are merged


@dataclass
class CellPoints:
    """Points of the cells of n pictures in order: those of picture i begin at ends[i].

    Of each: its `picture`, which of the K M points of the picture's cells it is, `index`, its `mass`, the log of its
    density per steradian, and the `pixel` of level 0 that it lies in. `rotations` (n, K, 3, 3) take the `cell` at the
    pole to where the cells of the pictures are.
    """

    cell: PolarCell
    rotations: Tensor
    ends: list[int]
    picture: Tensor
    index: Tensor
    mass: Tensor
    log_density: Tensor
    pixel: Tensor

    def take_heavy(self, picture: int, whole: Tensor) -> Points:
        """Return the points of a picture that are not LIGHT, and subtract them from its pixels (N,)."""
        own = slice(self.ends[picture], self.ends[picture + 1])
        some = where(self.mass[own] > LIGHT) + self.ends[picture]
        mass, k, pixel = (
            self.mass[some],
            self.index[some] // len(self.cell.order),
            self.index[some] % len(self.cell.order),
        )
        whole.index_add_(0, self.pixel[some], mass, alpha=-1)
        parts = self.cell.unit_vectors.index_select(1, pixel)
        parts = parts.split(torch.bincount(k, minlength=self.rotations.shape[1]).tolist(), dim=1)
        xyz = [turn @ part for turn, part in zip(self.rotations[picture], parts, strict=True)]
        return Points(torch.cat(xyz, dim=1).T.numpy(), mass.numpy(), self.cell.widths[pixel].numpy())


def cell_points(geometry: CellGeometry, cell_index: Tensor, masses: Tensor, pixel_probs: Tensor) -> CellPoints:
    """Return the CellPoints of masses (n, K, M) in the cells at `cell_index` (n, K).

    All masses are added to those of the pixels of level 0, (n, N).
    """
    rotations, nothing = geometry.rotations(cell_index), torch.empty(0)
    parts = [(nothing.long(), nothing, nothing, nothing.long())]
    for own, mass, turns, whole in zip(cell_index.tolist(), masses, rotations, pixel_probs, strict=True):
        pixel = torch.cat([geometry.pixels(*one) for one in zip(own, turns, strict=True)])
        whole.scatter_add_(0, pixel, mass.flatten().to(whole))
        parts.append(_points_of(geometry.cell, mass, pixel))
    counts = torch.tensor([len(part[0]) for part in parts])
    index, *others = (torch.cat(part) for part in zip(*parts, strict=True))
    picture = torch.arange(len(masses)).repeat_interleave(counts[1:])
    return CellPoints(geometry.cell, rotations, counts.cumsum(0).tolist(), picture, index, *others)


def _points_of(cell, mass, pixel):
    """The index, mass, log density and pixel of the points of one picture: masses (K, M), and their pixels (K M,)."""
    in_blocks = torch.from_numpy(mass.numpy().take(cell.order.numpy(), axis=1)).view(-1, cell.block)
    listed = (in_blocks.sum(dim=1, keepdim=True) > HEAVY).repeat(1, cell.block)
    listed.scatter_(1, in_blocks.argmax(dim=1, keepdim=True), True)
    listed = where(listed.flatten())
    k, point = listed // mass.shape[1], cell.order[listed % mass.shape[1]]
    mass, index = in_blocks.flatten()[listed], k * mass.shape[1] + point
    return index, mass, mass.log() - 2 * cell.widths[point].log(), pixel[index]


def apart(every: list[CellPoints], picture: int, pixel_probs: Tensor) -> tuple[np.ndarray, Points]:
    """Return the masses (N,) of a picture's pixels without the points that are not LIGHT, and these, merged."""
    whole = pixel_probs.clone()
    heavy = Points.joined([Points.none(), *(points.take_heavy(picture, whole) for points in every)])
    return whole.clamp_(min=0).numpy(), heavy.merged(width_of(npix2nside(len(whole))) / FINER)


class Densest:
    """Which point is the densest of each of the k basins of n pictures: at first those of part 0, (n, k).

    `part` (n, k) is the part that the point is of, and `point` (n, k) which of the part's points it is.
    """

    def __init__(self, log_density: Tensor):
        self.log_density, self._parts = log_density, 0
        self.part, self.point = (torch.zeros(log_density.shape, dtype=torch.long) for _ in range(2))

    def look_at(self, picture: Tensor, basin: Tensor, log_density: Tensor) -> None:
        """Compare with points of the next part: their pictures (P,), basins (P,), k for none, and densities (P,)."""
        self._parts += 1
        best = torch.nn.functional.pad(self.log_density, (0, 1), value=math.inf).flatten()
        position = picture * (self.log_density.shape[1] + 1) + basin
        some = where(log_density > best[position])
        position, log_density = position[some], log_density[some]
        best.scatter_reduce_(0, position, log_density, "amax")
        self.log_density = best.view(len(self.log_density), self.log_density.shape[1] + 1)[:, :-1]
        is_best = log_density == best[position]
        picture, basin, some = picture[some][is_best], basin[some][is_best], some[is_best]
        self.part[picture, basin], self.point[picture, basin] = self._parts, some
