"""The prior, and the two numbers that say how much the network is trusted."""

import math

import numpy as np
import pytest
import torch
from support.models import seeing, tiny, zoomed

from locdiff.model import held_out
from locdiff.model.calibration import MOST, Calibration, fit_broad, fit_scale
from locdiff.model.location_prior import FOLDS, ROUGHNESS, fit_prior, prior_of
from locdiff.model.refinement import LowRankHeadLevel, calibrate_level, cell_priors
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import from_unit_vector
from locdiff.sphere.healpix import HealpixTransform

GRID = HealpixTransform(5, 16)


def places(n, seed=0, center=(1.0, 0.0, 0.5)):
    generator = torch.Generator().manual_seed(seed)
    return from_unit_vector(torch.randn(n, 3, generator=generator, dtype=torch.float64) + torch.tensor(center))


def test_the_prior_is_where_the_penalized_likelihood_is_stationary():
    """E_q[Y] - mean of Y + ROUGHNESS l (l + 1) e / n = 0; with few locations the last is not small."""
    lat_lon = places(20)
    sums = shdd.encode(lat_lon, 5).sum(dim=0, keepdim=True)
    e, mean = fit_prior(GRID, sums, torch.tensor([20.0]))[0], sums[0].float() / 20
    degree = torch.arange(6).repeat_interleave(2 * torch.arange(6) + 1)
    gradient = GRID.log_partition_and_mean(e)[1] - mean + ROUGHNESS * degree * (degree + 1) * e / 20
    assert gradient.abs().max() < 1e-3 and e.norm() > 1


def test_the_prior_is_as_sharp_as_locations_of_other_photographers_allow():
    """Each photographer's locations are near one another: by single locations the density looks sharper than it is."""
    generator = torch.Generator().manual_seed(3)
    homes = places(40)
    lat_lon = (homes.repeat_interleave(10, dim=0) + torch.randn(400, 2, generator=generator)).clamp(-89, 89)
    lat_lon[:, 1] = (lat_lon[:, 1] + 180) % 360 - 180
    names = [str(i // 10) for i in range(400)]
    alone, grouped = prior_of(lat_lon, 5), prior_of(lat_lon, 5, photographers=names)
    factor = (grouped @ alone / (alone @ alone)).item()
    assert factor < 0.9
    torch.testing.assert_close(grouped, factor * alone, atol=0.01, rtol=0)
    order = torch.randperm(400, generator=generator)
    shuffled = prior_of(lat_lon[order], 5, photographers=[names[i] for i in order])
    torch.testing.assert_close(shuffled, grouped, atol=1e-3, rtol=0)

    groups = np.random.default_rng(0).permutation(40)[np.unique(names, return_inverse=True)[1]] % FOLDS
    groups = torch.from_numpy(groups)

    def held_out(times):
        total = 0.0
        for k in range(FOLDS):
            inside = shdd.encode(lat_lon[groups != k], 5).sum(dim=0, keepdim=True)
            e = times * fit_prior(GRID, inside, (groups != k).sum()[None].float())
            total += (shdd.encode(lat_lon[groups == k], 5).float() @ e[0] - GRID.log_partition(e)).sum().item()
        return total

    best = max(range(1, 101), key=lambda k: held_out(k / 100)) / 100
    full = fit_prior(GRID, shdd.encode(lat_lon, 5).sum(dim=0, keepdim=True), torch.tensor([400.0]))[0]
    assert (grouped @ full / (full @ full)).item() == pytest.approx(best, abs=0.02)


def test_one_photographer_is_no_group_and_two_are_never_in_the_same_fold():
    lat_lon = torch.cat([places(65, center=(8.0, 0.0, 0.0)), places(65, center=(-8.0, 0.0, 0.0))])  # far apart
    alone, one = prior_of(lat_lon, 5), prior_of(lat_lon, 5, photographers=["a"] * 130)
    torch.testing.assert_close(one, alone)
    assert prior_of(lat_lon, 5, photographers=["a"] * 65 + ["b"] * 65).norm() < 0.1 * alone.norm()


def test_without_locations_the_prior_is_uniform_and_more_of_them_sharpen_it():
    none = fit_prior(GRID, torch.zeros(1, 36), torch.zeros(1))
    assert none.abs().max() < 1e-6
    few, many = prior_of(places(5), 5), prior_of(places(5).repeat(100, 1), 5)
    assert few.norm() < many.norm()


@pytest.mark.parametrize("l_max", [5, 3])
@pytest.mark.parametrize("true", [0.5, 2.0, 0.0])
def test_the_calibration_finds_how_far_to_trust_the_network(true, l_max):
    """Locations sampled from tau f + e_prior, of which f may have fewer degrees, lead to tau."""
    generator, dimensions = torch.Generator().manual_seed(1), (l_max + 1) ** 2
    f, calibration = torch.randn(6000, dimensions, generator=generator) * 0.7, Calibration(l_max, 5, 16)
    calibration.set_prior(prior_of(places(400), 5))
    whole = torch.nn.functional.pad(true * f, (0, 36 - dimensions)) + calibration.prior
    probs = torch.softmax(GRID.synthesis(whole), dim=-1)
    lat_lon = GRID.anchors[torch.multinomial(probs, 1, generator=generator)[:, 0]]
    log_prob = calibration.fit(calibration.complete(calibration(f)), lat_lon, 16)
    torch.testing.assert_close(calibration.scale, torch.tensor([true, 1.0]), atol=0.1, rtol=0.1)
    e = calibration.complete(calibration(f))
    assert torch.equal(e[:, dimensions:], calibration.prior[dimensions:].expand(6000, -1))
    expected = (e * shdd.encode(lat_lon, 5).float()).sum(dim=-1) - GRID.log_partition(e)
    torch.testing.assert_close(log_prob.float(), expected, atol=1e-3, rtol=1e-3)  # there, pixels have means


def test_values_at_pixels_are_those_of_all_degrees():
    """Also of a density that is a multiple of the prior, and after another prior was set."""
    calibration = Calibration(3, 8, 16)
    for seed in range(2):
        calibration.set_prior(torch.randn(81, generator=torch.Generator().manual_seed(seed)))
        calibration.scale[1] = 0.7
        e = torch.cat([calibration.complete(torch.randn(3, 16)), 0.3 * calibration.prior[None]])
        picture, pixel = np.arange(8) % 4, np.arange(0, 3072, 400)
        values = HealpixTransform(8, 16).synthesis(e)[picture, pixel]
        found = calibration.synthesis_of_pixels(e, picture, 16, pixel)
        np.testing.assert_allclose(found, values, rtol=0, atol=2e-5)


def test_a_network_that_is_wrong_everywhere_is_not_trusted_at_all():
    f = torch.randn(2000, 36, generator=torch.Generator().manual_seed(0))
    calibration = Calibration(5, 5, 16)
    calibration.set_prior(prior_of(places(2000), 5))
    calibration.fit(f + calibration.prior, places(2000), 16)
    assert calibration.scale[0] < 0.1


def test_tau_is_bounded_where_it_is_asked_to_be():
    lat_lon = places(1000)
    coeffs, calibration = shdd.encode(lat_lon, 5).float(), Calibration(5, 5, 16)
    for most in (1.0, 1.5):
        calibration.scale.fill_(1)
        calibration.fit(0.5 * coeffs, lat_lon, 16, most)
        assert calibration.scale[0] == most


def test_tau_stays_finite_where_every_location_is_the_pole_between_the_centers_of_pixels():
    lat_lon = torch.tensor([[90.0, 0.0]]).repeat(20, 1)
    calibration = Calibration(5, 5, 16)
    log_prob = calibration.fit(shdd.encode(lat_lon, 5).float(), lat_lon, 16)
    assert calibration.scale[0] == MOST and log_prob.isfinite().all()


def sampled(e, share=0.0, factor=1.0, seed=0):
    """The encodings of one location for each e (n, 36), sampled from (1 - share) q_e + share q_{factor e}."""
    generator = torch.Generator().manual_seed(seed)
    broad = torch.rand(len(e), 1, generator=generator) < share
    probs = torch.softmax(GRID.synthesis(torch.where(broad, factor * e, e)), dim=-1)
    return shdd.encode(GRID.anchors[torch.multinomial(probs, 1, generator=generator)[:, 0]], 5).float()


def test_the_broad_part_is_found():
    """Locations of which 30 % are sampled from a broader density; the sharp part is sharper than e says."""
    e = 2 * torch.randn(4000, 36, generator=torch.Generator().manual_seed(1))
    sharp, share, factor = fit_broad(e / 1.5, sampled(e, 0.3, 0.2), GRID)
    assert sharp == pytest.approx(1.5, rel=0.3) and share == pytest.approx(0.3, abs=0.12)
    assert sharp * factor == pytest.approx(0.3, abs=0.15)


def test_the_broad_part_raises_the_likelihood_by_what_the_mixture_says():
    e = 2 * torch.randn(1000, 36, generator=torch.Generator().manual_seed(1))
    coeffs = sampled(e, 0.3, 0.2)
    sharp, share, factor = fit_broad(e, coeffs, GRID)

    def log_prob(natural):
        return (natural * coeffs).sum(dim=-1) - GRID.log_partition(natural)

    mixed = torch.logaddexp(log_prob(sharp * e) + math.log(1 - share), log_prob(sharp * factor * e) + math.log(share))
    assert mixed.mean() > log_prob(e).mean() + 0.05


@pytest.mark.parametrize("n", [0, 3, 3000])
def test_without_need_there_is_no_broad_part(n):
    e = torch.randn(n, 36, generator=torch.Generator().manual_seed(2))
    assert fit_broad(e, sampled(e, seed=5) if n else torch.empty(0, 36), GRID) == (1.0, 0.0, 1.0)


def test_a_diverged_network_has_no_broad_part():
    e = torch.full((50, 36), torch.nan)
    assert fit_broad(e, sampled(torch.randn(50, 36)), GRID) == (1.0, 0.0, 1.0)


def test_the_scale_is_the_best_that_is_not_negative():
    start = torch.tensor([1.0, 1.0])
    assert torch.equal(fit_scale(lambda scale: scale.sum() * torch.nan, start), start)
    found = fit_scale(lambda scale: (scale - torch.tensor([0.3, -2.0])).square().sum(), start)
    torch.testing.assert_close(found, torch.tensor([0.3, 0.0]), atol=1e-3, rtol=0)


def test_a_level_is_calibrated_by_locations_in_its_cells():
    """A level whose readout is far too sharp loses that sharpness, and its likelihood rises."""
    model, lat_lon = tiny(levels=2, cells=(768,), zoom_l_max=3, zoom_width=4, zoom_rank=1), places(300)
    level = model.refinements[0]
    assert isinstance(level, LowRankHeadLevel)
    level.cell_id.copy_(torch.arange(768))
    level.prior.copy_(cell_priors(level, lat_lon))
    assert level.prior.isfinite().all() and level.prior.abs().max() > 0.01
    torch.nn.init.normal_(level.head.weight, std=2000.0)  # far beyond where it is clipped
    features = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    before = level.validation_nats(features, lat_lon).mean()
    calibrate_level(level, features, lat_lon)
    assert level.scale[0] < 0.2 and level.validation_nats(features, lat_lon).mean() > before
    assert math.isfinite(before)


def test_a_network_that_has_diverged_leaves_the_calibration_as_it_was():
    calibration = Calibration(5, 5, 16)
    log_prob = calibration.fit(torch.full((10, 36), torch.nan), places(10), 16)
    assert calibration.scale.tolist() == [1, 1] and log_prob.isnan().all()


@pytest.mark.parametrize("make", [seeing, zoomed])
def test_calibrating_a_model_raises_the_likelihood_of_the_pictures_kept_apart(make):
    """Also with a broad part, which these locations need: half of them have nothing to do with the picture."""
    model, generator = make(), torch.Generator().manual_seed(0)
    embeddings = torch.randn(600, 5, generator=generator)
    places = model.posterior(embeddings).sample(1, seed=4)[:, 0]
    anywhere = model.grid.anchors[torch.randint(len(model.grid.anchors), (600,), generator=generator)]
    lat_lon = torch.where(torch.rand(600, 1, generator=generator) < 0.5, places, anywhere.to(places))
    before = model.posterior(embeddings).log_prob(lat_lon).mean()
    held_out.calibrate(model, embeddings, lat_lon)
    posterior, (share, factor) = model.posterior(embeddings), model.objective.broad.tolist()
    assert posterior.log_prob(lat_lon).mean() > before and 0.1 < share < 0.9 and 0 < factor < 1
    torch.testing.assert_close(posterior.pixel_probs.sum(dim=-1), torch.ones(600), rtol=0, atol=1e-4)
