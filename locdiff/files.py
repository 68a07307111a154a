"""Files that are written whole or not at all, the cache folder, and the versions that a number depends on."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError

from locdiff.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

QUICK_GELU_TAGS = ("openai", "metaclip_400m", "metaclip_fullcc", "metaclip2_worldwide", "dfn2b", "dfn5b")
OPEN_CLIP_BEFORE = r"(ViT|RN\d|EVA|convnext|coca|roberta|xlm|nllb|mt5|MobileCLIP|vit_)[^:/]*/[^:/]+$"
REPORTED = ("numpy", "scipy", "healpy")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end the result is moved to `path`, or to what a link there names.

    A full disk, an error or a kill leaves the old file as it was. The new one has its mode, or else the usual one.
    Devices and pipes are written to, not replaced. Raises InputError if the file cannot be written.
    """
    target = replaced_file(path)
    temporary = target and target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with _writing(path):
            if temporary is None:
                yield Path(path)
                return
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))  # safetensors makes a file that only its owner can read
            _replace(target, temporary)
    finally:
        with contextlib.suppress(OSError):
            if temporary:
                temporary.unlink()


@contextlib.contextmanager
def growing_file(path: Path | str) -> Iterator[BinaryIO]:
    """Yield a file to write bytes to, at once, whose beginning is of use even if the rest never comes.

    A new file is at `path` from the start. An old one is replaced at the end of the block; if an error ends it, the
    old file stays, and what was written lies beside it as NAME.part.ENDING, which is said. Raises InputError if the
    file cannot be made or replaced.
    """
    target = replaced_file(path)
    old = target is not None and target.exists()
    beside = target.with_name(f"{target.stem}.part{target.suffix}") if old else Path(path)
    with _writing(path):
        file = open(beside, "wb", buffering=0)
    with file:
        try:
            yield file
        except BaseException:
            if old:
                print(f"{path} stays as it was; {beside} holds what there was to write", file=sys.stderr)
            raise
    if old:
        with _writing(path):
            _replace(target, beside)


def _replace(target, new):
    """Put the file `new`, once it is on the disk, in the place of `target`; the mode of an old one stays."""
    if target.exists():
        shutil.copymode(target, new)
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    os.replace(new, target)


@contextlib.contextmanager
def _writing(path):
    """Raise InputError for an error of the disk, or of it as safetensors tells it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; see that the folder exists and has room") from error


def replaced_file(path: Path | str) -> Path | None:
    """Return the regular file that writing to `path` makes or replaces, links followed; None for a device or a pipe.

    Raises InputError if nothing can be written there: `path` is a folder, or its folder does not exist.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another file") from None
    target = Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot write {path}: it is a folder; give a file in it")
    if not target.parent.is_dir():
        raise InputError(f"cannot write {path}: {target.parent} is no folder; see that the folder exists")
    return target if stat.S_ISREG(mode) else None


@contextlib.contextmanager
def only_process(folder: Path | str, doing: str) -> Iterator[None]:
    """Hold `folder` for this process. Raises InputError if another one of this machine holds it; `doing` says why.

    The lock is the operating system's and ends with the process, however that ends. Where a system or a file system has
    no such locks, nothing is held.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"another process is {doing} {folder}: wait for it, or stop it first") from None
    except OSError:  # a network's file system
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def check_ending(path: Path | str, endings: tuple[str, ...]) -> None:
    """Raise InputError unless the file's name has one of these endings, in any case."""
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"cannot write {path}: the file's ending must be one of {', '.join(endings)}")


def write_json(path: Path | str, record: object) -> None:
    """Write a record as indented JSON, whole or not at all. Raises InputError if the file cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def read_json(path: Path | str) -> Any:
    """Return what a JSON file holds. Raises FileNotFoundError if there is none, and InputError if it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{path} is no JSON: it is not text") from None
    except (OSError, ValueError, RecursionError) as error:  # which deeply nested lists make
        raise InputError(f"cannot read {path} as JSON: {error}") from None


def cache_folder() -> Path:
    """Return the folder of built data: $LOCDIFF_CACHE, else $XDG_CACHE_HOME/locdiff, else ~/.cache/locdiff."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LOCDIFF_CACHE") or Path(base) / "locdiff")


def cached(name: str, settings, more: bytes = b"") -> Path:
    """Return the cache's folder for the data of the dataclass `settings`, and of `more` bytes that they depend on."""
    key = json.dumps({"version": 2} | dataclasses.asdict(settings), sort_keys=True)
    return cache_folder() / f"{name}-{hashlib.sha256(key.encode() + more).hexdigest()[:12]}"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make `folder` by build(temporary folder), which is renamed at the end; return it.

    All of the folder exists or nothing. Raises InputError if it cannot be written.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        build(unfinished)
        unfinished.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process was faster
            raise InputError(f"cannot write {folder}: {error}; choose a folder (LOCDIFF_CACHE) with room") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def versions() -> dict[str, str]:
    """Return the versions that a number depends on, and the commit if the program runs from a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = ""
    with contextlib.suppress(OSError):  # no git
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    own = {"locdiff": metadata.version("locdiffusion"), "commit": commit or "unknown"}
    own |= {"python": platform.python_version(), "torch": str(torch.__version__)}  # which names its build, as +cu130
    return own | {name: metadata.version(name) for name in REPORTED}


def canonical_encoder(name: str) -> str:
    """Return an encoder's name as it is written today.

    In files from before 0.2, names of open_clip's encoders had no prefix, and the models had GELU even where the
    weights were trained with QuickGELU: such embeddings are not those of the encoder that the name names today.
    """
    if not re.match(OPEN_CLIP_BEFORE, name):
        return name
    architecture, _, tag = name.partition("/")
    wrong = tag in QUICK_GELU_TAGS and not architecture.endswith("-quickgelu")
    return f"open_clip:{name}" + "+gelu" * wrong
