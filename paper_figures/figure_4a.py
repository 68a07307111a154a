"""Figure 4(a): accuracy over the degree L, and what an encoding of degree L can resolve at all."""

import math

import numpy as np
import report
import torch
from artefact import Claim
from comparison import posteriors, within
from data_sets import Experiment, pictures

from locdiff.data.blue_marble import BlueMarble
from locdiff.sphere import decoder, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, geographic_center, great_circle_km
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.training.settings import PRESETS

TITLE = "accuracy over the degree L, and the resolution limit of the encoding"
DATA = (
    "Blue Marble views with mild jitter or, with --data, the user's embeddings; for every L the same settings, batches "
    "and number of steps, one seed. For the limit, places drawn uniformly on the sphere."
)
SAMPLES, NOISE_VARIANCE = 16, 0.01
MODE, CENTER = "one pass, most probable mode", f"centre of {SAMPLES} samples (the paper's)"
METHODS = (MODE, CENTER)
PAPER = {  # Im2GPS3k; the figure's own values stand nowhere in the text
    23: ("Table 2", (0.57, 11.1, 44.42, 68.35, 82.50)),
    31: ("Table 9", (5.1, 27.2, 50.9, 71.2, 84.1)),
    47: ("Table 1", (10.9, 34.0, 53.3, 72.5, 85.2)),
}
COLORS = ("#CC79A7", report.RED, "#E69F00", report.GREEN, report.BLUE)
SCALES = {
    "smoke": Experiment(PRESETS["smoke"] | {"steps": 20, "sample_steps": 2}, 40, BlueMarble(400, 40)),
    "cpu": Experiment({"batch": 64, "steps": 200, "sample_steps": 2}, 500),
    "full": Experiment({"steps": 800, "sample_steps": 2}, 1_000),
    "paper": Experiment({"batch": 512, "steps": 200_000, "sample_steps": 100}, 10**9, BlueMarble(1_000_000, 5_000)),
}
DEGREES = {"smoke": (5, 7), "cpu": (15, 23, 31, 47, 63), "full": (15, 23, 31, 47), "paper": (15, 23, 31, 47, 63)}
PLACES = {"smoke": 40, "cpu": 1000, "full": 1000, "paper": 10_000}  # for the limit


def compute(context):
    """Return whether each method is right at each degree, hits (degrees, METHODS, n, thresholds); the decoding errors
    in km of noisy encodings, errors (degrees, places); training seconds; about."""
    data, places = pictures(context, SCALES[context.scale]), PLACES[context.scale]
    hits, errors, seconds = [], [], []
    for l_max in DEGREES[context.scale]:
        settings = data.settings(l_max=l_max)
        model, cost = context.trained(settings, data.folder, data.train)
        key = [str(data.folder), len(data.truth), repr(settings)]
        piece = context.piece(f"degree-{l_max}", key, lambda model=model: _hits(model, data.embeddings, data.truth))
        hits.append(piece["hits"])
        seconds.append(cost["seconds"])
        errors.append(context.piece(f"limit-{l_max}", places, lambda l=l_max: _limit(l, places))["errors"])
    found = {"degrees": DEGREES[context.scale], "hits": hits, "errors": errors, "seconds": seconds}
    return {name: np.array(values) for name, values in found.items()} | {"about": data.about(), "title": data.title}


def _hits(model, embeddings, truth):
    modes, centers = [], []
    for start, posterior in posteriors(model, embeddings):
        modes.append(posterior.modes()[0][:, 0])
        centers.append(geographic_center(posterior.sample(SAMPLES, first=start).double()))
    return {"hits": np.stack([within(torch.cat(places), truth) for places in (modes, centers)])}


def _limit(l_max, count):
    generator = torch.Generator().manual_seed(0)
    places = report.random_places(count, generator)
    coeffs = shdd.encode(places, l_max)
    coeffs = coeffs + NOISE_VARIANCE**0.5 * torch.randn(coeffs.shape, generator=generator)
    return {"errors": great_circle_km(decoder.exact_mode(coeffs)[0], places).numpy()}


def cramer_rao_km(l_max):
    """Return the least mean distance of an unbiased decoder of noisy encodings: R s sqrt(pi / 2) / sqrt(K2), s^2 being
    the noise's variance and K2 = sum_l l (l + 1) / 2 (2 l + 1) / (4 pi), the curvature of the peak."""
    l = np.arange(l_max + 1)
    curvature = (l * (l + 1) / 2 * (2 * l + 1) / (4 * np.pi)).sum()
    return EARTH_RADIUS_KM * math.sqrt(NOISE_VARIANCE * math.pi / 2 / curvature)


def key_numbers(result):
    """Return accuracies within 750 km, give or take what another training may; the mean decoding errors, by the
    bound."""
    rows = [f"L = {L}" for L in result["degrees"]]
    errors = zip(rows, result["errors"].mean(axis=1), strict=True)
    numbers = report.accuracies_of(rows, METHODS, result["hits"], 750, 9)
    return numbers | {f"{row}, mean error in km": (error, 0.05 * error) for row, error in errors}


def draw(result, folder):
    """Write figure_4a.png and .csv; return Markdown and claims."""
    degrees, lines, rows = result["degrees"].tolist(), [], []
    numbers = np.array([[report.percent(one) for one in method] for method in result["hits"].swapaxes(0, 1)])
    errors = np.array([report.estimate(part) for part in result["errors"]])
    bound, papers = [cramer_rao_km(l) for l in degrees], [20000 / l for l in degrees]
    figure = draw_panels(degrees, numbers, errors, bound, papers)
    for method, right in zip(METHODS, numbers, strict=True):
        rows += [[l, method, *report.cells(own)] for l, own in zip(degrees, right, strict=True)]
        lines += [([method, l], own, PAPER.get(l, ((), ()))[1]) for l, own in zip(degrees, right, strict=True)]
    report.write_accuracies(folder / "figure_4a.csv", ["method", "L"], lines)
    rows = sorted(rows, key=lambda row: row[0])
    rows += [[l, f"the paper's, {table}", *values] for l, (table, values) in PAPER.items()]
    header = ["L", "mean error, km", "Cramer-Rao bound, km", "20000 / L, km", "training, s"]
    limit = zip(degrees, errors, bound, papers, result["seconds"], strict=True)
    limit = [[l, report.with_interval(*e), f"{b:.1f}", f"{p:.0f}", f"{seconds:.0f}"] for l, e, b, p, seconds in limit]
    parts = [
        report.save(figure, folder / "figure_4a.png"),
        f"{result['about']} Bands: 95 % intervals over the test pictures. Of the figure's own values the paper's text "
        "has those at L = 23, 31 and 47, of photographs; at 23 the anchors are places of MP-16, and 31 has w = 32. "
        "Right: what an encoding with noise of the paper's Table 7 can be decoded to, whatever the model.",
        report.markdown_table(["L", "per cent within", *report.KM], rows),
        report.markdown_table(header, limit),
    ]
    return "\n\n".join(parts), claims(result)


def draw_panels(degrees, numbers, errors, bound, papers):
    """Return the Figure: per cents right (METHODS, degrees, thresholds, 3), and errors (degrees, 3) in km beside the
    bound and the paper's resolution (degrees,)."""
    figure, (*panels, limits) = report.subplots(13.5, 5, 1, 3)
    for ax, method, right in zip(panels, METHODS, numbers, strict=True):
        for k, color in enumerate(COLORS):
            report.band(ax, degrees, right[:, k], color, report.KM[k])
            published = [values[k] for _, values in PAPER.values()]
            ax.plot(list(PAPER), published, "s:", color=color, fillstyle="none", markersize=6)
        ax.set(title=method, xlabel="degree L", ylim=(0, 100), xticks=degrees)
    panels[0].set_ylabel("per cent right")
    panels[0].plot([], [], "s:", color="grey", fillstyle="none", label="the paper's")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=6)
    limits.semilogy(degrees, papers, "s:", color="grey", label="the paper's, 20000 km / L")
    report.band(limits, degrees, errors, report.BLUE, "measured")
    limits.semilogy(degrees, bound, "x--", color=report.RED, label="Cramer-Rao bound")
    limits.set(title=f"exact mode under noise of variance {NOISE_VARIANCE}", ylabel="mean error, km")
    limits.set(xlabel="degree L", xticks=degrees)
    limits.legend(fontsize=9)
    return figure


def claims(result):
    """Return the claims that a larger L helps, most at the small distances, from the paired differences between the
    degrees; and that on what an encoding resolves."""
    degrees, right = result["degrees"].tolist(), result["hits"]
    a, b = min(degrees), 47 if 47 in degrees else max(degrees)
    found, texts = report.points(right[degrees.index(b), 0].astype(float) - right[degrees.index(a), 0])
    mean, low, high = found.T
    worse = [k for k, end in zip(report.KM, high, strict=True) if end < 0]
    helps = bool(any(low[:3] > 0) and not worse)  # up to 200 km
    best = [degrees[i] for i in right[:, 0].mean(axis=1).argmax(axis=0)]
    peaks = ", ".join(f"{k} km L = {l}" for k, l in zip(THRESHOLDS_KM, best, strict=True) if k >= 25)
    errors, papers = result["errors"].mean(axis=1), 20000 / np.array(degrees)
    ratio = errors / [cramer_rao_km(l) for l in degrees]
    return [
        Claim(
            f"from L = {a} to {b} some accuracies up to 200 km rise, and none falls",
            "they rise on all scales",
            f"in points: {report.at_each(texts)}; falls at {', '.join(worse) or 'none'}. Most right: {peaks}"
            + ("" if helps else ". A larger network learns less in as many steps"),
            helps,
            str(result["title"]),
            report.gains(mean),
        ),
        Claim(
            "the gain is largest at 1, 25 or 200 km",
            "huge there, slight at 750 and 2,500 km",
            f"at most {max(mean[:3]):+.1f} points there, {max(mean[3:]):+.1f} beyond",
            bool(max(mean[:3]) > max(mean[3:])),
        ),
        Claim(
            "an encoding resolves about 20000 km / L, within a factor of two",
            f"{papers[0]:.0f} to {papers[-1]:.0f} km",
            f"{errors[0]:.1f} to {errors[-1]:.1f} km under noise, {ratio.min():.2f} to {ratio.max():.2f} times the "
            f"Cramer-Rao bound; the paper's is {min(papers / errors):.0f} to {max(papers / errors):.0f} times as much",
            bool(((errors > papers / 2) & (errors < 2 * papers)).all()),
        ),
    ]
