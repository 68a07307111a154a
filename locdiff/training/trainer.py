"""The training of a model: one step, checkpoints, and the loop around them."""

import contextlib
import copy
import csv
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import distributed, nn
from tqdm import tqdm

from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.files import atomic_path
from locdiff.model.checkpoint import rename_tensor
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.seeding import derive_seed
from locdiff.training.batches import BatchReader
from locdiff.training.distributed import deferred_signals, rank_and_world_size
from locdiff.training.settings import SPIKE, Settings

CHECKPOINT_SECONDS = 30
LOG_EVERY = 10
SETTLED = 50  # steps after which the usual norm is known


class Trainer:
    """A model in training: weights, their moving average, Adam's state and the step. All randomness follows from
    (seed, step), so that a run which is stopped and resumed does what an uninterrupted one does.

    `make_model` makes a module of the model's configuration, with the methods `prepare(data)`, `loss(embeddings,
    locations)` and `finalize(data)`; `prepare` and `finalize` are what the model takes from the data before the first
    and after the last step. Where torchrun started several processes, each takes its share of every batch and the
    gradients are averaged by DistributedDataParallel: but for rounding and dropout, they do together what one process
    does.
    """

    def __init__(self, settings: Settings, train: Embeddings, device: torch.device, make_model=LocDiffusion):
        self.settings, self.train, self.device, self.step = settings, train, device, 0
        self.rank, self.processes = rank_and_world_size()
        t = settings.training
        if t.batch % self.processes:
            raise InputError(f"{self.processes} processes cannot share a batch of {t.batch} evenly: change --batch")
        torch.manual_seed(t.seed)
        self.model = make_model(settings.model)
        self.model.prepare(train)
        self.model.to(device)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=t.lr, betas=(t.beta1, t.beta2), weight_decay=t.weight_decay, fused=True
        )
        self.steps = t.steps or math.ceil(t.epochs * len(train) / t.batch)
        self.guard = SpikeGuard()
        self.model.bf16 = t.bf16
        if t.compile:
            self.model.network.compile()
        share = (self.rank, self.processes) if self.processes > 1 else ()
        self._loss = MeanLoss(self.model, share)
        if share:
            self._loss = nn.parallel.DistributedDataParallel(self._loss)
            self._loss.broadcast_buffers = False  # they never change
        self._batches = BatchReader(train, t.batch, t.seed, device, self.rank, self.processes)

    def training_step(self) -> tuple[torch.Tensor, float]:
        """Take one step; return its loss and learning rate. The next batch is read meanwhile.

        A step whose gradient is not finite, or far larger than usual, leaves the weights as they are and is counted.
        Raises InputError after `max_skipped` of them in a row.
        """
        t = self.settings.training
        embeddings, lat_lon = self._batches.read(self.step)
        torch.manual_seed(derive_seed(t.seed, self.step))
        lr = self.optimizer.param_groups[0]["lr"] = self._learning_rate()
        loss = self._loss(embeddings, lat_lon)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.clip).item()
        self.step += 1
        if self.guard.is_usual(norm, self.step):
            self.optimizer.step()
            decay = min(t.ema, self.step / (self.step + 9))
            averages = [self.average[name] for name, _ in self.model.named_parameters()]
            torch._foreach_lerp_(averages, [p.detach() for p in self.model.parameters()], 1 - decay)
        elif self.guard.in_a_row >= t.max_skipped:
            raise InputError(
                f"{self.guard.in_a_row} steps in a row up to step {self.step} were left out; in the last the loss was "
                f"{loss.item():.4g} and the norm of its gradient {norm:.4g}: lower --lr; the last checkpoint stays"
            )
        return loss.detach(), lr

    def _learning_rate(self):
        t = self.settings.training
        lr = t.lr * min(1, (self.step + 1) / max(1, t.warmup))
        return lr * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)) if t.decay else lr

    def leave(self) -> None:
        """Let go of the other processes: their group, which this one's loss belongs to, can then be destroyed."""
        self._loss = None

    def averaged_model(self) -> Any:
        """Return the model with the moving average of the weights, ready for prediction."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)  # the buffers stay
        model.bf16 = False
        return model.eval()

    def finished_model(self, progress: bool = True) -> Any:
        """Return the averaged model with what is fitted to it after training."""
        model = self.averaged_model()
        model.finalize(self.train, progress)
        return model.eval()

    def save(self, run: Path) -> None:
        """Write state.safetensors (to continue from) and the averaged model into the run folder; nothing at step 0."""
        if self.step == 0:
            return
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.model.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        metadata = {"step": repr(self.step)} | {name: repr(value) for name, value in vars(self.guard).items()}
        with atomic_path(run / "state.safetensors") as path:
            save_file(tensors, path, metadata)
        self.averaged_model().save(run)

    def restore(self, run: Path) -> None:
        """Continue from state.safetensors of the run folder. Raises InputError if it does not fit or is damaged."""
        path = run / "state.safetensors"
        if not path.exists() and (run / "training.json").exists():
            return  # stopped before the first checkpoint
        try:
            with safetensors.safe_open(path, "pt") as file:
                stored = {rename_tensor(name): name for name in file.keys()}
                metadata = {"skipped": 0, "in_a_row": 0, "usual_norm": math.inf} | file.metadata()
                self.step = int(metadata["step"])
                self.guard = SpikeGuard(
                    float(metadata["usual_norm"]), int(metadata["skipped"]), int(metadata["in_a_row"])
                )
                for name, parameter in self.model.named_parameters():
                    parameter.data.copy_(file.get_tensor(stored[f"weight.{name}"]))
                    self.average[name].copy_(file.get_tensor(stored[f"average.{name}"]))
                    self.optimizer.state[parameter] = {
                        key: file.get_tensor(stored[f"adam.{key}.{name}"]).to(self.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"cannot continue from {path}: {error!r}") from None


class SpikeGuard:
    """Which steps are taken, by the norm of their gradients; all processes see the same norm.

    `usual_norm` is a moving average of the norms, `skipped` the number of steps left out, and `in_a_row` that of those
    since the last good one.
    """

    def __init__(self, usual_norm: float = math.inf, skipped: int = 0, in_a_row: int = 0):
        self.usual_norm, self.skipped, self.in_a_row = usual_norm, skipped, in_a_row

    def is_usual(self, norm: float, step: int) -> bool:
        """Return whether the step with a gradient of this norm is taken, and count it."""
        usual = math.isfinite(norm) and (step <= SETTLED or norm <= SPIKE * self.usual_norm)
        if usual:
            self.usual_norm = norm if math.isinf(self.usual_norm) else 0.98 * self.usual_norm + 0.02 * norm
        self.in_a_row = 0 if usual else self.in_a_row + 1
        self.skipped += not usual
        return usual


class MeanLoss(nn.Module):
    """The mean loss of a batch, or of one process's share of it, as the module that DistributedDataParallel wants."""

    def __init__(self, model, share):
        super().__init__()
        self.model, self.share = model, share

    def forward(self, embeddings, lat_lon):
        return self.model.loss(embeddings, lat_lon, *self.share).mean()


def fit(trainer: Trainer, run: Path | None, progress: bool = True) -> None:
    """Train to the end, with a log line every 10 steps and a checkpoint every half minute, both by the first process.

    Ctrl-C saves and raises KeyboardInterrupt; SIGTERM saves and exits with code 0.
    """
    writes, saved, total, taken, skipped = trainer.rank == 0, time.monotonic(), 0.0, 0, trainer.guard.skipped
    quiet = not (progress and writes)
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc="training", unit="step", disable=quiet)
    log_file = open_log(run / "log.csv", trainer.step) if writes else contextlib.nullcontext()
    with log_file as log, bar, deferred_signals() as stop:
        asked = 0
        while trainer.step < trainer.steps and not asked:
            loss, lr = trainer.training_step()
            if trainer.guard.skipped > skipped:
                skipped = trainer.guard.skipped
                bar.write(f"step {trainer.step} was left out, {skipped} so far: its loss was {loss:.4g}", sys.stderr)
            else:
                total, taken = total + loss, taken + 1
            bar.update()
            if trainer.step % LOG_EVERY == 0 or trainer.step == trainer.steps:
                mean, asked = _over_processes(trainer, total / taken if taken else math.nan, stop[0])
                total, taken = 0.0, 0
                if writes:
                    log.write(f"{trainer.step},{mean:.6g},{lr:.6g},{skipped}\n")
                bar.set_postfix(loss=f"{mean:.3f}", lr=f"{lr:.1e}", **({"left_out": skipped} if skipped else {}))
            elif trainer.processes == 1:
                asked = stop[0]
            if writes and time.monotonic() - saved > CHECKPOINT_SECONDS:
                trainer.save(run)
                saved = time.monotonic()
        if writes:
            trainer.save(run)
    if asked:
        message = f"stopped at step {trainer.step} of {trainer.steps} and saved; continue with "
        message += f"python -m locdiff.train --resume {run}"
        if asked == signal.SIGTERM:
            print(message, file=sys.stderr)
            sys.exit(0)
        raise KeyboardInterrupt(message)


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
    """Open log.csv for appending, without the lines after `step` that an interrupted run may have left."""
    kept = []
    if step and path.exists():
        with open(path, newline="") as file:
            kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
    file = open(path, "w", newline="", buffering=1)
    file.write("\n".join(["step,loss,lr,skipped", *(",".join(row) for row in kept)]) + "\n")
    return file
