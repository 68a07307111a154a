"""What a model says about pictures: one interface for one level and for several, and nothing is computed twice."""

import gc
import math
import weakref

import pytest
import torch
from support.calls import count_calls
from support.caps import mass_within
from support.models import KINDS, seeing, tiny, with_prior, zoomed

from locdiff.errors import InputError
from locdiff.model.posterior import LocationPosterior, PixelPosterior
from locdiff.model.refined_posterior import RefinedPosterior
from locdiff.sphere import basins, pixels, shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors

N, T = 12 * 16**2, len(pixels.THRESHOLDS_KM)
every_kind = pytest.mark.parametrize("kind", KINDS)


def embeddings(n):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1))


def somewhere(n):
    return torch.tensor([[90.0, 0.0], [12.0, 179.99], [-41.8, 10.0]], dtype=torch.float64)[:n]


@every_kind
@pytest.mark.parametrize("n", [0, 1, 3])
def test_all_posteriors_answer_everything(kind, n):
    model = KINDS[kind]()
    posterior, at = model.posterior(embeddings(n)), somewhere(n)
    assert isinstance(posterior, LocationPosterior) and len(posterior) == n
    assert isinstance(posterior, RefinedPosterior if "levels" in kind else PixelPosterior)
    assert posterior.pixel_probs.shape == (n, N) and posterior.anchors.shape == (N, 2)
    torch.testing.assert_close(posterior.pixel_probs.sum(dim=1), torch.ones(n), rtol=1e-4, atol=0)
    assert posterior.log_prob(at).shape == (n,) and posterior.log_density(somewhere(2)).shape == (n, 2)
    assert posterior.sample(4, seed=1).shape == (n, 4, 2) and posterior.sample_coeffs(4, seed=1).shape == (n, 4, 64)
    places, probability = posterior.modes(2)
    assert places.shape == (*probability.shape, 2) and len(places) == n and 1 <= probability.shape[1] <= 2
    assert posterior.mass_within(at).shape == (n, T) and posterior.credible_radius(at, (0.1, 0.5, 0.9)).shape == (n, 3)
    best = posterior.best_within()
    assert tuple(best) == pixels.THRESHOLDS_KM
    assert all(place.shape == (n, 2) and mass.shape == (n,) for place, mass in best.values())
    masks, areas = posterior.credible_regions((0.5, 0.9))
    assert masks.shape == (n, 2, N) and areas.shape == (n, 2)
    assert model.sample(embeddings(n), 4, seed=1).shape == (n, 4, 2)


@every_kind
def test_more_modes_begin_with_the_fewer(kind):
    model = KINDS[kind]()
    few, many = model.posterior(embeddings(3)), model.posterior(embeddings(3))
    for one, first in zip(few.modes(1), many.modes(3), strict=True):
        torch.testing.assert_close(one, first[:, :1])
    for before, after in zip(few.modes(3), many.modes(3), strict=True):  # asked for one, then for more
        torch.testing.assert_close(before, after)
    assert (many.modes(3)[1].diff(dim=1) <= 0).all() and many.modes(2)[0].shape[1] <= 2


@every_kind
def test_two_shares_are_as_each_of_them_and_the_larger_reaches_farther(kind):
    posterior = KINDS[kind]().posterior(embeddings(3))
    both = posterior.credible_radius(somewhere(3))
    for i, share in enumerate((0.5, 0.9)):
        assert torch.equal(posterior.credible_radius(somewhere(3), (share,))[:, 0], both[:, i])
    assert (0 < both[:, 0]).all() and (both[:, 0] <= both[:, 1]).all() and (both <= math.pi * 6371.1).all()
    areas = posterior.credible_regions()[1]
    assert (0 < areas[:, 0]).all() and (areas[:, 0] < areas[:, 1]).all()


@every_kind
def test_samples_follow_from_the_seed_and_the_position(kind):
    posterior = KINDS[kind]().posterior(embeddings(3))
    first = posterior.sample(5, seed=3).clone()
    assert torch.equal(posterior.sample(5, seed=3), first)
    assert not torch.equal(posterior.sample(5, seed=4), first) and not torch.equal(first[:, 0], first[:, 1])
    last = KINDS[kind]().posterior(embeddings(3)[2:]).sample(5, seed=3, first=2)
    torch.testing.assert_close(last, first[2:])


@every_kind
@pytest.mark.parametrize("budget", [1e-3, 0.1])
def test_the_memory_budget_changes_batches_and_not_results(kind, budget, megabytes, monkeypatch):
    model, at = KINDS[kind](), somewhere(3)

    def results():
        posterior = model.posterior(embeddings(3))
        best = posterior.best_within()[750]
        return [
            posterior.pixel_probs, posterior.log_prob(at), posterior.log_density(at), posterior.sample(4, seed=1),
            posterior.sample_coeffs(4, seed=1), *posterior.modes(2), posterior.mass_within(at), *best,
            posterior.credible_radius(at), model.sample(embeddings(3), 4, seed=1),
        ]  # fmt: skip

    calls = count_calls(monkeypatch, model.network, "forward")
    whole, evaluations = results(), len(calls)
    model.__dict__.pop("geometries", None)  # whose caches are of the budget's size
    megabytes(budget)
    for before, after in zip(whole, results(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert len(calls) > 2 * evaluations


def test_nothing_is_computed_twice(monkeypatch):
    """One pass of a model of two levels: everything that is asked about three pictures costs one evaluation of each."""
    model = KINDS["two levels"]()
    network, level = (count_calls(monkeypatch, one, "forward") for one in (model.network, model.refinements[0]))
    found = count_calls(monkeypatch, basins, "basins")
    posterior = model.posterior(embeddings(3))
    for _ in range(2):
        posterior.modes(1)
        posterior.best_within()
        posterior.modes(5)
        posterior.modes(400)  # more than there are
        posterior.sample(4, seed=1)
        posterior.sample_coeffs(4, seed=1)
        posterior.sample(2, seed=2)
        posterior.log_prob(somewhere(3))
        posterior.mass_within(somewhere(3))
        posterior.credible_radius(somewhere(3))
        posterior.log_density(somewhere(2))
    assert sum(len(x_t.expand(len(image), -1)) for x_t, _, image in network) == 3
    assert sum(len(cell_index) for _, cell_index in level) == 3 * 3
    assert len(found) == 1


def test_modes_of_one_level_share_their_basins(monkeypatch):
    found = count_calls(monkeypatch, basins, "basins")
    posterior = KINDS["one pass"]().posterior(embeddings(3))
    ascents = count_calls(monkeypatch, posterior, "ascend")
    for k in (1, 1, 3, 400, 400):
        posterior.modes(k)
        posterior.best_within()
    assert len(found) == 1 and len(ascents) == 3


def test_a_chain_runs_once_for_samples_and_their_coefficients(monkeypatch):
    model = KINDS["chain"]()
    posterior = model.posterior(embeddings(3))
    calls = count_calls(monkeypatch, model.network, "forward")
    places, coeffs = posterior.sample(4, seed=1), posterior.sample_coeffs(4, seed=1)
    assert len(calls) == 3
    torch.testing.assert_close(coeffs, shdd.encode(places, 7).float())
    assert torch.equal(places, model.sample(embeddings(3), 4, seed=1))


def test_coefficients_of_samples_are_the_encodings_of_level_0():
    for kind in ("one pass", "two levels"):
        posterior = KINDS[kind]().posterior(embeddings(3))
        places, coeffs = posterior.sample(4, seed=1), posterior.sample_coeffs(4, seed=1)
        places = posterior.base.sample(4, seed=1) if kind == "two levels" else places  # before any cell moves them
        assert torch.isin(places, posterior.anchors).all()
        torch.testing.assert_close(coeffs, shdd.encode(places, 7).float())


def test_the_density_of_a_location_is_that_of_its_pixel():
    """A model trained by likelihood knows it between the pixels; at their centers both agree, and any model has one."""
    by_likelihood = with_prior(2 * shdd.encode(torch.tensor([[48.9, 2.4]]), 7).float()[0])
    for model in (by_likelihood, tiny(loss="l2")):
        posterior, places = model.posterior(torch.zeros(9, 5)), model.grid.anchors[100:1000:100]
        expected = (posterior.pixel_probs[0, 100:1000:100] * N / (4 * math.pi)).log()
        torch.testing.assert_close(posterior.log_prob(places).double(), expected.double(), rtol=0, atol=1e-3)
        torch.testing.assert_close(posterior.log_density(places)[0], expected, rtol=0, atol=1e-4)


def test_what_one_level_says_is_read_off_its_pixels():
    model, at = KINDS["one pass"](), somewhere(3)
    posterior = model.posterior(embeddings(3))
    probs, anchors = posterior.pixel_probs, healpix_anchors(16)
    values = model.objective.on_pixels(model.one_pass(embeddings(3)), model.grid)
    torch.testing.assert_close(probs, model.objective.pixel_probs(values))
    within = mass_within(probs, anchors, at, pixels.THRESHOLDS_KM)
    torch.testing.assert_close(posterior.mass_within(at).double(), within, rtol=0, atol=1e-5)
    for i, radius in enumerate(posterior.credible_radius(at, (0.3,))[:, 0].tolist()):
        less, enough = mass_within(probs[i : i + 1], anchors, at[i : i + 1], (radius - 1, radius))[0]
        assert less < 0.3 + 1e-5 and enough > 0.3 - 1e-5
    places, probability = posterior.modes(2)
    pixel, mass = basins.modes(probs, 2, basins.basins(probs, is_smooth=True))
    assert torch.equal(probability, mass) and (great_circle_km(places, anchors[pixel]) < 700).all()
    for k, (place, best) in posterior.best_within().items():
        if k >= 2500:  # dozens of pixels
            own = mass_within(probs, anchors, place, (k,))[:, 0]
            torch.testing.assert_close(best.double(), own, rtol=0.1, atol=0)


def test_a_posterior_is_freed_with_its_last_name():
    """Not at the next garbage collection: a stream of posteriors would fill the memory."""
    gc.collect()
    gc.disable()
    try:
        for model in (KINDS["one pass"](), zoomed(noise=0.5, sample_steps=1)):
            posterior = model.posterior(embeddings(3))
            posterior.sample(2), posterior.modes(), posterior.best_within()
            known = weakref.ref(posterior)
            del posterior
            assert known() is None
    finally:
        gc.enable()


def test_what_is_given_out_is_not_what_is_remembered():
    posterior = KINDS["one pass"]().posterior(embeddings(3))
    for ask in (lambda: posterior.sample(4), lambda: posterior.sample_coeffs(4), lambda: posterior.modes(2)[0]):
        first = ask().clone()
        ask().add_(1)
        assert torch.equal(ask(), first)


@pytest.mark.parametrize("ask", ["log_prob", "mass_within", "credible_radius"])
def test_several_locations_a_picture_are_refused(ask):
    for model in (KINDS["one pass"](), zoomed(noise=0.5, sample_steps=1)):
        posterior = model.posterior(embeddings(3))
        for wrong in (somewhere(2), somewhere(3)[:, None].expand(3, 3, 2), somewhere(3)[:, :1]):
            with pytest.raises(InputError, match="need one location for each of 3 pictures, got shape"):
                getattr(posterior, ask)(wrong)


EVERY_KIND = [*KINDS.values(), lambda: zoomed(noise=0.5, sample_steps=1)]


@pytest.mark.parametrize("make", EVERY_KIND)
def test_what_is_no_location_share_or_number_of_modes_is_refused(make):
    posterior = make().posterior(embeddings(3))
    for lat, lon in ((math.nan, 0.0), (120.0, 0.0), (0.0, 500.0), (0.0, -math.inf)):
        for ask in (posterior.log_prob, posterior.mass_within, posterior.credible_radius, posterior.log_density):
            with pytest.raises(InputError, match=r"outside|must be finite"):
                ask(torch.tensor([[0.0, 0.0], [lat, lon], [0.0, 0.0]]))
    for shares in ((0.0,), (0.5, 1.0), (2,), (-0.1, 0.5), (math.nan,), ()):
        for ask in (posterior.credible_regions, lambda s: posterior.credible_radius(somewhere(3), s)):
            with pytest.raises(InputError, match="shares must lie above 0 and below 1"):
                ask(shares)
    posterior.modes(3)
    for k in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"need a whole number of modes, at least 1, got {k}"):
            posterior.modes(k)


@pytest.mark.parametrize("make", EVERY_KIND)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_said_of_locations_has_the_same_type_for_all_types_of_locations(make, dtype):
    posterior, at = make().posterior(embeddings(3)), somewhere(3).to(dtype)
    assert posterior.log_prob(at).dtype == posterior.log_density(at).dtype == torch.float32
    assert posterior.mass_within(at).dtype == torch.float32 and posterior.credible_radius(at).dtype == torch.float64


@pytest.mark.parametrize("make", [seeing, zoomed])
def test_pixels_wider_than_every_threshold_leave_the_mode(make):
    model = make(decoder_nside=1)
    posterior = model.posterior(torch.randn(2, 5))
    mode = posterior.modes()[0][:, 0]
    best = posterior.best_within()
    assert list(best) == [1, 25, 200, 750, 2500]
    for place, mass in best.values():
        torch.testing.assert_close(place, mode)
        assert ((mass >= 0) & (mass <= 1)).all()


def test_no_two_modes_of_one_level_are_the_same_location():
    """Two pixels may lead up to one mode: together they are its basin."""
    posterior = KINDS["one pass"]().posterior(100 * embeddings(40))
    places, probability = posterior.modes(8)
    apart = great_circle_km(places[:, :, None], places[:, None]) + 1e5 * torch.eye(places.shape[1])
    there = (probability[:, :, None] > 0) & (probability[:, None] > 0)
    assert apart[there].min() > 100
    torch.testing.assert_close(posterior.modes(400)[1].sum(dim=1), torch.ones(40), rtol=1e-4, atol=1e-4)
