"""Regions contain what lies in them: boxes and rings across the antimeridian and around poles, holes, land."""

import json
import math

import numpy as np
import pytest
import torch

from locdiff.data.geojson import read_region
from locdiff.data.regions import Region, box, land
from locdiff.errors import InputError
from locdiff.sphere.healpix import healpix_anchors

ANCHORS = healpix_anchors(64) + 1e-3  # on no edge
LAT, LON = ANCHORS.T
SQUARE = [[0, 0], [30, 0], [30, 20], [0, 20], [0, 0]]
HOLE = [[10, 5], [20, 5], [20, 15], [10, 15], [10, 5]]


def written(tmp_path, record):
    path = tmp_path / "region.geojson"
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry):
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def in_box(south, west, north, east):
    """Which anchors lie in a box whose width may be anything up to 360 degrees."""
    return (LAT > south) & (LAT < north) & ((LON - west) % 360 < east - west)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("10,20,30,40", (10, 20, 30, 40)),
        ("-30,170,-10,-170", (-30, 170, -10, 190)),
        ("-30,170,-10,190", (-30, 170, -10, 190)),
        ("-30,-190,-10,-170", (-30, -190, -10, -170)),
        ("60,-180,90,180", (60, -180, 90.1, 180)),
        ("-90,-180,-60,180", (-90.1, -180, -60, 180)),
        ("-90,-180,90,180", (-91, -180, 91, 180)),
        ("-90,0,90,360", (-91, 0, 91, 360)),
        ("-5,10,5,-10", (-5, 10, 5, 350)),
        ("80,100,90,-100", (80, 100, 91, 260)),
    ],
)
def test_boxes_anywhere_contain_what_lies_in_them(text, bounds):
    region = box(text)
    assert torch.equal(region.contains(ANCHORS), in_box(*bounds)) and in_box(*bounds).any()
    assert region.contains(ANCHORS.view(12, 64, 64, 2)).shape == (12, 64, 64)


def test_poles_lie_in_boxes_that_reach_them():
    poles = torch.tensor([[90.0, 0.0], [90.0, 123.0], [-90.0, 0.0]])
    assert box("60,-180,90,180").contains(poles).tolist() == [True, True, False]
    assert box("-90,-180,0,180").contains(poles).tolist() == [False, False, True]


def test_all_kinds_of_geojson_contain_the_same(tmp_path):
    wanted = in_box(0, 0, 20, 30) & ~in_box(5, 10, 15, 20)
    whole = polygon(SQUARE, HOLE)
    west, east = (polygon(*parts) for parts in (
        [[[0, 0], [15, 0], [15, 20], [0, 20], [0, 0]], [[10, 5], [15, 5], [15, 15], [10, 15], [10, 5]]],
        [[[15, 0], [30, 0], [30, 20], [15, 20], [15, 0]], [[15, 5], [20, 5], [20, 15], [15, 15], [15, 5]]],
    ))  # fmt: skip
    overlapping = polygon([[5, 0], [8, 0], [8, 4], [5, 4], [5, 0]])
    for record in (
        whole,
        polygon(SQUARE[::-1], HOLE),
        polygon(SQUARE, HOLE[::-1]),
        {"type": "MultiPolygon", "coordinates": [west["coordinates"], east["coordinates"]]},
        feature(whole),
        {"type": "FeatureCollection", "features": [feature(west), feature(None), feature(east)]},
        {"type": "FeatureCollection", "features": [feature(whole), feature(overlapping)]},
        {"type": "GeometryCollection", "geometries": [west, east]},
    ):
        assert torch.equal(read_region(written(tmp_path, record)).contains(ANCHORS), wanted), record


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "ring",
    [
        [[170, -30], [-170, -30], [-170, -10], [170, -10], [170, -30]],
        [[170, -30], [190, -30], [190, -10], [170, -10], [170, -30]],
        [[-190, -30], [-170, -30], [-170, -10], [-190, -10], [-190, -30]],
        [[-180, -30], [-170, -30], [-170, -10], [170, -10], [170, -30], [180, -30], [-180, -30]],
        [
            [180, -30],
            [-180, -30],
            [-170, -30],
            [-170, -10],
            [-180, -10],
            [180, -10],
            [170, -10],
            [170, -30],
            [180, -30],
        ],
    ],
    ids=["jump", "beyond 180", "beyond -180", "one point on it", "points on it"],
)
def test_rings_across_the_antimeridian(ring, order, tmp_path):
    found = read_region(written(tmp_path, polygon(ring[::order]))).contains(ANCHORS)
    assert torch.equal(found, in_box(-30, 170, -10, 190))


@pytest.mark.parametrize("order", [1, -1])
def test_rings_around_a_pole_and_around_the_world(order, tmp_path):
    around = [[lon, 60] for lon in (0, 90, 179, -91, 0)][::order]
    assert torch.equal(read_region(written(tmp_path, polygon(around))).contains(ANCHORS), LAT > 60)
    south = [[-180, -60], [0, -60], [180, -60], [180, -90], [-180, -90], [-180, -60]][::order]
    assert torch.equal(read_region(written(tmp_path, polygon(south))).contains(ANCHORS), LAT < -60)
    world = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]][::order]
    assert read_region(written(tmp_path, polygon(world))).contains(ANCHORS).all()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("first", [0, 2, 5])
@pytest.mark.parametrize(
    ("south", "north", "between"),
    [(-60, 60, (-90, 0, 90)), (-60, 60, ()), (-90, 60, (0,)), (-90, 60, (-90, 0, 90)), (-60, 90, (0,)), (-90, 90, ())],
)
def test_bands_around_the_earth(south, north, between, first, order, tmp_path):
    """Rings along the sides of the map, and of one that is notched there."""
    corners = [[-180, south], *([lon, south] for lon in between), [180, south], [180, north], [-180, north]]
    corners = corners[first:] + corners[:first]
    found = read_region(written(tmp_path, polygon([*corners, corners[0]][::order]))).contains(ANCHORS)
    assert torch.equal(found, in_box(south - (south == -90), -180, north + (north == 90), 180))


@pytest.mark.parametrize("order", [1, -1])
def test_bands_with_a_notch_and_caps_with_a_point_twice(order, tmp_path):
    notched = [[-180, -60], [0, -60], [180, -60], [180, 60], [-180, 60], [-90, 0], [-180, -60]]
    found = read_region(written(tmp_path, polygon(notched[::order])))
    at = torch.tensor([[0.0, 0.0], [0.0, -100.0], [50.0, -170.0], [-80.0, 0.0], [80.0, 0.0], [0.0, 170.0]])
    assert found.contains(at).tolist() == [True, False, False, False, False, True]
    waves = [[-180, 60], [-90, 70], [0, 50], [90, 65], [180, 60], [-180, 60]]
    found = read_region(written(tmp_path, polygon(waves[::order])))
    at = torch.tensor([[90.0, 0.0], [65.0, -90.0], [55.0, 0.0], [45.0, 0.0], [-60.0, 0.0]])
    assert found.contains(at).tolist() == [True, False, True, False, False]
    steps = [[170, -30], [180, -30], [180, -20], [-180, -20], [-170, -20], [-170, -10], [170, -10], [170, -30]]
    found = read_region(written(tmp_path, polygon(steps[::order]))).contains(ANCHORS)
    assert torch.equal(found, in_box(-30, 170, -10, 180) | in_box(-20, 180, -10, 190))


def test_slanted_rings_agree_with_another_rule():
    """The parity of crossings, edge by edge, by the twin for regions of pixels."""
    from locdiff.data.region_polygons import contains

    angle = np.linspace(0, 2 * np.pi, 40)[:-1]
    ring = np.stack([30 * np.cos(angle) * (1 + 0.5 * np.sin(5 * angle)), 40 * np.sin(angle)], axis=1)
    closed = np.concatenate([ring, ring[:1]])
    points = torch.from_numpy(np.random.default_rng(0).uniform(-60, 60, (2000, 2)))
    wanted = [contains(ring, point[::-1]) for point in points.numpy()]
    assert Region("star", [closed], [1]).contains(points).tolist() == wanted and 100 < sum(wanted) < 1900


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "is no JSON .*; give a GeoJSON file of polygons"),
        ([], r"\[\] is no GeoJSON object; give"),
        ({"type": "Polygone"}, "Polygone.* is no GeoJSON object; give"),
        ({"type": "Point", "coordinates": [0, 0]}, "holds a Point, which has no inside; give polygons only"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygons; give"),
        ({"type": "FeatureCollection"}, "has no list of features; give"),
        (feature(None), "holds no polygons; give"),
        (polygon(), "holds no polygons; give"),
        (polygon(SQUARE[:-1]), "is not closed; end it with its first position"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "is not closed; .*after 3 others"),
        (polygon([[0, 0], [1, 1], [2, 2], [0, 0]]), "encloses no area; give"),
        (polygon([[0, 0], [1, "x"], [2, 2], [0, 0]]), "is no ring; give a list of positions"),
        (polygon([[0, 0], [1], [2, 2], [0, 0]]), "is no ring; give"),
        (polygon([[0, 0], [10**399, 5], [2, 2], [0, 0]]), "is no ring; give .*, two numbers"),
        (polygon([[0, 0], [True, 5], [2, 2], [0, 0]]), "true.* is no ring; give"),
        (polygon([[0, 0], ["10", 5], [2, 2], [0, 0]]), "10.* is no ring; give"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1e400, 5], [2, 2], [0, 0]]]}', r"\[inf, 5\] is no \[lon, lat"),
        (polygon(7), "7 is no ring; give"),
        ({"type": "Polygon", "coordinates": 7}, "has no list of coordinates; give one"),
        ({"type": "MultiPolygon", "coordinates": [7]}, "7 are no coordinates of a polygon; give"),
        (polygon([[0, 0], [1, 95], [2, 2], [0, 0]]), r"\[1, 95\] is no \[lon, lat\] in degrees; .* longitude first"),
        (polygon([[0, 0], [400, 5], [2, 2], [0, 0]]), r"\[400, 5\] is no \[lon, lat\]"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [NaN, 5], [2, 2], [0, 0]]]}', r"\[nan, 5\] is no \[lon, lat\]"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(record, message, tmp_path):
    path = written(tmp_path, record)
    with pytest.raises(InputError, match=message) as error:
        read_region(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10,20,5,30", "the first latitude, 10, is north of the second; give the south-west corner first"),
        ("10,20,95,30", r"the latitude 95 is out of range; give lat,lon,lat,lon in degrees, latitudes in \[-90, 90\]"),
        ("10,20,nan,30", "the latitude nan is out of range"),
        ("10,350,20,370", r"the longitude 370 is out of range; .* longitudes in \[-360, 360\]"),
        ("1e,2,3,4", "is not four numbers; give lat,lon,lat,lon in degrees"),
        ("1..2,3,4,5", "is not four numbers; give"),
        ("1,2,3", "is not four numbers; give"),
        ("10,-200,15,300", "spans 500 degrees of longitude; give at most 360"),
        ("10,20,10,30", "encloses no area; give"),
        ("10,20,20,20", "encloses no area; give"),
    ],
)
def test_what_is_no_box_is_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        box(text)
    assert str(error.value).startswith(text)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.geojson: No such file or directory; give a GeoJSON file or lat,lon"):
        read_region(tmp_path / "absent.geojson")


def test_land_is_land_and_small_islands_are_too():
    region = land()
    for name, lat, lon, wanted in (
        ("Paris", 48.85, 2.35, True), ("Bern", 46.95, 7.45, True), ("South Pole", -90, 0, True),
        ("Antarctica, at the antimeridian", -85, 180, True), ("Chukotka", 66.5, 179.9, True),
        ("Taveuni, at the antimeridian", -16.8, -179.97, True), ("St Helena, 120 km^2", -15.95, -5.70, True),
        ("Pitcairn, 5 km^2", -25.066, -130.1, True), ("Nauru, 21 km^2", -0.52, 166.93, True),
        ("Lake Victoria", -1.0, 33.0, False), ("Lake Superior", 47.7, -87.5, False),
        ("Isle Royale, in Lake Superior", 48.0, -88.9, True), ("Pacific", 0, -140, False), ("North Pole", 90, 0, False),
        ("Caspian Sea", 42.0, 50.5, False), ("Strait of Gibraltar", 35.95, -5.6, False),
    ):  # fmt: skip
        assert region.contains(torch.tensor([[float(lat), float(lon)]])).item() == wanted, name
    assert region.contains(ANCHORS).double().mean().item() == pytest.approx(0.288, abs=0.003)  # of the Earth


def test_outlines_are_dense_and_inner_edges_are_left_out(tmp_path):
    halves = [[[[0, 0], [15, 0], [15, 20], [0, 20], [0, 0]]], [[[15, 0], [30, 0], [30, 20], [15, 20], [15, 0]]]]
    both = read_region(written(tmp_path, {"type": "MultiPolygon", "coordinates": halves}))
    z = both.outline[:, 2]
    lon = torch.rad2deg(torch.atan2(both.outline[:, 1], both.outline[:, 0]))
    middle = (lon - 15).abs() < 1e-9
    assert middle.sum() <= 4 and z.max() <= math.sin(math.radians(20)) + 1e-9  # the corners
    around = math.radians(20) * 2 + math.radians(30) * (1 + math.cos(math.radians(20)))
    assert len(both.outline) == pytest.approx(around / both.step, rel=0.1)
    assert len(box("-90,-180,90,180").outline) == 0
