"""Ranks, coverage with its interval, and the energy score."""

import pytest
import torch
from support.models import seeing, tiny

from locdiff.evaluation.coverage import coverage, energy_score
from locdiff.sphere import pixels, shdd
from locdiff.sphere.coordinates import from_unit_vector, great_circle_km
from locdiff.sphere.healpix import healpix_anchors, healpix_transform


def test_ranks_of_a_calibrated_density_are_uniform():
    generator = torch.Generator().manual_seed(0)
    probs = torch.softmax(3 * torch.randn(4000, 192, generator=generator), dim=-1)
    truth = healpix_anchors(4)[torch.multinomial(probs, 1, generator=generator)[:, 0]]
    rank = pixels.rank(probs, truth, torch.rand(4000, generator=generator))
    for share in (0.1, 0.5, 0.9):
        assert (rank <= share).float().mean() == pytest.approx(share, abs=0.03)
    found = coverage(rank)
    assert (
        found["coverage_50"][1] < 50 < found["coverage_50"][2]
        and found["coverage_90"][1] < 90 < found["coverage_90"][2]
    )


def test_a_density_of_one_pixel_holds_a_random_share_of_it():
    probs = torch.zeros(2000, 48)
    probs[:, 7] = 1
    uniform = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    rank = pixels.rank(probs, healpix_anchors(2)[7].expand(2000, 2), uniform)
    assert rank.mean() == pytest.approx(0.5, abs=0.03) and 0 <= rank.min() and rank.max() <= 1
    assert (pixels.rank(probs, healpix_anchors(2)[8].expand(2000, 2), uniform) == 1).all()


def test_pictures_of_one_photographer_widen_the_interval():
    rank = torch.rand(200, generator=torch.Generator().manual_seed(0)).repeat_interleave(10)
    alone, together = coverage(rank), coverage(rank, [str(i // 10) for i in range(2000)])
    assert alone["coverage_50"][0] == together["coverage_50"][0]
    width = [interval[2] - interval[1] for interval in (alone["coverage_50"], together["coverage_50"])]
    assert width[1] > 2 * width[0]


def test_the_energy_score_of_two_samples_by_hand():
    samples = torch.tensor([[[0.0, 0.0], [0.0, 90.0]]])
    truth = torch.tensor([[90.0, 0.0]])
    quarter = great_circle_km(samples[:, 0], samples[:, 1]).item()
    assert energy_score(samples, truth) == pytest.approx(quarter - quarter / 2)
    assert energy_score(samples[:, :1], truth) == pytest.approx(quarter)


@pytest.mark.parametrize("loss", ["likelihood", "l2"])
def test_ranks_do_not_depend_on_batches(loss):
    model, truth = seeing(loss=loss), healpix_anchors(2)[:6]
    embeddings = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    parts = [model.posterior(embeddings[i : i + 2]).rank(truth[i : i + 2], 3, i) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.cat(parts), model.posterior(embeddings).rank(truth, 3))
    assert torch.cat(parts).unique().numel() == 6


def test_ranks_of_densities_as_narrow_as_pixels_are_uniform():
    """Locations sampled on very fine pixels from densities 2.4 degrees wide, where the model's pixels are 7 degrees."""
    generator = torch.Generator().manual_seed(0)
    centers = from_unit_vector(torch.randn(600, 3, generator=generator, dtype=torch.float64))
    fine, posterior = healpix_transform(15, 64), tiny(l_max=15, decoder_nside=8).posterior(torch.zeros(600, 5))
    posterior.coeffs = 0.45 * shdd.encode(centers, 15).float()
    probs = fine.synthesis(posterior.coeffs).softmax(dim=-1)
    truth = fine.anchors[torch.multinomial(probs, 1, generator=generator)[:, 0]]
    rank = posterior.rank(truth)
    for share in (0.3, 0.5, 0.9):
        assert (rank <= share).float().mean() == pytest.approx(share, abs=0.06)
