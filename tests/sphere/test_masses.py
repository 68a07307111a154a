"""The mass within every whole km of a location, and the radius that holds a share, against sums over the points."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.caps import mass_within
from support.strategies import EDGE_PLACES, at_edges, opposite, places, seeds
from support.tolerances import every_dtype

from locdiff.sphere import pixels
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors

KM = np.arange(20_017)
ROUNDING = {torch.float32: 2e-7, torch.float64: 2e-15}  # of half a chord: 1 m up to 10,000 km, 5 km at the antipode


def scattered(place, seed):
    """Return random points (N, 2), the edges, a place, its antipode and its neighbors; and densities (2, N) on them."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(size=(2, 100))
    near = np.clip(np.array(place) + rng.normal(scale=0.02, size=(20, 2)), [-90, -180], [90, 180])
    everywhere = np.stack([np.degrees(np.arcsin(2 * u - 1)), 360 * v - 180], axis=-1)
    points = np.concatenate([[place, opposite(place)], EDGE_PLACES, near, everywhere])
    return torch.from_numpy(points), torch.from_numpy(rng.dirichlet(np.ones(len(points)), size=2))


def by_km(probs, points, at):
    return pixels.mass_by_km(probs, lambda _: to_unit_vector(points).T.to(probs.dtype), at)


@every_dtype
@given(place=places, seed=seeds)
@at_edges(seed=1)
def test_the_mass_by_km_is_the_sum_over_the_points_within(dtype, place, seed):
    points, probs = scattered(place, seed)
    found = by_km(probs.to(dtype), points, points[:2])
    assert found.shape == (2, 20_017) and found.dtype == dtype
    least, most = (mass_within(probs, points, points[:2], KM, sign * ROUNDING[dtype]) for sign in (-1, 1))
    assert (found >= least - 2e-6).all() and (found <= most + 2e-6).all()
    assert (found.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(found[:, -1], torch.ones(2, dtype=dtype))
    assert (found[:, 0] >= probs[range(2), range(2)].to(dtype)).all()  # a point is within 0 km of itself


def test_distances_are_rounded_up_to_whole_km():
    """0 km, 0.111 km, a quarter of a meridian (10,007.557 km) and a half (20,015.115 km)."""
    points = torch.tensor([[0.0, 0.0], [0.001, 0.0], [90.0, 0.0], [0.0, 180.0]], dtype=torch.float64)
    mass = by_km(torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64), points, points[:1])[0]
    assert {int(k): round(mass[k].item(), 9) for k in mass.diff(prepend=torch.zeros(1)).nonzero()} == {
        0: 0.1, 1: 0.3, 10_008: 0.6, 20_016: 1.0,
    }  # fmt: skip


def test_a_vector_that_rounding_made_too_long_is_the_antipode():
    at = torch.tensor([[10.0, 20.0]])
    beyond = -to_unit_vector(at).T * (1 + 1e-6)
    mass = pixels.mass_by_km(torch.ones(1, 1), lambda _: beyond, at)
    assert mass[0, -2:].tolist() == [0, 1]


def test_each_density_may_have_points_of_its_own():
    at = torch.tensor([[10.0, 20.0], [-60.0, 179.9]], dtype=torch.float64)
    points = torch.stack([healpix_anchors(2), healpix_anchors(2).flip(0)])
    probs = torch.softmax(torch.linspace(0, 3, 48, dtype=torch.float64), 0).expand(2, 48)
    found = pixels.mass_by_km(probs, lambda i: to_unit_vector(points[i]).T, at)
    for i in range(2):
        assert torch.equal(found[i], by_km(probs[:1], points[i], at[i : i + 1])[0])
    assert not torch.equal(by_km(probs[:1], points[1], at[:1]), found[:1])


def test_the_mass_of_a_uniform_density_is_the_area_of_the_cap():
    """Up to one ring of pixels; from a pole, all of a ring are equally far."""
    anchors, cap = healpix_anchors(32), (1 - np.cos(KM / EARTH_RADIUS_KM)) / 2
    cap[KM > math.pi * EARTH_RADIUS_KM] = 1
    at = torch.tensor([*EDGE_PLACES, (48.9, 2.4)], dtype=torch.float64)
    found = by_km(torch.full((len(at), len(anchors)), 1 / len(anchors)), anchors, at)
    assert np.abs(found.numpy() - cap).max() < 1 / 96


@every_dtype
@given(place=places, seed=seeds, share=st.floats(0, 1))
@at_edges(seed=2, share=0.9)
def test_a_radius_is_the_smallest_whole_km_that_holds_its_share(dtype, place, seed, share):
    points, probs = scattered(place, seed)
    mass = by_km(probs.to(dtype), points, points[:2])
    shares = (share, 0.0, 0.5, 1.0)
    radius = pixels.radius_holding(mass, shares)
    assert radius.shape == (2, 4) and radius.dtype == torch.float64
    for i in range(2):
        for j, part in enumerate(shares):
            r, wanted = int(radius[i, j]), part * mass[i, -1]
            assert r == radius[i, j] and mass[i, r] >= wanted and (mass[i, :r] < wanted).all()
    assert torch.equal(pixels.radius_holding(mass / 4, shares), radius)  # a part of a density has shares too


@given(place=places, seed=seeds)
def test_the_radius_is_the_inverse_of_the_mass(place, seed):
    points, probs = scattered(place, seed)
    mass = by_km(probs, points, points[:1])
    rises = mass[0].diff(prepend=torch.zeros(1, dtype=mass.dtype)).nonzero()[:, 0]
    below = torch.where(rises > 0, mass[0, rises - 1], 0)
    halfway = ((below + mass[0, rises]) / 2 / mass[0, -1]).tolist()
    assert pixels.radius_holding(mass, halfway)[0].tolist() == rises.tolist()


def test_radii_by_hand():
    """Of points at 0, 112 and 1112 km: of equal shares the nearer, and the least above it the next."""
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 10.0]], dtype=torch.float64)
    mass = by_km(torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]), points, points[[0, 2]])
    found = pixels.radius_holding(mass, (0.5, 0.51, 0.75, 0.76))
    assert found.tolist() == [[0, 112, 112, 1112], [0, 1001, 1001, 1112]]


def test_the_thresholds_are_those_of_the_field():
    assert pixels.THRESHOLDS_KM == (1, 25, 200, 750, 2500)


def test_no_densities_have_no_masses_and_no_radii():
    nothing = by_km(torch.empty(0, 48), healpix_anchors(2), torch.empty(0, 2))
    assert nothing.shape == (0, 20_017) and pixels.radius_holding(nothing, (0.5, 0.9)).shape == (0, 2)


def test_locations_must_be_on_the_earth():
    with pytest.raises(ValueError, match="outside"):
        by_km(torch.full((1, 48), 1 / 48), healpix_anchors(2), torch.tensor([[91.0, 0.0]]))
