"""Table 1: all families of methods side by side, on the same embeddings, trained alike."""

import comparison
import numpy as np
import report
from artefact import Claim
from comparison import CENTER, EACH, MODE, NEAREST, RETRIEVAL

from locdiff.evaluation import hybrid

SCALES = comparison.SCALES
TITLE = "LocDiffusion and the other families of methods"
DATA = (
    "frozen embeddings; all that are trained have the same settings, batches and number of steps, one seed. The "
    "intervals hold 95 % of the means of 1,000 draws of the test pictures with replacement."
)
IM2GPS3K, YFCC26K = "paper, Im2GPS3k", "paper, YFCC-26k"
PAPER = report.PAPER["table_1"]
COUNTERPARTS = {  # our method: the paper's row beside it
    NEAREST: "[L]kNN, sigma = 4",
    "PlaNet-style classification": "PlaNet",
    "CPlaNet-style combinatorial partitioning": "CPlaNet",
    "ISN-style hierarchy of cells": "ISNs",
    "PIGEON-style label smoothing": "PIGEON",
    RETRIEVAL: "GeoCLIP",
    CENTER: "Ours (L=47)",
    hybrid.NEAR_SAMPLES.format(comparison.SAMPLES): "Ours (L=47) + GeoCLIP",
}


def compute(context):
    """Return for each data set i: its title_i and what is known about it, the methods_i and of each whether it is right
    within each threshold, hits_i (methods, n, thresholds), its training time and parameters, and whether the places lie
    within the hybrid's radius of a sample, covered_i (n)."""
    result = {}
    for i, data in enumerate(comparison.data_sets(context)):
        found, covered = comparison.predictions(context, data)
        result |= {
            f"title_{i}": data.title,
            f"about_{i}": data.about(),
            f"methods_{i}": list(found),
            f"hits_{i}": np.stack([comparison.within(method["places"], data.truth) for method in found.values()]),
            f"seconds_{i}": [method.get("seconds", np.nan) for method in found.values()],
            f"parameters_{i}": [method.get("parameters", np.nan) for method in found.values()],
            f"covered_{i}": covered,
        }
    return result


def key_numbers(result):
    """Return every method's accuracy within 200 and 2500 km, give or take what another training may."""
    numbers = {}
    for i in range(sum(name.startswith("title_") for name in result)):
        names = [f"{i}: {name}" for name in result[f"methods_{i}"]]
        for k in (200, 2500):
            numbers |= report.accuracies_of(names, [f"{k} km"], result[f"hits_{i}"], k, 6)
    return numbers


def draw(result, folder):
    """Write table_1.png and table_1.csv; return Markdown and claims."""
    count = sum(name.startswith("title_") for name in result)
    figure, panels = report.subplots(13, 4.8 * count, count, 5, sharey="row", squeeze=False)
    beside = {ours: PAPER[theirs][0] for ours, theirs in COUNTERPARTS.items()}
    parts, said, lines = [], [], []
    for i in range(count):
        title, methods, right = str(result[f"title_{i}"]), result[f"methods_{i}"].tolist(), result[f"hits_{i}"]
        numbers, short = np.array([report.percent(one) for one in right]), title.split(":")[0].split(",")[0]
        colors = [report.RED if name.startswith("LocDiffusion") else "black" for name in methods]
        report.dots(panels[i], methods, {None: (colors, numbers)}, beside)
        panels[i, 0].set_ylabel(short)
        costs = zip(result[f"seconds_{i}"], result[f"parameters_{i}"], strict=True)
        table = accuracy_table(methods, numbers, costs, beside)
        lines += [([title, name], own, beside.get(name)) for name, own in zip(methods, numbers, strict=True)]
        parts += [f"### {title}", str(result[f"about_{i}"]), table, about_the_search(result[f"covered_{i}"])]
        said += claims(short, dict(zip(methods, right, strict=True)))
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center")
    report.write_accuracies(folder / "table_1.csv", ["data", "method"], lines, paper=IM2GPS3K)
    rows = [[name, *(report.slashes(row or ()) for row in values)] for name, values in PAPER.items()]
    parts += [
        "### The paper's table",
        "Within 1/25/200/750/2500 km, per cent.",
        report.markdown_table(["", IM2GPS3K, YFCC26K], rows),
        "Translocator and GeoDecoder are image networks of their own, not methods on frozen embeddings: only their "
        "published rows stand here. The photographs of the paper's table are not here; with embeddings of them, "
        "`--scale paper --data FOLDER` computes the real one.",
    ]
    return "\n\n".join([report.save(figure, folder / "table_1.png"), *parts]), said


def accuracy_table(methods, numbers, costs, beside):
    """Return the table in Markdown of the methods' accuracies (methods, thresholds, 3), what their trainings took, and
    the paper's per cents {method: ...} beside them."""
    rows = []
    for name, own, (seconds, parameters) in zip(methods, numbers, costs, strict=True):
        cost = [f"{seconds:.0f} s", f"{parameters / 1e6:.1f} M"] if np.isfinite(seconds) else ["", ""]
        rows.append([name, *report.cells(own), *cost, report.slashes(beside.get(name, ()))])
    return report.markdown_table(["per cent right", *report.KM, "training", "parameters", IM2GPS3K], rows)


def about_the_search(covered):
    """Return how many of the pictures (n,) the restricted search covers, in a sentence or two."""
    return (
        "The restricted search covers the true place, which then lies within "
        f"{hybrid.RADIUS_KM} km of one of the {comparison.SAMPLES} samples, of {100 * covered.mean():.1f} % of the "
        "pictures; what it shuts out it loses. The density only weighs, and shuts out nothing."
    )


def claims(data, right):
    """Return the paper's two claims about a data set of that name, tested by the hits {method: (n, thresholds)}: by
    their differences on the same pictures."""
    best = max((CENTER, MODE, EACH), key=lambda name: right[name].mean(axis=0)[2:].sum())
    alone, alone_text = report.points(right[best].astype(float) - right[RETRIEVAL])
    better = np.where(right[RETRIEVAL].mean(axis=0) >= right[best].mean(axis=0), right[RETRIEVAL], right[best])
    together, together_text = report.points(right[hybrid.WEIGHTED].astype(float) - better)
    worse = [k for k, (_, _, high) in zip(report.KM, together, strict=True) if high < 0]
    retrieval, diffusion, both = (PAPER[name][0] for name in ("GeoCLIP", "Ours (L=47)", "Ours (L=47) + GeoCLIP"))
    far = report.FAR
    return [
        Claim(
            f"{data}: LocDiffusion beats retrieval at 200 km and beyond",
            f"{report.slashes(diffusion[far])} % against {report.slashes(retrieval[far])}",
            f"{best}, less {RETRIEVAL}, in points: {report.at_each(alone_text)}",
            bool((alone[far, 1] > 0).all()),
        ),
        Claim(
            f"{data}: with retrieval it is nowhere worse than the better of the two",
            f"{report.slashes(both)} %",
            f"{hybrid.WEIGHTED}, less the better of the two at each threshold, in points: "
            f"{report.at_each(together_text)}; worse at {', '.join(worse) or 'none'}",
            not worse,
        ),
    ]
