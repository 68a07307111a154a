"""Folders and archives of pictures: what is found in them, which place it has, and what is wrong with it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.pictures import jpeg, tar

from locdiff.data.pictures import Picture, read_picture, read_source
from locdiff.errors import InputError


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
    for picture, color in zip(pictures, colors.values(), strict=False):
        assert np.abs(np.asarray(read_picture(picture))[15, 20].astype(int) - color).max() < 6
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
    cmyk, deep = (np.asarray(read_picture(Picture(str(tmp_path / name))))[9, 9] for name in ("cmyk.jpg", "deep.png"))
    assert np.abs(cmyk.astype(int) - (200, 30, 30)).max() < 9 and deep.tolist() == [200, 200, 200]
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
