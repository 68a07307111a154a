"""Masses of caps against fine sums and closed forms, and the best cap against all that there are."""

import math

import healpy
import numpy as np
import pytest
from hypothesis import given, settings
from support.strategies import EDGE_PLACES, random_coeffs, seeds
from torch import from_numpy, tensor

from locdiff.sphere import caps, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.points import PixelTree, Points, width_of

PLACES = np.array([to_unit_vector(tensor(place).double()).numpy() for place in [*EDGE_PLACES, (48.9, 2.4)]])
NSIDE, FINE = 32, 256
RADII = tuple(km / EARTH_RADIUS_KM for km in (750, 2500))
FINE_XYZ = np.stack(healpy.pix2vec(FINE, np.arange(12 * FINE**2)), axis=-1)


def densities(seed, count, sharpness):
    """The masses of pixels of NSIDE (count, N), and of FINE, of the same random densities of degree 5."""
    coeffs = from_numpy(random_coeffs(seed, 5, sharpness, lead=(count,)))
    values = [shdd.synthesis(coeffs, shdd.encode(healpix_anchors(nside), 5)).numpy() for nside in (NSIDE, FINE)]
    masses = [np.exp(value - value.max()) for value in values]
    return [(mass / mass.sum(axis=-1, keepdims=True)).astype(np.float32) for mass in masses]


def points_of(mass):
    nside = healpy.npix2nside(len(mass))
    xyz = np.stack(healpy.pix2vec(nside, np.arange(len(mass))), axis=-1)
    return Points(xyz, mass, np.full(len(mass), width_of(nside)))


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0])
def test_the_mass_of_a_cap_is_the_sum_over_fine_pixels_within(radius, sharpness):
    coarse, fine = densities(0, 2, sharpness)
    for mass, exact in zip(coarse, fine, strict=True):
        for center, found in zip(PLACES, caps.cap_mass(points_of(mass), PLACES, radius), strict=True):
            wanted = exact[healpy.query_disc(FINE, center, radius)].sum()
            around = caps.CapsAround(mass, Points.none(), center).mass(radius)
            assert found == pytest.approx(wanted, abs=2e-3) and around == pytest.approx(found, abs=1e-5)


@pytest.mark.parametrize("radius", [*RADII, 1.5, 3.0])
def test_the_mass_of_a_cap_of_the_uniform_density_is_its_area(radius):
    uniform = points_of(np.full(12 * 32**2, 1 / (12 * 32**2)))
    np.testing.assert_allclose(caps.cap_mass(uniform, PLACES, radius), math.sin(radius / 2) ** 2, rtol=0.01)
    np.testing.assert_allclose(caps.cap_mass(uniform, PLACES, 4.0), 1)


def test_a_point_counts_as_far_as_it_lies_within():
    one = Points(PLACES[:1], np.ones(1), np.full(1, 0.01))
    angle = np.array([0.0, 0.19, 0.2, 0.21, math.pi])
    centers = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=-1)  # from the pole
    whole, most, half, little, nothing = caps.cap_mass(one, centers, 0.2)
    assert whole == 1 and nothing == 0 and half == pytest.approx(0.5, abs=0.01)
    assert (whole, most) == pytest.approx((1, 1), abs=1e-6) and little == pytest.approx(0, abs=1e-6)


@settings(max_examples=2, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("sharpness", [0.2, 1.0])
def test_no_cap_has_more_mass_than_the_one_that_is_found(sharpness, seed):
    """Of all pixels of nside 16 as centers; and it has the mass that it is said to have."""
    coarse, _ = densities(seed, 1, sharpness)
    points, tree = points_of(coarse[0]), PixelTree(coarse[0])
    for radius in RADII:
        centers = np.stack(healpy.pix2vec(16, np.arange(12 * 16**2)), axis=-1)
        most = max(caps.cap_mass(points, some, radius).max() for some in np.split(centers, 64))
        place, mass = caps.best_cap(tree, Points.none(), radius)
        assert np.linalg.norm(place) == pytest.approx(1) and mass >= 0.98 * most - 1e-3
        assert mass == pytest.approx(caps.cap_mass(points, place[None], radius)[0], abs=3e-3)


@pytest.mark.parametrize("center", PLACES)
def test_the_best_cap_is_about_the_middle_of_a_round_density(center):
    """To a part of a pixel, where the mass has a maximum; and between two equal peaks whose caps overlap."""
    xyz = np.stack(healpy.pix2vec(64, np.arange(12 * 64**2)), axis=-1)
    mass = np.exp(-np.square(xyz - center).sum(axis=-1) / (2 * 0.1**2)).astype(np.float32)
    place, found = caps.best_cap(PixelTree(mass / mass.sum()), Points.none(), RADII[0])
    assert np.linalg.norm(place - center) * EARTH_RADIUS_KM < 35  # a third of a pixel
    assert found == pytest.approx(1 - math.exp(-((2 * math.sin(RADII[0] / 2) / 0.1) ** 2) / 2), abs=2e-3)
    east = np.cross(center, PLACES[-1] + 0.1)
    east /= np.linalg.norm(east)
    two = center + np.array([[-0.1], [0.1]]) * east
    peaks = Points(two / np.linalg.norm(two, axis=-1, keepdims=True), np.array([0.5, 0.5]), np.full(2, 0.002))
    place, found = caps.best_cap(PixelTree(np.zeros(12 * 64**2, np.float32)), peaks, RADII[0])
    assert found == pytest.approx(1) and np.abs(peaks.xyz @ place - 1).max() < RADII[0] ** 2 / 2


def test_a_mode_is_best_where_nothing_near_or_far_can_hold_more():
    """0.7 about a pole, 0.3 at 300, 700 or 5,000 km from it: a cap of 200 km may hold both, or only one."""
    for km, best in ((300, False), (700, True), (5000, True)):
        angle = km / EARTH_RADIUS_KM
        xyz = np.array([[0, 0, 1.0], [math.sin(angle), 0, math.cos(angle)]])
        around = caps.CapsAround(np.zeros(768, np.float32), Points(xyz, np.array([0.7, 0.3]), np.full(2, 1e-3)), xyz[0])
        assert around.mass(200 / EARTH_RADIUS_KM) == pytest.approx(0.7)
        assert around.are_best(200 / EARTH_RADIUS_KM) == best
