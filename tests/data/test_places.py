"""Tables of places, and what is wrong with them."""

import os

import numpy as np
import pytest

from locdiff.data.places import read_places
from locdiff.errors import InputError

IM2GPS3K = os.environ.get("LOCDIFF_IM2GPS3K")  # im2gps3k_places365.csv, where there is one


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mp16_places365.csv", "IMG_ID,AUTHOR,LAT,LON,S3_Label\n3f/aa/1.jpg,ann,48.9,2.4,7\n"),
        ("geoclip.csv", "IMG_FILE,LAT,LON\n3f/aa/1.jpg,48.9,2.4\n"),
        ("osv5m.csv", "id,latitude,longitude,country,creator_id\n3f/aa/1.jpg,48.9,2.4,FR,ann\n"),
        ("tabs.tsv", "id\tlat\tlon\n3f/aa/1.jpg\t48.9\t2.4\n"),
        ("semicolons.csv", "\ufeffid;lat;lon\n3f/aa/1.jpg;48.9;2.4\n"),
        ("windows.csv", "id,lat,lon\r\n3f/aa/1.jpg,48.9,2.4\r\n"),
    ],
)
def test_the_fields_tables_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    places = read_places(tmp_path / name)
    assert places.ids == ["3f/aa/1.jpg"] and places.lat_lon.tolist() == [[48.9, 2.4]]
    assert places.authors == ["ann" if "ann" in text else ""]


def test_parquet_is_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"id": [7, 8], "latitude": [48.9, -10.0], "longitude": [2.4, 170.0]})
    parquet.write_table(table, tmp_path / "t.parquet")
    places = read_places(tmp_path / "t.parquet")
    assert places.ids == ["7", "8"] and places.lat_lon.tolist() == [[48.9, 2.4], [-10.0, 170.0]]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"cannot read .*bad.parquet"):
        read_places(tmp_path / "bad.parquet")


@pytest.mark.skipif(not IM2GPS3K, reason="LOCDIFF_IM2GPS3K does not name im2gps3k_places365.csv")
def test_im2gps3k_is_read():
    places = read_places(IM2GPS3K)
    assert len(places.ids) == 2997 and np.isfinite(places.lat_lon).all() and all(places.authors)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"IMG_ID,LON,LAT\na,48.9,2.4\nb,-33.9,151.2\n", r"line 3: \(151.2, -33.9\).*swapped"),
        (b"id,lat,lon\na,1,2\nb,3,4\na,5,6\n", "the id 'a' stands on 2 lines"),
        (b"", "is empty"),
        (b"id|lat|lon\na|1|2\n", "no column for id, lat, lon.*comma, semicolon or tab"),
        (b"id,lat,lon\nM\xfcnchen,48.1,11.6\n", "not UTF-8.*iconv"),
        (b"id,lat,lon\na,,\n", "line 2: the place is missing"),
        (b"id,lat,lon\na,1\n", "line 2: the place is missing"),
        (b"id,lat,lon\na,nan,3\n", "line 2: the place is missing"),
    ],
)
def test_bad_tables_are_named_by_file_and_line(tmp_path, data, message):
    (tmp_path / "places.csv").write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_places(tmp_path / "places.csv")
    assert "places.csv" in str(error.value)


def test_places_are_read_under_their_usual_names(tmp_path):
    path = tmp_path / "p.csv"
    for header in (
        "id,lat,lon",
        "IMG_ID,LAT,LON",
        "Image_ID,Latitude,Longitude",
        "filename,Lat,LNG",
        "\ufeffid,lat,long",
    ):
        path.write_text(f"{header}\na/b.jpg,48.9,2.4\n", encoding="utf-8")
        found = read_places(path)
        assert found.ids == ["a/b.jpg"] and found.lat_lon.tolist() == [[48.9, 2.4]]
    path.write_text("id,x,y\na,1,2\n")
    with pytest.raises(InputError, match="no column for lat, lon"):
        read_places(path)
    path.write_text("LON,id,LAT\n2.4,a,48.9\nNaN,b,1\n,c,\nx,d,2\n")
    found = read_places(path, missing_is_nan=True)
    assert found.lat_lon[0].tolist() == [48.9, 2.4] and np.isnan(found.lat_lon[1:]).all()
    assert found.ids == ["a", "b", "c", "d"]
