"""Table 2: what becomes of retrieval and of LocDiffusion when the gallery or the anchors are an even grid."""

import comparison
import data_sets
import galleries
import numpy as np
import report
import torch
from artefact import Claim

from locdiff.errors import InputError

SCALES = data_sets.SCALES
TITLE = "GeoCLIP and LocDiffusion over galleries and anchors"
DATA = (
    "the simulation of Table 1 and, at scale full, its place names or, with --data, embeddings by CLIP ViT-L/14; "
    "HEALPix grids. The intervals hold 95 % of the means of 1,000 draws of the test pictures with replacement."
)
GEOCLIP = "GeoCLIP"
DENSEST = "LocDiffusion, densest anchor"
CENTER = f"LocDiffusion, centre of {comparison.SAMPLES} at anchors (the paper's)"
SIZES = ("MP16", "grid, 1 M", "grid, 500 k", "grid, 100 k", "grid, 21 k")  # the paper's galleries
PAPER = report.PAPER["table_2"]


def compute(context):
    """Return for each data set i: its title_i and what is known about it, about_i; the methods_i; the galleries_i; and
    whether each method is right, hits_i (methods, galleries, n, thresholds)."""
    sets = [data_sets.own(context) if context.data else data_sets.simulated(context)]
    if sets[0].places is None:
        raise InputError(f"Table 2 needs embeddings by ViT-L-14/openai, those in {context.data} are by others")
    if not context.data and data_sets.has("names", context):
        sets.append(data_sets.named(context))
    result = {}
    for i, data in enumerate(sets):
        result |= {f"{name}_{i}": value for name, value in compare(context, data).items()}
    return result


def compare(context, data):
    """Return what `compute` returns for one data set."""
    model, cost, found = comparison.locdiffusion(context, data)
    one_pass, samples = model.one_pass(data.embeddings), torch.from_numpy(found["samples"])
    searched, right = galleries.galleries(data), []
    methods = [comparison.RETRIEVAL if data.places is None else GEOCLIP, DENSEST, CENTER]
    for gallery in searched:

        def predict(gallery=gallery):
            places = {
                methods[0]: gallery.retrieve(),
                DENSEST: gallery.densest(one_pass, data.device),
                CENTER: gallery.center(samples),
                "nearest": gallery.nearest(data.truth[:, None])[:, 0],
            }
            return {name: place.numpy() for name, place in places.items()}

        name = f"anchors-{len(gallery.places)}" + "-elsewhere" * (gallery.own is not None)
        piece = context.piece(name, [*data.key, float(cost["lr"])], predict)
        right.append([comparison.within(piece[method], data.truth) for method in methods])
    more = f" {galleries.about(data, torch.from_numpy(piece['nearest']))}" if data.places is None else ""
    return {
        "title": data.title,
        "about": data.about() + more,
        "methods": methods,
        "galleries": [gallery.name for gallery in searched],
        "hits": np.array(right).swapaxes(0, 1),
    }


def key_numbers(result):
    """Return accuracies within 200 km; those of retrieval depend on no training."""
    numbers = {}
    for i, one in enumerate(report.by_data_set(result)):
        names = [f"{i}: {name}" if i else name for name in one["methods"]]
        columns = range(len(one["galleries"]))
        numbers |= report.accuracies_of(names, columns, one["hits"], 200, 6)
        numbers |= report.accuracies_of(names[:1], columns, one["hits"][:1], 200, 0.1)
    return numbers


def draw(result, folder):
    """Write table_2.csv; return Markdown and claims."""
    parts, lines, said = [], [], []
    for one in report.by_data_set(result):
        rows = []
        for method, right in zip(one["methods"], one["hits"], strict=True):
            numbers, papers = [report.percent(each) for each in right], PAPER.get(method) if has_papers(one) else None
            for i, (name, own) in enumerate(zip(one["galleries"], numbers, strict=True)):
                drops = _drops(own[:, 0], numbers[0][:, 0])
                rows.append([method, name, *map("".join, zip(report.cells(own), drops, strict=True))])
                lines.append(([one["title"], method, name], own, papers[i] if papers else ()))
            for name, own in zip(SIZES, papers or (), strict=False):
                texts = (f"{value:.1f}{drop}" for value, drop in zip(own, _drops(own, papers[0]), strict=True))
                rows.append([f"the paper's {method.split(',')[0]}", name, *texts])
        table = report.markdown_table(["per cent within", "gallery or anchors", *report.KM], rows)
        parts += [f"### {one['title']}", str(one["about"]), table]
        said += claims(one)
    report.write_accuracies(folder / "table_2.csv", ["data", "method", "gallery"], lines)
    text = (
        "In brackets: the 95 % interval, and the loss relative to the first row. Densest anchor: that where the "
        "one-pass density is largest. The paper's rows are of photographs, ours of the data named."
    )
    return "\n\n".join([text, *parts]), said


def has_papers(one):
    """Return whether the galleries of a data set's result are those of the paper."""
    return GEOCLIP in one["methods"]


def _drops(values, first):
    """Return what is lost relative to the first row, as text: (-97.5 %)"""
    pairs = zip(values, first, strict=True)
    return [f" ({100 * (value / one - 1):+.1f} %)" if 0 < one != value else "" for value, one in pairs]


def relative_losses(right):
    """Return what each method loses with each gallery after the first, (methods, galleries - 1, thresholds), by its
    hits (methods, galleries, n, thresholds)."""
    mean = right.mean(axis=2)
    return 1 - mean[:, 1:] / np.maximum(mean[:, :1], 1e-9)


def claims(one):
    """Return the claims about a data set, by its result, that LocDiffusion loses less than retrieval does: with every
    grid and, where these are compared, in other regions."""
    (first, *others), (searching, *ours) = one["galleries"], one["methods"]
    losses, data = 100 * relative_losses(one["hits"])[..., report.FAR], str(one["title"]).split(":")[0]
    papers = {name: 100 * (1 - np.divide(rows[1:], rows[0]))[:, report.FAR] for name, rows in PAPER.items()}
    elsewhere, said = np.array([name == galleries.OTHER_REGIONS for name in others]), []
    for where, chosen in (("every grid", ~elsewhere), (galleries.OTHER_REGIONS, elsewhere)):
        for name, lost in zip(ours, losses[1:, chosen], strict=True) if chosen.any() else ():
            published = f"{_range(papers[name]) if name in papers else 'not given'}, GeoCLIP {_range(papers[GEOCLIP])}"
            is_the_papers = has_papers(one) and where == "every grid"
            said.append(
                Claim(
                    f"with {where}, at 200 km and beyond, {name} loses less than retrieval",
                    published if is_the_papers else "not tried",
                    f"relative to {first}: {_range(lost)}, {searching} {_range(losses[0, chosen])}",
                    bool((lost < losses[0, chosen]).all()),
                    data,
                    f"{_range(lost)} against {_range(losses[0, chosen])}",
                )
            )
    return said


def _range(values):
    """Return the least and the most of values in per cent, as text: 0.0 to 3.4 %"""
    return "{:.1f} to {:.1f} %".format(*np.round([values.min(), values.max()], 1) + 0.0)  # not -0.0
