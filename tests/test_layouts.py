"""Tables of places, folders and archives of pictures, and what is wrong with them."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locdiff.data.pictures import Picture, read_picture, read_source
from locdiff.data.places import read_places
from locdiff.errors import InputError

IM2GPS3K = os.environ.get("LOCDIFF_IM2GPS3K")  # im2gps3k_places365.csv, where there is one


def jpeg(color=(200, 30, 30), size=(40, 30), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "jpeg", **options)
    return buffer.getvalue()


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


# tables


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


# pictures


def test_a_folder_of_pictures_has_unknown_places(tmp_path):
    for name in ("b.jpg", "deep/er/a.JPG", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    pictures, places = read_source(tmp_path)
    assert places.ids == ["b.jpg", "deep/er/a.JPG"] and np.isnan(places.lat_lon).all()
    assert all(read_picture(picture).size == (40, 30) for picture in pictures)
    pictures, places = read_source(tmp_path / "b.jpg")
    assert places.ids == ["b.jpg"] and pictures == [Picture(str(tmp_path / "b.jpg"))]


def test_tables_are_matched_to_files_zips_and_tars(tmp_path):
    colors = {name: (40 * i, 100, 250 - 40 * i) for i, name in enumerate(["3f/aa/1.jpg", "x_y.jpg", "z.jpg", "t.jpg"])}
    (tmp_path / "3f/aa").mkdir(parents=True)
    (tmp_path / "3f/aa/1.jpg").write_bytes(jpeg(colors["3f/aa/1.jpg"]))
    (tmp_path / "x_y.jpg").write_bytes(jpeg(colors["x_y.jpg"]))
    with zipfile.ZipFile(tmp_path / "00.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("00/z.jpg", jpeg(colors["z.jpg"]))
    tar(tmp_path / "01.tar", {"./t.jpg": jpeg(colors["t.jpg"])})
    ids = ["3f/aa/1.jpg", "x/y.jpg", "z", "t.jpg", "absent"]
    (tmp_path / "places.csv").write_text("id,lat,lon\n" + "".join(f"{i},1,2\n" for i in ids))
    pictures, places = read_source(tmp_path)
    assert places.ids == ids and pictures[-1] == Picture(None)
    for picture, colour in zip(pictures, colours.values(), strict=False):
        assert np.abs(np.asarray(read_picture(picture))[15, 20].astype(int) - colour).max() < 6
    with pytest.raises(ValueError, match="no picture of this name"):
        read_picture(pictures[-1])


def test_a_name_that_two_pictures_share_matches_neither(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(jpeg())
    (tmp_path / "t.csv").write_text("id,lat,lon\n1.jpg,1,2\na/1.jpg,1,2\n")
    pictures, _ = read_source(tmp_path)
    assert pictures[0].path is None and pictures[1].path == str(tmp_path / "a/1.jpg")


def test_tar_shards_carry_their_places(tmp_path):
    notes = {"latitude": 48.9, "LON": 2.4, "author": "ann"}
    tar(
        tmp_path / "0.tar",
        {"k1.jpg": jpeg(), "k1.json": json.dumps(notes).encode(), "k2.jpg": jpeg(), "k2.json": b"{}", "k3.jpg": jpeg()},
    )
    pictures, places = read_source(tmp_path)
    assert places.ids == ["k1.jpg", "k2.jpg", "k3.jpg"] and places.authors == ["ann", "", ""] and len(pictures) == 3
    assert places.lat_lon[0].tolist() == [48.9, 2.4] and np.isnan(places.lat_lon[1:]).all()
    tar(tmp_path / "1.tar", {"k4.jpg": jpeg(), "k4.json": b"{"})
    with pytest.raises(InputError, match=r"json file of k4.jpg"):
        read_source(tmp_path)


def test_sources_that_hold_nothing_usable_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no pictures"):
        read_source(tmp_path)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "one.csv").write_text("id,lat,lon\nb,1,2\n")
    with pytest.raises(InputError, match=r"the first id is 'b', the first picture 'a.jpg'"):
        read_source(tmp_path)
    (tmp_path / "two.csv").write_text("id,lat,lon\n")
    with pytest.raises(InputError, match=r"several tables \(one.csv, two.csv\).*--places"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="holds no places"):
        read_source(tmp_path, tmp_path / "two.csv")


@pytest.mark.parametrize("name", ["../../evil.jpg", "/etc/evil.jpg"])
def test_archives_that_point_outside_are_refused(tmp_path, name):
    tar(tmp_path / "0.tar", {name: jpeg()})
    with pytest.raises(InputError, match="not to be trusted"):
        read_source(tmp_path / "0.tar")
    assert not (tmp_path.parent.parent / "evil.jpg").exists()


def test_broken_archives_are_named(tmp_path):
    for name in ("a.tar", "b.zip"):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 100)
        with pytest.raises(InputError, match=name):
            read_source(tmp_path / name)


def test_every_kind_of_picture_becomes_upright_rgb(tmp_path):
    red = Image.new("RGB", (40, 30), (200, 30, 30))
    sixteen = Image.fromarray(np.full((30, 40), 200 << 8, np.uint16))
    kinds = {
        "grey.png": (red.convert("L"), {}), "palette.png": (red.convert("P"), {}),
        "alpha.png": (red.convert("RGBA"), {}),
        "cmyk.jpg": (red.convert("CMYK"), {}), "bw.png": (red.convert("1"), {}), "deep.png": (sixteen, {}),
    }  # fmt: skip
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
        loaded = read_picture(Picture(str(tmp_path / name)))
        assert loaded.mode == "RGB" and loaded.size == (40, 30)
    assert (
        np.abs(np.asarray(read_picture(Picture(str(tmp_path / "cmyk.jpg"))))[9, 9].astype(int) - (200, 30, 30)).max()
        < 9
    )
    assert np.asarray(read_picture(Picture(str(tmp_path / "deep.png"))))[9, 9].tolist() == [200, 200, 200]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    red.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(Picture(str(tmp_path / "turned.jpg"))).size == (30, 40)


def test_what_is_no_picture_says_why(tmp_path, monkeypatch):
    whole = jpeg(size=(400, 300))
    for name, data, message in (
        ("empty.jpg", b"", "0 bytes"),
        ("cut.jpg", whole[: len(whole) // 2], "truncated"),
        ("text.jpg", b"hello", "not a picture"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            read_picture(Picture(str(tmp_path / name)))
    with pytest.raises(ValueError, match="No such file"):
        read_picture(Picture(str(tmp_path / "absent.jpg")))
    (tmp_path / "bomb.jpg").write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb"):
        read_picture(Picture(str(tmp_path / "bomb.jpg")))
    assert Path(tmp_path / "bomb.jpg").exists()
