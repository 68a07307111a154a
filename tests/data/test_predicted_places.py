"""Predictions under the names and in the layouts of the field."""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from locdiff.data.predicted_places import read_predictions
from locdiff.errors import InputError


def read(path, text):
    path.write_text(text)
    found = read_predictions(path)
    return dict(zip(found.ids, found.lat_lon.tolist(), strict=True))


@pytest.mark.parametrize(
    "header",
    [
        "img_id,gt_lat,predicted_lat,gt_long,predicted_long,distance",
        "IMG_ID,LAT,LAT_pred,LON,LON_pred,d",
        "p_key,lat,pred_lat,lng,pred_lng,d",
        "key;true_lat;lat_predicted;true_lon;lon_predicted;d",
        "Id,target_latitude,Prediction Latitude,target_longitude,Prediction Longitude,d",
    ],
)
def test_the_predicted_columns_are_read_not_the_true_ones(tmp_path, header):
    comma = ";" if ";" in header else ","
    rows = [("a", 1, 10, 2, 20, 0), ("b", 3, 30, 4, 40, 0)]
    text = "\n".join([header, *(comma.join(map(str, row)) for row in rows)])
    assert read(tmp_path / "p.csv", text) == {"a": [10, 20], "b": [30, 40]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("id,gt_lat,gt_lon", "no column for lat, lon"),
        ("id,lat,lon,pred_lat", "only one of lat and lon is predicted"),
        ("number,lat,lon", "no column for id"),
    ],
)
def test_tables_without_predictions_are_refused(tmp_path, header, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / "p.csv", header + "\na,1,2,3\n")


def test_plain_names_are_predictions_where_there_are_no_others(tmp_path):
    assert read(tmp_path / "p.csv", "IMG_ID,LAT,LON\na,1,2\n") == {"a": [1, 2]}
    assert read(tmp_path / "p.tsv", "file\tlatitude\tlng\na\t1\t350\n") == {"a": [1, 350]}


def test_of_several_lines_of_a_picture_the_first_place_is_read(tmp_path):
    text = "id,prediction,lat,lon\na,place 1,1,2\na,place 2,3,4\na,within 25 km,5,6\nb,place 1,7,8\n"
    assert read(tmp_path / "p.csv", text) == {"a": [1, 2], "b": [7, 8]}
    lines = [{"id": "a", "places": [[1, 2], [3, 4]]}, {"id": "b", "places": []}, {"img_id": 7, "lat": 5, "lon": "6"}]
    found = read(tmp_path / "p.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert found["a"] == [1, 2] and np.isnan(found["b"]).all() and found["7"] == [5, 6]
    features = [
        {"geometry": {"type": "Point", "coordinates": [2, 1]}, "properties": {"id": "a", "prediction": "place 1"}},
        {"geometry": {"type": "Point", "coordinates": [4, 3]}, "properties": {"id": "a", "prediction": "place 2"}},
        {"geometry": {"type": "MultiPolygon", "coordinates": []}, "properties": {"id": "a"}},
        {"geometry": {"type": "Point", "coordinates": [6, 5]}, "properties": None, "id": "b"},
        {"geometry": None, "properties": {"id": "c"}},
    ]
    found = read(tmp_path / "p.geojson", json.dumps({"type": "FeatureCollection", "features": features}))
    assert found["a"] == [1, 2] and found["b"] == [5, 6] and np.isnan(found["c"]).all()


def test_parquet_is_read_by_its_columns(tmp_path):
    columns = {"id": ["a", "b"], "pred_lat": [1.5, None], "pred_lon": [2.0, 3.0], "lat": [9.0, 9.0], "lon": [9.0, 9.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    found = read_predictions(tmp_path / "p.parquet")
    assert found.ids == ["a", "b"] and found.lat_lon[0].tolist() == [1.5, 2] and np.isnan(found.lat_lon[1]).all()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", "{", "p.jsonl, line 1: no JSON"),
        ("p.jsonl", "[1, 2]", "line 1: need"),
        ("p.geojson", "[]", "need a GeoJSON FeatureCollection"),
        ("p.geojson", '{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}', "has no id"),
        ("p.csv", "id,lat,lon\na,1,2\na,1,2\n", "stands on 2 lines"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, text)
