"""The points of the cells of pictures as one list: what masses, modes and caps are read off.

Most points of a cell hold next to nothing. A block of up to sixteen counts as one point where it holds no more than
HEAVY: masses within distances change by less than that of a few blocks.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from healpy import npix2nside
from torch import Tensor

from locdiff.model.cell_geometry import CellGeometry, PolarCell
from locdiff.sphere.pixels import where
from locdiff.sphere.points import HEAVY, Points, width_of

LIGHT = 1e-5  # the probability of a point that may be moved to the center of its pixel
FINER = 8  # how many times as narrow as pixels of level 0 those are in which points are merged
NARROW = 0.5  # the width of a block that may count as one point, in pixels of level 0


@dataclass
class CellPoints:
    """Points of the cells of n pictures in order: those of picture i begin at ends[i].

    Of each: its `picture`, which point of the picture's cells it is, `index`, its `mass`, its unit vector `xyz` (3, P),
    float32, the root of its area in radians, `width`, and the `pixel` of level 0 that it lies in. The points of all
    cells of a picture are counted, in the order of `PolarCell`, and then their blocks.
    """

    ends: list[int]
    picture: Tensor
    index: Tensor
    mass: Tensor
    xyz: Tensor
    width: Tensor
    pixel: Tensor
    blocks_from: int

    @property
    def log_density(self) -> Tensor:
        """The logs of the mean densities at the points, per steradian, (P,)."""
        return self.mass.log() - 2 * self.width.log()

    def masses(self) -> list[Tensor]:
        """Return the masses of the points of each picture."""
        return [self.mass[start:end] for start, end in pairwise(self.ends)]

    def unit_vectors(self, picture: int) -> Tensor:
        """Return the unit vectors (3, p) of the points of a picture."""
        return self.xyz[:, self.ends[picture] : self.ends[picture + 1]]

    def densest(self, some: Tensor, masses: Tensor, cell: PolarCell) -> Tensor:
        """Return which of the points (n, K, M) some (m,) are, or which holds most in the blocks that they are: (m,),
        counted through the cells of a picture."""
        count = masses[0].numel()
        is_block = self.index[some] >= count
        first = torch.where(is_block, (self.index[some] - count) * cell.block, self.index[some])
        k, first = first // len(cell.order), first % len(cell.order)
        among = cell.order[first[:, None] + torch.where(is_block[:, None], torch.arange(cell.block), 0)]
        most = masses[self.picture[some], k].gather(1, among).argmax(dim=1, keepdim=True)
        return k * len(cell.order) + among.gather(1, most)[:, 0]

    def take_heavy(self, picture: int, whole: Tensor) -> Points:
        """Return the points of a picture that are not LIGHT, without blocks, and subtract them from its pixels (N,)."""
        own = slice(self.ends[picture], self.ends[picture + 1])
        some = where((self.mass[own] > LIGHT) & (self.index[own] < self.blocks_from)) + self.ends[picture]
        mass = self.mass[some]
        whole.index_add_(0, self.pixel[some], mass, alpha=-1)
        return Points(self.xyz.index_select(1, some).T.numpy(), mass.numpy(), self.width[some].numpy())


def cell_points(
    geometry: CellGeometry, cell_index: Tensor, masses: Tensor, coarse: Tensor, pixel_probs: Tensor
) -> CellPoints:
    """Return the CellPoints of masses (n, K, M) in the cells at `cell_index` (n, K).

    All masses are added to those of the pixels of level 0, (n, N), and what is left out of the points to the `coarse`
    ones, (n, N).
    """
    rotations = geometry.rotations(cell_index)
    parts = [(torch.empty(0).long(), torch.empty(0), torch.empty(3, 0), torch.empty(0), torch.empty(0).long())]
    for own, mass, turns, *whole in zip(cell_index.tolist(), masses, rotations, coarse, pixel_probs, strict=True):
        pixel = torch.cat([geometry.pixels(*one) for one in zip(own, turns, strict=True)])
        parts.append(_points_of(geometry, mass, turns, pixel, *whole))
    counts = torch.tensor([len(part[0]) for part in parts])
    index, *others = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    picture = torch.arange(len(masses)).repeat_interleave(counts[1:])
    return CellPoints(counts.cumsum(0).tolist(), picture, index, *others, masses[0].numel() if len(masses) else 0)


def _points_of(geometry, mass, turns, pixel, coarse, whole):
    """What CellPoints holds of one picture, from masses (K, M), rotations (K, 3, 3), and pixels (K M,)."""
    cell = geometry.cell
    mass = torch.from_numpy(mass.numpy().take(cell.order.numpy(), axis=1)).flatten()
    whole.scatter_add_(0, pixel, mass.to(whole))
    in_blocks = mass.view(-1, cell.block)
    blocks = in_blocks.sum(dim=1)
    is_light = (blocks <= HEAVY).view(len(turns), -1)
    is_narrow = cell.block_widths < NARROW * width_of(npix2nside(len(whole)))
    coarse.scatter_add_(0, pixel, (in_blocks * (is_light & ~is_narrow).view(-1, 1)).flatten())
    heavy, light = where(~is_light.flatten()), where((is_light & is_narrow).flatten())
    points = (heavy[:, None] * cell.block + torch.arange(cell.block)).flatten()
    first = light * cell.block
    places = [(cell.unit_vectors, cell.widths, points), (cell.block_vectors, cell.block_widths, light)]
    xyz, width = zip(*(_placed(*one, turns) for one in places), strict=True)
    return (
        torch.cat([points, light + len(mass)]), torch.cat([mass[points], blocks[light]]), torch.cat(xyz, dim=1),
        torch.cat(width), pixel[torch.cat([points, first + cell.block // 4])],
    )  # fmt: skip


def _placed(unit_vectors, widths, some, turns):
    """Unit vectors (3, p) and widths (p,) of some (p,) of the points of the cells of a picture, in order."""
    k, some = some // len(widths), some % len(widths)
    parts = unit_vectors.index_select(1, some).split(torch.bincount(k, minlength=len(turns)).tolist(), dim=1)
    return torch.cat([turn @ part for turn, part in zip(turns, parts, strict=True)], dim=1), widths[some]


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
