"""Beside Figure 4(a): what a larger degree L, the low-pass filter, conformal zoom and retrieval do close by."""

import dataclasses

import comparison
import numpy as np
import report
import torch
from comparison import within
from context import timed_training
from figure_4_low_pass import low_pass

from locdiff.data import blue_marble
from locdiff.data.simulated import Simulation
from locdiff.evaluation import hybrid, retrieval
from locdiff.model.cs_unet import CSUNet
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.shdd import encode
from locdiff.training.settings import PRESETS, resolve

TITLE = "below the resolution limit: a larger degree L, the low-pass filter, conformal zoom, retrieval"
DATA = (
    "Blue Marble views without jitter and with the quickstart's, and the simulation of Table 1; or, with --data, the "
    "user's embeddings. The quickstart's network; for every method the same batches, each length of training with its "
    "own schedule of the learning rate, one seed. The intervals hold 95 % of the means of 1,000 draws of the test "
    "pictures with replacement."
)
ZOOM, RETRIEVAL, SAMPLES = "conformal zoom", "Retrieval", 16
HYBRID = hybrid.WEIGHED_HILLS.replace("LocDiffusion", ZOOM)
SHOWN = (1, 25, 200)  # km


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
        PRESETS["smoke"] | {"zoom_l_max": 4, "zoom_width": 32, "zoom_rank": 4}, (10, 20), (5, 7), 36, 40,
        (400, 40), Simulation(train_places=400, test_places=40, draws=1), 2_000,
    ),
    "cpu": Scale({}, (150, 600), (15, 23, 31), 576, 1000, (200_000, 1000), Simulation()),
    "paper": Scale(
        {"batch": 512}, (20_000, 200_000), (15, 23, 31, 47, 63), 2025, 10**9, (1_000_000, 5_000),
        Simulation(draws=50),
    ),
}  # fmt: skip


class LowPass(LocDiffusion):
    """A LocDiffusion that is given, and gives, only the dimensions of the largest coefficients (Appendix A.3)."""

    def __init__(self, kept, config):
        super().__init__(config)
        places = report.random_places(4000, torch.Generator().manual_seed(0))
        self.register_buffer("mask", low_pass(encode(places, config.l_max).abs().amax(dim=0), kept).float())
        whiten = config.whiten > 0
        self.network = CSUNet(
            kept, config.embed_dim, config.width, config.depth, config.time_dim, config.dropout, whiten
        )

    def forward(self, x_t, t, embeddings):
        return super().forward(x_t * self.mask, t, embeddings)

    def _network(self, x_t, t, embeddings):
        index = self.mask.nonzero()[:, 0]
        found = super()._network(x_t[..., index], t, embeddings)
        return found.new_zeros(*found.shape[:-1], len(self.mask)).index_copy(-1, index, found)


def data_sets(context):
    """The data sets as comparison.Data."""
    scale = SCALES[context.scale]
    if context.data:
        return [comparison.own(context, scale)]
    plain = blue_marble.BlueMarble(*scale.views, rotation=0.0, scale=1.0, color=0.0)
    views = {"without jitter": plain, "with mild jitter": blue_marble.BlueMarble(*scale.views)}
    views = [comparison.Data(f"Blue Marble {how}", blue_marble.blue_marble(v), scale) for how, v in views.items()]
    return [*views, comparison.simulated(context, scale)]


def methods(scale):
    """{name: (make(data, config) -> model, its settings, its dimensions)} of what is trained."""
    found = {f"L = {l}": (lambda _, config: LocDiffusion(config), {"l_max": l}, (l + 1) ** 2) for l in scale.degrees}
    largest = {"l_max": max(scale.degrees)}
    found["low-pass filter"] = (lambda _, config: LowPass(scale.kept, config), largest, scale.kept)
    model = resolve("zoom", **scale.training).model
    size = (model.l_max + 1) ** 2 + (model.levels - 1) * (model.zoom_l_max + 1) ** 2
    return found | {ZOOM: (lambda _, config: LocDiffusion(config), {"levels": model.levels}, size)}


def compute(context):
    """For each data set i its title_i, what there is, about_i, and whether retrieval and the hybrids, others_i, are
    right, other_hits_i (others, n, thresholds). Of what is trained, `names`, with `dimensions` and `steps`: whether
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
    tops = [model.posterior(chunk).modes()[0][:, 0] for chunk in data.embeddings.split(100)]
    places = {"hits": torch.cat(tops)}
    if last:
        samples = model.sample_places(data.embeddings, SAMPLES)
        places[RETRIEVAL] = retrieval.retrieve(*data.search())
        places |= hybrid.predict_hybrid(model, data.embeddings, samples, *data.search(), data.truth)
    return {name: within(found, data.truth) for name, found in places.items()} | cost


def key_numbers(result):
    """Accuracies within 25 and 200 km after the longest training, give or take what another may."""
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
    """Write figure_4a_zoom.png and .csv; Markdown and verdict."""
    count, names, steps = _count(result), result["names"].tolist(), result["steps"].tolist()
    figure, panels = report.subplots(19, 8.5, len(SHOWN), 2 * count, squeeze=False)
    parts, lines, verdicts = [], [], []
    for i in range(count):
        right, others = result[f"hits_{i}"], result[f"others_{i}"].tolist()
        numbers = np.array([[report.percent(one) for one in method] for method in right])  # (names, steps, k, 3)
        other = dict(zip(others, (report.percent(one) for one in result[f"other_hits_{i}"]), strict=True))
        rows = []
        for row, km in zip(panels[:, 2 * i : 2 * i + 2], SHOWN, strict=True):
            k = THRESHOLDS_KM.index(km)
            _draw_pair(row, result, i, numbers[:, :, k], {name: own[k, 0] for name, own in other.items()})
            row[0].set_ylabel(f"% within {km} km")
        panels[0, 2 * i].set_title(str(result[f"title_{i}"]).split(":")[0], loc="left")
        for name, size, own, seconds in zip(names, result["dimensions"], numbers, result[f"seconds_{i}"], strict=True):
            for count_of_steps, one, took in zip(steps, own, seconds, strict=True):
                rows.append([name, size, f"{count_of_steps:,}", f"{took:.0f}", *report.cells(one)])
                lines.append(([str(result[f"title_{i}"]), name, size, count_of_steps], one, (), f"{took:.0f}"))
        for name, one in other.items():
            rows.append([name, "", "", "", *report.cells(one)])
            lines.append(([str(result[f"title_{i}"]), name, "", ""], one, (), ""))
        header = ["per cent within", "dimensions", "steps", "training, s", *report.KM]
        text, said = _compare(result, i)
        title = str(result[f"title_{i}"])
        parts += [f"### {title}", str(result[f"about_{i}"]), report.markdown_table(header, rows), text]
        verdicts.append(f"{title.split(':')[0]}: {said}")
    figure.legend(*panels[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    report.write_accuracies(
        folder / "figure_4a_zoom.csv", ["data", "method", "dimensions", "steps"], lines, ["seconds"]
    )
    return "\n\n".join([report.save(figure, folder / "figure_4a_zoom.png"), *parts]), " ".join(verdicts)


def _draw_pair(row, result, i, numbers, other):
    """Accuracy over the dimension, of the longest training, and over the training time; numbers (names, steps, 3)."""
    names, dimensions, seconds = result["names"].tolist(), result["dimensions"], result[f"seconds_{i}"]
    degrees = [j for j, name in enumerate(names) if name.startswith("L =")]
    marks = {"low-pass filter": ("x", report.RED), ZOOM: ("*", report.GREEN)}
    report.band(row[0], dimensions[degrees], numbers[degrees, -1], report.BLUE, "degree L")
    for j in degrees:
        row[0].annotate(names[j][4:], (dimensions[j], numbers[j, -1, 0]), fontsize=7)
        row[1].plot(seconds[j], numbers[j, :, 0], ".-", color=report.BLUE, alpha=0.3 + 0.7 * j / len(names))
        row[1].annotate(names[j][4:], (seconds[j, -1], numbers[j, -1, 0]), fontsize=7)
    row[1].plot([], [], ".-", color=report.BLUE, label="degree L (written beside)")
    for name, (mark, colour) in marks.items():
        j = names.index(name)
        mean, low, high = numbers[j, -1]
        error = [[mean - low], [high - mean]]
        row[0].errorbar(dimensions[j], mean, error, fmt=mark, color=colour, markersize=9)
        row[1].plot(seconds[j], numbers[j, :, 0], f"{mark}-", color=colour, label=name)
    for name, style, colour in ((RETRIEVAL, ":", "black"), (HYBRID, "--", report.GREEN)):
        for ax in row:
            ax.axhline(other[name], linestyle=style, color=colour, linewidth=1, label=name)
    for ax, label in zip(row, ("dimensions", "training, s"), strict=True):
        ax.set(xlabel=label, ylim=(0, None))
        ax.grid(alpha=0.3)


def _compare(result, i):
    """What zoom gains over the best degree at each distance, and the hybrid over both its parts; text and verdict."""
    names, others = result["names"].tolist(), result[f"others_{i}"].tolist()
    right, other = result[f"hits_{i}"][:, -1].astype(float), result[f"other_hits_{i}"].astype(float)
    zoom, hybrid, found = right[names.index(ZOOM)], other[others.index(HYBRID)], other[others.index(RETRIEVAL)]
    single = right[[name.startswith("L =") for name in names]]
    best = np.take_along_axis(single, single.mean(axis=1).argmax(axis=0)[None, None], axis=0)[0]
    better = np.where(found.mean(axis=0) > zoom.mean(axis=0), found, zoom)
    gains, texts = report.points(zoom - best)
    both, both_texts = report.points(hybrid - better)
    lists = [
        ", ".join(f"{km} {text}" for km, text in zip(report.KM, list_, strict=True)) for list_ in (texts, both_texts)
    ]
    k = THRESHOLDS_KM.index(25)
    times = f"{zoom[:, k].mean() / max(best[:, k].mean(), 1e-9):.1f} times the best single level's accuracy at 25 km"
    losses = [km for km, end in zip(report.KM, gains[:, 2], strict=True) if end < 0]
    lost = f"loses at {', '.join(losses)}" if losses else "loses nowhere"
    beats = both[k, 1] > 0
    text = (
        f"Differences in points with their 95 % intervals, on the same pictures. {ZOOM.capitalize()} against the best "
        f"degree at each distance: {lists[0]}. {HYBRID}, against the better of {ZOOM} and retrieval: {lists[1]}."
    )
    said = "beats" if beats else "does not beat"
    return text, f"{ZOOM} has {times} and {lost}; weighed with retrieval it {said} both its parts at 25 km."
