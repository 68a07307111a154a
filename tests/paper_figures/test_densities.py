"""The densities of the other families: that they are densities, that samples and ranks follow them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.cells import CellClassifier, Partition, spread
from methods.densities import (
    NSIDE,
    PixelDensities,
    VonMisesFisherMixture,
    WithPrior,
    log_mixture,
)
from methods.density_baseline import SHARES, best_share, prior_probs
from methods.encoding_diffusion import EncodingDiffusion
from methods.flow_matching import FlowDensities, FlowMatching, divergence, geodesic
from methods.gallery import GalleryDensities, kernels
from methods.von_mises_fisher import VonMisesFisher
from support.embeddings import embedded, scattered
from support.models import tiny_config
from support.strategies import places
from support.tolerances import close_km
from torch import nn

from locdiff import options
from locdiff.model.config import ModelConfig
from locdiff.model.whitening import Whitening
from locdiff.sphere.coordinates import from_unit_vector, great_circle_km, tangents, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors

TINY = tiny_config()
POLES = torch.tensor([[90.0, 0.0], [-90.0, 0.0], [0.0, 180.0], [12.0, -180.0]], dtype=torch.float64)


def mixture(n=4, k=3, kappa=30.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    centers = nn.functional.normalize(torch.randn(n, k, 3, generator=random, dtype=torch.float64), dim=-1)
    log_weights = torch.randn(n, k, generator=random, dtype=torch.float64).log_softmax(dim=-1)
    return VonMisesFisherMixture(log_weights, centers, torch.full((n, k), kappa))


def integral(densities, nside=64):
    """Return the integral of each density over the sphere, (n,)."""
    points = healpix_anchors(nside)
    return densities.log_prob(points.expand(len(densities), -1, 2)).exp().mean(dim=1) * 4 * math.pi


@pytest.mark.parametrize("kappa", [1e-6, 1e-3, 1.0, 50.0, 500.0])
def test_a_mixture_is_a_density_and_its_samples_follow_it(kappa):
    densities = mixture(kappa=kappa)
    torch.testing.assert_close(integral(densities, 128), torch.ones(4, dtype=torch.float64), rtol=1e-3, atol=0)
    samples = densities.sample(4000, seed=1)
    xyz = to_unit_vector(samples).mean(dim=1)
    resultant = 1 / math.tanh(kappa) - 1 / kappa if kappa > 1e-2 else kappa / 3
    expected = resultant * (densities.log_weights.exp()[..., None] * densities.centers).sum(dim=1)
    torch.testing.assert_close(xyz, expected, rtol=0, atol=0.04)
    assert torch.equal(densities.sample(4, seed=1), densities.sample(4, seed=1))
    torch.testing.assert_close(densities.sample(5, seed=2, first=0)[:, 0].shape, (4, 2), check_dtype=False)


def test_the_best_place_within_a_distance_holds_most_of_the_density():
    """Of two hills, the sharper one is best near and the heavier one far; below a pixel the family's own place is."""
    centers = to_unit_vector(torch.tensor([[[10.0, 170.0], [60.0, -20.0]]], dtype=torch.float64))
    log_weights = torch.tensor([[0.4, 0.6]]).log()
    densities = VonMisesFisherMixture(log_weights, centers, torch.tensor([[1e5, 60.0]]))
    own = torch.tensor([[1.0, 2.0]])
    for asked in (densities, WithPrior(densities, torch.full((12 * NSIDE**2,), 1 / (12 * NSIDE**2)), 1e-4)):
        found = asked.best_within(own)
        assert found.shape == (1, 5, 2) and torch.equal(found[0, :2], own.double().expand(2, 2))
        assert great_circle_km(found[0, 2], from_unit_vector(centers[0, 0])) < 60
        assert great_circle_km(found[0, 4], from_unit_vector(centers[0, 1])) < 900
    assert torch.equal(densities.best_within(own, 1), densities.best_within(own, 1))


@given(place=places)
def test_a_narrow_component_has_the_density_of_a_plane(place):
    """At its center a component of kappa has kappa / 2 pi, at a distance d that times exp(-kappa d^2 / 2)."""
    center, kappa = to_unit_vector(torch.tensor([[place]], dtype=torch.float64)), 1e8
    one = VonMisesFisherMixture(torch.zeros(1, 1), center, torch.tensor([[kappa]]))
    here = from_unit_vector(center)[:, 0]
    assert one.log_prob(here).item() == pytest.approx(math.log(kappa / (2 * math.pi)), abs=1e-6)
    east, _ = tangents(center)
    there = from_unit_vector(nn.functional.normalize(center + 2e-4 * east, dim=-1))[:, 0]
    assert one.log_prob(there).item() == pytest.approx(math.log(kappa / (2 * math.pi)) - 2, abs=1e-3)
    assert great_circle_km(one.sample(20)[0], here).max() < 6371 * 1e-4 * 6


def test_ranks_of_samples_are_uniform_and_the_mode_ranks_first():
    densities = mixture(n=400, k=2, kappa=100.0)
    rank = densities.rank(densities.sample(1, seed=5)[:, 0])
    assert abs((rank < 0.5).double().mean() - 0.5) < 0.08 and abs((rank < 0.9).double().mean() - 0.9) < 0.06
    best = from_unit_vector(densities.centers[torch.arange(400), densities.log_weights.argmax(dim=1)])
    assert densities.rank(best).max() < 0.2
    assert densities.rank(-best).mean() > 0.6
    assert ((rank > 0) & (rank < 1)).all()


def test_a_share_of_the_prior_is_a_mixture_with_it():
    prior = prior_probs(embedded(scattered(200)), 5)
    assert prior.shape == (12 * NSIDE**2,) and prior.sum().item() == pytest.approx(1, abs=1e-4)
    own, at = mixture(), scattered(4, seed=3)[:4]
    mixed = WithPrior(own, prior, 0.3)
    expected = (0.7 * own.log_prob(at).exp() + 0.3 * mixed.prior.log_prob(at).exp()).log()
    torch.testing.assert_close(mixed.log_prob(at), expected)
    torch.testing.assert_close(WithPrior(own, prior, 0.0).log_prob(at), own.log_prob(at))
    samples = mixed.sample(3000)
    other = mixed.prior.sample(3000)
    share = (samples == other).all(dim=-1).double().mean()
    assert abs(share - 0.3) < 0.03
    pixel = PixelDensities(torch.rand(4, 12 * NSIDE**2, generator=torch.Generator().manual_seed(0)).softmax(dim=1))
    both = WithPrior(pixel, prior, 0.5)
    expected = PixelDensities((pixel.pixel_probs + prior) / 2)
    torch.testing.assert_close(both.rank(at), expected.rank(at))
    torch.testing.assert_close(both.log_prob(at).float(), expected.log_prob(at), rtol=1e-4, atol=1e-4)


def test_the_share_of_the_prior_is_that_of_the_largest_likelihood():
    random = torch.Generator().manual_seed(0)
    own = torch.where(torch.rand(4000, generator=random) < 0.1, -30.0, 2.0)  # a tenth are missed
    share, value = best_share(own, torch.full((4000,), -2.5))
    assert share == min(SHARES, key=lambda s: abs(math.log(s / 0.1)))
    assert value == pytest.approx(0.9 * (2 + math.log1p(-share)) + 0.1 * (math.log(share) - 2.5), abs=0.05)


@pytest.mark.parametrize("turned", [False, True])
def test_cells_spread_over_the_pixels_that_they_cover(turned):
    lat_lon = torch.cat([scattered(300), POLES])
    partitions = [Partition(lat_lon, n_max, seed if turned else None) for seed, n_max in enumerate((40, 12))]
    torch.manual_seed(0)
    model = CellClassifier(TINY, partitions, lat_lon)
    columns = torch.sparse.sum(spread(partitions, model.members, model.places), dim=0).to_dense()
    torch.testing.assert_close(columns, torch.ones(len(model.members)), rtol=1e-4, atol=1e-4)
    densities = model.densities(torch.randn(3, 5), 1.0)
    torch.testing.assert_close(densities.pixel_probs.sum(dim=1), torch.ones(3), rtol=1e-4, atol=1e-4)
    probability = model.log_probability(torch.zeros(1, 5)).exp()[0]
    if not turned:  # a cell of untilted partitions is a HEALPix pixel: even within
        big = int(np.argmax(partitions[1].ends - partitions[1].starts))
        inside = partitions[1].find(healpix_anchors(NSIDE)) == big
        own = model.densities(torch.zeros(1, 5), 1.0).pixel_probs[0, inside]
        candidate = int((model.members[:, 1] == big).nonzero()[0, 0])
        torch.testing.assert_close(own, (probability[candidate] / inside.sum()).expand(len(own)))
    sharp = model.densities(torch.randn(3, 5), 1e4).pixel_probs
    assert (sharp > 0).sum() < (densities.pixel_probs > 0).sum()


def test_the_loss_of_a_von_mises_fisher_head_is_minus_its_log_density():
    torch.manual_seed(0)
    for components in (1, 4):
        model, embeddings, lat_lon = VonMisesFisher(TINY, components).eval(), torch.randn(8, 5), scattered(8)[-8:]
        loss = model.loss(embeddings, lat_lon)
        with torch.no_grad():
            densities = model.densities(embeddings, 1.0)
        torch.testing.assert_close(-loss.double(), densities.log_prob(lat_lon), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(integral(densities), torch.ones(8, dtype=torch.float64), rtol=1e-3, atol=0)
        (gradient,) = torch.autograd.grad(loss.sum(), model.network[-1].bias)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
    with torch.no_grad():
        model.network[-1].bias[4:8] += 1e4  # kappa has a largest value
        assert model.loss(embeddings, lat_lon).isfinite().all()


def test_geodesics_join_their_ends_at_constant_speed():
    x_0, x_1 = (to_unit_vector(scattered(60, seed=seed)[-50:]) for seed in (1, 2))
    x_1[:2] = x_0[:2]  # the same place
    x_1[2] = -x_0[2]
    angle = (x_0 * x_1).sum(dim=-1, keepdim=True).clamp(-1, 1).acos()
    for t in (0.0, 0.3, 1.0):
        x, velocity = geodesic(x_0, x_1, torch.full((50, 1), t, dtype=torch.float64))
        assert x.isfinite().all() and velocity.isfinite().all()
        torch.testing.assert_close(velocity[3:].norm(dim=-1, keepdim=True), angle[3:], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close((x * velocity).sum(dim=-1), torch.zeros(50).double(), rtol=0, atol=1e-9)
        later, _ = geodesic(x_0, x_1, torch.full((50, 1), t + 1e-6, dtype=torch.float64))
        torch.testing.assert_close((later - x)[3:] / 1e-6, velocity[3:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x[3:], x_1[3:])
    torch.testing.assert_close(geodesic(x_0, x_1, torch.zeros(50, 1))[0], x_0)


def test_the_divergence_of_known_fields():
    x = to_unit_vector(torch.cat([scattered(20), POLES]))
    axis = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64)
    value, flat = divergence(lambda x: torch.linalg.cross(axis.expand_as(x), x, dim=-1), x)  # a rotation
    torch.testing.assert_close(flat, torch.zeros_like(flat), rtol=0, atol=1e-12)
    value, rising = divergence(lambda x: axis - (x @ axis)[..., None] * x, x)  # the gradient of <axis, x>
    torch.testing.assert_close(rising, -2 * x @ axis)
    torch.testing.assert_close(value, axis - (x @ axis)[:, None] * x)


class Flow:
    """A FlowMatching model with a field of one's own."""

    def __init__(self, field):
        self.field, self.whiten = field, nn.Identity()

    def __call__(self, x, t, whitened):
        return self.field(x)


@given(strength=st.floats(0.0, 3.0))
def test_a_flow_towards_a_pole_gives_the_density_that_it_is_known_to_give(strength):
    """The gradient of <axis, x> moves tan(theta / 2) to exp(-strength) tan(theta / 2): a conformal map."""
    axis = torch.tensor([0.0, 0.0, 1.0])
    flow = Flow(lambda x: strength * (axis.to(x) - (x @ axis.to(x))[..., None] * x))
    densities = FlowDensities(flow, torch.zeros(6, 5))
    lat = torch.tensor([90.0, 60.0, 10.0, 0.0, -45.0, -90.0], dtype=torch.float64)
    lat_lon = torch.stack([lat, 70 * torch.arange(6) - 180.0], dim=-1)
    cos, k = torch.sin(torch.deg2rad(lat)), math.exp(strength)
    factor = 2 * k / ((1 + cos) + k**2 * (1 - cos))  # of the lengths of the map back
    expected = 2 * factor.log() - math.log(4 * math.pi)
    torch.testing.assert_close(densities.log_prob(lat_lon), expected, rtol=0, atol=0.02)
    north = (densities.sample(400)[..., 0] > 0).double().mean()
    assert abs(north - k / (k + 1 / k)) < 0.05  # the sphere's share beyond -tanh(strength) of the axis


def test_the_place_of_a_flow_is_where_it_gathers_whatever_the_batch(monkeypatch):
    model = FlowMatching(TINY).eval()
    towards = to_unit_vector(torch.cat([POLES, scattered(4)[-4:]])).float()
    places = from_unit_vector(towards.double())

    def field(x, t, whitened):  # to the place whose number stands in the embedding, fast
        axis = towards[whitened[..., 0].round().long()].expand_as(x)
        return 4 * (axis - (x * axis).sum(dim=-1, keepdim=True) * x)

    monkeypatch.setattr(model, "forward", field)
    embeddings = torch.arange(8.0)[:, None].expand(8, 5).contiguous()
    found = model.predict(embeddings)
    close_km(found, places, 300)
    parts = torch.cat([model.predict(embeddings[:3]), model.predict(embeddings[3:])])
    close_km(parts, found, 1e-3)


def test_a_flow_without_velocity_is_uniform_and_an_embedding_is_whitened_once():
    model = FlowMatching(options.nest(ModelConfig, {"embed_dim": 5, "l_max": 3, "width": 8, "depth": 2, "whiten": 0.1}))
    assert isinstance(model.whiten, Whitening) and not isinstance(model.network[0], Whitening)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.zero_()
    lat_lon = scattered(6)[-6:]
    found = model.eval().densities(torch.randn(6, 5), 1.0).log_prob(lat_lon)
    torch.testing.assert_close(found, torch.full((6,), -math.log(4 * math.pi)).double(), rtol=0, atol=1e-6)
    x_1 = to_unit_vector(lat_lon)
    torch.manual_seed(0)
    angle = (nn.functional.normalize(torch.randn_like(x_1), dim=-1) * x_1).sum(dim=-1).clamp(-1, 1).acos()
    torch.manual_seed(0)
    loss = model.loss(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), lat_lon)
    torch.testing.assert_close(loss.double(), angle.square(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [FlowMatching, EncodingDiffusion])
def test_what_is_whitened_is_the_embedding_and_not_the_point(make):
    config = options.nest(ModelConfig, {"embed_dim": 5, "l_max": 3, "width": 8, "depth": 2, "whiten": 0.1})
    torch.manual_seed(0)
    model, embeddings = make(config).eval(), torch.randn(4, 5)
    whitening = next(part for part in model.modules() if isinstance(part, Whitening))
    whitening.mean.copy_(embeddings[0])
    whitening.matrix.zero_()  # nothing of an embedding is left
    x, t = torch.randn(4, 3), torch.ones(4)
    whitened = model.whiten(embeddings) if make is FlowMatching else embeddings
    first, second = (
        model(x, t, whitened),
        model(x, t, model.whiten(-embeddings) if make is FlowMatching else -embeddings),
    )
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, model(-x, t, whitened))


def test_densities_of_a_gallery_are_kernels_around_the_nearest_and_are_chosen_by_unseen_pictures():
    lat_lon = scattered(300)
    gallery = embedded(lat_lon, d=8)
    prior = prior_probs(gallery, 5)
    queries = torch.from_numpy(gallery.embeddings[:40]) + 0.05 * torch.randn(
        40, 8, generator=torch.Generator().manual_seed(0)
    )
    truth = torch.from_numpy(gallery.lat_lon[:40])
    found = GalleryDensities(gallery, prior, queries, truth)
    assert found.width_km >= 40  # these very places do not count: there is nothing so near
    near = truth + 0.05  # 6 km away, as of other pictures of the same places
    found = GalleryDensities(gallery, prior, queries, near)
    assert found.width_km == 10 and found.temperature < 0.2 and found.share < 0.1
    assert found.posterior(queries).log_prob(near).mean() > 5
    lost = GalleryDensities(gallery, prior, queries, scattered(40, seed=9)[-40:])
    assert (
        lost.share > 0.3
        and lost.posterior(queries).log_prob(near).mean() < found.posterior(queries).log_prob(near).mean()
    )
    one = kernels(torch.zeros(1, 1), truth[:1, None], 100)
    d = great_circle_km(one.sample(4000)[0], truth[0])
    assert (d.square().mean() / 2).sqrt() == pytest.approx(100, rel=0.05)
    assert GalleryDensities(gallery, prior, queries, near, vo=True).posterior(queries).sample(3).shape == (40, 3, 2)


def test_log_mixture_agrees_with_the_textbook_formula():
    densities, xyz = mixture(kappa=5.0), to_unit_vector(scattered(4)[:4])[:, None]
    value = 5 / (4 * math.pi * math.sinh(5)) * torch.exp(5 * (densities.centers * xyz).sum(dim=-1))
    expected = (densities.log_weights.exp() * value).sum(dim=-1, keepdim=True).log()
    found = log_mixture(densities.log_weights, densities.centers, densities.kappa, xyz)
    torch.testing.assert_close(found, expected)
