"""Which prediction is whose: ids that agree up to folders, the file's ending and the form of accented letters."""

import os
import unicodedata
from collections import Counter


def match_ids(ids: list[str], wanted: list[str]) -> list[int | None]:
    """Return, for each wanted id, the position of its id in `ids`, or None.

    An id names a picture by its path, with / or _, by any end of the path, and by any of these without the ending. The
    longest common end counts, and what names two pictures names none. No position is returned twice.
    """
    exact = {_normal(name): i for i, name in enumerate(ids)}
    found = [exact.get(_normal(name)) for name in wanted]
    if None not in found:
        return _once(found, found)
    by_end, best = _by_end(list(exact)), list(found)
    for i, name in enumerate(wanted):
        if best[i] is None:
            hit = next((by_end[key] for key in _ends(_normal(name)) if key in by_end), None)
            best[i] = None if hit is None else exact[hit]
    return _once(best, found)


def _once(found, exact):
    """What is found for one id alone; where it is found for several, for the one whose id is the same."""
    count = Counter(i for i in found if i is not None)
    return [i if i is not None and (count[i] == 1 or i == own) else None for i, own in zip(found, exact, strict=True)]


def _by_end(names):
    """{end: name} of the ends that only one of the names has."""
    named, ambiguous = {}, set()
    for name in names:
        for key in dict.fromkeys(_ends(name)):
            if key in named:
                ambiguous.add(key)
            named[key] = name
    return {key: name for key, name in named.items() if key not in ambiguous}


def _normal(name):
    return unicodedata.normalize("NFC", str(name))


def _ends(name):
    """Yield the path and its ends, the longest first, each with / and with _; then all without the file's ending."""
    for path in (name, os.path.splitext(name)[0]):
        parts = path.split("/")
        for i in range(len(parts)):
            yield "/".join(parts[i:])
            yield "_".join(parts[i:])
