"""Where the pictures are and where they were taken: folders, zip and tar archives, tar shards."""

import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np

from locdiff.data.archives import ARCHIVES, PICTURES, Contents, Picture, contents, ending, is_picture, walk
from locdiff.data.decoding import read_picture
from locdiff.data.matching import match_ids
from locdiff.data.places import COLUMNS, TABLES, Places, read_places
from locdiff.data.tables import spreadsheet_hint
from locdiff.data.tally import Tally
from locdiff.errors import InputError

__all__ = ["EXIF", "Picture", "find_pictures", "read_picture", "read_source"]

EXIF = "exif"  # in place of a table: the places are those in the pictures
SHOWN = 3  # names of each side when nothing matches


def read_source(source, table=None, tally=None, columns=None):
    """Return the pictures of a folder, an archive or a single file, and their places: (list of Picture, Places).

    With a table (`table`, or the only one at the top of the folder) these are its lines, each matched to the picture of
    that name: its path below the folder or in an archive, with / or _, with or without the folders and the ending.
    Else they are all the pictures, with places from the json files beside them in tar shards, and else unknown; with
    EXIF for a table they are all the pictures, with unknown places.

    `tally` receives what was found, and the table; `columns` names those of a table without a header.
    """
    tally = Tally() if tally is None else tally
    found, notes = find_pictures(source, tally)
    table = table or _only_table(Path(source))
    if table is None or str(table) == EXIF:
        places = Places(list(found), np.full((len(found), 2), math.nan), [""] * len(found))
        for i, name in enumerate(found):
            if name in notes and table is None:
                *places.lat_lon[i], places.authors[i], reason = _place_in_json(notes[name])
                if reason:
                    places.reasons[i] = reason
        return list(found.values()), places
    places, tally.table = read_places(table, blank_is_nan=True, columns=columns), str(table)
    if not places.ids:
        raise InputError(f"{table} holds no places")
    unknown = np.flatnonzero(np.isnan(places.lat_lon).any(axis=1))
    places.reasons = dict.fromkeys(unknown.tolist(), "its line in the table has no place")
    return _match(places, found, source, tally), places


def find_pictures(source, tally=None):
    """Return all pictures of a folder, an archive or a file, {name: Picture}, and tar shards' {name: json bytes}.

    A picture is named by its path below the folder, or by that in its archive, after the archive's if another picture
    has the same. What cannot be read is a Picture with a problem. `tally` receives what is found and ignored.
    """
    tally = Tally() if tally is None else tally
    try:
        os.stat(source)
    except OSError as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise InputError(f"{source} {why}; give a folder of pictures, a zip or tar archive, or a picture") from None
    parts = _contents_of_archive(str(source)) if os.path.isfile(source) else _contents_of_folder(str(source), tally)
    times = Counter(name for _, part in parts for name in part.pictures)
    found, notes = {}, {}
    for archive, part in parts:
        for name, picture in part.pictures.items():
            full = f"{archive}/{name}" if archive and times[name] > 1 else name
            readable = _readable(full)
            if readable != full:
                picture = Picture(picture.path, picture.member, picture.problem or _NOT_UTF8)
            found[readable] = picture
            if name in part.notes:
                notes[readable] = part.notes[name]
        for name in part.others:
            tally.ignore(ending(name), _readable(f"{archive}/{name}" if archive else name))
    tally.found += len(found)
    if not found:
        ignored = "".join(f"; {line}" for line in tally.describe_ignored())
        raise InputError(
            f"{source} holds no pictures ({', '.join(sorted(PICTURES))}, or zip or tar archives of them){ignored}"
        )
    return found, notes


_NOT_UTF8 = "its name is not UTF-8: rename it, e.g. with convmv"


def _readable(name):
    """A name that every file and terminal takes: bytes that are no UTF-8 as \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _contents_of_archive(path):
    return [("", contents(path))]


def _contents_of_folder(folder, tally):
    """[(path of the archive below the folder, or "", Contents), ...]; what cannot be read is a picture's problem."""
    loose, archives = Contents(), []
    for path, problem in sorted(walk(folder), key=lambda item: item[0].split(os.sep)):
        name = os.path.relpath(path, folder).replace(os.sep, "/")
        if problem:
            loose.pictures[name] = Picture(path, None, problem)
        elif is_picture(path):
            loose.pictures[name] = Picture(path)
        elif ending(path) in ARCHIVES:
            try:
                archives.append((name, contents(path)))
            except InputError as error:
                loose.pictures[name] = Picture(path, None, str(error))
        elif ending(path) not in TABLES:
            loose.others.append(name)
    return [("", loose), *archives]


def _only_table(source):
    try:
        tables = sorted(p for p in source.iterdir() if ending(p.name) in TABLES) if source.is_dir() else []
    except OSError as error:
        raise InputError(f"cannot read the folder {source}: {error.strerror}") from None
    if len(tables) > 1:
        raise InputError(f"{source} holds several tables ({', '.join(p.name for p in tables)}); say which by --places")
    return tables[0] if tables else None


def _place_in_json(note):
    """(lat, lon, author, reason) of a WebDataset sample; unknown places are NaN."""
    try:
        values = {str(key).lower(): value for key, value in json.loads(note).items()}
    except (ValueError, AttributeError) as error:
        return math.nan, math.nan, "", f"its json file cannot be read: {error}"
    given = {key: next((values[n] for n in names if n in values), None) for key, names in COLUMNS.items()}
    author = str(given["author"] or "")
    if given["lat"] is None or given["lon"] is None:
        return math.nan, math.nan, author, "its json file has no place"
    try:
        lat, lon = float(given["lat"]), float(given["lon"])
    except (TypeError, ValueError):
        lat = lon = math.nan
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        return math.nan, math.nan, author, f"its json file has the place ({given['lat']}, {given['lon']})"
    return lat, lon, author, ""


def _match(places, found, source, tally):
    """The pictures of the places; unreadable ones that no id names are added to the places, and are unknown there."""
    names, several = list(found), set()
    match = match_ids(names, places.ids, several)
    if all(i is None for i in match):
        raise InputError(
            f"no id of {tally.table} names a picture in {source}; the ids begin with {_shown(places.ids[:SHOWN])}, the "
            f"pictures with {_shown(names[:SHOWN])}{spreadsheet_hint(places.ids[0])}"
        )
    pictures = [
        Picture(None, None, _why_not(name, several)) if i is None else found[names[i]]
        for name, i in zip(places.ids, match, strict=True)
    ]
    matched = set(match)
    unlisted = [name for i, name in enumerate(names) if i not in matched]
    broken = [name for name in unlisted if found[name].problem]
    for name in unlisted:
        if not found[name].problem:
            tally.unlisted.add(name)
    places.ids += broken
    places.authors += [""] * len(broken)
    places.lat_lon = np.concatenate([places.lat_lon, np.full((len(broken), 2), math.nan)])
    return pictures + [found[name] for name in broken]


def _shown(names):
    """Names in quotes; those with other letters than ASCII also by code, since equal ones are written in two ways."""
    return ", ".join(f"'{name}'" + f" ({name!a})" * (not name.isascii()) for name in names)


def _why_not(name, several):
    """Why no picture is found by this name, if there is more to say than that."""
    if name in several:
        return "several pictures have this name: write it with its folder or archive"
    hint = spreadsheet_hint(name)
    return f"no picture of this name was found{hint}" if hint else ""
