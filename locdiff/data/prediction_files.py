"""Predictions as csv, JSON lines or GeoJSON, written picture by picture."""

import contextlib
import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np

from locdiff.errors import InputError

COLUMNS = ("id", "prediction", "lat", "lon", "probability", "radius_50_km", "radius_90_km")


def lines_of(name, prediction):
    """Yield the lines of a picture, as COLUMNS; what a line has not is None."""
    for i, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1):
        radii = (prediction.radius_50_km, prediction.radius_90_km) if i == 1 else (None, None)
        yield name, f"place {i}", *place, probability, *radii
    for k, (lat, lon, probability) in prediction.within.items():
        yield name, f"within {k} km", lat, lon, probability, None, None
    if np.isfinite(prediction.center).all():
        yield name, f"centre of {len(prediction.samples)}", *prediction.center, None, None, None


def as_csv(name, prediction):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    formats = (".4f", ".4f", ".3g", ".0f", ".0f")
    for _, kind, *values in lines_of(name, prediction):
        cells = ("" if value is None else format(value, f) for value, f in zip(values, formats, strict=True))
        writer.writerow([name, kind, *cells])
    return buffer.getvalue()


def as_json_line(name, prediction):
    record = {"id": name} | dataclasses.asdict(prediction)
    if not np.isfinite(prediction.center).all():
        record["center"] = None
    return json.dumps(record, allow_nan=False) + "\n"


def as_features(name, prediction):
    return ",\n".join(
        json.dumps({
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(lon, 5), round(lat, 5)]},
            "properties": {"id": name, "prediction": kind} | dict(zip(COLUMNS[4:], values, strict=True)),
        })
        for _, kind, lat, lon, *values in lines_of(name, prediction)
    )  # fmt: skip


FORMATS = {  # by the file's ending: how a picture is written, and what stands before, between and after
    ".csv": (as_csv, ",".join(COLUMNS) + "\n", "", ""),
    ".jsonl": (as_json_line, "", "", ""),
    ".geojson": (as_features, '{"type": "FeatureCollection", "features": [\n', ",\n", "\n]}\n"),
}


@contextlib.contextmanager
def open_output(path):
    """Yield a function write(name, prediction) into a file, in the format of its ending, or into the terminal.

    Each picture is written as it is predicted, and the file is whole whenever the block is left. Raises InputError for
    an unknown ending, or if the file cannot be written.
    """
    ending = Path(path).suffix.lower() if path else ".csv"
    if ending not in FORMATS:
        raise InputError(f"cannot write {path}: the file's ending must be one of {', '.join(FORMATS)}")
    turn, before, between, after = FORMATS[ending]
    written = 0

    def put(text):
        nonlocal written
        try:
            file.write(text.encode() if path else text)
            file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}; make room there, or choose another file") from None
        written += 1

    try:
        file = open(path, "wb", buffering=0) if path else sys.stdout
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; choose another file") from None
    with file if path else contextlib.nullcontext():
        put(before)
        try:
            yield lambda name, prediction: put((between if written > 1 else "") + turn(name, prediction))
        finally:
            put(after)
