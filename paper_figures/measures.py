"""What the comparison knows of a method's predictions for the test pictures, and the tables made of that.

A method's predictions are arrays by name: `places` (n, 2), `each` (n, thresholds, 2) with a place for each column, or
both; and as far as the method has them `log_prob` (n,) in nats per steradian, `rank` (n,) of the true location,
`samples` (n, S, 2), and numbers: `seconds` of training, `parameters`, `ms` a picture, `lr`.
"""

import math
import time

import numpy as np
import report
import torch
from methods.densities import Densities

from locdiff.evaluation import coverage, density_metrics, metrics
from locdiff.sphere.coordinates import great_circle_km

SAMPLES = 16
SHARES = (50, 90)
COSTS = ("seconds", "parameters", "ms", "lr")
DENSITY_COLUMNS = (
    "nats over uniform", "less LocDiffusion's", "bits per dimension", "50 % regions hold", "90 % regions hold",
    "energy score, km", "precision", "recall", "density", "coverage",
)  # fmt: skip


def of_posteriors(posteriors, truth, places=None):
    """Return `each`, `log_prob`, `rank` and `samples` of posteriors, an iterable of (position of the first, posterior),
    for the true locations (n, 2); and `ms`, the time a picture that posteriors and best places took.

    The best places are by the posteriors of LocDiffusion or by the Densities of a family that predicts `places` (n, 2).
    """
    parts, took, started = [], 0.0, time.perf_counter()
    for start, posterior in posteriors:
        some = slice(start, start + len(posterior))
        own, each = truth[some], _best_within(posterior, start, places[some] if places is not None else None)
        took += time.perf_counter() - started
        parts.append({
            "each": each, "log_prob": posterior.log_prob(own), "rank": posterior.rank(own, 0, start),
            "samples": posterior.sample(SAMPLES, 0, start),
        })  # fmt: skip
        started = time.perf_counter()
    found = {name: torch.cat([part[name] for part in parts]).double().numpy() for name in parts[0]}
    return found | {"ms": 1e3 * took / len(truth)}


def _best_within(posterior, start, places):
    """Return the best places for each column, (n, thresholds, 2)."""
    if isinstance(posterior, Densities):
        return posterior.best_within(places, 1, start)
    return torch.stack([place for place, _ in posterior.best_within().values()], dim=1)


def measure(found, truth):
    """Return what is kept of a method's predictions, NaN where there is none: `hits` (n, thresholds) of its places,
    `best` (n, thresholds) of those for each column, the distance `km` (n,) of its places, `nats` over the uniform
    density (n,), `rank` (n,), the `energy` score (n,) in km, `prdc` (4,).
    """
    nothing = np.full(len(truth), np.nan)
    places = torch.as_tensor(found["places"] if "places" in found else found["each"])
    best = metrics.hits(torch.as_tensor(found["each"]), truth).numpy() if "each" in found else None
    distance = torch.from_numpy(nothing)
    if "places" in found:  # what is not finite is infinitely far
        distance = great_circle_km(torch.as_tensor(found["places"]), truth).nan_to_num(math.inf)
    samples = torch.as_tensor(found["samples"]) if "samples" in found else None
    prdc = density_metrics.manifold_metrics(samples[:, 0], truth).values() if samples is not None else [np.nan] * 4
    return {
        "hits": metrics.hits(places, truth).numpy(),
        "best": np.full((len(truth), len(report.KM)), np.nan) if best is None else best.astype(float),
        "km": distance.numpy(),
        "nats": found["log_prob"] + math.log(4 * math.pi) if "log_prob" in found else nothing,
        "rank": found.get("rank", nothing),
        "energy": nothing if samples is None else coverage.energy_scores(samples, truth).numpy(),
        "prdc": np.array(list(prdc)),
    } | {name: float(found.get(name, np.nan)) for name in COSTS}


def distance_rows(methods, groups=None):
    """Return the rows {method: measure} of the table of distances, as cells."""
    rows = []
    for name, one in methods.items():
        hits = [report.with_interval(*row) for row in 100 * report.estimate(one["hits"], groups)]
        km, score = one["km"], 5000 * np.exp(-one["km"] / metrics.GEOSCORE_SCALE_KM)
        far = [""] * 3 if np.isnan(km).all() else [f"{np.median(km):.0f}", f"{km.mean():.0f}", f"{score.mean():.0f}"]
        cost = [f"{one['seconds']:.0f}" if np.isfinite(one["seconds"]) else "",
                f"{one['parameters'] / 1e6:.1f}" if np.isfinite(one["parameters"]) else "",
                f"{one['lr']:g}" if np.isfinite(one["lr"]) else "",
                f"{one['ms']:.1f}" if np.isfinite(one["ms"]) else ""]  # fmt: skip
        rows.append([name, *hits, *far, *cost])
    return rows


def best_rows(methods, groups=None):
    """Return the rows {method: measure} of the table of the best places for each column, as cells."""
    known = {name: one["best"] for name, one in methods.items() if not np.isnan(one["best"]).all()}
    return [
        [name, *(report.with_interval(*row) for row in 100 * report.estimate(best, groups))]
        for name, best in known.items()
    ]


def density_rows(methods, ours, groups=None):
    """Return the rows {method: measure} of the table of densities, as cells; `ours` is the method that the others'
    likelihoods are compared with, on the same pictures."""
    rows = []
    for name, one in methods.items():
        cells = [""] * len(DENSITY_COLUMNS)
        if not np.isnan(one["nats"]).all():
            cells[0] = signed(report.estimate(one["nats"], groups), plus="")
            if name != ours:
                cells[1] = signed(report.estimate(one["nats"] - methods[ours]["nats"], groups))
            log_prob = torch.from_numpy(one["nats"]) - math.log(4 * math.pi)
            cells[2] = f"{density_metrics.bits_per_dimension(log_prob).mean():.2f}"
            held = coverage.coverage(torch.from_numpy(one["rank"]), groups)
            cells[3:5] = [report.with_interval(*held[f"coverage_{share}"]) for share in SHARES]
        if not np.isnan(one["energy"]).all():  # a picture without samples makes the mean NaN, and that is shown
            cells[5] = f"{np.nanmean(one['energy']):.0f}"
            cells[6:] = ["" if np.isnan(value) else f"{value:.2f}" for value in one["prdc"]]
        if any(cells):
            rows.append([name, *cells])
    return rows


def signed(numbers, plus="+"):
    """Return a mean with its interval as text: +1.20 [+1.00, +1.40]; numbers are (3,)."""
    mean, low, high = numbers
    return f"{mean:{plus}.2f} [{low:{plus}.2f}, {high:{plus}.2f}]"


def emphasize(header, rows, low_is_better=()):
    """Return the rows with the best cell of every column of numbers in bold, whoever's it is.

    A cell begins with its number. In the columns `low_is_better` the least is the best; columns that only say what
    something cost are left alone.
    """
    rows = [list(row) for row in rows]
    for k, name in enumerate(header):
        if not k or name in UNRATED:
            continue
        values = {i: float(row[k].split()[0]) for i, row in enumerate(rows) if row[k]}
        if len(set(values.values())) > 1:
            pick = min if name in low_is_better else max
            best = pick(values.values())
            for i in [i for i, value in values.items() if value == best]:
                rows[i][k] = f"**{rows[i][k]}**"
    return rows


UNRATED = (
    "training, s", "parameters, M", "learning rate", "ms a picture", "less LocDiffusion's", "50 % regions hold",
    "90 % regions hold",
)  # fmt: skip
