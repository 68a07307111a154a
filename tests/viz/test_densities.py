"""What a map shows of a density: nothing is too narrow, nothing is drawn of the uniform density."""

import healpy
import numpy as np
import pytest
import torch
from support.models import peaked_at, zoomed

from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import regions
from locdiff.viz import densities
from locdiff.viz.views import WORLD, CloseUp, locations, unit_vectors

UNIFORM = torch.full((192,), 1 / 192)


def test_the_uniform_density_has_no_shade_and_no_rims():
    ratio = densities.on_map(WORLD, 40, densities.of_pixels(UNIFORM), [densities.pixels_of(UNIFORM)])
    assert np.isin(ratio.round(6), (0, 1)).all() and densities.strength(ratio, 1.0).max() < 1e-6
    assert densities.region_levels(UNIFORM) == [] and densities.region_levels(torch.ones(1)) == []


@pytest.mark.parametrize("place", [(0.0, 180.0), (-20.0, -179.99), (90.0, 0.0), (-90.0, 10.0), (35.0, 60.0)])
@pytest.mark.parametrize("height", [9, 40, 101])
def test_a_density_of_one_pixel_is_seen_on_the_world(place, height):
    """Of a pixel of 14 km, where a pixel of the map has hundreds of km."""
    density = torch.zeros(12 * 512**2)
    density[healpy.ang2pix(512, place[1], place[0], lonlat=True)] = 1
    ratio = densities.on_map(WORLD, height, densities.of_pixels(density), [densities.pixels_of(density)])
    assert densities.strength(ratio, len(density)).max() == 1
    row, column = np.unravel_index(ratio.argmax(), ratio.shape)
    x, y = WORLD.forward(np.array(place))
    side = 2 * WORLD.half_height / height
    assert abs(WORLD.half_height - (row + 0.5) * side - y) < side
    at_pole = abs(place[0]) == 90  # where four pixels meet, anywhere along the rim
    assert at_pole or abs(abs((column + 0.5) * side - WORLD.half_width) - abs(x)) < 1.2 * side
    assert len(densities.region_levels(density)) == 2


def test_a_function_is_taken_at_the_pixels_and_never_below_what_is_known_inside_them():
    view = CloseUp(0.0, 180.0, 300.0)
    at = locations(view, 7)
    plain = densities.on_map(view, 7, lambda lat_lon: np.abs(lat_lon[..., 1]))
    np.testing.assert_allclose(plain, np.abs(at[..., 1]))
    places, values = np.array([(0.0, -180.0), (0.1, 179.9), (0.0, 0.0), (2.6, 177.4)]), np.array([1e3, 1e4, 1e5, 500.0])
    finer = densities.on_map(view, 7, lambda lat_lon: np.abs(lat_lon[..., 1]), [(places, values)])
    assert finer[3, 3] == 1e4 and finer[0, 0] == 500 and (finer != plain).sum() == 2


def test_shades_grow_with_the_density():
    ratio = np.array([0.0, 0.5, 1.0, 2.0, 30.0, 1000.0])
    strong = densities.strength(ratio, 1000.0)
    assert strong[:3].tolist() == [0, 0, 0] and strong[-1] == 1 and (np.diff(strong[2:]) > 0).all()
    assert densities.strength(np.array(1.2), 1.2) < 0.1  # hardly more than uniform: hardly a shade


def test_region_levels_part_what_lies_inside_from_what_lies_outside():
    density = torch.softmax(torch.randn(192, generator=torch.Generator().manual_seed(0)), dim=-1)
    for level, mask in zip(densities.region_levels(density), regions(density[None])[0][0], strict=True):
        assert torch.equal(192 * density > level, mask)


def test_between_pixels_a_normal_density_is_nearly_normal():
    """Its logarithm is interpolated. Linear interpolation would be too large by half far from the middle."""
    sharp, middle = 2000.0, unit_vectors(np.array([10.0, 20.0]))
    density = torch.softmax(sharp * torch.from_numpy(unit_vectors(healpix_anchors(64).numpy()) @ middle), dim=-1)
    at = locations(CloseUp(10.0, 20.0, 500.0), 50)
    expected = 2 * sharp * np.exp(sharp * (unit_vectors(at) @ middle - 1))
    found = densities.of_pixels(density)(at)[expected > 1]
    np.testing.assert_allclose(found, expected[expected > 1], rtol=0.25)


def test_between_pixels_nothing_jumps_and_refinements_stay_as_they_are():
    """A refined density less what remains of level 0 is the refinement levels' alone, and smooth."""
    posterior = zoomed(noise=0.3).posterior(torch.zeros(1, 5))
    smooth, plain = densities.between_pixels(posterior, 0), densities.of_posterior(posterior, 0)
    at = healpix_anchors(16).numpy()
    np.testing.assert_allclose(smooth(at), plain(at), rtol=1e-3, atol=2e-6)  # at the centers of pixels
    line = np.stack([np.linspace(-80, 80, 4001), np.full(4001, 33.0)], axis=-1)
    steps = [np.abs(np.diff(np.log(of(line)))).max() for of in (smooth, plain)]
    assert steps[0] < 0.05 < steps[1]


def test_between_pixels_a_density_of_one_level_is_interpolated():
    posterior = zoomed(noise=0.3).posterior(torch.zeros(1, 5)).base
    at = np.random.default_rng(0).uniform([-90, -180], [90, 180], (200, 2))
    expected = densities.of_pixels(posterior.pixel_probs[0])(at)
    np.testing.assert_allclose(densities.between_pixels(posterior, 0)(at), expected, rtol=1e-4)


def test_no_ratio_is_larger_than_the_largest():
    model = peaked_at(torch.tensor([50.0, 30.0]), sharpness=12.0)
    posterior = model.posterior(torch.zeros(1, 5))
    near = posterior.modes(1)[0][0].numpy() + np.random.default_rng(0).normal(scale=0.5, size=(2000, 2))
    largest = densities.largest_ratio(posterior, 0)
    assert densities.of_posterior(posterior, 0)(near.clip(-90, 90)).max() <= 1.01 * largest
    assert largest > 1.05 * len(posterior.pixel_probs[0]) * posterior.pixel_probs.max()
