"""Tables of places: csv, tsv and parquet files under the column names of the field."""

import csv
import math
import sys
from array import array
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from locdiff.errors import InputError

COLUMNS = {  # usual names in the field's files, in lower case; MP-16, Im2GPS3k, YFCC26k, GeoCLIP, OSV-5M
    "id": ("id", "img_id", "image_id", "img_file", "filename", "file", "name"),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "long", "longitude"),
    "author": ("author", "creator_id", "user", "owner"),
}
TABLES = {".csv", ".tsv", ".parquet"}


@dataclass
class Places:
    """n pictures: ids, places lat_lon (n, 2) in degrees, NaN where unknown, and authors, empty where unknown."""

    ids: list
    lat_lon: np.ndarray
    authors: list


def read_places(path, missing_is_nan=False):
    """Return the places in a csv, tsv or parquet file with columns id, lat, lon (and author) under their usual names.

    A wrong or absent value raises InputError with its line, or, with `missing_is_nan`, makes the place NaN.
    """
    ids, places, authors = [], array("d"), []
    rows = _parquet_rows(path) if Path(path).suffix == ".parquet" else _csv_rows(path)
    columns = None
    for line, row in tqdm(rows, f"reading {Path(path).name}", unit=" lines", delay=2, leave=False):
        if columns is None:
            columns = _find_columns(row, path)
        elif row:
            ids.append(row[columns["id"]] if columns["id"] < len(row) else "")
            places.extend(_read_place(row, columns, path, line, missing_is_nan))
            author = columns["author"]
            authors.append(sys.intern(row[author]) if author is not None and author < len(row) else "")
    if columns is None:
        raise InputError(f"{path} is empty; it needs a header with id, lat, lon")
    _refuse_duplicates(ids, path)
    return Places(ids, np.array(places).reshape(-1, 2), authors)


def _csv_rows(path):
    """Line numbers and cells; the delimiter is the one of , ; and tab that the header holds most of."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",\t;", key=header.count))
            for row in reader:
                yield reader.line_num, row
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 ({error}); convert it, e.g. with iconv") from None


def _parquet_rows(path):
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"cannot read {path}: parquet needs pip install pyarrow; or give a csv file") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    yield 0, table.column_names
    cells = ([("" if cell is None else str(cell)) for cell in column.to_pylist()] for column in table.columns)
    yield from enumerate(zip(*cells, strict=True), 1)


def _find_columns(header, path):
    lowered = [name.strip().lower() for name in header]
    found = {key: next((lowered.index(n) for n in names if n in lowered), None) for key, names in COLUMNS.items()}
    absent = [key for key, column in found.items() if column is None and key != "author"]
    if absent:
        raise InputError(
            f"{path}: no column for {', '.join(absent)} in the header {list(header)}; name it id, lat, lon, "
            "separated by comma, semicolon or tab"
        )
    return found


def _read_place(row, columns, path, line, missing_is_nan):
    try:
        lat, lon = float(row[columns["lat"]]), float(row[columns["lon"]])
    except (ValueError, IndexError):
        lat = lon = math.nan
    if abs(lat) > 90 or abs(lon) > 180:
        raise InputError(
            f"{path}, line {line}: ({lat:g}, {lon:g}) is no (lat, lon) in degrees; are the columns swapped?"
        )
    if math.isfinite(lat) and math.isfinite(lon):
        return lat, lon
    if not missing_is_nan:
        raise InputError(f"{path}, line {line}: the place is missing or not a number; correct or remove the line")
    return math.nan, math.nan


def _refuse_duplicates(ids, path):
    hashes = np.sort(np.fromiter(map(hash, ids), np.int64, len(ids)))  # a set of millions of ids takes more memory
    if (hashes[1:] == hashes[:-1]).any():
        name, count = Counter(ids).most_common(1)[0]
        if count > 1:
            raise InputError(f"{path}: the id '{name}' stands on {count} lines; keep one")
