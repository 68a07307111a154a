"""Figure 5: the accuracies of Table 2 over the galleries and anchors, one panel for each threshold."""

import numpy as np
import table_2
from report import BLUE, GREEN, RED, band, by_data_set, percent, save, subplots

from locdiff.sphere.pixels import THRESHOLDS_KM

TITLE = "accuracy over the choice of gallery or anchors"
DATA = table_2.DATA
SCALES = table_2.SCALES
compute, key_numbers = table_2.compute, table_2.key_numbers  # it is Table 2, drawn
COLORS = (BLUE, RED, GREEN)  # of retrieval, the densest anchor, the centre


def draw(result, folder):
    """Write figure_5.png; return Markdown and claims."""
    results = list(by_data_set(result))
    figure, panels = subplots(13, 4 * len(results), len(results), len(THRESHOLDS_KM), squeeze=False)
    for row, one in zip(panels, results, strict=True):
        draw_data_set(row, one)
    panels[0, 0].plot([], [], "s:", color="grey", fillstyle="none", label="the paper's, photographs")
    legend = {}
    for ax in panels[:, 0]:
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(legend.values(), legend, loc="outside lower center", ncols=5)
    abouts = "\n\n".join(f"{one['title']}. {one['about']}" for one in results)
    text = f"{save(figure, folder / 'figure_5.png')}\n\n{abouts}\n\nBands: 95 % intervals."
    return text, [claim for one in results for claim in table_2.claims(one)]


def draw_data_set(panels, one):
    """Draw into a panel for each threshold the accuracies of a data set, by its result."""
    positions = range(len(one["galleries"]))
    numbers = np.array([[percent(each) for each in right] for right in one["hits"]])
    for k, (ax, threshold) in enumerate(zip(panels, THRESHOLDS_KM, strict=True)):
        for method, own, color in zip(one["methods"], numbers, COLORS, strict=True):
            band(ax, positions, own[:, k], color, method)
            if method in table_2.PAPER and table_2.has_papers(one):
                ax.plot(
                    positions, [row[k] for row in table_2.PAPER[method]], "s:", color=color, markersize=4,
                    fillstyle="none",
                )  # fmt: skip
        ax.set_xticks(positions, one["galleries"], rotation=40, ha="right", fontsize=8)
        ax.set(title=f"within {threshold} km", ylim=(0, None))
    panels[0].set_ylabel(f"{str(one['title']).split(':')[0]}\nper cent right")
