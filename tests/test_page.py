"""The page of predictions, as a browser on a phone shows it."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from locdiff import predict
from locdiff.data import blue_marble
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.viz import page

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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of three pictures: a photograph, a thumbnail and none, with its predictions."""
    torch.manual_seed(0)
    config = ModelConfig(
        embed_dim=5, l_max=7, width=16, depth=2, time_dim=8, noise_levels=20, decoder_nside=16, sample_steps=3
    )
    model = LocDiffusion(config).eval()
    torch.nn.init.normal_(model.network.head.bias)  # an untrained head says nothing
    embeddings = torch.randn(3, 5)
    predictions = model.predict(embeddings, samples=4, top_k=3)
    pictures = [Image.new("RGB", (800, 600), "teal"), Image.new("RGB", (16, 16), "olive"), None]
    path = tmp_path_factory.mktemp("page") / "out.html"
    page.write_page(path, "Where?", "a note", [NAME, "b.png", "c"], pictures, predictions, model.density(embeddings))
    return path, predictions


def test_the_page_says_what_was_predicted_and_needs_no_network(written):
    path, predictions = written
    parsed = Tags(path.read_text(encoding="utf-8"))
    assert (
        parsed.text.count(NAME) == 2 and "Where?" in parsed.text and not any(tag == "b" and a for tag, a in parsed.tags)
    )
    for tag, attributes in parsed.tags:
        assert tag not in ("script", "iframe")
        loaded = attributes.get("src") or (attributes.get("href") if tag in ("image", "link") else None)
        assert loaded is None or loaded.startswith("data:")
    assert sum(tag == "article" for tag, _ in parsed.tags) == 3 and sum(tag == "img" for tag, _ in parsed.tags) == 2
    assert sum(tag == "svg" for tag, _ in parsed.tags) == 1 + 2 * 3
    links = [a["href"] for tag, a in parsed.tags if tag == "a" and a["href"].startswith("https")]
    for prediction in predictions:
        lat, lon = prediction.places[0]
        assert any(f"mlat={lat:.4f}&mlon={lon:.4f}#" in link for link in links)
        assert f"{prediction.radius_90_km:,.0f} km" in parsed.text


def test_marks_lie_where_the_places_are():
    places = [(0.0, 0.0), (90.0, -180.0), (-90.0, 179.9999), (45.0, 90.0)]
    assert page._inside(places, page.maps.WORLD, 800) == [(400, 200), (0, 0), (800, 400), (600, 100)]
    window = page.maps.close_up(np.array([0.0, 179.0]))  # across the antimeridian: 2 degrees east is east
    (x, y), (west, _) = page._inside([(0.0, -179.0), (0.0, 177.0)], window, 100)
    assert (
        x == pytest.approx(50 + 100 / 13.5, abs=0.06) and y == 50 and west == pytest.approx(50 - 100 / 13.5, abs=0.06)
    )


def test_outlines_are_the_rims_of_regions():
    mask = np.zeros((6, 7), bool)
    mask[1:5, 2:6] = True
    rim = page._outline(mask)
    assert rim.sum() == 12 and not rim[2:4, 3:5].any() and not (rim & ~mask).any()
    assert not page._outline(np.ones((4, 4), bool)).any()


def browse(path, *options):
    """What Chromium says on its console about the page, and the page as it sees it."""
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        *options,
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
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


def test_more_pictures_than_a_page_holds_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LIMIT", 4)
    folder = (
        blue_marble.blue_marble(blue_marble.BlueMarble(train_views=1, test_views=5, data_seed=7), progress=False)
        / "test"
    )
    with pytest.raises(blue_marble.InputError, match="--html shows at most 4 pictures, got 5"):
        predict.main([str(run), str(folder), "--html", str(tmp_path / "out.html")])
    monkeypatch.undo()
    predict.main([str(run), str(folder), "--html", str(tmp_path / "out.html"), "--out", str(tmp_path / "out.csv")])
    assert (tmp_path / "out.html").read_text().count("<article") == 5
