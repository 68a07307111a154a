"""The report on a run: the table, metrics.json and the pictures; and scores of anybody's predictions."""

import dataclasses
import time
from pathlib import Path

import numpy as np
import torch

from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings
from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.evaluation import metrics
from locdiff.evaluation.hybrid import open_gallery, predict_hybrid
from locdiff.evaluation.retrieval import retrieve
from locdiff.evaluation.summaries import CALIBRATION, SHOWN, predict_all, score_baselines, score_model
from locdiff.files import atomic_path, versions, write_json
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.viz import maps

ZOOMED = 4  # pictures in zooms.png


def report(
    run: Path, model: LocDiffusion, train: Embeddings, test: Embeddings, settings,
    source: str | None = None, hybrid: bool = False, gallery: str | None = None, progress: bool = True,
) -> dict[str, dict]:  # fmt: skip
    """Evaluate, print the table, and write metrics.json, metrics.md and predictions.png into the run folder.

    `settings` are the run's. `source` names an embeddings folder other than the run's own held-out pictures; the file
    names then carry its name. `hybrid` adds rows of LocDiffusion with retrieval, from the training pictures or from a
    `gallery` of places. Returns {row: score}. Raises InputError if there is nothing to score on.
    """
    started, t = time.monotonic(), settings.training
    data = source or t.data or f"Blue Marble satellite views ({dataclasses.asdict(settings.blue_marble)})"
    if not len(test):
        raise InputError(f"{data} holds no pictures to score on")
    embeddings, truth = test.batch(range(len(test)))
    search = open_gallery(gallery, embeddings, train, test, model.device, progress) if hybrid else None
    found = predict_all(model, embeddings, truth, t.samples, t.seed, progress)
    rows = score_model(model, found, truth) | score_baselines(embeddings, truth, train, t.seed, progress)
    if search:
        places = predict_hybrid(model, embeddings, found["samples"], *search, truth, t.seed, progress)
        if gallery:
            places[f"Retrieval by GeoCLIP, gallery of {len(search[1]):,} places"] = retrieve(*search, progress)
        rows |= {name: metrics.score(lat_lon, truth) for name, lat_lon in places.items()}
    worth = dict(zip(CALIBRATION, found["calibration"].double().mean(dim=0).tolist(), strict=True))
    record = {
        "rows": rows, "one_pass_density": worth, "data": data, "gallery": gallery,
        "held_out": len(test), "training_pictures": len(train), "seed": t.seed,
        "settings": dataclasses.asdict(settings), "versions": versions(), "device": str(model.device),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    text = _as_text(record)
    print(text)
    suffix = f"-{Path(source).resolve().name}" if source else ""
    write_json(run / f"metrics{suffix}.json", record)
    with atomic_path(run / f"metrics{suffix}.md") as path:
        path.write_text(text)
    pictures = _draw(run, suffix, model, embeddings, found, truth, test.encoder)
    print("written: " + ", ".join(map(str, [run / f"metrics{suffix}.json", run / f"metrics{suffix}.md", *pictures])))
    return rows


def _as_text(record):
    """The report in Markdown, of the record that metrics.json holds."""
    worth = record["one_pass_density"]
    nats = worth["nats_over_uniform"]
    return (
        f"Per cent within k km, {record['held_out']:,} held-out pictures. Data: {record['data']}. "
        f"Seed {record['seed']}.\n\n{metrics.table(record['rows'])}\n\n"
        f"The one-pass density gives the true place {abs(nats):.2f} nats {'more' if nats >= 0 else 'less'} than the "
        "uniform one. "
        f"Its 50 % and 90 % regions hold the truth of {100 * worth['in_region_50']:.1f} and "
        f"{100 * worth['in_region_90']:.1f} % of the pictures; their mean areas are "
        f"{worth['area_50_km2'] / 1e6:.2f} and {worth['area_90_km2'] / 1e6:.2f} million km^2.\n"
    )


def _draw(run, suffix, model, embeddings, found, truth, encoder):
    """Draw predictions.png and, of a model with refinement levels, zooms.png; their paths."""
    is_thumbnail = encoder == blue_marble.THUMBNAIL_ENCODER
    pictures = blue_marble.thumbnail_pictures(embeddings[:SHOWN]) if is_thumbnail else None
    outputs, anchors = [run / f"predictions{suffix}.png"], model.grid.anchors
    shown = [found["mode"][:SHOWN], found["density"], found["samples"][:SHOWN], truth[:SHOWN]]
    maps.draw_predictions(outputs[0], anchors, *shown, pictures)
    if model.refinements:
        outputs.append(run / f"zooms{suffix}.png")
        posterior = model.posterior(embeddings[:ZOOMED])
        maps.draw_zooms(outputs[1], posterior, found["mode"][:ZOOMED], truth[:ZOOMED], pictures)
    return outputs


def score_files(predictions: Path, truth: Path) -> dict[str, dict]:
    """Score predictions.csv against truth.csv, matched by id; a true place without a usable prediction is a miss.

    Raises InputError if a file cannot be read, or if no id matches.
    """
    guesses, true = read_places(predictions, missing_is_nan=True), read_places(truth)
    ids, places, true_ids, true_places = guesses.ids, guesses.lat_lon, true.ids, true.lat_lon
    if not true_ids:
        raise InputError(f"{truth} holds no places")
    found = dict(zip(ids, places, strict=True))
    unknown = sorted(set(ids) - set(true_ids))
    if len(unknown) == len(ids):
        raise InputError(f"no id of {predictions} stands in {truth}; the first is {ids[0] if ids else '(none)'}")
    if unknown:
        print(f"{len(unknown)} predictions have no true place and are left out, the first is {unknown[0]}")
    matched = np.stack([found.get(i, np.full(2, np.nan)) for i in true_ids])
    return {Path(predictions).name: metrics.score(torch.from_numpy(matched), torch.from_numpy(true_places))}
