"""Modes of a posterior with weights: inside the region, also where the density rises beyond its edge."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from locdiff.model.cell_points import CellPoints, Densest
from locdiff.model.posterior import PixelPosterior
from locdiff.model.refined_posterior import MixtureComponent
from locdiff.model.reweighted_parts import Part
from locdiff.model.reweighting import Weights
from locdiff.sphere import pixels, shdd, zoom

HALVINGS, MOVES = 8, 200  # of the steps towards a mode: halvings of half a pixel, and steps at most
RISE = 1e-5  # nats: what a step must gain


@dataclass
class BasePart:
    """The part of level 0: what is left of it, the pixels (n, R) that its smaller pixels lie in, and its source.

    `smooth` has the maxima that the weights leave, if they have any that Newton's method can find.
    """

    part: Part
    pixels_of_pieces: Tensor
    source: PixelPosterior
    smooth: PixelPosterior | None

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures, pixels of level 0, log densities, (C,) each, of all points and smaller pixels."""
        points = self.part.points
        picture, pixel = torch.arange(len(points)).repeat_interleave(points.shape[1]), torch.arange(points.shape[1])
        return _with_pieces(self, picture, pixel.repeat(len(points)), (points.log() - self.log_area).flatten())

    def points(self, some: Tensor) -> Tensor:
        """Return which points of their pictures some candidates (m,) are, the smaller pixels counted last: (m,)."""
        return _among_points(self, some, self.part.points.numel(), lambda own: own % self.part.points.shape[1])

    @property
    def log_area(self) -> Tensor:
        """The logs of the areas of the pixels of the points, (P,)."""
        return torch.full(self.part.points.shape[1:], math.log(4 * math.pi / self.part.points.shape[1]))

    def ascend(self, picture: Tensor, point: Tensor) -> Tensor:
        """Return the modes next to points (m,) of some pictures (m,), wherever they are: (m, 2)."""
        places = self.source.anchors[point]
        return self.smooth.ascend(places[:, None], picture)[:, 0] if self.smooth else places

    @cached_property
    def _scales(self) -> tuple[Tensor, Tensor]:
        """The factors f (C,), and log(w / Z) (n, C), of the density's summands w q_{f e}; C is one without mixture."""
        mixture = self.source.objective.mixture if self.source.objective.is_natural else [(1.0, 1.0)]
        w, f = torch.tensor(mixture, dtype=torch.float64).T
        if len(f) == 1:
            return f, torch.zeros(len(self.source), 1, dtype=torch.float64)
        grid = self.source.grid
        values = (grid.synthesis(e.to(grid.k.device)).cpu() for e in self.source.coeffs.split(64))
        log_z = [torch.stack([pixels.logsumexp(one * own) for one in f.tolist()], dim=1) for own in values]
        return f, w.log() - torch.cat(log_z).double()

    def value(self, picture: Tensor, places: Tensor) -> Tensor:
        """Return the log densities of pictures (m,), but for constants, at locations (m, r, 2): (m, r), float64."""
        basis = shdd.encode(places, self.source.grid.l_max).double()
        at = (basis @ self.source.coeffs[picture].double()[..., None])[..., 0]
        f, log_scale = self._scales
        return torch.logsumexp(at[..., None] * f + log_scale[picture][:, None], dim=-1)

    def log_density(self, picture: int, point: int, places: Tensor) -> Tensor:
        """Return the log density, but for a constant, at locations (r, 2) in the pixel of a point: (r,)."""
        return self.value(torch.tensor([picture]), places[None])[0]

    def climb(self, picture: Tensor, starts: Tensor, weights: Weights) -> Tensor:
        """Return where the weighted density has no denser place around, for some pictures (m,): (m, 2).

        It begins at the densest of the `starts` (m, k, 2). Steps have eight directions, and at first half the width of
        a pixel. Where none leads up they are halved, HALVINGS times; there are at most MOVES.
        """
        height, which = (self.value(picture, starts) + weights.log(starts)).max(dim=1)
        here, rows = starts[torch.arange(len(starts)), which], torch.arange(len(starts))
        step = torch.full((len(starts),), math.sqrt(4 * math.pi / self.part.points.shape[1]) / 2, dtype=torch.float64)
        finest = step * 0.5**HALVINGS
        for _ in range(MOVES):
            around = _around(here, step)
            best, which = (self.value(picture, around) + weights.log(around)).max(dim=1)
            is_up = best > height + RISE
            here, height = torch.where(is_up[:, None], around[rows, which], here), torch.where(is_up, best, height)
            step = torch.where(is_up, step, step / 2)
            if (step < finest).all():
                break
        return here

    def center(self, picture: int, point: int) -> Tensor:
        """Return the location of a point, (2,)."""
        return self.source.anchors[point]


@dataclass
class CellPart:
    """The part of a refinement level, as `BasePart`."""

    part: Part
    pixels_of_pieces: Tensor
    source: MixtureComponent
    found: CellPoints

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures, pixels of level 0, log densities, (C,) each, of all points and smaller pixels."""
        return _with_pieces(self, self.found.picture, self.found.pixel, self.found.log_density)

    def points(self, some: Tensor) -> Tensor:
        """Return which points of their pictures some candidates (m,) are, the smaller pixels counted last: (m,)."""
        return _among_points(self, some, len(self.found.mass), lambda own: self.found.index[own])

    @property
    def log_area(self) -> Tensor:
        """The logs of the areas of the pixels of the points, (P,)."""
        return 2 * self.source.point_widths.log()

    def ascend(self, picture: Tensor, point: Tensor) -> Tensor:
        """Return the modes next to points (m,) of some pictures (m,), wherever they are: (m, 2)."""
        return self.source.ascend(picture, point)

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
    rank = torch.full(basins.shape, k).scatter_(1, pixel, torch.arange(k).expand(n, k))  # k: no peak of these
    densest = Densest(torch.full((n, k), -torch.inf))
    for part in parts:
        picture, own, log_density = part.candidates()
        densest.look_at(picture, rank[picture, basins[picture, own]], log_density)
    for i, part in enumerate(parts, start=1):
        picture, h = (densest.part == i).nonzero(as_tuple=True)
        if len(picture):
            places[picture, h] = _ascend(part, picture, part.points(densest.point[picture, h]), weights)
    return places


def _with_pieces(part, picture, pixel, log_density):
    """Add to the points of a part its smaller pixels: pictures, pixels of level 0, log densities."""
    pieces, log_area = part.part.pieces.log(), part.log_area
    for row, parents, areas in zip(pieces, part.part.parents, part.part.areas, strict=True):
        row[: len(parents)] -= log_area[parents] + areas.log()
    of_pieces = torch.arange(len(pieces)).repeat_interleave(pieces.shape[1])
    pixel, log_density = torch.cat([pixel, part.pixels_of_pieces.flatten()]), torch.cat([log_density, pieces.flatten()])
    return torch.cat([picture, of_pieces]), pixel, log_density


def _among_points(part, some, count, points):
    """Which of the points of their pictures some (m,) of `count` candidates are, by points(some), or smaller pixels."""
    found, is_point = some - count, some < count
    found = part.part.points.shape[1] + found % max(1, part.part.pieces.shape[1])
    found[is_point] = points(some[is_point])
    return found


def _ascend(part, picture, point, weights):
    """The modes (m, 2) next to points, or smaller pixels, of some pictures (m,); inside the region."""
    count, parent, densest = part.part.points.shape[1], point.clone(), []
    for j, (own, at) in enumerate(zip(picture.tolist(), point.tolist(), strict=True)):
        if at >= count:
            parent[j] = part.part.parents[own][at - count]
        densest.append(part.center(own, at) if at < count else part.part.places[own][at - count])
    found = part.ascend(picture, parent)
    finite = found.isfinite().all(dim=1)
    outside = ~weights.contain(torch.nan_to_num(found)) & finite
    for j in outside.nonzero()[:, 0].tolist():
        found[j] = densest[j]
        if point[j] >= count:
            own = int(picture[j]), int(parent[j])
            places = part.part.places[own[0]][part.part.parents[own[0]] == own[1]]
            found[j] = places[(part.log_density(*own, places) + weights.log_factor(places)).argmax()]
    if weights.log_ratio is not None and isinstance(part, BasePart) and part.smooth and finite.any():
        starts = torch.stack([found, torch.stack(densest)], dim=1)
        found[finite] = part.climb(picture[finite], starts[finite], weights)
    return found


def _around(lat_lon, step):
    """The eight locations (m, 8, 2) at distances `step` (m,), in radians, from some (m, 2)."""
    angle = torch.arange(8, dtype=torch.float64).expand(len(step), 8) * 45 - 180
    lat = (90 - torch.rad2deg(step))[:, None].expand(angle.shape)
    return zoom.zoom_out(torch.stack([lat, angle], dim=-1), lat_lon[:, None], 1.0)
