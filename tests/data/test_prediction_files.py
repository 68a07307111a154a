"""What the files of predictions hold, on predictions made by hand."""

import csv
import json

import healpy
import numpy as np
import pytest

from locdiff.data.prediction_files import open_exiftool, open_output
from locdiff.pipeline import Prediction


def prediction(places=((10.0, 20.0), (-33.0, -70.5)), probabilities=(0.75, 0.25), **changes):
    values = {
        "places": [list(place) for place in places], "probabilities": list(probabilities),
        "within": {1: (10.0, 20.0, 0.01)}, "radius_50_km": 120.0, "radius_90_km": 4000.0,
        "area_50_km2": 1.0, "area_90_km2": 2.0, "samples": [], "center": [np.nan, np.nan], "nside": 8,
        "pixels_50": healpy.query_disc(8, healpy.ang2vec(180, 0, lonlat=True), 0.2),
        "pixels_90": healpy.query_disc(8, healpy.ang2vec(0, 90, lonlat=True), 0.4),
    }  # fmt: skip
    return Prediction(**values | changes)


def written(path, *predictions, **options):
    with open_output(path, **options) as write:
        for name, one in predictions:
            write(name, one)
    return path.read_text()


def test_a_table_has_one_line_a_picture(tmp_path):
    one = prediction(places=[(1, 2)], probabilities=[1.0])
    text = written(tmp_path / "p.csv", ("a, b.jpg", prediction()), ("c", one), top_k=2)
    assert text.splitlines() == [
        "id,lat,lon,probability,radius_50_km,radius_90_km,lat_2,lon_2,probability_2",
        '"a, b.jpg",10.0000,20.0000,0.75,120,4000,-33.0000,-70.5000,0.25',
        "c,1.0000,2.0000,1,120,4000,,,",
    ]


def test_the_long_form_has_one_line_a_prediction(tmp_path):
    text = written(tmp_path / "p.csv", ("a", prediction()), top_k=2, long=True)
    assert text.splitlines() == [
        "id,prediction,lat,lon,probability,radius_50_km,radius_90_km",
        "a,place 1,10.0000,20.0000,0.75,120,4000",
        "a,place 2,-33.0000,-70.5000,0.25,,",
        "a,within 1 km,10.0000,20.0000,0.01,,",
    ]


def test_names_that_are_not_utf_8_are_written(tmp_path, capsys):
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    for ending in ("csv", "jsonl", "geojson"):
        assert "udce9" in written(tmp_path / f"p.{ending}", (name, prediction()))
    with open_output(None) as write:
        write(name, prediction())
    assert "caf\\udce9.jpg" in capsys.readouterr().out


def test_geojson_has_the_regions_cut_at_the_antimeridian_and_up_to_the_pole(tmp_path):
    features = json.loads(written(tmp_path / "p.geojson", ("a", prediction()), ("b", prediction())))["features"]
    kinds = [(feature["properties"]["id"], feature["properties"]["prediction"]) for feature in features]
    own = ("place 1", "place 2", "within 1 km", "region of 50 %", "region of 90 %")
    assert kinds == [(name, kind) for name in "ab" for kind in own]
    half, most = (features[i]["geometry"] for i in (3, 4))
    assert half["type"] == most["type"] == "MultiPolygon" and len(half["coordinates"]) == 2
    one, other = (np.array(polygon[0])[:, 0] for polygon in half["coordinates"])
    assert one.mean() * other.mean() < 0 and max(np.ptp(one), np.ptp(other)) < 20
    assert np.array(most["coordinates"][0][0])[:, 1].max() == 90
    expected = {"id": "a", "prediction": "region of 90 %", "probability": 0.9, "area_km2": 2.0}
    assert features[4]["properties"] == expected


def test_json_lines_leave_out_pixels(tmp_path):
    record = json.loads(written(tmp_path / "p.jsonl", ("a", prediction())))
    assert record["places"] == [[10, 20], [-33, -70.5]] and record["center"] is None
    assert not any("pixels" in key or key == "nside" for key in record)


@pytest.mark.parametrize(
    ("place", "expected"),
    [((10, 20), ["10.000000", "N", "20.000000", "E"]), ((-33.5, -70.25), ["33.500000", "S", "70.250000", "W"])],
)
def test_exiftool_gets_degrees_and_hemispheres(tmp_path, place, expected):
    (tmp_path / "a.jpg").touch()
    with open_exiftool(tmp_path / "gps.csv", 0.5) as write:
        write(str(tmp_path / "a.jpg"), prediction(places=[place], probabilities=[0.51]))
        write(str(tmp_path / "a.jpg"), prediction(places=[place], probabilities=[0.5]))  # not above
        write("a street in Lisbon", prediction(places=[place], probabilities=[0.9]))  # no file
    header, *rows = csv.reader((tmp_path / "gps.csv").read_text().splitlines())
    assert header == ["SourceFile", "GPSLatitude", "GPSLatitudeRef", "GPSLongitude", "GPSLongitudeRef"]
    assert rows == [[str(tmp_path / "a.jpg"), *expected]]
