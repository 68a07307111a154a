"""The low-pass filter of Appendix A.3: what is lost if only the dimensions of large coefficients are kept."""

import numpy as np
import torch
from artefact import Claim
from report import BLUE, RED, markdown_table, random_places, save, subplots, write_csv

from locdiff.evaluation.metrics import bootstrap
from locdiff.sphere import decoder, shdd
from locdiff.sphere.coordinates import great_circle_km

TITLE = "the low-pass filter: keeping the dimensions of large coefficients"
DATA = "places drawn uniformly on the sphere; the filter is chosen on other such places than it is tried on."
NOISE_VARIANCE = 0.01  # that of the paper's Table 7, on every coefficient that is kept
FILTER, SMALLER, NOISY = "low-pass filter", "smaller L", ", noise"
ROWS = (FILTER, SMALLER, FILTER + NOISY, SMALLER + NOISY)  # with NOISY the last two
PAPER_KEPT, PAPER_DIMENSIONS = 1024, 2304  # Appendix A.5: "the low-pass filtering ... to reduce the dimension to 1024"
KEPT = (2304, 2209, 2025, 1764, 1444, 1024, 576, 256)  # squares, so that a smaller l_max has as many dimensions
SCALES = {  # l_max, dimensions kept, places
    "smoke": (11, (144, 100, 49, 16), 60),
    "cpu": (47, KEPT, 600),
    "full": (47, KEPT, 2_000),
    "paper": (47, KEPT, 20_000),
}


def compute(context):
    """Return for each number of dimensions in `kept`: the share of the energy that the filter keeps, `energy`, and the
    decoding errors in km, errors (ROWS, kept, places). `largest` (D,) is the largest |coefficient| of each
    dimension over the first places, `rms` the root mean square."""
    l_max, numbers, count = SCALES[context.scale]
    generator = torch.Generator().manual_seed(0)
    first, places = random_places(4000 + count, generator).split([4000, count])
    seen, coeffs = shdd.encode(first, l_max), shdd.encode(places, l_max)
    noisy = coeffs + NOISE_VARIANCE**0.5 * torch.randn(coeffs.shape, generator=generator)
    largest, energy, errors = seen.abs().amax(dim=0), [], []
    for kept in numbers:
        mask = low_pass(largest, kept)
        energy.append(((coeffs * mask).square().sum() / coeffs.square().sum()).item())
        vectors = (coeffs * mask, coeffs[:, :kept], noisy * mask, noisy[:, :kept])
        errors.append([great_circle_km(decoder.exact_mode(v.float())[0].double(), places).numpy() for v in vectors])
    return {
        "kept": np.array(numbers),
        "largest": largest.numpy(),
        "rms": seen.square().mean(dim=0).sqrt().numpy(),
        "energy": np.array(energy),
        "errors": np.array(errors).swapaxes(0, 1),
    }


def low_pass(largest, kept):
    """Return which of the dimensions (D,) are among the `kept` of the largest coefficients, as zeros and ones."""
    return torch.zeros_like(largest).index_fill(0, largest.argsort(descending=True, stable=True)[:kept], 1)


def key_numbers(result):
    """Return the share of the energy kept."""
    return {f"{k} dimensions": (share, 0.002) for k, share in zip(result["kept"], result["energy"], strict=True)}


def draw(result, folder):
    """Write figure_4_low_pass.png and .csv; return Markdown and claims."""
    median, ninety = np.percentile(result["errors"], [50, 90], axis=-1)
    figure = draw_panels(result, median, ninety)
    rows, lines = [], []
    for n, share, middle, most in zip(result["kept"], result["energy"], median.T, ninety.T, strict=True):
        pairs = list(zip(middle, most, strict=True))
        rows.append([n, f"{100 * share:.1f} %", *(f"{m:.1f}, {q:.1f}" for m, q in pairs)])
        lines += [[n, share, label, *pair] for label, pair in zip(ROWS, pairs, strict=True)]
    header = ["dimensions kept", "energy kept by the filter", "method", "median error km", "90 % error km"]
    write_csv(folder / "figure_4_low_pass.csv", header, lines)
    text = (
        f"Of the encoding of L = {round(len(result['largest']) ** 0.5) - 1} the paper keeps the dimensions whose "
        "coefficients are large, in A.5 1,024 of them, and gives no numbers. Here they are those of the largest "
        "|coefficient| over random places; the others are set to zero and the exact mode is taken. Beside it, the "
        "first dimensions, which are the whole encoding of a smaller L: without noise it has no error."
    )
    header = ["dimensions kept", "energy kept", *(f"{row}: median, 90 %, km" for row in ROWS)]
    picture = save(figure, folder / "figure_4_low_pass.png")
    return f"{picture}\n\n{text}\n\n{markdown_table(header, rows)}", claims(result)


def draw_panels(result, median, ninety):
    """Return the Figure: the sizes of the coefficients, the energy kept, and errors (ROWS, kept) in km."""
    kept, D = result["kept"], len(result["largest"])
    figure, (sizes, energies, panel) = subplots(13, 4.3, 1, 3)
    order = np.argsort(-result["largest"])
    sizes.plot(result["largest"][order], color=RED, label="largest |coefficient|: what the filter sees")
    sizes.plot(result["rms"][order], color=BLUE, linewidth=2, label="root mean square")
    sizes.axhline((4 * np.pi) ** -0.5, color="black", linestyle=":", linewidth=1, label="$1 / \\sqrt{4 \\pi}$")
    sizes.set(xlabel="dimension, the largest first", ylabel="coefficient", ylim=(0, None))
    energies.plot(kept, 100 * result["energy"], "o-", color=RED, label="the filter's")
    energies.plot([0, D], [0, 100], ":", color="black", label="as many dimensions taken at random")
    energies.set(xlabel="dimensions kept", ylabel="energy kept, %", xlim=(0, None), ylim=(0, 105))
    for row, style, color in ((0, "o--", RED), (2, "o-", RED), (3, "o-", BLUE)):  # a smaller L alone has no error
        name = f"{ROWS[row]} of variance {NOISE_VARIANCE}" if row > 1 else f"{ROWS[row]}, exact encoding"
        panel.semilogy(kept, np.maximum(median[row], 0.1), style, color=color, label=name)
        if row > 1:
            panel.fill_between(kept, median[row], ninety[row], color=color, alpha=0.15, linewidth=0)
    panel.set(xlabel="dimensions kept", ylabel="decoding error, km (at least 0.1)", xlim=(0, None))
    for ax, title in ((sizes, None), (energies, None), (panel, "median; shaded: up to 90 %")):
        ax.legend(fontsize=9, title=title)
    for ax in (energies, panel):
        at = D * PAPER_KEPT / PAPER_DIMENSIONS
        ax.axvline(at, color="grey", linewidth=0.8)
        ax.text(at, ax.get_ylim()[1], f"{at:,.0f}, the paper's", ha="center", va="bottom", fontsize=9, color="grey")
        ax.grid(alpha=0.3)
    return figure


def claims(result):
    """Return the claims that the filter is as good as a smaller L where the paper uses it, and that there is something
    to filter."""
    kept, D = result["kept"], len(result["largest"])
    filtered, smaller = (result["errors"][ROWS.index(row + NOISY)] for row in (FILTER, SMALLER))
    low, high = bootstrap((filtered - smaller).T)
    worse, better = ([f"{n:,}" for n in kept[chosen]] for chosen in (low > 0, high < 0))
    i = int(np.argmin(np.abs(kept / D - PAPER_KEPT / PAPER_DIMENSIONS)))
    rms = result["rms"] * (4 * np.pi) ** 0.5
    return [
        Claim(
            f"with {kept[i]:,} of {D:,} dimensions the filter is no worse than a smaller L of as many",
            f"a good dimension reduction, {PAPER_KEPT:,} of {PAPER_DIMENSIONS:,}; no numbers",
            f"it keeps {100 * result['energy'][i]:.0f} % of the energy and decodes noisy encodings to "
            f"{filtered[i].mean():.1f} km in the mean, the smaller L to {smaller[i].mean():.1f} km; the difference is "
            f"{low[i]:.1f} to {high[i]:.1f} km. It is worse with {' and '.join(worse) or 'no number of'} dimensions, "
            f"better with {' and '.join(better) or 'none'}",
            bool(low[i] <= 0),
        ),
        Claim(
            "many dimensions have very small values: a root mean square below half of the others'",
            "no numbers",
            f"root mean squares are {rms.min():.2f} to {rms.max():.2f} times that of 1 / 4 pi; a dimension whose "
            "largest coefficient is small is only spread more evenly",
            bool(rms.min() < rms.max() / 2),
        ),
    ]
