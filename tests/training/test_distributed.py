"""Several processes train as one does; devices, and signals that wait."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.training import CPU, SMALL, pictures, trainer

from locdiff import train
from locdiff.errors import InputError
from locdiff.training import trainer as trainer_module
from locdiff.training.distributed import deferred_signals, process_group, rank_and_world_size
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer

TRAIN_AND_LEAVE = """
import pathlib, sys
from locdiff import train

train.main(sys.argv[1:])
threads = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads  # they would abort the process at random
"""


def test_two_processes_train_as_one_does_and_one_continues_what_two_began(tmp_path, cache, monkeypatch):
    """Real processes under torchrun, with gloo; only the first writes."""
    monkeypatch.setattr(train, "report", lambda *_: None)  # which takes seconds
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
    assert one.keys() == two.keys() and all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)


SHARED = [{"loss": "likelihood"}, {"loss": "shdd_kl", "exact_skip": False}, {"levels": 2, "zoom_width": 16}]


@pytest.mark.parametrize("changes", SHARED, ids=["likelihood", "shdd_kl", "levels"])
def test_a_share_of_a_batch_has_the_noise_it_has_in_the_whole(changes):
    data = pictures(8)
    settings = infer_data_fields(resolve("smoke", **SMALL | {"dropout": 0.0, "p_pure_noise": 0.3} | changes), data)
    model = Trainer(settings, data, CPU).model
    for head in (model.network.head, *(level.head for level in model.refinements)):
        torch.nn.init.normal_(head.weight)  # an untrained head says nothing
    embeddings, lat_lon = data.batch(range(8))
    torch.manual_seed(3)
    whole = model.loss(embeddings, lat_lon)
    assert len(set(whole.tolist())) == 8
    for rank in range(4):
        torch.manual_seed(3)
        part = slice(2 * rank, 2 * rank + 2)
        assert torch.allclose(model.loss(embeddings[part], lat_lon[part], rank, 4), whole[part], rtol=1e-5)


def test_an_uneven_share_is_refused(monkeypatch):
    monkeypatch.setattr(trainer_module, "rank_and_world_size", lambda: (0, 3))
    with pytest.raises(InputError, match="3 processes cannot share a batch of 8 evenly"):
        trainer()


def test_one_process_forms_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu") as device:
        assert device == CPU and rank_and_world_size() == (0, 1) and not torch.distributed.is_initialized()


def test_signals_wait_and_their_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with deferred_signals() as stop:
            assert stop == [0]
            os.kill(os.getpid(), number)
            assert stop == [number]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_beside_the_main_thread_signals_are_left_alone():
    """Where Python lets nobody handle them."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def train_beside():
        with deferred_signals() as stop:
            seen.append((stop, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train_beside)
    thread.start()
    thread.join()
    assert seen == [([0], before)]
