"""Settings of a training run: how a model is trained, the presets, and the folder that a run keeps them in."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path

import torch

from locdiff import options
from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings, train_and_test
from locdiff.data.place_names import PLACE_NAMES, PlaceNames, place_names
from locdiff.errors import InputError
from locdiff.files import read_json, versions, write_json
from locdiff.model.checkpoint import config_from_record
from locdiff.model.config import ModelConfig
from locdiff.model.refinement import occupied_cells
from locdiff.model.whitening import choose_floor
from locdiff.options import option

SPIKE = 30  # times the usual norm of the gradient
LARGEST_BATCH = 10**7


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
    data: str = option(
        "",
        "folder with embeddings.npy and locations.csv, or with train/ and test/ of these; or place-names",
    )
    holdout: int = option(
        0, "pictures of `data` held out where it has no train/ and test/; 0: a tenth of them, at most 2,000"
    )
    split: str = option(
        "random", "hold out single pictures, or all pictures of some photographers", ("random", "author")
    )
    validation: float = option(
        0.05,
        "share of the training pictures kept apart to choose and calibrate the model: at most 2,000, at least 500 or a "
        "fifth; pictures of other photographers, where these are known; 0: none",
    )
    patience: int = option(8, "stop after so many validations without a better one (four as steps double); 0: never")
    calibrate: bool = option(True, "calibrate the densities by the pictures kept apart")
    samples: int = option(16, "samples a picture in the evaluation")
    tensorboard: bool = option(False, "also write log.csv and validation.csv as TensorBoard's event files")

    def __post_init__(self):
        if min(self.batch, self.samples, self.max_skipped) < 1:
            raise InputError("need batch, samples and max_skipped >= 1")
        if self.batch > LARGEST_BATCH:
            raise InputError(f"batch must be at most {LARGEST_BATCH:,}, got {self.batch}")
        if min(self.steps, self.epochs) < 0 or self.steps + self.epochs == 0:
            raise InputError("need steps or epochs > 0")
        if not 0 <= self.validation < 1 or self.patience < 0:
            raise InputError("need validation in [0, 1) and patience >= 0")
        for name in ("seed", "warmup", "holdout", "weight_decay"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not (self.lr > 0 and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and 0 <= self.ema < 1 and self.clip > 0):
            raise InputError("need lr > 0, clip > 0, and beta1, beta2, ema in [0, 1)")


@dataclass(frozen=True)
class Settings:
    """Everything that defines a training run."""

    model: ModelConfig
    training: TrainConfig
    blue_marble: blue_marble.BlueMarble
    place_names: PlaceNames = dataclasses.field(default_factory=PlaceNames)


PRESETS: dict[str, dict[str, typing.Any]] = {
    "quickstart": {},
    "zoom": {"levels": 3, "steps": 5000},
    "names": {"data": PLACE_NAMES},
    "paper": {  # Table 3; where the paper is silent: its reference implementation's EMA and schedule, w of Table 9
        "l_max": 47, "width": 32, "depth": 6, "time_dim": 200, "dropout": 0.3, "anchors": 2048, "whiten": 0.0,
        "p_pure_noise": 0.0,
        "loss": "shdd_kl", "temperature": 1.0, "exact_skip": False,
        "schedule": "cosine", "snr_shift": 1.0, "noise_levels": 100, "sample_steps": 100,
        "batch": 512, "steps": 0, "epochs": 500, "lr": 1e-4, "warmup": 0, "decay": False,
        "beta1": 0.9, "beta2": 0.99, "weight_decay": 5e-4, "ema": 0.995, "samples": 16, "validation": 0.0,
    },
    "smoke": {
        "l_max": 7, "width": 32, "depth": 2, "time_dim": 32, "noise_levels": 20, "sample_steps": 3, "samples": 4,
        "prior_l_max": 15,
        "quadrature_nside": 8, "decoder_nside": 16, "rho_km": 400.0, "steps": 60, "batch": 64, "warmup": 5, "lr": 2e-3,
        "train_views": 500, "test_views": 40, "whiten": 0.3,
    },
}  # fmt: skip


def resolve(preset: str = "quickstart", **overrides) -> Settings:
    """Return the Settings of a preset, with any of its values overridden by name. Raises InputError for other names."""
    if preset not in PRESETS:
        raise InputError(f"unknown preset '{preset}'; there are {', '.join(PRESETS)}")
    values = PRESETS[preset] | overrides
    if overrides.get("epochs") and overrides.get("steps"):
        raise InputError("steps and epochs say the same in two ways: give one of them")
    if overrides.get("epochs"):
        values["steps"] = 0
    unknown = set(values) - options.names(Settings)
    if unknown:
        raise InputError(f"unknown settings: {', '.join(sorted(unknown))}")
    return options.nest(Settings, values)


def override(settings: Settings, **values) -> Settings:
    """Return the Settings with some values changed, by their flat names."""
    return options.nest(Settings, options.flatten(settings) | values)


def infer_data_fields(settings: Settings, data: Embeddings) -> Settings:
    """Return the Settings for training on `data`: the encoder, the width and the number of cells are the data's, and
    so is the whitening where it is to be chosen."""
    fields: dict[str, typing.Any] = {"encoder": data.encoder, "embed_dim": data.embeddings.shape[1], "cells": ()}
    if settings.model.network.whiten < 0:
        fields["whiten"] = choose_floor(data)
    refinement = settings.model.refinement
    if refinement.levels > 1:
        fields["cells"] = (len(occupied_cells(torch.from_numpy(data.lat_lon), refinement.subdivision)),)
    return override(settings, **fields)


def load_data(settings: Settings, progress: bool = True) -> tuple[Embeddings, Embeddings]:
    """Return the training and the held-out Embeddings of a run: those of its data folder, or of an embedded data set:
    the place names, or without `data` the Blue Marble views."""
    t = settings.training
    folder = t.data or blue_marble.blue_marble(settings.blue_marble, progress)
    if t.data == PLACE_NAMES:
        folder = place_names(settings.place_names, progress)
    return train_and_test(folder, t.holdout, t.seed, t.split)


def start(settings: Settings, out: Path) -> Path:
    """Make the run folder with training.json, and return it: `out` or, where that exists, out-2, out-3, ...

    Raises InputError if the folder cannot be made.
    """
    candidates = (out if i == 1 else out.with_name(f"{out.name}-{i}") for i in range(1, 10_000))
    run = next(path for path in candidates if not path.exists())
    try:
        run.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the run folder {run}: {error}; choose another with --out") from None
    write_json(run / "training.json", {"settings": dataclasses.asdict(settings), "versions": versions()})
    return run


def read_settings(run: Path) -> Settings:
    """Return the Settings in training.json of a run folder. Raises InputError if they cannot be read."""
    path = Path(run) / "training.json"
    try:
        record = read_json(path)["settings"]
        views = {"color" if name == "colour" else name: value for name, value in record["blue_marble"].items()}
        if not isinstance(record["model"], dict):
            raise TypeError(f"model is {record['model']!r}")
        training = {"validation": 0.0} | record["training"]  # older runs kept none apart
        parts = options.from_record(TrainConfig, training), options.from_record(blue_marble.BlueMarble, views)
        parts += (options.from_record(PlaceNames, record.get("place_names", {})),)
        return Settings(config_from_record(record["model"]), *parts)
    except InputError as error:
        raise InputError(f"cannot read the training settings in {path}: {error}") from None
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read the training settings in {path}: {error!r}") from None
