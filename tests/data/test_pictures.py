"""Folders and archives of pictures: what is found in them, which place it has, and what is wrong with it."""

import io
import json
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image
from support.pictures import jpeg, tar

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


def test_tar_shards_carry_their_places(tmp_path):
    notes = {"latitude": 48.9, "LON": 2.4, "author": "ann"}
    tar(
        tmp_path / "0.tar",
        {"k1.jpg": jpeg(), "k1.json": json.dumps(notes).encode(), "k2.jpg": jpeg(), "k2.json": b"{}", "k3.jpg": jpeg()},
    )
    pictures, places = read_source(tmp_path)
    assert places.ids == ["k1.jpg", "k2.jpg", "k3.jpg"] and places.authors == ["ann", "", ""] and len(pictures) == 3
    assert places.lat_lon[0].tolist() == [48.9, 2.4] and np.isnan(places.lat_lon[1:]).all()
    notes = {"k4": b"{", "k5": b'{"lat": 91, "lon": 2}', "k6": b'{"lat": "x", "lon": 2}'}
    tar(tmp_path / "1.tar", {f"{k}.jpg": jpeg() for k in notes} | {f"{k}.json": note for k, note in notes.items()})
    _, places = read_source(tmp_path / "1.tar")
    assert np.isnan(places.lat_lon).all() and "json file cannot be read" in places.reasons[0]
    assert places.reasons[1] == "its json file has the place (91, 2)" and "(x, 2)" in places.reasons[2]


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


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(name, jpeg((40 * i, 90, 90)))


def test_members_of_the_same_name_in_two_archives_are_both_kept(tmp_path):
    (tmp_path / "1.jpg").write_bytes(jpeg())
    zipped(tmp_path / "a.zip", ["1.jpg", "x/2.jpg", "3.jpg"])
    (tmp_path / "deep").mkdir()
    tar(tmp_path / "deep/b.tar", {"x/2.jpg": jpeg((0, 0, 250)), "4.jpg": jpeg()})
    found, _ = find_pictures(tmp_path)
    assert list(found) == ["1.jpg", "a.zip/1.jpg", "a.zip/x/2.jpg", "3.jpg", "deep/b.tar/x/2.jpg", "4.jpg"]
    assert np.asarray(read_picture(found["deep/b.tar/x/2.jpg"]))[9, 9, 2] > 240
    ids = ["1.jpg", "a.zip/1.jpg", "x/2.jpg", "deep/b.tar/x/2.jpg", "3", "4.jpg", "2"]
    (tmp_path / "t.csv").write_text("id,lat,lon\n" + "".join(f"{i},1,2\n" for i in ids))
    pictures, _ = read_source(tmp_path)
    names = {picture: name for name, picture in found.items()}
    known = ["1.jpg", "a.zip/1.jpg", None, "deep/b.tar/x/2.jpg", "3.jpg", "4.jpg", None]
    assert [names.get(picture) for picture in pictures] == known
    with pytest.raises(ValueError, match="several pictures have this name: write it with its folder or archive"):
        read_picture(pictures[2])


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


@pytest.mark.parametrize("name", ["a.tgz", "a.tar.gz", "a.TAR.BZ2", "a.txz", "a.7z", "a.rar"])
def test_packed_archives_are_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{name}.*unpack it first"):
        find_pictures(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(jpeg())
    found, _ = find_pictures(tmp_path)
    assert list(found) == sorted([name, "b.jpg"]) and "unpack it first" in found[name].problem


def test_a_broken_archive_beside_others_is_a_failure_and_no_end(tmp_path):
    zipped(tmp_path / "good.zip", ["a.jpg"])
    (tmp_path / "bad.zip").write_bytes(b"PK nothing of the kind")
    tar(tmp_path / "evil.tar", {"../b.jpg": jpeg()})
    (tmp_path / "t.csv").write_text("id,lat,lon\na.jpg,1,2\n")
    pictures, places = read_source(tmp_path)
    assert places.ids == ["a.jpg", "bad.zip", "evil.tar"] and len(places.lat_lon) == len(places.authors) == 3
    for picture, message in zip(pictures[1:], ("bad.zip", "not to be trusted"), strict=True):
        with pytest.raises(ValueError, match=message):
            read_picture(picture)


def test_links_in_tar_archives_give_the_bytes_that_they_name(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x/1.jpg")
        info.size = len(jpeg())
        archive.addfile(info, io.BytesIO(jpeg()))
        for name, kind, target in (
            ("2.jpg", tarfile.LNKTYPE, "x/1.jpg"),
            ("x/3.jpg", tarfile.SYMTYPE, "1.jpg"),
            ("4.jpg", tarfile.LNKTYPE, "nowhere.jpg"),
            ("5.jpg", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    found, _ = find_pictures(tmp_path)
    assert found["2.jpg"] == found["x/3.jpg"] == found["x/1.jpg"] and read_picture(found["2.jpg"]).size == (40, 30)
    assert "a link to 'nowhere.jpg'" in found["4.jpg"].problem and "no regular file" in found["5.jpg"].problem


def test_a_tar_archive_that_breaks_off_gives_what_is_before_and_says_so(tmp_path):
    tar(tmp_path / "a.tar", {f"{i}.jpg": jpeg() for i in range(4)})
    whole = (tmp_path / "a.tar").read_bytes()
    third = whole.index(b"2.jpg")
    (tmp_path / "a.tar").write_bytes(whole[:third] + b"\xff" * 512 + whole[third + 512 :])
    found, _ = find_pictures(tmp_path)
    assert (
        list(found) == ["0.jpg", "1.jpg", "(the rest of a.tar)"]
        and "damaged at byte" in found["(the rest of a.tar)"].problem
    )
    (tmp_path / "a.tar").write_bytes(whole[: third + 700])
    found, _ = find_pictures(tmp_path)
    assert "0.jpg" in found and "to its end" in found["(the rest of a.tar)"].problem


def test_keys_of_samples_end_at_the_first_dot_and_have_no_case(tmp_path):
    note = json.dumps({"lat": 1, "lon": 2}).encode()
    members = {
        "k1.left.jpg": jpeg(),
        "k1.right.jpg": jpeg(),
        "k1.json": note,
        "a.b/K2.JPG": jpeg(),
        "a.b/k2.JSON": note,
    }
    tar(tmp_path / "0.tar", members | {"a.b/k3.jpg": jpeg()})
    tar(tmp_path / "1.tar", {"k4.jpg": jpeg(), "k1.json": json.dumps({"lat": 5, "lon": 6}).encode(), "k1.jpg": jpeg()})
    tally = Tally()
    _, places = read_source(tmp_path, tally=tally)
    assert dict(zip(places.ids, places.lat_lon[:, 0].tolist(), strict=True)) == pytest.approx(
        {"k1.left.jpg": 1, "k1.right.jpg": 1, "a.b/K2.JPG": 1, "a.b/k3.jpg": np.nan, "k4.jpg": np.nan, "k1.jpg": 5},
        nan_ok=True,
    )
    assert not tally.ignored


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
