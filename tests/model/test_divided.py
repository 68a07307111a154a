"""Densities that are narrower than pixels: their masses against closed forms, wherever between the pixels they lie."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from support.models import tiny
from support.strategies import EDGE_PLACES

from locdiff.model.posterior import PixelPosterior
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.healpix import healpix_anchors

L_MAX, NSIDE = 7, 16  # pixels 407 km wide
PIXEL = healpix_anchors(NSIDE)[1234]
NORTH, EAST = torch.tensor([1.8, 0.0]).double(), torch.tensor([0.0, 2.2]).double()
AT = torch.cat([torch.stack([PIXEL, PIXEL + NORTH, PIXEL + EAST, PIXEL + NORTH + EAST]), torch.tensor(EDGE_PLACES)])
THRESHOLDS = (25, 200, 750, 2500)


def posterior_of(coeffs, broad=(0.0, 1.0)):
    model = tiny(decoder_nside=NSIDE, l_max=L_MAX, prior_l_max=0)
    model.objective.broad.copy_(torch.tensor(broad))
    probs = model.objective.pixel_probs(model.grid.synthesis(coeffs))
    return PixelPosterior(model.grid, model.objective, coeffs, probs, None)


def round_mode(sigma_km):
    """The sharpness s of exp(s K) whose mode has this standard deviation, K being the truncated delta."""
    degree = np.arange(L_MAX + 1)
    curvature = ((2 * degree + 1) / (4 * math.pi) * degree * (degree + 1) / 2).sum()
    return (EARTH_RADIUS_KM / sigma_km) ** 2 / curvature


def exact_mass(sharpness, km):
    """The mass of exp(s K) within km, by an integral over the distance."""
    top = (L_MAX + 1) ** 2 / (4 * math.pi)

    def density(angle):
        value = shdd.delta_kernel(torch.tensor([angle], dtype=torch.float64), L_MAX).item()
        return math.exp(sharpness * (value - top)) * math.sin(angle)

    rim, points = km / EARTH_RADIUS_KM, np.linspace(0, math.pi, 30)[1:-1]
    return quad(density, 0, rim, limit=200)[0] / quad(density, 0, math.pi, points=points, limit=200)[0]


@pytest.mark.parametrize("sigma_km", [100, 160, 300, 450])
def test_masses_of_round_modes_are_exact_wherever_they_lie(sigma_km):
    """Down to a quarter of a pixel. By whole pixels some of these would hold all within 200 km, others nothing."""
    sharpness = round_mode(sigma_km)
    best = posterior_of((sharpness * shdd.encode(AT, L_MAX)).float()).best_within()
    for km in THRESHOLDS:
        place, mass = best[km]
        assert great_circle_km(place, AT).max() < 1
        is_pole = AT[:, 0].abs() == 90  # the corner of four pixels
        error = (mass - exact_mass(sharpness, km)).abs()
        assert error[~is_pole].max() < 2e-3 and error[is_pole].max() < (0.015 if sigma_km == 100 else 5e-3)


def test_a_mixture_keeps_its_shares_where_one_of_its_densities_is_narrow():
    sharpness = round_mode(120)
    coeffs = (sharpness * shdd.encode(AT, L_MAX)).float()
    best = posterior_of(coeffs, (0.4, 0.1)).best_within()
    for km in THRESHOLDS:
        wanted = 0.6 * exact_mass(sharpness, km) + 0.4 * exact_mass(0.1 * sharpness, km)
        np.testing.assert_allclose(best[km][1], wanted, rtol=5e-3, atol=3e-3)


def test_two_narrow_modes_hold_what_they_should():
    """One at the center of a pixel, one between four: the pixels' centers see more of the first."""
    both = torch.stack([AT[0], AT[3] + torch.tensor([0.0, 90.0])])
    coeffs = (round_mode(100) * shdd.encode(both, L_MAX)).sum(dim=0, keepdim=True).float()
    fine = healpix_anchors(256)
    probs = torch.softmax(shdd.synthesis(coeffs.double(), shdd.encode(fine, L_MAX)), dim=-1)[0]
    for km, (place, mass) in posterior_of(coeffs).best_within().items():
        if km >= 200:
            assert mass.item() == pytest.approx(probs[great_circle_km(fine, place) <= km].sum().item(), abs=0.01)


@pytest.mark.parametrize("n", [0, 2])
def test_the_uniform_density_has_the_areas_of_caps(n):
    best = posterior_of(torch.zeros(n, (L_MAX + 1) ** 2)).best_within()
    for km, (place, mass) in best.items():
        assert place.shape == (n, 2) and place.isfinite().all()
        np.testing.assert_allclose(mass, [math.sin(km / EARTH_RADIUS_KM / 2) ** 2] * n, rtol=0.01)


def test_a_density_of_degree_0_has_no_mode_and_is_answered():
    model = tiny(l_max=0, prior_l_max=0)
    coeffs = torch.ones(2, 1)
    best = PixelPosterior(model.grid, model.objective, coeffs, torch.full((2, 3072), 1 / 3072), None).best_within()
    for km, (_, mass) in best.items():
        np.testing.assert_allclose(mass, [math.sin(km / EARTH_RADIUS_KM / 2) ** 2] * 2, rtol=0.01)
