"""Runs that are stopped, killed or out of room, and go on as if nothing had been."""

import os
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.processes import fresh_processes, train_command, train_on
from support.training import CPU, pictures, trainer

from locdiff.errors import InputError
from locdiff.training.logs import open_log
from locdiff.training.loop import fit
from locdiff.training.settings import load_data, read_settings, start
from locdiff.training.trainer import Trainer


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_resumed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, stop):
    whole = trainer()
    run = start(whole.settings, tmp_path / "whole")
    fit(whole, run, progress=False)

    first = trainer()
    parts = start(first.settings, tmp_path / "parts")
    for _ in range(stop):
        first.training_step()
    first.save(parts)
    second = Trainer(read_settings(parts), pictures(), CPU)
    torch.manual_seed(99)  # what the program drew before must not matter
    second.restore(parts)
    fit(second, parts, progress=False)

    for name in ("state.safetensors", "model.safetensors"):
        one, other = load_file(run / name), load_file(parts / name)
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):
    one = trainer(steps=100_000)
    run = start(one.settings, tmp_path / "run")
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt, match=r"--resume .*run"):
        fit(one, run, progress=False)
    other = trainer(steps=100_000)
    other.restore(run)
    assert other.step == one.step > 0
    logged = [int(line.split(",")[0]) for line in (run / "log.csv").read_text().splitlines()[1:]]
    assert logged == list(range(10, one.step + 1, 10))


def test_sigterm_saves_and_exits_with_zero(tmp_path, capfd):
    one = trainer(steps=100_000)
    run = start(one.settings, tmp_path / "run")
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit) as exit:
        fit(one, run, progress=False)
    assert exit.value.code == 0 and f"--resume {run}" in capfd.readouterr().err
    other = trainer(steps=100_000)
    other.restore(run)
    assert other.step == one.step > 0


def lines_of(log):
    return log.read_text().splitlines()[1:] if log.exists() else []


def test_a_killed_run_loses_no_more_than_since_its_checkpoint(tmp_path, cache):
    """The command is killed without warning; the files it leaves are whole, and the run goes on."""
    run = tmp_path / "run"
    options = ["--preset", "smoke", "--steps", "100000", "--train-views", "100", "--test-views", "10"]
    process = fresh_processes().Process(target=train_command, args=(*options, "--out", str(run)))
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive() and len(lines_of(run / "log.csv")) < 5:
        time.sleep(0.02)
    process.kill()
    process.join()
    settings = read_settings(run)
    again = Trainer(settings, load_data(settings, progress=False)[0], CPU)
    again.restore(run)
    last = int(lines_of(run / "log.csv")[-1].split(",")[0])
    assert again.step >= last - 1 > 0
    again.training_step()


def kill_soon(process, log, seconds):
    """Start a process; kill it so long after it has opened its log, or found its work done."""
    begun, before = time.monotonic(), log.stat().st_mtime_ns if log.exists() else 0
    process.start()
    while process.is_alive() and time.monotonic() < begun + 60:
        if log.exists() and log.stat().st_mtime_ns > before:
            break
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()


def test_a_run_killed_at_twenty_random_moments_ends_like_an_uninterrupted_one(tmp_path):
    one = trainer(steps=400)
    whole, killed = (start(one.settings, tmp_path / name) for name in ("whole", "killed"))
    processes, random, steps = fresh_processes(), np.random.default_rng(0), []
    for _ in range(20):
        process = processes.Process(target=train_on, args=(killed,), kwargs={"steps": 400})
        kill_soon(process, killed / "log.csv", random.uniform(0, 0.15))
        one.restore(killed)  # raises if anything is damaged
        steps.append(one.step)
    assert steps == sorted(steps) and 0 < steps[-1] and len(set(steps)) > 1
    for folder in (killed, whole):
        final = processes.Process(target=train_on, args=(folder, 30), kwargs={"steps": 400})
        final.start()
        final.join(120)
        assert final.exitcode == 0
    one, two = (load_file(folder / "state.safetensors") for folder in (whole, killed))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_the_log_of_steps_that_were_lost_is_dropped_on_resuming(tmp_path):
    one = trainer()
    run = start(one.settings, tmp_path / "run")
    fit(one, run, progress=False)
    with open_log(run / "log.csv", 10):
        pass
    assert [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()] == ["step", "10"]


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    one = trainer()
    run = start(one.settings, tmp_path / "run")
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


def test_a_state_of_another_configuration_is_refused(tmp_path):
    one = trainer()
    one.training_step()
    run = start(one.settings, tmp_path / "run")
    one.save(run)
    for changes in ({"width": 9}, {"depth": 4}):
        with pytest.raises(InputError, match="cannot continue from"):
            trainer(**changes).restore(run)
    (run / "state.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="cannot continue from"):
        trainer().restore(run)
