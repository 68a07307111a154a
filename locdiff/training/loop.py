"""The loop around the training steps: log, validation, checkpoints, and how it ends."""

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
from locdiff.training.logs import LOG, VALIDATION_LOG, Logs
from locdiff.training.trainer import Trainer

CHECKPOINT_SECONDS = 30
LOG_EVERY = 10


def fit(trainer: Trainer, run: Path | None, progress: bool = True) -> None:
    """Train to the end, with a log line every 10 steps and a checkpoint every half minute, both by the first process.

    The lines are in log.csv; those of the validation in validation.csv; see `Logs`. Ctrl-C saves and raises
    KeyboardInterrupt; SIGTERM saves and exits with code 0.
    """
    writes, saved, total, taken, skipped = trainer.rank == 0, time.monotonic(), 0.0, 0, trainer.guard.skipped
    quiet, shown = not (progress and writes), {}
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc="training", unit="step", disable=quiet)
    with _logs(run, trainer) as logs, bar, deferred_signals() as stop:
        asked = 0
        if not trainer.step:
            _validate(trainer, logs)
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
                logs.write(LOG, trainer.step, mean, lr, skipped)
                shown |= _validate(trainer, logs)
                bar.set_postfix(loss=f"{mean:.3f}", lr=f"{lr:.1e}", **shown)
            elif trainer.processes == 1:
                asked = stop[0]
            if writes and time.monotonic() - saved > CHECKPOINT_SECONDS:
                _save(trainer, run, logs)
                saved = time.monotonic()
        if writes:
            _save(trainer, run, logs)
    _say_how_it_ended(trainer, run, asked)


def _logs(run, trainer):
    """The Logs of a run; without tables for processes that do not write."""
    names = (LOG, VALIDATION_LOG) if trainer.validation else (LOG,)
    return Logs(run, trainer.step, names if trainer.rank == 0 else (), trainer.settings.training.tensorboard)


def _save(trainer, run, logs):
    logs.flush()  # first: a run that goes on from here has all points up to here
    trainer.save(run)


def _validate(trainer, logs):
    """Validate where it is due, with a line in validation.csv; return what the progress bar shows of it."""
    nats = trainer.validate()
    if nats is None:
        return {}
    logs.write(VALIDATION_LOG, trainer.step, nats)
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
