"""What is read off densities over pixels: regions, log densities, samples; and the positive part."""

import math

import healpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import places, random_coeffs, seeds

from locdiff.sphere import healpix, pixels, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km

NSIDE = 8
ANCHORS = healpix.healpix_anchors(NSIDE)
N = len(ANCHORS)
AREA = 4 * math.pi * EARTH_RADIUS_KM**2


def some_density(seed, rows=2):
    return torch.softmax(
        shdd.synthesis(torch.from_numpy(random_coeffs(seed, 4, lead=(rows,))), shdd.encode(ANCHORS, 4)), -1
    )


@given(seed=seeds, scale=st.sampled_from([0.0, 0.01, 1.0, 1e4]))
def test_the_positive_part_of_a_linear_density_is_a_density(seed, scale):
    values = scale * shdd.synthesis(torch.from_numpy(random_coeffs(seed, 4, lead=(2,))), shdd.encode(ANCHORS, 4))
    if scale:
        assert (values < 0).any()
    share = pixels.from_linear(values)
    torch.testing.assert_close(share.sum(-1), torch.ones(2, dtype=torch.float64))
    assert (share >= 0.999 * pixels.UNIFORM / N).all()


def test_where_a_linear_density_is_positive_its_shape_is_kept_and_elsewhere_it_is_even():
    values = torch.tensor([[3.0, 1.0, -1.0, -0.5] + [0.0] * 8])
    share = pixels.from_linear(values)[0]
    even = pixels.UNIFORM / 12
    torch.testing.assert_close(share[:4] - even, (1 - pixels.UNIFORM) * torch.tensor([0.75, 0.25, 0.0, 0.0]))
    torch.testing.assert_close(pixels.from_linear(torch.full((1, 12), -1.0)), torch.full((1, 12), 1 / 12))
    torch.testing.assert_close(pixels.from_linear(values * 1e-33)[0], share)
    assert pixels.from_linear(torch.full((1, 12), torch.nan)).isnan().all()


def test_the_delta_dips_below_zero_and_still_integrates_to_one():
    """The density of one known place, cut off at l_max: negative rings, whole integral, mass kept around the place."""
    coeffs = shdd.encode(torch.tensor([[10.0, 20.0]], dtype=torch.float64), 5)
    values = shdd.synthesis(coeffs, shdd.encode(ANCHORS, 5))
    assert values.min() < -0.1 and values.mean().item() * 4 * math.pi == pytest.approx(1, abs=0.01)
    share = pixels.from_linear(values)
    near = share[great_circle_km(torch.tensor([10.0, 20.0], dtype=torch.float64), ANCHORS)[None] < 4000].sum()
    assert share.sum().item() == pytest.approx(1) and near > 0.5


@given(place=places)
def test_the_likelihood_is_the_density_of_the_pixel(place):
    share, here = some_density(0), torch.tensor([place, place], dtype=torch.float64)
    pixel = healpy.ang2pix(NSIDE, place[1], place[0], lonlat=True)
    torch.testing.assert_close(pixels.log_prob(share, here), (share[:, pixel] * N / (4 * math.pi)).log())
    uniform = pixels.log_prob(torch.full((2, N), 1 / N), here)
    torch.testing.assert_close(uniform, torch.full((2,), -math.log(4 * math.pi)))


@given(seed=seeds)
def test_regions_are_the_smallest_that_hold_their_share(seed):
    share = some_density(seed)
    masks, areas = pixels.regions(share, (0.5, 0.9))
    for i in range(2):
        for j, wanted in enumerate((0.5, 0.9)):
            inside = share[i][masks[i, j]]
            assert wanted * (1 - 1e-5) <= inside.sum() and inside.sum() - inside.min() < wanted
            assert inside.min() >= share[i][~masks[i, j]].max()
            assert areas[i, j].item() == pytest.approx(len(inside) * AREA / N)
        assert not (masks[i, 0] & ~masks[i, 1]).any()


def test_regions_of_the_uniform_density_and_of_one_pixel():
    even = torch.full((1, N), 1 / N, dtype=torch.float64)
    torch.testing.assert_close(pixels.regions(even)[1], torch.tensor([[0.5, 0.9]]) * AREA, rtol=2 / N, atol=0)
    one = torch.zeros(1, N).scatter(1, torch.tensor([[77]]), 1.0)
    masks, areas = pixels.regions(one)
    assert masks.sum(-1).tolist() == [[1, 1]] and masks[0, 0, 77] and areas[0, 0].item() == pytest.approx(AREA / N)
    assert pixels.regions(torch.empty(0, N))[0].shape == (0, 2, N)


@given(seed=seeds)
def test_the_density_at_shared_locations_is_the_density_of_each_location(seed):
    share, at = some_density(seed), ANCHORS[torch.randint(N, (7,))]
    every = pixels.log_density(share, at)
    assert every.shape == (2, 7)
    for j, place in enumerate(at):
        torch.testing.assert_close(every[:, j], pixels.log_prob(share, place.expand(2, 2)))


def test_samples_are_quantiles():
    """Equally spaced uniform numbers visit each pixel as often as its mass says, to one."""
    share, count = some_density(3), 5000
    uniform = ((torch.arange(count) + 0.5) / count).double().expand(2, count)
    for probs, pixel in zip(share, pixels.sample(share, uniform), strict=True):
        assert (pixel.bincount(minlength=N) - count * probs).abs().max() < 1 + 1e-9
    one = torch.zeros(1, N).scatter(1, torch.tensor([[N - 1]]), 1.0)
    assert pixels.sample(one, torch.tensor([[0.0, 0.5, 1.0]])).tolist() == [[N - 1] * 3]  # 0.0 too


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_sums_of_exponentials_are_right_and_have_no_denormal_numbers(dtype, atol, scale):
    values = scale * torch.randn(3, 192, dtype=dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixels.logsumexp(values), torch.logsumexp(values, dim=-1), rtol=1e-6, atol=atol)
    shares = pixels.softmax(values)
    torch.testing.assert_close(shares, torch.softmax(values, dim=-1), rtol=1e-4, atol=1e-25)
    assert shares.min() > 1e-35 and not torch.isnan(pixels.logsumexp(values)).any()


def test_values_that_are_not_finite_stay_so():
    values = torch.tensor([[0.0, torch.nan], [torch.nan, torch.nan]])
    assert pixels.softmax(values).isnan().all() and pixels.logsumexp(values).isnan().all()
    assert pixels.logsumexp(torch.empty(0, 12)).shape == (0,)
