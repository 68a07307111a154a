"""Predicted places, whoever wrote them: the files of `predict`, and tables under the column names of the field."""

import json
import re
from pathlib import Path

import numpy as np

from locdiff.data.places import COLUMNS, Places
from locdiff.data.tables import cell_text, number, read_rows, refuse_duplicates
from locdiff.errors import InputError

IDS = tuple(dict.fromkeys((*COLUMNS["id"], "key", "p_key")))
PREDICTED = {"pred", "predicted", "prediction", "predictions"}
FIRST = ("place 1", "", None)  # values of `prediction` in the files of `predict`: of several lines the first place


def read_predictions(path) -> Places:
    """Return the predicted places in a csv, tsv, parquet, jsonl or geojson file, one for each id.

    Of the files of `predict` it is the first place of each picture. In a table with columns of predictions, such as
    `predicted_lat` or `LON_pred`, it is those, never the true places beside them. A place that is not finite or out of
    range is NaN. Raises InputError if the file cannot be read, has no such columns, or has an id twice.
    """
    kinds = {".jsonl": _json_lines, ".geojson": _features, ".json": _features}
    ids, rows = [], []
    for name, lat, lon in kinds.get(Path(path).suffix.lower(), _rows)(path):
        ids.append(name)
        rows.append((number(lat), number(lon)))
    lat_lon = np.array(rows, dtype=np.float64).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        wrong = ~np.isfinite(lat_lon).all(axis=1) | (np.abs(lat_lon[:, 0]) > 90)
        wrong |= (lat_lon[:, 1] < -180) | (lat_lon[:, 1] > 360)
    lat_lon[wrong] = np.nan
    refuse_duplicates(ids, path)
    return Places(ids, lat_lon, [""] * len(ids))


def find_columns(header, path):
    """Return the columns of id, lat, lon and, where there is one, of the kind of prediction, as positions or None.

    Names with the part "pred", "predicted" or "prediction" go before plain ones. Raises InputError if there are none.
    """
    lowered = [name.strip().lower() for name in header]
    parts = [set(re.split(r"[^a-z0-9]+", name)) for name in lowered]
    predicted = {
        key: next((i for i, p in enumerate(parts) if p & PREDICTED and p & set(COLUMNS[key])), None)
        for key in ("lat", "lon")
    }
    plain = {key: next((lowered.index(n) for n in COLUMNS[key] if n in lowered), None) for key in ("lat", "lon")}
    if None in predicted.values() and set(predicted.values()) != {None}:
        raise InputError(f"{path}: only one of lat and lon is predicted in the header {list(header)}")
    found = plain if None in predicted.values() else predicted
    found["id"] = next((lowered.index(n) for n in IDS if n in lowered), None)
    absent = [key for key, column in found.items() if column is None]
    if absent:
        raise InputError(
            f"{path}: no column for {', '.join(absent)} in the header {list(header)}; name it id, lat, lon, or "
            "predicted_lat, predicted_lon"
        )
    return found | {"prediction": lowered.index("prediction") if "prediction" in lowered else None}


def _rows(path):
    """Yield (id, lat, lon) of the rows of a table; of those that name a kind of prediction, of the first."""
    for _, cells, decimal in read_rows(path, find_columns):
        name, kind, *place = (cell_text(cells[key]) for key in ("id", "prediction", "lat", "lon"))
        if (name or any(place)) and kind in FIRST:
            yield name, *(number(cell, decimal) for cell in place)


def _json_lines(path):
    """Yield (id, lat, lon) of lines {"id", "places": [[lat, lon], ...]} as predict writes them, or of flat lines."""
    for line, text in enumerate(_text(path).splitlines(), 1):
        if not text.strip():
            continue
        record = _parsed(text, f"{path}, line {line}")
        if not isinstance(record, dict):
            raise InputError(f'{path}, line {line}: need {{"id": ..., "places": [[lat, lon], ...]}}, got {text[:80]}')
        if "places" in record:
            yield str(record.get("id", "")), *(_pair(record["places"][0] if record["places"] else None))
        else:
            keys = list(record)
            columns = find_columns(keys, f"{path}, line {line}")
            if columns["prediction"] is None or record[keys[columns["prediction"]]] in FIRST:
                yield str(record[keys[columns["id"]]]), *(record[keys[columns[axis]]] for axis in ("lat", "lon"))


def _features(path):
    """Yield (id, lat, lon) of the points of a FeatureCollection whose prediction is the first place, or not named."""
    record = _parsed(_text(path), path)
    features = record.get("features") if isinstance(record, dict) else None
    if not isinstance(features, list):
        raise InputError(f"{path}: need a GeoJSON FeatureCollection with the property id")
    for feature in features:
        properties, geometry = feature.get("properties") or {}, feature.get("geometry") or {}
        if geometry.get("type", "Point") != "Point" or properties.get("prediction") not in FIRST:
            continue
        name = next((properties[key] for key in properties if key.lower() in IDS), feature.get("id"))
        if name is None:
            raise InputError(f"{path}: a point has no id; give each the property id")
        lon, lat = _pair(geometry.get("coordinates"))
        yield str(name), lat, lon


def _pair(values):
    return (values[0], values[1]) if isinstance(values, list) and len(values) >= 2 else (None, None)


def _text(path):
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _parsed(text, where):
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: no JSON: {error}") from None
