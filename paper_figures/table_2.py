"""Table 2: what becomes of GeoCLIP and of LocDiffusion when the gallery or the anchors are an even grid."""

import comparison
import data_sets
import numpy as np
import report
import torch
from artefact import Claim

from locdiff.data.geoclip import gallery_places
from locdiff.errors import InputError
from locdiff.evaluation import retrieval

SCALES = data_sets.SCALES
TITLE = "GeoCLIP and LocDiffusion over galleries and anchors"
DATA = (
    "the simulation of Table 1 or, with --data, embeddings by CLIP ViT-L/14; HEALPix grids. The intervals hold 95 % of "
    "the means of 1,000 draws of the test pictures with replacement."
)
GEOCLIP = "GeoCLIP"
DENSEST = "LocDiffusion, densest anchor"
CENTER = f"LocDiffusion, centre of {comparison.SAMPLES} at anchors (the paper's)"
METHODS = (GEOCLIP, DENSEST, CENTER)
SIZES = ("MP16", "grid, 1 M", "grid, 500 k", "grid, 100 k", "grid, 21 k")  # the paper's galleries
PAPER = report.PAPER["table_2"]


def compute(context):
    """Return whether each method is right, hits (methods, galleries, n, thresholds); the sizes of the galleries;
    about."""
    data = data_sets.own(context) if context.data else data_sets.simulated(context)
    if data.places is None:
        raise InputError(f"Table 2 needs embeddings by ViT-L-14/openai, those in {context.data} are by others")
    model, _, found = comparison.locdiffusion(context, data)
    one_pass, samples = model.one_pass(data.embeddings), torch.from_numpy(found["samples"])
    galleries = [data.places, *(gallery_places(f"grid:{size}") for size in data.scale.grids)]
    right = []
    for places in galleries:

        def predict(places=places):
            return {
                GEOCLIP: retrieval.retrieve(*data.search(places)).numpy(),
                DENSEST: comparison.densest_anchor(one_pass, places, data.device).numpy(),
                CENTER: comparison.center_at_anchors(samples, places).numpy(),
            }

        piece = context.piece(f"anchors-{len(places)}", data.key, predict)
        right.append([comparison.within(piece[method], data.truth) for method in METHODS])
    return {
        "hits": np.array(right).swapaxes(0, 1),
        "sizes": np.array([len(places) for places in galleries]),
        "about": f"{data.title}. {data.about()}",
    }


def names(sizes):
    """Return what the galleries are called."""
    return ["MP16" if data == 0 else f"grid, {size:,}" for data, size in enumerate(sizes)]


def key_numbers(result):
    """Return accuracies within 200 km; GeoCLIP's depend on no training."""
    galleries = range(len(result["sizes"]))
    numbers = report.accuracies_of(METHODS, galleries, result["hits"], 200, 6)
    return numbers | report.accuracies_of([GEOCLIP], galleries, result["hits"][:1], 200, 0.1)


def draw(result, folder):
    """Write table_2.csv; return Markdown and claims."""
    rows, lines = [], []
    for method, right in zip(METHODS, result["hits"], strict=True):
        numbers, papers = [report.percent(one) for one in right], PAPER.get(method, ())
        for i, (name, own) in enumerate(zip(names(result["sizes"]), numbers, strict=True)):
            drops = _drops(own[:, 0], numbers[0][:, 0])
            rows.append([method, name, *map("".join, zip(report.cells(own), drops, strict=True))])
            lines.append(([method, name], own, papers[i] if papers else ()))
        for name, own in zip(SIZES, papers, strict=False):
            texts = (f"{value:.1f}{drop}" for value, drop in zip(own, _drops(own, papers[0]), strict=True))
            rows.append([f"the paper's {method.split(',')[0]}", name, *texts])
    report.write_accuracies(folder / "table_2.csv", ["method", "gallery"], lines)
    text = (
        f"{result['about']} In brackets: the 95 % interval, and the loss relative to the first row. Densest anchor: "
        "that where the one-pass density is largest. The paper's rows are of photographs, ours of the data named above."
    )
    table = report.markdown_table(["per cent within", "gallery or anchors", *report.KM], rows)
    return f"{text}\n\n{table}", claims(relative_losses(result["hits"]))


def _drops(values, first):
    """Return what is lost relative to the first row, as text: (-97.5 %)"""
    pairs = zip(values, first, strict=True)
    return [f" ({100 * (value / one - 1):+.1f} %)" if 0 < one != value else "" for value, one in pairs]


def relative_losses(right):
    """Return what each method loses with each grid, {method: (grids, thresholds)}, by its hits (galleries, n,
    thresholds)."""
    mean = right.mean(axis=2)
    return dict(zip(METHODS, 1 - mean[:, 1:] / np.maximum(mean[:, :1], 1e-9), strict=True))


def claims(losses):
    """Return the claims, from the relative losses {method: (grids, thresholds)}, that LocDiffusion loses less."""
    far = {name: 100 * loss[:, report.FAR] for name, loss in losses.items()}
    papers = {name: 100 * (1 - np.divide(rows[1:], rows[0]))[:, report.FAR] for name, rows in PAPER.items()}

    def said(values):
        return "{:.1f} to {:.1f} %".format(*np.round([values.min(), values.max()], 1) + 0.0)  # not -0.0

    return [
        Claim(
            f"with every grid, at 200 km and beyond, {name} loses less than GeoCLIP, relative to MP16",
            f"{said(papers[name]) if name in papers else 'not given'}, GeoCLIP {said(papers[GEOCLIP])}",
            f"{said(far[name])}, GeoCLIP {said(far[GEOCLIP])}",
            bool((far[name] < far[GEOCLIP]).all()),
        )
        for name in (DENSEST, CENTER)
    ]
