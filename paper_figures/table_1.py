"""Table 1: all families of methods side by side, on the same embeddings, trained alike."""

import comparison
import data_sets
import measures
import numpy as np
import report
from artefact import Claim
from comparison import EACH, NEAREST, RECIPE, RETRIEVAL

from locdiff.evaluation import hybrid

SCALES = data_sets.SCALES
TITLE = "LocDiffusion and the other families of methods"
DATA = (
    "frozen embeddings; all that are trained have the same batches and number of steps, one seed. The intervals hold "
    "95 % of the means of 1,000 draws of the test pictures with replacement, or of their authors where these are known."
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
    RECIPE: "Ours (L=47)",
    hybrid.NEAR_SAMPLES.format(measures.SAMPLES): "Ours (L=47) + GeoCLIP",
}
DISTANCES = (
    "per cent right", *report.KM, "median km", "mean km", "GeoScore", "training, s", "parameters, M", "learning rate",
    "ms a picture",
)  # fmt: skip
BEST = ("per cent right", *report.KM)
DENSITIES = ("", *measures.DENSITY_COLUMNS)
LOW_IS_BETTER = ("median km", "mean km", "bits per dimension", "energy score, km")


def compute(context):
    """Return for each data set i: its title_i and what is known about it, the methods_i, what `measures.measure` has
    of each of them (methods, ...), the groups_i of the pictures, and whether their places lie within the hybrid's
    radius of a sample, covered_i (n)."""
    result = {}
    for i, folds in enumerate(data_sets.data_sets(context)):
        found, covered = zip(*(comparison.side_by_side(context, data) for data in folds), strict=True)
        (truth, groups), found = data_sets.truth_and_groups(folds), comparison.joined(found)
        measured = [measures.measure(method, truth) for method in found.values()]
        about = folds[0].about() if len(folds) == 1 else f"{len(folds)} folds; in the first, {folds[0].about()}"
        result |= {f"title_{i}": folds[0].title, f"about_{i}": about, f"methods_{i}": list(found)}
        result |= {f"{name}_{i}": np.stack([one[name] for one in measured]) for name in measured[0]}
        result |= {f"covered_{i}": np.concatenate(covered), f"groups_{i}": [] if groups is None else groups}
    return result


def methods_of(result, i):
    """Return of the data set i {method: what `measures.measure` returned}, and the groups of its pictures or None."""
    names = result[f"methods_{i}"].tolist()
    kept = [name.removesuffix(f"_{i}") for name in result if name.endswith(f"_{i}")]
    kept = [name for name in kept if name not in ("title", "about", "methods", "covered", "groups")]
    groups = result[f"groups_{i}"].tolist() or None
    return {name: {key: result[f"{key}_{i}"][k] for key in kept} for k, name in enumerate(names)}, groups


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
    figure, panels = report.subplots(13, 5.6 * count, count, 5, sharey="row", squeeze=False)
    beside = {ours: PAPER[theirs][0] for ours, theirs in COUNTERPARTS.items()}
    parts, said, lines = [], [], []
    for i in range(count):
        title, (methods, groups) = str(result[f"title_{i}"]), methods_of(result, i)
        numbers, short = np.array([report.percent(one["hits"]) for one in methods.values()]), title.split(":")[0]
        colors = [report.RED if name.startswith("LocDiffusion") else "black" for name in methods]
        report.dots(panels[i], list(methods), {None: (colors, numbers)}, beside)
        panels[i, 0].set_ylabel(short.split(",")[0])
        lines += [([title, name], own, beside.get(name)) for name, own in zip(methods, numbers, strict=True)]
        parts += [f"### {title}", str(result[f"about_{i}"]), *tables(methods, groups, beside)]
        parts.append(about_the_search(result[f"covered_{i}"]))
        said += claims(short, {name: one["hits"] for name, one in methods.items()}, groups)
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


def tables(methods, groups, beside):
    """Return the tables in Markdown of distances and of densities, the best of every column in bold."""
    rows = measures.emphasize(DISTANCES, measures.distance_rows(methods, groups), LOW_IS_BETTER)
    rows = [[*row, report.slashes(beside.get(name, ()))] for row, name in zip(rows, methods, strict=True)]
    best = measures.emphasize(BEST, measures.best_rows(methods, groups))
    densities = measures.emphasize(DENSITIES, measures.density_rows(methods, EACH, groups), LOW_IS_BETTER)
    return (
        report.markdown_table([*DISTANCES, IM2GPS3K], rows),
        "The best place for each column by every density: where most of it lies within that column's distance. At 25 "
        "km and less, only LocDiffusion and the density head differ from the table above.",
        report.markdown_table(BEST, best),
        "Densities and samples. The energy score and PLONK's four measures are of samples alone; a calibrated density "
        "has 50 and 90 % in its regions.",
        report.markdown_table(DENSITIES, densities),
    )


def blocks(result):
    """Return for each data set what docs/results keeps: {name: (tables in Markdown, claims)}."""
    found, beside = {}, {ours: PAPER[theirs][0] for ours, theirs in COUNTERPARTS.items()}
    for i in range(sum(name.startswith("title_") for name in result)):
        title, (methods, groups) = str(result[f"title_{i}"]), methods_of(result, i)
        text = "\n\n".join([str(result[f"about_{i}"]), *tables(methods, groups, beside)])
        own = claims(title.split(":")[0], {k: one["hits"] for k, one in methods.items()}, groups)
        found[f"table_1-{title.split()[0].lower()}"] = f"{text}\n\n{about_the_search(result[f'covered_{i}'])}", own
    return found


def about_the_search(covered):
    """Return how many of the pictures (n,) the restricted search covers, in a sentence or two."""
    return (
        "The restricted search covers the true place, which then lies within "
        f"{hybrid.RADIUS_KM} km of one of the {measures.SAMPLES} samples, of {100 * covered.mean():.1f} % of the "
        "pictures; what it shuts out it loses. The density only weighs, and shuts out nothing."
    )


def claims(data, right, groups=None):
    """Return the paper's two claims about a data set of that name, tested by the hits {method: (n, thresholds)}: by
    their differences on the same pictures, whose `groups` (n,) are drawn as wholes."""
    alone, alone_text = report.points(right[EACH].astype(float) - right[RETRIEVAL], groups)
    better = np.where(right[RETRIEVAL].mean(axis=0) >= right[EACH].mean(axis=0), right[RETRIEVAL], right[EACH])
    together, together_text = report.points(right[hybrid.WEIGHTED].astype(float) - better, groups)
    worse = [k for k, (_, _, high) in zip(report.KM, together, strict=True) if high < 0]
    retrieval, diffusion, both = (PAPER[name][0] for name in ("GeoCLIP", "Ours (L=47)", "Ours (L=47) + GeoCLIP"))
    far = report.FAR
    return [
        Claim(
            "LocDiffusion beats retrieval at 200 km and beyond",
            f"{report.slashes(diffusion[far])} % against {report.slashes(retrieval[far])}",
            f"{EACH}, less {RETRIEVAL}, in points: {report.at_each(alone_text)}",
            bool((alone[far, 1] > 0).all()),
            data,
            report.gains(alone[far, 0]),
        ),
        Claim(
            "with retrieval it is nowhere worse than the better of the two",
            f"{report.slashes(both)} %",
            f"{hybrid.WEIGHTED}, less the better of the two at each threshold, in points: "
            f"{report.at_each(together_text)}; worse at {', '.join(worse) or 'none'}",
            not worse,
            data,
            report.gains(together[:, 0]),
        ),
    ]
