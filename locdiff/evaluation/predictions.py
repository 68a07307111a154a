"""Scores of anybody's predictions, matched to true places by id."""

import sys
from pathlib import Path

import numpy as np
import torch

from locdiff.data.matching import match_ids
from locdiff.data.places import Places, read_places
from locdiff.data.predicted_places import read_predictions
from locdiff.errors import InputError
from locdiff.evaluation import metrics
from locdiff.sphere.coordinates import great_circle_km

NAMED = 3  # ids that are named of each kind


def score_files(predictions: Path, truth: Path, columns: metrics.Columns = metrics.USUAL) -> dict[str, dict]:
    """Score a file of predictions against a table of true places; a place without a usable prediction is a miss.

    Prints how many are matched, missing, unknown and failed, and a warning if every distance is zero. Raises InputError
    if a file cannot be read, or if no id matches.
    """
    guesses, true = read_predictions(predictions), read_places(truth, blank_is_nan=True)
    known = np.isfinite(true.lat_lon).all(axis=1)
    if not known.all():
        print(f"{truth}: {(~known).sum():,} of {len(known):,} have no place and are left out", file=sys.stderr)
        true = Places([name for name, has in zip(true.ids, known, strict=True) if has], true.lat_lon[known], [])
    if not true.ids:
        raise InputError(f"{truth} holds no places")
    match = match_ids(guesses.ids, true.ids)
    if all(i is None for i in match):
        first = f"'{guesses.ids[0]}'" if guesses.ids else "(none)"
        raise InputError(
            f"no id of {predictions} stands in {truth}; the first are {first} in the one, '{true.ids[0]}' in the other"
        )
    lat_lon = np.stack([np.full(2, np.nan) if i is None else guesses.lat_lon[i] for i in match])
    _count(guesses.ids, true.ids, match, lat_lon)
    found, places = torch.from_numpy(lat_lon), torch.from_numpy(true.lat_lon)
    distance = great_circle_km(found, places)
    if not distance.nan_to_num(0).any() and distance.isfinite().any():
        print(
            f"warning: every distance is zero; are the places in {predictions} predictions, or the true ones?",
            file=sys.stderr,
        )
    return {Path(predictions).name: metrics.score(found, places, columns)}


def _count(ids, true_ids, match, lat_lon):
    """Print how many predictions are matched, missing, unknown and failed, and the first names of the last three."""
    known = set(match)
    kinds = {
        "missing": [name for name, i in zip(true_ids, match, strict=True) if i is None],
        "unknown": [name for i, name in enumerate(ids) if i not in known],
        "failed": [ids[i] for i, place in zip(match, lat_lon, strict=True) if i is not None and np.isnan(place).any()],
    }
    parts = [f"matched {len(true_ids) - len(kinds['missing']):,} of {len(true_ids):,} true places"]
    for kind, names in kinds.items():
        first = ", ".join(map(str, names[:NAMED])) + ", ..." * (len(names) > NAMED)
        parts.append(f"{kind} {len(names):,}" + f" ({first})" * bool(names))
    print("; ".join(parts) + "\n")
