"""The training of a model: one step, validation and checkpoints; `loop.fit` goes round."""

import copy
import math
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import distributed, nn

from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.files import atomic_path
from locdiff.model.checkpoint import rename_tensor
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.seeding import derive_seed
from locdiff.training.batches import BatchReader
from locdiff.training.distributed import rank_and_world_size
from locdiff.training.settings import SPIKE, Settings
from locdiff.training.validation import Validation, is_due

SETTLED = 50  # steps after which the usual norm is known


class Trainer:
    """A model in training: weights, their moving average, Adam's state and the step. All randomness follows from
    (seed, step), so that a run which is stopped and resumed does what an uninterrupted one does.

    `make_model` makes a module of the model's configuration, with the methods `prepare(data)`, `loss(embeddings,
    locations)`, `finalize(data, validation, progress)` and `save_pretrained(folder)`; `prepare` and `finalize` are what
    the model takes from the data before the first and after the last step. With `validation` pictures, which `train`
    must not hold, the weights that are kept are those of the largest `validation_nats(embeddings, locations)`, and the
    model is calibrated.

    Where torchrun started several processes, each takes its share of every batch and the gradients are averaged by
    DistributedDataParallel: but for rounding and dropout, they do together what one process does.
    """

    def __init__(
        self, settings: Settings, train: Embeddings, device: torch.device, make_model=LocDiffusion,
        validation: Embeddings | None = None,
    ):  # fmt: skip
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
        self.validation_data, self.validation = validation, None if validation is None else Validation(validation)
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

    def validate(self) -> float | None:
        """Return the validation's nats where it is due after this step, and keep the best weights; otherwise None."""
        if self.validation is None or not (is_due(self.step) or self.step == self.steps):
            return None
        return self.validation.check(self.averaged_model(), self.step, self._from_first_process)

    def _from_first_process(self, value):
        if self.processes == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, 0)
        return shared.item()

    @property
    def has_ended(self) -> bool:
        """Whether all steps are taken, or the validation has not improved for as long as `patience` allows."""
        patience = self.settings.training.patience
        return self.step >= self.steps or bool(self.validation and 0 < patience <= self.validation.since)

    def leave(self) -> None:
        """Let go of the other processes: their group, which this one's loss belongs to, can then be destroyed."""
        self._loss = None

    def averaged_model(self) -> Any:
        """Return the model with the moving average of the weights, ready for prediction."""
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.average, strict=False)  # the buffers stay
        model.bf16 = False
        return model.eval()

    def best_model(self) -> Any:
        """Return the averaged model of the step that the validation found best, or else that of the last step."""
        model = self.averaged_model()
        if self.validation:
            model.load_state_dict(self.validation.best, strict=False)
        return model

    def finished_model(self, progress: bool = True) -> Any:
        """Return the best model with what is fitted to it after training."""
        model = self.best_model()
        model.finalize(self.train, self.validation_data if self.settings.training.calibrate else None, progress)
        return model.eval()

    def save(self, run: Path) -> None:
        """Write state.safetensors (to continue from) and the averaged model into the run folder; nothing at step 0."""
        if self.step == 0:
            return
        tensors = {f"average.{name}": value for name, value in self.average.items()}
        for name, parameter in self.model.named_parameters():
            tensors[f"weight.{name}"] = parameter.detach()
            tensors |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        extra = {}
        if self.validation:
            tensors, extra = tensors | self.validation.tensors(), self.validation.metadata()
        tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
        metadata = (
            {"step": repr(self.step), "ended": repr(self.has_ended), "has_prior": "True"}
            | {name: repr(value) for name, value in vars(self.guard).items()}
            | extra
        )
        with atomic_path(run / "state.safetensors") as path:
            save_file(tensors, path, metadata)
        self.best_model().save_pretrained(run)

    def restore(self, run: Path) -> None:
        """Continue from state.safetensors of the run folder. Raises InputError if it does not fit or is damaged."""
        path = run / "state.safetensors"
        if not path.exists() and (run / "training.json").exists():
            if (run / "model.safetensors").exists():
                raise InputError(f"{path} is missing: without it this run cannot continue; train a new one")
            return  # stopped before the first checkpoint
        try:
            with safetensors.safe_open(path, "pt") as file:
                self._restore(file, {"skipped": 0, "in_a_row": 0, "usual_norm": math.inf} | file.metadata())
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, safetensors.SafetensorError) as error:
            raise InputError(f"cannot continue from {path}: {error!r}") from None

    def _restore(self, file, metadata):
        stored = {rename_tensor(name): name for name in file.keys()}

        def get(name, like):
            tensor = file.get_tensor(stored[name])
            if tensor.shape != like.shape:
                raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(like.shape)}")
            return tensor.to(self.device)

        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(get(f"weight.{name}", parameter))
            self.average[name].copy_(get(f"average.{name}", parameter))
            adam = {key: get(f"adam.{key}.{name}", parameter) for key in ("exp_avg", "exp_avg_sq")}
            adam["step"] = file.get_tensor(stored[f"adam.step.{name}"]).to(self.device)
            self.optimizer.state[parameter] = adam
        if self.validation:
            names = [name for name, _ in self.model.named_parameters()]
            self.validation.restore({name: get(f"best.{name}", self.average[name]) for name in names}, metadata)
        if "has_prior" not in metadata:  # a run of format 3 or 4
            for name, buffer in self.model.named_buffers():
                if name.endswith(".prior"):
                    buffer.zero_()
        self.step = int(metadata["step"])
        self.guard = SpikeGuard(float(metadata["usual_norm"]), int(metadata["skipped"]), int(metadata["in_a_row"]))


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
