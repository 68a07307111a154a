"""Table 3: the training set-up, read from the preset `paper`."""

from operator import attrgetter

import numpy as np
from artefact import Claim

from locdiff.training.settings import resolve

TITLE = "training set-up"
DATA = "the settings of `python -m locdiff.train --preset paper --l-max L`; d_I is read off the embeddings at run time."
PAPER_DIMENSIONS = {15: 256, 23: 576, 31: 1024}
PAPER = {  # what it is: where ours is, the paper's value
    "image embedding, d_I": ("model.embed_dim", 768), "time embedding, d_T": ("model.network.time_dim", 200),
    "batch size": ("training.batch", 512), "learning rate": ("training.lr", 1e-4), "epochs": ("training.epochs", 500),
    "Adam's beta 1": ("training.beta1", 0.9), "Adam's beta 2": ("training.beta2", 0.99),
    "weight decay": ("training.weight_decay", 5e-4), "dropout": ("model.network.dropout", 0.3),
    "anchors": ("model.objective.anchors", 2048),
}  # fmt: skip


def compute(degrees=tuple(PAPER_DIMENSIONS)):
    """Return our values of Table 3 at each degree: dimensions (degrees,) and the others (degrees, values) in PAPER's
    order."""
    settings, ours = [resolve("paper", l_max=L) for L in degrees], attrgetter(*(ours for ours, _ in PAPER.values()))
    dimensions = [s.model.network.dimensions for s in settings]
    return {"degrees": degrees, "dimensions": dimensions, "values": np.array([ours(s) for s in settings], dtype=float)}


def key_numbers(result):
    """Return all of them."""
    return {name: (value, 0) for name, value in zip(PAPER, result["values"][0], strict=True)}


def draw(result, folder):
    """Return Markdown, and the values as claims; write no picture."""
    dimensions = zip(result["degrees"], result["dimensions"], strict=True)
    rows = [(f"dimensions d at L = {L}", f"{PAPER_DIMENSIONS[int(L)]}", f"{d}") for L, d in dimensions]
    for (name, (_, paper)), ours in zip(PAPER.items(), result["values"].T, strict=True):
        rows.append((name, f"{paper:g}", ", ".join(f"{value:g}" for value in sorted(set(ours)))))
    claims = [Claim(name, paper, ours, paper == ours) for name, paper, ours in rows]
    return "The values of the paper, and of the preset `paper`. A claim holds where they are equal.", claims
