"""Train LocDiffusion: on the embedded Blue Marble views, or on a folder of your own image embeddings.

  python -m locdiff.train                                  quickstart: builds its data, trains, evaluates (CPU, minutes)
  python -m locdiff.train --preset zoom                    with two further levels that refine the place
  python -m locdiff.train --data FOLDER                    the same on embeddings.npy and locations.csv in FOLDER
  python -m locdiff.train --preset paper --data FOLDER     the paper's Table 3 (--l-max 15, 23, 31 or 47)
  python -m locdiff.train --resume runs/quickstart         continue a run that was stopped
  torchrun --nproc_per_node=4 -m locdiff.train ...         the same on four GPUs; the batch is shared out among them

A run is a folder: config.json and model.safetensors (the model, averaged weights), training.json (all settings and
versions), log.csv, state.safetensors (to continue from), and at the end metrics.json, metrics.md, predictions.png.
Ctrl-C and SIGTERM save before it stops. On several nodes every one must see the folders of the data and of the run.
"""

import contextlib
import copy
import csv
import dataclasses
import functools
import json
import math
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import healpy
import numpy as np
import safetensors
import scipy
import torch
from safetensors.torch import save_file
from torch import distributed, nn
from tqdm import tqdm

import locdiff
from locdiff import cli, datasets, readouts
from locdiff.cli import InputError, option
from locdiff.cs_unet import Whitening
from locdiff.hierarchy import HeadLevel, cells_of
from locdiff.model import LocDiffusion, ModelConfig, derive_seed, write_atomically
from locdiff.processes import between_steps, joined, world

CHECKPOINT_SECONDS = 30
LOG_EVERY = 10
SPIKE = 30  # times the usual norm of the gradient
WHITENED = 20_000  # pictures whose covariance the embeddings are whitened by
SETTLED = 50  # steps after which the usual norm is known


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained. The optimiser is Adam; weight decay is added to the gradient, as in the paper's code."""

    batch: int = option(256, "pictures a step")
    steps: int = option(4000, "training steps; 0 means train for `epochs` instead")
    epochs: int = option(0, "passes over the training data, where steps is 0")
    lr: float = option(1e-3, "learning rate")
    warmup: int = option(50, "steps over which the learning rate rises to lr")
    decay: bool = option(True, "let the learning rate fall to zero along a cosine")
    beta1: float = option(0.9, "Adam's first beta")
    beta2: float = option(0.99, "Adam's second beta")
    weight_decay: float = option(0.0, "weight decay")
    clip: float = option(1.0, "largest norm of the gradient")
    max_skipped: int = option(
        20,
        f"steps in a row left out, for a gradient that is not finite or {SPIKE} times "
        "the usual, after which the run stops",
    )
    bf16: bool = option(False, "run the network in bfloat16, the rest of the loss in float32")
    compile: bool = option(False, "compile the network (needs a C++ compiler, or Triton on a GPU)")
    ema: float = option(0.99, "decay of the moving average of the weights that is kept as the model")
    seed: int = option(0, "seed of everything random in training and evaluation")
    data: str = option("", "folder with embeddings.npy and locations.csv, or with train/ and test/ of these")
    holdout: int = option(
        0, "pictures of `data` held out where it has no train/ and test/; 0: a tenth of them, at most 2,000"
    )
    split: str = option(
        "random", "hold out single pictures, or all pictures of some photographers", ("random", "author")
    )
    samples: int = option(16, "samples a picture in the evaluation")

    def __post_init__(self):
        if min(self.batch, self.samples, self.max_skipped) < 1:
            raise InputError("need batch, samples and max_skipped >= 1")
        if min(self.steps, self.epochs) < 0 or self.steps + self.epochs == 0:
            raise InputError("need steps or epochs > 0")
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.ema < 1 and self.clip > 0):
            raise InputError("need lr > 0, clip > 0, and beta1, beta2, ema in [0, 1)")


@dataclass(frozen=True)
class Settings:
    """Everything that defines a training run."""

    model: ModelConfig
    training: TrainConfig
    blue_marble: datasets.BlueMarble


PRESETS = {
    "quickstart": {},
    "zoom": {"levels": 3, "steps": 5000},
    "paper": {  # Table 3; where the paper is silent: its reference implementation's EMA and schedule, w of Table 9
        "l_max": 47, "width": 32, "depth": 6, "time_dim": 200, "dropout": 0.3, "anchors": 2048, "whiten": 0.0,
        "pure_noise": 0.0,
        "loss": "shdd_kl", "temperature": 1.0, "exact_skip": False,
        "schedule": "cosine", "shift": 1.0, "noise_levels": 100, "sample_steps": 100,
        "batch": 512, "steps": 0, "epochs": 500, "lr": 1e-4, "warmup": 0, "decay": False,
        "beta1": 0.9, "beta2": 0.99, "weight_decay": 5e-4, "ema": 0.995, "samples": 16,
    },
    "smoke": {
        "l_max": 7, "width": 32, "depth": 2, "time_dim": 32, "noise_levels": 20, "sample_steps": 3, "samples": 4,
        "quadrature_nside": 8, "decoder_nside": 16, "rho_km": 400.0, "steps": 60, "batch": 64, "warmup": 5, "lr": 2e-3,
        "train_views": 500, "test_views": 40,
    },
}  # fmt: skip


def resolve(preset="quickstart", **overrides):
    """The Settings of a preset, with any of its values overridden by name."""
    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}'; there are {', '.join(PRESETS)}")
    values = PRESETS[preset] | overrides
    parts, known = {}, set()
    for part in dataclasses.fields(Settings):
        names = {f.name for f in dataclasses.fields(part.type)}
        parts[part.name] = part.type(**{name: value for name, value in values.items() if name in names})
        known |= names
    if set(values) - known:
        raise InputError(f"unknown settings: {', '.join(sorted(set(values) - known))}")
    return Settings(**parts)


def fitted(settings, data):
    """The Settings for training on these Embeddings: the model takes their encoder and their width."""
    cells = (len(cells_used(data)),) if settings.model.levels > 1 else ()
    model = dataclasses.replace(
        settings.model, encoder=data.encoder, embed_dim=data.embeddings.shape[1], zoom_cells=cells
    )
    return dataclasses.replace(settings, model=model)


def cells_used(data):
    """The cells (C,) of level 1, in order, that any of the places belongs to."""
    return cells_of(torch.from_numpy(data.lat_lon), 8)[0].unique()


def versions():
    """Versions of what a number depends on, and the commit of this program if it runs from a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = ""
    with contextlib.suppress(OSError):  # no git
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return {
        "locdiff": locdiff.__version__, "commit": commit or "unknown", "python": platform.python_version(),
        "torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__, "healpy": healpy.__version__,
    }  # fmt: skip


@functools.lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_rows(step, batch, n, seed):
    """Which of n pictures step `step` (from 0) sees: (batch,). Each epoch is a new random order of all of them."""
    position = np.arange(step * batch, (step + 1) * batch)
    return np.concatenate([
        _permutation(n, seed, epoch)[position[position // n == epoch] % n] for epoch in np.unique(position // n)
    ])  # fmt: skip


class Trainer:
    """A model in training: weights, their moving average, Adam's state and the step. All randomness follows from
    (seed, step), so that a run which is stopped and resumed does what an uninterrupted one does.

    Where torchrun started several processes, each takes its share of every batch and the gradients are averaged by
    DistributedDataParallel: but for rounding and dropout, they do together what one process does.
    """

    def __init__(self, settings, train, device, make_model=LocDiffusion):
        self.settings, self.train, self.device, self.step = settings, train, device, 0
        self.rank, self.processes = world()
        t = settings.training
        if t.batch % self.processes:
            raise InputError(f"{self.processes} processes cannot share a batch of {t.batch} evenly: change --batch")
        torch.manual_seed(t.seed)
        self.model = make_model(settings.model)
        for part in self.model.modules():
            if isinstance(part, Whitening):
                self._whiten(part)
            if isinstance(part, HeadLevel):
                part.cells.copy_(cells_used(train))
        self.model.to(device)
        self.average = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=t.lr, betas=(t.beta1, t.beta2), weight_decay=t.weight_decay, fused=True
        )
        self.steps = t.steps or math.ceil(t.epochs * len(train) / t.batch)
        self.skipped = self.in_a_row = 0  # steps left out, and those of them since the last good one
        self.usual_norm = math.inf  # moving average of the gradient's norm
        self.model.bf16 = t.bf16
        if t.compile:
            self.model.network.compile()
        share = (self.rank, self.processes) if self.processes > 1 else ()
        self._loss = MeanLoss(self.model, share)
        if share:
            self._loss = nn.parallel.DistributedDataParallel(self._loss)
            self._loss.broadcast_buffers = False  # they never change
        self._resident = train.tensors(device) if _fits(train, device) else None
        self._reader, self._ahead = ThreadPoolExecutor(1), {}

    def _whiten(self, part):
        """Fit it to WHITENED random training pictures, or to all."""
        some = np.random.default_rng(0).permutation(len(self.train))[:WHITENED]
        embeddings, _ = self.train.batch(some)
        try:
            part.fit(embeddings, self.settings.model.whiten)
        except ValueError as error:
            raise InputError(
                f"cannot whiten the embeddings to train on: {error}; look at them, or --whiten 0"
            ) from None

    def _read(self, step):
        t, part = self.settings.training, self.settings.training.batch // self.processes
        rows = batch_rows(step, t.batch, len(self.train), t.seed)[self.rank * part : (self.rank + 1) * part]
        if self._resident:
            rows = torch.from_numpy(rows).to(self.device)
            return self._resident[0][rows].float(), self._resident[1][rows]
        batch = self.train.batch(rows)
        return batch if self.device.type == "cpu" else [part.pin_memory() for part in batch]

    def advance(self):
        """One training step; returns the loss and the learning rate. The next batch is read meanwhile.

        A step whose gradient is not finite, or far larger than usual, leaves the weights as they are and is counted in
        `skipped`.
        """
        t = self.settings.training
        batch = self._ahead.pop(self.step, None) or self._reader.submit(self._read, self.step)
        self._ahead = {self.step + 1: self._reader.submit(self._read, self.step + 1)}
        torch.manual_seed(derive_seed(t.seed, self.step))
        embeddings, lat_lon = (part.to(self.device, non_blocking=True) for part in batch.result())
        lr = t.lr * min(1, (self.step + 1) / max(1, t.warmup))
        if t.decay:
            lr *= 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        self.optimizer.param_groups[0]["lr"] = lr
        loss = self._loss(embeddings, lat_lon)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), t.clip).item()
        self.step += 1
        if self._is_usual(norm):
            self.optimizer.step()
            decay = min(t.ema, self.step / (self.step + 9))
            averages = [self.average[name] for name, _ in self.model.named_parameters()]
            torch._foreach_lerp_(averages, [p.detach() for p in self.model.parameters()], 1 - decay)
        elif self.in_a_row >= t.max_skipped:
            raise InputError(
                f"{self.in_a_row} steps in a row up to step {self.step} were left out; in the last the loss was "
                f"{loss.item():.4g} and the norm of its gradient {norm:.4g}: lower --lr; the last checkpoint stays"
            )
        return loss.detach(), lr

    def _is_usual(self, norm):
        """Whether a step with a gradient of this norm is taken; keeps count. The norm is the same in all processes."""
        usual = math.isfinite(norm) and (self.step <= SETTLED or norm <= SPIKE * self.usual_norm)
        if usual:
            self.usual_norm = norm if math.isinf(self.usual_norm) else 0.98 * self.usual_norm + 0.02 * norm
        self.in_a_row = 0 if usual else self.in_a_row + 1
        self.skipped += not usual
        return usual

    def leave(self):
        """Let go of the other processes: their group, which this one's loss belongs to, can then be destroyed."""
        self._loss = None

    def averaged_model(self):
        """The model with the moving average of the weights, ready for prediction."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)  # the buffers stay
        model.bf16 = False
        return model.eval()

    def finished_model(self, progress=True):
        """The averaged model with the levels beyond the second, which are fitted to it now."""
        model = self.averaged_model()
        for k in range(2, self.settings.model.levels):
            cells = readouts.cells_to_read(self.train, 8**k)
            if not len(cells):
                print(
                    f"no level {k}: no cell of nside {8**k} has {readouts.MIN_PLACES} distinct training places",
                    file=sys.stderr,
                )
                break
            level = readouts.ReadoutLevel(k, len(cells), model.config).to(self.device)
            level.cells.copy_(cells)
            readouts.fit(level, model.see, self.train, progress)
            model.add_level(level)
        return model.eval()

    def save(self, run):
        """Write state.safetensors (to continue from) and the averaged model into the run folder; nothing at step 0."""
        if self.step == 0:
            return
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.model.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        counts = ("step", "skipped", "in_a_row", "usual_norm")
        metadata = {name: repr(getattr(self, name)) for name in counts}
        write_atomically(run / "state.safetensors", lambda path: save_file(tensors, path, metadata))
        self.averaged_model().save(run)

    def restore(self, run):
        """Continue from state.safetensors of the run folder."""
        path = run / "state.safetensors"
        if not path.exists() and (run / "training.json").exists():
            return  # stopped before the first checkpoint
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = {"skipped": 0, "in_a_row": 0, "usual_norm": math.inf} | file.metadata()
                self.step, self.skipped, self.in_a_row = (int(metadata[k]) for k in ("step", "skipped", "in_a_row"))
                self.usual_norm = float(metadata["usual_norm"])
                for name, parameter in self.model.named_parameters():
                    parameter.data.copy_(file.get_tensor(f"weight.{name}"))
                    self.average[name].copy_(file.get_tensor(f"average.{name}"))
                    self.optimizer.state[parameter] = {
                        key: file.get_tensor(f"adam.{key}.{name}").to(self.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"cannot continue from {path}: {error!r}") from None


class MeanLoss(nn.Module):
    """The mean loss of a batch, or of one process's share of it, as the module that DistributedDataParallel wants."""

    def __init__(self, model, share):
        super().__init__()
        self.model, self.share = model, share

    def forward(self, embeddings, lat_lon):
        return self.model.loss(embeddings, lat_lon, *self.share).mean()


def _fits(train, device):
    """Whether all pictures are kept on the device: on a GPU, where they take at most a third of what is free."""
    return device.type == "cuda" and len(train) * train.embeddings[:1].nbytes < torch.cuda.mem_get_info(device)[0] / 3


def fit(trainer, run, progress=True):
    """Train to the end, with a log line every 10 steps and a checkpoint every half minute, both by the first process.

    Ctrl-C saves and raises KeyboardInterrupt; SIGTERM saves and exits with code 0.
    """
    writes, saved, total, taken, skipped = trainer.rank == 0, time.monotonic(), 0.0, 0, trainer.skipped
    quiet = not (progress and writes)
    bar = tqdm(total=trainer.steps, initial=trainer.step, desc="training", unit="step", disable=quiet)
    log_file = open_log(run / "log.csv", trainer.step) if writes else contextlib.nullcontext()
    with log_file as log, bar, between_steps() as stop:
        asked = 0
        while trainer.step < trainer.steps and not asked:
            loss, lr = trainer.advance()
            if trainer.skipped > skipped:
                skipped = trainer.skipped
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


def open_log(path, step):
    """log.csv opened for appending, without the lines after `step` that an interrupted run may have left."""
    kept = []
    if step and path.exists():
        with open(path, newline="") as file:
            kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
    file = open(path, "w", newline="", buffering=1)
    file.write("\n".join(["step,loss,lr,skipped", *(",".join(row) for row in kept)]) + "\n")
    return file


def load_data(settings, progress=True):
    """Training and held-out Embeddings of a run: its data folder, or the Blue Marble views."""
    t = settings.training
    folder = t.data or datasets.blue_marble(settings.blue_marble, progress)
    return datasets.train_and_test(folder, t.holdout, t.seed, t.split)


def start(settings, out):
    """Make the run folder and write training.json; returns its path, `out` or, where that exists, out-2, out-3, ..."""
    candidates = (out if i == 1 else out.with_name(f"{out.name}-{i}") for i in range(1, 10_000))
    run = next(path for path in candidates if not path.exists())
    try:
        run.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the run folder {run}: {error}; choose another with --out") from None
    record = {"settings": dataclasses.asdict(settings), "versions": versions()}
    write_atomically(run / "training.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    return run


def read_settings(run):
    """The Settings in training.json of a run folder."""
    path = run / "training.json"
    try:
        parts = json.loads(path.read_text())["settings"]
        return Settings(**{part.name: part.type(**parts[part.name]) for part in dataclasses.fields(Settings)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the training settings in {path}: {error!r}") from None


def main(argv=None):
    """The command line; returns the run folder."""
    from locdiff.evaluate import report

    parser = cli.Parser(prog="python -m locdiff.train", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="quickstart", help="named settings (default quickstart)")
    parser.add_argument("--out", type=Path, help="run folder (default runs/PRESET; a number is added if it exists)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder, as it was set up")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and stop")
    for part in dataclasses.fields(Settings):
        cli.add_options(parser, part.name.replace("_", " ") + " (defaults of the quickstart)", part.type)
    arguments = vars(parser.parse_args(argv))
    preset, out, resume, device, dry_run = (arguments.pop(k) for k in ("preset", "out", "resume", "device", "dry_run"))
    overrides = {name: value for name, value in arguments.items() if value is not None}
    if resume and (overrides or out):
        parser.error("--resume continues a run as it was set up; it takes no other settings")
    settings = read_settings(resume) if resume else resolve(preset, **overrides)
    if dry_run:
        print(json.dumps(dataclasses.asdict(settings), indent=2))
        return None

    with joined(device) as device:
        first = world()[0] == 0
        train, test = load_data(settings, progress=first)
        settings = fitted(settings, train)
        trainer = Trainer(settings, train, device)
        try:
            run = resume or (start(settings, out or Path("runs") / preset) if first else None)
            if resume:
                trainer.restore(run)
            if first:
                shared = f" x {trainer.processes}" if trainer.processes > 1 else ""
                print(f"{run}: {len(train):,} pictures, {trainer.steps:,} steps, on {device}{shared}", file=sys.stderr)
            fit(trainer, run)
        finally:
            trainer.leave()
    if first:
        model = trainer.finished_model()
        model.save(run)
        report(run, model, train, test, settings)
    return run


if __name__ == "__main__":
    cli.run(main)
