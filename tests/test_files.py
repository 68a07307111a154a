"""Files that are written whole or not at all."""

import dataclasses
import json

import pytest

from locdiff import files
from locdiff.errors import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with pytest.raises(InputError, match="No space left"), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match=r"cannot write .*see that the folder exists"):
        files.write_json(tmp_path / "absent" / "a.json", {})


def test_a_write_replaces_the_file_at_its_end(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    files.write_json(path, {"a": [1, 0.1]})
    assert json.loads(path.read_text()) == {"a": [1, 0.1]} and list(tmp_path.iterdir()) == [path]


@dataclasses.dataclass
class Settings:
    views: int = 3


def test_a_folder_of_the_cache_is_built_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path / "cache"))
    folder = files.cached("views", Settings())
    assert folder.parent == tmp_path / "cache" and folder == files.cached("views", Settings())
    assert len({folder, files.cached("views", Settings(4)), files.cached("views", Settings(), b"more")}) == 3

    def fail(unfinished):
        (unfinished / "half").write_text("")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"No space left.*LOCDIFF_CACHE"):
        files.build_once(folder, fail)
    assert list(folder.parent.iterdir()) == []
    assert files.build_once(folder, lambda unfinished: (unfinished / "whole").write_text("")) == folder
    assert [path.name for path in folder.iterdir()] == ["whole"] and list(folder.parent.iterdir()) == [folder]
    files.build_once(folder, lambda unfinished: (unfinished / "other").write_text(""))  # another process was faster
    assert [path.name for path in folder.iterdir()] == ["whole"] and list(folder.parent.iterdir()) == [folder]
