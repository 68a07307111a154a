"""A folder of photographs and no table: embed, train, predict and evaluate go by the places in the pictures."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from support.commands import outcome, succeed
from support.pictures import exif_bytes, gps, jpeg, photographs

from locdiff import embed, evaluate, predict, train
from locdiff.data.embeddings import read_embeddings

THUMBNAIL = ["--encoder", "thumbnail-16", "--workers", "0", "--device", "cpu"]
PARIS, SYDNEY, NEW_YORK, RIO = (48.8584, 2.2945), (-33.8568, 151.2153), (40.6892, -74.0445), (-22.9519, -43.2105)
ELSEWHERE = [(89.9, 0.0), (-89.9, 77.0), (10.0, 180.0), (-10.0, -179.99), (0.0, 50.0), (30.0, 0.0), (5.5, -0.25)]
PLACES = np.array([PARIS, SYDNEY, NEW_YORK, RIO, *ELSEWHERE, (60.0, 100.0), (-50.0, -70.0), (35.0, 139.0)])
UNPLACED = {
    "broken.jpg": "EXIF GPS: the latitude (0/0, 0/0, 0/0) is no number",
    "nowhere.jpg": "no GPS in its EXIF data",
    "null.jpg": "EXIF GPS: (0, 0), which cameras write that know no place",
}


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def source(tmp_path):
    """A folder of 14 photographs with places in all four quarters of the Earth, and three without any."""
    photographs(tmp_path / "photographs", PLACES)
    no_numbers = gps(*PARIS) | {2: [(0, 0), (0, 0), (0, 0)]}
    exif = {"broken.jpg": exif_bytes(gps=no_numbers), "nowhere.jpg": b"", "null.jpg": exif_bytes(gps=gps(0, 0))}
    for name, data in exif.items():
        (tmp_path / "photographs" / name).write_bytes(jpeg(exif=data))
    return tmp_path / "photographs"


@pytest.fixture
def data(source, tmp_path, capsys):
    """The photographs embedded."""
    out, err = succeed(embed.main, [str(source), str(tmp_path / "data"), *THUMBNAIL], capsys)
    assert out.startswith("17 embeddings of 768 numbers by thumbnail-16")
    assert "found 17 pictures\nused 17\nwithout a place 3: broken.jpg (EXIF GPS: the latitude" in err
    return tmp_path / "data"


def test_the_places_are_those_in_the_pictures(data):
    names = sorted([*UNPLACED, *(f"IMG_{i}.jpg" for i in range(14))])
    assert [row["id"] for row in rows(data / "locations.csv")] == names
    assert {row["id"]: row["reason"] for row in rows(data / "without_place.csv")} == UNPLACED
    found = read_embeddings(data)
    assert len(found) == 14 and len(read_embeddings(data, with_places=False)) == 17
    np.testing.assert_allclose(found.lat_lon, PLACES[[int(name[4:-4]) for name in found.ids]], atol=2e-6)


def test_a_folder_of_photographs_is_learnt_located_and_scored(source, data, tmp_path, capsys, undrawn, small_galleries):
    run, table = tmp_path / "run", tmp_path / "p.csv"
    settings = ["--preset", "smoke", "--steps", "3", "--holdout", "4", "--device", "cpu"]
    _, err = succeed(train.main, [*settings, "--data", str(data), "--out", str(run)], capsys)
    assert "3 of 17 pictures have no place and are left out" in err
    assert json.loads((run / "metrics.json").read_text())["held_out"] == 4

    (source / "notes.txt").write_text("")
    options = ["--samples", "0", "--device", "cpu", "--workers", "0"]
    _, err = succeed(predict.main, [str(run), str(source), *options, "--out", str(table)], capsys)
    assert "found 17 pictures\nused 17\nignored 1 .txt: notes.txt\n" in err
    located = rows(table)
    assert [row["id"] for row in located] == [f"{source}/{row['id']}" for row in rows(data / "locations.csv")]
    assert all(abs(float(row["lat"])) <= 90 and abs(float(row["lon"])) <= 180 for row in located)

    succeed(evaluate.main, [str(run), "--data", str(data), "--device", "cpu"], capsys)
    assert json.loads((run / "metrics-data.json").read_text())["held_out"] == 14
    lines = [f"IMG_{i}.jpg,{lat},{lon}" for i, (lat, lon) in enumerate(PLACES)]
    (tmp_path / "truth.csv").write_text("\n".join(["id,lat,lon", *lines]))
    out, _ = succeed(evaluate.main, ["--predictions", str(table), "--truth", str(tmp_path / "truth.csv")], capsys)
    assert "matched 14 of 14 true places; missing 0; unknown 3 (" in out


def test_pictures_that_are_too_large_are_named_with_the_remedy(run, tmp_path, capsys):
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    argv = [str(run), str(tmp_path / "large.png"), "--device", "cpu", "--max-pixels", "1000"]
    code, said = outcome(predict.main, argv, capsys)
    assert code == 2 and "1 of 1 pictures could not be read" in said[-1]
    assert any("set --max-pixels 1200" in line for line in said)


def test_places_exif_goes_before_the_table_of_the_folder(tmp_path):
    photographs(tmp_path / "a", PLACES[:2])
    (tmp_path / "a/t.csv").write_text("IMG_0.jpg,1,2\n")
    embed.main([str(tmp_path / "a"), str(tmp_path / "exif"), *THUMBNAIL, "--places", "exif"])
    np.testing.assert_allclose(read_embeddings(tmp_path / "exif").lat_lon, PLACES[:2], atol=2e-6)
    (tmp_path / "a/t.csv").write_text("IMG_0.jpg,1,2\nIMG_1.jpg,,\n")
    embed.main([str(tmp_path / "a"), str(tmp_path / "table"), *THUMBNAIL, "--columns", "id,lat,lon"])
    assert read_embeddings(tmp_path / "table").lat_lon.tolist() == [[1, 2]]
    assert "IMG_1.jpg,its line in the table has no place" in (tmp_path / "table/without_place.csv").read_text()
