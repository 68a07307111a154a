"""Make the paper's figures and tables again, beside the numbers that the paper gives.

  python paper_figures/make_all.py                      compute and draw all of them (an hour or more on 2 cores)
  python paper_figures/make_all.py --scale smoke        the same, tiny: do they all work? (minutes)
  python paper_figures/make_all.py --list               their names, and which are computed already
  python paper_figures/make_all.py --only figure_3      one of them
  python paper_figures/make_all.py --redraw             draw again what was computed before: seconds
  python paper_figures/make_all.py --only table_1 --scale paper --data FOLDER     the comparison on MP-16, on a GPU

Each NAME leaves NAME.npz (what was computed), NAME.md and, as the case may be, NAME.png and NAME.csv in the output
folder. index.html and index.md there show them all: the picture or table, the claims that it tests with the paper's
values beside ours, and what ours were computed from. What takes long is kept in pieces/ there, from where an
interrupted run goes on; it is computed again once it is deleted.
"""

import inspect
import json
import os
import platform
import sys
import time
from pathlib import Path

import artefact
import markdown
import numpy as np
from context import Context, savez
from data_sets import SCALES, SETS

from locdiff import files, options
from locdiff.errors import InputError

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))  # reference/ is not installed
ARTEFACTS = artefact.find(HERE)
EXPECTED = HERE / "expected.json"
OPTIONS = {
    "--list": {"action": "store_true", "help": "list the names and stop"},
    "--only": {"nargs": "+", "choices": ARTEFACTS, "metavar": "NAME", "help": "these only (default: all)"},
    "--out": {"type": Path, "default": HERE / "out", "help": "output folder, created (default paper_figures/out)"},
    "--scale": {"choices": SCALES, "default": "cpu", "help": "of what is trained: smoke, cpu (an hour or more on 2 "
                "cores), full (hours) or paper (a GPU); default cpu"},
    "--data": {"default": "", "metavar": "FOLDER", "help": "compare on this embeddings folder, not on the embedded "
               "data sets"},
    "--photos": {"default": "", "metavar": "FOLDER", "help": "embeddings folder of photographs with "
                 "authors, for Table 1"},
    "--sets": {"nargs": "+", "choices": SETS, "default": (), "help": f"of Table 1: {', '.join(SETS)} (default: all)"},
    "--im2gps3k": {"default": os.environ.get("LOCDIFF_IM2GPS3K", ""), "metavar": "FILE", "help": "im2gps3k_places365"
                   ".csv, for Table 4 and the simulation (default $LOCDIFF_IM2GPS3K)"},
    "--redraw": {"action": "store_true", "help": "compute nothing, draw what is in the output folder"},
    "--check": {"action": "store_true", "help": "compare with the expected numbers; exit with 1 if they differ"},
    "--accept": {"action": "store_true", "help": "make the numbers computed now the expected ones"},
}  # fmt: skip
SMOKE = "At scale smoke they only show that the program runs."


def lacks(name, context):
    """Return the option without which this artefact cannot be computed, if it is not given; else None."""
    needed = getattr(ARTEFACTS[name], "NEEDS", None)
    return needed if needed and not getattr(context, needed) else None


def compute(name, context, out):
    """Compute one artefact and save the result in NAME.npz, with what it was computed from."""
    module, start = ARTEFACTS[name], time.perf_counter()
    settings = {key: parameter.default for key, parameter in inspect.signature(module.compute).parameters.items()}
    context.used.clear()
    result = module.compute(context) if settings.pop("context", None) else module.compute()
    if hasattr(module, "SCALES"):
        settings = {"scale": context.scale, "data": Path(context.data).name or "embedded"} | settings
    pieces = sum(piece["seconds"] for piece in context.used)
    provenance = {
        "settings": settings,
        "versions": files.versions(),
        "pieces_from": sorted({piece["versions"]["commit"] for piece in context.used}),
        "machine": f"{os.cpu_count()} processors, {platform.machine()}",
        "seconds": round(max(time.perf_counter() - start, pieces), 1),
    }
    savez(out / f"{name}.npz", result | {"provenance": json.dumps(provenance)})


def read(name, out):
    """Return what `compute` saved: the result and its provenance."""
    with np.load(out / f"{name}.npz") as file:
        result = dict(file)
    return result, json.loads(str(result.pop("provenance")))


def draw(name, out):
    """Draw one artefact from NAME.npz and write NAME.md; return a line about it.

    Raises InputError if NAME.npz lacks what is drawn today.
    """
    result, provenance = read(name, out)
    try:
        body, claims = ARTEFACTS[name].draw(result, out)
    except KeyError as error:
        raise InputError(f"{out / name}.npz lacks {error}, it is of another version: compute {name} again") from None
    smoke = SMOKE if provenance["settings"].get("scale") == "smoke" else ""
    settings = ", ".join(f"{key} = {value}" for key, value in provenance["settings"].items())
    versions = ", ".join(f"{key} {value}" for key, value in provenance["versions"].items())
    pieces = f" Its pieces are of commit {', '.join(provenance['pieces_from'])}." if provenance["pieces_from"] else ""
    said = f"{artefact.summary(claims)}. {smoke}".strip()
    (out / f"{name}.md").write_text(
        f"## {name}: {ARTEFACTS[name].TITLE}\n\n{body}\n\n### Claims\n\n{artefact.table(claims)}\n\n**{said}**\n\n"
        f"Computed from: {ARTEFACTS[name].DATA} Settings: {settings}. Versions: {versions}.{pieces} "
        f"It took {provenance['seconds']} s.\n"
    )
    return f"computed in {provenance['seconds']} s; {said}"


def key_numbers(name, out):
    """Return of a computed artefact its {name: (value, tolerance)}, where they stand in EXPECTED, and whether the data
    are those of the numbers there."""
    result, provenance = read(name, out)
    scale, data = (provenance["settings"].get(key, other) for key, other in (("scale", "any"), ("data", "embedded")))
    return ARTEFACTS[name].key_numbers(result), f"{name}, scale {scale}", data == "embedded"


def check(names, out):
    """Print where the key numbers of the artefacts are not the expected ones; return 1 if there is such a place, else
    0."""
    expected, wrong, unknown = json.loads(EXPECTED.read_text()), [], []
    for name in names:
        numbers, entry, embedded = key_numbers(name, out)
        if entry not in expected or not embedded:
            unknown.append(name)
            continue
        for key, value in expected[entry].items():
            found, tolerance = numbers.get(key, (None, 0))
            if found is None or not abs(found - value) <= tolerance:
                wrong.append(f"{name}: {key} is {found}, expected was {value} +- {tolerance}")
    if unknown:
        print(f"no expected numbers to compare with: {', '.join(unknown)}")
    print("\n".join(wrong) or f"{len(names) - len(unknown)} artefacts agree with the expected numbers")
    return 1 if wrong else 0


def accept(names, out):
    """Make the key numbers of the artefacts the expected ones."""
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    for name in names:
        numbers, entry, _ = key_numbers(name, out)
        expected[entry] = {key: round(float(value), 4) for key, (value, _) in numbers.items()}
    EXPECTED.write_text(json.dumps(dict(sorted(expected.items())), indent=1) + "\n")


def write_index(out):
    """Join the artefacts' Markdown in index.md and index.html; say of the others how to compute them."""
    parts = ["# Figures and tables of the paper, computed again"]
    for name, module in ARTEFACTS.items():
        path, command = out / f"{name}.md", f"python paper_figures/make_all.py --only {name}"
        missing = f"Not computed yet: `{command}`"
        if hasattr(module, "NEEDS"):
            missing = f"**Needs data that is not here:** `{command} --{module.NEEDS} FILE`"
        parts.append(path.read_text() if path.exists() else f"## {name}: {module.TITLE}\n\n{missing}\n")
    text = "\n\n".join(parts)
    (out / "index.md").write_text(text)
    html = markdown.Markdown(extensions=["tables", "toc"], extension_configs={"toc": {"toc_depth": "2-2"}})
    body = html.convert(text)
    page = (HERE / "page.html").read_text()
    (out / "index.html").write_text(page.replace("CONTENTS", html.toc).replace("BODY", body), encoding="utf-8")


def choose(arguments, parser, context):
    """Return the names of the artefacts to draw. An option that asks for what cannot be done ends the program."""
    out, names = arguments.out, arguments.only or list(ARTEFACTS)
    if arguments.redraw:
        missing = [name for name in names if not (out / f"{name}.npz").exists()]
        if missing and (arguments.only or missing == names):
            parser.error(f"not computed in {out} yet: {', '.join(missing)}; leave out --redraw")
        return [name for name in names if name not in missing]
    for name in arguments.only or ():
        if lacks(name, context):
            parser.error(f"{name} needs --{lacks(name, context)}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make the output folder {out}: {error.strerror}")
    return names


def main(argv=None):
    """Run the command line."""
    parser = options.Parser(prog="python paper_figures/make_all.py", description=__doc__)
    for option, about in OPTIONS.items():
        parser.add_argument(option, **about)
    arguments = parser.parse_args(argv)
    out = arguments.out
    if arguments.list:
        for name, module in ARTEFACTS.items():
            print(f"{name:<18}{'computed' if (out / f'{name}.npz').exists() else '-':<9} {module.TITLE}")
        return
    context = Context(
        arguments.scale, arguments.data, arguments.im2gps3k, out / "pieces", arguments.photos, tuple(arguments.sets)
    )
    names = choose(arguments, parser, context)
    for name in names:
        print(f"{name}: ", end="", flush=True)
        if not arguments.redraw:
            if lacks(name, context):
                print(f"left out, it needs --{lacks(name, context)}", flush=True)
                continue
            compute(name, context, out)
        print(draw(name, out), flush=True)
    write_index(out)
    print(f"all in {out / 'index.html'}")
    names = [name for name in names if (out / f"{name}.npz").exists()]
    if arguments.accept:
        accept(names, out)
    if arguments.check:
        sys.exit(check(names, out))


if __name__ == "__main__":
    options.run(main)
