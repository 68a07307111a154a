"""Table 1: all families of methods side by side, on the same embeddings, trained alike."""

import comparison
import numpy as np
import torch
from comparison import CENTRE, EACH, HILL, NEAREST, RETRIEVAL
from matplotlib.figure import Figure
from report import markdown_table, with_interval, write_csv

from locdiff import evaluate
from locdiff.metrics import THRESHOLDS_KM, bootstrap, hits

SCALES = comparison.SCALES
TITLE = "LocDiffusion and the other families of methods"
DATA = (
    "frozen embeddings; all that are trained have the same settings, batches and number of steps, one seed. The "
    "intervals hold 95 % of the means of 1,000 draws of the test pictures with replacement."
)
IM2GPS3K, YFCC26K = "paper, Im2GPS3k", "paper, YFCC-26k"
PAPER = {  # method: per cent within each threshold on Im2GPS3k, and on YFCC-26k
    "[L]kNN, sigma = 4": ((7.2, 19.4, 26.9, 38.9, 55.9), None),
    "PlaNet": ((8.5, 24.8, 34.3, 48.4, 64.6), (4.4, 11.0, 16.9, 28.5, 47.7)),
    "CPlaNet": ((10.2, 26.5, 34.6, 48.6, 64.6), None),
    "ISNs": ((10.5, 28.0, 36.6, 49.7, 66.0), (5.3, 12.3, 19.0, 31.9, 50.7)),
    "Translocator": ((11.8, 31.1, 46.7, 58.9, 80.1), (7.2, 17.8, 28.0, 41.3, 60.6)),
    "GeoDecoder": ((12.8, 33.5, 45.9, 61.0, 76.1), (10.1, 23.9, 34.1, 49.6, 69.0)),
    "GeoCLIP": ((14.1, 34.5, 50.7, 69.7, 83.8), (11.6, 22.2, 36.7, 57.5, 76.0)),
    "PIGEON": ((11.3, 36.7, 53.8, 72.4, 85.3), (10.5, 25.8, 42.7, 63.2, 79.0)),
    "Ours (L=47)": ((10.9, 34.0, 53.3, 72.5, 85.2), (9.6, 22.8, 37.5, 58.6, 76.8)),
    "Ours (L=47) + GeoCLIP": ((14.4, 35.8, 56.4, 73.3, 85.5), (11.9, 23.4, 39.0, 58.9, 77.3)),
}
COUNTERPARTS = {  # our method: the paper's row beside it
    NEAREST: "[L]kNN, sigma = 4",
    "PlaNet-style classification": "PlaNet",
    "CPlaNet-style combinatorial partitioning": "CPlaNet",
    "ISN-style hierarchy of cells": "ISNs",
    "PIGEON-style label smoothing": "PIGEON",
    RETRIEVAL: "GeoCLIP",
    CENTRE: "Ours (L=47)",
    evaluate.NEAR_SAMPLES.format(comparison.SAMPLES): "Ours (L=47) + GeoCLIP",
}


def compute(context):
    """For each data set i: its title_i and what is known about it, the methods_i and of each whether it is right within
    each threshold, hits_i (methods, n, thresholds), its training time and parameters, and whether the places lie within
    the hybrid's radius of a sample, covered_i (n)."""
    result = {}
    for i, data in enumerate(comparison.data_sets(context)):
        found, covered = comparison.predictions(context, data)
        right = [hits(torch.from_numpy(method["places"]), data.truth).numpy() for method in found.values()]
        result |= {
            f"title_{i}": data.title,
            f"about_{i}": data.about(),
            f"methods_{i}": list(found),
            f"hits_{i}": np.stack(right),
            f"seconds_{i}": [method.get("seconds", np.nan) for method in found.values()],
            f"parameters_{i}": [method.get("parameters", np.nan) for method in found.values()],
            f"covered_{i}": covered,
        }
    return result


def key_numbers(result):
    """Every method's accuracy within 200 and 2500 km, give or take what another training may."""
    numbers = {}
    for i in range(sum(name.startswith("title_") for name in result)):
        for name, right in zip(result[f"methods_{i}"], result[f"hits_{i}"], strict=True):
            for k in (2, 4):
                numbers[f"{i}: {name}, {THRESHOLDS_KM[k]} km"] = (100 * right[:, k].mean(), 6)
    return numbers


def draw(result, folder):
    """Write table_1.png and table_1.csv; Markdown and verdict."""
    count = sum(name.startswith("title_") for name in result)
    parts, verdicts, lines = ["![table 1](table_1.png)"], [], []
    figure = Figure(figsize=(13, 0.3 + 4.6 * count), dpi=110, layout="constrained")
    panels = np.atleast_2d(figure.subplots(count, len(THRESHOLDS_KM), sharey="row", sharex=True))
    for i in range(count):
        title, methods = str(result[f"title_{i}"]), [str(name) for name in result[f"methods_{i}"]]
        right = result[f"hits_{i}"]
        scores = [
            (right[j].mean(axis=0) * 100, *(100 * end for end in bootstrap(right[j]))) for j in range(len(methods))
        ]
        draw_scores(panels[i], title, methods, scores)
        for name, (mean, low, high) in zip(methods, scores, strict=True):
            for k, cell in enumerate(zip(mean, low, high, strict=True)):
                published = PAPER[COUNTERPARTS[name]][0][k] if name in COUNTERPARTS else ""
                lines.append([title, name, THRESHOLDS_KM[k], *cell, published])
        text, verdict = _compare(dict(zip(methods, right, strict=True)), result[f"covered_{i}"])
        costs = zip(result[f"seconds_{i}"], result[f"parameters_{i}"], strict=True)
        parts += [f"### {title}", str(result[f"about_{i}"]), _table(methods, scores, costs), text]
        verdicts.append(f"{title.split(',')[0].split(':')[0]}: {verdict}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center")
    figure.savefig(folder / "table_1.png")
    write_csv(folder / "table_1.csv", ["data", "method", "within km", "per cent", "low", "high", IM2GPS3K], lines)
    rows = [[name, *("/".join(map(str, row)) if row else "" for row in values)] for name, values in PAPER.items()]
    parts += [
        "### The paper's table",
        "Within 1/25/200/750/2500 km, per cent.",
        markdown_table(["", IM2GPS3K, YFCC26K], rows),
    ]
    parts.append(
        "Translocator and GeoDecoder are image networks of their own, not methods on frozen embeddings: only their "
        "published rows stand here. The photographs of the paper's table are not here; with embeddings of them, "
        "`--scale paper --data FOLDER` computes the real one."
    )  # fmt: skip
    return "\n\n".join(parts), " ".join(verdicts)


def _table(methods, scores, costs):
    """The scores with their intervals, the paper's beside; what the training took."""
    rows = []
    for name, score, (seconds, parameters) in zip(methods, scores, costs, strict=True):
        cost = [f"{seconds:.0f} s", f"{parameters / 1e6:.1f} M"] if seconds == seconds else ["", ""]
        published = "/".join(map(str, PAPER[COUNTERPARTS[name]][0])) if name in COUNTERPARTS else ""
        rows.append([name, *(with_interval(*cell) for cell in zip(*score, strict=True)), *cost, published])
    header = ["per cent right", *(f"{k} km" for k in THRESHOLDS_KM), "training", "parameters", IM2GPS3K]
    return markdown_table(header, rows)


def _compare(right, covered):
    """What the hits {method: (n, thresholds)} say of the paper's two claims, as text and as a verdict."""
    best = max((CENTRE, HILL, EACH), key=lambda name: right[name].mean(axis=0)[2:].sum())
    lines = [f"Differences in points with their 95 % intervals, on the same pictures. {best} against {RETRIEVAL}: "]
    alone, wins = _differences(right[best], right[RETRIEVAL])
    lines[0] += f"{alone}."
    far = all(wins[2:]) or not any(wins[2:])
    beats = (
        "beats retrieval" if all(wins[2:]) else "does not beat retrieval" if far else "beats retrieval at some, not all"
    )
    hybrid = right[evaluate.WEIGHTED]
    parts = np.stack([right[RETRIEVAL], right[best]])
    better = np.stack([parts[k, :, i] for i, k in enumerate(parts.mean(axis=1).argmax(axis=0))], axis=-1)
    together, _ = _differences(hybrid, better)
    _, high = bootstrap(hybrid.astype(float) - better)
    worse = [f"{k} km" for k, end in zip(THRESHOLDS_KM, high, strict=True) if end < 0]
    lines.append(f"{evaluate.WEIGHTED}, against the better of the two at each threshold: {together}.")
    lines.append(
        f"The restricted search covers the true place, which then lies within {evaluate.RADIUS_KM} km of one of the "
        f"{comparison.SAMPLES} samples, of {100 * covered.mean():.1f} % of the pictures; what it shuts out it loses. "
        "The density only weighs, and shuts out nothing."
    )
    parts_say = f"worse than the better of its parts at {', '.join(worse)}" if worse else "nowhere worse than its parts"
    return " ".join(lines), f"at 200 km and beyond LocDiffusion {beats}; weighed with retrieval it is {parts_say}."


def _differences(ours, theirs):
    """The differences of two methods' hits (n, thresholds) as text, and whether each is above zero."""
    difference = ours.astype(float) - theirs
    mean, (low, high) = 100 * difference.mean(axis=0), 100 * bootstrap(difference)
    cells = [
        f"{m:+.1f} [{a:+.1f}, {b:+.1f}] at {k} km" for m, a, b, k in zip(mean, low, high, THRESHOLDS_KM, strict=True)
    ]
    return ", ".join(cells), [end > 0 for end in low]


def draw_scores(panels, title, methods, scores):
    """One panel for each threshold: a dot and its interval for each of our methods, a ring for the paper's number."""
    height = np.arange(len(methods))[::-1]
    for k, (ax, threshold) in enumerate(zip(panels, THRESHOLDS_KM, strict=True)):
        mean, low, high = np.array(scores)[:, :, k].T
        ours = ["#D55E00" if name.startswith("LocDiffusion") else "black" for name in methods]
        ax.hlines(height, low, high, color=ours, linewidth=1.5)
        ax.scatter(mean, height, color=ours, s=18, zorder=3)
        published = [
            (y, PAPER[COUNTERPARTS[name]][0][k])
            for y, name in zip(height, methods, strict=True)
            if name in COUNTERPARTS
        ]
        y, percent = zip(*published, strict=True)
        ax.scatter(
            percent, y, s=30, facecolors="none", edgecolors="#0072B2", label="the paper's, on Im2GPS3k photographs"
        )
        ax.set(xlim=(0, 100), title=f"within {threshold} km", xlabel="per cent")
        ax.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(height, methods, fontsize=8)
    panels[0].set_ylabel(title.split(":")[0].split(",")[0])
