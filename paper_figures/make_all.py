"""Make the paper's figures and tables again, beside the numbers that the paper gives.

  python paper_figures/make_all.py                      compute and draw all of them (an hour or more on 2 cores)
  python paper_figures/make_all.py --scale smoke        the same, tiny: do they all work? (minutes)
  python paper_figures/make_all.py --list               their names, and which are computed already
  python paper_figures/make_all.py --only figure_3      one of them
  python paper_figures/make_all.py --redraw             draw again what was computed before: seconds
  python paper_figures/make_all.py --only table_1 --scale paper --data FOLDER     the comparison on MP-16, on a GPU

Each NAME leaves NAME.npz (what was computed), NAME.md and, as the case may be, NAME.png and NAME.csv in the output
folder. index.html and index.md there show them all: the picture or table, the paper's values beside ours, what ours
were computed from, a verdict. What takes long is kept in pieces/ there, from where an interrupted run goes on; it is
computed again once it is deleted.
"""

import inspect
import json
import os
import sys
import time
from pathlib import Path

import figure_1
import figure_2
import figure_3
import figure_4_low_pass
import figure_4a
import figure_4b
import figure_5
import markdown
import numpy as np
import table_1
import table_2
import table_3
import table_4
import table_5
import table_6
import table_7
import table_8
import table_9
from comparison import SCALES
from context import Context

from locdiff import cli, train

# The registry. An artefact has TITLE, DATA (one sentence: what goes in), compute(**settings) -> dict of arrays, which
# is slow, and draw(result, folder) -> (Markdown, verdict), which only draws what compute returned. One whose compute
# takes a `context` is told the command line's wishes; with SCALES it depends on the scale. One with NEEDS is left out
# where the context lacks that.
# Its key_numbers(result) -> {name: (value, tolerance)} are what --check compares.
MODULES = (
    figure_1, figure_2, figure_3, figure_4a, figure_4b, figure_4_low_pass, figure_5,
    table_1, table_2, table_3, table_4, table_5, table_6, table_7, table_8, table_9,
)  # fmt: skip
ARTEFACTS = {module.__name__: module for module in MODULES}
OUT = Path(__file__).parent / "out"
EXPECTED = Path(__file__).parent / "expected.json"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Figures and tables of the paper, computed again</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 0 auto; padding: 0 1rem; color: #222; }}
h2 {{ margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem; }}
img {{ max-width: 100%; }}
p:has(> img), .table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 0.6rem; text-align: left; white-space: nowrap; }}
nav {{ columns: 22rem; font-size: 0.9rem; }}
code {{ background: #f2f2f2; padding: 0 0.2rem; }}
</style></head><body><nav>{contents}</nav>
{body}
</body></html>
"""


def lacks(name, context):
    """The option without which this artefact cannot be computed, if it is not given; else None."""
    needed = getattr(ARTEFACTS[name], "NEEDS", None)
    return needed if needed and not getattr(context, needed) else None


def compute(name, context, out):
    """Compute one artefact and save the result in NAME.npz, with what it was computed from."""
    function = ARTEFACTS[name].compute
    start = time.perf_counter()
    settings = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    context.used.clear()
    result = function(context) if "context" in settings else function()
    settings.pop("context", None)
    if hasattr(ARTEFACTS[name], "SCALES"):
        settings = {"scale": context.scale, "data": Path(context.data).name or "embedded"} | settings
    pieces = sum(piece["seconds"] for piece in context.used)
    provenance = {
        "settings": settings,
        "versions": train.versions(),
        "pieces_from": sorted({piece["versions"]["commit"] for piece in context.used}),
        "seconds": round(max(time.perf_counter() - start, pieces), 1),
    }
    temporary = out / f"{name}.tmp.npz"
    np.savez_compressed(temporary, provenance=json.dumps(provenance), **result)
    os.replace(temporary, out / f"{name}.npz")


def read(name, out):
    """What `compute` saved: the result and its provenance."""
    with np.load(out / f"{name}.npz") as file:
        result = dict(file)
    return result, json.loads(str(result.pop("provenance")))


def draw(name, out):
    """Draw one artefact from NAME.npz and write NAME.md; returns its provenance and its verdict."""
    result, provenance = read(name, out)
    body, verdict = ARTEFACTS[name].draw(result, out)
    if provenance["settings"].get("scale") == "smoke":
        verdict = f"at scale smoke, which only shows that it runs: {verdict}"
    settings = ", ".join(f"{key} = {value}" for key, value in provenance["settings"].items())
    versions = ", ".join(f"{key} {value}" for key, value in provenance["versions"].items())
    pieces = f" Its pieces are of commit {', '.join(provenance['pieces_from'])}." if provenance["pieces_from"] else ""
    lines = (
        f"## {name}: {ARTEFACTS[name].TITLE}", body, f"**Verdict: {verdict}**",
        f"Computed from: {ARTEFACTS[name].DATA} Settings: {settings}. Versions: {versions}.{pieces} "
        f"It took {provenance['seconds']} s.",
    )  # fmt: skip
    (out / f"{name}.md").write_text("\n\n".join(lines) + "\n")
    return provenance, verdict


def deviations(name, out):
    """Where the key numbers of a computed artefact are not the expected ones, as lines of text; None if there are none
    for its scale and data."""
    result, provenance = read(name, out)
    scale = provenance["settings"].get("scale", "any")
    expected = json.loads(EXPECTED.read_text()).get(f"{name}, scale {scale}")
    if expected is None or provenance["settings"].get("data", "embedded") != "embedded":
        return None
    found = ARTEFACTS[name].key_numbers(result)
    return [
        f"{name}: {key} is {found.get(key, (None,))[0]}, expected was {value} +- {found.get(key, (0, 0))[1]}"
        for key, value in expected.items()
        if key not in found or not abs(found[key][0] - value) <= found[key][1]
    ]


def accept(name, out):
    """Make the key numbers of a computed artefact the expected ones."""
    result, provenance = read(name, out)
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    numbers = {key: round(float(value), 4) for key, (value, _) in ARTEFACTS[name].key_numbers(result).items()}
    expected[f"{name}, scale {provenance['settings'].get('scale', 'any')}"] = numbers
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
    (out / "index.html").write_text(PAGE.format(contents=html.toc, body=body), encoding="utf-8")


def main(argv=None):
    """The command line."""
    parser = cli.Parser(prog="python paper_figures/make_all.py", description=__doc__)
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    parser.add_argument("--only", nargs="+", choices=ARTEFACTS, metavar="NAME", help="these only (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help="output folder, created (default paper_figures/out)")
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="cpu",
        help="of what is trained: smoke, cpu (an hour or more on 2 cores) or paper (a GPU); default cpu",
    )
    parser.add_argument(
        "--data", default="", metavar="FOLDER", help="compare on this embeddings folder, not on the embedded data sets"
    )
    parser.add_argument(
        "--im2gps3k", default=os.environ.get("LOCDIFF_IM2GPS3K", ""), metavar="FILE",
        help="im2gps3k_places365.csv, for Table 4 and the simulation (default $LOCDIFF_IM2GPS3K)",
    )  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help="compute nothing, draw what is in the output folder")
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare with the expected numbers (expected.json); exit with 1 if they differ",
    )
    parser.add_argument("--accept", action="store_true", help="make the numbers computed now the expected ones")
    arguments = parser.parse_args(argv)
    out, names = arguments.out, arguments.only or list(ARTEFACTS)
    context = Context(arguments.scale, arguments.data, arguments.im2gps3k, out / "pieces")
    computed = [name for name in ARTEFACTS if (out / f"{name}.npz").exists()]
    if arguments.list:
        for name, module in ARTEFACTS.items():
            print(f"{name:<10} {'computed' if name in computed else '-':<9} {module.TITLE}")
        return
    left_out = [name for name in names if lacks(name, context)]
    if arguments.only and left_out and not arguments.redraw:
        parser.error(f"{left_out[0]} needs --{lacks(left_out[0], context)}")
    if arguments.redraw:
        missing = [name for name in names if name not in computed]
        if missing and (arguments.only or not computed):
            parser.error(f"not computed in {out} yet: {', '.join(missing)}; leave out --redraw")
        names = [name for name in names if name in computed]

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"cannot make the output folder {out}: {error.strerror}")
    for name in names:
        print(f"{name}: ", end="", flush=True)
        if not arguments.redraw:
            if name in left_out:
                print(f"left out, it needs --{lacks(name, context)}", flush=True)
                continue
            compute(name, context, out)
        provenance, verdict = draw(name, out)
        print(f"computed in {provenance['seconds']} s; {verdict}", flush=True)
    write_index(out)
    print(f"all in {out / 'index.html'}")
    names = [name for name in names if (out / f"{name}.npz").exists()]
    if arguments.accept:
        for name in names:
            accept(name, out)
    if arguments.check:
        found = {name: deviations(name, out) for name in names}
        unknown = [name for name, lines in found.items() if lines is None]
        if unknown:
            print(f"no expected numbers to compare with: {', '.join(unknown)}")
        wrong = [line for lines in found.values() for line in lines or []]
        print("\n".join(wrong) or f"{len(names) - len(unknown)} artefacts agree with the expected numbers")
        sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    sys.exit(cli.run(main))
