"""Maps as parts of an SVG: the base map and the regions as paths, the density as a picture, marks as positions.

A map is `width` units wide. Paths are in tenths of a unit, whole numbers, each point relative to the last.
"""

import base64
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from contourpy import contour_generator
from PIL import Image
from torch import Tensor

from locdiff.viz import base_map, densities
from locdiff.viz.style import DARK, LIGHT
from locdiff.viz.views import CloseUp, View, outline, positions, scale_bar

SHADE_HEIGHT, BASE_HEIGHT = 246, 400  # pixels of the density, and of the land whose coasts are drawn
PIN_LENGTHS, PIN_RADIUS = (20, 34, 50), 8.5  # units
PIN_TURNS = (90, 60, 120, 30, 150, 0, 180, -45, -135, -90)  # degrees: where a pin may point, best first
MOST_PINS = 40  # with numbers; further places are dots


def on_map(view: View, width: float, xy: np.ndarray) -> np.ndarray:
    """Return where positions (..., 2) in km lie on a map, x to the right and y downwards from its upper left corner."""
    return (np.array([1, -1]) * xy + [view.half_width, view.half_height]) * width / (2 * view.half_width)


def path(view: View, width: float, lines: Iterable[np.ndarray], closed: bool = False) -> str:
    """Return lines of positions (k, 2) as the `d` of a path."""
    parts = []
    for line in lines:
        points = np.round(10 * on_map(view, width, line)).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[steps.any(axis=1)]
        if len(steps):
            parts.append("M{},{}l".format(*points[0]) + " ".join(f"{x},{y}" for x, y in steps.tolist()))
    return "".join(part + "z" * closed for part in parts)


def base(view: View, width: float) -> dict[str, Any]:
    """Return the paths of the base map, and its height."""
    return {
        "height": round(width * view.half_height / view.half_width),
        "sea": path(view, width, [outline(view)], closed=True),
        "land": path(view, width, base_map.land_rings(view, BASE_HEIGHT), closed=True),
        "coast": path(view, width, base_map.coast_lines(view, BASE_HEIGHT)),
        "border": path(view, width, base_map.border_lines(view, BASE_HEIGHT)),
    }


def density(view: View, width: float, probs: Tensor) -> dict[str, Any]:
    """Return the shades of a density (N,) for light and dark pages as data URIs, and the paths of its regions."""
    ratio = densities.on_map(view, SHADE_HEIGHT, densities.of_pixels(probs), [densities.pixels_of(probs)])
    strength = densities.strength(ratio, len(probs) * probs.max().item())
    contours = contour_generator(*positions(view, SHADE_HEIGHT), ratio)
    rims = [path(view, width, contours.lines(level)) for level in densities.region_levels(probs)]
    return {"light": shade(LIGHT.shade(strength)), "dark": shade(DARK.shade(strength)), "rims": rims}


def shade(colors: np.ndarray) -> str:
    """Return colours (height, width, 4) in [0, 1] as a data URI."""
    return data_uri(Image.fromarray((255 * colors).round().astype(np.uint8)), "webp")


def data_uri(picture: Image.Image, kind: str) -> str:
    """Return a picture as a data URI: webp and jpeg lose a little, png nothing."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def marks(view: View, width: float, places: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Return where places, (lat, lon) each, lie on a map; the SVG cuts off those outside."""
    if not len(places):
        return []
    return [tuple(xy) for xy in on_map(view, width, view.forward(np.array(places))).round(1).tolist()]


def bar(view: CloseUp, width: float) -> dict[str, Any]:
    """Return the scale bar: what it says and its two ends."""
    km, ends = scale_bar(view)
    return {"words": f"{km:,} km", "ends": on_map(view, width, ends).round(1).tolist()}


def pins(points: Sequence[tuple[float, float]], width: float, height: float) -> list[dict[str, float]]:
    """Return a numbered pin for each of the first points (x, y) inside the map: `number`, its `x`, `y`, and the `head`
    beside it.

    No head overlaps another, as far as there is room; none leaves the map.
    """
    found: list[dict[str, Any]] = []
    for number, (x, y) in enumerate(points[:MOST_PINS], 1):
        if not (0 <= x <= width and 0 <= y <= height):
            continue
        heads = [
            (x + length * math.cos(math.radians(turn)), y - length * math.sin(math.radians(turn)))
            for length in PIN_LENGTHS
            for turn in PIN_TURNS
        ]
        inside = [
            (a, b) for a, b in heads if PIN_RADIUS < a < width - PIN_RADIUS and PIN_RADIUS < b < height - PIN_RADIUS
        ]
        taken = [one["head"] for one in found]
        best = max(inside, key=lambda head: min([2.2 * PIN_RADIUS, *(math.dist(head, other) for other in taken)]))
        found.append({"number": number, "x": x, "y": y, "head": (round(best[0], 1), round(best[1], 1))})
    return found
