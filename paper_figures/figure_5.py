"""Figure 5: the accuracies of Table 2 over the galleries and anchors, one panel for each threshold."""

import numpy as np
import table_2
from matplotlib.figure import Figure

from locdiff.metrics import THRESHOLDS_KM, bootstrap

TITLE = "accuracy over the choice of gallery or anchors"
DATA = table_2.DATA
SCALES = table_2.SCALES
COLOURS = {table_2.GEOCLIP: "#0072B2", table_2.DENSEST: "#D55E00", table_2.CENTRE: "#009E73"}


def compute(context):
    """The result of Table 2."""
    return table_2.compute(context)


def key_numbers(result):
    """Those of Table 2."""
    return table_2.key_numbers(result)


def draw(result, folder):
    """Write figure_5.png; Markdown and verdict."""
    figure = Figure(figsize=(13, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(THRESHOLDS_KM), sharex=True)
    labels = table_2.names(result["sizes"])
    positions = np.arange(len(labels))
    for k, (ax, threshold) in enumerate(zip(panels, THRESHOLDS_KM, strict=True)):
        for method, right in zip(table_2.METHODS, result["hits"][..., k], strict=True):
            mean, ends = 100 * right.mean(axis=1), np.array([100 * bootstrap(own[:, None])[:, 0] for own in right])
            ax.plot(positions, mean, "o-", color=COLOURS[method], markersize=4, label=method)
            ax.fill_between(positions, *ends.T, color=COLOURS[method], alpha=0.2, linewidth=0)
            if method in table_2.PAPER:
                paper = [row[k] for row in table_2.PAPER[method]]
                ax.plot(positions, paper, "s:", color=COLOURS[method], markersize=4, fillstyle="none")
        ax.set_xticks(positions, labels, rotation=40, ha="right", fontsize=8)
        ax.set(title=f"within {threshold} km", ylim=(0, None))
        ax.grid(alpha=0.3)
    panels[0].set_ylabel("per cent right")
    panels[0].plot([], [], "s:", color="grey", fillstyle="none", label="the paper's, photographs")
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=4)
    figure.savefig(folder / "figure_5.png")
    text = f"![figure 5](figure_5.png)\n\n{result['about']} Bands: 95 % intervals."
    return text, table_2.verdict(table_2.relative_losses(result["hits"]))
