"""Figure 5: the accuracies of Table 2 over the galleries and anchors, one panel for each threshold."""

import numpy as np
import table_2
from report import BLUE, GREEN, RED, band, percent, save, subplots

from locdiff.sphere.pixels import THRESHOLDS_KM

TITLE = "accuracy over the choice of gallery or anchors"
DATA = table_2.DATA
SCALES = table_2.SCALES
compute, key_numbers = table_2.compute, table_2.key_numbers  # it is Table 2, drawn
COLORS = {table_2.GEOCLIP: BLUE, table_2.DENSEST: RED, table_2.CENTER: GREEN}


def draw(result, folder):
    """Write figure_5.png; return Markdown and claims."""
    figure, panels = subplots(13, 4, 1, len(THRESHOLDS_KM), sharex=True)
    labels = table_2.names(result["sizes"])
    numbers = np.array([[percent(one) for one in right] for right in result["hits"]])
    for k, (ax, threshold) in enumerate(zip(panels, THRESHOLDS_KM, strict=True)):
        for method, own in zip(table_2.METHODS, numbers, strict=True):
            band(ax, range(len(labels)), own[:, k], COLORS[method], method)
            if method in table_2.PAPER:
                paper = [row[k] for row in table_2.PAPER[method]]
                ax.plot(range(len(labels)), paper, "s:", color=COLORS[method], markersize=4, fillstyle="none")
        ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=8)
        ax.set(title=f"within {threshold} km", ylim=(0, None))
    panels[0].set_ylabel("per cent right")
    panels[0].plot([], [], "s:", color="grey", fillstyle="none", label="the paper's, photographs")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    text = f"{save(figure, folder / 'figure_5.png')}\n\n{result['about']} Bands: 95 % intervals."
    return text, table_2.claims(table_2.relative_losses(result["hits"]))
