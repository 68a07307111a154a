"""The location with the most mass within a radius, against the sums over the points around every pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.caps import mass_within
from support.strategies import at_edges, opposite, places, random_coeffs, seeds
from support.tolerances import every_dtype

from locdiff.sphere import decoder, healpix, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km

L_MAX = 5
FINE, PIXELS = healpix.healpix_anchors(32), healpix.healpix_anchors(L_MAX + 1)
RIPPLE_KM = math.pi * EARTH_RADIUS_KM / (L_MAX + 1)  # 3,336
RADII_KM = (600.0, 1500.0, 4000.0, 8000.0, 12_000.0)  # more than half a pixel; the last two are above two ripples
DEGREE = torch.arange(L_MAX + 1).repeat_interleave(2 * torch.arange(L_MAX + 1) + 1)
ATOL = {torch.float32: 1e-5, torch.float64: 1e-9}
LANCZOS = torch.from_numpy(np.sinc(np.arange(L_MAX + 1) / (L_MAX + 1)))[DEGREE]


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def densities(seed, n=3):
    """Return the coefficients (n, D) of densities with several modes, which dip below zero here and there."""
    return shdd.mean_parameters(torch.from_numpy(random_coeffs(seed, L_MAX, lead=(n,))), shdd.encode(FINE, L_MAX))


def smoothed(coeffs, rho_km):
    """Return the densities (n, D) whose mass counts: above two ripples they are averaged over one, by Lanczos."""
    return coeffs.double() * (LANCZOS if rho_km > 2 * RIPPLE_KM else 1)


@every_dtype
@given(seed=seeds)
def test_no_pixel_has_more_mass_around_it(dtype, seed):
    """But for the 2 % that the mode is preferred by, and no more than all."""
    coeffs = densities(seed)
    place, mass = decoder.best_within_each(coeffs.to(dtype), RADII_KM)
    assert place.shape == (3, 5, 2) and mass.shape == (3, 5) and place.dtype == mass.dtype == dtype
    for j, rho_km in enumerate(RADII_KM):
        around = decoder.cap_mass(smoothed(coeffs, rho_km), rho_km)
        most = decoder.synthesis_at(around, PIXELS).amax(dim=-1).clamp(0, 1)
        assert (mass[:, j] >= 0.98 * most - ATOL[dtype]).all(), rho_km
        claimed = (around * shdd.encode(place[:, j].double(), L_MAX)).sum(dim=-1).clamp(0, 1)
        torch.testing.assert_close(mass[:, j].double(), claimed, rtol=0, atol=ATOL[dtype])


@settings(max_examples=5)
@given(seed=seeds)
def test_the_mass_claimed_is_that_of_the_points_within(seed):
    """Up to the points on the rim of the cap."""
    coeffs = densities(seed)
    place, mass = decoder.best_within_each(coeffs, RADII_KM)
    for j, rho_km in enumerate(RADII_KM):
        probs = decoder.synthesis_at(smoothed(coeffs, rho_km), FINE) * 4 * math.pi / len(FINE)
        inside = mass_within(probs, FINE, place[:, j], (rho_km,))[:, 0].clamp(0, 1)
        torch.testing.assert_close(mass[:, j], inside, rtol=0, atol=0.02)


def test_radii_below_half_a_pixel_are_answered_by_the_mode():
    """With the mass of the cap around it; so is a radius that holds 98 % there."""
    coeffs = densities(1)
    mode, _ = decoder.exact_mode(coeffs)
    place, mass = decoder.best_within_each(coeffs, (10.0, 500.0, 20_016.0))
    torch.testing.assert_close(place, mode[:, None].expand(3, 3, 2))
    cap = torch.stack([(decoder.cap_mass(coeffs, k) * shdd.encode(mode, L_MAX)).sum(-1) for k in (10.0, 500.0)], dim=1)
    torch.testing.assert_close(mass[:, :2], cap)
    torch.testing.assert_close(mass[:, 2], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(("rho_km", "is_mode"), [(900.0, True), (4000.0, False), (6000.0, False)])
def test_the_mode_is_taken_where_no_other_place_has_2_percent_more(rho_km, is_mode):
    """A hill beside it draws the best cap away from the mode: a small cap by 15 km, larger ones by 800 and 3,300.

    The largest holds more than all, since the density dips below zero elsewhere.
    """
    mode, hill = (shdd.encode(tensor(place), L_MAX)[0] for place in ((0.0, 0.0), (0.0, 55.0)))
    coeffs = 0.6 * mode + 0.4 * hill
    place, mass = decoder.best_within_each(coeffs, (rho_km,))
    best, most = decoder.exact_mode(decoder.cap_mass(coeffs, rho_km))
    at_mode, _ = decoder.exact_mode(coeffs)
    assert great_circle_km(best, at_mode) > 10
    assert great_circle_km(place[0], at_mode if is_mode else best) < 1e-3
    assert (mass.item() < most) if is_mode else (mass.item() == pytest.approx(min(1, most.item())))


@given(place=places, rho_km=st.sampled_from([600.0, 4000.0]))
@at_edges(rho_km=4000.0)
def test_of_two_equal_modes_one_is_found_with_its_own_mass(place, rho_km):
    both = shdd.encode(tensor(place, opposite(place)), L_MAX).sum(dim=0) / 2
    found, mass = decoder.best_within_each(both, (rho_km,))
    assert great_circle_km(found[0], tensor(place, opposite(place))).min() < 1
    one = (decoder.cap_mass(smoothed(both, rho_km), rho_km) * shdd.encode(tensor(place), L_MAX)).sum()
    assert mass.item() == pytest.approx(one.item(), abs=1e-6)


def test_all_places_of_the_uniform_density_hold_the_area_of_the_cap():
    uniform = torch.zeros(36, dtype=torch.float64)
    uniform[0] = 1 / math.sqrt(4 * math.pi)
    place, mass = decoder.best_within_each(uniform, RADII_KM)
    assert place.isfinite().all()
    torch.testing.assert_close(mass, (1 - torch.cos(tensor(*RADII_KM) / EARTH_RADIUS_KM)) / 2)


def test_each_radius_and_each_density_are_answered_on_their_own():
    coeffs = densities(3, 6)
    place, mass = decoder.best_within_each(coeffs.view(2, 3, 36), RADII_KM)
    assert place.shape == (2, 3, 5, 2) and mass.shape == (2, 3, 5)
    for j, rho_km in enumerate(RADII_KM):
        own_place, own_mass = decoder.best_within(coeffs[4], rho_km)
        torch.testing.assert_close(place[1, 1, j], own_place)
        torch.testing.assert_close(mass[1, 1, j], own_mass)


def test_no_densities_have_no_places():
    place, mass = decoder.best_within_each(torch.empty(0, 4, 36), RADII_KM)
    assert place.shape == (0, 4, 5, 2) and mass.shape == (0, 4, 5)


def test_a_mode_that_is_known_is_not_sought_again(monkeypatch):
    coeffs, sought = densities(4), []
    mode, expected = decoder.exact_mode(coeffs)[0], decoder.best_within_each(coeffs, (540.0, 550.0))
    seek = decoder.exact_mode
    monkeypatch.setattr(decoder, "exact_mode", lambda e, nside: sought.append(len(e)) or seek(e, nside))
    for found, wanted in zip(decoder.best_within_each(coeffs, (540.0, 550.0), mode=mode), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert sought == [3]  # half a pixel is 543 km


def test_radii_must_be_above_zero():
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="rho_km must be above zero"):
            decoder.best_within_each(densities(0), (100.0, wrong))
