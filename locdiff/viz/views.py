"""Where a map shows what: the world in the Equal Earth projection, and close-ups around a place.

Both projections keep areas, so a density per area looks as dense everywhere. A close-up is Lambert's azimuthal
projection: nothing changes at the antimeridian or the poles, and lengths are right to 1 % within 1,800 km.

Locations are (lat, lon) in degrees. Positions on a map are (x, y) in km, x to the right and y upwards, from its middle.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch

from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km, to_unit_vector

COEFFICIENTS = (1.340264, -0.081106, 0.000893, 0.003796)  # of theta, theta^3, theta^7, theta^9: Savric et al. 2018
NEWTON_STEPS = 6
SIDE_POINTS = 20


def unit_vectors(lat_lon: np.ndarray) -> np.ndarray:
    """Return the unit vectors (..., 3) of locations (..., 2), float64."""
    return to_unit_vector(torch.tensor(lat_lon, dtype=torch.float64)).numpy()


@dataclass(frozen=True)
class World:
    """The whole Earth in the Equal Earth projection, the meridian of Greenwich in its middle."""

    @property
    def half_width(self) -> float:
        return EARTH_RADIUS_KM * float(np.pi * 2 / np.sqrt(3) / COEFFICIENTS[0])

    @property
    def half_height(self) -> float:
        return EARTH_RADIUS_KM * float(_equal_earth(np.pi / 3)[0])

    def forward(self, lat_lon: np.ndarray) -> np.ndarray:
        """Return the positions (..., 2) of locations (..., 2); longitudes are taken into [-180, 180)."""
        lat_lon = np.asarray(lat_lon, dtype=float)
        theta = np.arcsin(np.sqrt(3) / 2 * np.sin(np.radians(lat_lon[..., 0])))
        lon = np.radians((lat_lon[..., 1] + 180) % 360 - 180)
        y, slope = _equal_earth(theta)
        return EARTH_RADIUS_KM * np.stack([2 / np.sqrt(3) * lon * np.cos(theta) / slope, y], axis=-1)

    def inverse(self, xy: np.ndarray) -> np.ndarray:
        """Return the locations (..., 2) at positions (..., 2); NaN outside the map."""
        return self.at(*np.moveaxis(np.asarray(xy, dtype=float), -1, 0))

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the locations at positions whose x and y are broadcast against each other, as `inverse` does."""
        x, y = x / EARTH_RADIUS_KM, y / EARTH_RADIUS_KM
        theta = y / COEFFICIENTS[0]
        for _ in range(NEWTON_STEPS):
            found, slope = _equal_earth(theta)
            theta = np.clip(theta - (found - y) / slope, -np.pi / 3, np.pi / 3)
        lon = x * np.degrees(np.sqrt(3) / 2 * _equal_earth(theta)[1] / np.cos(theta))
        lat = np.degrees(np.arcsin(np.clip(2 / np.sqrt(3) * np.sin(theta), -1, 1)))
        inside = (np.abs(y) <= self.half_height / EARTH_RADIUS_KM) & (np.abs(lon) <= 180)
        return np.where(inside[..., None], np.stack(np.broadcast_arrays(lat, lon), axis=-1), np.nan)


def _equal_earth(theta):
    """Return y (...) over the Earth's radius at the parametric latitude theta (...), and dy / dtheta."""
    a, b, c, d = COEFFICIENTS
    square = theta**2
    y = theta * (a + square * (b + square**2 * (c + square * d)))
    return y, a + square * (3 * b + square**2 * (7 * c + square * 9 * d))


WORLD = World()


@dataclass(frozen=True)
class CloseUp:
    """A square around a place, north up in its middle; half of it is `half` km wide."""

    lat: float
    lon: float
    half: float

    @property
    def half_width(self) -> float:
        return self.half

    @property
    def half_height(self) -> float:
        return self.half

    @cached_property
    def _axes(self) -> np.ndarray:
        """The unit vectors to the east, to the north, and to the middle, (3, 3)."""
        lon = np.radians(self.lon)
        east = np.array([-np.sin(lon), np.cos(lon), 0.0])
        middle = unit_vectors(np.array([self.lat, self.lon]))
        return np.stack([east, np.cross(middle, east), middle])

    def forward(self, lat_lon: np.ndarray) -> np.ndarray:
        """Return the positions (..., 2) of locations (..., 2); NaN for the antipode of the middle."""
        east, north, up = np.moveaxis(unit_vectors(np.asarray(lat_lon, dtype=float)) @ self._axes.T, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(up > -1 + 1e-12, EARTH_RADIUS_KM * np.sqrt(2 / (1 + up)), np.nan)
        return scale[..., None] * np.stack([east, north], axis=-1)

    def inverse(self, xy: np.ndarray) -> np.ndarray:
        """Return the locations (..., 2) at positions (..., 2); NaN farther away than the antipode."""
        return self.at(*np.moveaxis(np.asarray(xy, dtype=float), -1, 0))

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the locations at positions whose x and y are broadcast against each other, as `inverse` does."""
        x, y = x / EARTH_RADIUS_KM, y / EARTH_RADIUS_KM
        square = x**2 + y**2
        within = np.sqrt(np.where(square <= 4, 1 - square / 4, np.nan))
        x, y, z = np.moveaxis(np.stack([x * within, y * within, 1 - square / 2], axis=-1) @ self._axes, -1, 0)
        return np.degrees(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))


View = World | CloseUp


def positions(view: View, height: int, fine: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return x (width,) and y (height,), falling, of the middles of the pixels of a picture `height` pixels high.

    Every pixel is divided into `fine` x `fine`, so there are so many times more.
    """
    width, height = fine * round(height * view.half_width / view.half_height), fine * height
    x, y = (np.arange(width) + 0.5) / width * 2 - 1, 1 - (np.arange(height) + 0.5) / height * 2
    return x * view.half_width, y * view.half_height


@lru_cache(maxsize=4)
def locations(view: View, height: int, fine: int = 1) -> np.ndarray:
    """Return the locations (height, width, 2) of those pixels; NaN outside the map. Do not write to it."""
    x, y = positions(view, height, fine)
    found = view.at(x[None], y[:, None])
    found.setflags(write=False)
    return found


def outline(view: View) -> np.ndarray:
    """Return the closed rim (m, 2) of what the map shows."""
    if isinstance(view, CloseUp):
        side = np.linspace(-1, 1, SIDE_POINTS)
        below, right = np.stack([side, -np.ones_like(side)], axis=-1), np.stack([np.ones_like(side), side], axis=-1)
        return view.half * np.concatenate([below, right, -below, -right])
    west = view.forward(np.stack([np.linspace(90, -90, 4 * SIDE_POINTS), np.full(4 * SIDE_POINTS, -180.0)], axis=-1))
    return np.concatenate([west, west[::-1] * [-1, 1], west[:1]])


def frame(view: View, inner: CloseUp) -> list[np.ndarray]:
    """Return where the rim of a close-up lies on another map, lines of positions (k, 2)."""
    return polylines(view, inner.inverse(outline(inner)))


def polylines(view: View, lat_lon: np.ndarray) -> list[np.ndarray]:
    """Return the parts (k, 2) of a line of locations (m, 2), close together, that run near what the map shows.

    It is cut where it leaves the map on one side and comes back on the other.
    """
    xy = view.forward(lat_lon)
    reach = 1.2 * np.array([view.half_width, view.half_height])
    near = (np.abs(xy) < reach).all(axis=-1)
    joined = near[1:] & near[:-1] & (np.abs(np.diff(xy[:, 0])) < view.half_width / 2)
    starts = np.flatnonzero(joined & ~np.r_[False, joined[:-1]])
    ends = np.flatnonzero(joined & ~np.r_[joined[1:], False]) + 2
    return [xy[a:b] for a, b in zip(starts, ends, strict=True)]


def scale_bar(view: CloseUp) -> tuple[int, np.ndarray]:
    """Return the length in km of a scale bar, 1, 2 or 5 times a power of ten, and its two ends (2, 2), lower left.

    It is as long as it says along the great circle through its ends.
    """
    most = 0.8 * view.half
    km = max(k * 10**power for power in range(5) for k in (1, 2, 5) if k * 10**power <= most)
    ends = view.half * np.array([(-0.92, -0.9), (-0.92, -0.9)]) + [(0, 0), (km, 0)]
    for _ in range(3):
        found = great_circle_km(*torch.from_numpy(view.inverse(ends))).item()
        ends[1, 0] = ends[0, 0] + (ends[1, 0] - ends[0, 0]) * km / found
    return km, ends
