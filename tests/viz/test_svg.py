"""Maps as parts of an SVG: paths, marks, bars and pins where they belong."""

import base64
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image

from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz import svg
from locdiff.viz.views import WORLD, CloseUp


def points_of(path):
    """Return the points of the lines of a path of `M x,y l dx,dy ...`, in units."""
    lines = []
    for part in path.split("M")[1:]:
        start, steps = part.rstrip("z").split("l")
        steps = [tuple(map(int, step.split(","))) for step in [start, *steps.split()]]
        lines.append(np.cumsum(steps, axis=0) / 10)
    return lines


def test_marks_lie_where_the_places_are():
    assert svg.marks(WORLD, 800, [(0.0, 0.0)]) == [(400, 194.7)] and svg.marks(WORLD, 800, []) == []
    (x, y), (u, v) = svg.marks(WORLD, 800, [(90.0, 0.0), (-90.0, 0.0)])
    assert (x, y) == (400, 0) and (u, v) == (400, 389.4)
    view = CloseUp(0.0, 179.0, 1000.0)  # across the antimeridian: 2 degrees east is east
    (x, y), (west, _) = svg.marks(view, 100, [(0.0, -179.0), (0.0, 177.0)])
    assert y == 50 and x == pytest.approx(50 + 11.1, abs=0.06) and west == pytest.approx(50 - 11.1, abs=0.06)


def test_a_path_goes_through_its_points():
    line = np.array([(-100.0, 100.0), (0.0, 0.0), (0.0, 0.001), (100.0, -50.0)])
    view = CloseUp(0.0, 0.0, 100.0)
    [found] = points_of(svg.path(view, 200, [line, line[1:3]]))  # what is shorter than a tenth of a unit is no line
    assert found.tolist() == [[0, 0], [100, 100], [200, 150]]
    assert svg.path(view, 200, [line], closed=True).endswith("z")


def test_the_base_map_has_its_parts():
    for view in (WORLD, CloseUp(-17.0, 179.9, 500.0), CloseUp(-90.0, 0.0, 1500.0)):
        base = svg.base(view, 300)
        assert base["height"] == round(300 * view.half_height / view.half_width)
        for part in ("sea", "land", "coast"):
            drawn = np.concatenate(points_of(base[part]))
            assert drawn.min() > -5 and (drawn.max(axis=0) < [305, base["height"] + 5]).all()


def test_a_scale_bar_is_as_long_as_it_says():
    view = CloseUp(70.0, 180.0, 800.0)
    bar = svg.bar(view, 390)
    (x, y), (u, v) = bar["ends"]
    back = view.inverse((np.array([(x, 390 - y), (u, 390 - v)]) / 195 - 1) * 800)
    km = great_circle_km(*torch.from_numpy(back)).item()
    assert bar["words"] == "500 km" and km == pytest.approx(500, rel=0.01)


def test_a_shade_is_a_picture_with_holes():
    density = torch.zeros(192)
    density[100] = 1
    shown = svg.density(WORLD, 800, density)
    for style in ("light", "dark"):
        kind, data = shown[style].split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            opacity = np.asarray(picture.convert("RGBA"))[..., 3]
        assert kind == "data:image/webp" and opacity.min() == 0 and opacity.max() > 200 and (opacity > 9).mean() < 0.05
    assert len(shown["rims"]) == 2 and all(shown["rims"])


@pytest.mark.parametrize("spread", [300.0, 40.0, 0.0])
def test_heads_of_pins_do_not_overlap_and_stay_on_the_map(spread):
    random = np.random.default_rng(0)
    points = [tuple(xy) for xy in 150 + spread * (random.uniform(size=(12, 2)) - 0.5)] + [(-1.0, 5.0), (299.0, 1.0)]
    found = svg.pins(points, 300, 300)
    assert [one["number"] for one in found] == [*range(1, 13), 14]
    assert all((one["x"], one["y"]) == points[one["number"] - 1] for one in found)
    for one in found:
        assert all(svg.PIN_RADIUS < a < 300 - svg.PIN_RADIUS for a in one["head"])
    for a, b in itertools.combinations(found, 2):
        assert math.dist(a["head"], b["head"]) > 2 * svg.PIN_RADIUS
    assert len(svg.pins([(150.0, 150.0)] * 500, 300, 300)) == svg.MOST_PINS
