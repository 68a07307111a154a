"""Keep results in docs/results, and write the tables of the documents from there.

  python paper_figures/publish.py                                   write the documents' tables again
  python paper_figures/publish.py --only table_1                    keep what make_all.py computed for Table 1, too
  python paper_figures/publish.py --run runs/quickstart             keep the scores of a training run, too

What is computed takes hours, so it is kept as small files: docs/results/NAME.json has a table with what it was computed
from. A document shows it where it has the lines

  <!-- results: NAME -->
  <!-- end of results -->

and what stands between them is written by this command, never by hand. The block `claims` lists the main claims of
all kept results. Of a run, the block RUN has the rows of the README and RUN-all has all rows.
"""

import json
import re
import sys
import textwrap
from pathlib import Path

import artefact
import make_all

from locdiff import files, options
from locdiff.errors import InputError
from locdiff.sphere.pixels import THRESHOLDS_KM

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
RUN_ROWS = {  # of a run's report, those of the README: what they begin with, and what they are called there
    "LocDiffusion, one-pass density, most probable mode": "LocDiffusion, most probable mode of the density",
    "LocDiffusion, one sample (": "LocDiffusion, one sample",
    "LocDiffusion, medoid of": "LocDiffusion, medoid of 16 samples",
    "LocDiffusion, geographic centre of": "LocDiffusion, geographic centre of 16 samples (the paper's)",
    "Retrieval, gallery of": "Retrieval from the {gallery:,} training {kind}",
    "Chance": "Chance: the location of a random training {one}",
}


def keep(names, out, results=RESULTS):
    """Write what was computed of artefacts into `results`: {block}.json, and the pictures of the artefact."""
    results.mkdir(parents=True, exist_ok=True)
    for name in names:
        result, provenance = make_all.read(name, out)
        module = make_all.ARTEFACTS[name]
        body, claims = module.draw(result, out)
        blocks = module.blocks(result) if hasattr(module, "blocks") else {name: (body, claims)}
        for block, (text, own) in blocks.items():
            record = {
                "title": module.TITLE, "text": re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", text).strip(), "data": module.DATA,
                "claims": [vars(claim) for claim in own],
                "settings": provenance["settings"], "versions": provenance["versions"],
                "pieces_from": provenance["pieces_from"], "seconds": provenance["seconds"],
                "machine": provenance["machine"],
            }  # fmt: skip
            files.write_json(results / f"{block}.json", record)


def keep_run(run, results=RESULTS):
    """Write the scores of a training run into `results`, as RUN.json. Raises InputError if it has none."""
    path = Path(run) / "metrics.json"
    try:
        metrics = files.read_json(path)
        record = {
            "title": f"the run {Path(run).name}", "text": f"{run_rows(metrics)}\n\n{sentences(metrics)}",
            "all": f"{all_rows(metrics['rows'])}\n\n{sentences(metrics)}", "data": metrics["data"], "claims": [],
            "settings": metrics["settings"]["training"], "versions": metrics["versions"], "pieces_from": [],
            "seconds": metrics["seconds"], "machine": metrics["device"],
        }  # fmt: skip
    except (OSError, KeyError, TypeError) as error:
        raise InputError(f"cannot read the scores in {path}: {error!r}; train the run to its end") from None
    results.mkdir(parents=True, exist_ok=True)
    files.write_json(results / f"{Path(run).name}.json", record)


def run_rows(metrics):
    """Return the README's table of a run, from its metrics.json."""
    kind = metrics["kind"]
    words = {"gallery": metrics["training_pictures"], "kind": kind, "one": kind[:-1]}
    found = {
        name.format(**words): next((row for full, row in metrics["rows"].items() if full.startswith(start)), None)
        for start, name in RUN_ROWS.items()
    }
    return all_rows({name: row for name, row in found.items() if row})


def sentences(metrics):
    """Return what its metrics.json says of the density of a run, and what it was computed from."""
    kind, worth = metrics["kind"], metrics["one_pass_density"]
    held = [worth[f"coverage_{share}"] for share in (50, 90)]
    t = metrics["settings"]["training"]
    return textwrap.fill(
        f"The density gives the true location {worth['nats_over_uniform']:.2f} nats more than the uniform density "
        f"does. Its 50 % regions hold the truth of {held[0][0]:.1f} % of the {kind} (95 % interval {held[0][1]:.1f} to "
        f"{held[0][2]:.1f}), its 90 % regions that of {held[1][0]:.1f} % ({held[1][1]:.1f} to {held[1][2]:.1f}). "
        f"Scored on {metrics['held_out']:,} held-out {kind}, after {t['steps']:,} steps of {t['batch']}, seed "
        f"{t['seed']}, commit {metrics['versions']['commit']}.",
        119,
    )


def all_rows(rows):
    """Return the rows {name: scores} of a run's metrics.json as a table in Markdown."""
    lines = ["| prediction | " + " | ".join(f"{k} km" for k in THRESHOLDS_KM) + " | median km |"]
    lines.append("|---|" + "---:|" * (len(THRESHOLDS_KM) + 1))
    for name, row in rows.items():
        cells = [f"{row['accuracy'][str(k)]:.1f}" for k in THRESHOLDS_KM]
        cells.append(f"{row['median_km']:.0f}" if "median_km" in row else "")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def read_results(results=RESULTS):
    """Return all kept results, {name: record}."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}


def block_text(name, kept):
    """Return what a document shows of the result `name`. Raises InputError if it is not there."""
    if name == "claims":
        return claims_table(kept)
    run = name.removesuffix("-all")
    if name != run and "all" in kept.get(run, {}):
        return kept[run]["all"]
    if name not in kept:
        raise InputError(
            f"a document shows the result {name}, which is not kept; there are {', '.join(kept) or 'none'}"
        )
    record = kept[name]
    if not record["claims"]:  # of a run, which says itself what it is from
        return record["text"]
    settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items())
    commits = ", ".join(record["pieces_from"] or [record["versions"]["commit"]])
    return (
        f"{record['text']}\n\nComputed from {record['data']} Settings: {settings}; commit {commits}; torch "
        f"{record['versions']['torch']}; {record['machine']}; {record['seconds'] / 60:.0f} minutes."
    )


def claims_table(kept):
    """Return the table of the claims that the paper rests on: its numbers, ours on each data set, whether it holds."""
    return artefact.main_table([artefact.Claim(**claim) for record in kept.values() for claim in record["claims"]])


def write_documents(documents=DOCUMENTS, results=RESULTS):
    """Write the blocks of the documents from the kept results; return the documents that changed."""
    kept, changed = read_results(results), []
    for path in documents:
        text = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda found: f"{found[1]}\n{block_text(found[2], kept)}\n\n{found[3]}", text)
        if new != text:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


def main(argv=None):
    """Run the command line."""
    parser = options.Parser(prog="python paper_figures/publish.py", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=make_all.ARTEFACTS, default=[], metavar="NAME",
                        help="keep what was computed of these artefacts")  # fmt: skip
    parser.add_argument("--out", type=Path, default=make_all.HERE / "out", help="folder that make_all.py wrote to")
    parser.add_argument("--run", nargs="+", default=[], metavar="RUN", help="keep the scores of these training runs")
    arguments = parser.parse_args(argv)
    missing = [name for name in arguments.only if not (arguments.out / f"{name}.npz").exists()]
    if missing:
        parser.error(f"not computed in {arguments.out} yet: {', '.join(missing)}; run make_all.py")
    keep(arguments.only, arguments.out)
    for run in arguments.run:
        keep_run(run)
    for path in write_documents():
        print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    options.run(main)
