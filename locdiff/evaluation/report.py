"""The report on a run: the table, metrics.json and the pictures."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.evaluation import metrics
from locdiff.evaluation.hybrid import open_gallery, predict_hybrid
from locdiff.evaluation.retrieval import retrieve
from locdiff.evaluation.summaries import (
    CALIBRATION,
    SHOWN,
    density_scores,
    predict_all,
    score_baselines,
    score_model,
)  # fmt: skip
from locdiff.files import atomic_path, versions, write_json
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.viz import maps

ZOOMED = 4  # pictures in zooms.png


@dataclass(frozen=True)
class Extent:
    """What a report has besides that of the training, and what its files are called.

    `source` names an embeddings folder other than the run's own held-out pictures. `hybrid` adds rows of LocDiffusion
    with retrieval, from the training pictures or from a `gallery` of places; `columns` adds columns, and `density`
    further measures of the densities. The files' names end in `suffix`.
    """

    source: str | None = None
    hybrid: bool = False
    gallery: str | None = None
    columns: metrics.Columns = metrics.USUAL
    density: bool = False
    suffix: str = ""


def report(
    run: Path, model: LocDiffusion, train: Embeddings, test: Embeddings, settings,
    extent: Extent = Extent(), progress: bool = True,
) -> dict[str, dict]:  # fmt: skip
    """Evaluate, print the table, and write metrics.json, metrics.md and predictions.png into the run folder.

    `settings` are the run's. Returns {row: score}. Raises InputError if there is nothing to score on.
    """
    started, t = time.monotonic(), settings.training
    data = extent.source or t.data or f"Blue Marble satellite views ({dataclasses.asdict(settings.blue_marble)})"
    if not len(test):
        raise InputError(f"{data} holds no pictures to score on")
    embeddings, truth = test.batch(range(len(test)))
    queries = extent.hybrid and open_gallery(extent.gallery, embeddings, train, test, model.device, progress)
    found = predict_all(model, embeddings, truth, t.samples, t.seed, progress)
    rows = score_model(model, found, truth, extent.columns)
    rows |= score_baselines(embeddings, truth, train, t.seed, progress, extent.columns)
    if queries:
        rows |= _score_hybrid(model, embeddings, found, queries, truth, t.seed, extent, progress)
    worth = dict(zip(CALIBRATION, found["calibration"].double().mean(dim=0).tolist(), strict=True))
    record = {
        "rows": rows, "one_pass_density": worth, "data": data, "gallery": extent.gallery,
        "held_out": len(test), "training_pictures": len(train), "seed": t.seed,
        "settings": dataclasses.asdict(settings), "versions": versions(), "device": str(model.device),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    if extent.density:
        record["density_metrics"] = density_scores(found, truth)
    written = _write(run, extent, record)
    pictures = _draw(run, extent.suffix, model, embeddings, found, truth, test.encoder)
    print("written: " + ", ".join(map(str, [*written, *pictures])))
    return rows


def _score_hybrid(model, embeddings, found, queries, truth, seed, extent, progress):
    """The rows of LocDiffusion with retrieval, and of GeoCLIP's retrieval alone where there is a gallery of places."""
    places = predict_hybrid(model, embeddings, found["samples"], *queries, truth, seed, progress)
    if extent.gallery:
        places[f"Retrieval by GeoCLIP, gallery of {len(queries[1]):,} places"] = retrieve(*queries, progress)
    return {name: metrics.score(lat_lon, truth, extent.columns) for name, lat_lon in places.items()}


def _write(run, extent, record):
    """Write metrics.json and metrics.md, under names with the suffix, and print the table; their paths."""
    text = _as_text(record, extent.columns)
    paths = [run / f"metrics{extent.suffix}.{ending}" for ending in ("json", "md")]
    write_json(paths[0], record)
    with atomic_path(paths[1]) as path:
        path.write_text(text)
    print(text)  # last: what it is piped to may have ended
    return paths


def _as_text(record, columns):
    """The report in Markdown, of the record that metrics.json holds."""
    worth, more = record["one_pass_density"], record.get("density_metrics", {})
    nats = worth["nats_over_uniform"]
    text = (
        f"Per cent within k km, {record['held_out']:,} held-out pictures. Data: {record['data']}. "
        f"Seed {record['seed']}.\n\n{metrics.table(record['rows'], columns)}\n\n"
        f"The one-pass density gives the true place {abs(nats):.2f} nats {'more' if nats >= 0 else 'less'} than the "
        "uniform one. "
        f"Its 50 % and 90 % regions hold the truth of {100 * worth['in_region_50']:.1f} and "
        f"{100 * worth['in_region_90']:.1f} % of the pictures; their mean areas are "
        f"{worth['area_50_km2'] / 1e6:.2f} and {worth['area_90_km2'] / 1e6:.2f} million km^2.\n"
    )
    lines = [f"{name.replace('_', ' ')}: {value:.3f}\n" for name, value in more.items()]
    return text + "\n" * bool(lines) + "".join(lines)


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
