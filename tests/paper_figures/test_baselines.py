"""The other families of methods: their densities and losses, and that each learns."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from methods.baseline import train_baseline, trunk
from methods.density_head import DensityHead
from methods.encoding_diffusion import EncodingDiffusion
from methods.families import FAMILIES
from methods.gallery import kernel_density
from methods.regression import UnitVectorRegression
from support.embeddings import embedded, scattered
from support.models import tiny_config
from support.strategies import places, rotation, seeds
from support.tolerances import close_km
from torch import nn

from locdiff import options
from locdiff.errors import InputError
from locdiff.evaluation.retrieval import nearest, retrieve
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.whitening import Whitening
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import from_unit_vector, geographic_center, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.training.settings import resolve

TINY = tiny_config()


def test_kernel_density_is_retrieval_with_one_neighbour_or_no_width():
    train, queries = embedded(scattered(100)[:100]), torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    one = retrieve(queries, train, progress=False)
    assert torch.equal(kernel_density(queries, train, k=1, progress=False), one)
    assert torch.equal(kernel_density(queries, train, k=30, sigma_deg=1e-9, progress=False), one)
    assert not torch.equal(kernel_density(queries, train, k=30, sigma_deg=20.0, progress=False), one)
    itself = torch.from_numpy(train.embeddings)  # infinitely near
    assert torch.equal(kernel_density(itself, train, progress=False), torch.from_numpy(train.lat_lon))


def test_kernel_density_takes_the_neighbour_with_the_largest_sum():
    train, queries = embedded(scattered(100), d=64), torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    found = kernel_density(queries, train, k=25, sigma_deg=18.0, progress=False)
    cosine, position = nearest(queries, train, 25, progress=False)
    for i in range(40):
        near = torch.from_numpy(train.lat_lon)[position[i]]
        density = []
        for place in near:
            angle = torch.rad2deg((to_unit_vector(near) @ to_unit_vector(place)).clamp(-1, 1).acos())
            density.append(((1 - cosine[i].double()) ** -10 * torch.exp(-(angle**2) / (2 * 18.0**2))).sum())
        close_km(found[i], near[torch.stack(density).argmax()], 1e-6)
    for alone in range(3):  # of three pictures infinitely near two are neighbours
        lat_lon = torch.tensor([[50.0, 3.0], [50.0, 3.5], [50.0, 4.0], [-20.0, 0.0]], dtype=torch.float64)
        lat_lon[alone] = torch.tensor([-60.0, 90.0])
        same = embedded(lat_lon)
        same.embeddings[:3] = np.eye(5)[0]
        assert kernel_density(torch.from_numpy(same.embeddings[:1]), same, progress=False)[0, 0] == 50
    for wrong in ({"k": 0}, {"sigma_deg": 0.0}):
        with pytest.raises(ValueError, match="need k >= 1 and sigma_deg > 0"):
            kernel_density(queries, train, progress=False, **wrong)


@given(seed=seeds)
def test_regression_turned_with_its_places_has_the_same_loss(seed):
    torch.manual_seed(0)
    model, embeddings, lat_lon = UnitVectorRegression(TINY), torch.randn(9, 5), scattered(9)[:9]
    loss = model.loss(embeddings, lat_lon)
    xyz = nn.functional.normalize(model.network(embeddings), dim=-1)
    error = (xyz - to_unit_vector(lat_lon)).square().sum(-1)
    torch.testing.assert_close(loss.double(), error.detach() / 2, rtol=1e-4, atol=1e-5, check_dtype=False)
    turn = torch.from_numpy(rotation(seed)).float()
    before = to_unit_vector(model.predict(embeddings)).float()
    with torch.no_grad():
        model.network[-1].weight.copy_(turn @ model.network[-1].weight)
        model.network[-1].bias.copy_(turn @ model.network[-1].bias)
    turned_places = from_unit_vector(to_unit_vector(lat_lon) @ turn.double().T)
    torch.testing.assert_close(model.loss(embeddings, turned_places), loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_unit_vector(model.predict(embeddings)).float(), before @ turn.T, rtol=0, atol=1e-5)


@given(place=places)
def test_diffusion_in_space_of_a_perfectly_learnt_place_returns_it(place):
    model, lat_lon = EncodingDiffusion(TINY).eval(), torch.tensor([place], dtype=torch.float64)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.copy_(math.sqrt(3) * to_unit_vector(lat_lon)[0])
    close_km(model.sample(torch.randn(2, 5), samples=3), lat_lon.expand(2, 3, 2), 2.0)
    close_km(model.predict(torch.randn(2, 5)), lat_lon.expand(2, 2), 2.0)
    assert model.loss(torch.randn(50, 5), lat_lon.expand(50, 2)).abs().max() < 1e-10


def test_samples_in_space_follow_the_posterior_and_repeat_by_seed_and_position(monkeypatch, megabytes):
    """With the exact posterior mean of two places as the denoiser, each is visited as often as its share says."""
    model, share = EncodingDiffusion(TINY).eval(), torch.tensor([0.3, 0.7])
    lat_lon = torch.tensor([[48.9, 2.4], [-25.0, 135.0]], dtype=torch.float64)
    x_0 = math.sqrt(3) * to_unit_vector(lat_lon).float()

    def posterior_mean(x_t, t, embeddings):
        alpha_bar = model.alpha_bar[t - 1].float()
        distance = (x_t[..., None, :] - alpha_bar.sqrt() * x_0).square().sum(-1)
        return torch.softmax(share.log() - distance / (2 * (1 - alpha_bar)), -1) @ x_0

    monkeypatch.setattr(model, "forward", posterior_mean)
    drawn = model.sample(torch.zeros(40, 5), samples=50, seed=1)
    near = great_circle_km(drawn[:, :, None], lat_lon) < 100
    assert near.any(-1).double().mean() > 0.99
    assert abs(near[:, :, 1].double().mean() - 0.7) < 0.04
    assert not torch.equal(drawn[0], drawn[1])
    for wrong in ({"samples": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="at least one sample and seed >= 0"):
            model.sample(torch.zeros(1, 5), **wrong)
    close_km(model.sample(torch.zeros(3, 5), samples=50, seed=1), drawn[:3], 1.0)
    close_km(model.predict(torch.zeros(40, 5)), geographic_center(model.sample(torch.zeros(40, 5), samples=16)), 1.0)
    megabytes(100)  # two pictures at a time
    close_km(model.sample(torch.zeros(40, 5), samples=50, seed=1), drawn, 1.0)


def test_training_in_space_sees_every_level_of_the_forward_process(monkeypatch):
    model, seen = EncodingDiffusion(TINY), []
    monkeypatch.setattr(model, "forward", lambda x_t, t, embeddings: seen.append((x_t, t)) or torch.zeros_like(x_t))
    torch.manual_seed(0)
    lat_lon = scattered(4000)
    error = model.loss(torch.zeros(len(lat_lon), 5), lat_lon)
    torch.testing.assert_close(error, torch.ones(len(lat_lon)), rtol=1e-5, atol=1e-5)  # as |x_0|^2 = 3
    x_t, t = seen[0]
    alpha_bar = model.alpha_bar[t - 1, None]
    noise = (x_t - (3 * alpha_bar).sqrt() * to_unit_vector(lat_lon)) / (1 - alpha_bar).sqrt()
    for level in range(1, TINY.diffusion.noise_levels + 1):
        assert noise[t == level].square().mean() == pytest.approx(1, abs=0.35)
    assert t.min() == 1 and t.max() == TINY.diffusion.noise_levels


def test_the_density_head_is_trained_by_the_likelihood_of_its_density():
    torch.manual_seed(0)
    model, embeddings, lat_lon = DensityHead(TINY).eval(), torch.randn(9, 5), scattered(9)[-9:]
    with torch.no_grad():
        model.network[-1].weight.normal_(0, 0.5)
    posterior = model.posterior(embeddings)
    density = posterior.pixel_probs
    assert density.std() > 0.1 * density.mean()
    torch.testing.assert_close(density.sum(-1), torch.ones(9), rtol=1e-5, atol=1e-5)
    expected = posterior.log_prob(lat_lon)
    torch.testing.assert_close(-model.loss(embeddings, lat_lon), expected, rtol=1e-4, atol=1e-4, check_dtype=False)
    again = model.loss(embeddings, lat_lon)  # at other noise levels
    torch.testing.assert_close(-again, expected, rtol=1e-4, atol=1e-4, check_dtype=False)
    peak = torch.tensor([[48.9, 2.4]], dtype=torch.float64)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.copy_(2 * shdd.encode(peak, 7)[0])
    close_km(model.predict(embeddings), peak.expand(9, 2), 1.0)
    posterior = model.posterior(embeddings)
    inside = (great_circle_km(posterior.anchors, peak) < 2500).double()
    hits = (great_circle_km(posterior.sample(200), peak) < 2500).double().mean()
    assert abs(hits - (posterior.pixel_probs[0] * inside).sum()) < 0.05


USUAL = options.nest(ModelConfig, {"whiten": 0.3})


@pytest.mark.parametrize(
    "config", [USUAL, options.nest(ModelConfig, {"l_max": 15, "embed_dim": 512, "depth": 4, "whiten": 0.3}), TINY]
)
def test_every_trunk_is_as_large_as_the_network_of_locdiffusion(config):
    *hidden, head = trunk(config, 576, extra=9)
    assert isinstance(hidden[0], Whitening)
    sizes = [(layer.in_features, layer.out_features) for layer in [*hidden, head] if isinstance(layer, nn.Linear)]
    w = sizes[0][1]
    assert sizes == [(config.embed_dim + 9, w), (w, w), (w, w), (w, 576)]
    count = sum(p.numel() for layer in hidden for p in layer.parameters()) - 9 * w
    network = sum(p.numel() for p in LocDiffusion(config).parameters())
    assert count == pytest.approx(network, rel=0.02)
    if config == USUAL:
        assert w == 845 and count + sum(p.numel() for p in head.parameters()) == pytest.approx(2_080_912, rel=0.3)


TOY = {
    "embed_dim": 24, "l_max": 7, "width": 32, "depth": 2, "time_dim": 16, "noise_levels": 40, "sample_steps": 10,
    "quadrature_nside": 16, "decoder_nside": 16, "steps": 120, "batch": 48, "lr": 3e-3, "warmup": 5,
    "whiten": 0.0, "p_pure_noise": 0.0,
}  # fmt: skip


SLOW = {  # families that need more than TOY
    "Regression of a von Mises-Fisher density": {"steps": 500, "lr": 1e-2},
    "Mixture of 32 von Mises-Fisher densities": {"steps": 300},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_twelve_places_by_heart(name):
    lat_lon = from_unit_vector(to_unit_vector(healpix_anchors(2)[::4]) @ torch.from_numpy(rotation(1)))
    toy, settings = embedded(lat_lon, d=24), resolve("smoke", **TOY | SLOW.get(name, {}))
    model = train_baseline(FAMILIES[name], toy, settings, torch.device("cpu"), progress=False)
    embeddings, truth = toy.batch(range(12))
    found = model.predict(embeddings)
    assert found.dtype == torch.float64 and not model.training
    close_km(found, truth, 1000 if name == "Riemannian flow matching" else 300)  # it is one of some samples
    close_km(model.predict(embeddings[:5]), found[:5], 1.0)
    assert model.predict(torch.empty(0, 24)).shape == (0, 2)
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 24\)"), (torch.full((1, 24), math.nan), "NaN")]:
        with pytest.raises(InputError, match=message):
            model.predict(wrong)


def test_a_baseline_sees_whitened_embeddings():
    toy, settings = embedded(scattered(60), d=24), resolve("smoke", **TOY | {"steps": 1, "whiten": 0.3})
    make = FAMILIES["Regression of the unit vector"]
    model = train_baseline(make, toy, settings, torch.device("cpu"), progress=False)
    assert isinstance(model.network[0], Whitening)
    torch.testing.assert_close(model.network[0].mean, torch.from_numpy(toy.embeddings).mean(dim=0), rtol=0, atol=1e-6)


def test_a_training_that_diverges_is_refused():
    settings = resolve("smoke", **TOY | {"steps": 3, "lr": 1e38})
    make = FAMILIES["PlaNet-style classification"]
    with pytest.raises(InputError, match="loss is nan after 3 steps"):
        train_baseline(make, embedded(scattered(30), d=24), settings, torch.device("cpu"), progress=False)
