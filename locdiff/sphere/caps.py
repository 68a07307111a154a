"""Probabilities within a distance of a location, and the location that has the most: sums over points, in NumPy.

A point counts as far as what it stands for lies within the cap: wholly inside, not at all outside. In between its share
falls smoothly, so that the mass of a cap is a smooth function of its center.
"""

import math
from functools import lru_cache

import healpy
import numpy as np

from locdiff.sphere.pixels import NEGLIGIBLE
from locdiff.sphere.points import PixelTree, Points, tree_pixels, width_of

PREFERRED = 0.98  # the mode is taken where its cap holds this share of what the best cap holds
HILLS, STARTS, CLIMBS, STEPS = 6, 2, 2, 8  # caps that are looked at, that are moved, and how often at most
WORTH, ENOUGH, CLOSE = 0.15, 0.7, 0.85  # to the fullest block: one worth a look, one alone; to the best cap: another
FINEST = 0.01  # a step, in radii, after which a cap is left alone
STENCIL = np.stack(np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0], indexing="ij"), axis=-1).reshape(9, 2)
_u, _v = STENCIL.T
FIT = np.linalg.pinv(np.stack([np.ones(9), _u, _v, _u**2, _u * _v, _v**2], axis=-1))  # of a quadratic function


def cap_mass(points: Points, centers: np.ndarray, radius: float) -> np.ndarray:
    """Return the mass within `radius` radians of unit vectors (C, 3): (C,)."""
    return _Caps(points, radius)(_distance(centers, points))


class CapsAround:
    """The caps around one location, a unit vector (3,), of pixels (N,) in RING order and of points."""

    def __init__(self, whole: np.ndarray, parts: Points, center: np.ndarray):
        some, nside = np.flatnonzero(whole > NEGLIGIBLE / len(whole)), healpy.npix2nside(len(whole))
        width = np.full(len(some), width_of(nside), np.float32)
        self.points = Points.joined([Points(_centers(nside)[some], whole[some], width), parts])
        self.distance = _distance(center[None], self.points)

    def mass(self, radius: float) -> float:
        """Return the mass within a radius in radians."""
        return float(_Caps(self.points, radius)(self.distance)[0])

    def are_best(self, radius: float) -> bool:
        """Return whether no other cap of this radius can hold so much that it is taken instead.

        A cap whose center is within two radii lies in that of three; any other has nothing in common with this one.
        """
        own = self.mass(radius)
        return own >= PREFERRED or own >= PREFERRED * max(self.mass(3 * radius), 1 - own)


def _distance(centers, points):
    """The angles (C, K) between unit vectors (C, 3) and points."""
    return np.arccos(np.clip(centers.astype(points.xyz.dtype) @ points.xyz.T, -1, 1))


class _Caps:
    """The caps of one radius, whose rims are as wide as the points.

    The share falls as that of a triangle does: half a rim, 0.8 of the width of a point, is the distance of rings of
    HEALPix pixels at a pole. It is a half where the cap has the area that it has with a sharp rim.
    """

    def __init__(self, points, radius):
        half = np.minimum(0.8 * points.width, radius / 2)
        self.mass, self.is_whole, self.slope = points.mass, radius >= math.pi, 1 / half
        self.start = (radius - half**2 / (12 * math.tan(radius))) * self.slope

    def __call__(self, distance):
        if self.is_whole:
            return np.full(len(distance), self.mass.sum())
        inside = np.clip(self.start - distance * self.slope, -1, 1)
        return (0.5 + inside - inside * np.abs(inside) / 2) @ self.mass


def best_cap(tree: PixelTree, fine: Points, radius: float) -> tuple[np.ndarray, float]:
    """Return the unit vector (3,) whose cap of `radius` radians has the most mass, and that mass.

    All mass lies in the pixels of the tree and in the `fine` points. Of all blocks of three by three pixels, about as
    large as the cap, the fullest that are apart are where the search starts.
    """
    found = []
    for start in _starts(tree, fine, radius):
        near = _near(tree, fine, start, radius, radius / 3)
        found.append((float(cap_mass(near, start[None], radius)[0]), start))
    found = sorted(found, key=lambda one: -one[0])[:CLIMBS]
    climbs = [_climb(tree, fine, place, radius) for mass, place in found if mass >= CLOSE * found[0][0]]
    mass, place = max(climbs, key=lambda one: one[0])
    return place, mass


def _near(tree, fine, center, radius, widest):
    """The points that caps no farther than half a radius from the center are made of: float64, rounding moves maxima.

    Pixels are no wider than `widest`, if the tree has such.
    """
    reach = 1.5 * radius
    some = fine.xyz @ center >= math.cos(min(math.pi, reach + fine.width.max(initial=0.0)))
    near = Points.joined([tree.near(center, reach, widest), fine[some]])
    return Points(near.xyz.astype(float), near.mass.astype(float), near.width.astype(float))


def _starts(tree, fine, radius):
    """Where to look for the best cap, a few unit vectors (3,): where the mass of the fullest blocks of pixels lies,
    those that are a radius apart, and the middles between those that one cap may hold together."""
    level = int(np.argmin([abs(math.log(width_of(nside) / (radius / 1.7))) for nside in tree.nsides]))
    nside, mass = tree.nsides[level], tree.levels[level].copy()
    np.add.at(mass, _pixel_of(nside, fine.xyz), fine.mass)
    members, blocks = _fullest(mass, _neighbors(nside))
    centers = (mass[members][..., None] * tree_pixels(nside)[1][members]).sum(axis=0, dtype=np.float64)
    chosen, full = [], []
    for center, block in zip(centers / np.linalg.norm(centers, axis=-1, keepdims=True), blocks, strict=True):
        if all(center @ other < math.cos(radius) for other in chosen):
            chosen.append(center)
            full.append(block)
        if len(chosen) == HILLS:
            break
    alone = [center for center, block in zip(chosen, full, strict=True) if block >= ENOUGH * full[0]]
    pairs = [(i, j) for i in range(len(chosen)) for j in range(i) if chosen[i] @ chosen[j] > math.cos(2 * radius)]
    pairs.sort(key=lambda pair: -full[pair[0]] - full[pair[1]])
    between = [chosen[i] + chosen[j] for i, j in pairs[:STARTS]]
    return alone[:STARTS] + [middle / np.sqrt(middle @ middle) for middle in between]


def _fullest(mass, neighbors):
    """The pixels (9, B) of the fullest blocks of three by three, at most 64, and what these hold (B,), falling."""
    enough = WORTH * mass[neighbors[:, mass.argmax()]].sum()  # one of the nine pixels of a block has a ninth of it
    is_near = np.zeros(len(mass), bool)
    is_near[neighbors[:, mass >= enough / 9]] = True
    some = np.flatnonzero(is_near)
    blocks = mass[neighbors[:, some]].sum(axis=0)
    order = np.argsort(-blocks)[:64]
    order = order[blocks[order] >= WORTH * blocks[order[0]]]
    return neighbors[:, some[order]], blocks[order]


def _climb(tree, fine, place, radius):
    """The most mass that a cap near a unit vector (3,) has, and its center: by quadratic functions on ever smaller
    grids of three by three centers."""
    points, origin, step, best = _near(tree, fine, place, radius, radius / 7), place, radius / 4, (-1.0, place)
    caps = _Caps(points, radius)
    for _ in range(STEPS):
        if place @ origin < math.cos(radius / 2 - 1.5 * step):
            points, origin = _near(tree, fine, place, radius, radius / 7), place
            caps = _Caps(points, radius)
        tangents = _tangents(*place)
        grid = place + step * STENCIL @ tangents
        grid /= np.sqrt((grid**2).sum(axis=-1, keepdims=True))
        masses = caps(_distance(grid, points))
        top = int(masses.argmax())
        best = max(best, (float(masses[top]), grid[top]), key=lambda one: one[0])
        move = _peak(FIT @ masses)
        if move is None or np.abs(move).max() > 1.5:
            place = grid[top]
            step = step / 2 if top == 4 else step  # 4 is the middle
            continue
        place = place + step * move @ tangents
        place, step = place / np.sqrt(place @ place), step / 2.5
        if step < FINEST * radius:
            break
    return max(best, (float(caps(_distance(place[None], points))[0]), place), key=lambda one: one[0])


def _peak(fit):
    """Where a quadratic function has its maximum, (2,), or None if it has none."""
    _, a, b, aa, ab, bb = fit
    determinant = 4 * aa * bb - ab**2
    if not (aa < 0 and determinant > 0):
        return None
    return np.array([ab * b - 2 * bb * a, ab * a - 2 * aa * b]) / determinant


def _tangents(x, y, z):
    """Two unit vectors, (2, 3), at right angles to one and to each other: x and y, turned as a pole is to it."""
    pole = math.copysign(1.0, z)
    bend = -1 / (pole + z)
    return np.array([
        [1 + pole * x * x * bend, pole * x * y * bend, -pole * x], [x * y * bend, pole + y * y * bend, -y],
    ])  # fmt: skip


def _pixel_of(nside, xyz):
    """The pixels of `PixelTree` that unit vectors (K, 3) lie in, (K,)."""
    return _position(nside)[healpy.vec2pix(nside, *xyz.T)]


@lru_cache(maxsize=4)
def _centers(nside):
    """The unit vectors of the pixels of RING order, (N, 3), float32."""
    return np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1).astype(np.float32)


@lru_cache(maxsize=16)
def _position(nside):
    """Where `PixelTree` has each pixel of RING order, (N,)."""
    order, _ = tree_pixels(nside)
    return np.argsort(order)


@lru_cache(maxsize=16)
def _neighbors(nside):
    """Every pixel of `PixelTree` and its neighbors, (9, N). Where HEALPix has only seven, a pixel is there twice."""
    order, _ = tree_pixels(nside)
    neighbors = healpy.get_all_neighbours(nside, order)
    return _position(nside)[np.concatenate([order[None], np.where(neighbors < 0, order, neighbors)])]
