"""A density as masses of points, of NumPy: few where it is thin, and many where it is narrower than a pixel.

Pixels are merged by fours (`PixelTree`) where they hold little, and divided by fours (`divide`) where they hold much.
What a point stands for is about as wide as it is long: `width`, in radians.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import healpy
import numpy as np

HEAVY = 1e-4  # the probability of a pixel that is worth dividing
MUCH = 2e-3  # that of a merged pixel that is too much for one point
STEEP = 5e-3  # that of a part that is, if the density is even; it is less where the density is steep


@dataclass
class Points:
    """Unit vectors `xyz` (K, 3), the probability `mass` (K,) of each, and its `width` (K,), the root of its area."""

    xyz: np.ndarray
    mass: np.ndarray
    width: np.ndarray

    def __getitem__(self, some) -> "Points":
        return Points(self.xyz[some], self.mass[some], self.width[some])

    def merged(self, width: float) -> "Points":
        """Return one point for every HEALPix pixel, no wider than `width`, that any lie in: with the same mass, mean
        place and spread."""
        nside = 2 ** max(0, math.ceil(math.log2(width_of(1) / width)))
        xyz = self.xyz / np.linalg.norm(self.xyz.astype(np.float64), axis=-1, keepdims=True)
        _, own = np.unique(healpy.vec2pix(nside, *xyz.T), return_inverse=True)
        mass = np.bincount(own, self.mass)
        means = [np.bincount(own, self.mass * part) / mass for part in (*xyz.T, self.width**2)]
        place = np.stack(means[:3], axis=-1)
        length = np.linalg.norm(place, axis=-1, keepdims=True)
        spread = np.maximum(1 - length[:, 0] ** 2, 0)  # of a square of width a: a^2 / 6
        widths = np.sqrt(means[3] + 6 * spread)
        return Points((place / length).astype(np.float32), mass.astype(np.float32), widths.astype(np.float32))

    @staticmethod
    def none() -> "Points":
        """Return no points."""
        return Points(np.empty((0, 3), np.float32), np.empty(0, np.float32), np.empty(0, np.float32))

    @staticmethod
    def joined(parts: list["Points"]) -> "Points":
        """Return all points of at least one part."""
        return Points(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("xyz", "mass", "width")))


def width_of(nside: int) -> float:
    """Return the root of the area of a HEALPix pixel, in radians."""
    return math.sqrt(math.pi / 3) / nside


def divide(
    nside: int,
    picture: np.ndarray,
    pixel: np.ndarray,
    masses: Callable[[np.ndarray, int, np.ndarray], np.ndarray],
    times: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Divide pixels (m,) of pictures (m,) by fours, and those parts again that are STEEP, at most `times` times.

    masses(picture, nside, pixel) are the masses (m', P), by P densities, of pixels (m',) of that nside. Returns picture
    (M,), xyz (M, 3), masses (M, P) and width (M,) of all parts.
    """
    x, y, face = (np.asarray(part, np.int64) for part in healpy.pix2xyf(nside, pixel))
    parts = []
    for left in reversed(range(times)):
        picture, face, nside = picture.repeat(4), face.repeat(4), 2 * nside
        x, y = _quarters(x, y)
        pixel = healpy.xyf2pix(nside, x, y, face)
        mass = masses(picture, nside, pixel)
        quarters = mass.sum(axis=-1).reshape(-1, 4) + 1e-30
        rise = np.log(quarters.max(axis=-1) / quarters.min(axis=-1))  # of the log density, across the pixel
        again = (quarters * (1 + rise[:, None] ** 2) > STEEP).ravel() & (left > 0)
        done = ~again
        xyz = np.stack(healpy.pix2vec(nside, pixel[done]), axis=-1).astype(np.float32)
        parts.append((picture[done], xyz, mass[done], np.full(len(xyz), width_of(nside), np.float32)))
        picture, x, y, face = picture[again], x[again], y[again], face[again]
    picture, xyz, mass, width = (np.concatenate(part) for part in zip(*parts, strict=True))
    return picture, xyz, mass, width


def _quarters(x, y):
    """The coordinates in their face, (4 m,) each, of the quarters of pixels (m,)."""
    return (2 * x[:, None] + [0, 1, 0, 1]).ravel(), (2 * y[:, None] + [0, 0, 1, 1]).ravel()


class PixelTree:
    """The masses (N,) of the HEALPix pixels of one density, RING order, and of pixels that are 2, 4, ... times as wide.

    Pixels are numbered so that pixel i of one level is made of 4 i to 4 i + 3 of the next finer one.
    """

    def __init__(self, mass: np.ndarray):
        self.nsides, self.levels = [healpy.npix2nside(len(mass))], []
        order, _ = tree_pixels(self.nsides[0])
        self.levels.append(mass[order])
        while self.nsides[-1] % 2 == 0:
            finer = self.levels[-1]
            self.levels.append(finer[::4] + finer[1::4] + finer[2::4] + finer[3::4])
            self.nsides.append(self.nsides[-1] // 2)

    def near(self, center: np.ndarray, reach: float, widest: float) -> Points:
        """Return the points that make up all mass within `reach` of a unit vector (3,), and some beyond.

        They are the largest pixels that are no wider than `widest` and hold no more than MUCH, or the smallest.
        """
        first = min(level for level, nside in enumerate(self.nsides) if nside <= 16 or level == len(self.nsides) - 1)
        parts, nodes = [], np.arange(len(self.levels[first]))
        for mass, nside in zip(self.levels[first::-1], self.nsides[first::-1], strict=True):
            _, xyz = tree_pixels(nside)
            width, at = width_of(nside), xyz[nodes]
            some = (at @ center >= math.cos(min(math.pi, reach + width))) & (mass[nodes] > 0)
            nodes, at = nodes[some], at[some]
            finest = nside == self.nsides[0]
            leaf = (mass[nodes] <= MUCH) & (width <= widest) | finest
            own = nodes[leaf]
            parts.append(Points(at[leaf], mass[own], np.full(len(own), width, np.float32)))
            nodes = (4 * nodes[~leaf][:, None] + np.arange(4)).ravel()
        return Points.joined(parts)


@lru_cache(maxsize=16)
def tree_pixels(nside: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (N,) of RING order in the order of `PixelTree`, and their unit vectors (N, 3), float32."""
    odd = nside // (nside & -nside)  # HEALPix's NESTED order, but for any nside
    face, x, y = (part.ravel() for part in np.meshgrid(np.arange(12), np.arange(odd), np.arange(odd), indexing="ij"))
    while odd < nside:
        face, odd = face.repeat(4), 2 * odd
        x, y = _quarters(x, y)
    pixel = healpy.xyf2pix(nside, x, y, face)
    return pixel, np.stack(healpy.pix2vec(nside, pixel), axis=-1).astype(np.float32)
