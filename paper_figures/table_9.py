"""Table 9: the width and the depth of the CS-UNet."""

import numpy as np
import report
import table_8
from artefact import Claim
from data_sets import Experiment, pictures
from table_8 import CENTER, MODE, PAPERS, SMOKE

TITLE = "bottleneck width and depth of the CS-UNet"
DATA = (
    "Blue Marble views or, with --data, your embeddings. All rows have the same batches, number of steps and learning "
    f"rate. {table_8.DRAWS}"
)
NARROW, WIDE = (32, 6), (128, 6)  # the paper's two
NETWORKS = (NARROW, WIDE, (256, 6), (512, 6), (32, 2), (128, 2))  # width, depth
NAME = "w = {}, d = {}"
SUMMARIES = (CENTER, MODE)
PAPER = {NARROW: (5.1, 27.2, 50.9, 71.2, 84.1), WIDE: (4.7, 27.0, 50.2, 70.8, 84.3)}
SCALES = {
    "smoke": SMOKE,
    "cpu": Experiment({"l_max": 23, "steps": 350}, 300),
    "full": Experiment({"l_max": 23, "steps": 1_000}, 500),
    "paper": Experiment(PAPERS | {"l_max": 31}, 3_000, seeds=(0, 1, 2)),
}


def compute(context):
    """Return the hits (networks, summaries, seeds, n, thresholds), seconds and parameters (networks,), and what there
    is."""
    data = pictures(context, SCALES[context.scale])
    found = [table_8.find(context, data, {"width": width, "depth": depth}) for width, depth in NETWORKS]
    hits, seconds, parameters = zip(*found, strict=True)
    wanted = [list(table_8.SUMMARIES).index(name) for name in SUMMARIES]
    about = {"about": data.about(), "title": data.title}
    return {"hits": np.stack(hits)[:, wanted], "seconds": seconds, "parameters": parameters} | about


def key_numbers(result):
    """Return accuracies within 750 km, give or take what another training may."""
    return report.accuracies_of(NETWORKS, SUMMARIES, result["hits"], 750, 9)


def draw(result, folder):
    """Write table_9.csv; return Markdown and claims."""
    rows, lines, seeds = [], [], result["hits"].shape[2]
    costs = zip(result["parameters"], result["seconds"], strict=True)
    for network, right, (parameters, seconds) in zip(NETWORKS, result["hits"], costs, strict=True):
        cost = [f"{parameters / 1e6:.1f} M", f"{seconds:.0f} s"]
        for summary, own in zip(SUMMARIES, right, strict=True):
            numbers, published = report.percent(own), PAPER.get(network, ()) if summary == CENTER else ()
            rows.append(
                [NAME.format(*network), summary, *report.cells(numbers, seeds), *cost, report.slashes(published)]
            )
            lines.append(([*network, summary], numbers, published, parameters, seconds))
    labels, more = ["width", "depth", "summary"], ["parameters", "training seconds"]
    report.write_accuracies(folder / "table_9.csv", labels, lines, more)
    best = [NAME.format(*NETWORKS[i]) for i in result["hits"][..., report.FAR].mean(axis=(2, 3, 4)).argmax(axis=0)]
    text = (
        f"{result['about']} Other settings are the quickstart's, the likelihood loss among them. Best at 200 km and "
        f"beyond on average: {best[0]} by the {SUMMARIES[0]}, {best[1]} by the {SUMMARIES[1]}."
    )
    if seeds == 1:
        text += " Of one seed, the intervals leave out the chance in the training."
    table = report.markdown_table(["", "per cent within", *report.KM, "parameters", "training", "paper, L = 31"], rows)
    return f"{text}\n\n{table}", claims(result["hits"], str(result["title"]))


def claims(right, data=""):
    """Return the claims, from the hits (networks, summaries, seeds, n, thresholds) on a data set, that a narrow
    bottleneck is no worse than a wider one."""
    narrow, wide = (right[NETWORKS.index(network)].mean(axis=1) for network in (NARROW, WIDE))
    papers = " / ".join(f"{a - b:+.1f}" for a, b in zip(PAPER[NARROW], PAPER[WIDE], strict=True))
    said = []
    for name, difference in zip(SUMMARIES, narrow - wide, strict=True):
        found, texts = report.points(difference)
        worse = [k for k, (_, _, high) in zip(report.KM, found, strict=True) if high < 0]
        better = [k for k, (_, low, _) in zip(report.KM, found, strict=True) if low > 0]
        said.append(
            Claim(
                f"{name}: width 32 is nowhere worse than 128",
                f"{papers} points; harder to train" if name == CENTER else "not tried",
                f"worse at {', '.join(worse) or 'none'}, better at {', '.join(better) or 'none'}; in points: "
                f"{' / '.join(texts)}",
                not worse,
                data,
                report.gains(100 * difference.mean(axis=0)),
            )
        )
    return said
