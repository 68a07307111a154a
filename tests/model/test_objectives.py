"""What the network's output means: losses that train, densities, known mass, and integrals that are fine enough."""

import math

import numpy as np
import pytest
import torch
from support.models import seeing, tiny, tiny_config

import reference.coordinates
import reference.shdd
import reference.spherical_harmonics
from locdiff.model import diffusion
from locdiff.model.objectives import OBJECTIVES, Regression
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import HealpixTransform, ang2pix, healpix_anchors


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_loss_trains_and_gives_densities_and_known_mass(loss):
    model = tiny(loss=loss)
    embeddings, truth = torch.randn(6, 5), torch.tensor([[10.0, 20.0]] * 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    before = model.loss(embeddings.repeat(20, 1), truth.repeat(20, 1)).mean()
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(embeddings, truth).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as in training; cosine starts with a huge gradient
        optimizer.step()
    torch.manual_seed(0)
    assert model.loss(embeddings.repeat(20, 1), truth.repeat(20, 1)).mean() < before
    density = model.posterior(embeddings).pixel_probs
    assert density.shape == (6, 3072) and (density >= 0).all()
    torch.testing.assert_close(density.sum(-1), torch.ones(6), rtol=1e-5, atol=1e-5)
    x_0 = model.objective.denoise(model(torch.randn(6, 64), torch.tensor(20), embeddings))
    torch.testing.assert_close(x_0[:, 0], torch.ones(6), rtol=1e-4, atol=1e-4)
    if loss == "cosine":  # which leaves the length free: every clean encoding has the square (l_max + 1)^2
        torch.testing.assert_close((x_0[:, 1:] ** 2).sum(-1), torch.full((6,), 63.0), rtol=0.02, atol=0)


@pytest.mark.parametrize("loss", [loss for loss in OBJECTIVES if loss != "likelihood"])
def test_a_perfect_output_has_the_smallest_loss_and_is_decoded_to_the_location(loss):
    model, place = tiny(loss=loss), torch.tensor([[10.0, 20.0], [-80.0, 179.0]])
    coeffs, x_0 = shdd.encode(place, 7), math.sqrt(4 * math.pi) * shdd.encode(place, 7)
    anchors = model.objective.random_anchors(torch.device("cpu"))
    perfect = model.objective.loss(x_0, coeffs, anchors)
    torch.testing.assert_close(perfect, torch.zeros(2), rtol=0, atol=1e-5)
    assert (model.objective.loss(x_0 + 0.1 * torch.randn(x_0.shape), coeffs, anchors) > perfect + 1e-4).all()
    torch.testing.assert_close(model.objective.denoise(x_0), x_0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.objective.coeffs(x_0), coeffs, rtol=1e-4, atol=1e-4)


def test_the_likelihood_is_that_of_the_density():
    """At pure noise the training loss is -log of the density per steradian, pixel for pixel."""
    model = tiny(noise_levels=2, sample_steps=1)
    torch.nn.init.normal_(model.network.head.weight, std=0.05)
    embeddings, place = torch.randn(1, 5), healpix_anchors(16)[700:701]
    with torch.no_grad():
        coeffs = shdd.encode(place, 7).float()
        output = model(torch.zeros(1, 64), torch.tensor(2), embeddings)
        values = model.objective.quadrature.synthesis(output)
        loss = torch.logsumexp(values, -1) + math.log(4 * math.pi / 3072) - (output * coeffs).sum()
        expected = -(model.posterior(embeddings).pixel_probs[0, 700] * 3072 / (4 * math.pi)).log()
        losses = {round(model.loss(embeddings, place).item(), 3) for _ in range(30)}
    torch.testing.assert_close(loss[0], expected, rtol=1e-4, atol=1e-4)
    assert round(loss.item(), 3) in losses  # sampled whenever the noise level is the last


def test_degrees_that_only_the_prior_has_are_part_of_the_density_and_of_its_mean():
    """Loss, gradient and prediction of x_0 are those of q_e with all degrees; the loss lacks what these give alone."""
    objective = seeing(quadrature_nside=32).objective
    objective.calibration.scale.copy_(torch.tensor([0.8, 0.6]))
    f, places = torch.randn(5, 64, requires_grad=True), healpix_anchors(16)[[3, 700, 1500, 2000, 3071]]
    output = objective.calibrated(f)
    loss = objective.loss(output, shdd.encode(places, 7).float(), None)
    (gradient,) = torch.autograd.grad(loss.sum(), f, retain_graph=True)

    whole = objective.coeffs(output)
    assert whole.shape == (5, 144) and torch.equal(whole[:, :64], output)
    above = whole[0, 64:].detach()
    torch.testing.assert_close(above, 0.6 * objective.calibration.prior[64:])
    basis, target = (shdd.encode(at, 11).float() for at in (healpix_anchors(48), places))
    expected = shdd.negative_log_likelihood(whole, target, basis)
    torch.testing.assert_close(loss - target[:, 64:] @ above, expected, rtol=0, atol=2e-3)
    (wanted,) = torch.autograd.grad(expected.sum(), f)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=2e-3)
    mean = reference.shdd.mean_parameters(whole.detach().numpy(), basis.numpy())[:, :64]
    found = objective.denoise(output.detach()) / math.sqrt(4 * math.pi)
    np.testing.assert_allclose(found, mean, rtol=0, atol=2e-3)


@pytest.mark.parametrize("share, factor", [(0.0, 1.0), (0.3, 0.2), (0.999, 0.5), (0.2, 0.0)])
def test_a_broadened_density_is_that_of_the_reference(share, factor):
    """Pixel for pixel, at locations, and in the samples of one pass; its modes are those of q_e."""
    model = seeing()
    model.objective.broad.copy_(torch.tensor([share, factor]))
    posterior = model.posterior(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    places = model.grid.anchors
    basis = reference.spherical_harmonics.real_spherical_harmonics(
        *reference.coordinates.to_theta_phi(places.numpy()), 11
    )
    expected = reference.shdd.broadened_log_density(posterior.coeffs.numpy(), basis, share, factor)
    area, fine = 4 * math.pi / len(places), healpix_anchors(64)
    parts = reference.shdd.encode(fine.numpy(), 11)
    within = np.exp(reference.shdd.broadened_log_density(posterior.coeffs.numpy(), parts, share, factor))
    mean = [np.bincount(ang2pix(16, fine), one) / 16 for one in within]
    np.testing.assert_allclose(posterior.pixel_probs, np.array(mean) * area, rtol=0.1, atol=1e-9)
    for pixel in (0, 700, 3071):
        at = posterior.log_prob(places[pixel].expand(4, 2))
        np.testing.assert_allclose(at, expected[:, pixel], rtol=0, atol=2e-3)
    order = posterior.coeffs @ torch.from_numpy(basis).float().T
    above = (np.exp(expected) * area * (order > order[:, 700:701]).numpy()).sum(axis=-1)
    found = model.objective.mass_above(posterior.coeffs, places[700].expand(4, 2), 16)
    np.testing.assert_allclose(found, above, rtol=0, atol=2e-3)
    nearby = great_circle_km(places[posterior.pixel_probs.argmax(dim=-1)], places[order.argmax(dim=-1)])
    assert (nearby < 600).all()  # a pixel


def test_one_step_samples_the_broadened_density_and_many_steps_the_sharp_one():
    """To the natural parameters of q_e Bayes' rule adds what x_t says; of the broad part nothing is known there."""
    model, embeddings = seeing(sample_steps=1), torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    sharp = model.sample(embeddings, 8, steps=5)
    model.objective.broad.copy_(torch.tensor([0.5, 0.1]))
    torch.testing.assert_close(model.sample(embeddings, 8), model.posterior(embeddings).sample(8))
    assert torch.equal(model.sample(embeddings, 8, steps=5), sharp)


@pytest.mark.parametrize("l_max", [7, 15, 23])
def test_the_quadrature_is_fine_enough_for_the_sharpest_level(l_max):
    """log Z at the first level, against pixels of a third of the side, to a few hundredths of a nat."""
    model = tiny(l_max=l_max, quadrature_nside=0)
    alpha_bar = model.alpha_bar[0].float()
    place = torch.tensor([[12.3, 45.6], [89.9, 0.0], [-41.8, 10.0]])
    x_0 = math.sqrt(4 * math.pi) * shdd.encode(place, l_max)
    x_1 = diffusion.q_sample(x_0, alpha_bar, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)))
    sharp = diffusion.bayes_skip(x_1, alpha_bar)
    fine = HealpixTransform(l_max, 3 * model.config.integration_nside)
    log_z = model.objective.quadrature.log_partition(sharp)
    torch.testing.assert_close(log_z, fine.log_partition(sharp), rtol=0, atol=0.1)
    assert tiny(l_max=23, quadrature_nside=0).config.integration_nside == 32


def test_an_objective_without_a_loss_cannot_be_made():
    class Nothing(Regression):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing(tiny_config())
