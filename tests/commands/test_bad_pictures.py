"""One of every bad file ends no run: every good picture is embedded or located, and every bad one is named."""

import csv

import numpy as np
import pytest
from support.bad_pictures import BAD, GOOD, IGNORED, MAX_PIXELS, write_all
from support.commands import outcome

from locdiff import embed, predict
from locdiff.data import archives
from locdiff.data.embeddings import read_embeddings


@pytest.fixture(scope="module", autouse=True)
def without_heif():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "PICTURES", archives.PICTURES - {".heic"})
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    write_all(folder / "pictures", folder / "elsewhere")
    return folder / "pictures"


@pytest.fixture
def embedded(source, tmp_path, capsys):
    """The embeddings folder, and the exit code and the lines of the command."""
    argv = [str(source), str(tmp_path / "data"), "--encoder", "thumbnail-16", "--workers", "0", "--device", "cpu"]
    return tmp_path / "data", *outcome(embed.main, [*argv, "--max-pixels", str(MAX_PIXELS)], capsys)


def rows(path):
    with open(path, newline="") as file:
        return {row.pop("id"): row for row in csv.DictReader(file)}


def test_every_good_picture_is_embedded_and_placed(embedded):
    folder, code, _ = embedded
    found = read_embeddings(folder, with_places=False)
    assert code == 2 and sorted(found.ids) == sorted(GOOD)
    for name, place in zip(found.ids, found.lat_lon, strict=True):
        np.testing.assert_allclose(place, (np.nan, np.nan) if GOOD[name] is None else GOOD[name], atol=1e-5)
    assert found.embeddings.shape == (len(GOOD), 768) and np.isfinite(found.embeddings).all()


def test_every_bad_picture_is_named_with_the_reason(embedded):
    folder, _, _ = embedded
    found = rows(folder / "failures.csv")
    assert found.keys() == BAD.keys()
    for name, reason in BAD.items():
        assert reason in found[name]["reason"] and "cannot be prepared" not in found[name]["reason"], name


def test_pictures_without_a_place_are_named_with_the_reason(embedded):
    folder, _, _ = embedded
    found = rows(folder / "without_place.csv")
    assert found.keys() == {name for name, place in GOOD.items() if place is None}
    assert "latitude (0/0, 0/0, 0/0) is no number" in found.pop("nowhere.jpg")["reason"]
    assert {row["reason"] for row in found.values()} == {"no GPS in its EXIF data"}


def test_the_count_ends_the_command(embedded):
    _, _, said = embedded
    text = "\n".join(said)
    unplaced = sum(place is None for place in GOOD.values())
    counts = f"found {len(GOOD) + len(BAD)} pictures\nused {len(GOOD)}\nfailed {len(BAD)}: "
    assert counts in text and f"without a place {unplaced}: " in text
    for ending, name in IGNORED.items():
        assert any(line.startswith(f"ignored 1 {ending}") and line.endswith(f": {name}") for line in said), name
    assert "ignored 1 .heic (needs pip install pillow-heif)" in text
    assert "ignored 1 .dng (not supported: convert it to JPEG)" in text
    assert said[-1].startswith(f"error: {len(BAD)} pictures failed; ") and said[-1].endswith("failures.csv says why")


def test_predict_locates_the_good_and_names_the_bad(run, source, tmp_path, capsys):
    argv = [str(run), str(source), "--samples", "0", "--device", "cpu", "--out", str(tmp_path / "p.csv")]
    code, said = outcome(predict.main, [*argv, "--workers", "0", "--max-pixels", str(MAX_PIXELS)], capsys)
    assert code == 2 and rows(tmp_path / "p.csv").keys() == {f"{source}/{name}" for name in GOOD}
    for name, reason in BAD.items():
        prefix = f"cannot read the picture {source}/{name}: "
        assert any(line.startswith(prefix) and reason in line for line in said), name
    assert f"found {len(GOOD) + len(BAD)} pictures" in said and f"used {len(GOOD)}" in said
