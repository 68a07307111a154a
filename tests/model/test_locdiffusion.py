"""LocDiffusion as a whole: the exact skip, what it refuses, batches shared out, copies."""

import copy
import math

import pytest
import torch
from support.models import EVERY, seeing, sure_of, tiny, zoomed
from support.strategies import EDGE_PLACES

from locdiff.errors import InputError
from locdiff.model import diffusion
from locdiff.sphere import decoder, shdd
from locdiff.sphere.healpix import healpix_anchors

EDGES = torch.tensor(EDGE_PLACES, dtype=torch.float64)


def test_an_untrained_model_says_by_bayes_rule_what_x_t_says():
    """The density that the noisy encoding gives is the exact posterior over the pixels under a uniform prior."""
    model, anchors = tiny(), healpix_anchors(16)
    x_0 = math.sqrt(4 * math.pi) * shdd.encode(anchors, 7).float()
    t = torch.tensor(10)
    alpha_bar = model.alpha_bar[t - 1].float()
    x_t = diffusion.q_sample(x_0[1234], alpha_bar, torch.randn(64))
    log_likelihood = -((x_t - alpha_bar.sqrt() * x_0) ** 2).sum(-1) / (2 * (1 - alpha_bar))
    posterior = torch.softmax(model.objective.quadrature.synthesis(model(x_t, t, torch.zeros(5))), -1)
    torch.testing.assert_close(posterior, torch.softmax(log_likelihood, -1), rtol=2e-3, atol=1e-6)


def test_the_network_sees_x_t_as_far_as_a_location_can_be_read_off_it():
    """At pure noise not at all; where the signal stands out, nearly as it is."""
    model, image = seeing(std=1.0), torch.randn(5)
    last = torch.tensor(len(model.alpha_bar))
    assert torch.equal(model(torch.randn(64), last, image), model(torch.randn(64), last, image))
    snr = 64 * model.alpha_bar[0] / (1 - model.alpha_bar[0])
    gate = snr / (model.config.network.input_gate_snr + snr)
    x, t = torch.randn(64), torch.tensor(1)
    skip = diffusion.bayes_skip(x, model.alpha_bar[0]).float()
    torch.testing.assert_close(model(x, t, image), model.calibration(model.network(gate.float() * x, t, image)) + skip)
    assert 0.7 < gate < 0.8 and not torch.allclose(model(x, t, image), model(-x, t, image) + 2 * skip)


def test_wrong_embeddings_are_refused():
    model = tiny()
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 5\)"), (torch.full((1, 5), math.nan), "NaN")]:
        for use in (model.posterior, model.one_pass, model.sample):
            with pytest.raises(InputError, match=message):
                use(wrong)
    assert model.one_pass(torch.empty(0, 5)).shape == (0, 144)


@pytest.mark.parametrize("changes", [{}, {"loss": "shdd_kl", "anchors": 50}, {"levels": 2}], ids=str)
def test_sharing_a_batch_does_not_change_the_loss(changes):
    model = zoomed(noise=0.5) if "levels" in changes else seeing(**changes)
    lat_lon, embeddings = torch.cat([EDGES, EDGES[:2]]), torch.randn(8, 5)
    torch.manual_seed(7)
    whole = model.loss(embeddings, lat_lon)
    assert whole.shape == (8,)
    for rank in range(4):
        torch.manual_seed(7)
        part = slice(2 * rank, 2 * rank + 2)
        assert torch.allclose(model.loss(embeddings[part], lat_lon[part], rank, 4), whole[part], rtol=1e-4)


def test_the_share_of_a_batch_at_pure_noise_is_as_asked():
    for share, wanted in ((0.0, 1 / 40), (0.5, 0.5 + 0.5 / 40), (1.0, 1.0)):
        t = tiny(p_pure_noise=share).random_times(20_000)
        assert t.min() >= 1 and t.max() <= 40
        assert (t == 40).double().mean().item() == pytest.approx(wanted, abs=0.01)


def test_copies_and_further_levels_have_their_own_geometry():
    """What a posterior remembers of where cells lie must not outlive a change of the levels."""
    model, embeddings = sure_of(healpix_anchors(8)[300], zoom_into=2), torch.randn(2, 5)
    whole = model.posterior(embeddings)
    below = copy.deepcopy(model)
    assert "geometries" in model.__dict__ and "geometries" not in below.__dict__
    del below.refinements[1]
    below.config = below.config.with_cells(EVERY)
    assert len(below.posterior(embeddings).components) == 1
    below.add_level(model.refinements[1])
    assert below.config.refinement.cells == (EVERY, len(model.refinements[1].cell_id))
    assert torch.equal(below.posterior(embeddings).pixel_probs, whole.pixel_probs)
    for one, other in zip(model.geometries, copy.deepcopy(model).geometries, strict=True):
        assert one.points is not other.points and one.memberships is not other.memberships
        assert one.level is None or one.level is not other.level


def test_the_mode_seeking_decoder_is_that_of_the_configuration():
    coeffs, anchors = torch.randn(2, 3, 64), healpix_anchors(16)
    for rho_km in (0.0, 2500.0):
        found = tiny(rho_km=rho_km, loss="l2").mode_seek(coeffs)
        assert found.shape == (2, 3, 2) and found.dtype == torch.float64
        torch.testing.assert_close(found.float(), decoder.mode_seeking(coeffs, anchors, rho_km)[0])
