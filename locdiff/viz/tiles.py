"""Square tiles of a map in the Web Mercator projection, as pages that zoom ask for them: the Earth, and densities.

At zoom z the map has 2**z x 2**z tiles; x counts from 180 W to the east, y from the north. The projection ends at
LIMIT degrees of latitude. A position (x, y) on the map lies in [0, 1], y downwards.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import healpy
import numpy as np
from contourpy import FillType, contour_generator
from matplotlib.colors import to_rgb
from PIL import Image, ImageDraw
from torch import Tensor

from locdiff.data.blue_marble import basemap_file
from locdiff.errors import InputError
from locdiff.sphere.coordinates import EARTH_RADIUS_KM
from locdiff.viz import base_map, densities
from locdiff.viz.style import DARK, Style

SIDE, DEEPEST = 256, 9  # pixels of a tile; the closest zoom: 0.3 km a pixel at the equator
LIMIT = float(np.degrees(np.arctan(np.sinh(np.pi))))  # 85.05 degrees
MARBLE_KM = 7.4  # a pixel of the Blue Marble at the equator
MARBLE = 0.72  # its share of the colors of a tile; the rest is the style's sea, so that densities stand out
LINES = {"coast": 0.9, "border": 0.55}  # how opaque
OUTLINE_FINE = 16  # points along the equator for which regions are outlined, over nside: four a pixel
FINE = 2  # lines are drawn so many times larger, and reduced


def position(lat_lon: np.ndarray) -> np.ndarray:
    """Return the positions (..., 2) on the map of locations (..., 2) in degrees; beyond LIMIT that of LIMIT."""
    lat = np.radians(np.clip(lat_lon[..., 0], -LIMIT, LIMIT))
    return np.stack([lat_lon[..., 1] / 360 + 0.5, 0.5 - np.arcsinh(np.tan(lat)) / (2 * np.pi)], axis=-1)


def location(xy: np.ndarray) -> np.ndarray:
    """Return the locations (..., 2) in degrees at positions (..., 2); `position` is the inverse."""
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * xy[..., 1]))))
    return np.stack([lat, 360 * xy[..., 0] - 180], axis=-1)


def check(zoom: int, x: int, y: int) -> None:
    """Raise InputError if there is no such tile."""
    if not (0 <= zoom <= DEEPEST and 0 <= x < 2**zoom and 0 <= y < 2**zoom):
        raise InputError(f"there is no tile {zoom}/{x}/{y}; the zoom goes from 0 to {DEEPEST}, x and y to 2**zoom - 1")


def locations(zoom: int, x: int, y: int) -> np.ndarray:
    """Return the locations (SIDE, SIDE, 2), degrees, of the middles of the pixels of a tile, from the north.

    Raises InputError if there is no such tile.
    """
    check(zoom, x, y)
    offset = (np.arange(SIDE) + 0.5) / SIDE
    return location(np.stack(np.meshgrid((x + offset) / 2**zoom, (y + offset) / 2**zoom), axis=-1))


Outline = tuple[list[list[np.ndarray]], list[np.ndarray]]  # polygons, each an outer ring and holes; and rims


def region_outlines(probs: Tensor) -> list[Outline]:
    """Return the regions that hold 50 and 90 % of a density (N,) of HEALPix pixels, rings and lines (k, 2) in degrees.

    They end halfway between pixels, in value: where the density, linear between them, has a value of
    `densities.region_levels`. Rings go a little beyond the antimeridian, where the map is cut; rims are no part of the
    cut.
    """
    count = OUTLINE_FINE * healpy.npix2nside(len(probs))
    x, y = (np.arange(-1, count + 1) + 0.5) / count, (np.arange(count) + 0.5) / count
    at = location(np.stack(np.meshgrid(x, y), axis=-1))
    ratio = healpy.get_interp_val(len(probs) * probs.double().numpy(), at[..., 1], at[..., 0], lonlat=True)
    contours = contour_generator(x, y, ratio, fill_type=FillType.OuterOffset)
    found = []
    for level in densities.region_levels(probs):
        filled = zip(*contours.filled(level, np.inf), strict=True)
        rings = [[location(points[a:b]) for a, b in pairwise(ends.tolist())] for points, ends in filled]
        found.append((rings, [location(line) for line in contours.lines(level)]))
    return found


def density(
    ratio_at: Callable[[np.ndarray], np.ndarray], largest: float, zoom: int, x: int, y: int, style: Style = DARK
) -> Image.Image:
    """Return the shades of a density on a tile, RGBA, by its ratio to the uniform one; see `densities`."""
    colors = style.shade(densities.strength(ratio_at(locations(zoom, x, y)), largest))
    return Image.fromarray((255 * colors).round().astype(np.uint8))


def earth(zoom: int, x: int, y: int, style: Style = DARK) -> Image.Image:
    """Return a tile of the Blue Marble, darkened, with coasts, lakes and borders, RGB."""
    colors = MARBLE * _marble(zoom, x, y) + (1 - MARBLE) * np.array(to_rgb(style.sea))
    for name, color in (("border", style.quiet), ("coast", style.quiet)):
        share = LINES[name] * _line_mask(name, zoom, x, y)[..., None]
        colors = (1 - share) * colors + share * np.array(to_rgb(color))
    return Image.fromarray((255 * colors).round().astype(np.uint8))


@lru_cache(maxsize=8)
def _reduced(factor):
    """Return the Blue Marble (height, width, 3), reduced so many times."""
    with Image.open(basemap_file("bmng.jpg")) as image:
        return np.asarray(image.reduce(factor) if factor > 1 else image)


def _marble(zoom, x, y):
    """Return the Blue Marble on a tile (SIDE, SIDE, 3) in [0, 1], interpolated between its pixels."""
    factor = 2 ** max(0, int(np.log2(_pixel_km(zoom) / MARBLE_KM)))
    image, at = _reduced(factor), locations(zoom, x, y)
    height, width = image.shape[:2]
    row = np.clip((90 - at[:, 0, 0]) / 180 * height - 0.5, 0, height - 1)
    column = (at[0, :, 1] + 180) / 360 * width - 0.5
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    down, right = (row - top)[:, None, None], (column - left)[None, :, None]
    above, below = (
        (1 - right) * image[np.ix_(rows, left % width)] + right * image[np.ix_(rows, (left + 1) % width)]
        for rows in (top, np.minimum(top + 1, height - 1))
    )
    return ((1 - down) * above + down * below) / 255


def _pixel_km(zoom):
    return 2 * np.pi * EARTH_RADIUS_KM / (SIDE * 2**zoom)


@lru_cache(maxsize=6)
def _segments(name, resolution):
    """Return the straight parts of all coasts or borders, positions of both ends (m, 2, 2), and the least and largest x
    and y of each (m, 2); the meridians along which shores are cut, 180 W and in Antarctica Greenwich's, are none."""
    km = base_map.RESOLUTIONS[resolution][1]
    if name == "coast":
        lines = [line for _, line in base_map.shorelines(resolution, base_map.SMALLEST_PIXELS * km**2)]
    else:
        lines = base_map.borders(resolution)
    ends = np.concatenate([np.stack([line[:-1], line[1:]], axis=1) for line in lines])
    ends[..., 0] = np.where(ends[..., 0] > 180.001, ends[..., 0] - 360, ends[..., 0])
    lon, lat = np.abs(ends[..., 0]), ends[..., 1]
    cut = (np.abs(lon - 180) < 0.01).all(axis=1) | (np.abs(np.diff(ends[..., 0])[:, 0]) > 180)
    cut |= ((lon < 0.01) & (lat < -60)).all(axis=1) | (np.abs(lat) >= LIMIT).all(axis=1)
    found = position(ends[~cut][..., ::-1]).astype(np.float32)
    return found, found.min(axis=1), found.max(axis=1)


def _line_mask(name, zoom, x, y):
    """Return how much of each pixel of a tile (SIDE, SIDE) lines cover, in [0, 1]."""
    ends, least, largest = _segments(name, base_map.resolution_for(_pixel_km(zoom)))
    corner, margin = np.array([x, y]) / 2**zoom, 2 / SIDE / 2**zoom
    low, high = corner - margin, corner + 2.0**-zoom + margin
    near = ((largest > low) & (least < high)).all(axis=1)
    image = Image.new("L", (FINE * SIDE, FINE * SIDE))
    draw = ImageDraw.Draw(image)
    for line in ((ends[near].astype(float) - corner) * (2**zoom * FINE * SIDE)).reshape(-1, 4).tolist():
        draw.line(line, fill=255, width=FINE)
    return np.asarray(image.reduce(FINE)) / 255
