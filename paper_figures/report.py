"""What the artefacts share: estimates with their intervals, tables in Markdown and csv, ways to draw both."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from locdiff.evaluation.metrics import bootstrap
from locdiff.sphere.coordinates import from_unit_vector
from locdiff.sphere.pixels import THRESHOLDS_KM

PAPER = json.loads((Path(__file__).parent / "paper.json").read_text())  # {table: its per cents by row}
KM = [f"{k} km" for k in THRESHOLDS_KM]  # the columns of a table of accuracies
FAR = slice(THRESHOLDS_KM.index(200), None)  # the thresholds from 200 km on
BLUE, GREEN, RED = "#0072B2", "#009E73", "#D55E00"


def random_places(count, generator):
    """Return places drawn uniformly on the sphere, (count, 2)."""
    return from_unit_vector(torch.randn(count, 3, dtype=torch.float64, generator=generator))


def estimate(values, groups=None):
    """Return the mean of values (n, ...) over n and the ends of its 95 % bootstrap interval: (..., 3).

    With the n `groups` that they belong to, whole groups are drawn.
    """
    return np.stack([values.mean(axis=0), *bootstrap(values, groups=groups)], axis=-1)


def by_data_set(result):
    """Yield of each data set i the arrays {name: array} that a result has under name_i; all have a title_i."""
    for i in range(sum(name.startswith("title_") for name in result)):
        end = f"_{i}"
        yield {name.removesuffix(end): values for name, values in result.items() if name.endswith(end)}


def percent(right):
    """Return accuracies in per cent with their intervals, of hits (n, thresholds): (thresholds, 3).

    Of hits (seeds, n, thresholds) these are of the mean over the seeds; their least and most follow, (thresholds, 5).
    """
    if right.ndim == 2:
        return 100 * estimate(right)
    seeds = 100 * right.mean(axis=1)
    return np.column_stack([100 * estimate(right.mean(axis=0)), seeds.min(axis=0), seeds.max(axis=0)])


def gains(values):
    """Return differences as text: +1.2 / -0.3"""
    return " / ".join(f"{value:+.1f}" for value in values)


def points(difference, groups=None):
    """Return the means and intervals in points, (thresholds, 3), of the differences (n, thresholds) of two methods'
    hits on the same pictures; and these as text, one for each threshold: +1.2 [-0.3, +2.7]. See `estimate`."""
    found = 100 * estimate(difference, groups)
    return found, [f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" for mean, low, high in found]


def at_each(texts, columns=KM):
    """Return texts about the columns in one: +1.2 [-0.3, +2.7] at 1 km, ..."""
    return ", ".join(f"{text} at {column}" for text, column in zip(texts, columns, strict=True))


def with_interval(mean, low, high):
    """Return an estimate as text: 41.8 [38.9, 44.7]"""
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def cells(numbers, seeds=1):
    """Return what `percent` returns as text: 18.3 [14.0, 22.8], of several seeds 18.3 [14.0, 22.8] (17.1 to 19.7)"""
    return [with_interval(*row[:3]) + (f" ({row[3]:.1f} to {row[4]:.1f})" if seeds > 1 else "") for row in numbers]


def slashes(published):
    """Return the paper's per cents in one cell: 4.7/27.0/50.2/70.8/84.3"""
    return "/".join(map(str, published))


def accuracies_of(rows, columns, hits, km, tolerance):
    """Return key numbers {"row, column": (per cent within km, tolerance)} of hits (rows, columns, ..., thresholds)."""
    share = 100 * hits[..., THRESHOLDS_KM.index(km)].reshape(len(rows), len(columns), -1).mean(axis=-1)
    names = [f"{row}, {column}" for row in rows for column in columns]
    return {name: (value, tolerance) for name, value in zip(names, share.ravel(), strict=True)}


def markdown_table(header, rows):
    """Return a Markdown table of a header and rows of cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_csv(path, header, rows):
    """Write a csv file of a header and rows."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_accuracies(path, labels, rows, more=(), paper="paper"):
    """Write a csv file of accuracies, a line for each row and threshold. A row is (the values of the labels, what
    `percent` returns, the paper's per cents or nothing, *the values of `more`)."""
    lines = []
    for names, numbers, published, *values in rows:
        for k, own, theirs in zip(THRESHOLDS_KM, numbers, published or [""] * len(numbers), strict=True):
            lines.append([*names, k, *own, *values, theirs])
    columns = ("per cent", "low", "high", "least seed", "most of seeds")[: numbers.shape[1]]
    write_csv(path, [*labels, "within km", *columns, *more, paper], lines)


def subplots(width, height, *shape, **options):
    """Return a Figure of so many inches, and its Axes in rows and columns."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots(*shape, **options)


def save(figure, path):
    """Write a Figure; return the Markdown that shows it."""
    figure.savefig(path)
    return f"![{path.stem.replace('_', ' ')}]({path.name})"


def band(ax, x, numbers, color, label):
    """Draw a line through means and a band of their intervals: numbers (points, 3)."""
    mean, low, high = numbers.T
    ax.plot(x, mean, "o-", color=color, markersize=4, label=label)
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    ax.grid(alpha=0.3)


def dots(panels, names, series, paper):
    """Draw a panel for each of the last thresholds: beside each of the names a dot and its interval for each of
    `series`, {label: (colors, numbers (names, thresholds, 3))}, and a ring for the paper's, {name: per cents}."""
    height = np.arange(len(names))[::-1]
    for k, ax in enumerate(panels, len(THRESHOLDS_KM) - len(panels)):
        for i, (label, (colors, numbers)) in enumerate(series.items()):
            mean, low, high = numbers[:, k, :3].T
            y = height + 0.14 * ((len(series) - 1) / 2 - i)
            ax.hlines(y, low, high, color=colors, linewidth=1.5)
            ax.scatter(mean, y, color=colors, s=18, zorder=3, label=label)
        rings = [(paper[name][k], y) for name, y in zip(names, height, strict=True) if name in paper]
        label = "the paper's, on Im2GPS3k photographs"
        ax.scatter(*zip(*rings, strict=True), s=32, facecolors="none", edgecolors=BLUE, label=label)
        ax.set(xlim=(0, None), title=f"within {THRESHOLDS_KM[k]} km", xlabel="per cent")
        ax.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(height, names, fontsize=8)
