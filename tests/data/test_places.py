"""Tables of places, and what is wrong with them."""

import gzip
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


@pytest.mark.parametrize("name", ["key", "photo_id", "path", "image", "Photo_ID"])
@pytest.mark.parametrize(("lat", "lon"), [("LAT", "Lng"), ("Latitude", "LONG"), ("lat", "LON")])
def test_more_names_of_columns(tmp_path, name, lat, lon):
    (tmp_path / "t.csv").write_text(f"{lon},{name},{lat}\n2.4,a.jpg,48.9\n")
    places = read_places(tmp_path / "t.csv")
    assert places.ids == ["a.jpg"] and places.lat_lon.tolist() == [[48.9, 2.4]]


def test_packed_tables_are_read_and_named_if_they_cannot_be(tmp_path):
    data = gzip.compress(b"id,lat,lon\na,48.9,2.4\n")
    for name in ("t.csv.gz", "misnamed.csv"):
        (tmp_path / name).write_bytes(data)
        assert read_places(tmp_path / name).lat_lon.tolist() == [[48.9, 2.4]]
    for broken in (data[:-12], data[:10] + b"\xff" * 9, b"id,lat,lon\n"):
        (tmp_path / "bad.csv.gz").write_bytes(broken)
        with pytest.raises(InputError, match=r"cannot read .*bad.csv.gz as gzip"):
            read_places(tmp_path / "bad.csv.gz")


def test_decimal_commas_go_with_semicolons(tmp_path):
    (tmp_path / "t.csv").write_text("id;lat;lon\na;48,9;-2,45\nb;-1.5;3\n")
    assert read_places(tmp_path / "t.csv").lat_lon.tolist() == [[48.9, -2.45], [-1.5, 3]]


def test_longitudes_of_0_to_360_are_wrapped_and_said_once(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,48.9,2.4\nb,-10,302.5\nc,1,360\nd,1,180\n")
    assert read_places(tmp_path / "t.csv").lat_lon[:, 1].tolist() == [2.4, -57.5, 0, 180]
    assert capsys.readouterr().err.count("0 to 360 degrees") == 1
    for lines in ("a,1,-5\nb,1,200\n", "a,1,361\n", "a,95,200\n"):
        (tmp_path / "t.csv").write_text(f"id,lat,lon\n{lines}")
        with pytest.raises(InputError, match=r"is no \(lat, lon\) in degrees"):
            read_places(tmp_path / "t.csv")


def test_ids_that_a_spreadsheet_has_rounded_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("id,lat,lon\n4.7E+09,1,2\n4.7E+09,3,4\n")
    with pytest.raises(InputError, match=r"2 lines.*spreadsheet has turned the id into '4.7E\+09': .*ids as text"):
        read_places(tmp_path / "t.csv")


def test_values_that_look_like_radians_are_warned_of(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = [f"{i},{rng.uniform(-1.5, 1.5)},{rng.uniform(-3.1, 3.1)}" for i in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["id,lat,lon", *lines]))
    read_places(tmp_path / "t.csv")
    assert "are they radians?" in capsys.readouterr().err
    (tmp_path / "t.csv").write_text("\n".join(["id,lat,lon", *lines, "x,1.6,3"]))
    read_places(tmp_path / "t.csv")
    assert capsys.readouterr().err == ""


def test_tables_without_a_header_are_read_by_the_names_given(tmp_path):
    (tmp_path / "t.csv").write_text("x,2.4,a,48.9\ny,3,b,4\n")
    places = read_places(tmp_path / "t.csv", columns=["_", "lon", "id", "lat"])
    assert places.ids == ["a", "b"] and places.lat_lon.tolist() == [[48.9, 2.4], [4, 3]]
    with pytest.raises(InputError, match="for a table without a header give --columns id,lat,lon"):
        read_places(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("7;48,9;2,4\n")
    assert read_places(tmp_path / "t.csv", columns=["id", "lat", "lon"]).lat_lon.tolist() == [[48.9, 2.4]]


def test_parquet_is_read_by_columns(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({
        "image": [{"bytes": b"x", "path": "a"}] * 3, "key": ["a", "b", None],
        "lat": pyarrow.array([1.5, 2, 3], "float32"), "lng": ["2.5", None, "x"],
        "creator_id": ["ann", None, "bob"], "pixels": [b"x" * 1000] * 3,
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "t.parquet")
    asked = []
    batches = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        parquet.ParquetFile,
        "iter_batches",
        lambda self, columns: asked.extend(columns) or batches(self, columns=columns),
    )
    places = read_places(tmp_path / "t.parquet", missing_is_nan=True)
    assert sorted(asked) == ["creator_id", "key", "lat", "lng"]
    assert places.ids == ["a", "b", ""] and places.authors == ["ann", "", "bob"]
    assert places.lat_lon[0].tolist() == [1.5, 2.5] and np.isnan(places.lat_lon[1:]).all()
    with pytest.raises(InputError, match="line 2: the place is missing"):
        read_places(tmp_path / "t.parquet")


def test_lines_without_a_place_are_nan_if_that_is_asked_for(tmp_path):
    (tmp_path / "t.csv").write_text("id,lat,lon\na,,\nb,1,2\n")
    assert np.isnan(read_places(tmp_path / "t.csv", blank_is_nan=True).lat_lon[0]).all()
    for line in ("c,1,", "c,x,", "c"):
        (tmp_path / "t.csv").write_text(f"id,lat,lon\na,,\n{line}\n")
        with pytest.raises(InputError, match="line 3: the place is missing"):
            read_places(tmp_path / "t.csv", blank_is_nan=True)
