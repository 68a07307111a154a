"""One self-contained page of predictions: each picture, its density on the map and its places, for phone and desk.

This module computes what the page shows: pictures as data URIs, the pixels where marks lie, numbers. The template
`templates/page.html` lays it out; it escapes all text.
"""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from locdiff.files import atomic_path
from locdiff.viz import maps

LIMIT = 500  # pictures a page: some 100 kB each
PICTURE_SIDE, MAP_HEIGHT, OVERVIEW_WIDTH = 480, 320, 800

_TEMPLATES = Environment(
    loader=PackageLoader("locdiff.viz"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.tests["finite"] = math.isfinite


def write_page(
    path: Path | str,
    title: str,
    note: str,
    names: Sequence[str],
    pictures: Sequence[Image.Image | str | None],
    predictions: Sequence[Any],
    density: Tensor,
) -> None:
    """Write the page for n pictures: names (n), pictures or words (n), `pipeline.Prediction`s (n).

    `density` (n, N) holds the probabilities of the HEALPix pixels. Raises InputError if the file cannot be written.
    """
    grey = maps.grey_map()
    cards = [_card(*parts, grey) for parts in zip(names, pictures, predictions, density, strict=True)]
    overview = _overview(predictions, grey) if len(cards) > 1 else None
    page = _TEMPLATES.get_template("page.html").render(title=title, note=note, overview=overview, cards=cards)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _card(name, picture, prediction, density, grey):
    """Return what the page shows of a picture or words: itself, if there is one, its density twice, and numbers."""
    words = picture if isinstance(picture, str) else None
    return {
        "name": name,
        "words": words,
        "picture": _thumbnail(picture) if picture and not words else None,
        "prediction": prediction,
        "world": _map(prediction, density, grey, maps.WORLD),
        "near": _map(prediction, density, grey, maps.close_up(np.array(prediction.places[0]))),
    }


def _thumbnail(picture):
    """Return a picture as the page shows it; a small one is enlarged, pixel by pixel."""
    picture = picture.copy()
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small = max(picture.size) < 100
    return {"uri": _data(picture), "width": max(picture.width, 240) if small else picture.width, "small": small}


def _map(prediction, density, grey, window):
    """Return the density (N,) painted in a window with the outlines of its regions, and where to mark samples, places.

    `grey` (h, 2h) is the map of the world.
    """
    colors, value, _, _ = maps.paint(density, grey, window, MAP_HEIGHT)
    for level, dash in zip(maps.region_levels(density), (1, 2), strict=False):
        row, column = np.nonzero(_outline(value >= level))
        whole = (row + column) // 3 % dash == 0
        colors[row[whole], column[whole]] = 1
    height, width = colors.shape[:2]
    return {
        "uri": _data(Image.fromarray((255 * colors).round().astype(np.uint8))),
        "width": width,
        "height": height,
        "samples": _inside(prediction.samples, window, width),
        "places": _inside(prediction.places, window, width),
    }


def _overview(predictions, grey):
    """Return the map of the world, and where to mark the first place of every picture."""
    return {
        "uri": _data(Image.fromarray((255 * grey).astype(np.uint8)).resize((1200, 600))),
        "width": OVERVIEW_WIDTH,
        "height": OVERVIEW_WIDTH // 2,
        "places": _inside([prediction.places[0] for prediction in predictions], maps.WORLD, OVERVIEW_WIDTH),
    }


def _inside(places, window, width):
    """Return positions on a map of this width of places in degrees: [(x, y), ...]; the svg cuts off those outside."""
    lat, lon, half_height, half_width = window
    height = width / 2 if window == maps.WORLD else width
    return [
        (
            round(width * (((b - lon + 180) % 360 - 180) / half_width + 1) / 2, 1),
            round(height * (1 - (a - lat) / half_height) / 2, 1),
        )
        for a, b in places
    ]


def _outline(mask):
    """Return the pixels of a region (h, w) that have a neighbour outside it, (h, w)."""
    padded = np.pad(mask, 1, mode="edge")
    return mask & ~(padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2])


def _data(picture):
    """Return a picture as a data URI: png where it is small, jpeg otherwise."""
    buffer = io.BytesIO()
    kind = "png" if max(picture.size) < 100 else "jpeg"
    picture.save(buffer, kind, **({"quality": 80} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
