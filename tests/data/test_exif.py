"""Places in EXIF data, and why there is none."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from support.pictures import exif_bytes, gps, jpeg

from locdiff.data.exif import gps_place

BERN = gps(46.9480, 7.4474)


def place_in(part):
    with Image.open(io.BytesIO(jpeg(exif=exif_bytes(gps=part)))) as image:
        return gps_place(image.getexif())


@pytest.mark.parametrize("place", [(46.948, 7.4474), (-33.8568, 151.2153), (-54.8019, -68.303), (90, 180), (0, -9.5)])
def test_degrees_minutes_and_seconds_are_signed_by_the_hemisphere(place):
    lat, lon, reason = place_in(gps(*place))
    np.testing.assert_allclose((lat, lon), place, rtol=0, atol=1e-7)
    assert reason == ""


def test_known_degrees():
    part = {1: "S", 2: [(51, 1), (30, 1), (3600, 100)], 3: "W", 4: [(125, 10)]}
    assert place_in(part)[:2] == pytest.approx((-51.51, -12.5), abs=1e-12)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (None, "no GPS in its EXIF data"),
        ({}, "no GPS in its EXIF data"),
        (BERN | {2: [(0, 0), (0, 0), (0, 0)]}, r"latitude \(0/0, 0/0, 0/0\) is no number"),
        (BERN | {4: [(7, 1), (26, 1), (1, 0)]}, r"longitude .* is no number"),
        ({key: BERN[key] for key in (2, 3, 4)}, r"latitude has no hemisphere \(N or S\)"),
        (BERN | {3: "N"}, r"longitude has no hemisphere \(E or W\)"),
        ({key: BERN[key] for key in (1, 2, 3)}, "longitude .* is no number"),
        (gps(0, 0), r"\(0, 0\)"),
        (BERN | {2: [(91, 1), (0, 1), (0, 1)]}, "latitude .* is out of range"),
        (BERN | {4: [(180, 1), (0, 1), (1, 1)]}, "longitude .* is out of range"),
        (BERN | {2: [(46, 1), (77, 1), (0, 1)]}, "latitude .* is out of range"),
    ],
)
def test_what_is_no_place_says_why(part, reason):
    lat, lon, why = place_in(part)
    assert np.isnan([lat, lon]).all()
    assert re.search(reason, why), why


def test_damaged_data_are_no_place():
    class Damaged:
        def get_ifd(self, tag):
            raise TypeError("what Pillow raises")

    assert "damaged (TypeError: what Pillow raises)" in gps_place(Damaged())[2]
