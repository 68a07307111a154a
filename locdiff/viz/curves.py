"""Curves of a run: whether its probabilities hold, and how its likelihood went."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from locdiff.viz.maps import save_png


def draw_calibration(path: Path, rank: Tensor, hits: dict[str, tuple[float, float]]) -> None:
    """Draw how often regions of each share hold the truth, by its `rank` (n,) in every density, and predicted against
    observed hits, {distance: (predicted, observed)} in per cent."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    share = np.arange(1, 100) / 100
    held = (rank.numpy()[:, None] <= share).mean(axis=0)
    error = 1.96 * np.sqrt(share * (1 - share) / max(1, len(rank)))
    left.fill_between(100 * share, 100 * (share - error), 100 * (share + error), color="0.88", label="chance, 95 %")
    left.plot([0, 100], [0, 100], color="0.5", linewidth=1)
    left.plot(100 * share, 100 * held, color="#0072b2", linewidth=2, label="this model")
    left.set(xlabel="probability of the region, %", ylabel="regions that hold the truth, %", title="Coverage")
    left.legend(loc="upper left")
    right.plot([0, 100], [0, 100], color="0.5", linewidth=1)
    for mark, (name, (predicted, observed)) in zip("os^Dv", hits.items(), strict=True):
        right.plot(predicted, observed, mark, label=name, markersize=7, clip_on=False, zorder=3)
    right.legend(loc="upper left")
    right.set(xlabel="predicted hits, %", ylabel="observed hits, %", title="Best place within each distance")
    for axes in (left, right):
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    save_png(figure, path)


def draw_validation(path: Path, validation: np.ndarray) -> None:
    """Draw the validation of a run, rows (step, nats) of validation.csv, its best step and that before training."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    step, nats = validation.T
    best = int(np.nanargmax(nats))
    axes.plot(np.maximum(step, 1), nats, ".-", color="#0072b2")
    axes.plot(max(step[best], 1), nats[best], "o", color="#d55e00", label=f"the model, step {int(step[best]):,}")
    axes.axhline(nats[0], color="0.5", linewidth=1, label="before training")
    axes.set(xscale="log", xlabel="training steps", ylabel="nats over the uniform density")
    axes.set_title("Pictures kept apart", fontsize=10)
    axes.legend()
    save_png(figure, path)
