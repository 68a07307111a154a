"""Simulated photographs: real places, noise of a known size, nothing of the test in the training data."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from support.embeddings import embedded, scattered
from support.simulation import small_world

from locdiff.data import simulated
from locdiff.data.embeddings import train_and_test
from locdiff.data.geoclip import SIMULATION, embed_places, gallery_places
from locdiff.data.places import read_places
from locdiff.data.simulated import Simulation, simulated_pictures, simulation
from locdiff.errors import InputError
from locdiff.evaluation.retrieval import retrieve
from locdiff.training.validation import split_validation

SMALL = Simulation(train_places=60, test_places=20, draws=3)


@pytest.fixture(autouse=True)
def world(geoclip, cache, monkeypatch):
    return small_world(monkeypatch, geoclip)


@pytest.fixture
def truth(tmp_path, world):
    """A file of test places, one of which stands in GeoCLIP's gallery."""
    lat, lon = world[7].tolist()
    (tmp_path / "truth.csv").write_text(f"IMG_ID,LAT,LON\na,90,0\nb,-12.5,-180\nc,{lat},{lon}\nd,0,179.99\n")
    return tmp_path / "truth.csv"


def build(folder, settings=SMALL, **changes):
    return simulation(dataclasses.replace(settings, **changes), folder, progress=False)


def rows(lat_lon):
    return set(map(tuple, np.round(lat_lon, 6).tolist()))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_simulation_follows_from_its_settings(tmp_path, truth):
    first = contents(build(tmp_path / "a"))
    assert {str(path) for path in first} == {"gallery.csv", "settings.json"} | {
        f"{part}/{name}" for part in ("train", "test") for name in ("embeddings.npy", "locations.csv", "meta.json")
    }
    assert contents(build(tmp_path / "b")) == first
    other, noisier = contents(build(tmp_path / "c", data_seed=1)), contents(build(tmp_path / "d", noise=9.0))
    changed = {str(path) for path in first if other[path] != first[path]}
    assert changed == {str(path) for path in first} - {"train/meta.json", "test/meta.json"}
    changed = {str(path) for path in first if noisier[path] != first[path]}
    assert changed == {"train/embeddings.npy", "test/embeddings.npy", "settings.json"}
    given, otherwise = (contents(build(tmp_path / f"given-{i}", truth=str(truth), data_seed=i)) for i in (0, 1))
    changed = {str(path.name) for path in given if path.parent.name == "test" and given[path] != otherwise[path]}
    assert changed == {"embeddings.npy"}
    assert json.loads((tmp_path / "c" / "settings.json").read_text()) == dataclasses.asdict(SMALL) | {"data_seed": 1}


def test_no_test_place_is_for_training_nor_held_out_places_in_the_gallery(tmp_path, world, truth):
    for name, settings, count in (("held out", SMALL, 20), ("given", dataclasses.replace(SMALL, truth=str(truth)), 4)):
        train_part, test = train_and_test(build(tmp_path / name, settings), 0)
        gallery = read_places(tmp_path / name / "gallery.csv").lat_lon
        assert (len(train_part), len(test)) == (180, count) and train_part.encoder == test.encoder == SIMULATION
        assert not rows(test.lat_lon) & rows(train_part.lat_lon) and rows(train_part.lat_lon) <= rows(gallery)
        assert rows(gallery) == rows(world.numpy()) - (rows(test.lat_lon) if name == "held out" else set())
        places = train_part.lat_lon.reshape(60, 3, 2)
        assert (places == places[:, :1]).all()  # the draws of a place
        known, kept = split_validation(train_part, 0.1, 0)
        assert len(known) + len(kept) == 180 and not rows(known.lat_lon) & rows(kept.lat_lon)
        assert len({row.tobytes() for row in train_part.embeddings}) == 180
    np.testing.assert_array_equal(test.lat_lon, read_places(truth).lat_lon)
    assert len(gallery) == 120


def test_pictures_have_a_mean_square_of_one_and_the_noise_they_are_given():
    """A unit vector and noise of norm sigma are at right angles, nearly: the cosine is (1 + sigma^2)^-1/2."""
    places = embedded(scattered(300), d=512).subset(np.arange(200)[::-1])
    places.embeddings /= np.linalg.norm(places.embeddings, axis=1, keepdims=True)
    own = torch.from_numpy(places.embeddings[places.rows])
    for noise in (0.0, 0.5, 5.5):
        found = simulated_pictures(places, 4, noise, torch.Generator().manual_seed(0))
        assert found.shape == (800, 512) and found.dtype == torch.float32
        torch.testing.assert_close(found.square().mean(dim=-1), torch.ones(800))
        cosine = torch.nn.functional.cosine_similarity(found.view(200, 4, 512), own[:, None], dim=-1)
        assert cosine.mean().item() == pytest.approx((1 + noise**2) ** -0.5, abs=0.005)
        others = torch.nn.functional.cosine_similarity(found[0::4], found[1::4], dim=-1)
        assert others.mean().item() == pytest.approx(1 / (1 + noise**2), abs=0.01)  # their noises are independent


def test_without_noise_retrieval_is_exact(tmp_path, geoclip, truth):
    test = train_and_test(build(tmp_path / "data", truth=str(truth), noise=0.0), 0)[1]
    embeddings, lat_lon = test.batch(range(4))
    places = embed_places(torch.cat([gallery_places("grid:12"), lat_lon]), geoclip, progress=False)
    found = retrieve(geoclip.queries(embeddings, test.encoder), places, progress=False)
    torch.testing.assert_close(found, lat_lon, rtol=0, atol=0)


def test_a_simulation_is_kept_in_the_cache(cache, truth, monkeypatch):
    made = build(None)
    assert made.parent == cache and made.name.startswith("simulation-")
    given = build(None, truth=str(truth))
    truth.write_text(truth.read_text().replace("12.5", "12.6"))
    others = {build(None, draws=2), given, build(None, truth=str(truth))}
    assert len(others | {made}) == 4
    monkeypatch.setattr(simulated, "gallery_places", None)  # nothing is built twice
    assert build(None) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_places": 0}, "train_places, test_places and draws must be at least 1"),
        ({"test_places": 0}, "must be at least 1"),
        ({"draws": 0}, "must be at least 1"),
        ({"noise": -0.1}, "noise finite and at least 0"),
        ({"noise": math.nan}, "noise finite"),
        ({"noise": math.inf}, "noise finite"),
        ({"test_places": 1, "train_places": 120}, "other than those to test on, asked for were 120 to train on"),
        ({"test_places": 500}, "gallery has 0 places other than"),
        ({"truth": "nowhere.csv"}, "cannot read nowhere.csv"),
        ({"truth": "empty.csv"}, "empty.csv holds no places"),
    ],
)
def test_impossible_simulations_are_refused(changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").write_text("id,lat,lon\n")
    with pytest.raises(InputError, match=message):
        build(tmp_path / "out", **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.csv"]


def test_all_the_other_places_can_be_trained_on(tmp_path, world, truth):
    assert len(train_and_test(build(tmp_path / "all", truth=str(truth), train_places=118), 0)[0]) == 3 * 118


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_simulation_that_fails_leaves_nothing(tmp_path, monkeypatch, interruption):
    def stopped(path, lat_lon):
        raise interruption

    monkeypatch.setattr(simulated, "write_locations", stopped)
    with pytest.raises(KeyboardInterrupt if interruption is KeyboardInterrupt else InputError):
        build(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
