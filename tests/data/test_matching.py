"""Ids are matched up to folders, endings and the form of accented letters, and never twice."""

import pytest

from locdiff.data.matching import match_ids


@pytest.mark.parametrize(
    ("ids", "wanted", "expected"),
    [
        (["b", "a"], ["a", "b", "c"], [1, 0, None]),
        (["pics/a/x.jpg", "pics/b/x.jpg"], ["b/x.jpg", "a/x.jpg"], [1, 0]),  # as predict names those of a folder
        (["a/x.jpg", "b/x.jpg"], ["x.jpg"], [None]),  # which of the two?
        (["x.jpg"], ["a/x.jpg", "b/x.jpg"], [None, None]),
        (["x.jpg"], ["a/x.jpg", "x.jpg"], [None, 0]),
        (["pics/deep/x.jpg"], ["deep_x"], [0]),
        (["x"], ["x.jpg"], [0]),
        (["x.png"], ["x.jpg"], [0]),
        (["v1.2.jpg"], ["v1.2"], [0]),
        (["x.jpg", "x.png"], ["x.png", "x"], [1, None]),
        (["cafe\u0301.jpg"], ["caf\u00e9"], [0]),  # NFD, as macOS writes it, and NFC
        (["cafe\u0301", "caf\u00e9"], ["caf\u00e9", "cafe\u0301"], [1, 0]),
        (["z"], ["caf\u00e9"], [None]),
        (["a/x.jpg", "c/x.jpg", "b/x.png"], ["b/x.jpg"], [2]),  # the longest common end counts
        (["a/x.jpg", "a_x.jpg"], ["b/a/x.jpg", "a/x"], [None, None]),
        (["my_x.jpg"], ["x.jpg"], [None]),
        (["x.jpg", "y.jpg"], ["a/x.jpg", "a/y", "b/y"], [0, None, None]),
        ([], ["a"], [None]),
    ],
)
def test_ids_by_hand(ids, wanted, expected):
    assert match_ids(ids, wanted) == expected


def test_ids_that_name_two_are_told_from_those_that_name_none():
    several = set()
    ids = ["a/x.jpg", "b/x.jpg", "b/y.jpg", "z.png", "z.jpg"]
    assert match_ids(ids, ["x", "x.jpg", "y", "w", "c/z", "c/y.jpg"], several) == [None, None, None, None, None, None]
    assert several == {"x", "x.jpg", "c/z"}  # y.jpg is named twice, w never


def test_no_prediction_is_used_twice():
    ids = [f"{folder}/{i}.jpg" for folder in "ab" for i in range(50)]
    wanted = [f"{folder}/{i}" for folder in "abc" for i in range(50)]
    found = [i for i in match_ids(ids, wanted) if i is not None]
    assert sorted(found) == list(range(100))
