"""Files that are written whole or not at all."""

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


def written(path, text="new"):
    with files.atomic_path(path) as temporary:
        temporary.write_text(text)


def grown(path, text="new"):
    with files.growing_file(path) as file:
        file.write(text.encode())


WRITERS = pytest.mark.parametrize("write", [written, grown])


@WRITERS
def test_a_link_is_written_through(write, tmp_path):
    (tmp_path / "there").mkdir()
    for old in ("old", None):
        target, link = tmp_path / "there" / f"{old}.txt", tmp_path / f"{old}.txt"
        link.symlink_to(target)
        if old:
            target.write_text(old)
        write(link)
        assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["None.txt", "old.txt"]


@WRITERS
def test_a_pipe_or_device_is_written_to_and_not_replaced(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe")
    assert os.read(reader, 100) == b"new" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    (tmp_path / "null").symlink_to(os.devnull)
    write(tmp_path / "null")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@WRITERS
@pytest.mark.parametrize("name", ["folder", "absent/a.txt", "file/a.txt", "loop"])
def test_what_cannot_be_written_is_refused_before(write, name, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=f"cannot write .*{name}: "):
        write(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "loop"]


def tensors(path):
    with files.atomic_path(path) as temporary:
        save_file({"a": torch.zeros(1)}, temporary)


@pytest.mark.parametrize("write", [written, grown, tensors])
def test_a_new_file_has_the_usual_mode_and_an_old_one_keeps_its_own(write, tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(before)
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(0o604)
    write(tmp_path / "old")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old")] == [0o640, 0o604]


def test_what_has_grown_stays_where_there_was_nothing_and_beside_what_there_was(tmp_path, capsys):
    for name in ("new.csv", "old.csv"):
        if name == "old.csv":
            (tmp_path / name).write_text("old")
        with pytest.raises(KeyboardInterrupt), files.growing_file(tmp_path / name) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    assert (tmp_path / "new.csv").read_text() == "half" and (tmp_path / "old.csv").read_text() == "old"
    assert (tmp_path / "old.part.csv").read_text() == "half"
    said = capsys.readouterr().err
    assert "old.csv stays as it was" in said and "old.part.csv holds" in said and "new.csv" not in said
    grown(tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text() == "new" and not (tmp_path / "old.part.csv").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_device_is_an_error_of_the_users(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*full: .*No space left"):
        written(tmp_path / "full")


@pytest.mark.parametrize(("content", "message"), [(b"{", "as JSON"), (b"\xff", "not text"), (b"[" * 10**5, "as JSON")])
def test_json_that_is_none_is_refused_by_name(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.json .*{message}"):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"as JSON: .*directory"):
        files.read_json(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "absent")
