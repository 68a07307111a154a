"""Make the paper's figures and tables again, beside the numbers that the paper gives.

  python paper_figures/make_all.py                      compute and draw all of them (35 minutes on 2 cores)
  python paper_figures/make_all.py --scale smoke        the same, tiny: do they all work? (a minute)
  python paper_figures/make_all.py --list               their names, and which are computed already
  python paper_figures/make_all.py --only figure_3      one of them
  python paper_figures/make_all.py --redraw             draw again what was computed before: seconds
  python paper_figures/make_all.py --only table_1 --scale paper --data FOLDER     the comparison on MP-16, on a GPU

Each NAME leaves NAME.npz (what was computed), NAME.md and, as the case may be, NAME.png and NAME.csv in the output
folder. index.md there shows them all: the picture or table, the paper's values beside ours, what ours were computed
from, a verdict. What takes long is kept in pieces/ there, from where an interrupted run goes on; it is computed again
once it is deleted.
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
import numpy as np
import table_1
import table_2
import table_3
import table_4
from comparison import SCALES
from context import Context

from locdiff import cli, train

# The registry. An artefact has TITLE, DATA (one sentence: what goes in), compute(**settings) -> dict of arrays, which
# is slow, and draw(result, folder) -> (Markdown, verdict), which only draws what compute returned. One whose compute
# takes a `context` first is computed by context.Context. One with NEEDS is left out where the context lacks that.
MODULES = (
    figure_1, figure_2, figure_3, figure_4a, figure_4b, figure_4_low_pass, figure_5, table_1, table_2, table_3, table_4,
)  # fmt: skip
ARTEFACTS = {module.__name__: module for module in MODULES}
OUT = Path(__file__).parent / "out"


def lacks(name, context):
    """The option without which this artefact cannot be computed, if it is not given; else None."""
    needed = getattr(ARTEFACTS[name], "NEEDS", None)
    return needed if needed and not getattr(context, needed) else None


def compute(name, context, out):
    """Compute one artefact and save the result in NAME.npz, with what it was computed from."""
    function = ARTEFACTS[name].compute
    start = time.perf_counter()
    settings = {key: parameter.default for key, parameter in inspect.signature(function).parameters.items()}
    result = function(context) if "context" in settings else function()
    if settings.pop("context", None):
        settings = {"scale": context.scale, "data": Path(context.data).name or "embedded"} | settings
    provenance = {
        "settings": settings,
        "versions": train.versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    temporary = out / f"{name}.tmp.npz"
    np.savez_compressed(temporary, provenance=json.dumps(provenance), **result)
    os.replace(temporary, out / f"{name}.npz")


def draw(name, out):
    """Draw one artefact from NAME.npz and write NAME.md; returns its provenance and its verdict."""
    with np.load(out / f"{name}.npz") as file:
        result = dict(file)
    provenance = json.loads(str(result.pop("provenance")))
    body, verdict = ARTEFACTS[name].draw(result, out)
    if provenance["settings"].get("scale") == "smoke":
        verdict = f"at scale smoke, which only shows that it runs: {verdict}"
    settings = ", ".join(f"{key} = {value}" for key, value in provenance["settings"].items())
    versions = ", ".join(f"{key} {value}" for key, value in provenance["versions"].items())
    lines = (
        f"## {name}: {ARTEFACTS[name].TITLE}", body, f"**Verdict: {verdict}**",
        f"Computed from: {ARTEFACTS[name].DATA} Settings: {settings}. Versions: {versions}. "
        f"It took {provenance['seconds']} s.",
    )  # fmt: skip
    (out / f"{name}.md").write_text("\n\n".join(lines) + "\n")
    return provenance, verdict


def write_index(out):
    """Join the artefacts' Markdown in index.md; say of the others how to compute them."""
    parts = ["# Figures and tables of the paper, computed again"]
    for name, module in ARTEFACTS.items():
        needs = f" --{module.NEEDS} ..." if hasattr(module, "NEEDS") else ""
        command = f"python paper_figures/make_all.py --only {name}{needs}"
        missing = f"## {name}: {module.TITLE}\n\nNot computed yet: `{command}`\n"
        path = out / f"{name}.md"
        parts.append(path.read_text() if path.exists() else missing)
    (out / "index.md").write_text("\n\n".join(parts))


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
        help="how large what takes long is made: data, training, tests (default cpu)",
    )
    parser.add_argument(
        "--data", default="", metavar="FOLDER", help="compare on this embeddings folder, not on the embedded data sets"
    )
    parser.add_argument(
        "--im2gps3k", default=os.environ.get("LOCDIFF_IM2GPS3K", ""), metavar="FILE",
        help="im2gps3k_places365.csv, for Table 4 and the simulation (default $LOCDIFF_IM2GPS3K)",
    )  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help="compute nothing, draw what is in the output folder")
    arguments = parser.parse_args(argv)
    out, names = arguments.out, arguments.only or list(ARTEFACTS)
    context = Context(arguments.scale, arguments.data, arguments.im2gps3k, out / "pieces")
    computed = [name for name in ARTEFACTS if (out / f"{name}.npz").exists()]
    if arguments.list:
        for name, module in ARTEFACTS.items():
            print(f"{name:<17} {'computed' if name in computed else '-':<9} {module.TITLE}")
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
    print(f"all in {out / 'index.md'}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
