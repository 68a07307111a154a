"""Training: presets, order of the data, resuming, interruption, failure."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from locdiff import datasets, train
from locdiff.cli import InputError
from locdiff.coordinates import great_circle_km
from locdiff.train import Trainer, fit, resolve

SMALL = {"l_max": 5, "width": 8, "time_dim": 8, "embed_dim": 6, "steps": 24, "batch": 8, "dropout": 0.2}


def pictures(count=20, d=6):
    generator = np.random.default_rng(1)
    lat_lon = np.stack([generator.uniform(-80, 80, count), generator.uniform(-180, 180, count)], axis=1)
    return datasets.Embeddings(
        generator.normal(size=(count, d)).astype(np.float16), np.arange(count), lat_lon, list(range(count)), "test"
    )


def trainer(**changes):
    return Trainer(resolve("smoke", **SMALL | changes), pictures(), torch.device("cpu"))


def folder(path, settings):
    return train.start(settings, path)


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, stop):
    whole = trainer()
    run = folder(tmp_path / "whole", whole.settings)
    fit(whole, run, progress=False)

    first = trainer()
    parts = folder(tmp_path / "parts", first.settings)
    for _ in range(stop):
        first.advance()
    first.save(parts)
    second = Trainer(train.read_settings(parts), pictures(), torch.device("cpu"))
    torch.manual_seed(99)  # what the program drew before must not matter
    second.restore(parts)
    fit(second, parts, progress=False)

    for name in ("state.safetensors", "model.safetensors"):
        one, other = load_file(run / name), load_file(parts / name)
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def test_the_seed_changes_the_run_and_alone_decides_it():
    weights = []
    for seed in (0, 0, 1):
        one = trainer(seed=seed)
        for _ in range(3):
            one.advance()
        weights.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2])
    first, other = (np.concatenate([train.batch_rows(s, 8, 20, seed) for s in range(3)]) for seed in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "batch"), [(20, 8), (7, 7), (3, 8), (1, 4)])
def test_every_epoch_shows_every_picture_once_in_a_new_order(n, batch):
    rows = np.concatenate([train.batch_rows(step, batch, n, 0) for step in range(3 * n)])
    epochs = rows[: len(rows) // n * n].reshape(-1, n)
    assert (np.sort(epochs) == np.arange(n)).all()
    assert n < 5 or not (epochs[0] == epochs[1]).all()


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):
    one = trainer(steps=100_000)
    run = folder(tmp_path / "run", one.settings)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt, match=r"--resume .*run"):
        fit(one, run, progress=False)
    other = trainer(steps=100_000)
    other.restore(run)
    assert other.step == one.step > 0
    logged = [int(line.split(",")[0]) for line in (run / "log.csv").read_text().splitlines()[1:]]
    assert logged == list(range(10, one.step + 1, 10))


def test_a_killed_run_loses_no_more_than_since_its_checkpoint(tmp_path, cache):
    """A process is killed without warning; the files it leaves are whole, and --resume finishes the run."""
    command = [
        sys.executable,
        "-c",
        "from locdiff import train, cli; train.CHECKPOINT_SECONDS = 0; cli.run(train.main)",
    ]
    run = tmp_path / "run"
    options = [
        "--preset",
        "smoke",
        "--steps",
        "100000",
        "--train-views",
        "100",
        "--test-views",
        "10",
        "--out",
        str(run),
    ]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len((run / "log.csv").read_text() if (run / "log.csv").exists() else "") < 80:
        time.sleep(0.1)
    process.kill()
    process.wait()
    settings = train.read_settings(run)
    data, _ = train.load_data(settings, progress=False)
    again = Trainer(settings, data, torch.device("cpu"))
    again.restore(run)
    last = int((run / "log.csv").read_text().splitlines()[-1].split(",")[0])
    assert again.step >= last - 1 > 0
    again.advance()


def test_the_log_of_steps_that_were_lost_is_dropped_on_resuming(tmp_path):
    one = trainer()
    run = folder(tmp_path / "run", one.settings)
    fit(one, run, progress=False)
    with train.open_log(run / "log.csv", 10):
        pass
    assert [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()] == ["step", "10"]


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(tmp_path):
    one = trainer(steps=200)
    run = folder(tmp_path / "run", one.settings)
    one.advance()
    one.save(run)
    before = (run / "state.safetensors").read_bytes()
    with torch.no_grad():
        one.model.network.head.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="loss is nan at step 10"):
        fit(one, run, progress=False)
    assert (run / "state.safetensors").read_bytes() == before


def test_a_state_of_another_configuration_is_refused(tmp_path):
    one = trainer()
    one.advance()
    run = folder(tmp_path / "run", one.settings)
    one.save(run)
    for changes in ({"width": 9}, {"depth": 4}):
        with pytest.raises(InputError, match="cannot continue from"):
            trainer(**changes).restore(run)
    (run / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="cannot continue from"):
        trainer().restore(run)


@pytest.mark.parametrize("loss", ["likelihood", "shdd_kl", "l2"])
def test_eight_places_are_learnt_by_heart(loss):
    """Each loss, trained on eight pictures, puts each where it was taken: within the width of the peak at l_max 7."""
    settings = resolve(
        "smoke", l_max=7, width=32, depth=2, embed_dim=6, steps=250, batch=32, lr=5e-3, loss=loss, levels=20,
        exact_skip=loss == "likelihood", anchors=512, temperature=2.0, sample_steps=5,
    )  # fmt: skip
    eight = pictures(8)
    one = Trainer(settings, eight, torch.device("cpu"))
    for _ in range(one.steps):
        one.advance()
    embeddings, truth = eight.batch(range(8))
    model = one.averaged_model()
    places = torch.tensor([prediction.places[0] for prediction in model.predict(embeddings)], dtype=torch.float64)
    assert (great_circle_km(places, truth) < 1000).all()
    samples = model.decode(model.sample(embeddings, samples=4))
    assert (great_circle_km(samples, truth[:, None]) < 1500).double().mean() > 0.9


def test_the_paper_preset_is_table_3():
    for l_max, d in [(15, 256), (23, 576), (31, 1024), (47, 2304)]:
        settings = resolve("paper", l_max=l_max)
        model, training = settings.model, settings.training
        assert (model.dimensions, model.embed_dim, model.time_dim, model.dropout, model.anchors) == (
            d,
            768,
            200,
            0.3,
            2048,
        )
        assert (training.batch, training.lr, training.epochs, training.steps) == (512, 1e-4, 500, 0)
        assert (training.beta1, training.beta2, training.weight_decay, training.samples) == (0.9, 0.99, 5e-4, 16)
        assert (model.loss, model.temperature, model.levels, model.sample_steps) == ("shdd_kl", 1.0, 100, 100)


def test_epochs_set_the_number_of_steps():
    one = Trainer(resolve("smoke", **SMALL | {"steps": 0, "epochs": 3, "batch": 8}), pictures(20), torch.device("cpu"))
    assert one.steps == 8  # 60 pictures in batches of 8


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"batch": 0}, {"steps": 0}, {"beta1": 1.0}, {"nonsense": 1}, {"l_max": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        resolve("quickstart", **wrong)


def test_runs_get_free_names_and_their_settings_back(tmp_path):
    settings = resolve("smoke", l_max=9)
    first, second = (train.start(settings, tmp_path / "a" / "smoke") for _ in range(2))
    assert (first.name, second.name) == ("smoke", "smoke-2")
    assert train.read_settings(second) == settings
    record = json.loads((first / "training.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert record["settings"]["model"] == dataclasses.asdict(settings.model)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the run folder"):
        train.start(settings, tmp_path / "file" / "run")
