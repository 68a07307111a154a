"""Table 9: the width and the depth of the CS-UNet."""

import numpy as np
import report
import table_8
from comparison import Experiment, pictures
from table_8 import CENTRE, HILL, PAPERS, SMOKE

TITLE = "bottleneck width and depth of the CS-UNet"
DATA = (
    "Blue Marble views or, with --data, your embeddings. All rows have the same batches, number of steps and learning "
    f"rate. {table_8.DRAWS}"
)
NARROW, WIDE = (32, 6), (128, 6)  # the paper's two
NETWORKS = (NARROW, WIDE, (256, 6), (512, 6), (32, 2), (128, 2))  # width, depth
NAME = "w = {}, d = {}"
SUMMARIES = (CENTRE, HILL)
PAPER = {NARROW: (5.1, 27.2, 50.9, 71.2, 84.1), WIDE: (4.7, 27.0, 50.2, 70.8, 84.3)}
SCALES = {
    "smoke": SMOKE,
    "cpu": Experiment({"l_max": 23, "steps": 350}, 300),
    "paper": Experiment(PAPERS | {"l_max": 31}, 3_000, seeds=(0, 1, 2)),
}


def compute(context):
    """The hits (networks, summaries, seeds, n, thresholds), seconds and parameters (networks,), and what there is."""
    data = pictures(context, SCALES[context.scale])
    found = [table_8.find(context, data, {"width": width, "depth": depth}) for width, depth in NETWORKS]
    hits, seconds, parameters = zip(*found, strict=True)
    wanted = [list(table_8.SUMMARIES).index(name) for name in SUMMARIES]
    return {"hits": np.stack(hits)[:, wanted], "seconds": seconds, "parameters": parameters, "about": data.about()}


def key_numbers(result):
    """Accuracies within 750 km, give or take what another training may."""
    return report.accuracies_of(NETWORKS, SUMMARIES, result["hits"], 750, 9)


def draw(result, folder):
    """Write table_9.csv; Markdown and verdict."""
    rows, lines, seeds = [], [], result["hits"].shape[2]
    costs = zip(result["parameters"], result["seconds"], strict=True)
    for network, right, (parameters, seconds) in zip(NETWORKS, result["hits"], costs, strict=True):
        cost = [f"{parameters / 1e6:.1f} M", f"{seconds:.0f} s"]
        for summary, own in zip(SUMMARIES, right, strict=True):
            numbers, published = report.percent(own), PAPER.get(network, ()) if summary == CENTRE else ()
            rows.append(
                [NAME.format(*network), summary, *report.cells(numbers, seeds), *cost, report.slashes(published)]
            )
            lines.append(([*network, summary], numbers, published, parameters, seconds))
    labels, more = ["width", "depth", "summary"], ["parameters", "training seconds"]
    report.write_accuracies(folder / "table_9.csv", labels, lines, more)
    text = f"{result['about']} Other settings are the quickstart's, the likelihood loss among them."
    if seeds == 1:
        text += " Of one seed, the intervals leave out the chance in the training."
    table = report.markdown_table(["", "per cent within", *report.KM, "parameters", "training", "paper, L = 31"], rows)
    return f"{text}\n\n{table}", verdict(result["hits"])


def verdict(right):
    """From the hits (networks, summaries, seeds, n, thresholds): is a narrow bottleneck no worse than a wider one?"""
    narrow, wide = (right[NETWORKS.index(network)].mean(axis=1) for network in (NARROW, WIDE))
    said, worse, better = [], [], []
    for name, difference in zip(SUMMARIES, narrow - wide, strict=True):
        found, texts = report.points(difference)
        said.append(f"by the {name} {' / '.join(texts)}")
        worse += [f"{k} by the {name}" for k, (_, _, high) in zip(report.KM, found, strict=True) if high < 0]
        better += [f"{k} by the {name}" for k, (_, low, _) in zip(report.KM, found, strict=True) if low > 0]
    papers = " / ".join(f"{a - b:+.1f}" for a, b in zip(PAPER[NARROW], PAPER[WIDE], strict=True))
    best = [NAME.format(*NETWORKS[i]) for i in right[..., report.FAR].mean(axis=(2, 3, 4)).argmax(axis=0)]
    if worse:
        what = (
            f"differs: width 32 is worse than 128 at {', '.join(worse)}, because it learns less in as many "
            "steps: the paper too finds the narrow one harder to train"
        )
    elif better:
        what = f"reproduced: width 32 is better than 128 at {', '.join(better)}, and nowhere worse"
    else:
        what = "reproduced, as far as can be told: widths 32 and 128 differ nowhere by more than chance"
    return (
        f"{what}. Their differences in points: {'; '.join(said)}; the paper's {papers}. Best at 200 km and beyond on "
        f"average: {best[0]} by the {SUMMARIES[0]}, {best[1]} by the {SUMMARIES[1]}."
    )
