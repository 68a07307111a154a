"""Figure 4(b): the largest coefficient of every SHDD dimension, by two formulas for the spherical harmonics."""

import numpy as np
from artefact import Claim
from report import BLUE, RED, markdown_table, save, subplots

from reference.spherical_harmonics import explicit_spherical_harmonics, real_spherical_harmonics

TITLE = "the largest |coefficient| of every SHDD dimension up to L = 63"
DATA = "places drawn uniformly on the sphere."
CURVES = {  # name: (label, color)
    "recurrence": ("stable recurrence, float64", "black"),
    "explicit64": ("paper's Eq. 20, float64", BLUE),
    "explicit32": ("paper's Eq. 20, float32", RED),
}
EXPLICIT = ("explicit64", "explicit32")
MANAGEABLE = 2500  # dimensions, in the paper


def compute(places=4000, seed=0, l_max=63):
    """Return for each way to compute Y_lm: the largest |Y_lm| of each dimension over the places, (D,), and the relative
    error of each degree, (l_max + 1,): the largest error over the places and m, by the largest true |Y_lm|."""
    rng = np.random.default_rng(seed)
    theta, phi = np.arccos(rng.uniform(-1, 1, places)), rng.uniform(0, 2 * np.pi, places)
    truth = real_spherical_harmonics(theta, phi, l_max)
    result = {"recurrence": np.abs(truth).max(axis=0)}
    starts = np.arange(l_max + 1) ** 2  # the first dimension of each degree
    for name, dtype in (("explicit64", np.float64), ("explicit32", np.float32)):
        harmonics = explicit_spherical_harmonics(theta.astype(dtype), phi.astype(dtype), l_max)
        result[name] = np.abs(harmonics).max(axis=0)
        error = np.maximum.reduceat(np.abs(harmonics - truth).max(axis=0), starts)
        result[f"{name}_error"] = error / np.maximum.reduceat(result["recurrence"], starts)
    return result


def largest_by_degree(values):
    """Return the largest of each degree's 2l + 1 dimensions: (D,) -> (l_max + 1,)."""
    return np.maximum.reduceat(values, np.arange(round(len(values) ** 0.5)) ** 2)


def first_wrong_degree(error):
    """Return the first degree whose error exceeds 1 % of the largest true value, or None."""
    return int(np.argmax(error > 0.01)) if (error > 0.01).any() else None


def key_numbers(result):
    """Return the largest coefficient by the recurrence, and where the explicit sum leaves it."""
    wrong = {name: (first_wrong_degree(result[f"{name}_error"]), 1) for name in EXPLICIT}
    return {"largest": (result["recurrence"].max(), 0.01)} | wrong


def draw(result, folder):
    """Write figure_4b.png; return Markdown and claims."""
    largest = {name: largest_by_degree(result[name]) for name in CURVES}
    l_max = len(largest["recurrence"]) - 1
    dimensions = np.arange(1, (l_max + 1) ** 2 + 1)
    figure, axes = subplots(9.5, 7, 2, sharex=True)
    for ax, explicit in zip(axes, EXPLICIT, strict=True):
        for name in (explicit, "recurrence"):
            label, color = CURVES[name]
            ax.semilogy(dimensions, result[name], linewidth=0.6, color=color, alpha=0.4)
            ax.semilogy(dimensions, result[name], ".", markersize=2.5, color=color, label=label)
        ax.axvline(2304, color="grey", linestyle="--", linewidth=1, label="L = 47, where the paper stops: 2,304")
        ax.axvline(2500, color="grey", linestyle=":", linewidth=1.5, label="where the paper sees it fail: 2,500")
        ax.set(xlim=(0, len(dimensions)), ylabel="largest |coefficient|")
        ax.grid(axis="y", alpha=0.3)
        ax.legend(loc="upper left", markerscale=4)
    axes[-1].set_xlabel("dimension of the SHDD encoding, in the order of l, m")
    degree = axes[0].secondary_xaxis("top", functions=(lambda d: np.sqrt(np.maximum(d, 0)), lambda l: l**2))
    degree.set(xlabel="degree l", xticks=range(0, l_max + 1, 10))

    shown = [l for l in (16, 23, 28, 40, 47, 50, 63) if l <= l_max]
    rows = [[f"largest at l = {l}", *(f"{own[l]:.2g}" for own in largest.values())] for l in shown]
    wrong = [first_wrong_degree(result[f"{name}_error"]) for name in EXPLICIT]
    rows.append(["first degree wrong by more than 1 %", "none: taken as the truth", *wrong])
    text = (
        "At each degree, the largest of its dimensions. The recurrence in float64 is taken as the truth: it stays "
        "within the bound that the addition theorem gives."
    )
    table = markdown_table(["largest absolute coefficient", *(label for label, _ in CURVES.values())], rows)
    return f"{save(figure, folder / 'figure_4b.png')}\n\n{text}\n\n{table}", claims(result)


def claims(result):
    """Return the claims about the size of the coefficients, by the paper's formula and in truth."""
    below, beyond = np.split(result["explicit64"], [MANAGEABLE])
    wrong = [first_wrong_degree(result[f"{name}_error"]) for name in EXPLICIT]
    largest = result["recurrence"].max()
    return [
        Claim(
            f"by Eq. 20 under 1 % of the first {MANAGEABLE:,} dimensions exceed 10; some of the others exceed 1,000",
            '"manageable with only a few spikes", then "unbearably large"',
            f"in float64 {(below > 10).sum():,} of {len(below):,} exceed 10, and {(beyond > 10).sum():,} of the other "
            f"{len(beyond):,}, up to {beyond.max(initial=0):.2g}",
            bool((below > 10).mean() < 0.01 and beyond.max(initial=0) > 1000),
        ),
        Claim(
            "the encoding itself has such coefficients",
            "hence L = 47, 2,304 dimensions, at most",
            f"by the recurrence none exceeds {largest:.2g}. What grows is the cancellation of Eq. 20's alternating "
            f"sum, wrong from degree {wrong[0]} in float64 and {wrong[1]} in float32",
            bool(largest > 10),
        ),
    ]
