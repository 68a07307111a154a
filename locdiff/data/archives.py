"""What folders, zip and tar archives hold, by name, and the bytes of it."""

import importlib.util
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

from locdiff.errors import InputError

READ = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
PACKED = {".tgz", ".tar.gz", ".tbz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".tar.zst", ".7z", ".rar"}
ARCHIVES = {".zip", ".tar", *PACKED}


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of a picture are: a file, a member of a zip archive, or (offset, size) in a tar archive.

    `path` is None for a picture that a table names and nothing holds. `problem` says why it cannot be read.
    """

    path: str | None
    member: str | tuple | None = None
    problem: str = ""


@dataclass
class Contents:
    """What a file holds: pictures by name, the json bytes beside some of them by the same name, and other names."""

    pictures: dict[str, Picture] = field(default_factory=dict)
    notes: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def _with_heif():
    """The endings of HEIF, if the package that reads it is there."""
    try:
        import pillow_heif
    except ImportError:
        return set()
    pillow_heif.register_heif_opener()
    return {".heic", ".heif", ".hif"}


def _with_avif():
    return {".avif"} if importlib.util.find_spec("PIL._avif") else set()  # Pillow's own way loads all its formats


PICTURES = READ | _with_avif() | _with_heif()


def walk(folder: str) -> Iterator[tuple[str, str]]:
    """Yield (path, "") of all files below a folder that are not hidden, and (path, reason) of folders that are closed.

    Symbolic links to folders are followed. Every folder is read once, by its own name before that of a link.
    """
    seen, folders, links = set(), [folder], []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            status, entries = os.stat(here), sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            yield here, f"cannot open the folder: {error.strerror}"
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif os.path.isdir(entry.path):
                links.append(entry.path)
            elif not entry.name.startswith("."):
                yield entry.path, ""


def ending(name: str) -> str:
    """Return the ending of a file name in lower case, with what was packed: .jpg, .tar.gz, .csv.gz."""
    stem, last = os.path.splitext(name.lower())
    before = os.path.splitext(stem)[1]
    return before + last if before in (".tar", ".csv", ".tsv") else last


def is_picture(name: str) -> bool:
    """Return whether a file of this name is read as a picture."""
    return ending(name) in PICTURES


def contents(path: str) -> Contents:
    """Return what a file holds: a picture itself, by its name, or those in an archive, by their names there.

    Raises InputError for an archive that cannot be read.
    """
    name, end = os.path.basename(path), ending(path)
    if is_picture(name):
        return Contents({name: Picture(path)})
    if end not in ARCHIVES:
        return Contents(others=[name])
    try:
        if end == ".zip":
            return _zip_contents(path)
        if end == ".tar":
            return _tar_contents(path)
    except InputError:
        raise
    except Exception as error:  # whatever damaged data make the libraries raise
        raise InputError(f"cannot read the archive {path}: {error}") from None
    raise InputError(f"cannot read the archive {path}: of those that are compressed only zip is read; unpack it first")


def _zip_contents(path):
    found = Contents()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir() and _visible(member.filename, path):
                if is_picture(member.filename):
                    found.pictures[member.filename] = Picture(path, member.filename)
                else:
                    found.others.append(member.filename)
    return found


def _tar_contents(path):
    found, places, notes = Contents(), {}, {}
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                if not member.isdir() and _visible(member.name, path):
                    _add_member(archive, path, member, found, places, notes)
                archive.members.clear()  # which would grow by a kB a member
            with open(path, "rb") as file:  # tarfile takes a damaged header for the end
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                    raise tarfile.ReadError(f"it is damaged at byte {archive.offset:,}")
    except (OSError, tarfile.TarError) as error:
        if not found.pictures:
            raise
        rest = f"(the rest of {os.path.basename(path)})"
        found.pictures[rest] = Picture(path, None, f"cannot read the archive to its end: {error}")
    for name in found.pictures:
        if _sample(name) in notes:
            found.notes[name] = notes[_sample(name)]
    return found


def _add_member(archive, path, member, found, places, notes):
    """Add a member of a tar archive; `places` holds where the bytes of the regular files are, for links to them."""
    name, end = member.name, ending(member.name)
    target = member.linkname if member.islnk() else posixpath.join(posixpath.dirname(name), member.linkname)
    if member.isfile():
        places[posixpath.normpath(name)] = (member.offset_data, member.size)
    place = places.get(posixpath.normpath(target if member.islnk() or member.issym() else name))
    if member.isfile() and end == ".json":
        notes[_sample(name)] = archive.extractfile(member).read()
    elif not is_picture(name):
        found.others.append(name)
    elif member.sparse:
        found.pictures[name] = Picture(path, None, "a sparse file in a tar archive: unpack it first")
    elif place is None:
        what = f"a link to '{member.linkname}', which is not before it" if member.linkname else "no regular file"
        found.pictures[name] = Picture(path, None, f"in the tar archive it is {what}: unpack it first")
    else:
        found.pictures[name] = Picture(path, place)


def _sample(name):
    """The key of a WebDataset sample: up to the first dot of the file name, without case."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}".lower()


def _visible(name, archive):
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"{archive} holds the member '{name}', which points out of the archive; it is not to be trusted"
        )
    return not PurePosixPath(name).name.startswith(".")


def read_bytes(picture: Picture) -> bytes:
    """Return the bytes of a picture. Raises ValueError if there are none, and what damaged archives raise."""
    if picture.problem:
        raise ValueError(picture.problem)
    if picture.path is None:
        raise ValueError("no picture of this name was found")
    if isinstance(picture.member, str):
        data = _open_zip(picture.path, os.getpid()).read(picture.member)
    elif picture.member is None:
        if os.path.exists(picture.path) and not os.path.isfile(picture.path):
            raise ValueError("no regular file")  # a pipe would be waited for
        data = Path(picture.path).read_bytes()
    else:
        offset, size = picture.member
        with open(picture.path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    return data


@lru_cache(maxsize=64)
def _open_zip(path, process):
    """An open archive; each process its own, since they would share the position in the file."""
    return zipfile.ZipFile(path)
