"""TensorBoard's event files hold what log.csv and validation.csv do, also of a run that was interrupted."""

import csv
import sys

import pytest
from support.commands import outcome
from support.training import CPU, SMALL, pictures

from locdiff import train
from locdiff.training import logs, loop
from locdiff.training.loop import fit
from locdiff.training.settings import read_settings, resolve, start
from locdiff.training.trainer import Trainer

CURVES = {"log.csv": "training", "validation.csv": "validation"}


def trainer(settings):
    return Trainer(settings, pictures(), CPU, validation=pictures(8))


def tables(run):
    """The points (step, value) of each column of the run's tables, {curve: points}, in the order of the lines."""
    found = {}
    for name, curve in CURVES.items():
        with open(run / name, newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for column, value in row.items():
                    found.setdefault(f"{curve}/{column}", []).append((step, float(value)))
    return found


def curves(run):
    """The points (step, value) of each curve, as TensorBoard reads them from the run folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_the_same(found, expected):
    assert found.keys() == expected.keys() == {"training/loss", "training/lr", "training/skipped", "validation/nats"}
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points], tag
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in points], rel=1e-6), tag


@pytest.fixture
def settings():
    return resolve("smoke", **SMALL | {"steps": 60, "tensorboard": True})


def test_event_files_hold_what_the_tables_do(tmp_path, settings):
    run = start(settings, tmp_path / "run")
    fit(trainer(settings), run, progress=False)
    assert_the_same(curves(run), tables(run))
    assert [step for step, _ in curves(run)["training/loss"]] == [10, 20, 30, 40, 50, 60]
    assert curves(run)["validation/nats"][0][0] == 0


@pytest.mark.parametrize("saved", [0, 17, 30])
def test_a_run_that_goes_on_from_a_checkpoint_has_no_point_twice(tmp_path, settings, saved, monkeypatch):
    """The first training is killed after more steps than its last checkpoint, at step `saved`, knows of."""
    run, first = start(settings, tmp_path / "run"), trainer(settings)
    step = first.training_step

    def taken():
        if first.step == saved:
            first.save(run)
        if first.step == 45:
            raise RuntimeError("killed")
        return step()

    monkeypatch.setattr(first, "training_step", taken)
    with pytest.raises(RuntimeError, match="killed"):
        fit(first, run, progress=False)
    assert curves(run)["training/loss"][-1][0] == 40

    second = trainer(read_settings(run))
    second.restore(run)
    assert second.step == saved
    fit(second, run, progress=False)
    assert_the_same(curves(run), tables(run))
    assert [step for step, _ in curves(run)["training/loss"]] == [10, 20, 30, 40, 50, 60]


class LazyWriter:
    """A SummaryWriter that keeps all points until it is flushed."""

    def __init__(self, folder, purge_step):
        self.waiting, self.written = [], []
        LazyWriter.last = self

    def add_scalar(self, tag, value, step):
        self.waiting.append((tag, step))

    def flush(self):
        self.written, self.waiting = self.written + self.waiting, []

    close = flush


def test_a_checkpoint_knows_of_no_step_that_the_event_files_lack(tmp_path, settings, monkeypatch):
    """So a kill at any moment loses no point: those after the checkpoint are made again."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(logs, "summary_writer", lambda: LazyWriter)
    run, one, seen = start(settings, tmp_path / "run"), trainer(settings), []
    monkeypatch.setattr(one, "save", lambda run: seen.append((one.step, list(LazyWriter.last.written))))
    fit(one, run, progress=False)
    assert len(seen) > 60
    for step, points in seen:
        assert [at for tag, at in points if tag == "training/loss"] == list(range(10, step + 1, 10)), step


def test_without_the_option_there_are_no_event_files(tmp_path, settings):
    plain = resolve("smoke", **SMALL)
    run = start(plain, tmp_path / "run")
    fit(trainer(plain), run, progress=False)
    assert (run / "log.csv").exists() and not list(run.glob("*tfevents*"))


def test_a_missing_package_is_one_line_before_anything_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    code, lines = outcome(train.main, ["--preset", "smoke", "--tensorboard", "--out", str(run)], capsys)
    assert code == 2 and len(lines) == 1 and "pip install -e '.[tensorboard]'" in lines[0]
    assert not run.exists() and not (tmp_path / "cache").exists()
