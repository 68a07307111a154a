"""Pixels that are merged and divided: nothing is lost, and narrow densities have many points."""

import math

import healpy
import numpy as np
import pytest
from support.strategies import EDGE_PLACES
from torch import tensor

from locdiff.sphere.coordinates import to_unit_vector
from locdiff.sphere.points import MUCH, STEEP, PixelTree, Points, divide, tree_pixels, width_of

PLACES = np.array([to_unit_vector(tensor(place).double()).numpy() for place in EDGE_PLACES])


def peak(xyz, center, sigma):
    """A round density about a unit vector, per steradian."""
    return np.exp(-np.square(xyz - center).sum(axis=-1) / (2 * sigma**2)) / (2 * math.pi * sigma**2)


@pytest.mark.parametrize("nside", [1, 2, 3, 8, 12])
def test_the_four_pixels_of_a_merged_one_lie_around_it(nside):
    pixel, xyz = tree_pixels(2 * nside)
    assert sorted(pixel) == list(range(48 * nside**2))
    np.testing.assert_allclose(xyz, np.stack(healpy.pix2vec(2 * nside, pixel), axis=-1), atol=1e-7)
    merged, _ = tree_pixels(nside)
    assert (healpy.vec2pix(nside, *xyz.T.astype(float)).reshape(-1, 4) == merged[:, None]).all()
    if nside & (nside - 1) == 0:
        assert np.array_equal(pixel, healpy.nest2ring(2 * nside, np.arange(48 * nside**2)))


@pytest.mark.parametrize("nside", [1, 3, 8, 32])
@pytest.mark.parametrize("center", PLACES)
def test_all_mass_near_a_location_is_in_points_none_of_which_is_large(nside, center):
    mass = np.random.default_rng(0).dirichlet(np.ones(12 * nside**2)).astype(np.float32)
    tree = PixelTree(mass)
    everything = tree.near(center, math.pi, 0.2)
    assert everything.mass.sum() == pytest.approx(1, abs=1e-5)
    smallest = np.isclose(everything.width, width_of(nside))
    assert (smallest | (everything.mass <= MUCH) & (everything.width <= 0.2)).all()
    near = tree.near(center, 0.3, 0.2)
    xyz = np.stack(healpy.pix2vec(nside, np.arange(len(mass))), axis=-1)
    within = np.arccos(np.clip(xyz @ center, -1, 1)) < 0.3
    assert mass[within].sum() - 1e-6 <= near.mass.sum() and len(near.mass) <= len(everything.mass)


def test_pixels_that_hold_nothing_have_no_points():
    mass = np.zeros(768, np.float32)
    mass[100] = 1
    found = PixelTree(mass).near(np.array([0.0, 0.0, 1.0]), math.pi, 1.0)
    assert len(found.mass) == 1 and found.width[0] == np.float32(width_of(8))


@pytest.mark.parametrize("center", PLACES)
def test_the_parts_of_pixels_hold_what_a_narrow_density_holds(center):
    """A peak a quarter as wide as a pixel, between pixels at the poles: their centers see little of it."""
    sigma, nside = width_of(16) / 4, 16
    around = healpy.query_disc(nside, center, 3 * width_of(nside))

    def masses(picture, nside, pixel):
        xyz = np.stack(healpy.pix2vec(nside, pixel), axis=-1)
        return (peak(xyz, center, sigma) * width_of(nside) ** 2 * (1 + picture))[:, None]

    picture = np.repeat([0, 1], len(around))
    own, xyz, mass, width = divide(nside, picture, np.tile(around, 2), masses, 3)
    for i in range(2):
        assert mass[own == i].sum() == pytest.approx(1 + i, rel=0.02)
        assert np.square(width[own == i]).sum() == pytest.approx(len(around) * width_of(nside) ** 2, rel=1e-5)
    finest = np.isclose(width, width_of(128))
    assert (mass[~finest, 0] <= STEEP).all() and finest.any() and not finest.all()
    np.testing.assert_allclose(mass[:, 0], peak(xyz, center, sigma) * width**2 * (1 + own), rtol=1e-3, atol=1e-7)


def test_nothing_is_divided_where_nothing_is_given():
    nothing = np.empty(0, int)
    own, xyz, mass, width = divide(8, nothing, nothing, lambda picture, *_: np.empty((len(picture), 2)), 3)
    assert len(own) == len(width) == 0 and xyz.shape == (0, 3) and mass.shape == (0, 2)


def test_points_are_joined_and_chosen():
    one = Points(PLACES, np.arange(6.0), np.ones(6))
    both = Points.joined([Points.none(), one[[1, 2]], one[np.arange(6) > 4]])
    assert both.mass.tolist() == [1, 2, 5] and np.array_equal(both.xyz, PLACES[[1, 2, 5]])


def test_merged_points_hold_the_mass_and_lie_and_spread_as_the_points_do():
    points = Points(np.stack(healpy.pix2vec(64, np.arange(200)), axis=-1), np.linspace(1, 2, 200), np.full(200, 0.01))
    merged = points.merged(1.1 * width_of(4))
    pixel = healpy.vec2pix(4, *points.xyz.T)
    assert len(merged.mass) == len(np.unique(pixel)) < 20
    for place, mass, width, own in zip(merged.xyz, merged.mass, merged.width, np.unique(pixel), strict=True):
        some = points[pixel == own]
        mean = (some.mass[:, None] * some.xyz).sum(axis=0) / some.mass.sum()
        assert mass == pytest.approx(some.mass.sum())
        np.testing.assert_allclose(place, mean / np.linalg.norm(mean), atol=1e-6)
        spread = (some.mass * ((some.xyz - mean) ** 2).sum(axis=-1)).sum() / some.mass.sum()
        assert width**2 == pytest.approx(0.01**2 + 6 * spread, rel=1e-4)
    alone = points.merged(1e-4)
    assert len(alone.mass) == 200 and np.allclose(alone.width, 0.01, rtol=1e-3)
