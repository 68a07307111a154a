"""Table 3: the training set-up, read from the preset `paper`."""

import numpy as np
from report import markdown_table

from locdiff.train import resolve

TITLE = "training set-up"
DATA = "the settings of `python -m locdiff.train --preset paper --l-max L`; d_I is read off the embeddings at run time."
PAPER_DIMENSIONS = {15: 256, 23: 576, 31: 1024}
PAPER = {
    "image embedding, d_I": 768, "time embedding, d_T": 200, "batch size": 512, "learning rate": 1e-4, "epochs": 500,
    "Adam's beta 1": 0.9, "Adam's beta 2": 0.99, "weight decay": 5e-4, "dropout": 0.3, "anchors": 2048,
}  # fmt: skip


def compute(degrees=tuple(PAPER_DIMENSIONS)):
    """Our values of Table 3 at each degree: dimensions (degrees,) and the others (degrees, values) in PAPER's order."""
    settings = [resolve("paper", l_max=L) for L in degrees]
    values = [
        [
            s.model.embed_dim, s.model.time_dim, s.training.batch, s.training.lr, s.training.epochs,
            s.training.beta1, s.training.beta2, s.training.weight_decay, s.model.dropout, s.model.anchors,
        ]
        for s in settings
    ]  # fmt: skip
    dimensions = [s.model.dimensions for s in settings]
    return {"degrees": np.array(degrees), "dimensions": np.array(dimensions), "values": np.array(values, dtype=float)}


def key_numbers(result):
    """All of them."""
    names = list(PAPER)
    return {name: (value, 0) for name, value in zip(names, result["values"][0], strict=True)}


def draw(result, folder):
    """The table in Markdown, and the verdict; it writes no picture."""
    rows = [
        [f"dimensions d at L = {L}", PAPER_DIMENSIONS[int(L)], d]
        for L, d in zip(result["degrees"], result["dimensions"], strict=True)
    ]
    for name, ours in zip(PAPER, result["values"].T, strict=True):
        rows.append([name, f"{PAPER[name]:g}", ", ".join(f"{value:g}" for value in sorted(set(ours)))])
    differ = [row[0] for row in rows if str(row[1]) != str(row[2])]
    rows = [[*row, "no" if row[0] in differ else "yes"] for row in rows]
    verdict = f"differs in {', '.join(differ)}." if differ else "reproduced: all values are equal."
    return markdown_table(["", "paper", "ours", "equal?"], rows), verdict
