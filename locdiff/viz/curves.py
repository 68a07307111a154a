"""Curves of a run: whether its probabilities hold, and how its likelihood went."""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor

from locdiff.viz.style import LIGHT, SERIES, save


def draw_calibration(path: Path, rank: Tensor, hits: dict[str, tuple[float, float]]) -> None:
    """Draw how often regions of each share hold the truth, by its `rank` (n,) in every density, and predicted against
    observed hits, {distance: (predicted, observed)} in per cent."""
    share = np.arange(1, 100) / 100
    held = (rank.numpy()[:, None] <= share).mean(axis=0)
    error = 1.96 * np.sqrt(share * (1 - share) / max(1, len(rank)))
    with rc_context(LIGHT.settings()):
        figure = Figure(figsize=(9, 4.4), dpi=110, layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            axes.plot([0, 100], [0, 100], color=LIGHT.coast, linewidth=1)
            axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
        low, high = 100 * (share - error), 100 * (share + error)
        left.fill_between(100 * share, low, high, color=LIGHT.coast, alpha=0.25, lw=0, label="chance, 95 %")
        left.plot(100 * share, 100 * held, color=SERIES[0], linewidth=2, label="this model")
        left.set(xlabel="probability of the region, %", ylabel="regions that hold the truth, %", title="Coverage")
        for mark, color, (name, (predicted, observed)) in zip("os^Dv", SERIES, hits.items(), strict=True):
            right.plot(predicted, observed, mark, color=color, label=name, markersize=7, clip_on=False, zorder=3)
        right.set(xlabel="predicted hits, %", ylabel="observed hits, %", title="Best place within each distance")
        for axes in (left, right):
            axes.legend(loc="upper left")
    save(figure, path)


def draw_validation(path: Path, validation: np.ndarray) -> None:
    """Draw the validation of a run, rows (step, nats) of validation.csv, its best step and that before training."""
    step, nats = validation.T
    best = int(np.nanargmax(nats))
    with rc_context(LIGHT.settings()):
        figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
        axes = figure.subplots()
        axes.axhline(nats[0], color=LIGHT.coast, linewidth=1, label="before training")
        axes.plot(np.maximum(step, 1), nats, ".-", color=SERIES[0])
        axes.plot(max(step[best], 1), nats[best], "o", color=SERIES[1], label=f"the model, step {int(step[best]):,}")
        axes.set(xscale="log", xlabel="training steps", ylabel="nats over the uniform density")
        axes.set_title("Pictures kept apart")
        axes.legend()
    save(figure, path)
