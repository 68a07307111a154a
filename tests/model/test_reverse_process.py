"""Samples by the reverse process: they follow the density, repeat by seed and position, and agree with one pass."""

import pytest
import torch
from support.models import seeing, tiny, with_prior

from locdiff.errors import InputError
from locdiff.model import diffusion
from locdiff.model.reverse_process import ReverseProcess
from locdiff.sphere import pixels, shdd
from locdiff.sphere.coordinates import great_circle_km


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 0), ("ddim", 1), ("ddim", 20), ("dpm++", 10)])
def test_samples_follow_the_density_that_one_pass_gives(sampler, steps):
    """With a known density of two unequal modes, the sampler visits each as often as its mass says."""
    two = 12.0 / 8 * shdd.encode(torch.tensor([[40.0, -100.0], [-25.0, 135.0]]), 7).float()
    model = with_prior(two[0] * 1.06 + two[1])
    posterior = model.posterior(torch.zeros(1, 5))
    places = model.sample(torch.zeros(40, 5), 50, seed=3, steps=steps, sampler=diffusion.SAMPLERS[sampler])
    for truth in ([40.0, -100.0], [-25.0, 135.0], [0.0, 0.0]):
        truth = torch.tensor([truth], dtype=torch.float64)
        hits = (great_circle_km(places, truth) <= 2500).double().mean().item()
        mass = posterior.mass_within(truth)[0, pixels.THRESHOLDS_KM.index(2500)].item()
        assert hits == pytest.approx(mass, abs=0.05), truth
    assert hits < 0.2


def test_samples_repeat_by_seed_and_picture_position():
    model, embeddings = seeing(), torch.randn(3, 5)
    first, coeffs = ReverseProcess(model, embeddings)(2, seed=1)
    assert first.shape == (3, 2, 2) and coeffs.shape == (3, 2, 64)
    for one, other in (
        (ReverseProcess(model, embeddings[:1])(2, 1), first[:1]), (ReverseProcess(model, embeddings)(2, 1), first),
        (ReverseProcess(model, embeddings[2:])(2, seed=1, first=2), first[2:]),
    ):  # fmt: skip
        torch.testing.assert_close(one[0], other)
    assert torch.equal(model.sample(embeddings, 2, seed=1), first)
    for how in ({"seed": 2}, {"sampler": diffusion.DPMSolver}, {"steps": 3}):
        assert not torch.allclose(model.sample(embeddings, 2, **{"seed": 1} | how), first)
    assert not torch.allclose(first[:, 0], first[:, 1])


@pytest.mark.parametrize("changes", [{}, {"loss": "l2"}, {"levels": 2, "whiten": 0.3}], ids=str)
def test_defaults_are_those_of_the_configuration(changes):
    embeddings = torch.randn(2, 5)
    model = seeing(sample_steps=4, sampler="dpm++", **changes)
    asked = model.sample(embeddings, 3, seed=1, steps=4, sampler=diffusion.DPMSolver)
    assert torch.equal(model.sample(embeddings, 3, seed=1), asked)
    assert not torch.equal(asked, model.sample(embeddings, 3, seed=1, steps=4, sampler=diffusion.DDIM))


def test_one_pass_and_one_step_sample_the_same_locations():
    """From the same seed: the network does not see pure noise, so the chain's last density is that of one pass."""
    one_pass, chain = seeing(sample_steps=1), seeing(sample_steps=2)
    assert one_pass.config.samples_in_one_pass and not chain.config.samples_in_one_pass
    embeddings = torch.randn(20, 5)
    places = one_pass.posterior(embeddings).sample(50, seed=7, first=3)
    for process in (ReverseProcess(chain, embeddings, steps=1), ReverseProcess(one_pass, embeddings)):
        same = (process(50, seed=7, first=3)[0] == places).all(dim=-1)
        assert same.double().mean() > 0.995  # but for a number within rounding of the border of a pixel
    assert len(places.flatten(0, 1).unique(dim=0)) > 300
    assert torch.equal(chain.posterior(embeddings).sample(50, seed=7), chain.sample(embeddings, 50, seed=7))


@pytest.mark.parametrize("changes", [{"sample_steps": 1, "schedule": "cosine"}, {"sample_steps": 1, "loss": "l2"}])
def test_where_the_network_sees_the_noise_samples_are_those_of_the_chain(changes):
    model = seeing(**changes)
    assert not model.config.samples_in_one_pass
    embeddings = torch.randn(3, 5)
    assert torch.equal(model.posterior(embeddings).sample(4, seed=1), model.sample(embeddings, 4, seed=1))


def test_wrong_requests_are_refused_and_no_pictures_have_no_samples():
    model = tiny()
    with pytest.raises(InputError, match=r"\(2, 4\)"):
        ReverseProcess(model, torch.zeros(2, 4))
    for count, seed in ((0, 0), (2, -1)):
        with pytest.raises(InputError, match="at least one sample and seed >= 0"):
            model.sample(torch.zeros(2, 5), count, seed)
        with pytest.raises(InputError, match="at least one sample and seed >= 0"):
            seeing(sample_steps=1).posterior(torch.zeros(2, 5)).sample(count, seed)
    with pytest.raises(ValueError, match=r"1\.\.40"):
        model.sample(torch.zeros(2, 5), steps=41)
    assert model.sample(torch.empty(0, 5)).shape == (0, 16, 2)
    assert ReverseProcess(model, torch.empty(0, 5))(3)[1].shape == (0, 3, 64)
