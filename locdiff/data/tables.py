"""Tables in csv, tsv and parquet files, row by row: the cells of the columns that are wanted."""

import csv
import gzip
import math
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from locdiff.errors import InputError


def read_rows(path, choose, header=None):
    """Yield (line, {key: cell}, decimal) of the rows of a csv, tsv or parquet file, which may be packed by gzip.

    The cells are those of the columns choose(names, path), {key: position or None}: text of csv, values of parquet,
    "" where a cell is blank, and None where there is no such column or the row is too short for it. `header` names the
    columns of a csv file without one. `decimal` is the decimal point of the numbers: a comma where another delimiter
    leaves it free. Raises InputError if the file cannot be read or is empty.
    """
    if Path(path).suffix.lower() == ".parquet":
        return _parquet_rows(path, choose)
    return _csv_rows(path, choose, header)


def number(cell, decimal="."):
    """Return a cell as a finite number; NaN for what is none."""
    try:
        value = float(cell.replace(decimal, ".") if isinstance(cell, str) else cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def cell_text(cell):
    """Return a cell as text without blanks around it; "" for none."""
    return "" if cell is None else str(cell).strip()


def refuse_duplicates(ids, path):
    """Raise InputError, with the path of the file, if an id is there twice."""
    hashes = np.sort(np.fromiter(map(hash, ids), np.int64, len(ids)))  # a set of millions of ids takes more memory
    if (hashes[1:] == hashes[:-1]).any():
        name, count = Counter(ids).most_common(1)[0]
        if count > 1:
            raise InputError(f"{path}: the id '{name}' stands on {count} lines; keep one{spreadsheet_hint(name)}")


def spreadsheet_hint(name):
    """Return what to do about an id like 4.7E+09, which a spreadsheet made of a long number; "" for others."""
    if not re.fullmatch(r"\d([.,]\d+)?[eE]\+?\d+", str(name)):
        return ""
    return f"; a spreadsheet has turned the id into '{name}': export the table anew with the ids as text"


def _csv_rows(path, choose, header):
    """The delimiter is the one of , ; and tab that the first line holds most of."""
    packed, columns = False, None
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b" or Path(path).suffix.lower() == ".gz"
        with (gzip.open if packed else open)(path, "rt", newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(";\t,", key=first.count)  # the first of equals: 7;48,9;2,4 has as many commas
            reader = csv.reader(file, delimiter=delimiter)
            for row in reader:
                if columns is None:
                    columns, decimal = choose(header or row, path), "." if delimiter == "," else ","
                    if header is None:
                        continue
                if row:
                    cells = {key: row[i] if i is not None and i < len(row) else None for key, i in columns.items()}
                    yield reader.line_num, cells, decimal
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 ({error}); convert it, e.g. with iconv") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"cannot read {path}{' as gzip' * packed}: {error}") from None
    if columns is None:
        raise InputError(f"{path} is empty; it needs a header with id, lat, lon")


def _parquet_rows(path, choose):
    """Columns of bytes and nested ones have no names here; those that are not chosen are not read."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"cannot read {path}: parquet needs pip install pyarrow; or give a csv file") from None
    try:
        file, line = pyarrow.parquet.ParquetFile(path), 0
        plain = [
            f.name
            for f in file.schema_arrow
            if not (pyarrow.types.is_nested(f.type) or pyarrow.types.is_binary(f.type))
        ]
        columns = {key: None if i is None else plain[i] for key, i in choose(plain, path).items()}
        for batch in file.iter_batches(columns=list(dict.fromkeys(filter(None, columns.values())))):
            values = [_values(batch.column(name)) if name else [None] * len(batch) for name in columns.values()]
            for row in zip(*values, strict=True):
                line += 1
                yield line, dict(zip(columns, row, strict=True)), "."
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _values(column):
    """The cells of a column; "" for nulls and NaN."""
    return ["" if cell is None or cell != cell else cell for cell in column.to_pylist()]
