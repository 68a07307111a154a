"""What a posterior is multiplied by, and the pixels that the edge of a region cuts.

One that an edge cuts is divided into 4^FINE fine pixels, between which its probability is shared by the density. Of
each of these the area inside is found by ever smaller pixels along the edge: those count whose locations lie inside.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.errors import InputError
from locdiff.sphere import zoom
from locdiff.sphere.coordinates import check_lat_lon, from_unit_vector, to_unit_vector
from locdiff.sphere.healpix import ang2pix, healpix_anchors, interpolation

FINE = 2  # times that a side of a cut pixel is halved to look at the density
DEPTH = 4, 2  # halvings that an edge is followed by at least: on the Earth, and in zoomed coordinates
ROUGH = 0.01  # the area of the pixels along the edge, of that inside: less is not divided further
MOST = 2**18  # smaller pixels of a region
STIR = 5  # halvings: a smaller pixel's location is one of so many
FINEST = 29  # halvings of the sides of HEALPix's twelve largest pixels: no nside is more than 2^29, 1.2 cm
NEAR, MANY = math.sqrt(2), 2**17  # in the plane of a cell: where edges of so many points are followed
NUDGE = 1e-6  # degrees, from an edge to what lies beside it
LOOK_UP = 64  # nside of the pixels by which locations are looked up
LEAST = 1e-20  # the probability of a region; less is below what densities are computed with


class Region(Protocol):
    """A part of the Earth; `outline` (b, 3) are unit vectors along its edges, at most `step` radians apart.

    It has the hash of what it is: what follows from it is remembered.
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def outline(self) -> Tensor:
        """Points along the edges, (b, 3)."""
        ...

    @property
    def step(self) -> float:
        """The largest distance between neighboring points of the outline, in radians."""
        ...

    def contains(self, lat_lon: Tensor) -> Tensor:
        """Return whether locations (..., 2) lie inside: bool (...)."""
        ...


@dataclass(frozen=True)
class Intersection:
    """What several regions have in common."""

    parts: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The names of all."""
        return " and ".join(part.name for part in self.parts)

    @cached_property
    def outline(self) -> Tensor:
        """The outlines of all, as far as they lie in the others or at their edges, (b, 3)."""
        return torch.cat([part.outline[self._near_all(part.outline)] for part in self.parts])

    def _near_all(self, xyz):
        lat_lon = from_unit_vector(xyz)
        around = [lat_lon + NUDGE * torch.tensor(one) for one in ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))]
        lat, lon = torch.stack(around).unbind(-1)
        around = torch.stack([lat.clamp(-90, 90), (lon + 180) % 360 - 180], dim=-1)
        return torch.stack([part.contains(around).any(dim=0) for part in self.parts]).all(dim=0)

    @property
    def step(self) -> float:
        """The largest of all."""
        return max(part.step for part in self.parts)

    def contains(self, lat_lon: Tensor) -> Tensor:
        """Return whether locations (..., 2) lie in all of them: bool (...)."""
        return torch.stack([part.contains(lat_lon) for part in self.parts]).all(dim=0)


def intersection(*regions: Any) -> Any:
    """Return what some regions have in common; a region that is given twice counts once, None is the whole Earth."""
    parts = [p for one in regions if one for p in (one.parts if isinstance(one, Intersection) else (one,))]
    distinct = tuple(dict.fromkeys(parts))
    return Intersection(distinct) if len(distinct) > 1 else distinct[0] if distinct else None


@dataclass(frozen=True, eq=False)
class Weights:
    """What densities are multiplied by: zero outside a region, elsewhere exp(log_ratio).

    `log_ratio` (N,) is given at pixels of level 0, and interpolated between them; None is zero.
    """

    region: Any = None
    log_ratio: Tensor | None = None

    def __mul__(self, other: "Weights") -> "Weights":
        ratios = [one.log_ratio for one in (self, other) if one.log_ratio is not None]
        return Weights(intersection(self.region, other.region), sum(ratios[1:], ratios[0]) if ratios else None)

    def log_factor(self, lat_lon: Tensor) -> Tensor:
        """Return log_ratio at locations (..., 2): (...), float64."""
        if self.log_ratio is None:
            return torch.zeros(check_lat_lon(lat_lon).shape[:-1], dtype=torch.float64)
        pixel, r = interpolation(healpy.npix2nside(len(self.log_ratio)), check_lat_lon(lat_lon).view(-1, 2))
        return (self.log_ratio[pixel] * r).sum(dim=-1).view(lat_lon.shape[:-1])

    def log_factor_at(self, xyz: Tensor) -> Tensor:
        """Return log_ratio at unit vectors (m, 3): (m,), float64."""
        return torch.zeros(len(xyz)).double() if self.log_ratio is None else self.log_factor(from_unit_vector(xyz))

    def log(self, lat_lon: Tensor) -> Tensor:
        """Return the logs of the weights at locations (..., 2): (...), float64; minus infinity outside the region."""
        factor = self.log_factor(lat_lon)
        return factor if self.region is None else factor.masked_fill(~self.region.contains(lat_lon), -math.inf)

    def contain(self, lat_lon: Tensor) -> Tensor:
        """Return whether locations (..., 2) lie in the region: bool (...)."""
        everywhere = torch.ones(lat_lon.shape[:-1], dtype=torch.bool)
        return everywhere if self.region is None else self.region.contains(lat_lon)


class NoProbability(InputError):
    """Densities that have no probability in a region; `pictures` are their positions."""

    def __init__(self, region: Any, pictures: list[int]):
        self.pictures = pictures
        super().__init__(
            f"picture {pictures[0]} has no probability within {region.name}; choose a larger region or another picture"
        )


@dataclass(frozen=True)
class Split:
    """Which of M pixels lie inside a region, `whole` (M,), which its edge cuts, `is_cut` (M,), and the Q smaller pixels
    inside it of the latter.

    Each of these belongs to a `pixel` (Q,) and is a part, by `area` (Q,), of one of the fine pixels, `fine` (Q,), and
    lies at `places` (Q, 2) on the Earth. `looked` (2 F, 2) are the centers of the fine pixels in the coordinates of the
    pixels, and then the centers of what of them lies inside.
    """

    whole: Tensor
    is_cut: Tensor
    pixel: Tensor
    fine: Tensor
    area: Tensor
    places: Tensor
    looked: Tensor

    @property
    def share(self) -> Tensor:
        """The share of the area of each pixel that lies inside, (M,)."""
        return self.whole.float().index_add_(0, self.pixel, self.area / 4**FINE).clamp_(max=1)

    def fractions(self, log_density: Tensor) -> Tensor:
        """Return what part of its pixel's probability each smaller pixel has, (p, Q), by log densities where they are
        `looked` at, (p, 2 F)."""
        whole, inside = log_density.chunk(2, dim=1)
        total = whole.unflatten(1, (-1, 4**FINE)).logsumexp(dim=-1).repeat_interleave(4**FINE, dim=1)
        return (inside - total).exp()[:, self.fine] * self.area


@lru_cache(maxsize=512)
def split(region: Any, nside: int, center: tuple[float, float] | None = None, s: float = 1.0) -> Split:
    """Return the Split of the HEALPix pixels of `nside`, on the Earth or in coordinates zoomed by s about `center`.

    The `region` None is the whole Earth.
    """
    count, nowhere = 12 * nside**2, torch.empty(0, 2, dtype=torch.float64)
    if region is None:
        none = torch.empty(0, dtype=torch.long)
        is_cut = torch.zeros(count, dtype=torch.bool)
        return Split(~is_cut, is_cut, none, none, torch.empty(0), nowhere, nowhere)
    about = None if center is None else torch.tensor(center, dtype=torch.float64)

    def on_earth(lat_lon):
        return lat_lon if about is None else zoom.zoom_out(lat_lon, about, s)

    edges = _edges(region, about, s)
    cut = np.unique(_nested(nside, edges))
    is_cut = torch.zeros(count, dtype=torch.bool)
    is_cut[torch.from_numpy(healpy.nest2ring(nside, cut))] = True
    anchors = on_earth(healpix_anchors(nside))
    whole = (region.contains(anchors) if about is None else inside(region, anchors)) & ~is_cut
    leaf, depth = _follow(region, nside, edges, cut, on_earth, whole.sum().item(), about is None, region.step * s)
    pixel, looked = leaf >> 2 * depth, (cut[:, None] * 4**FINE + np.arange(4**FINE)).ravel()
    fine = torch.from_numpy(np.searchsorted(looked, leaf >> 2 * (depth - FINE)))
    area = torch.from_numpy(0.25 ** (depth - FINE))
    centers, places = _centers(nside << FINE, looked), _somewhere(nside, leaf, depth)
    sums = torch.zeros(len(looked), 3, dtype=torch.float64).index_add_(0, fine, to_unit_vector(places) * area[:, None])
    is_empty = (sums == 0).all(dim=1, keepdim=True)
    looked_at = torch.cat([centers, torch.where(is_empty, centers, from_unit_vector(sums))])
    ring = torch.from_numpy(healpy.nest2ring(nside, pixel))
    return Split(whole, is_cut, ring, fine, area.float(), on_earth(places), looked_at)


def inside(region: Any, lat_lon: Tensor) -> Tensor:
    """Return what region.contains(lat_lon) returns; most locations lie in a pixel that no edge cuts."""
    known, pixel = split(region, LOOK_UP), ang2pix(LOOK_UP, lat_lon)
    found, unclear = known.whole[pixel], known.is_cut[pixel]
    found[unclear] = region.contains(lat_lon[unclear])
    return found


def _follow(region, nside, edges, nodes, on_earth, area, is_earth, step):
    """Return the smaller pixels (Q,), in NESTED order, and their depths (Q,) below `nside`, that lie inside the pixels
    `nodes`, which the edges cut. `area` is what lies inside the others, in pixels."""
    leaves, depths, depth = [np.empty(0, int)], [np.empty(0, int)], 0
    while len(nodes):
        depth += 1
        nodes = (4 * nodes[:, None] + np.arange(4)).ravel()
        if depth < FINE:
            continue
        cut = np.isin(nodes, np.unique(_nested(nside << depth, edges)))
        is_smooth = depth >= DEPTH[not is_earth] and cut.sum() / 4**depth <= ROUGH * area
        is_finest = nside << depth >= 2**FINEST
        if is_smooth or is_finest or healpy.nside2resol(nside << depth) < 3 * step or 8 * cut.sum() > MOST:
            cut[:] = False
        done = nodes[~cut]
        done = done[region.contains(on_earth(_somewhere(nside, done, np.full(len(done), depth)))).numpy()]
        area += len(done) / 4**depth
        leaves.append(done)
        depths.append(np.full(len(done), depth))
        nodes = nodes[cut]
    return np.concatenate(leaves), np.concatenate(depths)


def _edges(region, about, s):
    """Return the points of the outline, unit vectors (b, 3), in zoomed coordinates of many those near the
    center."""
    if about is None:
        return region.outline.numpy()
    points = region.outline
    if len(points) > MANY:
        points = points[points @ to_unit_vector(about) > math.cos(2 * math.atan(NEAR / s))]
    return to_unit_vector(zoom.zoom_in(from_unit_vector(points), about, s)).numpy()


def _nested(nside, xyz):
    return healpy.vec2pix(nside, *xyz.T, nest=True)


def _centers(nside, pixel):
    """Return the centers (Q, 2) of pixels (Q,) in NESTED order."""
    lon, lat = healpy.pix2ang(nside, pixel, nest=True, lonlat=True)
    return torch.from_numpy(np.stack([lat, (lon + 180) % 360 - 180], axis=-1))


def _somewhere(nside, pixel, depth):
    """Return a location (Q, 2) in each of the pixels (Q,), in NESTED order, of nside 2^depth times as large.

    It is like a random one: where an edge goes through the centers of a row of pixels, half of them are inside.
    """
    stir = np.minimum(STIR, FINEST - healpy.nside2order(nside) - depth)
    return _centers(nside << depth + stir, (pixel << 2 * stir) + pixel * 40503 % 4**stir)
