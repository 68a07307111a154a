"""One self-contained page of predictions: each picture, its density on the map and its places, for phone and desk.

This module computes what the page shows: pictures as data URIs, maps as paths, numbers. The template
`templates/page.html` lays it out, in a light and a dark style; it escapes all text.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import healpy
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from locdiff.data import gazetteer
from locdiff.files import atomic_path
from locdiff.sphere.healpix import healpix_anchors
from locdiff.viz import base_map, maps, svg
from locdiff.viz.sheets import SMALL
from locdiff.viz.style import DARK, LIGHT
from locdiff.viz.views import WORLD, frame

LIMIT = 500  # pictures a page: some 100 kB each
PICTURE_SIDE = 480
WORLD_WIDTH, NEAR_WIDTH = 800, 390  # units of the maps

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
    anchors, world = healpix_anchors(healpy.npix2nside(density.shape[1])), svg.base(WORLD, WORLD_WIDTH)
    cards = [_card(*parts, anchors) for parts in zip(names, pictures, predictions, density, strict=True)]
    page = _TEMPLATES.get_template("page.html").render(
        title=title, note=note, world=world | {"width": WORLD_WIDTH}, near_width=NEAR_WIDTH, cards=cards,
        overview=_overview(predictions, world["height"]) if len(cards) > 1 else None,
        light=dataclasses.asdict(LIGHT), dark=dataclasses.asdict(DARK), credit=base_map.CREDIT,
        named=gazetteer.is_installed(),
    )  # fmt: skip
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _card(name, picture, prediction, density, anchors):
    """Return what the page shows of a picture or words: itself, if there is one, its density twice, and numbers."""
    words = picture if isinstance(picture, str) else None
    places = torch.tensor(prediction.places, dtype=torch.float64)
    near = maps.close_up(places[0], density, anchors)
    return {
        "name": name,
        "words": words,
        "picture": _thumbnail(picture) if picture and not words else None,
        "prediction": prediction,
        "where": gazetteer.describe(places),
        "world": _map(WORLD, WORLD_WIDTH, prediction, density)
        | {"frame": svg.path(WORLD, WORLD_WIDTH, frame(WORLD, near))},
        "near": _map(near, NEAR_WIDTH, prediction, density)
        | {"base": svg.base(near, NEAR_WIDTH), "bar": svg.bar(near, NEAR_WIDTH)},
    }


def _thumbnail(picture):
    """Return a picture as the page shows it; a small one is enlarged, pixel by pixel."""
    picture = picture.copy()
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small = max(picture.size) < SMALL
    uri = svg.data_uri(picture, "png" if small else "jpeg")
    return {"uri": uri, "width": max(picture.width, 240) if small else picture.width, "small": small}


def _map(view, width, prediction, density):
    """Return the density (N,) on a map, and where to mark samples and places."""
    height = round(width * view.half_height / view.half_width)
    places = svg.marks(view, width, prediction.places)
    return svg.density(view, width, density) | {
        "samples": svg.marks(view, width, prediction.samples),
        "pins": svg.pins(places, width, height),
        "others": places[svg.MOST_PINS :],
    }


def _overview(predictions, height):
    """Return where to mark the first place of every picture on the world."""
    places = svg.marks(WORLD, WORLD_WIDTH, [prediction.places[0] for prediction in predictions])
    return {"pins": svg.pins(places, WORLD_WIDTH, height), "others": places[svg.MOST_PINS :]}
