"""Embeddings folders: how they are read, split and refused."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.embeddings import write_folder

from locdiff.data.embeddings import _read_rows, read_embeddings, train_and_test
from locdiff.data.pictures import read_source
from locdiff.errors import InputError

GOOD = np.ones((3, 4), dtype=np.float16)


def test_an_embeddings_folder_is_read_by_memory_map_and_split(tmp_path):
    rows = np.arange(40, dtype=np.float16).reshape(10, 4)
    folder = write_folder(
        tmp_path / "a", rows, [f"p{i},{i},{2 * i}" for i in range(10)], json.dumps({"encoder": "clip"})
    )
    data = read_embeddings(folder)
    assert isinstance(data.embeddings, np.memmap) and data.encoder == "clip" and data.ids[3] == "p3"
    assert [len(part) for part in train_and_test(folder, holdout=0)] == [9, 1]
    train, test = train_and_test(folder, holdout=3, seed=5)
    assert sorted(train.ids + test.ids) == sorted(data.ids) and len(test) == 3
    for part in (train, test):
        embeddings, lat_lon = part.batch(range(len(part)))
        assert embeddings.dtype == torch.float32
        for name, row, place in zip(part.ids, embeddings, lat_lon, strict=True):
            i = int(name[1:])
            assert row.tolist() == rows[i].tolist() and place.tolist() == [i, 2 * i]


@pytest.mark.parametrize(
    ("embeddings", "lines", "meta", "message"),
    [
        (GOOD, ["a,1,2", "b,3,4"], None, "3 embeddings but 2 lines"),
        (GOOD, ["a,1,2", "b,120,4", "c,5,6"], None, r"locations.csv, line 3: \(120, 4\).*swapped"),
        (GOOD, ["a,1,2", "b,,4", "c,5,6"], None, "line 3: the place is missing"),
        (GOOD, ["a,1,2", "b,nan,4", "c,5,6"], None, "line 3: the place is missing"),
        (GOOD, ["a,1,2", "b,1"], None, "line 3: the place is missing"),
        (GOOD.astype(np.int64), ["a,1,2"] * 3, None, "need floating-point numbers .*int64"),
        (GOOD[:, None], ["a,1,2"] * 3, None, r"got \(3, 1, \d+\): remove the middle axis by array\[:, 0\]"),
        (GOOD[:0], [], None, "holds no embeddings"),
        (GOOD[:, :0], ["a,1,2"] * 3, None, r"got \(3, 0\)"),
        (GOOD[0], ["a,1,2"] * 4, None, r"numbers \(n, d\), got \(4,\)"),
        (np.array([{}], dtype=object), ["a,1,2"], None, "cannot read"),
        (GOOD, ["a,1,2", "b,3,4", "c,5,6"], "[]", "meta.json"),
    ],
)
def test_bad_embeddings_folders_are_refused_by_file_and_line(tmp_path, embeddings, lines, meta, message):
    folder = write_folder(tmp_path / "bad", embeddings, lines, meta)
    with pytest.raises(InputError, match=message) as error:
        train_and_test(folder, holdout=1)
    assert "bad" in str(error.value)


def test_pictures_without_a_place_are_left_out_of_training_and_said(tmp_path, capsys):
    folder = write_folder(tmp_path / "a", np.arange(12, dtype=np.float16).reshape(3, 4), ["a,1,2", "b,,", "c,5,6"])
    data = read_embeddings(folder)
    assert data.ids == ["a", "c"] and data.batch([1])[0].tolist() == [[8, 9, 10, 11]]
    assert data.lat_lon.tolist() == [[1, 2], [5, 6]] and "1 of 3 pictures have no place" in capsys.readouterr().err
    assert read_embeddings(folder, with_places=False).ids == ["a", "b", "c"]
    none = write_folder(tmp_path / "none", GOOD, ["a,,", "b,,", "c,,"])
    with pytest.raises(InputError, match="no picture has a place; embed the pictures with --places"):
        read_embeddings(none)


def test_rows_of_a_memory_map_are_the_arrays_own(tmp_path):
    values = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float16)
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for rows in ([], [4999], [3, 0, 3, 4999], range(5000)):
        rows = np.array(rows, dtype=np.int64)
        for array in (mapped, values):
            read = _read_rows(array, rows)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, values[rows].astype(np.float32))


def test_an_embedding_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    embeddings = GOOD.copy()
    embeddings[1, 2] = np.inf
    data = read_embeddings(write_folder(tmp_path / "a", embeddings, ["a,1,2", "b,3,4", "c,5,6"]))
    data.batch([0, 2])
    with pytest.raises(InputError, match="row 1"):
        data.batch([0, 1, 2])


def test_missing_files_and_impossible_splits_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder"):
        train_and_test(tmp_path / "nowhere", 1)
    folder = write_folder(tmp_path / "a", GOOD, ["a,1,2", "b,3,4", "c,5,6"])
    with pytest.raises(InputError, match="cannot hold out 3 of the 3"):
        train_and_test(folder, 3)
    (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:70])
    with pytest.raises(InputError, match=r"cannot read .*embeddings.npy"):
        read_embeddings(folder)


def test_photographers_are_kept_apart(tmp_path):
    """Thirty pictures by ten photographers; whole photographers are held out until there are enough pictures."""
    rows, header = np.ones((30, 4), np.float16), "id,lat,lon,author"
    lines = [f"p{i},{i},{2 * i},author {i // 3}" for i in range(30)]
    folder = write_folder(tmp_path / "a", rows, lines, header=header)
    learnt, held_out = train_and_test(folder, 4, seed=1, split="author")
    assert not set(learnt.authors) & set(held_out.authors) and len(held_out) == 6 and len(learnt) == 24
    assert sorted(learnt.ids + held_out.ids) == sorted(f"p{i}" for i in range(30))
    assert all(
        author == f"author {int(name[1:]) // 3}" for name, author in zip(learnt.ids, learnt.authors, strict=True)
    )
    others = {tuple(train_and_test(folder, 4, seed=seed, split="author")[1].ids) for seed in range(5)}
    assert len(others) > 1  # the seed chooses them
    with pytest.raises(InputError, match="leaves nothing to train on"):
        train_and_test(folder, 29, split="author")
    assert len(train_and_test(folder, 4, seed=1)[1]) == 4
    folder = write_folder(tmp_path / "b", rows, [*lines[:29], "p29,1,2,"], header=header)
    with pytest.raises(InputError, match="names no author for 1 of the pictures"):
        train_and_test(folder, 4, split="author")


def two_folders(folder, test):
    """A folder with train/ of three good embeddings, and test/ of these."""
    folder.mkdir()
    write_folder(folder / "train", GOOD, ["a,1,2", "b,3,4", "c,5,6"])
    write_folder(folder / "test", test, [f"{i},1,2" for i in range(len(test))])
    return folder


def test_held_out_pictures_that_cannot_be_scored_are_refused_before_training(tmp_path):
    broken = np.ones((2, 4), np.float16)
    broken[1, 2] = np.nan
    for name, test, message in (
        ("width", np.ones((2, 5), np.float16), r"train and .*test: the embeddings have 4 and 5 numbers each"),
        ("nan", broken, r"nan.test.embeddings.npy, row 1: the embedding holds NaN"),
        ("empty", GOOD[:0], r"empty.test.embeddings.npy holds no embeddings"),
    ):
        with pytest.raises(InputError, match=message):
            train_and_test(two_folders(tmp_path / name, test), 0)
    train, test = train_and_test(two_folders(tmp_path / "good", GOOD), 0)
    assert len(train) == len(test) == 3
    folder = write_folder(tmp_path / "one", np.full((20, 4), np.nan, np.float16), [f"{i},1,2" for i in range(20)])
    with pytest.raises(InputError, match=r"one.embeddings.npy, row \d+: the embedding holds NaN"):
        train_and_test(folder, 0)


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_that_is_closed_is_named(tmp_path):
    """To a user who may not look into it."""
    folder = write_folder(tmp_path / "closed", GOOD, ["a,1,2", "b,3,4", "c,5,6"])
    for path in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in path.parents:
            path.chmod(0o755)
    folder.chmod(0)
    before = os.geteuid()
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match=r"cannot read .*closed.embeddings.npy: .*Permission denied"):
            train_and_test(folder, 0)
        with pytest.raises(InputError, match=r"cannot read the folder .*closed: Permission denied"):
            read_source(folder)
    finally:
        os.seteuid(before)
