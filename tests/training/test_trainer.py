"""A training step, the model that it trains, and what is left out of it."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training import CPU, SMALL, pictures, trainer
from torch import nn

from locdiff.errors import InputError
from locdiff.pipeline import Pipeline
from locdiff.sphere.coordinates import great_circle_km
from locdiff.training.loop import fit
from locdiff.training.settings import resolve, start
from locdiff.training.trainer import SpikeGuard, Trainer


def test_the_seed_changes_the_run_and_alone_decides_it():
    weights = []
    for seed in (0, 0, 1):
        one = trainer(seed=seed)
        for _ in range(3):
            one.training_step()
        weights.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2])


def spoil(one, steps, factor):
    """Multiply the loss of `one` by the factor in some steps."""
    loss = one.model.loss
    one.model.loss = lambda *batch: loss(*batch) * (factor if one.step in steps else 1)


def counts(one):
    return one.guard.skipped, one.guard.in_a_row


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 1e4])
def test_a_step_with_a_wild_gradient_is_left_out_counted_and_reported(tmp_path, capfd, factor):
    one = trainer(steps=80)
    spoil(one, {60, 61, 70}, factor)
    run = start(one.settings, tmp_path / "run")
    for _ in range(60):
        one.training_step()
    before, state = one.averaged_model().state_dict(), one.optimizer.state[one.model.network.head.bias]
    momentum = state["exp_avg"].clone()
    one.training_step()
    assert all(torch.equal(value, before[name]) for name, value in one.averaged_model().state_dict().items())
    assert torch.equal(state["exp_avg"], momentum) and (one.step, *counts(one)) == (61, 1, 1)
    one.save(run)
    other = trainer(steps=80)
    spoil(other, {60, 61, 70}, factor)
    other.restore(run)
    assert counts(other) == (1, 1) and other.guard.usual_norm == one.guard.usual_norm
    fit(other, run, progress=False)
    assert (other.step, *counts(other)) == (80, 3, 0)
    lines = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    assert lines[0][3] == "skipped" and [line[3] for line in lines[1:]] == ["2", "3"]
    assert all(np.isfinite(float(line[1])) and float(line[1]) < 100 for line in lines[1:])
    report = capfd.readouterr().err
    assert "step 62 was left out, 2 so far" in report and "step 71 was left out, 3 so far" in report


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(tmp_path):
    one = trainer(steps=200, max_skipped=7)
    run = start(one.settings, tmp_path / "run")
    one.training_step()
    one.save(run)
    before = (run / "state.safetensors").read_bytes()
    with torch.no_grad():
        one.model.network.head.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="7 steps in a row up to step 8 were left out; in the last the loss was nan"):
        fit(one, run, progress=False)
    assert (run / "state.safetensors").read_bytes() == before


def test_embeddings_that_are_all_the_same_cannot_be_whitened():
    data = pictures()
    data.embeddings[:] = 1
    with pytest.raises(InputError, match="cannot whiten the embeddings to train on: they are all the same"):
        Trainer(resolve("smoke", **SMALL), data, CPU)
    Trainer(resolve("smoke", **SMALL | {"whiten": 0.0}), data, CPU)


def test_a_run_keeps_its_whitening():
    """It follows from the training pictures, is saved with the model and is the same after resuming."""
    one, other = trainer(), trainer()
    seen = one.model.network.whiten
    assert torch.equal(seen.matrix, other.model.network.whiten.matrix) and not torch.equal(seen.matrix, torch.eye(6))
    assert torch.equal(one.averaged_model().network.whiten.matrix, seen.matrix)


@pytest.mark.parametrize("loss", ["likelihood", "shdd_kl", "l2"])
def test_eight_places_are_learnt_by_heart(loss):
    """Each loss, trained on eight pictures, puts each where it was taken: within the width of the peak at l_max 7."""
    settings = resolve(
        "smoke", l_max=7, width=32, depth=2, embed_dim=6, steps=250, batch=32, lr=5e-3, loss=loss, noise_levels=20,
        exact_skip=loss == "likelihood", anchors=512, temperature=2.0, sample_steps=5,
    )  # fmt: skip
    eight = pictures(8)
    one = Trainer(settings, eight, CPU)
    for _ in range(one.steps):
        one.training_step()
    embeddings, truth = eight.batch(range(8))
    model = one.averaged_model()
    places = torch.tensor([prediction.places[0] for prediction in Pipeline(model).predict(embeddings)]).double()
    assert (great_circle_km(places, truth) < 1000).all()
    samples = model.sample(embeddings, 4)
    assert (great_circle_km(samples, truth[:, None]) < 1500).double().mean() > 0.9


def test_epochs_set_the_number_of_steps():
    one = Trainer(resolve("smoke", **SMALL | {"steps": 0, "epochs": 3, "batch": 8}), pictures(20), CPU)
    assert one.steps == 8  # 60 pictures in batches of 8


class Line(nn.Module):
    """The least that can be trained: two numbers that the places' latitudes are to be proportional to.

    What it is asked for is noted in `asked`.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.asked = config, []
        self.slope = nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.zeros(()))

    def prepare(self, data):
        self.asked.append(("prepare", len(data)))
        self.scale.fill_(90.0)

    def loss(self, embeddings, lat_lon):
        return ((embeddings[:, :2] @ self.slope - lat_lon[:, 0].float() / self.scale) ** 2) * torch.rand(len(lat_lon))

    def finalize(self, data, validation, progress):
        self.asked.append(("finalize", len(data)))

    def save_pretrained(self, folder):
        save_file(self.state_dict(), folder / "model.safetensors")


def test_any_module_that_prepares_loses_and_finalizes_is_trained(tmp_path):
    """Bit for bit the same through a stop, from weights that end where least squares have them."""
    data, settings = pictures(), resolve("smoke", **SMALL | {"steps": 800, "batch": 20, "lr": 0.02, "ema": 0.0})
    data.lat_lon[:, 0] = 90 * data.embeddings[:, :2].astype(np.float64) @ [0.3, -0.5] / 4
    whole = Trainer(settings, data, CPU, Line)
    assert whole.model.asked == [("prepare", 20)] and whole.model.config == settings.model
    fit(whole, start(settings, tmp_path / "whole"), progress=False)
    torch.testing.assert_close(whole.model.slope.detach(), torch.tensor([0.3, -0.5]) / 4, rtol=0, atol=1e-3)

    parts, first, second = start(settings, tmp_path / "parts"), *(Trainer(settings, data, CPU, Line) for _ in range(2))
    for _ in range(300):
        first.training_step()
    first.save(parts)
    torch.manual_seed(99)  # what the program sampled before must not matter
    second.restore(parts)
    fit(second, parts, progress=False)
    for name in ("state.safetensors", "model.safetensors"):
        one, other = load_file(tmp_path / "whole" / name), load_file(parts / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    finished = whole.finished_model()
    assert finished.asked == [("prepare", 20), ("finalize", 20)] and whole.model.asked == [("prepare", 20)]
    assert not finished.training and torch.equal(finished.slope, whole.average["slope"])


def test_the_model_is_the_moving_average_of_the_weights():
    one = Trainer(resolve("smoke", **SMALL | {"ema": 0.5}), pictures(), CPU, Line)
    average = torch.zeros(2)
    for step in range(1, 6):
        one.training_step()
        decay = min(0.5, step / (step + 9))  # less in the first steps, which begin at random
        average = decay * average + (1 - decay) * one.model.slope.detach()
    torch.testing.assert_close(one.averaged_model().slope.detach(), average)
    assert not torch.allclose(average, one.model.slope)


def test_a_guard_knows_the_usual_norm_from_the_steps_that_were_taken():
    guard = SpikeGuard()
    taken = [guard.is_usual(norm, step) for step, norm in ((1, 1.0), (2, 1e6), (51, 31 * 20001.0), (52, math.nan))]
    assert taken == [True, True, False, False] and (guard.skipped, guard.in_a_row) == (2, 2)
    assert guard.usual_norm == pytest.approx(0.98 + 0.02 * 1e6)
    assert guard.is_usual(29 * guard.usual_norm, 53) and (guard.skipped, guard.in_a_row) == (2, 0)
