"""Pictures kept apart from training: which, when they are asked, and that the best weights are the model."""

import math

import numpy as np
import pytest
import torch
from support.training import SMALL

from locdiff.data.embeddings import Embeddings
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.whitening import FLOORS, NETWORK, choose_floor
from locdiff.sphere.coordinates import from_unit_vector
from locdiff.training.loop import fit
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer
from locdiff.training.validation import FIRST, is_due, split_validation

CPU = torch.device("cpu")


def random_pictures(n, authors=None, d=8, noise=math.inf, seed=0):
    """Return pictures around one place, whose embeddings say where up to `noise`; with infinite noise nothing."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(n, 3, generator=generator, dtype=torch.float64) + torch.tensor([2.0, 0.0, 1.0])
    lat_lon = from_unit_vector(xyz).numpy()
    embeddings = torch.randn(n, d, generator=generator)
    if math.isfinite(noise):
        embeddings = torch.nn.functional.normalize(xyz, dim=1).float() @ torch.randn(3, d, generator=generator)
        embeddings = embeddings + noise * torch.randn(n, d, generator=generator)
    return Embeddings(embeddings.numpy(), np.arange(n), lat_lon, list(range(n)), "test", authors)


@pytest.mark.parametrize(
    ("n", "share", "kept"), [(100, 0.05, 20), (3000, 0.05, 500), (20_000, 0.05, 1000), (90_000, 0.05, 2000)]
)
def test_a_share_is_kept_apart_within_bounds(n, share, kept):
    data = random_pictures(n, d=1)
    train, apart = split_validation(data, share, 0)
    assert len(apart) == kept and sorted([*train.ids, *apart.ids]) == data.ids
    assert split_validation(data, share, 0)[1].ids == apart.ids != split_validation(data, share, 1)[1].ids
    assert split_validation(data, 0.0, 0) == (data, None)


def test_pictures_of_one_photographer_stay_together():
    authors = [f"a{i % 7}" for i in range(100)]
    train, apart = split_validation(random_pictures(100, authors), 0.05, 0)
    assert len(apart) >= 20 and not set(train.authors) & set(apart.authors)
    alone = random_pictures(100, ["one"] * 100)
    assert split_validation(alone, 0.05, 0) == (alone, None)
    mixed = split_validation(random_pictures(100, ["one"] * 99 + [""]), 0.05, 0)[1]
    assert len(mixed) == 20  # where some are unknown, pictures are kept apart one by one


def test_a_model_is_validated_four_times_while_steps_double():
    due = [step for step in range(FIRST, 10_000, FIRST) if is_due(step)]
    assert due[:8] == [10, 20, 30, 40, 50, 60, 70, 80]
    for start in (80, 640, 2560):
        assert sum(start < step <= 2 * start for step in due) == 4


def trained(data, tmp_path, **changes):
    settings = resolve("smoke", **SMALL | {"steps": 60, "validation": 0.2, "whiten": 1.0} | changes)
    known, apart = split_validation(data, settings.training.validation, 0)
    trainer = Trainer(infer_data_fields(settings, known), known, CPU, validation=apart)
    (tmp_path / "run").mkdir()
    fit(trainer, tmp_path / "run", progress=False)
    return trainer


def test_embeddings_that_carry_nothing_give_the_prior(tmp_path):
    """The density is within 0.02 nats of the prior's on new pictures, and on those kept apart never below it."""
    trainer = trained(random_pictures(1500), tmp_path, lr=1e-2)
    model, new = trainer.finished_model(progress=False), random_pictures(1000, seed=1)
    embeddings, lat_lon = new.batch(range(len(new)))
    nats = model.posterior(embeddings).log_prob(lat_lon).mean().item()
    assert nats == pytest.approx(prior_nats(trainer.model, embeddings, lat_lon), abs=0.02)
    kept, places = trainer.validation.embeddings, trainer.validation.lat_lon
    assert model.posterior(kept).log_prob(places).mean() >= prior_nats(trainer.model, kept, places) - 1e-3


def prior_nats(model, embeddings, lat_lon):
    alone = LocDiffusion(model.config).eval()
    alone.calibration.prior.copy_(model.calibration.prior)
    return alone.posterior(embeddings).log_prob(lat_lon).mean().item()


def test_the_best_weights_are_the_model_and_training_ends_early(tmp_path, capsys):
    """A network that learns 60 pictures by heart is best early."""
    trainer = trained(random_pictures(80, noise=1.0), tmp_path, lr=3e-2, steps=2000, patience=3)
    rows = np.loadtxt(tmp_path / "run" / "validation.csv", delimiter=",", skiprows=1)
    assert trainer.step < 2000 and rows[-1, 0] == trainer.step and f"at step {trainer.step}" in capsys.readouterr().err
    best = int(rows[rows[:, 1].argmax(), 0])
    assert best == trainer.validation.step < trainer.step and trainer.validation.since == 3
    for name, value in trainer.best_model().named_parameters():
        assert torch.equal(value, trainer.validation.best[name])
    kept = trainer.validation
    nats = trainer.best_model().validation_nats(kept.embeddings, kept.lat_lon).mean().item()
    assert nats == pytest.approx(rows[:, 1].max(), abs=1e-4)


def test_the_worse_embeddings_predict_the_more_they_are_restrained():
    good, bad = (choose_floor(random_pictures(300, d=64, noise=noise)) for noise in (0.01, 10.0))
    assert good < bad and {good, bad} <= {NETWORK * floor for floor in FLOORS}
