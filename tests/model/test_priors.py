"""Another prior: Bayes' rule, for all kinds of posteriors."""

import math

import numpy as np
import pytest
import torch
from support.models import seeing, sure_of, tiny, with_prior, zoomed

from locdiff.data.regions import box
from locdiff.errors import InputError
from locdiff.model import priors
from locdiff.model.location_prior import prior_of
from locdiff.sphere import shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.healpix import healpix_anchors

CENTER = healpix_anchors(8)[300]
KINDS = {
    "one pass": lambda: seeing(sample_steps=1),
    "regression": lambda: seeing(loss="l2", sample_steps=2),
    "two levels": lambda: zoomed(range(0, 768, 2), noise=0.5, zoom_into=3, sample_steps=1),
    "three levels": lambda: sure_of(CENTER, 40, zoom_into=2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
AT = torch.tensor([[14.0, -44.0], [12.0, 179.99], [-41.8, 10.0]], dtype=torch.float64)


def posterior_of(kind, n=3):
    return KINDS[kind]().posterior(torch.randn(n, 5, generator=torch.Generator().manual_seed(1)))


def hill(grid, lat, lon, height=3.0):
    """The prior of one place, as wide as half the Earth."""
    e = torch.zeros((grid.l_max + 1) ** 2)
    e[:9] = height * shdd.encode(torch.tensor([lat, lon]), 2).float()
    return priors.of_natural_params(f"{lat}, {lon}", e, grid)


def same(one, other, atol=1e-5):
    torch.testing.assert_close(one.pixel_probs, other.pixel_probs, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(one.log_prob(AT), other.log_prob(AT), rtol=0, atol=1e-3)
    torch.testing.assert_close(one.mass_within(AT), other.mass_within(AT), rtol=1e-3, atol=atol)
    torch.testing.assert_close(one.modes(2)[1], other.modes(2)[1], rtol=1e-3, atol=1e-3)
    if one.base.objective.is_natural:  # others have modes at the centers of pixels
        torch.testing.assert_close(one.modes(2)[0], other.modes(2)[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.credible_radius(AT), other.credible_radius(AT), rtol=0, atol=1.1)


@every_kind
def test_the_same_prior_changes_nothing(kind):
    posterior = posterior_of(kind)
    old = hill(posterior.grid, 30.0, 40.0)
    same(posterior.reweighted(hill(posterior.grid, 30.0, 40.0), old), posterior)


@every_kind
def test_two_steps_are_one_and_back_is_where_it_began(kind):
    posterior = posterior_of(kind)
    a, b, c = (hill(posterior.grid, *at) for at in ((30.0, 40.0), (-20.0, 150.0, 8.0), (10.0, -60.0)))
    same(posterior.reweighted(b, a).reweighted(c, b), posterior.reweighted(c, a))
    same(posterior.reweighted(b, a).reweighted(a, b), posterior)
    region = box("-50,-100,60,60")
    same(posterior.reweighted(b, a).within(region), posterior.within(region).reweighted(b, a))


@every_kind
def test_it_is_bayes_rule_pixel_by_pixel(kind):
    posterior = posterior_of(kind)
    new, old = hill(posterior.grid, 10.0, -60.0), hill(posterior.grid, 30.0, 40.0)
    given = posterior.reweighted(new, old)
    assert old.density.mean().item() == pytest.approx(1) and old.density.max() > 2
    mixed = [(1 - priors.SHARE) * one.density + priors.SHARE for one in (new, old)]
    wanted = posterior.pixel_probs * (mixed[0] / mixed[1]).float()
    wanted /= wanted.sum(dim=1, keepdim=True)
    levels = kind in ("two levels", "three levels")  # whose points lie anywhere in a pixel
    torch.testing.assert_close(given.pixel_probs, wanted, rtol=0.1 if levels else 1e-4, atol=1e-3 if levels else 1e-8)
    pixel = torch.tensor([100, 1500, 2900])
    log = posterior.log_prob(posterior.anchors[pixel]).double() + (mixed[0] / mixed[1]).log()[pixel] - given.log_mass
    torch.testing.assert_close(given.log_prob(posterior.anchors[pixel]).double(), log, rtol=0, atol=1e-4)
    samples = given.sample(4000, seed=1)
    found = np.bincount(shdd_band(samples[0]), minlength=6) / 4000
    anchors = np.bincount(shdd_band(posterior.anchors), given.pixel_probs[0].double().numpy(), 6)
    np.testing.assert_allclose(found, anchors, atol=0.04)


def shdd_band(lat_lon):
    """Which of six bands of longitude locations lie in."""
    return ((lat_lon[:, 1] + 180) / 60).long().clamp(0, 5).numpy()


def test_what_the_prior_says_is_all_that_is_said_by_a_picture_that_says_nothing():
    """The posterior is the old prior; by the new one it is that, which a model with it as its density also says."""
    e, f = (3 * shdd.encode(torch.tensor(at), 7).float() for at in ((48.9, 2.4), (-20.0, 60.0)))
    e[16:], f[16:] = 0, 0
    old, new = (with_prior(one, decoder_nside=64, prior_l_max=0).posterior(torch.zeros(1, 5)) for one in (e, f))
    given = old.reweighted(*(priors.of_natural_params("", one, old.grid) for one in (f, e)))
    torch.testing.assert_close(given.pixel_probs, new.pixel_probs, rtol=0.3, atol=1e-4)  # but for the bound
    assert great_circle_km(given.modes()[0][0], new.modes()[0][0]).item() < 60  # half a pixel: the factor has edges
    top = given.modes()[0][:, 0]
    for step in torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]]):
        assert given.log_prob(top + step) < given.log_prob(top) + 0.01


@pytest.mark.parametrize("region", [None, "-20,-60,40,60"])
def test_no_place_near_a_mode_is_denser(region):
    """Also of a mixture: the factor changes a share of the density that is broader than the rest."""
    model = seeing(std=0.3, sample_steps=1, decoder_nside=32)
    model.objective.broad.copy_(torch.tensor([0.3, 0.4]))
    posterior = model.posterior(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))
    given = posterior.reweighted(hill(posterior.grid, 10.0, -60.0, 8.0), hill(posterior.grid, 30.0, 40.0, 8.0))
    given = given.within(box(region)) if region else given
    modes = given.modes()[0][:, 0].double()
    top, angle = given.log_prob(modes), torch.arange(0, 360, 30).double() - 180
    assert top.isfinite().all()
    for km in (1, 5, 20):
        lat = torch.full_like(angle, 90 - math.degrees(km / EARTH_RADIUS_KM))
        around = zoom.zoom_out(torch.stack([lat, angle], dim=1), modes[:, None], 1.0)
        for places in around.unbind(1):
            assert (given.log_prob(places) <= top + 1e-3).all()


def test_the_factor_is_bounded_where_the_old_prior_is_nearly_zero():
    grid = seeing().grid
    sharp, even = hill(grid, 0.0, 0.0, 60.0), priors.uniform(grid)
    ratio = priors.log_ratio(even, sharp)
    assert sharp.density.min() < 1e-9 and ratio.max().exp().item() == pytest.approx(1 / priors.SHARE, rel=1e-3)
    torch.testing.assert_close(priors.log_ratio(sharp, even), -ratio)


def test_the_density_of_places_is_estimated_as_that_of_the_training_places():
    model, lat_lon = seeing(), torch.tensor([[10.0, 20.0], [12.0, 25.0], [-30.0, 100.0]]).repeat(30, 1)
    model.calibration.set_prior(prior_of(lat_lon, model.grid.l_max))
    one, other = model.prior, model.prior_of("places", lat_lon)
    torch.testing.assert_close(one.density, other.density)
    assert priors.log_ratio(one, other).abs().max() < 1e-6 and one.density.max() > 5 and other.name == "places"


def test_models_without_a_prior_say_so():
    for model in (seeing(loss="l2"), tiny()):
        for ask in (lambda model=model: model.prior, lambda model=model: model.prior_of("places", torch.zeros(3, 2))):
            with pytest.raises(
                InputError, match=r"the model holds no density of its training places.*; train it again"
            ):
                ask()


def test_a_prior_of_a_region_is_zero_outside():
    posterior, region = posterior_of("one pass"), box("10,-60,60,30")
    given = posterior.reweighted(priors.uniform(posterior.grid, "box", region), priors.uniform(posterior.grid))
    same_as = posterior.within(region)
    torch.testing.assert_close(given.pixel_probs, same_as.pixel_probs)
    assert given.log_prob(AT)[1] == -math.inf
