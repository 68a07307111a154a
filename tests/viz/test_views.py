"""Projections: there and back, areas, lengths, and what happens at the antimeridian and the poles."""

import numpy as np
import pytest
import torch

from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz.views import WORLD, CloseUp, frame, outline, polylines, positions, scale_bar, unit_vectors

EDGES = [(0.0, 0.0), (0.0, 180.0), (-17.0, -179.9), (89.99, 20.0), (90.0, 0.0), (-90.0, 77.0), (51.5, -0.1)]
VIEWS = [WORLD, *(CloseUp(*place, half) for place in EDGES for half in (50.0, 1500.0))]


def somewhere(n=500):
    """Return places uniform over the sphere, (n, 2) degrees."""
    random = np.random.default_rng(0)
    return np.stack([np.degrees(np.arcsin(random.uniform(-1, 1, n))), random.uniform(-180, 180, n)], axis=-1)


def km(a, b):
    return great_circle_km(torch.from_numpy(np.asarray(a)), torch.from_numpy(np.asarray(b))).numpy()


def is_clear_of_the_antipode(view, places):
    """Whether places are over 100 km from the antipode of a close-up, which is its whole rim: digits are lost there."""
    return km(places, [(-view.lat, view.lon + 180.0)]) > 100


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_there_and_back(view):
    places = np.concatenate([somewhere(), EDGES])
    if isinstance(view, CloseUp):
        places = places[is_clear_of_the_antipode(view, places)]
    back = view.inverse(view.forward(places))
    np.testing.assert_allclose(unit_vectors(back), unit_vectors(places), atol=2e-7)
    np.testing.assert_array_equal(back, view.at(*view.forward(places).T))


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_areas_are_kept(view):
    """The area of a small triangle on the map is that on the sphere."""
    x, y = (np.random.default_rng(1).uniform(-0.7, 0.7, (2, 200)) * [[view.half_width], [view.half_height]]).copy()
    step = 1e-3 * view.half_height
    corners = view.inverse(np.stack([(x, y), (x + step, y), (x, y + step)]).transpose(0, 2, 1))
    a, b, c = unit_vectors(corners)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=-1) * 6371.0088**2
    np.testing.assert_allclose(area, step**2, rtol=4e-3)


def test_the_world_in_equal_earth_is_as_wide_as_its_authors_say():
    assert WORLD.half_width / WORLD.half_height == pytest.approx(2.05458, abs=1e-5)
    pole, equator = (WORLD.forward(np.array([lat, 180.0 - 1e-9]))[0] for lat in (90.0, 0.0))
    assert pole / equator == pytest.approx(0.59247, abs=1e-5)
    assert np.isnan(WORLD.inverse(np.array([[0.99 * WORLD.half_width, 0.9 * WORLD.half_height], [0.0, 9e3]]))).all()


@pytest.mark.parametrize(("lat", "lon"), EDGES[:-1])
@pytest.mark.parametrize("half", [5.0, 37.0, 400.0, 1500.0])
def test_a_scale_bar_is_as_long_as_it_says(lat, lon, half):
    view = CloseUp(lat, lon, half)
    length, ends = scale_bar(view)
    assert str(length).rstrip("0") in ("1", "2", "5") and 0.15 * 2 * half < length < 2 * half
    assert km(*view.inverse(ends)) == pytest.approx(length, rel=1e-4)
    elsewhere = [(0.0, 0.0), (-0.5 * length, -0.9 * half), (-0.5 * length, 0.7 * half)]
    for shift in elsewhere:
        moved = ends - ends[0] + shift
        assert km(*view.inverse(moved)) == pytest.approx(length, rel=0.01)
        assert km(*view.inverse(moved[:, ::-1])) == pytest.approx(length, rel=0.01)  # upright


@pytest.mark.parametrize(("lat", "lon"), EDGES[:4])
def test_north_is_up_and_east_is_right(lat, lon):
    view = CloseUp(lat, lon, 100.0)
    (x, y), (u, v) = view.forward(np.array([(lat + 1e-3, lon), (lat, lon + 1e-3)]))
    assert y > 0.1 and abs(x) < 1e-6 and u > 0 and abs(v) < 1e-4


def test_positions_are_the_middles_of_pixels():
    x, y = positions(CloseUp(0.0, 0.0, 100.0), 4)
    assert x.tolist() == [-75, -25, 25, 75] and y.tolist() == [75, 25, -25, -75]
    assert len(positions(WORLD, 50, fine=2)[0]) == 2 * len(positions(WORLD, 50)[0])


def test_no_line_runs_across_the_map():
    around = np.stack([np.full(361, 10.0), np.linspace(0, 360, 361)], axis=-1)
    parts = polylines(WORLD, around)
    assert len(parts) == 2 and sum(map(len, parts)) == 361  # cut at the antimeridian
    assert max(np.abs(np.diff(part, axis=0)).max() for part in parts) < 150
    [part] = polylines(CloseUp(10.0, 180.0, 1500.0), around)  # and not cut in a close-up of it
    assert np.abs(part[:, 0]).max() > 1500
    assert polylines(CloseUp(-40.0, 0.0, 100.0), around) == []


@pytest.mark.parametrize(("lat", "lon"), EDGES)
def test_the_frame_of_a_close_up_lies_on_the_world_where_its_rim_is(lat, lon):
    inner = CloseUp(lat, lon, 700.0)
    for part in frame(WORLD, inner):
        rim = np.abs(inner.forward(WORLD.inverse(part * (1 - 1e-12))))
        np.testing.assert_allclose(np.nanmax(rim, axis=-1), 700, rtol=1e-5)
        assert np.abs(np.diff(part, axis=0)).max() < WORLD.half_width / 2  # a pole is wider than that
    assert np.abs(outline(inner)).max(axis=-1) == pytest.approx(700)
