"""Modes of a posterior with weights: inside the region, also where the density rises beyond its edge."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from locdiff.model.posterior import PixelPosterior
from locdiff.model.refined_posterior import MixtureComponent, ascend_in_cell
from locdiff.model.reweighted_parts import Part
from locdiff.model.reweighting import Weights
from locdiff.sphere import shdd, zoom


@dataclass
class BasePart:
    """The part of level 0: what is left of it, the pixels (n, R) that its smaller pixels lie in, and its source.

    `smooth` has the maxima that the weights leave, if they have any that Newton's method can find.
    """

    part: Part
    pixels_of_pieces: Tensor
    source: PixelPosterior
    smooth: PixelPosterior | None

    @property
    def pixels(self) -> Tensor:
        """The pixels of level 0 of the points, (n, P)."""
        return torch.arange(self.part.points.shape[1]).expand(self.part.points.shape)

    @property
    def log_area(self) -> Tensor:
        """The logs of the areas of the pixels of the points, (P,)."""
        return torch.full(self.part.points.shape[1:], math.log(4 * math.pi / self.part.points.shape[1]))

    def ascend(self, picture: Tensor, point: Tensor) -> Tensor:
        """Return the modes next to points (m,) of some pictures (m,), wherever they are: (m, 2)."""
        places = self.source.anchors[point]
        return self.smooth.ascend(places[:, None], picture)[:, 0] if self.smooth else places

    def log_density(self, picture: int, point: int, places: Tensor) -> Tensor:
        """Return the log density, but for a constant, at locations (r, 2) in the pixel of a point: (r,)."""
        coeffs = self.source.coeffs[picture]
        return shdd.encode(places, self.source.grid.l_max).to(coeffs) @ coeffs

    def center(self, picture: int, point: int) -> Tensor:
        """Return the location of a point, (2,)."""
        return self.source.anchors[point]


@dataclass
class CellPart:
    """The part of a refinement level, as `BasePart`."""

    part: Part
    pixels_of_pieces: Tensor
    source: MixtureComponent

    @property
    def pixels(self) -> Tensor:
        """The pixels of level 0 of the points, (n, P)."""
        return self.source.pixels

    @property
    def log_area(self) -> Tensor:
        """The logs of the areas of the pixels of the points, (P,)."""
        return self.source.log_area.repeat(self.source.cell_index.shape[1])

    def ascend(self, picture: Tensor, point: Tensor) -> Tensor:
        """Return the modes next to points (m,) of some pictures (m,), wherever they are: (m, 2)."""
        return ascend_in_cell(self.source, picture, point)

    def log_density(self, picture: int, point: int, places: Tensor) -> Tensor:
        """Return the log density, but for a constant, at locations (r, 2) in the pixel of a point: (r,)."""
        level, k = self.source.level, point // self.source.masses.shape[-1]
        center, natural = level.centers(self.source.cell_index[picture, k]), self.source.natural_params[picture, k]
        log = shdd.encode(zoom.zoom_in(places, center, level.s), level.l_max).to(natural) @ natural
        return log + zoom.zoom_area_factor(places, center, level.s).log()

    def center(self, picture: int, point: int) -> Tensor:
        """Return the location of a point, (2,)."""
        k, pixel = divmod(point, self.source.masses.shape[-1])
        return self.source.geometry.points(int(self.source.cell_index[picture, k]))[pixel].double()


def exact_modes(
    parts: list[BasePart | CellPart], anchors: Tensor, basins: Tensor, pixel: Tensor, weights: Weights
) -> Tensor:
    """Return the modes (n, k, 2) of the basins (n, N) whose most probable pixels are `pixel` (n, k).

    That is the densest point of the basin, and from there the mode by Newton's method if it lies inside the region.
    """
    (n, k), places = pixel.shape, anchors[pixel]
    best, where = torch.full((n, k), -torch.inf), torch.zeros(2, n, k, dtype=torch.long)  # the part, and which point
    rank = torch.full(basins.shape, k).scatter_(1, pixel, torch.arange(k).expand(n, k))
    rank = rank.gather(1, basins)  # which of the k basins each pixel lies in, k for none of them
    for i, part in enumerate(parts):
        log_density = _log_density(part)
        own = rank.gather(1, torch.cat([part.pixels, part.pixels_of_pieces], dim=1))
        top = torch.full((n, k + 1), -torch.inf).scatter_reduce_(1, own, log_density, "amax")
        better = (top > torch.nn.functional.pad(best, (0, 1), value=torch.inf)).gather(1, own)
        picture, point = (better & (log_density == top.gather(1, own))).nonzero(as_tuple=True)
        h = own[picture, point]
        best[picture, h], where[0, picture, h], where[1, picture, h] = log_density[picture, point], i, point
    for i, part in enumerate(parts):
        picture, h = ((where[0] == i) & best.isfinite()).nonzero(as_tuple=True)
        if len(picture):
            places[picture, h] = _ascend(part, picture, where[1, picture, h], weights)
    return places


def _log_density(part):
    """The log densities at the points of a part, and at its smaller pixels, (n, P + R)."""
    of_points, pieces, log_area = part.part.points.log(), part.part.pieces.log(), part.log_area
    for row, parents, areas in zip(pieces, part.part.parents, part.part.areas, strict=True):
        row[: len(parents)] -= log_area[parents] + areas.log()
    return torch.cat([of_points - log_area, pieces], dim=1)


def _ascend(part, picture, point, weights):
    """The modes (m, 2) next to points, or smaller pixels, of some pictures (m,); inside the region."""
    count, parent = part.part.points.shape[1], point.clone()
    for j in (point >= count).nonzero()[:, 0].tolist():
        parent[j] = part.part.parents[picture[j]][point[j] - count]
    found = part.ascend(picture, parent)
    outside = ~weights.contain(torch.nan_to_num(found)) & found.isfinite().all(dim=1)
    for j in outside.nonzero()[:, 0].tolist():
        own = int(picture[j]), int(parent[j])
        if point[j] < count:
            found[j] = part.center(*own)
            continue
        places = part.part.places[own[0]][part.part.parents[own[0]] == own[1]]
        log_density = part.log_density(*own, places) + weights.log_factor(places)
        found[j] = places[log_density.argmax()]
    return found
