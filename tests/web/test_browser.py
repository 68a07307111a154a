"""The page in a browser: what a reader does, at a desk and with a phone. It needs Chromium and playwright."""

import re
import shutil

import pytest
from support.pages import serving
from support.pictures import exif_bytes, gps, jpeg

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not there: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is there: apt-get install chromium")
SIZES = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 740}}
PARIS = (48.8584, 2.2945)


@pytest.fixture(scope="module")
def address():
    """Where a page of a model of pictures and words is served."""
    with serving("both") as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as api:
        started = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=SIZES)
def page(request, browser, address):
    """The page, just opened; whatever it complains of, and asks of others, fails the test."""
    context = browser.new_context(viewport=SIZES[request.param], has_touch=request.param == "phone")
    opened, problems, asked = context.new_page(), [], []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(address)
    opened.expected = []  # parts of the complaints that a test provokes
    yield opened
    assert [text for text in problems if not any(part in text for part in opened.expected)] == []
    assert len(asked) > 10 and all(url.startswith(f"{address}/") for url in asked)
    assert context.cookies() == []
    context.close()


def drop(page, *files):
    """Drop files (name, bytes) on the page, as from a folder of the desktop."""
    transfer = page.evaluate_handle("() => new DataTransfer()")
    for name, data in files:
        page.evaluate(
            "([transfer, name, data]) => transfer.items.add(new File([new Uint8Array(data)], name))",
            [transfer, name, list(data)],
        )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def names(page):
    return page.locator("#results .name").all_inner_texts()


def tiles(page, start):
    """The tiles on the map whose addresses start so, that are loaded."""
    return page.locator(f'#map img[src^="{start}"].leaflet-tile-loaded')


def test_pictures_are_dropped_and_chosen_from_a_list(page):
    drop(page, ("red.jpg", jpeg((200, 30, 30))), ("blue.jpg", jpeg((0, 0, 250))))
    playwright.expect(page.locator("#results .name")).to_have_text(["red.jpg", "blue.jpg"])
    assert page.locator("#name").inner_text() == "red.jpg"
    tiles(page, "/answers/").first.wait_for()
    tiles(page, "/earth/").first.wait_for()
    first = page.locator("#modes tbody").inner_text()
    page.locator("#results button").nth(1).click()
    assert page.locator("#name").inner_text() == "blue.jpg" and page.locator("#modes tbody").inner_text() != first
    red = "canvas => [...canvas.getContext('2d').getImageData(9, 9, 1, 1).data]"
    r, g, b, _ = page.locator("#results canvas").first.evaluate(red)
    assert r > 150 and g < 60 and b < 60


def test_words_are_typed_and_k_chooses_the_modes(page):
    page.fill("#text", "<b>San José</b>")
    page.press("#text", "Enter")
    playwright.expect(page.locator("#name")).to_have_text("<b>San José</b>")
    rows, pins = page.locator("#modes tbody tr"), page.locator("#map .pin")
    most = int(page.get_attribute("#k", "max"))
    assert most >= 2 and rows.count() == min(most, 5) and pins.count() == 3 * rows.count()  # on three worlds
    for k in (2, 1, most):
        page.locator("#k").fill(str(k))
        assert (rows.count(), pins.count()) == (k, 3 * k) and page.locator("#k-shown").inner_text() == str(k)
    assert re.fullmatch(r"1\.\s+\S.* [A-Z]{2}\s+\d.*°.*\s+[\d.]+ %", rows.first.inner_text())


def test_the_map_zooms_and_layers_are_hidden(page):
    page.fill("#text", "Bern")
    page.press("#text", "Enter")
    tiles(page, "/answers/").first.wait_for()
    zoom = int(page.locator('#map img[src^="/earth/"]').last.get_attribute("src").split("/")[2])
    page.click(".leaflet-control-zoom-in")
    tiles(page, f"/earth/{zoom + 1}/").first.wait_for()
    page.locator(f'#map img[src^="/answers/"][src*="/{zoom + 1}/"].leaflet-tile-loaded').first.wait_for()
    page.locator("#modes tbody tr").first.click()  # looks at it more closely
    tiles(page, "/earth/5/").first.wait_for()
    for layer, mark in (("density", 'img[src^="/answers/"]'), ("modes", ".pin")):
        page.uncheck(f'[data-layer="{layer}"]')
        assert page.locator(f"#map {mark}").count() == 0
    page.check('[data-layer="within"]')
    assert page.locator("#map .label").count() >= 3
    page.check('[data-layer="modes"]')
    assert page.locator("#map .pin").count() > 0


def test_a_refused_file_is_named_and_the_others_go_on(page):
    page.expected = ["415"]  # which the browser reports
    drop(page, ("notes.txt", b"no picture"), ("good.jpg", jpeg()))
    playwright.expect(page.locator("#results .name")).to_have_text(["good.jpg"])
    sentence = "notes.txt cannot be read: not a picture in a known format."
    playwright.expect(page.locator("#errors p")).to_have_text([sentence])
    drop(page, *[(f"{i}.jpg", b"") for i in range(21)])
    sentence = "21 pictures are too many at once: choose at most 20."
    playwright.expect(page.locator("#errors p")).to_have_text([sentence])
    page.evaluate("document.body.dataset.mostBytes = 100")
    page.set_input_files("#files", {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": jpeg()})
    sentence = "large.jpg has more than 100 bytes: give a smaller one."
    playwright.expect(page.locator("#errors p")).to_have_text([sentence])
    assert names(page) == ["good.jpg"]


def test_the_place_in_a_file_is_shown_when_asked(page):
    asked = []
    page.on("request", lambda sent: asked.append(sent.url) if sent.url.endswith("/taken") else None)
    drop(page, ("eiffel.jpg", jpeg(exif=exif_bytes(gps=gps(*PARIS)))))
    playwright.expect(page.locator("#name")).to_have_text("eiffel.jpg")
    tiles(page, "/answers/").first.wait_for()
    assert page.locator("#taken").is_hidden() and asked == []
    page.check("#show-taken")
    said = "The place in the file: near Paris, FR (48.86° N, 2.29° E)."
    playwright.expect(page.locator("#taken")).to_have_text(said)
    assert len(asked) == 1
    page.uncheck("#show-taken")
    playwright.expect(page.locator("#taken")).to_be_hidden()


def test_nothing_is_wider_than_the_screen_and_what_counts_is_seen(page):
    page.fill("#text", "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch")
    page.press("#text", "Enter")
    page.locator("#answer").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.locator("#panel").evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    box = page.locator("#map").bounding_box()
    assert box["y"] >= 0 and box["width"] >= 350 and box["height"] >= 300
    footer = page.locator("footer")
    footer.scroll_into_view_if_needed()
    assert "private persons" in footer.inner_text() and footer.is_visible()
