"""What a figure or a table is: a file figure_*.py or table_*.py that has the names of `Artefact`.

make_all.py finds these files by itself. To add one, write the file.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from report import markdown_table

Result = dict[str, np.ndarray]  # what an artefact computes, as it is saved


@dataclass(frozen=True)
class Claim:
    """A statement, what the paper has for it, and what is found here.

    `holds` tells whether it holds here, by the numbers in `ours`; None if they cannot tell. `data` is the data set that
    it is tested on, if there are several. One that the paper rests on has `brief`, its numbers in a few signs, and has
    a place in `main_table`.
    """

    claim: str
    paper: str
    ours: str
    holds: bool | None
    data: str = ""
    brief: str = ""


class Artefact(Protocol):
    """The module of a figure or a table.

    `compute` is slow. Its arguments are settings with defaults, or the `context` of the command line. `draw` draws what
    `compute` returned into a folder, and returns Markdown and the claims that it tests. `key_numbers` are what --check
    compares: {name: (value, tolerance)}.

    A module may also have SCALES, {scale: how large it is}, if it depends on --scale, and NEEDS, the name of an option
    without which it is left out.
    """

    TITLE: str
    DATA: str  # what goes in, in a sentence
    compute: Callable[..., Result]
    draw: Callable[[Result, Path], tuple[str, list[Claim]]]
    key_numbers: Callable[[Result], dict[str, tuple[Any, float]]]


def find(folder: Path) -> dict[str, Artefact]:
    """Return the artefacts in a folder by name: the figures, then the tables."""
    paths = [*sorted(folder.glob("figure_*.py")), *sorted(folder.glob("table_*.py"))]
    return {path.stem: importlib.import_module(path.stem) for path in paths}


def summary(claims: list[Claim]) -> str:
    """Return how many of the claims hold, in words."""
    tested = [claim for claim in claims if claim.holds is not None]
    untested = f"{len(claims) - len(tested)} not tested" if len(tested) < len(claims) else ""
    holds = f"{sum(bool(claim.holds) for claim in tested)} of {len(tested)} claims hold" if tested else ""
    return ", ".join(filter(None, (holds, untested)))


def table(claims: list[Claim]) -> str:
    """Return the claims as a table in Markdown."""
    rows = [[f"{c.data}: {c.claim}" if c.data else c.claim, c.paper, c.ours, _verdict(c)] for c in claims]
    return markdown_table(["claim", "paper", "ours", "holds"], rows)


def main_table(claims: list[Claim]) -> str:
    """Return the claims that the paper rests on as a table in Markdown, with a column for each data set."""
    main = [claim for claim in claims if claim.brief]
    columns, rows = list(dict.fromkeys(claim.data for claim in main)), {}
    for claim in main:
        own = rows.setdefault(claim.claim, [claim.claim, claim.paper, *[""] * len(columns)])
        own[2 + columns.index(claim.data)] = f"{_verdict(claim)}: {claim.brief}"
    return markdown_table(["claim", "paper", *columns], list(rows.values()))


def _verdict(claim: Claim) -> str:
    return "not tested" if claim.holds is None else "yes" if claim.holds else "no"
