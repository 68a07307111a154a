"""Predictions as csv, JSON lines, GeoJSON or a table for exiftool, written picture by picture."""

import contextlib
import csv
import dataclasses
import errno
import io
import json
import os
import sys
from pathlib import Path

import numpy as np

from locdiff.data.region_polygons import multipolygon
from locdiff.errors import InputError
from locdiff.files import check_ending, growing_file

FORMATS = (".csv", ".jsonl", ".geojson")
LONG = ("id", "prediction", "lat", "lon", "probability", "radius_50_km", "radius_90_km")
WIDE = ("id", "lat", "lon", "probability", "radius_50_km", "radius_90_km")
EXIFTOOL = ("SourceFile", "GPSLatitude", "GPSLatitudeRef", "GPSLongitude", "GPSLongitudeRef")
PLACE, PROBABILITY, RADIUS = ".4f", ".3g", ".0f"  # how numbers are written in csv
PIXELS = ("nside", "pixels_50", "pixels_90")  # of a Prediction, for GeoJSON alone


def lines_of(name, prediction):
    """Yield the lines of a picture, as LONG; what a line has not is None."""
    for i, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1):
        radii = (prediction.radius_50_km, prediction.radius_90_km) if i == 1 else (None, None)
        yield name, f"place {i}", *place, probability, *radii
    for k, (lat, lon, probability) in prediction.within.items():
        yield name, f"within {k} km", lat, lon, probability, None, None
    if np.isfinite(prediction.center).all():
        yield name, f"centre of {len(prediction.samples)}", *prediction.center, None, None, None


def as_long_csv(name, prediction):
    """Return a line for each of `lines_of`."""
    formats = (PLACE, PLACE, PROBABILITY, RADIUS, RADIUS)
    lines = lines_of(name, prediction)
    return "".join(_csv_line([name, kind, *_cells(values, formats)]) for _, kind, *values in lines)


def as_wide_csv(name, prediction, top_k):
    """Return one line: the first location, as WIDE, and then lat, lon and probability of the others."""
    places = zip(prediction.places, prediction.probabilities, strict=True)
    (lat, lon, probability), *others = [(*place, probability) for place, probability in places]
    radii = _cells((prediction.radius_50_km, prediction.radius_90_km), (RADIUS, RADIUS))
    cells = [name, *_cells((lat, lon, probability), (PLACE, PLACE, PROBABILITY)), *radii]
    for other in others:
        cells += _cells(other, (PLACE, PLACE, PROBABILITY))
    return _csv_line(cells + [""] * (3 * top_k + 3 - len(cells)))


def _cells(values, formats):
    return ["" if value is None else format(value, f) for value, f in zip(values, formats, strict=True)]


def _csv_line(cells):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def as_json_line(name, prediction):
    """Return one line with all that a Prediction holds, but the pixels of its regions."""
    record = {"id": name} | dataclasses.asdict(prediction)
    for key in PIXELS:
        del record[key]
    if not np.isfinite(prediction.center).all():
        record["center"] = None
    return json.dumps(record, allow_nan=False) + "\n"


def as_features(name, prediction):
    """Return a point for each of `lines_of`, and the regions that hold 50 and 90 % as polygons."""
    features = []
    for _, kind, lat, lon, *values in lines_of(name, prediction):
        point = {"type": "Point", "coordinates": [round(lon, 5), round(lat, 5)]}
        features.append(_feature(point, {"id": name, "prediction": kind} | dict(zip(LONG[4:], values, strict=True))))
    regions = [(50, prediction.pixels_50, prediction.area_50_km2), (90, prediction.pixels_90, prediction.area_90_km2)]
    for share, pixels, area in regions:
        region = {"type": "MultiPolygon", "coordinates": multipolygon(prediction.nside, pixels)}
        values = {"id": name, "prediction": f"region of {share} %", "probability": share / 100, "area_km2": area}
        features.append(_feature(region, values))
    return ",\n".join(features)


def _feature(geometry, properties):
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": properties})


@contextlib.contextmanager
def open_output(path, top_k: int = 1, long: bool = False):
    """Yield a function write(name, prediction) into a file, in the format of its ending, or into the terminal.

    Csv has one line a picture with `top_k` locations, or, if `long`, a line a prediction. Each picture is written as it
    is predicted, and the file is whole whenever the block is left; an old file is replaced at the end, see
    `files.growing_file`. Raises InputError for an unknown ending, or if the file cannot be written.
    """
    ending = Path(path).suffix.lower() if path else ".csv"
    if path:
        check_ending(path, FORMATS)
    between = ""
    with _open_text(path) as put:
        if ending == ".csv":
            more = [f"{column}_{k}" for k in range(2, top_k + 1) for column in ("lat", "lon", "probability")]
            put(_csv_line(LONG if long else (*WIDE, *more)))
        elif ending == ".geojson":
            put('{"type": "FeatureCollection", "features": [\n')

        def write(name, prediction):
            nonlocal between
            if ending == ".csv":
                put(as_long_csv(name, prediction) if long else as_wide_csv(name, prediction, top_k))
            elif ending == ".jsonl":
                put(as_json_line(name, prediction))
            else:
                put(between + as_features(name, prediction))
                between = ",\n"

        try:
            yield write
        finally:
            put("\n]}\n" if ending == ".geojson" else "")


@contextlib.contextmanager
def open_exiftool(path, min_probability: float):
    """Yield a function write(name, prediction) into a csv file that `exiftool -csv=FILE` imports.

    It has the picture files whose first location has more than `min_probability`. Raises InputError if the file cannot
    be written.
    """
    with _open_text(path) as put:
        put(_csv_line(EXIFTOOL))

        def write(name, prediction):
            (lat, lon), probability = prediction.places[0], prediction.probabilities[0]
            if probability > min_probability and Path(name).is_file():  # no words, no members of archives
                lat_lon = f"{abs(lat):.6f}", "NS"[lat < 0], f"{abs(lon):.6f}", "EW"[lon < 0]
                put(_csv_line([name, *lat_lon]))

        yield write


@contextlib.contextmanager
def _open_text(path):
    """Yield put(text) into a file or, without a path, the terminal; each text is there when put returns."""
    name = path or "the standard output"

    def put(text):
        data = text.encode(errors="backslashreplace")  # names of files need not be UTF-8
        data = data if path else data.decode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"cannot write {name}: {error}; make room there, or choose another file") from None

    with growing_file(path) if path else contextlib.nullcontext(sys.stdout) as file:
        yield put
