"""Table 9: the width and the depth of the CS-UNet."""

import numpy as np
import table_8
from comparison import intervals
from report import markdown_table, write_csv
from table_8 import CENTRE, HILL, SMOKE, Scale, cells, numbers

from locdiff.metrics import THRESHOLDS_KM

TITLE = "bottleneck width and depth of the CS-UNet"
DATA = (
    "Blue Marble views or, with --data, your embeddings. All rows have the same batches, number of steps and learning "
    f"rate. {table_8.DRAWS}"
)
NARROW, WIDE = (32, 6), (128, 6)  # the paper's two
NETWORKS = (NARROW, WIDE, (256, 6), (512, 6), (32, 2), (128, 2))  # width, depth
SUMMARIES = (CENTRE, HILL)
PAPER = {NARROW: (5.1, 27.2, 50.9, 71.2, 84.1), WIDE: (4.7, 27.0, 50.2, 70.8, 84.3)}
SCALES = {
    "smoke": SMOKE,
    "cpu": Scale((0,), 300, {"l_max": 23, "steps": 350}),
    "paper": Scale((0, 1, 2), 3_000, {"l_max": 31, "batch": 512, "steps": 50_000, "sample_steps": 100}),
}


def compute(context):
    """The hits (networks, summaries, seeds, n, thresholds), seconds and parameters (networks,), and what there is."""
    rows = table_8.Rows(context, SCALES[context.scale])
    hits, seconds, parameters = zip(*(rows.find({"width": w, "depth": d}) for w, d in NETWORKS), strict=True)
    wanted = [list(table_8.SUMMARIES).index(name) for name in SUMMARIES]
    return {"hits": np.stack(hits)[:, wanted], "seconds": seconds, "parameters": parameters, "about": rows.about()}


def key_numbers(result):
    """Accuracies within 750 km, give or take what another training may."""
    percent = 100 * result["hits"][..., THRESHOLDS_KM.index(750)].mean(axis=(2, 3))
    rows = zip(NETWORKS, percent, strict=True)
    return {f"{n}, {name}": (p, 9) for n, row in rows for name, p in zip(SUMMARIES, row, strict=True)}


def draw(result, folder):
    """Write table_9.csv; Markdown and verdict."""
    table, lines = [], []
    costs = zip(result["seconds"], result["parameters"], strict=True)
    for network, right, (seconds, parameters) in zip(NETWORKS, result["hits"], costs, strict=True):
        name, cost = "w = {}, d = {}".format(*network), [f"{parameters / 1e6:.1f} M", f"{seconds:.0f} s"]
        for summary, own in zip(SUMMARIES, right, strict=True):
            published = PAPER.get(network, ()) if summary == CENTRE else ()
            estimates = numbers(own)
            table.append([name, summary, *cells(estimates, len(own)), *cost, "/".join(map(str, published))])
            for k, row in enumerate(estimates):
                paper = published[k] if published else ""
                lines.append([*network, summary, THRESHOLDS_KM[k], *row, parameters, seconds, paper])
    header = ["width", "depth", "summary", "within km", "per cent", "low", "high", "least seed", "most of seeds"]
    write_csv(folder / "table_9.csv", [*header, "parameters", "training seconds", "paper"], lines)
    header = ["", "per cent within", *(f"{k} km" for k in THRESHOLDS_KM), "parameters", "training", "paper, L = 31"]
    text = f"{result['about']} Other settings are the quickstart's, the likelihood loss among them."
    if result["hits"].shape[2] == 1:
        text += " Of one seed, the intervals leave out the chance in the training."
    return f"{text}\n\n{markdown_table(header, table)}", verdict(result["hits"])


def verdict(right):
    """From the hits (networks, summaries, seeds, n, thresholds): is a narrow bottleneck no worse than a wider one?"""
    narrow, wide = (right[NETWORKS.index(network)].mean(axis=1) for network in (NARROW, WIDE))
    said, worse, better = [], [], []
    for name, difference in zip(SUMMARIES, narrow - wide, strict=True):
        mean, low, high = intervals(difference)
        points = (f"{m:+.1f} [{a:+.1f}, {b:+.1f}]" for m, a, b in zip(mean, low, high, strict=True))
        said.append(f"by the {name} {' / '.join(points)}")
        worse += [f"{k} km by the {name}" for k, end in zip(THRESHOLDS_KM, high, strict=True) if end < 0]
        better += [f"{k} km by the {name}" for k, end in zip(THRESHOLDS_KM, low, strict=True) if end > 0]
    papers = " / ".join(f"{a - b:+.1f}" for a, b in zip(PAPER[NARROW], PAPER[WIDE], strict=True))
    far = right[:, :, :, :, table_8.FAR].mean(axis=(2, 3, 4))
    best = ["w = {}, d = {}".format(*NETWORKS[i]) for i in far.argmax(axis=0)]
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
