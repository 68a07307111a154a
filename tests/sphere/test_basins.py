"""The modes of densities over pixels, and the basins that lead to them, against healpy's neighbors."""

import healpy
import numpy as np
import pytest
import torch
from hypothesis import given
from support.strategies import EDGE_PLACES, random_coeffs, rotation, seeds

from locdiff.sphere import basins, healpix, shdd
from locdiff.sphere.coordinates import from_unit_vector, great_circle_km, to_unit_vector

NSIDE = 8
ANCHORS = healpix.healpix_anchors(NSIDE)
N = len(ANCHORS)


def some_density(seed, scale=1.0):
    coeffs = torch.from_numpy(random_coeffs(seed, 4, scale, lead=(2,)))
    return torch.softmax(shdd.synthesis(coeffs, shdd.encode(ANCHORS, 4)), -1)


@pytest.mark.parametrize("place", [EDGE_PLACES[0], EDGE_PLACES[2], EDGE_PLACES[4]])
def test_modes_are_found_with_their_mass(place):
    """Two modes far apart, of 0.7 and 0.3: their pixels, their masses, and no third."""
    here, there = torch.tensor([place], dtype=torch.float64), torch.tensor([[35.0, 100.0]], dtype=torch.float64)
    peaks = [torch.softmax(-((great_circle_km(p, ANCHORS) / 800) ** 2) / 2, -1) for p in (here, there)]
    pixel, mass = basins.modes((0.7 * peaks[0] + 0.3 * peaks[1])[None], 5)
    assert (
        great_circle_km(ANCHORS[pixel[0, 0]], here[0]) < 800 and great_circle_km(ANCHORS[pixel[0, 1]], there[0]) < 800
    )
    assert mass[0, 0].item() == pytest.approx(0.7, abs=0.01) and mass[0, 1].item() == pytest.approx(0.3, abs=0.01)
    assert (mass[0, 2:] < 0.01).all()


@given(seed=seeds)
def test_all_modes_together_hold_everything_and_are_the_pixels_that_no_neighbor_exceeds(seed):
    share = some_density(seed)
    pixel, mass = basins.modes(share, N)
    torch.testing.assert_close(mass.sum(-1), torch.ones(2, dtype=torch.float64))
    assert (mass.diff(dim=-1) <= 0).all()
    for i in range(2):
        neighbors = torch.from_numpy(healpy.get_all_neighbours(NSIDE, range(N)))
        is_peak = ((share[i][neighbors] <= share[i]) | (neighbors < 0)).all(dim=0)
        assert set(pixel[i][mass[i] > 0].tolist()) == set(is_peak.nonzero()[:, 0].tolist())


@given(seed=seeds)
def test_basins_end_in_modes_by_steps_uphill(seed):
    share = some_density(seed)
    basin, neighbors = basins.basins(share), healpy.get_all_neighbours(NSIDE, range(N))
    assert torch.equal(basin.gather(1, basin), basin)  # a mode is in its own basin
    for i in range(2):
        around = torch.from_numpy(np.where(neighbors < 0, range(N), neighbors))
        steepest = around.gather(0, share[i][around].argmax(dim=0, keepdim=True))[0]
        rises = share[i][steepest] > share[i]
        assert torch.equal(basin[i][rises], basin[i][steepest[rises]])
        assert torch.equal(basin[i][~rises], torch.arange(N)[~rises])
    for found, given_basins in zip(basins.modes(share, 3), basins.modes(share, 3, basin), strict=True):
        assert torch.equal(found, given_basins)


def test_there_are_no_more_modes_than_the_density_with_most_has():
    peaks = torch.zeros(2, N, dtype=torch.float64)
    peaks[0, 300], peaks[1, 300], peaks[1, 100] = 1.0, 0.4, 0.6
    pixel, mass = basins.modes(peaks, 5)
    assert mass.tolist() == [[1.0, 0.0], [0.6, 0.4]] and pixel[0, 0] == 300 and pixel[1].tolist() == [100, 300]
    assert basins.modes(peaks, 1)[0].shape == (2, 1)
    pixel, mass = basins.modes(torch.empty(0, N), 3)
    assert pixel.shape == mass.shape == (0, 3)


@given(seed=seeds)
def test_pixels_that_hold_nothing_are_left_alone(seed):
    """Where few hold the rest: what they hold is missing from the modes, and no other pixel leads to them."""
    share = some_density(seed, 20.0)
    basin, least = basins.basins(share), basins.NEGLIGIBLE / N
    mass = basins.modes(share, N, basin)[1]
    assert (mass.sum(dim=-1) > 1 - basins.NEGLIGIBLE).all() and (mass[mass > 0] > least).all()
    for own, here in zip(basin, share, strict=True):
        nothing = here <= least
        assert (here[own][~nothing] > least).all()
        if 8 * (~nothing).sum() < N:
            assert torch.equal(own[nothing], torch.arange(N)[nothing])


@given(seed=seeds)
def test_the_basins_of_a_ridge_across_the_pixels_are_joined(seed):
    """A ridge about as narrow as a pixel falls evenly away from one mode, but its pixels go up and down."""
    turn, xyz = torch.from_numpy(rotation(seed)), to_unit_vector(healpix.healpix_anchors(16))
    axis, mode = turn[:, 0], turn[:, 1]
    density = torch.softmax(-400 * (xyz @ axis).square() + 3 * (xyz @ mode), dim=0)[None].float()
    apart, joined = basins.basins(density)[0], basins.basins(density, is_smooth=True)[0]
    peaks = joined[density[0] > 1e-6].unique()  # others are left alone
    around = basins.neighbors(16)
    for peak in peaks.tolist():
        two_away = around[:, around[:, peak]].flatten()
        assert density[0, two_away].max() == density[0, peak]
    assert len(peaks) <= len(apart[density[0] > 1e-6].unique())
    assert (joined[joined] == joined).all()
    assert torch.equal(joined[apart], joined)  # whole basins are joined
    pixel, mass = basins.modes(density, 5, joined[None])
    assert mass.sum() <= 1 + 1e-5
    assert great_circle_km(healpix.healpix_anchors(16)[pixel[0, 0]], from_unit_vector(mode)) < 2000  # it is flat there
