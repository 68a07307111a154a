"""Regions from GeoJSON files (RFC 7946): Polygon, MultiPolygon, GeometryCollection, Feature, FeatureCollection."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from locdiff.data.regions import Region, unwrapped
from locdiff.errors import InputError

PARTS = {"FeatureCollection": "features", "GeometryCollection": "geometries"}
WITHOUT_INSIDE = ("Point", "MultiPoint", "LineString", "MultiLineString")
FARTHEST = (360, 90)  # longitude and latitude


def read_region(path: Path | str) -> Region:
    """Return the region of a GeoJSON file, named by the file.

    Rings may cross the antimeridian, by a jump or by longitudes beyond 180 degrees, and go around poles. Raises
    InputError, in one line that names the file, the value and the remedy, if the file holds no region.
    """
    try:
        record = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a GeoJSON file or lat,lon,lat,lon") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); give a GeoJSON file of polygons") from None
    rings, signs = [], []
    for polygon in _polygons(record, path):
        if not isinstance(polygon, list):
            raise InputError(f"{path}: {_short(polygon)} are no coordinates of a polygon; give a list of rings")
        for i, ring in enumerate(polygon):
            rings.append(unwrapped(_ring(ring, path)))
            signs.append(-1 if i else 1)
    if not rings:
        raise InputError(f"{path} holds no polygons; give a GeoJSON file with at least one")
    return Region(str(path), rings, signs)


def _polygons(record: Any, path) -> Iterator[Any]:
    """Yield the coordinates of all polygons of a GeoJSON object."""
    kind = record.get("type") if isinstance(record, dict) else None
    if kind == "Feature":
        if record.get("geometry") is not None:  # a feature without a place
            yield from _polygons(record["geometry"], path)
    elif kind in PARTS:
        parts = record.get(PARTS[kind])
        if not isinstance(parts, list):
            raise InputError(f"{path}: the {kind} has no list of {PARTS[kind]}; give a GeoJSON file of polygons")
        for part in parts:
            yield from _polygons(part, path)
    elif kind in ("Polygon", "MultiPolygon"):
        found = record.get("coordinates")
        if not isinstance(found, list):
            raise InputError(f"{path}: the {kind} has no list of coordinates; give one")
        yield from [found] if kind == "Polygon" and found else found
    elif kind in WITHOUT_INSIDE:
        raise InputError(f"{path} holds a {kind}, which has no inside; give polygons only")
    else:
        raise InputError(f"{path}: {_short(record)} is no GeoJSON object; give a Polygon, MultiPolygon or Feature")


def _ring(ring, path):
    """Return a ring of positions as an array (m, 2) of [lon, lat]."""
    try:
        positions = [position[:2] for position in ring]
        fits = all(len(position) == 2 and all(type(x) in (int, float) for x in position) for position in positions)
        line = np.array(positions if fits else [], dtype=float).reshape(-1, 2)
    except (TypeError, KeyError, OverflowError):  # the last of an integer with hundreds of digits
        fits, line = False, np.empty((0, 2))
    if not fits:
        raise InputError(f"{path}: {_short(ring)} is no ring; give a list of positions [lon, lat], two numbers")
    wrong = ~(np.isfinite(line) & (abs(line) <= FARTHEST)).all(axis=1)
    if wrong.any():
        lon, lat = line[wrong.argmax()]
        raise InputError(
            f"{path}: [{lon:g}, {lat:g}] is no [lon, lat] in degrees; give longitudes in [-360, 360], latitudes in "
            "[-90, 90], and longitude first"
        )
    if len(line) < 4 or (line[0] != line[-1]).any():
        raise InputError(
            f"{path}: the ring {_short(ring)} is not closed; end it with its first position, after 3 others"
        )
    return line


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
