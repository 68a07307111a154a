"""Beside Figure 4(a): what a larger degree L, the low-pass filter, conformal zoom and retrieval do close by."""

import dataclasses

import data_sets as sets
import numpy as np
import report
import torch
from artefact import Claim
from comparison import posteriors, within
from context import timed_training
from figure_4_low_pass import low_pass

from locdiff.data.blue_marble import BlueMarble, blue_marble
from locdiff.data.simulated import Simulation
from locdiff.evaluation import hybrid, retrieval
from locdiff.model.cs_unet import CSUNet
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.shdd import encode
from locdiff.training.settings import PRESETS, infer_data_fields, resolve

TITLE = "below the resolution limit: a larger degree L, the low-pass filter, conformal zoom, retrieval"
DATA = (
    "Blue Marble views without jitter and with the quickstart's, and the simulation of Table 1; or, with --data, the "
    "user's embeddings. The quickstart's network; for every method the same batches, each length of training with its "
    "own schedule of the learning rate, one seed. The intervals hold 95 % of the means of 1,000 draws of the test "
    "pictures with replacement."
)
ZOOM, RETRIEVAL, SAMPLES = "conformal zoom", "Retrieval", 16
HYBRID = hybrid.WEIGHED_MODES.replace("LocDiffusion", ZOOM)
SHOWN = (1, 25, 200)  # km
OURS = "not in the paper"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large it is. A filter keeps some of the dimensions of the largest degree."""

    training: dict  # settings that differ from the quickstart's
    steps: tuple  # lengths of training, the last of which is compared
    degrees: tuple
    kept: int
    pictures: int  # to test on, at most
    views: tuple  # to train and to test on
    simulation: Simulation
    gallery: int = 100_000  # places of the simulation's gallery


SCALES = {
    "smoke": Scale(
        PRESETS["smoke"] | {"zoom_l_max": 4, "zoom_width": 32, "zoom_rank": 4, "zoom_nside": 8}, (10, 20), (5, 7), 36,
        40, (400, 40), Simulation(train_places=400, test_places=40, draws=1), 2_000,
    ),
    "cpu": Scale({}, (150, 600), (15, 23, 31), 576, 1000, (200_000, 1000), Simulation()),
    "full": Scale({}, (1_500,), (15, 23, 31), 576, 1000, (200_000, 1000), Simulation()),
    "paper": Scale(
        {"batch": 512}, (20_000, 200_000), (15, 23, 31, 47, 63), 2025, 10**9, (1_000_000, 5_000),
        Simulation(draws=50),
    ),
}  # fmt: skip


class LowPass(LocDiffusion):
    """A LocDiffusion that is given, and gives, only the dimensions of the largest coefficients (Appendix A.3)."""

    def __init__(self, kept, config):
        super().__init__(config)
        n, places = config.network, report.random_places(4000, torch.Generator().manual_seed(0))
        self.register_buffer("mask", low_pass(encode(places, n.l_max).abs().amax(dim=0), kept).float())
        self.network = CSUNet(kept, config.embed_dim, n.width, n.depth, n.time_dim, n.dropout, n.whiten > 0)

    def forward(self, x_t, t, embeddings):
        return super().forward(x_t * self.mask, t, embeddings)

    def _network(self, x_t, t, embeddings):
        index = self.mask.nonzero()[:, 0]
        found = super()._network(x_t[..., index], t, embeddings)
        return found.new_zeros(*found.shape[:-1], len(self.mask)).index_copy(-1, index, found)


def data_sets(context):
    """Return the data sets as sets.Data."""
    scale = SCALES[context.scale]
    if context.data:
        return [sets.own(context, scale)]
    plain = BlueMarble(*scale.views, rotation=0.0, scale=1.0, color=0.0)
    views = {"without jitter": plain, "with mild jitter": BlueMarble(*scale.views)}
    views = [sets.Data(f"Blue Marble {how}", blue_marble(v), scale) for how, v in views.items()]
    return [*views, sets.simulated(context, scale)]


def methods(scale):
    """Return {name: (make(data, config) -> model, its settings, its dimensions)} of what is trained."""
    found = {f"L = {l}": (lambda _, config: LocDiffusion(config), {"l_max": l}, (l + 1) ** 2) for l in scale.degrees}
    largest = {"l_max": max(scale.degrees)}
    found["low-pass filter"] = (lambda _, config: LowPass(scale.kept, config), largest, scale.kept)
    model = resolve("zoom", **scale.training).model
    levels = model.refinement.levels
    size = model.network.dimensions + (levels - 1) * (model.refinement.zoom_l_max + 1) ** 2
    return found | {ZOOM: (lambda _, config: LocDiffusion(config), {"levels": levels}, size)}


def compute(context):
    """Return for each data set i its title_i, what there is, about_i, and whether retrieval and the hybrids, others_i,
    are right, other_hits_i (others, n, thresholds). Of what is trained, `names`, with `dimensions` and `steps`: whether
    it is right, hits_i (names, steps, n, thresholds), and its training time, seconds_i (names, steps)."""
    scale, result = SCALES[context.scale], {}
    trained = methods(scale)
    for i, data in enumerate(data_sets(context)):
        hits, seconds = [], []
        for name, (make, settings, _) in trained.items():
            pieces = []
            for steps in scale.steps:
                settings = settings | {"steps": steps}
                last = name == ZOOM and steps == scale.steps[-1]
                resolved = infer_data_fields(resolve("quickstart", **scale.training | settings), data.train)
                key = [data.key, name, last, dataclasses.asdict(resolved.model), dataclasses.asdict(resolved.training)]
                pieces.append(context.piece("zoom", key, lambda a=(data, make, resolved, last): _train(*a)))
            hits.append([piece["hits"] for piece in pieces])
            seconds.append([piece["seconds"] for piece in pieces])
        others = [name for name in pieces[-1] if name.startswith(("LocDiffusion", RETRIEVAL))]
        result |= {
            f"title_{i}": data.title, f"hits_{i}": hits, f"seconds_{i}": seconds,
            f"about_{i}": f"{len(data.train):,} pictures to train on, {len(data.truth):,} to test on.",
            f"others_{i}": [name.replace("LocDiffusion", ZOOM) for name in others],
            f"other_hits_{i}": [pieces[-1][name] for name in others],
        }  # fmt: skip
    result |= {"names": list(trained), "dimensions": [size for *_, size in trained.values()], "steps": scale.steps}
    return {name: np.array(value) for name, value in result.items()}


def _train(data, make, settings, last):
    model, cost = timed_training(make, data.train, settings)
    modes, samples = [], []
    for start, posterior in posteriors(model, data.embeddings):
        modes.append(posterior.modes()[0][:, 0])
        samples += [posterior.sample(SAMPLES, first=start)] if last else []
    places = {"hits": torch.cat(modes)}
    if last:
        places[RETRIEVAL] = retrieval.retrieve(*data.search())
        places |= hybrid.predict_hybrid(model, data.embeddings, torch.cat(samples), *data.search(), data.truth)
    return {name: within(found, data.truth) for name, found in places.items()} | cost


def key_numbers(result):
    """Return accuracies within 25 and 200 km after the longest training, give or take what another may."""
    numbers = {}
    for i in range(_count(result)):
        names = [f"{i}: {name}" for name in (*result["names"], *result[f"others_{i}"])]
        right = np.concatenate([result[f"hits_{i}"][:, -1], result[f"other_hits_{i}"]])
        for k in (25, 200):
            numbers |= report.accuracies_of(names, [f"{k} km"], right, k, 7)
    return numbers


def _count(result):
    return sum(name.startswith("title_") for name in result)


def draw(result, folder):
    """Write figure_4a_zoom.png and .csv; return Markdown and claims."""
    count = _count(result)
    figure, panels = report.subplots(19, 8.5, len(SHOWN), 2 * count, squeeze=False)
    parts, lines, said = [], [], []
    for i in range(count):
        title = str(result[f"title_{i}"])
        numbers = np.array([[report.percent(one) for one in method] for method in result[f"hits_{i}"]])
        other = {
            name: report.percent(one)
            for name, one in zip(result[f"others_{i}"].tolist(), result[f"other_hits_{i}"], strict=True)
        }
        for row, km in zip(panels[:, 2 * i : 2 * i + 2], SHOWN, strict=True):
            k = THRESHOLDS_KM.index(km)
            _draw_pair(row, result, i, numbers[:, :, k], {name: own[k, 0] for name, own in other.items()})
            row[0].set_ylabel(f"% within {km} km")
        panels[0, 2 * i].set_title(title.split(":")[0], loc="left")
        rows = list(_rows(result, i, numbers, other))
        lines += [([title, name, size, steps], one, (), seconds) for name, size, steps, seconds, one in rows]
        rows = [
            [name, size, steps and f"{steps:,}", seconds, *report.cells(one)]
            for name, size, steps, seconds, one in rows
        ]
        header = ["per cent within", "dimensions", "steps", "training, s", *report.KM]
        parts += [f"### {title}", str(result[f"about_{i}"]), report.markdown_table(header, rows)]
        said += claims(result, i)
    figure.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    labels = ["data", "method", "dimensions", "steps"]
    report.write_accuracies(folder / "figure_4a_zoom.csv", labels, lines, ["seconds"])
    return "\n\n".join([report.save(figure, folder / "figure_4a_zoom.png"), *parts]), said


def _rows(result, i, numbers, other):
    """Yield name, dimensions, steps, seconds and accuracies (thresholds, 3) of what was trained, numbers (names, steps,
    thresholds, 3), and of the `other` methods, {name: accuracies}."""
    steps = result["steps"].tolist()
    for name, size, own, seconds in zip(
        result["names"].tolist(), result["dimensions"], numbers, result[f"seconds_{i}"], strict=True
    ):
        for count, one, took in zip(steps, own, seconds, strict=True):
            yield name, size, count, f"{took:.0f}", one
    for name, one in other.items():
        yield name, "", "", "", one


def _draw_pair(row, result, i, numbers, other):
    """Draw accuracy over the dimension, of the longest training, and over the training time; numbers (names, steps,
    3)."""
    names, dimensions, seconds = result["names"].tolist(), result["dimensions"], result[f"seconds_{i}"]
    degrees = [j for j, name in enumerate(names) if name.startswith("L =")]
    marks = {"low-pass filter": ("x", report.RED), ZOOM: ("*", report.GREEN)}
    report.band(row[0], dimensions[degrees], numbers[degrees, -1], report.BLUE, "degree L")
    for j in degrees:
        row[0].annotate(names[j][4:], (dimensions[j], numbers[j, -1, 0]), fontsize=7)
        row[1].plot(seconds[j], numbers[j, :, 0], ".-", color=report.BLUE, alpha=0.3 + 0.7 * j / len(names))
        row[1].annotate(names[j][4:], (seconds[j, -1], numbers[j, -1, 0]), fontsize=7)
    row[1].plot([], [], ".-", color=report.BLUE, label="degree L (written beside)")
    for name, (mark, color) in marks.items():
        j = names.index(name)
        mean, low, high = numbers[j, -1]
        error = [[mean - low], [high - mean]]
        row[0].errorbar(dimensions[j], mean, error, fmt=mark, color=color, markersize=9)
        row[1].plot(seconds[j], numbers[j, :, 0], f"{mark}-", color=color, label=name)
    for name, style, color in ((RETRIEVAL, ":", "black"), (HYBRID, "--", report.GREEN)):
        for ax in row:
            ax.axhline(other[name], linestyle=style, color=color, linewidth=1, label=name)
    for ax, label in zip(row, ("dimensions", "training, s"), strict=True):
        ax.set(xlabel=label, ylim=(0, None))
        ax.grid(alpha=0.3)


def claims(result, i):
    """Return the claims about data set i: what zoom gains over the best degree at each distance, and the hybrid over
    both its parts, by differences on the same pictures."""
    names, others = result["names"].tolist(), result[f"others_{i}"].tolist()
    right, other = result[f"hits_{i}"][:, -1].astype(float), result[f"other_hits_{i}"].astype(float)
    zoom, both, found = right[names.index(ZOOM)], other[others.index(HYBRID)], other[others.index(RETRIEVAL)]
    single = right[[name.startswith("L =") for name in names]]
    best = np.take_along_axis(single, single.mean(axis=1).argmax(axis=0)[None, None], axis=0)[0]
    better = np.where(found.mean(axis=0) > zoom.mean(axis=0), found, zoom)
    (gains, texts), (added, both_texts) = report.points(zoom - best), report.points(both - better)
    k, data = THRESHOLDS_KM.index(25), str(result[f"title_{i}"]).split(":")[0]
    losses = [km for km, end in zip(report.KM, gains[:, 2], strict=True) if end < 0]
    times = f"{zoom[:, k].mean() / max(best[:, k].mean(), 1e-9):.1f} times the best degree's accuracy"
    ours = f"in points: {report.at_each(texts)}"
    return [
        Claim(f"{data}: {ZOOM} is ahead of the best degree L at 25 km", OURS, times, bool(gains[k, 1] > 0)),
        Claim(
            f"{data}: nor is it behind at any distance",
            OURS,
            f"{ours}; behind at {', '.join(losses) or 'none'}",
            not losses,
        ),
        Claim(
            f"{data}: weighed with retrieval it is ahead of both at 25 km",
            OURS,
            f"{HYBRID}, less the better of {ZOOM} and retrieval, in points: {report.at_each(both_texts)}",
            bool(added[k, 1] > 0),
        ),
    ]
