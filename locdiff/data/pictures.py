"""Where the pictures are and where they were taken: folders, zip and tar archives, tar shards."""

import io
import json
import math
import os
import tarfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from locdiff.data.places import COLUMNS, TABLES, Places, _read_place, read_places
from locdiff.errors import InputError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class Picture:
    """Where the bytes of a picture are: a file, a member of a zip archive, or (offset, size) in a tar archive.

    `path` is None for a picture that a table names and nothing holds.
    """

    path: str | None
    member: str | tuple | None = None


def read_source(source, table=None):
    """Return the pictures of a folder, an archive or a single file, and their places: (list of Picture, Places).

    With a table (`table`, or the only one at the top of the folder) these are its lines, each matched to the picture of
    that name: its path below the folder or in an archive, with / or _, with or without the folders and the ending. Else
    they are all the pictures, with places from the json files beside them in tar shards, and else unknown.
    """
    found, notes = find_pictures(source)
    table = table or _only_table(Path(source))
    if table is None:
        places = [_place_in_json(notes.get(os.path.splitext(name)[0]), name) for name in found]
        lat_lon, authors = (np.array([p[:2] for p in places], dtype=np.float64), [p[2] for p in places])
        return list(found.values()), Places(list(found), lat_lon, authors)
    places = read_places(table)
    if not places.ids:
        raise InputError(f"{table} holds no places")
    by_name = found if all(name in found for name in places.ids) else _short_names(found)
    pictures = [next((by_name[n] for n in _spellings(i) if n in by_name), Picture(None)) for i in places.ids]
    if all(picture.path is None for picture in pictures):
        raise InputError(
            f"no id of {table} names a picture in {source}; the first id is '{places.ids[0]}', the first picture "
            f"'{next(iter(found))}'"
        )
    return pictures, places


def find_pictures(source):
    """Return all pictures of a folder, an archive or a file, {name: Picture}, and tar shards' {name: json bytes}."""
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} does not exist; give a folder of pictures, a zip or tar archive, or a picture")
    found, notes = {}, {}
    for path in sorted(_files(source)):
        _list_pictures(path, source, found, notes)
    if not found:
        raise InputError(f"{source} holds no pictures ({', '.join(sorted(PICTURES))}, or zip or tar archives of them)")
    return found, notes


def _only_table(source):
    tables = sorted(p for p in source.iterdir() if p.suffix.lower() in TABLES) if source.is_dir() else []
    if len(tables) > 1:
        raise InputError(f"{source} holds several tables ({', '.join(p.name for p in tables)}); say which by --places")
    return tables[0] if tables else None


def _files(source):
    if source.is_file():
        return [source]
    return [Path(folder) / name for folder, _, names in os.walk(source) for name in names if not name.startswith(".")]


def _list_pictures(path, source, found, notes):
    """Add to `found` {name: Picture}, and to `notes` {name without ending: bytes of its json file}."""
    ending = path.suffix.lower()
    try:
        if ending in PICTURES:
            name = path.name if path == source else path.relative_to(source).as_posix()
            found[name] = Picture(str(path))
        elif ending == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if _is_picture(name, path):
                        found[name] = Picture(str(path), name)
        elif ending == ".tar":
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".json"):
                        notes[member.name.removesuffix(".json")] = archive.extractfile(member).read()
                    elif member.isfile() and _is_picture(member.name, path):
                        found[member.name] = Picture(str(path), (member.offset_data, member.size))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(f"cannot read the archive {path}: {error}") from None


def _is_picture(name, archive):
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(
            f"{archive} holds the member '{name}', which points out of the archive; it is not to be trusted"
        )
    return PurePosixPath(name).suffix.lower() in PICTURES and not PurePosixPath(name).name.startswith(".")


def _place_in_json(note, name):
    """(lat, lon, author) of a WebDataset sample; unknown places are NaN."""
    if note is None:
        return math.nan, math.nan, ""
    try:
        values = {str(key).lower(): value for key, value in json.loads(note).items()}
        given = {key: next((values[n] for n in names if n in values), None) for key, names in COLUMNS.items()}
        row = [str(given["lat"]), str(given["lon"])]
    except (ValueError, AttributeError) as error:
        raise InputError(f"the json file of {name} cannot be read: {error}") from None
    return *_read_place(row, {"lat": 0, "lon": 1}, f"the json file of {name}", 1, True), str(given["author"] or "")


def _short_names(found):
    """All names, and their parts that name one picture only: without the folders, and without the ending."""
    names = dict(found)
    for shorten in (lambda n: n.rsplit("/", 1)[-1], lambda n: os.path.splitext(n.rsplit("/", 1)[-1])[0]):
        short, ambiguous = {}, set()
        for name, picture in found.items():
            key = shorten(name)
            if key in short:
                ambiguous.add(key)
            short[key] = picture
        names = {key: picture for key, picture in short.items() if key not in ambiguous} | names
    return names


def _spellings(name):
    return name, name.replace("/", "_"), name.rsplit("/", 1)[-1], os.path.splitext(name.rsplit("/", 1)[-1])[0]


def read_picture(picture):
    """Return the picture as an upright RGB image; ValueError says what is wrong with it."""
    if picture.path is None:
        raise ValueError("no picture of this name was found")
    try:
        data = _read_bytes(picture)
        if not data:
            raise ValueError("the file is empty (0 bytes)")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits
                image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            return image.convert("RGB")
    except UnidentifiedImageError:
        raise ValueError("not a picture in a known format") from None
    except (OSError, SyntaxError, KeyError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
        raise ValueError(f"{error}") from None


def _read_bytes(picture):
    if picture.member is None:
        return Path(picture.path).read_bytes()
    if isinstance(picture.member, str):
        return _open_zip(picture.path, os.getpid()).read(picture.member)
    offset, size = picture.member
    with open(picture.path, "rb") as file:
        file.seek(offset)
        return file.read(size)


@lru_cache(maxsize=64)
def _open_zip(path, process):
    """An open archive; each process its own, since they would share the position in the file."""
    return zipfile.ZipFile(path)
