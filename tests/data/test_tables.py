"""Rows of tables: what a cell is in csv and in parquet, and what is a number."""

import math

import pyarrow
import pyarrow.parquet
import pytest

from locdiff.data.predicted_places import read_predictions
from locdiff.data.tables import cell_text, number, read_rows
from locdiff.errors import InputError


def by_name(header, path):
    """Choose the columns of these names, and one that no table has."""
    return {name: header.index(name) if name in header else None for name in ("id", "lat", "none")}


def test_cells_are_text_of_csv_with_the_lines_they_stand_on(tmp_path):
    (tmp_path / "t.csv").write_text('lat,x,id\n 1.5,y,a\n\n,y,\n2,y\n"3\n","y",b\n')
    assert list(read_rows(tmp_path / "t.csv", by_name)) == [
        (2, {"id": "a", "lat": " 1.5", "none": None}, "."),
        (4, {"id": "", "lat": "", "none": None}, "."),  # blank
        (5, {"id": None, "lat": "2", "none": None}, "."),  # too short
        (7, {"id": "b", "lat": "3\n", "none": None}, "."),
    ]
    (tmp_path / "t.csv").write_text("1,5;y;a\n")
    rows = read_rows(tmp_path / "t.csv", by_name, header=["lat", "x", "id"])
    assert list(rows) == [(1, {"id": "a", "lat": "1,5", "none": None}, ",")]


def test_cells_are_values_of_parquet_and_blank_if_null_or_nan(tmp_path):
    columns = {"lat": [1.5, None, math.nan], "x": ["y"] * 3, "id": [7, 8, None], "none": [b"bytes"] * 3}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert list(read_rows(tmp_path / "t.parquet", by_name)) == [
        (1, {"id": 7, "lat": 1.5, "none": None}, "."),
        (2, {"id": 8, "lat": "", "none": None}, "."),
        (3, {"id": "", "lat": "", "none": None}, "."),
    ]


def test_a_column_may_be_chosen_twice(tmp_path):
    (tmp_path / "t.csv").write_text("id\na\n")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        ((_, cells, _),) = read_rows(tmp_path / name, lambda *_: {"id": 0, "again": 0})
        assert cells == {"id": "a", "again": "a"}


def test_empty_tables_have_no_rows_and_empty_files_no_columns(tmp_path):
    (tmp_path / "t.csv").write_text("id,lat\n")
    assert list(read_rows(tmp_path / "t.csv", by_name)) == []
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(InputError, match=r"t\.csv is empty"):
        list(read_rows(tmp_path / "t.csv", by_name))


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [
        (" 1.5 ", ".", 1.5), ("-1,5", ",", -1.5), ("-1.5", ",", -1.5), (7, ".", 7.0), ("", ".", math.nan),
        (None, ".", math.nan), ("x", ".", math.nan), ("1,5", ".", math.nan), ("inf", ".", math.nan),
        (math.inf, ",", math.nan), (10**400, ".", math.nan), ([1], ".", math.nan),
    ],
)  # fmt: skip
def test_a_number_is_finite_or_nan(cell, decimal, value):
    found = number(cell, decimal)
    assert found == value or (math.isnan(value) and math.isnan(found))


def test_the_text_of_a_cell():
    assert [cell_text(cell) for cell in (None, " a\t", 7, 1.5)] == ["", "a", "7", "1.5"]


def test_decimal_commas_are_read_in_predictions_too(tmp_path):
    (tmp_path / "p.csv").write_text("id;pred_lat;pred_lon\na;48,9;-2,45\n")
    assert read_predictions(tmp_path / "p.csv").lat_lon.tolist() == [[48.9, -2.45]]
