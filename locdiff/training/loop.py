"""The loop around the training steps: log, validation, checkpoints, and how it ends."""

import contextlib
import csv
import math
import signal
import sys
import time
from pathlib import Path

import safetensors
import torch
from torch import distributed
from tqdm import tqdm

from locdiff.errors import InputError
from locdiff.training.distributed import deferred_signals
from locdiff.training.trainer import Trainer

CHECKPOINT_SECONDS = 30
LOG_EVERY = 10
LOG, VALIDATION_LOG = "log.csv", "validation.csv"
HEADS = {LOG: "step,loss,lr,skipped", VALIDATION_LOG: "step,nats"}


def fit(trainer: Trainer, run: Path | None, progress: bool = True) -> None:
    """Train to the end, with a log line every 10 steps and a checkpoint every half minute, both by the first process.

    The lines are in log.csv; those of the validation in validation.csv. Ctrl-C saves and raises KeyboardInterrupt;
    SIGTERM saves and exits with code 0.
    """
    writes, saved, total, taken, skipped = trainer.rank == 0, time.monotonic(), 0.0, 0, trainer.guard.skipped
    quiet, shown = not (progress and writes), {}
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc="training", unit="step", disable=quiet)
    with _logs(run, trainer) as (log, validation_log), bar, deferred_signals() as stop:
        asked = 0
        if not trainer.step:
            _validate(trainer, validation_log)
        while not (trainer.has_ended or asked):
            loss, lr = trainer.training_step()
            if trainer.guard.skipped > skipped:
                skipped = shown["left_out"] = trainer.guard.skipped
                bar.write(f"step {trainer.step} was left out, {skipped} so far: its loss was {loss:.4g}", sys.stderr)
            else:
                total, taken = total + loss, taken + 1
            bar.update()
            if trainer.step % LOG_EVERY == 0 or trainer.step == trainer.steps:
                mean, asked = _over_processes(trainer, total / taken if taken else math.nan, stop[0])
                total, taken = 0.0, 0
                if log:
                    log.write(f"{trainer.step},{mean:.6g},{lr:.6g},{skipped}\n")
                shown |= _validate(trainer, validation_log)
                bar.set_postfix(loss=f"{mean:.3f}", lr=f"{lr:.1e}", **shown)
            elif trainer.processes == 1:
                asked = stop[0]
            if writes and time.monotonic() - saved > CHECKPOINT_SECONDS:
                trainer.save(run)
                saved = time.monotonic()
        if writes:
            trainer.save(run)
    _say_how_it_ended(trainer, run, asked)


@contextlib.contextmanager
def _logs(run, trainer):
    """log.csv and validation.csv, open; None for processes that do not write, or without a validation."""
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open_log(run / LOG, trainer.step)) if trainer.rank == 0 else None
        validates = log and trainer.validation
        yield log, stack.enter_context(open_log(run / VALIDATION_LOG, trainer.step)) if validates else None


def _validate(trainer, log):
    """Validate where it is due, with a line in the log; return what the progress bar shows of it."""
    nats = trainer.validate()
    if nats is None:
        return {}
    if log:
        log.write(f"{trainer.step},{nats:.6g}\n")
    return {"validation": f"{nats:.3f} nats"}


def _say_how_it_ended(trainer, run, asked):
    """Say where training ended and which weights are the model; leave as the signal `asked` demands, if it is one."""
    if asked:
        message = f"stopped at step {trainer.step} of {trainer.steps} and saved; continue with "
        message += f"python -m locdiff.train --resume {run}"
        if asked == signal.SIGTERM:
            print(message, file=sys.stderr)
            sys.exit(0)
        raise KeyboardInterrupt(message)
    if trainer.validation and trainer.rank == 0:
        best = trainer.validation
        early = f"stopped early, at step {trainer.step:,} of {trainer.steps:,}; " * (trainer.step < trainer.steps)
        print(
            f"{early}the model is that of step {best.step:,}, which gives the {len(best.lat_lon):,} pictures kept "
            f"apart {best.nats:.3f} nats over the uniform density",
            file=sys.stderr,
        )


def _over_processes(trainer, loss, signal_number):
    """The mean of the loss over all processes, and the signal that any of them has had."""
    if trainer.processes == 1:
        return float(loss), signal_number
    both = torch.tensor([float(loss), float(signal_number)], device=trainer.device)
    everywhere = [torch.empty_like(both) for _ in range(trainer.processes)]
    distributed.all_gather(everywhere, both)
    losses, signals = torch.stack(everywhere).T
    return losses.mean().item(), int(signals.max())


def open_log(path: Path, step: int):
    """Open log.csv or validation.csv for appending, without the lines after `step` that an interrupted run may have
    left."""
    kept = []
    if step and path.exists():
        with open(path, newline="") as file:
            kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
    file = open(path, "w", newline="", buffering=1)
    file.write("\n".join([HEADS[path.name], *(",".join(row) for row in kept)]) + "\n")
    return file


def check_finished(run: Path) -> None:
    """Raise InputError if the training in a run folder was stopped before its end, which is its report.

    A folder without state.safetensors holds a model that is not trained further.
    """
    path = run / "state.safetensors"
    if not path.exists():
        return
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = file.metadata()
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path} cannot be read or is damaged: {error}; remove it if {run} has ended") from None
    if state.get("ended") == "False" or not (run / "metrics.json").exists():
        raise InputError(
            f"the training of {run} has not ended, it is at step {state['step']}: python -m locdiff.train --resume "
            f"{run} goes on to its end and writes the report"
        )
