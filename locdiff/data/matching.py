"""Ids that agree up to folders, the file's ending and the form of accented letters."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import islice

SEVERAL = -1  # in place of a position


def match_ids(ids: list[str], wanted: list[str], several: set[str] | None = None) -> list[int | None]:
    """Return, for each wanted id, the position of its id in `ids`, or None.

    An id names a picture by its path, with / or _, by any end of the path, and by any of these without the ending. The
    longest common end counts, and what names two pictures names none; `several` receives such wanted ids. No position
    is returned twice.
    """
    exact = {_normal(name): i for i, name in enumerate(ids)} | {name: i for i, name in enumerate(ids)}
    found = [exact.get(name, exact.get(_normal(name))) for name in wanted]
    if None not in found:
        return found
    left = {name: None for name, i in zip(wanted, found, strict=True) if i is None}
    for count in (2, None):  # by the whole path first: nearly all match, and all ends of millions take too much memory
        left |= _by_ends(ids, [name for name, i in left.items() if i in (None, SEVERAL)], count)
    if several is not None:
        several.update(name for name, i in left.items() if i == SEVERAL)
    best = [left.get(name) if i is None else i for name, i in zip(wanted, found, strict=True)]
    times = Counter(best)
    return [i if i == own or (i != SEVERAL and times[i] == 1) else None for i, own in zip(best, found, strict=True)]


def _by_ends(ids, wanted, count):
    """{wanted id: position, None or SEVERAL} by the first `count` ends of each, or all."""
    asked = dict.fromkeys(end for name in wanted for end in islice(_ends(name), count))
    for i, name in enumerate(ids):
        for end in _ends(name):
            if end in asked:
                asked[end] = i if asked[end] in (None, i) else SEVERAL
    found = {}
    for name in wanted:
        hits = [asked[end] for end in islice(_ends(name), count)]
        found[name] = next((i for i in hits if i not in (None, SEVERAL)), SEVERAL if SEVERAL in hits else None)
    return found


def _normal(name):
    return unicodedata.normalize("NFC", name)


def _ends(name) -> Iterator[str]:
    """Yield the path and its ends, the longest first, each with / and with _; then all without the file's ending."""
    name = _normal(name)
    for path in (name, os.path.splitext(name)[0]):
        parts = path.split("/")
        for i in range(len(parts)):
            yield "/".join(parts[i:])
            yield "_".join(parts[i:])
