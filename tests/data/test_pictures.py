"""Folders of pictures: what is found in them, which place it has, and what is wrong with it."""

import os
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image
from support.pictures import jpeg, tar, zipped

from locdiff.data import archives
from locdiff.data.pictures import Picture, find_pictures, read_picture, read_source
from locdiff.data.tally import Tally
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


def test_a_picture_belongs_to_one_line_of_the_table(tmp_path):
    """To the one with its own name, though the other ends alike."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(jpeg())
    (tmp_path / "t.csv").write_text("id,lat,lon\nb/1.jpg,1,2\na/1.jpg,3,4\n")
    pictures, _ = read_source(tmp_path)
    assert pictures == [Picture(None), Picture(str(tmp_path / "a/1.jpg"))]


def test_sources_that_hold_nothing_usable_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no pictures"):
        read_source(tmp_path)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "one.csv").write_text("id,lat,lon\nb,1,2\n")
    with pytest.raises(InputError, match=r"the ids begin with 'b', the pictures with 'a.jpg'"):
        read_source(tmp_path)
    (tmp_path / "two.csv").write_text("id,lat,lon\n")
    with pytest.raises(InputError, match=r"several tables \(one.csv, two.csv\).*--places"):
        read_source(tmp_path)
    with pytest.raises(InputError, match="holds no places"):
        read_source(tmp_path, tmp_path / "two.csv")


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


def test_what_is_no_picture_says_why(tmp_path):
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
    with pytest.raises(ValueError, match=r"400 x 300 pixels are more than 1,000; set --max-pixels 120000"):
        read_picture(Picture(str(tmp_path / "bomb.jpg")), max_pixels=1000)


def test_files_that_are_not_read_are_counted_by_ending(tmp_path):
    for name in ("a.jpg", "b.JFIF", "c.mpo", "d.dng", "e.DNG", "f.txt", "README", ".hidden.txt", "t.csv", "g.heic"):
        (tmp_path / name).write_bytes(jpeg())
    zipped(tmp_path / "a.zip", ["h.jpg", "i.heif", "notes/j.txt", ".k.jpg", "l.zip"])
    tally = Tally()
    found, _ = find_pictures(tmp_path, tally)
    assert {"a.jpg", "b.JFIF", "c.mpo", "h.jpg"} <= set(found) and tally.found == len(found)
    assert tally.ignored[".dng"].count == 2 and tally.ignored[".dng"].first == ["d.dng", "e.DNG"]
    assert tally.ignored[".txt"].first == ["f.txt", "a.zip/notes/j.txt"] and tally.ignored[""].first == ["README"]
    assert tally.ignored[".zip"].first == ["a.zip/l.zip"] and ".csv" not in tally.ignored
    assert "ignored 2 .dng (not supported: convert it to JPEG): d.dng, e.DNG" in str(tally)
    if ".heic" not in archives.PICTURES:
        assert "ignored 1 .heic (needs pip install pillow-heif): g.heic" in str(tally)


def test_only_pictures_that_cannot_be_read_say_what_they_need(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PICTURES", archives.READ)
    (tmp_path / "g.heic").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds no pictures .*ignored 1 .heic \(needs pip install pillow-heif\)"):
        find_pictures(tmp_path)


@pytest.mark.parametrize("ending", ["jp2", "avif", "jfif", "mpo", "heic"])
def test_pictures_of_other_formats_are_read(tmp_path, ending):
    kinds = {"jp2": "JPEG2000", "avif": "AVIF", "jfif": "JPEG", "mpo": "MPO", "heic": "HEIF"}
    if f".{ending}" not in archives.PICTURES or kinds[ending] not in Image.SAVE:
        pytest.skip(f"Pillow without {ending}")
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / f"a.{ending}", kinds[ending])
    pictures, _ = read_source(tmp_path)
    assert np.abs(np.asarray(read_picture(pictures[0]))[9, 9].astype(int) - (200, 30, 30)).max() < 9


def test_folders_behind_links_are_read_once_and_loops_end(tmp_path):
    (tmp_path / "in/deep").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    for name in ("in/a.jpg", "in/deep/b.jpg", "out/c.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "in/aa_link").symlink_to(tmp_path / "out")
    (tmp_path / "in/again").symlink_to(tmp_path / "out")
    (tmp_path / "in/aa_deep").symlink_to(tmp_path / "in/deep")
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    (tmp_path / "out/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found, _ = find_pictures(tmp_path / "in")
    assert sorted(found) == ["a.jpg", "aa_link/c.jpg", "deep/b.jpg", "gone.jpg"]


def test_folders_that_are_closed_are_failures(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(jpeg())
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(archives.os, "scandir", refuse)
    found, _ = find_pictures(tmp_path)
    assert list(found) == ["a.jpg", "closed"] and found["closed"].problem == "cannot open the folder: Permission denied"


def test_names_that_are_no_utf8_are_failures_under_a_name_that_can_be_written(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg"), "wb") as file:
        file.write(jpeg())
    found, _ = find_pictures(tmp_path)
    assert list(found) == ["caf\\xe9.jpg"] and "not UTF-8: rename it" in found["caf\\xe9.jpg"].problem


def test_ids_match_names_in_another_normal_form(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "Zürich/Café.jpg") for form in ("NFD", "NFC"))
    assert decomposed != composed
    (tmp_path / decomposed).parent.mkdir()
    (tmp_path / decomposed).write_bytes(jpeg())
    for name in (composed, "Café.jpg", "Café"):
        (tmp_path / "t.csv").write_text(f"id,lat,lon\n{name},1,2\n", encoding="utf-8")
        pictures, places = read_source(tmp_path)
        assert pictures == [Picture(str(tmp_path / decomposed))] and places.ids == [name]
    (tmp_path / "t.csv").write_text("id,lat,lon\nCäfé.jpg,1,2\n4.7E+09,1,2\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_source(tmp_path)
    assert r"('C\xe4f\xe9.jpg')" in str(error.value) and r"'Zu\u0308rich/Cafe\u0301.jpg'" in str(error.value)
    (tmp_path / "t.csv").write_text("id,lat,lon\n4.7E+09,1,2\nCafé,1,2\n", encoding="utf-8")
    pictures, _ = read_source(tmp_path)
    assert "a spreadsheet has turned the id into '4.7E+09'" in pictures[0].problem


def test_pictures_that_the_table_does_not_name_are_counted(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg())
    (tmp_path / "t.csv").write_text("id,lat,lon\n3.jpg,1,2\n")
    tally = Tally()
    pictures, _ = read_source(tmp_path, tally=tally)
    assert (
        len(pictures) == 1
        and tally.unlisted.count == 4
        and "not in the table 4: 0.jpg, 1.jpg, 2.jpg, ..." in str(tally)
    )
