"""Tables of places: csv, tsv and parquet files under the column names of the field."""

import math
import sys
from array import array
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from locdiff.data.tables import cell_text, number, read_rows, refuse_duplicates
from locdiff.errors import InputError

COLUMNS = {  # usual names in the field's files, in lower case; MP-16, Im2GPS3k, YFCC26k, GeoCLIP, OSV-5M
    "id": (
        "id", "img_id", "image_id", "photo_id", "img_file", "filename", "file", "path", "image", "key", "name",
    ),
    "lat": ("lat", "latitude"),
    "lon": ("lon", "lng", "long", "longitude"),
    "author": ("author", "creator_id", "user", "owner"),
    "text": ("text",),
}  # fmt: skip
TABLES = {".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz"}
LIKE_RADIANS = 5  # places from which on a table is suspected


@dataclass
class Places:
    """n pictures: ids, places lat_lon (n, 2) in degrees, NaN where unknown, and authors, empty where unknown.

    `reasons` says why a place is unknown, by position, where that is known. `texts` are words in place of pictures.
    """

    ids: list
    lat_lon: np.ndarray
    authors: list
    reasons: dict = field(default_factory=dict)
    texts: list | None = None


def read_places(path, missing_is_nan=False, blank_is_nan=False, columns=None):
    """Return the places in a csv, tsv or parquet file with columns id, lat, lon (and author) under their usual names.

    `columns` names the columns of a csv or tsv file that has no header. A wrong or absent value raises InputError with
    its line, or, with `missing_is_nan`, makes the place NaN; so does, with `blank_is_nan`, a line with neither lat nor
    lon. Longitudes of 0 to 360 degrees are wrapped, which is said.
    """
    places, blank, lines = _read(path, columns, ("id", "lat", "lon"))
    _check(places, np.zeros_like(blank) if missing_is_nan else ~(blank & blank_is_nan), path, lines)
    refuse_duplicates(places.ids, path)
    return places


def read_locations(path):
    """Return the locations (n, 2) in degrees in a csv, tsv or parquet file with columns lat, lon.

    Raises InputError, with its line, for one that is missing or wrong, and for a file without any.
    """
    places, blank, lines = _read(path, None, ("lat", "lon"))
    _check(places, np.ones_like(blank), path, lines)
    if not len(places.lat_lon):
        raise InputError(f"{path} holds no places; write one a line, in the columns lat and lon")
    return places.lat_lon


def read_texts(path):
    """Return the texts in a csv, tsv or parquet file with a column text, with the ids and places where there are any.

    All ids are "" in a table without them. Wrong places raise InputError, as in `read_places`.
    """
    places, blank, lines = _read(path, None, ("text",))
    _check(places, ~blank, path, lines)
    if places.texts is None:
        raise InputError(f"{path} holds no texts; write one a line, in the column text")
    if any(places.ids):
        refuse_duplicates(places.ids, path)
    return places


def _read(path, names, needed):
    """Places, which of them are blank, and line numbers; the table has at least the columns `needed`."""
    ids, places, blank, authors, texts, lines = [], array("d"), array("b"), [], [], array("q")
    columns = read_rows(path, partial(_find_columns, needed=needed), names)
    rows = tqdm(columns, f"reading {Path(path).name}", unit=" lines", delay=2, leave=False)
    for line, cells, decimal in rows:
        pair = cells["lat"], cells["lon"]
        lat_lon = number(pair[0], decimal), number(pair[1], decimal)
        ids.append("" if cells["id"] is None else str(cells["id"]))
        places.extend(lat_lon)
        whole = "lat" not in needed or None not in pair
        blank.append(math.isnan(lat_lon[0]) and whole and not any(map(cell_text, pair)))
        authors.append(sys.intern(cell_text(cells["author"])))
        texts.append(cells["text"])
        lines.append(line)
    words = None if all(text is None for text in texts) else [cell_text(text) for text in texts]
    found = Places(ids, np.array(places).reshape(-1, 2), authors, texts=words)
    return found, np.array(blank, dtype=bool), lines


def _check(places, required, path, lines):
    """Refuse places that are not there where `required` (n) says so, and those that are no degrees."""
    wrong = np.isnan(places.lat_lon).any(axis=1) & required
    if wrong.any():
        line = lines[int(wrong.argmax())]
        raise InputError(f"{path}, line {line}: the place is missing or not a number; correct or remove the line")
    _check_degrees(places.lat_lon, path, lines)
    places.lat_lon[np.isnan(places.lat_lon).any(axis=1)] = math.nan


def _find_columns(header, path, needed):
    lowered = [name.strip().lower() for name in header]
    found = {key: next((lowered.index(n) for n in names if n in lowered), None) for key, names in COLUMNS.items()}
    absent = [key for key in needed if found[key] is None]
    if absent:
        columns = ("; for a table without a header give --columns id,lat,lon") * ("lat" in needed)
        raise InputError(
            f"{path}: no column for {', '.join(absent)} in the header {list(header)}; name it {', '.join(needed)}, "
            f"separated by comma, semicolon or tab{columns}"
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
