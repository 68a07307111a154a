"""What the artefacts are computed in: the command line's wishes, and pieces of results that take long.

A piece is computed once, kept in the output folder under pieces/, and read from there next time.
"""

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from methods.baseline import train_baseline

from locdiff import files
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.distributed import pick_device


@dataclass(frozen=True)
class Context:
    """What the command line says: the scale, the user's data, and the folder of the pieces."""

    scale: str
    data: str  # an embeddings folder to compare on instead of the embedded data sets, or empty
    im2gps3k: str  # im2gps3k_places365.csv, or empty
    pieces: Path
    photos: str = ""  # an embeddings folder of photographs with authors
    sets: tuple = ()  # of Table 1; without any, all
    used: list = dataclasses.field(default_factory=list)  # of the pieces asked for: the seconds and versions of each

    def path(self, name, key):
        """Return where the piece of that name and key is kept."""
        digest = hashlib.sha256(json.dumps([name, key], default=str).encode()).hexdigest()[:12]
        return self.pieces / f"{name}-{digest}.npz"

    def piece(self, name, key, compute):
        """Return the arrays {name: array} of that piece: read, or else computed by compute() and kept."""
        path = self.path(name, key)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            arrays = compute()
            about = {"key": key, "seconds": time.monotonic() - started, "versions": files.versions()}
            arrays["about"] = json.dumps(about, default=str)
            savez(path, arrays)
        with np.load(path) as file:
            arrays = dict(file)
        self.used.append(json.loads(str(arrays.pop("about"))))
        return arrays

    def trained(self, settings, key, train, validation=None):
        """Return the LocDiffusion model trained by these Settings on the Embeddings `train`, and what that took:
        {"seconds", "parameters"}; `key` stands for the data.

        With `validation`, other Embeddings, it is validated and calibrated as by `locdiff.train`.
        """
        key = [dataclasses.asdict(settings.model), dataclasses.asdict(settings.training), str(key)]
        kept = self.path("locdiffusion", key).with_suffix("")

        def compute():
            model, cost = timed_training(lambda _, config: LocDiffusion(config), train, settings, validation)
            model.save_pretrained(kept)
            return cost

        cost = self.piece("locdiffusion", key, compute)
        return LocDiffusion.from_pretrained(kept, pick_device()), cost


def timed_training(make, data, settings, validation=None):
    """Return the model make(data, config) trained on the Embeddings `data`, and what that took: {"seconds",
    "parameters"}; see `train_baseline`."""
    model, seconds = timed(lambda: train_baseline(make, data, settings, pick_device(), validation=validation))
    return model, {"seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}


def timed(function):
    """Return what function() returns, and the seconds that it took."""
    started = time.monotonic()
    found = function()
    return found, time.monotonic() - started


def savez(path, arrays):
    """Write the arrays {name: array} to the file `path`, whole or not at all."""
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:  # given a name, numpy would add an ending
        np.savez_compressed(file, **arrays)
