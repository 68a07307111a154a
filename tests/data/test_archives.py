"""Zip and tar archives, and tar shards of samples: what is found in them, and what is wrong with them."""

import io
import json
import tarfile

import numpy as np
import pytest
from support.pictures import jpeg, tar, zipped

from locdiff.data.pictures import find_pictures, read_picture, read_source
from locdiff.data.tally import Tally
from locdiff.errors import InputError


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
