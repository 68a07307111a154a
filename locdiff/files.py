"""Files that are written whole or not at all, the cache folder, and the versions that a number depends on."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from safetensors import SafetensorError

from locdiff.errors import InputError

QUICK_GELU_TAGS = ("openai", "metaclip_400m", "metaclip_fullcc", "metaclip2_worldwide", "dfn2b", "dfn5b")
OPEN_CLIP_BEFORE = r"(ViT|RN\d|EVA|convnext|coca|roberta|xlm|nllb|mt5|MobileCLIP|vit_)[^:/]*/[^:/]+$"
REPORTED = ("numpy", "scipy", "healpy")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path to write to; at the end the result is moved to `path`.

    A full disk, an error or a kill leaves the old file as it was. Raises InputError if the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # of the disk, or of it as safetensors tells it
        raise InputError(f"cannot write {path}: {error}; see that the folder exists and has room") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path | str, record: object) -> None:
    """Write a record as indented JSON, whole or not at all. Raises InputError if the file cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def cache_folder() -> Path:
    """Return the folder of built data: $LOCDIFF_CACHE, else $XDG_CACHE_HOME/locdiff, else ~/.cache/locdiff."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LOCDIFF_CACHE") or Path(base) / "locdiff")


def cached(name: str, settings, more: bytes = b"") -> Path:
    """Return the cache's folder for the data of the dataclass `settings`, and of `more` bytes that they depend on."""
    key = json.dumps({"version": 1} | dataclasses.asdict(settings), sort_keys=True)
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
