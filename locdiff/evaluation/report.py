"""The report on a run: the table, metrics.json and the pictures."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.evaluation import coverage, metrics, versus
from locdiff.evaluation.hybrid import open_gallery, predict_hybrid
from locdiff.evaluation.retrieval import retrieve
from locdiff.evaluation.summaries import (
    CALIBRATION,
    EACH,
    MODE,
    SHOWN,
    baseline_places,
    density_scores,
    predict_all,
    score_model,
    score_prior,
)  # fmt: skip
from locdiff.files import atomic_path, versions, write_json
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.viz import curves, sheets

ZOOMED = 4  # pictures in zooms.png
TEXT_WORTH = ("nats_over_uniform", "coverage_50", "coverage_90")


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
    baselines = baseline_places(embeddings, train, t.seed, progress)
    rows = score_model(model, found, truth, extent.columns)
    rows |= {name: metrics.score(places, truth, extent.columns) for name, places in baselines.items()}
    _add_intervals(rows, {MODE: found["mode"], EACH: found["each"]} | baselines, truth, test.photographers)
    if queries:
        rows |= _score_hybrid(model, embeddings, found, queries, truth, t.seed, extent, progress)
    worth = _worth(found, truth, test.photographers) | _of_training(run, model)
    if model.objective.is_natural:
        prior, worth["prior_nats"] = score_prior(model, truth)
        rows |= prior
    retrieved = next(iter(baselines.values()))
    parts, texts = versus.score_texts(found, retrieved, truth, train, test, extent.columns)
    record = {
        "rows": rows | parts, "one_pass_density": worth, "texts": texts, "data": data, "gallery": extent.gallery,
        "less_retrieval": versus.less_retrieval(found["each"], retrieved, truth, test.photographers),
        "held_out": len(test), "training_pictures": len(train), "kind": test.kind, "seed": t.seed,
        "settings": dataclasses.asdict(settings), "versions": versions(), "device": str(model.device),
        "encoder": test.about, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    if extent.density:
        record["density_metrics"] = density_scores(found, truth)
    paths = _draw(run, extent.suffix, model, embeddings, found, truth, test)
    paths += _draw_curves(run, extent.suffix, found, truth)
    _write(run, extent, record, paths)
    return record["rows"]


def _add_intervals(rows, places, truth, groups):
    """Add to rows of one prediction a picture, {row: places}, the 95 % intervals of their accuracies."""
    for name, lat_lon in places.items():
        rows[name]["interval"] = metrics.interval(lat_lon, truth, groups)


def _worth(found, truth, groups):
    """What the one-pass density is worth in the mean, its coverage, and the energy score of the samples."""
    worth = dict(zip(CALIBRATION, found["calibration"].double().mean(dim=0).tolist(), strict=True))
    worth["nats_interval"] = metrics.bootstrap(found["calibration"][:, 0], groups=groups).tolist()
    worth |= coverage.coverage(found["rank"], groups)
    return worth | {"energy_score_km": coverage.energy_score(found["samples"], truth)}


def _score_hybrid(model, embeddings, found, queries, truth, seed, extent, progress):
    """The rows of LocDiffusion with retrieval, and of GeoCLIP's retrieval alone where there is a gallery of places."""
    places = predict_hybrid(model, embeddings, found["samples"], *queries, truth, seed, progress)
    if extent.gallery:
        places[f"Retrieval by GeoCLIP, gallery of {len(queries[1]):,} places"] = retrieve(*queries, progress)
    return {name: metrics.score(lat_lon, truth, extent.columns) for name, lat_lon in places.items()}


def _write(run, extent, record, pictures):
    """Write metrics.json and metrics.md, under names with the suffix, and print the table and all paths."""
    text = _as_text(record, extent.columns)
    paths = [run / f"metrics{extent.suffix}.{ending}" for ending in ("json", "md")]
    write_json(paths[0], record)
    with atomic_path(paths[1]) as path:
        path.write_text(text, encoding="utf-8")
    print(text)  # last: what it is piped to may have ended
    print("written: " + ", ".join(map(str, [*paths, *pictures])))


def _as_text(record, columns):
    """The report in Markdown, of the record that metrics.json holds."""
    worth, more = record["one_pass_density"], record.get("density_metrics", {})
    nats, (half, low, high), (most, least, top) = (worth[name] for name in TEXT_WORTH)
    prior = f"; the prior alone gives {worth['prior_nats']:.2f}" if "prior_nats" in worth else ""
    kind = record["kind"]
    ahead = "; ".join(f"{k:,} km {d:+.1f} ({a:+.1f} to {b:+.1f})" for k, (d, a, b) in record["less_retrieval"].items())
    text = (
        f"Per cent within k km, {record['held_out']:,} held-out {kind}. Data: {record['data']}. "
        f"Seed {record['seed']}.\n\n{metrics.table(record['rows'], columns)}\n\n"
        f"The one-pass density gives the true place {abs(nats):.2f} nats {'more' if nats >= 0 else 'less'} than the "
        f"uniform one{prior}. "
        f"Its 50 % regions hold the truth of {half:.1f} % of the {kind} (95 % interval {low:.1f} to {high:.1f}), its "
        f"90 % regions that of {most:.1f} % ({least:.1f} to {top:.1f}). The regions' mean areas are "
        f"{worth['area_50_km2'] / 1e6:.2f} and {worth['area_90_km2'] / 1e6:.2f} million km^2. The "
        f"energy score of the samples is {worth['energy_score_km']:.0f} km.\n\n"
        f"Per cent by its best place minus that by retrieval from the training {kind} (95 % interval): {ahead}.\n"
    )
    for name, part in record["texts"].items():
        nats, (half, low, high), (most, least, top) = (part[key] for key in TEXT_WORTH)
        text += (
            f"\n{part['count']:,} {name}: {nats:.2f} nats over uniform; 50 % regions hold {half:.1f} % "
            f"({low:.1f} to {high:.1f}), 90 % regions {most:.1f} % ({least:.1f} to {top:.1f}).\n"
        )
    lines = [f"{name.replace('_', ' ')}: {value:.3f}\n" for name, value in more.items()]
    return text + "\n" * bool(lines) + "".join(lines)


def _of_training(run, model):
    """What the run says of its training: tau and kappa of every level, the validation's best nats, where it stopped."""
    levels = [model.calibration, *model.refinements] if model.objective.is_natural else []
    scales = [level.scale.tolist() for level in levels]
    record = {"tau": [tau for tau, _ in scales], "kappa": [kappa for _, kappa in scales]}
    if model.objective.is_natural:
        record |= dict(zip(("broad_share", "broad_factor"), model.objective.broad.tolist(), strict=True))
    validation = _read_validation(run)
    if len(validation):
        best = validation[np.nanargmax(validation[:, 1])]
        record |= {"validation_nats": best[1], "best_step": int(best[0]), "stopped_at": int(validation[-1, 0])}
    return record


def _read_validation(run):
    path = run / "validation.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) if path.exists() else np.empty((0, 2))


def _draw_curves(run, suffix, found, truth):
    """Draw calibration.png and, of a run with a validation, validation.png; their paths."""
    outputs, observed = [run / f"calibration{suffix}.png"], metrics.hits(found["each"], truth).double().mean(dim=0)
    pairs = zip((100 * found["chance"].double().mean(dim=0)).tolist(), (100 * observed).tolist(), strict=True)
    names = (f"{k:,} km" for k in THRESHOLDS_KM)
    curves.draw_calibration(outputs[0], found["rank"], dict(zip(names, pairs, strict=True)))
    validation = _read_validation(run)
    if len(validation) and not suffix:
        outputs.append(run / "validation.png")
        curves.draw_validation(outputs[-1], validation)
    return outputs


def _draw(run, suffix, model, embeddings, found, truth, test):
    """Draw predictions.png and, of a model with refinement levels, zooms.png; their paths."""
    is_thumbnail = test.encoder == blue_marble.THUMBNAIL_ENCODER
    pictures = blue_marble.thumbnail_pictures(embeddings[:SHOWN]) if is_thumbnail else test.texts and test.texts[:SHOWN]
    views = blue_marble.full_views(truth[:SHOWN]) if is_thumbnail else None
    outputs, anchors = [run / f"predictions{suffix}.png"], model.grid.anchors
    shown = [found["mode"][:SHOWN], found["density"], found["samples"][:SHOWN], truth[:SHOWN]]
    sheets.draw_predictions(outputs[0], anchors, *shown, pictures, views=views)
    if model.refinements:
        outputs.append(run / f"zooms{suffix}.png")
        posterior = model.posterior(embeddings[:ZOOMED])
        sheets.draw_zooms(outputs[1], posterior, found["mode"][:ZOOMED], truth[:ZOOMED], pictures, views)
    return outputs
