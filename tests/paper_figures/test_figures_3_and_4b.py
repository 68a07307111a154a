"""Figures 3 and 4(b): against the encoding itself, and what they say of it."""

import figure_3
import figure_4b
import numpy as np
import pytest
from support.figures import holds, is_png

from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import encode, synthesis


@pytest.fixture(scope="module")
def coefficients():
    """Figure 4(b) at its full degree on few places; the time goes into the coefficients of Eq. 20."""
    return figure_4b.compute(places=200)


@pytest.mark.parametrize("l_max", [15, 23, 31])
def test_figure_3_widths_are_those_of_the_encoding(l_max):
    """Against F summed from the harmonics themselves, every 500 m along the meridian of a place."""
    lat = 48.86 + np.degrees(np.arange(0, 1000, 0.5) / EARTH_RADIUS_KM)
    line = np.stack([np.minimum(lat, 90), np.full_like(lat, 2.35)], axis=-1)
    F = synthesis(encode(line[0], l_max), encode(line, l_max))
    distance = great_circle_km(line[0], line)
    density, exponent = figure_3.half_maximum_km(l_max)
    assert abs(2 * distance[np.argmax(np.exp(F - F[0]) < 0.5)] - density) <= 1.0
    assert abs(2 * distance[np.argmax(F < F[0] / 2)] - exponent) <= 1.0
    assert figure_3.mass_within(density, l_max) == pytest.approx(0.5, abs=0.02)  # of a Gaussian peak exactly a half
    assert figure_3.mass_within(2 * np.pi * EARTH_RADIUS_KM * 0.999999, l_max) == pytest.approx(1)


def test_figure_3_map_has_its_scale_and_its_land():
    result = figure_3.compute(degrees=(15,), width_km=800, pixels=41)
    side = np.linspace(-400, 400, 41)
    inside = np.hypot(*np.meshgrid(side, side)) < result["density_km"][0] / 2
    np.testing.assert_array_equal(result["density"][0] > 0.5, inside)
    corners = {"SW": result["land"][0, 0], "SE": result["land"][0, -1], "NW": result["land"][-1, 0]}
    assert corners == {"SW": False, "SE": True, "NW": True}  # the Bay of Biscay, the Alps, Wales
    assert result["land"][20, 20]


def test_figure_4b_recurrence_keeps_its_bound_and_the_explicit_sum_does_not(coefficients):
    bound = np.sqrt((2 * np.arange(64) + 1) / (4 * np.pi))  # of the sum over m, the addition theorem
    largest = {name: figure_4b.largest_by_degree(coefficients[name]) for name in figure_4b.CURVES}
    assert (largest["recurrence"] <= 1.0001 * bound).all()
    assert largest["explicit64"][63] > 1e5 * bound[63] and largest["explicit32"][63] > 1e12 * bound[63]
    assert 38 <= figure_4b.first_wrong_degree(coefficients["explicit64_error"]) <= 47
    assert 15 <= figure_4b.first_wrong_degree(coefficients["explicit32_error"]) <= 23
    np.testing.assert_allclose(coefficients["explicit64"][: 30**2], coefficients["recurrence"][: 30**2], rtol=1e-3)


def test_figure_4b_draws_what_was_computed(coefficients, tmp_path):
    text, claims = figure_4b.draw(coefficients, tmp_path)
    assert is_png(tmp_path / "figure_4b.png") and holds(claims) == [True, False]
    for degree in (28, 40, 47, 50, 63):
        assert f"{figure_4b.largest_by_degree(coefficients['explicit64'])[degree]:.2g} |" in text


def test_figure_4b_says_what_the_coefficients_say(coefficients):
    changed = dict(coefficients)
    changed["explicit64"] = np.minimum(coefficients["explicit64"], 10.0)
    assert holds(figure_4b.claims(changed)) == [False, False]  # nothing large beyond
    changed["explicit64"] = coefficients["explicit64"] + 20.0
    assert holds(figure_4b.claims(changed)) == [False, False]  # more than a few spikes below
    assert holds(figure_4b.claims(coefficients | {"recurrence": coefficients["explicit64"]})) == [True, True]


def test_figure_3_says_what_the_widths_say():
    result = {
        "degrees": np.array([15, 31]),
        "density_km": np.array([400.0, 100.0]),
        "exponent_km": np.array([1800.0, 900.0]),
    }
    shrinks, about = figure_3.claims(result)
    assert shrinks.holds and not about.holds and about.paper == "1333, 645 km" and "400, 100 km" in about.ours
    assert holds(figure_3.claims(result | {"density_km": np.array([1300.0, 700.0])})) == [True, True]
    assert holds(figure_3.claims(result | {"density_km": np.array([1300.0, 1300.0])})) == [False, False]
