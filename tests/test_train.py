"""Training: presets, order of the data, resuming, interruption, failure."""

import dataclasses
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from locdiff import train
from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.sphere.coordinates import great_circle_km
from locdiff.training import trainer as trainer_module
from locdiff.training.settings import load_data, read_settings, resolve, start
from locdiff.training.trainer import Trainer, batch_rows, fit, open_log

SMALL = {"l_max": 5, "width": 8, "time_dim": 8, "embed_dim": 6, "steps": 24, "batch": 8, "dropout": 0.2}


def pictures(count=20, d=6):
    generator = np.random.default_rng(1)
    lat_lon = np.stack([generator.uniform(-80, 80, count), generator.uniform(-180, 180, count)], axis=1)
    return Embeddings(
        generator.normal(size=(count, d)).astype(np.float16), np.arange(count), lat_lon, list(range(count)), "test"
    )


def trainer(**changes):
    return Trainer(resolve("smoke", **SMALL | changes), pictures(), torch.device("cpu"))


def folder(path, settings):
    return start(settings, path)


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, stop):
    whole = trainer()
    run = folder(tmp_path / "whole", whole.settings)
    fit(whole, run, progress=False)

    first = trainer()
    parts = folder(tmp_path / "parts", first.settings)
    for _ in range(stop):
        first.training_step()
    first.save(parts)
    second = Trainer(read_settings(parts), pictures(), torch.device("cpu"))
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
            one.training_step()
        weights.append(torch.cat([p.detach().flatten() for p in one.model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.allclose(weights[0], weights[2])
    first, other = (np.concatenate([batch_rows(s, 8, 20, seed) for s in range(3)]) for seed in (0, 1))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "batch"), [(20, 8), (7, 7), (3, 8), (1, 4)])
def test_every_epoch_shows_every_picture_once_in_a_new_order(n, batch):
    rows = np.concatenate([batch_rows(step, batch, n, 0) for step in range(3 * n)])
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
        "from locdiff import train, cli; CHECKPOINT_SECONDS = 0; cli.run(train.main)",
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
    settings = read_settings(run)
    data, _ = load_data(settings, progress=False)
    again = Trainer(settings, data, torch.device("cpu"))
    again.restore(run)
    last = int((run / "log.csv").read_text().splitlines()[-1].split(",")[0])
    assert again.step >= last - 1 > 0
    again.training_step()


def test_the_log_of_steps_that_were_lost_is_dropped_on_resuming(tmp_path):
    one = trainer()
    run = folder(tmp_path / "run", one.settings)
    fit(one, run, progress=False)
    with open_log(run / "log.csv", 10):
        pass
    assert [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()] == ["step", "10"]


def test_a_run_that_diverges_says_so_and_keeps_its_checkpoint(tmp_path):
    one = trainer(steps=200, max_skipped=7)
    run = folder(tmp_path / "run", one.settings)
    one.training_step()
    one.save(run)
    before = (run / "state.safetensors").read_bytes()
    with torch.no_grad():
        one.model.network.head.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="7 steps in a row up to step 8 were left out; in the last the loss was nan"):
        fit(one, run, progress=False)
    assert (run / "state.safetensors").read_bytes() == before


def spoil(one, steps, factor):
    """Multiply the loss of `one` by the factor in some steps."""
    loss = one.model.loss
    one.model.loss = lambda *batch: loss(*batch) * (factor if one.step in steps else 1)


@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 1e4])
def test_a_step_with_a_wild_gradient_is_left_out_counted_and_reported(tmp_path, capfd, factor):
    one = trainer(steps=80)
    spoil(one, {60, 61, 70}, factor)
    run = folder(tmp_path / "run", one.settings)
    for _ in range(60):
        one.training_step()
    before, state = one.averaged_model().state_dict(), one.optimizer.state[one.model.network.head.bias]
    momentum = state["exp_avg"].clone()
    one.training_step()
    assert all(torch.equal(value, before[name]) for name, value in one.averaged_model().state_dict().items())
    assert torch.equal(state["exp_avg"], momentum) and (one.step, one.skipped, one.in_a_row) == (61, 1, 1)
    one.save(run)
    other = trainer(steps=80)
    spoil(other, {60, 61, 70}, factor)
    other.restore(run)
    assert (other.skipped, other.in_a_row, other.usual_norm) == (1, 1, one.usual_norm)
    fit(other, run, progress=False)
    assert (other.step, other.skipped, other.in_a_row) == (80, 3, 0)
    lines = [line.split(",") for line in (run / "log.csv").read_text().splitlines()]
    assert lines[0][3] == "skipped" and [line[3] for line in lines[1:]] == ["2", "3"]
    assert all(np.isfinite(float(line[1])) and float(line[1]) < 100 for line in lines[1:])
    report = capfd.readouterr().err
    assert "step 62 was left out, 2 so far" in report and "step 71 was left out, 3 so far" in report


def test_sigterm_saves_and_exits_with_zero(tmp_path, capfd):
    one = trainer(steps=100_000)
    run = folder(tmp_path / "run", one.settings)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as exit:
        fit(one, run, progress=False)
    assert exit.value.code == 0 and f"--resume {run}" in capfd.readouterr().err
    other = trainer(steps=100_000)
    other.restore(run)
    assert other.step == one.step > 0


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    one = trainer()
    run = folder(tmp_path / "run", one.settings)
    one.training_step()
    one.save(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    one.training_step()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*state.safetensors"):
            one.save(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    other = trainer()
    other.restore(run)
    assert other.step == 1


def train_in_a_process(run):
    CHECKPOINT_SECONDS = 0
    torch.set_num_threads(1)
    one = trainer(steps=400)
    one.restore(run)
    fit(one, run, progress=False)


def test_a_run_killed_at_twenty_random_moments_ends_like_an_uninterrupted_one(tmp_path):
    whole = trainer(steps=400)
    run, other = (folder(tmp_path / name, whole.settings) for name in ("whole", "killed"))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["locdiff.train", "pytest"])
    random, steps = np.random.default_rng(0), []
    for _ in range(20):
        process = processes.Process(target=train_in_a_process, args=(other,))
        process.start()
        log, begun = other / "log.csv", time.monotonic()
        before = log.stat().st_mtime_ns if log.exists() else 0
        while process.is_alive() and time.monotonic() < begun + 60:  # until it has opened its log
            if log.exists() and log.stat().st_mtime_ns > before:
                break
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.15))
        process.kill()
        process.join()
        again = trainer(steps=400)
        again.restore(other)  # raises if anything is damaged
        steps.append(again.step)
    assert steps == sorted(steps) and 0 < steps[-1]
    final = processes.Process(target=train_in_a_process, args=(other,))
    final.start()
    final.join(120)
    assert final.exitcode == 0
    train_in_a_process(run)
    one, two = (load_file(folder / "state.safetensors") for folder in (run, other))
    assert all(torch.equal(one[key], two[key]) for key in one | two)


TRAIN_AND_LEAVE = """
import pathlib, sys

train.main(sys.argv[1:])
threads = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads  # they would abort the process at random
"""


def test_two_processes_train_as_one_does_and_one_continues_what_two_began(tmp_path, cache):
    """Real processes under torchrun, with gloo; only the first writes."""
    options = ["--preset", "smoke", "--train-views", "100", "--test-views", "10", "--device", "cpu"]
    options += ["--no-decay", "--lr", "3e-4"]  # rounding grows from step to step, the faster the larger the steps
    alone = train.main([*options, "--steps", "50", "--out", str(tmp_path / "alone")])
    together = tmp_path / "together"
    script = tmp_path / "train.py"
    script.write_text(TRAIN_AND_LEAVE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, str(script), *options, "--steps", "40", "--out", str(together)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    script.unlink()
    assert "on cpu x 2" in ended.stderr and sorted(p.name for p in tmp_path.iterdir()) == ["alone", "together"]
    record = json.loads((together / "training.json").read_text())
    record["settings"]["training"]["steps"] = 50
    (together / "training.json").write_text(json.dumps(record))
    train.main(["--resume", str(together), "--device", "cpu"])

    one, two = (np.loadtxt(run / "log.csv", delimiter=",", skiprows=1) for run in (alone, together))
    assert one.shape == (5, 4) and np.allclose(one, two, rtol=1e-5, atol=1e-5)
    one, two = (load_file(run / "model.safetensors") for run in (alone, together))
    assert all(torch.allclose(one[key], two[key], atol=1e-3) for key in one | two)


def test_a_share_of_a_batch_has_the_noise_it_has_in_the_whole():
    model = trainer(dropout=0.0).model
    embeddings, lat_lon = pictures(8).batch(range(8))
    for loss in ("likelihood", "shdd_kl"):
        model.config = dataclasses.replace(model.config, loss=loss, exact_skip=loss == "likelihood")
        torch.manual_seed(3)
        whole = model.loss(embeddings, lat_lon)
        for rank in range(4):
            torch.manual_seed(3)
            part = slice(2 * rank, 2 * rank + 2)
            assert torch.allclose(model.loss(embeddings[part], lat_lon[part], rank, 4), whole[part], rtol=1e-5)


def test_pictures_kept_on_the_device_are_those_read(monkeypatch):
    read = trainer()
    monkeypatch.setattr(trainer_module, "_fits", lambda *_: True)
    kept = trainer()
    for step in range(3):
        for one, other in zip(read._read(step), kept._read(step), strict=True):
            assert torch.equal(one, other)


def test_embeddings_that_are_all_the_same_cannot_be_whitened():
    data = pictures()
    data.embeddings[:] = 1
    with pytest.raises(InputError, match="cannot whiten the embeddings to train on: they are all the same"):
        Trainer(resolve("smoke", **SMALL), data, torch.device("cpu"))
    Trainer(resolve("smoke", **SMALL | {"whiten": 0.0}), data, torch.device("cpu"))


def test_a_run_keeps_its_whitening():
    """It follows from the training pictures, is saved with the model and is the same after resuming."""
    one, other = trainer(), trainer()
    seen = one.model.network.see
    assert torch.equal(seen.matrix, other.model.network.see.matrix) and not torch.equal(seen.matrix, torch.eye(6))
    assert torch.equal(one.averaged_model().network.see.matrix, seen.matrix)


def test_an_uneven_share_is_refused(monkeypatch):
    monkeypatch.setattr(trainer_module, "world", lambda: (0, 3))
    with pytest.raises(InputError, match="3 processes cannot share a batch of 8 evenly"):
        trainer()


def test_a_state_of_another_configuration_is_refused(tmp_path):
    one = trainer()
    one.training_step()
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
        "smoke", l_max=7, width=32, depth=2, embed_dim=6, steps=250, batch=32, lr=5e-3, loss=loss, noise_levels=20,
        exact_skip=loss == "likelihood", anchors=512, temperature=2.0, sample_steps=5,
    )  # fmt: skip
    eight = pictures(8)
    one = Trainer(settings, eight, torch.device("cpu"))
    for _ in range(one.steps):
        one.training_step()
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
        assert (model.loss, model.temperature, model.noise_levels, model.sample_steps) == ("shdd_kl", 1.0, 100, 100)


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
    first, second = (start(settings, tmp_path / "a" / "smoke") for _ in range(2))
    assert (first.name, second.name) == ("smoke", "smoke-2")
    assert read_settings(second) == settings
    record = json.loads((first / "training.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert record["settings"]["model"] == json.loads(json.dumps(dataclasses.asdict(settings.model)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the run folder"):
        start(settings, tmp_path / "file" / "run")
