"""The colours, letters and files that all pictures share: a light and a dark style."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from locdiff.files import atomic_path

OPAQUE_FROM, MOST = 0.6, 0.92  # from this strength on a shade is as opaque as it gets
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # of curves: Okabe and Ito's, for the colour-blind


@dataclass(frozen=True)
class Style:
    """The colours of a picture. A density's shade runs through `ramp`, a colour map of monotone lightness, between two
    of its positions; it becomes ever more different from the land and the sea in lightness, for the colour-blind."""

    paper: str
    ink: str
    quiet: str
    sea: str
    land: str
    coast: str
    border: str
    rim: str  # the regions of 50 and 90 %
    sample: str
    mode: str
    truth: str
    edge: str  # around marks
    ramp: tuple[str, float, float]

    def shade(self, strength: np.ndarray) -> np.ndarray:
        """Return the colours, red, green, blue and opacity in [0, 1], of strengths (...) in [0, 1]: (..., 4)."""
        name, first, last = self.ramp
        strength = np.nan_to_num(strength)
        colors = colormaps[name](first + (last - first) * strength)
        colors[..., 3] = MOST * np.clip(strength / OPAQUE_FROM, 0, 1)
        return colors

    def settings(self) -> dict[str, Any]:
        """Return matplotlib's settings."""
        return {
            "figure.facecolor": self.paper, "axes.facecolor": self.paper, "savefig.facecolor": self.paper,
            "text.color": self.ink, "axes.labelcolor": self.ink, "axes.edgecolor": self.quiet,
            "xtick.color": self.quiet, "ytick.color": self.quiet, "axes.titlecolor": self.ink,
            "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
            "axes.titlesize": 11, "axes.labelsize": 10, "legend.frameon": False, "legend.fontsize": 9.5,
        }  # fmt: skip


LIGHT = Style(
    paper="#ffffff", ink="#1c2530", quiet="#66717d", sea="#e9eff3", land="#f9f8f4", coast="#9aa7b1", border="#c9ccca",
    rim="#16061f", sample="#0f7fb8", mode="#111111", truth="#00a878", edge="#ffffff", ramp=("magma_r", 0.06, 0.7),
)  # fmt: skip
DARK = Style(
    paper="#12161c", ink="#e8edf2", quiet="#93a0ad", sea="#161c24", land="#262e38", coast="#55626f", border="#3b4550",
    rim="#ffffff", sample="#7fd4ff", mode="#ffffff", truth="#3ddc97", edge="#0b0e12", ramp=("inferno", 0.3, 0.86),
)  # fmt: skip


def save(figure: Figure, path: Path, style: Style = LIGHT) -> None:
    """Write the figure as png, whole or not at all. Raises InputError if the file cannot be written."""
    buffer = io.BytesIO()
    with rc_context(style.settings()):
        figure.savefig(buffer, format="png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
