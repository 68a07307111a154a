"""Table 8: the training losses, under the paper's protocol and by better summaries of the same trained models."""

import dataclasses
from functools import partial

import numpy as np
import report
import torch
from artefact import Claim
from comparison import posteriors
from data_sets import Experiment, pictures_and_names
from measures import SAMPLES

from locdiff.data.blue_marble import BlueMarble
from locdiff.evaluation.metrics import hits
from locdiff.evaluation.summaries import medoid
from locdiff.sphere import decoder
from locdiff.sphere.coordinates import geographic_center
from locdiff.training.settings import PRESETS

TITLE = "training losses"
DRAWS = (
    "In brackets: the interval that holds 95 % of the means of 1,000 draws of the test pictures with replacement, and "
    "then, of several seeds, over which a row is the mean, the least and the most."
)
DATA = (
    "Blue Marble views and, at scale full, place names or, with --data, your embeddings. All rows of a table have the "
    f"same network, batches, noise, steps and learning rate. {DRAWS}"
)
L2, KL, NEARLY_L2 = "L2", "SHDD-KL, temperature 1 (the paper's)", "SHDD-KL, temperature 20"
COSINE = ", cosine schedule"
LOSSES = {  # what differs between the rows
    "L1": {"loss": "l1"},
    L2: {"loss": "l2"},
    "cosine": {"loss": "cosine"},
    "SHDD-KL, temperature 0.3": {"loss": "shdd_kl", "temperature": 0.3},
    KL: {"loss": "shdd_kl", "temperature": 1.0},
    "SHDD-KL, temperature 4": {"loss": "shdd_kl", "temperature": 4.0},
    NEARLY_L2: {"loss": "shdd_kl", "temperature": 20.0},
    "likelihood": {"loss": "likelihood"},
    "likelihood and exact skip (the quickstart's)": {"loss": "likelihood", "exact_skip": True},
    L2 + COSINE: {"loss": "l2", "schedule": "cosine"},
    KL + COSINE: {"loss": "shdd_kl", "temperature": 1.0, "schedule": "cosine"},
}
CENTER, MEAN = f"centre of {SAMPLES} (the paper's)", f"mean density of {SAMPLES}"
ONE, MEDOID, MODE = "one sample", f"medoid of {SAMPLES}", "one pass, most probable mode"
SUMMARIES = {CENTER: "black", ONE: "#E69F00", MEDOID: "#56B4E9", MEAN: report.GREEN, MODE: report.RED}  # and colors
PAPER = report.PAPER["table_8"]
SMALL = {"l_max": 15, "width": 64, "depth": 4, "time_dim": 64, "decoder_nside": 32, "lr": 1e-3, "warmup": 20}
PAPERS = {"batch": 512, "steps": 50_000, "sample_steps": 100}
SMOKE = Experiment(PRESETS["smoke"] | {"l_max": 5, "steps": 3}, 20, BlueMarble(400, 40), (0, 1))
SCALES = {
    "smoke": SMOKE,
    "cpu": Experiment(SMALL | {"steps": 500}, 300, seeds=(0, 1, 2)),
    "full": Experiment(SMALL | {"l_max": 23, "steps": 500}, 400, seeds=(0, 1)),
    "paper": Experiment(PAPERS | {"l_max": 47}, 3_000, seeds=(0, 1, 2)),
}


def find(context, data, differs):
    """Return of the row that `differs` so from the others on these Pictures: hits (summaries, seeds, n, thresholds),
    see `score`; the mean seconds of its training; the number of its parameters."""
    right, seconds = [], []
    for seed in data.scale.seeds:
        settings = data.settings(**differs, seed=seed)
        model, cost = context.trained(settings, data.folder, data.train)
        key = [dataclasses.asdict(settings), str(data.folder), data.scale.pictures]
        piece = context.piece("summaries", key, partial(score, model, data.embeddings, data.truth, seed))
        right.append(piece["hits"])
        seconds.append(cost["seconds"])
    return np.stack(right, axis=1), np.mean(seconds), int(cost["parameters"])


def score(model, embeddings, truth, seed):
    """Return {"hits": whether each of SUMMARIES is right within each threshold, (summaries, n, thresholds) of 0 or 1;
    of one sample, how many of all are}."""
    parts = []
    for start, posterior in posteriors(model, embeddings):
        true = truth[start : start + len(posterior)]
        places = posterior.sample(SAMPLES, seed, start)
        each = hits(places.flatten(0, 1), true.repeat_interleave(SAMPLES, dim=0))
        found = {
            CENTER: geographic_center(places),
            MEDOID: medoid(places),
            MEAN: decoder.exact_mode(posterior.sample_coeffs(SAMPLES, seed, start).mean(dim=1))[0],
            MODE: posterior.modes()[0][:, 0],
        }
        right = {name: hits(place, true).double() for name, place in found.items()}
        right[ONE] = each.double().view(len(true), SAMPLES, -1).mean(dim=1)
        parts.append(torch.stack([right[name] for name in SUMMARIES]))
    return {"hits": torch.cat(parts, dim=1).numpy()}


def compute(context):
    """Return for each data set i: its title_i, what there is, about_i, the hits_i (losses, summaries, seeds, n,
    thresholds), and the seconds_i of training (losses,)."""
    result = {}
    for i, data in enumerate(pictures_and_names(context, SCALES[context.scale])):
        found = [find(context, data, {"exact_skip": False} | own) for own in LOSSES.values()]
        right, seconds, _ = zip(*found, strict=True)
        result |= {f"title_{i}": data.title, f"about_{i}": data.about()}
        result |= {f"hits_{i}": np.stack(right), f"seconds_{i}": seconds}
    return result


def key_numbers(result):
    """Return accuracies within 750 km, give or take what another training may."""
    numbers = {}
    for i, one in enumerate(report.by_data_set(result)):
        losses = [f"{i}: {loss}" if i else loss for loss in LOSSES]
        numbers |= report.accuracies_of(losses, SUMMARIES, one["hits"], 750, 8)
    return numbers


def draw(result, folder):
    """Write table_8.png and table_8.csv; return Markdown and claims."""
    results = list(report.by_data_set(result))
    figure, panels = report.subplots(14, 8 * len(results), len(results), 4, sharey=True, squeeze=False)  # without 1 km
    parts, lines, said = [], [], []
    for row, one in zip(panels, results, strict=True):
        numbers = np.array([[report.percent(own) for own in right] for right in one["hits"]])
        series = {name: (color, numbers[:, i]) for i, (name, color) in enumerate(SUMMARIES.items())}
        report.dots(row, list(LOSSES), series, PAPER)
        row[0].set_ylabel(str(one["title"]))
        for loss, own in zip(LOSSES, numbers, strict=True):
            for name, each in zip(SUMMARIES, own, strict=True):
                lines.append(([one["title"], loss, name], each, PAPER.get(loss, ()) if name == CENTER else ()))
        parts += [f"### {one['title']}", str(one["about"]), *tables(numbers, one["seconds"], one["hits"].shape[2])]
        said += claims(str(one["title"]), one["hits"])
    report.write_accuracies(folder / "table_8.csv", ["data", "loss", "summary"], lines)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    text = (
        "The noise schedule is the quickstart's where no other is named, and the exact skip is off but in the row that "
        "has it. A temperature divides the exponents of SHDD-KL's densities: small ones see one place, large ones tend "
        "to the squared error. A mixture of the two is no option of the program, and left out. The last claim tells "
        "whether densities as narrow as those of temperature 1 are learnt more slowly."
    )
    return "\n\n".join([report.save(figure, folder / "table_8.png"), text, *parts]), said


def tables(numbers, seconds, seeds):
    """Return the tables in Markdown by the centre and by every summary, of what `report.percent` returned for a data
    set (losses, summaries, thresholds, ...), and the seconds of training (losses,)."""
    protocol, summaries = [], []
    for loss, row, took in zip(LOSSES, numbers, seconds, strict=True):
        means = row[:, report.FAR, 0].round(1).tolist()
        protocol.append([loss, *report.cells(row[0], seeds), report.slashes(PAPER.get(loss, ()))])
        summaries.append([loss, *map(report.slashes, means), f"{took:.0f} s"])
    return (
        f"By the {CENTER}:",
        report.markdown_table(["per cent within", *report.KM, "paper, Im2GPS3k"], protocol),
        "By every summary of the same models, per cent within 200/750/2500 km; all thresholds with their intervals are "
        "in table_8.csv.",
        report.markdown_table(["", *SUMMARIES, "training"], summaries),
    )


def ahead(ours, theirs):
    """Return of two sorts of hits (seeds, n, thresholds) on the same pictures: whether ours are ahead from 200 km on,
    and this in words, with the differences in points there."""
    found, texts = report.points((ours - theirs).mean(axis=0)[:, report.FAR])
    _, low, high = found.T
    word = "ahead" if (low > 0).all() else "behind" if (high < 0).all() else "neither ahead nor behind"
    return word == "ahead", f"{word}: {' / '.join(texts)}"


def claims(data, right):
    """Return the claims about a data set of that name that SHDD-KL is far ahead of L2, by the hits (losses, summaries,
    seeds, n, thresholds)."""
    found = {(loss, name): right[i, j] for i, loss in enumerate(LOSSES) for j, name in enumerate(SUMMARIES)}
    papers = np.subtract(PAPER[KL], PAPER[L2])[report.FAR]
    points = report.gains(papers)
    gap = 100 * (found[KL + COSINE, CENTER] - found[L2 + COSINE, CENTER]).mean(axis=(0, 1))[report.FAR]
    said = []
    for schedule, name in ((COSINE, "the paper's"), ("", "the quickstart's")):
        for summary in (CENTER, MEAN):
            holds, ours = ahead(found[KL + schedule, summary], found[L2 + schedule, summary])
            paper = points if schedule and summary == CENTER else "not tried"
            claim = f"with {name} schedule SHDD-KL is ahead of L2 at 200/750/2500 km, by the {summary}"
            said.append(Claim(claim, paper, ours, holds, data))
    size, brief = "under the paper's protocol SHDD-KL is ahead of L2 by half of the paper's points", report.gains(gap)
    said.insert(1, Claim(size, points, brief, bool((gap > papers / 2).all()), data, brief))
    holds, ours = ahead(found[KL, MEAN], found[NEARLY_L2, MEAN])
    claim = f"temperature 1 is ahead of temperature 20, nearly the squared error, by the {MEAN}"
    return [*said, Claim(claim, "not tried", ours, holds, data)]
