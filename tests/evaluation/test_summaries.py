"""Every row of the table is computed from what its name says."""

import math

import numpy as np
import pytest
import torch
from support.models import tiny
from support.posteriors import answering

from locdiff import memory
from locdiff.data import blue_marble
from locdiff.data.embeddings import train_and_test
from locdiff.evaluation import metrics, summaries
from locdiff.evaluation.summaries import medoid
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM
from locdiff.sphere.healpix import healpix_anchors

TRUTH = torch.tensor([[40.0, -100.0], [-25.0, 135.0], [60.0, 30.0]], dtype=torch.float64)
ELSEWHERE = torch.tensor([[-40.0, 80.0]] * 3, dtype=torch.float64)


def rows_of(model):
    """The accuracies of every row for three pictures, what the densities are worth, and all that was found."""
    found = summaries.predict_all(model, torch.zeros(3, 5), TRUTH, samples=4, progress=False)
    worth = dict(zip(summaries.CALIBRATION, found["calibration"].mean(dim=0).tolist(), strict=True))
    return {name: row["accuracy"] for name, row in summaries.score_model(model, found, TRUTH).items()}, worth, found


def test_samples_are_compared_with_the_truth_of_their_own_picture(monkeypatch):
    model = answering(monkeypatch, samples=(TRUTH, shdd.encode(ELSEWHERE, 7)))
    rows, _, shown = rows_of(model)
    for name in ("one sample (DDIM, 20 steps)", "geographic centre of 4 (the paper's)", "medoid of 4"):
        assert rows[f"LocDiffusion, {name}"][1] == 100
    assert rows["LocDiffusion, mean density of 4"][2500] == 0 and shown["samples"].shape == (3, 4, 2)


def test_the_mean_density_is_that_of_the_samples_coefficients(monkeypatch):
    rows, _, _ = rows_of(answering(monkeypatch, samples=(ELSEWHERE, shdd.encode(TRUTH, 7))))
    for name in ("mean density of 4", "mean density of 4, best place for each column"):
        assert rows[f"LocDiffusion, {name}"][25] == 100
    assert rows["LocDiffusion, one sample (DDIM, 20 steps)"][2500] == 0


def test_the_density_rows_follow_the_density(monkeypatch):
    """A density of one pixel at the truth: every prediction from it is right, and so is its calibration."""
    anchors = healpix_anchors(16)
    pixel = [int(torch.argmin(((anchors - place) ** 2).sum(-1))) for place in TRUTH]
    shares = torch.full((3, len(anchors)), 1e-9)
    shares[range(3), pixel] = 1.0
    rows, worth, _ = rows_of(answering(monkeypatch, pixel_probs=shares))
    assert rows["LocDiffusion, one sample: chance the one-pass density gives it"][750] == pytest.approx(100, abs=0.1)
    for name in ("most probable mode", "best place for each column"):
        assert rows[f"LocDiffusion, one-pass density, {name}"][750] == 100
    assert worth["nats_over_uniform"] == pytest.approx(0, abs=1e-5)  # the natural parameters are zero
    assert worth["in_region_50"] == worth["in_region_90"] == 1
    assert worth["area_50_km2"] == pytest.approx(4 * np.pi * EARTH_RADIUS_KM**2 / len(anchors))


def test_a_density_is_worth_its_log_at_the_truth(monkeypatch):
    """In nats over the uniform one; where it is peaked elsewhere its regions do not hold the truth."""
    coeffs = 3 * shdd.encode(TRUTH, 7).float()
    model = answering(monkeypatch, coeffs=coeffs)
    _, worth, _ = rows_of(model)
    expected = model.posterior(None).log_prob(TRUTH) + math.log(4 * math.pi)
    assert worth["nats_over_uniform"] == pytest.approx(expected.mean().item(), rel=1e-5) and worth["in_region_50"] == 1
    _, worth, _ = rows_of(answering(monkeypatch, coeffs=3 * shdd.encode(ELSEWHERE, 7).float()))
    assert worth["nats_over_uniform"] < -1 and worth["in_region_50"] == worth["in_region_90"] == 0


def test_what_is_found_does_not_depend_on_the_memory_budget(monkeypatch):
    model = tiny(sample_steps=2)
    torch.nn.init.normal_(model.network.head.weight)
    embeddings = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    truth = torch.cat([TRUTH, ELSEWHERE, -TRUTH])
    found, sizes = [], []
    for megabytes in (1, 512):
        monkeypatch.setattr(memory, "_megabytes", megabytes)
        sizes.append(model.posterior_batch_size)
        found.append(summaries.predict_all(model, embeddings, truth, samples=3, progress=False))
    assert sizes[0] < 9 < sizes[1]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-3)
    assert found[0]["density"].shape == (summaries.SHOWN, len(model.grid.anchors))


def test_the_medoid_is_one_of_the_places_and_ignores_a_far_one():
    many = torch.tensor([(0, 179), (0, -179), (0, 180), (60, 0)], dtype=torch.float64)
    torch.testing.assert_close(medoid(many), many[2])
    torch.testing.assert_close(medoid(torch.stack([many, many.flip(0)])), many[[2, 2]])


def test_galleries_do_not_hold_the_held_out_places(cache, monkeypatch):
    """The plain gallery is drawn with another seed than the pictures, or retrieval would find the very place."""
    folder = blue_marble.blue_marble(blue_marble.BlueMarble(train_views=300, test_views=50), progress=False)
    train, test = train_and_test(folder, 0)
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 400)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
    embeddings, truth = test.batch(range(50))
    rows = summaries.baseline_places(embeddings, train, seed=0, progress=False)
    assert len(rows) == 4
    for name, places in rows.items():
        assert metrics.score(places, truth)["accuracy"][1] == 0, name
