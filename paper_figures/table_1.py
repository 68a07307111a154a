"""Table 1: all families of methods side by side, on the same embeddings, trained alike."""

import comparison
import numpy as np
import torch
from comparison import CENTRE, EACH, HILL, NEAREST, RETRIEVAL
from matplotlib.figure import Figure
from report import FAR, KM, RED, cells, dots, markdown_table, percent, points, save, slashes, write_accuracies

from locdiff import evaluate
from locdiff.metrics import THRESHOLDS_KM, hits

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
    figure = Figure(figsize=(13, 0.3 + 4.6 * count), dpi=110, layout="constrained")
    panels = np.atleast_2d(figure.subplots(count, len(KM), sharey="row", sharex=True))
    beside = {ours: PAPER[theirs][0] for ours, theirs in COUNTERPARTS.items()}
    parts, verdicts, lines = [], [], []
    for i in range(count):
        title, methods, right = str(result[f"title_{i}"]), result[f"methods_{i}"].tolist(), result[f"hits_{i}"]
        numbers, rows = np.array([percent(one) for one in right]), []
        colours = [RED if name.startswith("LocDiffusion") else "black" for name in methods]
        dots(panels[i], methods, {None: (colours, numbers)}, beside)
        panels[i, 0].set_ylabel(title.split(":")[0].split(",")[0])
        costs = zip(result[f"seconds_{i}"], result[f"parameters_{i}"], strict=True)
        for name, own, (seconds, parameters) in zip(methods, numbers, costs, strict=True):
            cost = [f"{seconds:.0f} s", f"{parameters / 1e6:.1f} M"] if np.isfinite(seconds) else ["", ""]
            rows.append([name, *cells(own), *cost, slashes(beside.get(name, ()))])
            lines.append(([title, name], own, beside.get(name)))
        header = ["per cent right", *KM, "training", "parameters", IM2GPS3K]
        text, verdict = _compare(dict(zip(methods, right, strict=True)), result[f"covered_{i}"])
        parts += [f"### {title}", str(result[f"about_{i}"]), markdown_table(header, rows), text]
        verdicts.append(f"{title.split(',')[0].split(':')[0]}: {verdict}")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center")
    write_accuracies(folder / "table_1.csv", ["data", "method"], lines, paper=IM2GPS3K)
    rows = [[name, *(slashes(row or ()) for row in values)] for name, values in PAPER.items()]
    parts += [
        "### The paper's table",
        "Within 1/25/200/750/2500 km, per cent.",
        markdown_table(["", IM2GPS3K, YFCC26K], rows),
        "Translocator and GeoDecoder are image networks of their own, not methods on frozen embeddings: only their "
        "published rows stand here. The photographs of the paper's table are not here; with embeddings of them, "
        "`--scale paper --data FOLDER` computes the real one.",
    ]
    return "\n\n".join([save(figure, folder / "table_1.png"), *parts]), " ".join(verdicts)


def _compare(right, covered):
    """What the hits {method: (n, thresholds)} say of the paper's two claims, as text and as a verdict."""
    best = max((CENTRE, HILL, EACH), key=lambda name: right[name].mean(axis=0)[2:].sum())
    alone, alone_text = points(right[best].astype(float) - right[RETRIEVAL])
    wins = alone[FAR, 1] > 0
    beats = "beats retrieval" if wins.all() else "beats retrieval at some, not all" if wins.any() else (
        "does not beat retrieval"
    )  # fmt: skip
    better = np.where(right[RETRIEVAL].mean(axis=0) >= right[best].mean(axis=0), right[RETRIEVAL], right[best])
    together, together_text = points(right[evaluate.WEIGHTED].astype(float) - better)
    worse = [k for k, (_, _, high) in zip(KM, together, strict=True) if high < 0]
    text = (
        f"Differences in points with their 95 % intervals, on the same pictures. {best} against {RETRIEVAL}: "
        f"{_at_each(alone_text)}. {evaluate.WEIGHTED}, against the better of the two at each threshold: "
        f"{_at_each(together_text)}. The restricted search covers the true place, which then lies within "
        f"{evaluate.RADIUS_KM} km of one of the {comparison.SAMPLES} samples, of {100 * covered.mean():.1f} % of the "
        "pictures; what it shuts out it loses. The density only weighs, and shuts out nothing."
    )
    parts_say = f"worse than the better of its parts at {', '.join(worse)}" if worse else "nowhere worse than its parts"
    return text, f"at 200 km and beyond LocDiffusion {beats}; weighed with retrieval it is {parts_say}."


def _at_each(texts):
    return ", ".join(f"{text} at {k}" for text, k in zip(texts, KM, strict=True))
