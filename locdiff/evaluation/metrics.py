"""Scores of predicted places against the truth, as the field reports them."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from locdiff.evaluation.areas import AREAS, area_accuracy
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.pixels import THRESHOLDS_KM

GEOSCORE_SCALE_KM = 1492.7


@dataclass(frozen=True)
class Columns:
    """What is reported besides the usual columns: further `thresholds` in km, the mean distance, and areas."""

    thresholds: tuple = ()
    mean: bool = False
    areas: bool = False

    @property
    def all_thresholds(self):
        """The usual thresholds and the further ones, rising."""
        return sorted({*THRESHOLDS_KM, *self.thresholds})


USUAL = Columns()


def score(lat_lon, truth, columns=USUAL):
    """Return scores of the predictions (n, 2) for the places (n, 2), in degrees, as a dict.

    `accuracy`: per cent within each threshold (d <= k) in km; `median_km`; `geoscore`, the mean of 5000 exp(-d/1492.7);
    `failed`: predictions that are missing or not finite, which count as infinitely far; `count`: n. The `columns` add
    `mean_km`, and `areas`, the per cent in the country, region and city of the truth.
    """
    distance = great_circle_km(lat_lon.double(), truth.double())
    failed = ~torch.isfinite(distance)
    distance = distance.masked_fill(failed, math.inf)
    percent = {k: _mean(distance <= k) * 100 for k in columns.all_thresholds}
    more = {"mean_km": _mean(distance)} if columns.mean else {}
    if columns.areas:
        more["areas"] = area_accuracy(lat_lon, truth)
    return {
        "accuracy": percent,
        "median_km": _median(distance),
        "geoscore": _mean(5000 * torch.exp(-distance / GEOSCORE_SCALE_KM)),
        "failed": int(failed.sum()),
        "count": len(distance),
    } | more


def hits(lat_lon, truth):
    """Return whether predictions lie within each threshold of the true places (n, 2): bool (n, thresholds).

    Predictions are (n, 2), or one for each threshold, (n, thresholds, 2). Predictions that are not finite do not."""
    each = lat_lon[:, None].expand(-1, len(THRESHOLDS_KM), -1) if lat_lon.ndim == 2 else lat_lon
    return great_circle_km(each.double(), truth[:, None].double()) <= torch.tensor(THRESHOLDS_KM)


def bootstrap(values, resamples=1000, seed=0, groups=None):
    """Return the 95 % interval of the mean over pictures of the array `values` (n, ...): its two ends, each (...).

    Pictures are drawn with replacement `resamples` times, or, with the n `groups` that they belong to, whole groups;
    pictures of one photographer are not independent. Values may be hits, or differences of the hits of two methods on
    the same pictures. ValueError if there are none.
    """
    if not len(values):
        raise ValueError("no pictures to draw from")
    flat, rng, means = np.asarray(values, dtype=float).reshape(len(values), -1), np.random.default_rng(seed), []
    size = np.ones(len(flat))
    if groups is not None:
        group = np.unique(groups, return_inverse=True)[1]
        size = np.bincount(group).astype(float)
        flat = np.stack([np.bincount(group, column) for column in flat.T], axis=1)
    for _ in range(resamples):
        times = np.bincount(rng.integers(len(size), size=len(size)), minlength=len(size))
        means.append(times @ flat / (times @ size))
    return np.percentile(means, [2.5, 97.5], axis=0).reshape(2, *np.shape(values)[1:])


def interval(lat_lon, truth, groups=None):
    """Return {km: [low, high]}, the 95 % interval of the per cent within each threshold, as `bootstrap` has it.

    Predictions are those of `hits`.
    """
    low, high = bootstrap(100 * hits(lat_lon, truth).double().numpy(), groups=groups)
    return {k: [a, b] for k, a, b in zip(THRESHOLDS_KM, low.tolist(), high.tolist(), strict=True)}


def score_each(lat_lon, truth):
    """Return the `accuracy` within each threshold of predictions made for it, (n, thresholds, 2), as a dict."""
    own = [score(places, truth)["accuracy"][k] for k, places in zip(THRESHOLDS_KM, lat_lon.unbind(1), strict=True)]
    return {"accuracy": dict(zip(THRESHOLDS_KM, own, strict=True))}


def table(rows, columns=USUAL):
    """Return a Markdown table of {name: score}, failures below it; a score may lack all but `accuracy`."""
    heads = [f"{k:g} km" for k in columns.all_thresholds] + ["median km", "GeoScore"]
    heads += ["mean km"] * columns.mean + list(AREAS) * columns.areas
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for name, row in rows.items():
        values = [(row["accuracy"].get(k), ".1f") for k in columns.all_thresholds]
        values += [(row.get("median_km"), ".0f"), (row.get("geoscore"), ".0f")]
        values += [(row.get("mean_km"), ".0f")] * columns.mean
        values += [(row.get("areas", {}).get(area), ".1f") for area in AREAS] * columns.areas
        cells = ("" if value is None else format(value, form) for value, form in values)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    failed = [f"{row['failed']} of {row['count']} ({name})" for name, row in rows.items() if row.get("failed")]
    if failed:
        lines += ["", "Missing or not finite, counted as misses: " + "; ".join(failed)]
    return "\n".join(lines)


def _mean(values):
    return values.double().mean().item() if len(values) else math.nan


def _median(distance):
    return float(np.median(distance)) if len(distance) else math.nan
