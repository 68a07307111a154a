"""Tables of places: csv, tsv and parquet files under the column names of the field."""

import csv
import gzip
import math
import re
import sys
import zlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from locdiff.errors import InputError

COLUMNS = {  # usual names in the field's files, in lower case; MP-16, Im2GPS3k, YFCC26k, GeoCLIP, OSV-5M
    "id": (
        "id", "img_id", "image_id", "photo_id", "img_file", "filename", "file", "path", "image", "key", "name",
    ),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "long", "longitude"),
    "author": ("author", "creator_id", "user", "owner"),
}  # fmt: skip
TABLES = {".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz"}
LIKE_RADIANS = 5  # places from which on a table is suspected


@dataclass
class Places:
    """n pictures: ids, places lat_lon (n, 2) in degrees, NaN where unknown, and authors, empty where unknown.

    `reasons` says why a place is unknown, by position, where that is known.
    """

    ids: list
    lat_lon: np.ndarray
    authors: list
    reasons: dict = field(default_factory=dict)


def read_places(path, missing_is_nan=False, blank_is_nan=False, columns=None):
    """Return the places in a csv, tsv or parquet file with columns id, lat, lon (and author) under their usual names.

    `columns` names the columns of a csv or tsv file that has no header. A wrong or absent value raises InputError with
    its line, or, with `missing_is_nan`, makes the place NaN; so does, with `blank_is_nan`, a line with neither lat nor
    lon. Longitudes of 0 to 360 degrees are wrapped, which is said.
    """
    parquet = Path(path).suffix.lower() == ".parquet"
    ids, lat_lon, blank, authors, lines = _read_parquet(path) if parquet else _read_csv(path, columns)
    if not missing_is_nan:
        wrong = np.isnan(lat_lon).any(axis=1) & ~(blank & blank_is_nan)
        if wrong.any():
            line = lines[int(wrong.argmax())]
            raise InputError(f"{path}, line {line}: the place is missing or not a number; correct or remove the line")
    _check_degrees(lat_lon, path, lines)
    lat_lon[np.isnan(lat_lon).any(axis=1)] = math.nan
    _refuse_duplicates(ids, path)
    return Places(ids, lat_lon, authors)


def spreadsheet_hint(name):
    """Return what to do about an id like 4.7E+09, which a spreadsheet made of a long number; "" for others."""
    if not re.fullmatch(r"\d([.,]\d+)?[eE]\+?\d+", str(name)):
        return ""
    return f"; a spreadsheet has turned the id into '{name}': export the table anew with the ids as text"


def _read_csv(path, names):
    """Ids, places (n, 2), which of them are blank, authors and line numbers."""
    ids, places, blank, authors, lines, columns = [], array("d"), array("b"), [], array("q"), None
    decimal = "."
    for line, row, delimiter in tqdm(
        _csv_rows(path), f"reading {Path(path).name}", unit=" lines", delay=2, leave=False
    ):
        if columns is None:
            columns, decimal = _find_columns(names or row, path), "." if delimiter == "," else ","
            if names is None:
                continue
        if row:
            cells = {key: row[i].strip() if i is not None and i < len(row) else "" for key, i in columns.items()}
            ids.append(row[columns["id"]] if columns["id"] < len(row) else "")
            places.extend((_number(cells["lat"], decimal), _number(cells["lon"], decimal)))
            blank.append(cells["lat"] == cells["lon"] == "" and max(columns["lat"], columns["lon"]) < len(row))
            authors.append(sys.intern(cells["author"]))
            lines.append(line)
    if columns is None:
        raise InputError(f"{path} is empty; it needs a header with id, lat, lon")
    return ids, np.array(places).reshape(-1, 2), np.array(blank, dtype=bool), authors, lines


def _csv_rows(path):
    """Line numbers, cells and the delimiter: the one of , ; and tab that the first line holds most of."""
    packed = False
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b" or Path(path).suffix.lower() == ".gz"
        with (gzip.open if packed else open)(path, "rt", newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(";\t,", key=header.count)  # the first of equals: 7;48,9;2,4 has as many commas
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                yield reader.line_num, row, delimiter
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 ({error}); convert it, e.g. with iconv") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"cannot read {path}{' as gzip' * packed}: {error}") from None


def _read_parquet(path):
    """Ids, places (n, 2), which of them are blank, authors and row numbers; other columns are not read."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"cannot read {path}: parquet needs pip install pyarrow; or give a csv file") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
        plain = [
            f.name
            for f in file.schema_arrow
            if not (pyarrow.types.is_nested(f.type) or pyarrow.types.is_binary(f.type))
        ]
        columns = {key: None if i is None else plain[i] for key, i in _find_columns(plain, path).items()}
        ids, authors, parts = [], [], [np.empty((0, 2))]
        for batch in file.iter_batches(columns=[name for name in columns.values() if name]):
            ids += [_text(value) for value in batch.column(columns["id"]).to_pylist()]
            author = columns["author"]
            values = batch.column(author).to_pylist() if author else [None] * len(batch)
            authors += [sys.intern(_text(value)) for value in values]
            parts.append(np.stack([_numbers(batch.column(columns[key])) for key in ("lat", "lon")], axis=1))
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    lat_lon = np.concatenate(parts)
    return ids, lat_lon, np.isnan(lat_lon).all(axis=1), authors, range(1, len(ids) + 1)


def _text(value):
    return "" if value is None else str(value)


def _numbers(column):
    """A column of numbers as float64; strings one by one, since some may be none."""
    import pyarrow

    if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type):
        return np.array(column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False))
    return np.array([_number(_text(value), ".") for value in column.to_pylist()], dtype=np.float64)


def _number(text, decimal):
    """A finite number; NaN for what is none."""
    try:
        number = float(text.replace(decimal, "."))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _find_columns(header, path):
    lowered = [name.strip().lower() for name in header]
    found = {key: next((lowered.index(n) for n in names if n in lowered), None) for key, names in COLUMNS.items()}
    absent = [key for key, column in found.items() if column is None and key != "author"]
    if absent:
        raise InputError(
            f"{path}: no column for {', '.join(absent)} in the header {list(header)}; name it id, lat, lon, "
            "separated by comma, semicolon or tab; for a table without a header give --columns id,lat,lon"
        )
    return found


def _check_degrees(lat_lon, path, lines):
    """Wrap longitudes of 0 to 360 in place; refuse what cannot be degrees, and warn of what looks like radians."""
    lat, lon = lat_lon.T
    over = lon > 180
    if over.any() and np.nanmin(lon) >= 0 and np.nanmax(lon) <= 360 and not (np.abs(lat) > 90).any():
        print(f"{path}: longitudes of 0 to 360 degrees; those above 180 are taken as west", file=sys.stderr)
        lon[over] -= 360
    wrong = (np.abs(lat) > 90) | (np.abs(lon) > 180)
    if wrong.any():
        i = int(wrong.argmax())
        raise InputError(
            f"{path}, line {lines[i]}: ({lat[i]:g}, {lon[i]:g}) is no (lat, lon) in degrees; are the columns swapped?"
        )
    known = lat_lon[np.isfinite(lat_lon).all(axis=1)]
    small = np.abs(known) <= [math.pi / 2, math.pi]
    if len(known) >= LIKE_RADIANS and small.all() and (known % 1).any():
        print(f"{path}: all places are within (1.57, 3.14); are they radians? Degrees are needed", file=sys.stderr)


def _refuse_duplicates(ids, path):
    hashes = np.sort(np.fromiter(map(hash, ids), np.int64, len(ids)))  # a set of millions of ids takes more memory
    if (hashes[1:] == hashes[:-1]).any():
        name, count = Counter(ids).most_common(1)[0]
        if count > 1:
            raise InputError(f"{path}: the id '{name}' stands on {count} lines; keep one{spreadsheet_hint(name)}")
