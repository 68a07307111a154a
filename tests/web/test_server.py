"""The server of the page: its answers are the pipeline's, it refuses the rest in a sentence, and it keeps no trace."""

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.pages import BothEncoder, pipeline
from support.pictures import exif_bytes, gps, jpeg

from locdiff.viz import densities, tiles
from locdiff.viz.style import DARK
from locdiff.web import answers, server
from locdiff.web.answers import Answers
from locdiff.web.server import HEADERS, make_app

HERE = "http://127.0.0.1:8000"
PLACE = (48.8584, 2.2945)


def client_of(kind="pictures", host="127.0.0.1", base_url=HERE, **options):
    return TestClient(make_app(Answers(pipeline(kind), **options), "my <run>", host), base_url=base_url)


@pytest.fixture
def seer():
    return client_of("pictures")


@pytest.fixture
def reader():
    return client_of("words")


@pytest.fixture
def both():
    return client_of("both")


def post(client, data=None, name="view.jpg"):
    return client.post("/pictures", params={"name": name}, content=jpeg() if data is None else data)


def refused(response, status, sentence):
    """The response is one sentence, with this status."""
    assert response.status_code == status and list(response.json()) == ["error"]
    assert re.fullmatch(sentence, response.json()["error"]), response.json()["error"]
    assert response.json()["error"].endswith(".")


# ---- answers


@pytest.mark.parametrize("given", ["picture", "words"])
def test_the_answer_is_the_prediction(given, both, tmp_path):
    if given == "picture":
        answer = post(both, name="Straße 1.jpg").json()
        embeddings = BothEncoder.encode(BothEncoder.prepare(Image.open(io.BytesIO(jpeg())))[None])
    else:
        answer = both.post("/words", content=" Straße 1.jpg ".encode()).json()
        embeddings = BothEncoder.encode_text(["Straße 1.jpg"])
    (expected,) = pipeline("both").predict(embeddings, top_k=answers.MOST_MODES)
    assert answer["name"] == "Straße 1.jpg"
    many = sum(p >= answers.LEAST_PROBABILITY for p in expected.probabilities)
    modes = [[mode["lat"], mode["lon"]] for mode in answer["modes"]]
    np.testing.assert_allclose(modes, expected.places[:many], atol=1e-3)
    np.testing.assert_allclose([m["probability"] for m in answer["modes"]], expected.probabilities[:many], rtol=1e-4)
    assert all(mode["where"].split()[-1].isupper() for mode in answer["modes"])  # "near Lhasa, CN"
    assert {one["km"]: (one["lat"], one["lon"]) for one in answer["within"]} == {
        km: pytest.approx(one[:2], abs=1e-3) for km, one in expected.within.items()
    }
    np.testing.assert_allclose(answer["samples"], expected.samples, atol=1e-3)
    assert (answer["radius_50_km"], answer["radius_90_km"]) == (expected.radius_50_km, expected.radius_90_km)
    assert [region["share"] for region in answer["regions"]] == [50, 90]
    assert all(region["polygons"] and region["rims"] for region in answer["regions"])


def test_the_tiles_are_those_of_the_answers_density(reader):
    answer = reader.post("/words", content="San José").json()
    made = pipeline("words")
    posterior = made.model.posterior(made.embed_text(["San José"]))
    ratio_at, largest = densities.between_pixels(posterior, 0), densities.largest_ratio(posterior, 0)
    response = reader.get(f"/answers/{answer['key']}/1/0/1")
    assert response.headers["content-type"] == "image/png" and response.headers["cache-control"] == "no-store"
    found = np.asarray(Image.open(io.BytesIO(response.content)))
    expected = DARK.shade(densities.strength(ratio_at(tiles.locations(1, 0, 1)), largest))
    np.testing.assert_allclose(found, 255 * expected, atol=2)
    assert found[..., 3].min() < found[..., 3].max()
    earth = reader.get("/earth/3/2/1")
    assert earth.headers["content-type"] == "image/webp" and Image.open(io.BytesIO(earth.content)).size == (256, 256)


def test_the_first_mode_is_shown_however_improbable_and_others_only_if_they_matter(monkeypatch, reader):
    monkeypatch.setattr(answers, "LEAST_PROBABILITY", 2.0)
    assert len(reader.post("/words", content="San José").json()["modes"]) == 1
    monkeypatch.setattr(answers, "LEAST_PROBABILITY", 1e-12)
    assert len(reader.post("/words", content="San José").json()["modes"]) > 1


def test_only_the_last_answers_are_kept(monkeypatch, reader):
    monkeypatch.setattr(answers, "KEPT", 2)
    keys = [reader.post("/words", content=words).json()["key"] for words in ("one", "two", "three")]
    assert len(set(keys)) == 3 and all(len(key) >= 20 for key in keys)
    assert [reader.get(f"/answers/{key}/0/0/0").status_code for key in keys] == [404, 200, 200]


def test_the_place_in_a_file_is_told_only_when_asked(seer):
    answer = post(seer, jpeg(exif=exif_bytes(gps=gps(*PLACE)))).json()
    told = seer.get(f"/answers/{answer['key']}/taken").json()
    assert (told["lat"], told["lon"]) == pytest.approx(PLACE, abs=1e-4) and told["where"] == "near Paris, FR"
    assert "taken" not in answer and "48.858" not in str(answer)
    nowhere = post(seer).json()
    assert seer.get(f"/answers/{nowhere['key']}/taken").json() == {"reason": "no GPS in its EXIF data"}


# ---- refusals

PNG = io.BytesIO()
Image.new("RGB", (40, 30)).save(PNG, "png")
EPS = io.BytesIO()
Image.new("RGB", (40, 30)).save(EPS, "eps")


@pytest.mark.parametrize(
    "data, options, status, sentence",
    [
        (b"GIF89a, or not", {}, 415, r"a b\.jpg cannot be read: .*"),
        (b"hello", {}, 415, r"a b\.jpg cannot be read: not a picture in a known format\."),
        (EPS.getvalue(), {}, 415, r"a b\.jpg cannot be read: not a picture in a known format\."),
        (jpeg()[:200], {}, 415, r"a b\.jpg cannot be read: .*"),
        (b"", {}, 422, r"a b\.jpg is empty: it has 0 bytes\."),
        (PNG.getvalue(), {"max_pixels": 1199}, 413, r"a b\.jpg cannot be read: 40 x 30 pixels are more than 1,199; .*"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data, options, status, sentence):
    client = client_of("pictures", **options)
    refused(post(client, data, name="a\n b.jpg"), status, sentence)
    assert post(client_of("pictures"), PNG.getvalue()).status_code == 200


def test_a_picture_of_one_pixel_in_width_is_answered_or_refused_by_name(seer):
    thin = io.BytesIO()
    Image.new("RGB", (1, 3000)).save(thin, "png")
    response = post(seer, thin.getvalue(), name="thin.png")
    assert response.status_code == 200 or response.json()["error"].startswith("thin.png cannot be prepared")


def test_a_large_body_is_not_read_to_its_end(monkeypatch, seer):
    monkeypatch.setattr(answers, "MOST_BYTES", 1000)
    sent = []

    def chunks():
        for i in range(100):
            sent.append(i)
            yield b"x" * 100

    sentence = r"view\.jpg has more than 1,000 bytes: give a smaller one\."
    refused(post(seer, b"x" * 1001), 413, sentence)
    refused(post(seer, chunks()), 413, sentence)  # without content-length
    refused(post(seer, b"x" * 1000), 415, r"view\.jpg cannot be read: .*")


def test_a_body_that_says_it_is_too_large_is_not_read():
    site = server.Site(Answers(pipeline("pictures")), "run")

    def stream():
        raise AssertionError("it was read")

    headers = {"content-length": str(answers.MOST_BYTES + 1)}
    request = SimpleNamespace(headers=headers, query_params={"name": "large.tif"}, stream=stream)
    with pytest.raises(answers.Refusal, match=r"large\.tif has more than 50,000,000 bytes"):
        site.picture(request).send(None)
    assert site.waiting == 0


@pytest.mark.parametrize(
    "data, status, sentence",
    [
        (b"", 422, r"The text is empty: .*"),
        (b" \t\n", 422, r"The text is empty: .*"),
        (b"x" * 1001, 422, r"The text has 1,001 letters: type at most 1,000\."),
        (b"x" * 5001, 413, r"The text has more than 5,000 bytes: .*"),
        (b"\xff\xfe", 400, r"The text is not UTF-8\."),
    ],
)
def test_words_that_are_none_are_refused(reader, data, status, sentence):
    refused(reader.post("/words", content=data), status, sentence)


def test_a_model_of_words_refuses_pictures_and_one_of_pictures_words(seer, reader):
    refused(post(reader), 422, r"view\.jpg cannot be located: this model takes words, no pictures\.")
    refused(seer.post("/words", content="Bern"), 422, r"Words cannot be located: this model takes pictures alone\.")


def test_too_many_at_once_are_refused(monkeypatch, seer):
    monkeypatch.setattr(server, "MOST_WAITING", 0)
    refused(post(seer), 429, r"view\.jpg was not taken: 0 others are being located; try again in a minute\.")


def test_those_who_waited_make_room(monkeypatch, seer):
    monkeypatch.setattr(server, "MOST_WAITING", 1)
    assert [post(seer, data).status_code for data in (b"", None, b"no", None)] == [422, 200, 415, 200]


@pytest.mark.parametrize("path", ["/answers/no/0/0/0", "/answers/no/taken", "/earth/10/0/0", "/earth/1/2/0"])
def test_what_there_is_not_is_said(seer, path):
    refused(seer.get(path), 404, r"This answer is no longer kept: the last 50 are\.|there is no tile .*\.")


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/leaflet/../__init__.py", "/x"])
def test_no_other_file_is_sent(seer, path):
    assert seer.get(path).status_code == 404


# ---- privacy and other sites


@pytest.mark.parametrize("kind, has_files, has_words", [("pictures", 1, 0), ("words", 0, 1), ("both", 1, 1)])
def test_the_page_has_the_fields_that_the_model_takes(kind, has_files, has_words):
    page = client_of(kind).get("/").text
    assert ('type="file"' in page, 'id="text"' in page) == (bool(has_files), bool(has_words))
    assert ("Experimental" in page) == (kind == "both") and ('id="show-taken"' in page) == bool(has_files)
    assert "my &lt;run&gt;" in page and "Do not use it to locate private persons or their homes" in page


def test_the_page_loads_its_own_files_alone(seer):
    page = seer.get("/").text
    found = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(found) == 6 and all(address.startswith("/") and not address.startswith("//") for address in found)
    for address in found:
        response = seer.get(address)
        assert response.status_code == 200 and not re.search(r"url\(.?https?:|@import", response.text)
    assert "<style" not in page and " style=" not in page and not re.search(r"<script(?! src)|\son\w+=", page)


def test_every_response_has_the_headers_and_none_sets_a_cookie(seer):
    key = post(seer).json()["key"]
    responses = [seer.get(path) for path in ("/", "/demo.css", "/static/demo.js", "/earth/0/0/0", "/none")]
    responses += [seer.get(f"/answers/{key}/0/0/0"), post(seer, b"no"), seer.get("/", headers={"host": "evil.com"})]
    for response in responses:
        assert HEADERS.items() <= dict(response.headers).items() and "set-cookie" not in response.headers
    sources = [part.split()[1:] for part in HEADERS["content-security-policy"].split(";")]
    assert all(source in (["'self'"], ["'none'"]) for source in sources)


@pytest.mark.parametrize(
    "host", ["evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "", "[::1", "10.0.0.1:8000"]
)
def test_a_foreign_name_is_refused_where_only_this_machine_is_served(seer, host):
    refused(seer.get("/", headers={"host": host}), 403, r"This server answers requests to localhost, .*")
    assert client_of("pictures", host="0.0.0.0").get("/", headers={"host": "my.home:8000"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "localhost", "127.0.0.2"])
def test_this_machine_is_served_by_any_of_its_names(host):
    assert client_of("pictures", host="127.0.0.2").get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.com", "null", "http://127.0.0.1:9000", "http://localhost:8000"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_pages_of_other_origins_are_refused(host, origin):
    client = client_of("words", host=host)
    refused(client.post("/words", content="Bern", headers={"origin": origin}), 403, r"This server answers .*")
    assert client.post("/words", content="Bern", headers={"origin": HERE}).status_code == 200


WRITTEN = []  # files that Python opens to write, in the test that listens


def listen(event, arguments):
    if WRITTEN and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        WRITTEN.append(arguments[0])


sys.addaudithook(listen)


def test_nothing_is_written_to_disk(seer):
    large = io.BytesIO()  # larger than what forms are kept in memory
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1000, 1000, 3)).astype(np.uint8)).save(large, "png")
    assert len(large.getvalue()) > 2_000_000
    post(seer)  # imports what is needed
    WRITTEN.append("start")
    key = post(seer, large.getvalue()).json()["key"]
    assert seer.get(f"/answers/{key}/2/1/1").status_code == 200 and seer.get("/earth/2/1/1").status_code == 200
    assert WRITTEN == ["start"]
    with open("/dev/null", "w"):
        assert WRITTEN == ["start", "/dev/null"]  # it listens
    WRITTEN.clear()
