"""The low-pass filter of Appendix A.3: what is lost if only the dimensions of large coefficients are kept."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from report import markdown_table, write_csv

from locdiff import decoder, shdd
from locdiff.coordinates import from_unit_vector, great_circle_km
from locdiff.metrics import bootstrap

TITLE = "the low-pass filter: keeping the dimensions of large coefficients"
DATA = "places drawn uniformly on the sphere; the filter is chosen on other such places than it is tried on."
NOISE_VARIANCE = 0.01  # that of the paper's Table 7, on every coefficient that is kept
FILTER, SMALLER, NOISY = "low-pass filter", "smaller L", ", noise"
ROWS = (FILTER, SMALLER, FILTER + NOISY, SMALLER + NOISY)  # with NOISY the last two
PAPER_KEPT, PAPER_DIMENSIONS = (
    1024,
    2304,
)  # Appendix A.5: "the low-pass filtering technique ... to reduce the dimension to 1024"


@dataclass(frozen=True)
class Scale:
    l_max: int
    kept: tuple  # squares, so that a smaller l_max has as many dimensions
    places: int = 600


SCALES = {
    "smoke": Scale(11, (144, 100, 49, 16), 60),
    "cpu": Scale(47, (2304, 2209, 2025, 1764, 1444, 1024, 576, 256)),
    "paper": Scale(47, (2304, 2209, 2025, 1764, 1444, 1024, 576, 256), 20_000),
}


def compute(context):
    """For each number of dimensions in `kept`: the share of the energy that the filter keeps, `energy`, and the
    decoding errors in km, errors (ROWS, kept, places). `largest` (D,) is the largest |coefficient| of each
    dimension over the first places, `rms` the root mean square."""
    scale = SCALES[context.scale]
    generator = torch.Generator().manual_seed(0)
    xyz = torch.randn(4000 + scale.places, 3, dtype=torch.float64, generator=generator)
    first, places = from_unit_vector(xyz).split([4000, scale.places])
    seen, coeffs = shdd.encode(first, scale.l_max), shdd.encode(places, scale.l_max)
    noise = NOISE_VARIANCE**0.5 * torch.randn(coeffs.shape, generator=generator)
    largest, energy, errors = seen.abs().amax(dim=0), [], []
    for kept in scale.kept:
        mask = low_pass(largest, kept)
        energy.append(((coeffs * mask).square().sum() / coeffs.square().sum()).item())
        vectors = (coeffs * mask, coeffs[:, :kept], (coeffs + noise) * mask, (coeffs + noise)[:, :kept])
        errors.append([great_circle_km(decoder.exact_mode(v.float())[0].double(), places).numpy() for v in vectors])
    return {
        "kept": np.array(scale.kept),
        "largest": largest.numpy(),
        "rms": seen.square().mean(dim=0).sqrt().numpy(),
        "energy": np.array(energy),
        "errors": np.array(errors).swapaxes(0, 1),
    }


def low_pass(largest, kept):
    """Which of the dimensions (D,) are among the `kept` of the largest coefficients, as zeros and ones."""
    return torch.zeros_like(largest).index_fill(0, largest.argsort(descending=True, stable=True)[:kept], 1)


def key_numbers(result):
    """The share of the energy kept."""
    return {f"{k} dimensions": (share, 0.002) for k, share in zip(result["kept"], result["energy"], strict=True)}


def draw(result, folder):
    """Write figure_4_low_pass.png and .csv; Markdown and verdict."""
    kept, errors, D = result["kept"], result["errors"], len(result["largest"])
    median, ninety = np.median(errors, axis=-1), np.percentile(errors, 90, axis=-1)
    figure = Figure(figsize=(13, 4.3), dpi=120, layout="constrained")
    sizes, energies, panel = figure.subplots(1, 3)
    order = np.argsort(-result["largest"])
    sizes.plot(result["largest"][order], color="#D55E00", label="largest |coefficient|: what the filter sees")
    sizes.plot(result["rms"][order], color="#0072B2", linewidth=2, label="root mean square")
    sizes.axhline((4 * np.pi) ** -0.5, color="black", linestyle=":", linewidth=1, label="$1 / \\sqrt{4 \\pi}$")
    sizes.set(xlabel="dimension, the largest first", ylabel="coefficient", ylim=(0, None))
    sizes.legend(fontsize=9)
    energies.plot(kept, 100 * result["energy"], "o-", color="#D55E00", label="the filter's")
    energies.plot([0, D], [0, 100], ":", color="black", label="as many dimensions taken at random")
    energies.set(xlabel="dimensions kept", ylabel="energy kept, %", xlim=(0, None), ylim=(0, 105))
    energies.legend(fontsize=9)
    for row, label in enumerate(ROWS):
        colour = "#D55E00" if label.startswith(FILTER) else "#0072B2"
        noise = label.endswith(NOISY)
        if label == SMALLER:
            continue  # no error
        style = "-" if noise else "--"
        name = f"{label} of variance {NOISE_VARIANCE}" if noise else f"{label}, exact encoding"
        panel.semilogy(kept, np.maximum(median[row], 0.1), "o" + style, color=colour, label=name)
        if noise:
            panel.fill_between(kept, median[row], ninety[row], color=colour, alpha=0.15, linewidth=0)
    panel.set(xlabel="dimensions kept", ylabel="decoding error, km (at least 0.1)", xlim=(0, None))
    panel.legend(fontsize=9, title="median; shaded: up to 90 %")
    for ax in (energies, panel):
        at = D * PAPER_KEPT / PAPER_DIMENSIONS
        ax.axvline(at, color="grey", linewidth=0.8)
        ax.text(at, ax.get_ylim()[1], f"{at:,.0f}, the paper's", ha="center", va="bottom", fontsize=9, color="grey")
        ax.grid(alpha=0.3)
    figure.savefig(folder / "figure_4_low_pass.png")

    header = ["dimensions kept", "energy kept", *(f"{row}: median, 90 %, km" for row in ROWS)]
    rows = [
        [n, f"{100 * energy:.1f} %", *(f"{m:.1f}, {q:.1f}" for m, q in zip(median[:, i], ninety[:, i], strict=True))]
        for i, (n, energy) in enumerate(zip(kept, result["energy"], strict=True))
    ]
    lines = [
        [n, result["energy"][i], label, median[row, i], ninety[row, i]]
        for i, n in enumerate(kept)
        for row, label in enumerate(ROWS)
    ]
    csv_header = ["dimensions kept", "energy kept by the filter", "method", "median error km", "90 % error km"]
    write_csv(folder / "figure_4_low_pass.csv", csv_header, lines)
    text = (
        f"Of the encoding of L = {round(D**0.5) - 1} the paper keeps the dimensions whose coefficients are large, in "
        "A.5 1,024 of them, and gives no numbers. Here they are those of the largest |coefficient| over random "
        "places; the others are set to zero and the exact mode is taken. Beside it, the first dimensions, which are "
        "the whole encoding of a smaller L: without noise it has no error."
    )
    return f"![low-pass filter](figure_4_low_pass.png)\n\n{text}\n\n{markdown_table(header, rows)}", verdict(result)


def verdict(result):
    """Is the filter at least as good as a smaller L, as far as the places tell, where the paper uses it?"""
    kept, D = result["kept"], len(result["largest"])
    filtered, smaller = (result["errors"][ROWS.index(row + NOISY)] for row in (FILTER, SMALLER))
    low, high = bootstrap((filtered - smaller).T)
    worse, better = ([f"{n:,}" for n in kept[chosen]] for chosen in (low > 0, high < 0))
    i = int(np.argmin(np.abs(kept / D - PAPER_KEPT / PAPER_DIMENSIONS)))
    said = "differs: a smaller L is the better reduction" if low[i] > 0 else "reproduced: no worse than a smaller L"
    rms = result["rms"] * (4 * np.pi) ** 0.5
    return (
        f"{said}. With {kept[i]:,} of {D:,} dimensions the filter keeps {100 * result['energy'][i]:.0f} % of the "
        f"energy and decodes noisy encodings to {filtered[i].mean():.1f} km in the mean, the smaller L of as many "
        f"dimensions to {smaller[i].mean():.1f} km (difference {low[i]:.1f} to {high[i]:.1f} km). The filter is worse "
        f"with {' and '.join(worse) or 'no number of'} dimensions, better with {' and '.join(better) or 'none'}. "
        f"There are no small dimensions to drop: all have the mean square 1 / 4 pi (root mean squares "
        f"here {rms.min():.2f} to {rms.max():.2f} times its root). One whose largest coefficient is small "
        "is only spread more evenly."
    )
