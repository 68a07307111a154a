"""Figure 4(a): accuracy over the degree L, and what an encoding of degree L can resolve at all."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from matplotlib.figure import Figure
from report import markdown_table, with_interval, write_csv

from locdiff import datasets, decoder, shdd, train
from locdiff.coordinates import EARTH_RADIUS_KM, from_unit_vector, geographic_center, great_circle_km
from locdiff.metrics import THRESHOLDS_KM, bootstrap, hits

TITLE = "accuracy over the degree L, and the resolution limit of the encoding"
DATA = (
    "Blue Marble views with mild jitter or, with --data, the user's embeddings; for every L the same settings, batches "
    "and number of steps, one seed. For the limit, places drawn uniformly on the sphere."
)
SAMPLES, NOISE_VARIANCE = 16, 0.01
HILL, CENTRE = "one pass, top of the most probable hill", f"centre of {SAMPLES} samples (the paper's)"
METHODS = (HILL, CENTRE)
PAPER = {  # Im2GPS3k; the figure's own values stand nowhere in the text
    23: ("Table 2", (0.57, 11.1, 44.42, 68.35, 82.50)),
    31: ("Table 9", (5.1, 27.2, 50.9, 71.2, 84.1)),
    47: ("Table 1", (10.9, 34.0, 53.3, 72.5, 85.2)),
}
COLOURS = ("#CC79A7", "#D55E00", "#E69F00", "#009E73", "#0072B2")


@dataclass(frozen=True)
class Scale:
    """`training` are the settings that differ from the quickstart's, besides l_max; `places` are for the limit."""

    degrees: tuple
    training: dict
    pictures: int
    blue_marble: datasets.BlueMarble = field(default_factory=datasets.BlueMarble)
    places: int = 1000


SCALES = {
    "smoke": Scale(
        (5, 7), train.PRESETS["smoke"] | {"steps": 20, "sample_steps": 2}, 40, datasets.BlueMarble(400, 40), 40
    ),
    "cpu": Scale((15, 23, 31, 47, 63), {"batch": 64, "steps": 200, "sample_steps": 2}, 500),
    "paper": Scale(
        (15, 23, 31, 47, 63), {"batch": 512, "steps": 200_000, "sample_steps": 100}, 10**9,
        datasets.BlueMarble(1_000_000, 5_000), 10_000,
    ),
}  # fmt: skip


def compute(context):
    """Whether each method is right at each degree, hits (degrees, METHODS, n, thresholds); the decoding errors in km of
    noisy encodings, errors (degrees, places); training seconds; about."""
    scale = SCALES[context.scale]
    folder = context.data or datasets.blue_marble(scale.blue_marble)
    pictures, test = datasets.train_and_test(folder, 0)
    embeddings, truth = test.batch(np.linspace(0, len(test) - 1, min(len(test), scale.pictures)).astype(int))
    right, errors, seconds = [], [], []
    for l_max in scale.degrees:
        settings = train.resolve(**scale.training | {"l_max": l_max})
        model, cost = context.trained(settings, folder)
        key = [str(folder), len(truth), repr(settings)]
        piece = context.piece(f"degree-{l_max}", key, lambda model=model: _hits(model, embeddings, truth))
        right.append(piece["hits"])
        seconds.append(cost["seconds"])
        errors.append(context.piece(f"limit-{l_max}", scale.places, lambda l=l_max: _limit(l, scale.places))["errors"])
    steps, batch = settings.training.steps, settings.training.batch
    return {
        "degrees": np.array(scale.degrees),
        "hits": np.array(right),
        "errors": np.array(errors),
        "seconds": np.array(seconds),
        "about": f"{len(pictures):,} pictures to train on, {len(truth):,} to test on, embeddings by {test.encoder}; "
        f"{steps:,} steps of {batch}; {settings.model.sample_steps} sampler steps.",
    }


def _hits(model, embeddings, truth):
    coeffs = model.one_pass(embeddings)
    top = model.modes(coeffs, model.to_density(coeffs))[0][:, 0]
    samples = model.decode(model.sample(embeddings, SAMPLES))
    places = (top, geographic_center(samples.double()))
    return {"hits": np.stack([hits(place, truth).numpy() for place in places])}


def _limit(l_max, count):
    generator = torch.Generator().manual_seed(0)
    places = from_unit_vector(torch.randn(count, 3, dtype=torch.float64, generator=generator))
    coeffs = shdd.encode(places, l_max)
    coeffs = coeffs + NOISE_VARIANCE**0.5 * torch.randn(coeffs.shape, generator=generator)
    return {"errors": great_circle_km(decoder.exact_mode(coeffs)[0], places).numpy()}


def cramer_rao_km(l_max):
    """The least mean distance of an unbiased decoder of noisy encodings: R s sqrt(pi / 2) / sqrt(K2), s^2 being the
    noise's variance and K2 = sum_l l (l + 1) / 2 (2 l + 1) / (4 pi), the curvature of the peak."""
    l = np.arange(l_max + 1)
    curvature = (l * (l + 1) / 2 * (2 * l + 1) / (4 * np.pi)).sum()
    return EARTH_RADIUS_KM * math.sqrt(NOISE_VARIANCE * math.pi / 2 / curvature)


def key_numbers(result):
    """Accuracies within 750 km, give or take what another training may; the mean decoding errors, by the bound."""
    percent = 100 * result["hits"][..., THRESHOLDS_KM.index(750)].mean(axis=2)
    rows = zip(result["degrees"], percent, strict=True)
    numbers = {f"L = {L}, {name}": (p, 9) for L, row in rows for name, p in zip(METHODS, row, strict=True)}
    errors = zip(result["degrees"], result["errors"].mean(axis=1), strict=True)
    return numbers | {f"L = {L}, mean error in km": (error, 0.05 * error) for L, error in errors}


def draw(result, folder):
    """Write figure_4a.png and .csv; Markdown and verdict."""
    degrees, lines, rows = result["degrees"].tolist(), [], []
    figure = Figure(figsize=(13.5, 5), dpi=120, layout="constrained")
    *panels, limits = figure.subplots(1, 3)
    for i, (ax, method) in enumerate(zip(panels, METHODS, strict=True)):
        mean = 100 * result["hits"][:, i].mean(axis=1)
        ends = np.array([100 * bootstrap(right) for right in result["hits"][:, i]])  # (degrees, 2, thresholds)
        for k, (threshold, colour) in enumerate(zip(THRESHOLDS_KM, COLOURS, strict=True)):
            ax.plot(degrees, mean[:, k], "o-", color=colour, label=f"{threshold:,} km")
            ax.fill_between(degrees, *ends[..., k].T, color=colour, alpha=0.2, linewidth=0)
            published = [(l, values[k]) for l, (_, values) in PAPER.items()]
            ax.plot(*zip(*published, strict=True), "s:", color=colour, fillstyle="none", markersize=6)
            for j, l in enumerate(degrees):
                paper = PAPER.get(l, ("", {k: ""}))[1][k]
                lines.append([method, l, threshold, mean[j, k], *ends[j, :, k], paper])
        for j, l in enumerate(degrees):
            rows.append([l, method, *(with_interval(*cell) for cell in zip(mean[j], *ends[j], strict=True))])
        ax.set(title=method, xlabel="degree L", ylim=(0, 100), xticks=degrees)
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("per cent right")
    panels[0].plot([], [], "s:", color="grey", fillstyle="none", label="the paper's")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=6)
    error = result["errors"].mean(axis=1)
    ends = np.array([bootstrap(part) for part in result["errors"]]).reshape(-1, 2)
    bound = [cramer_rao_km(l) for l in degrees]
    limits.semilogy(degrees, 20000 / np.array(degrees), "s:", color="grey", label="the paper's, 20000 km / L")
    limits.errorbar(degrees, error, np.abs(ends.T - error), fmt="o-", color="#0072B2", capsize=4, label="measured")
    limits.semilogy(degrees, bound, "x--", color="#D55E00", label="Cramer-Rao bound")
    limits.set(
        title=f"exact mode under noise of variance {NOISE_VARIANCE}", xlabel="degree L", ylabel="mean error, km",
        xticks=degrees,
    )  # fmt: skip
    limits.grid(alpha=0.3, which="both")
    limits.legend(fontsize=9)
    figure.savefig(folder / "figure_4a.png")

    write_csv(folder / "figure_4a.csv", ["method", "L", "within km", "per cent", "low", "high", "paper"], lines)
    rows = sorted(rows, key=lambda row: row[0])
    rows += [[l, f"the paper's, {table}", *values] for l, (table, values) in PAPER.items()]
    accuracy = markdown_table(["L", "per cent within", *(f"{k} km" for k in THRESHOLDS_KM)], rows)
    header = ["L", "mean error, km", "Cramer-Rao bound, km", "20000 / L, km", "training, s"]
    cells = zip(degrees, error, ends, bound, result["seconds"], strict=True)
    resolution = markdown_table(
        header, [[l, with_interval(e, *i), f"{b:.1f}", f"{20000 / l:.0f}", f"{s:.0f}"] for l, e, i, b, s in cells]
    )
    text = (
        f"{result['about']} Bands: 95 % intervals over the test pictures. Of the figure's own values the paper's text "
        "has those at L = 23, 31 and 47, of photographs; at 23 the anchors are places of MP-16, and 31 has w = 32. "
        "Right: what an encoding with noise of the paper's Table 7 can be decoded to, whatever the model."
    )
    return f"![figure 4a](figure_4a.png)\n\n{text}\n\n{accuracy}\n\n{resolution}", verdict(result)


def verdict(result):
    """Does a larger L help, and most at the small distances? From the paired differences between the degrees."""
    degrees, right = result["degrees"].tolist(), result["hits"]
    a, b = min(degrees), 47 if 47 in degrees else max(degrees)
    gain = 100.0 * right[degrees.index(b), 0] - 100.0 * right[degrees.index(a), 0]
    mean, (low, high) = gain.mean(axis=0), bootstrap(gain)
    gains = "; ".join(
        f"{k} km {m:+.1f} [{l:+.1f}, {h:+.1f}]" for k, m, l, h in zip(THRESHOLDS_KM, mean, low, high, strict=True)
    )
    small = [k for k, l in zip(THRESHOLDS_KM, low, strict=True) if l > 0 and k <= 200]
    worse = [k for k, h in zip(THRESHOLDS_KM, high, strict=True) if h < 0]
    if small and not worse:
        said = "reproduced: a larger L helps, " + ("most" if max(mean[:3]) > max(mean[3:]) else "but not most") + (
            " at the small distances"
        )  # fmt: skip
    else:
        lost = f"loses within {' and '.join(map(str, worse))} km" if worse else "gains nothing"
        said = f"differs: with these steps a larger L {lost}, because a larger network has learnt less by then"
    errors = result["errors"].mean(axis=1)
    best = [degrees[i] for i in right[:, 0].mean(axis=1).argmax(axis=0)]
    peaks = ", ".join(f"{k} km L = {l}" for k, l in zip(THRESHOLDS_KM, best, strict=True) if k >= 25)
    ratio, coarse = errors / [cramer_rao_km(l) for l in degrees], 20000 / np.array(degrees) / errors
    return (
        f"{said}. From L = {a} to {b}, in points: {gains}. Most right: {peaks}. The limit of the encoding itself falls "
        f"from {errors[0]:.1f} to {errors[-1]:.1f} km, {ratio.min():.2f} to {ratio.max():.2f} times the Cramer-Rao "
        f"bound; the paper's 20000 km / L is {coarse.min():.0f} to {coarse.max():.0f} times as much."
    )
