"""Sheets of predictions: for each picture a card of the picture, its density over the world, and close-ups.

Places are (lat, lon) in degrees; a density (N,) holds the probabilities of the N = 12 nside**2 HEALPix pixels in RING
order.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from locdiff.data import gazetteer
from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz import base_map, densities, maps
from locdiff.viz.style import LIGHT, Style, save
from locdiff.viz.views import WORLD, CloseUp

SIDE = 2.05  # inches: the height of a card's maps, and the width of a close-up
WORLD_WIDTH = SIDE * WORLD.half_width / WORLD.half_height
GAP, HEAD, LINE, BETWEEN = 0.09, 0.4, 0.25, 0.3  # inches: in a card, above it, a line below all cards, between them
WIDE = 12.0  # inches: on a narrower sheet the legends take two lines
DPI = 120
TITLE, NOTE, WORDS = 14, 11.5, 10.5  # points
ALONE, ABOVE = 1.5, 0.98  # inches: the width of a picture, and of one above the view that it was cut from
ZOOMS_KM = (1500.0, 150.0)  # half of the close-ups of `draw_zooms`
ZOOM_HEIGHT = 180  # pixels of these
SAMPLES = 400  # that the regions of a refined density are known by
SMALL = 100  # pixels: smaller pictures are shown pixel by pixel


class Sheet:
    """A figure of n cards in some columns, each with a picture so many inches wide and maps of these widths, and what
    is to be said below them."""

    def __init__(self, n: int, columns: int, picture: float, widths: Sequence[float], words: str, style: Style = LIGHT):
        self.columns, self.picture, self.widths, self.style = columns, picture, list(widths), style
        self.card = picture + sum(widths) + GAP * len(self.widths)
        self.width = columns * self.card + BETWEEN * (columns + 1)
        self.words = textwrap.wrap(words, int((self.width - 2 * BETWEEN) / letters_inches("x", WORDS)))
        self.legends = 1 if self.width > WIDE else 2  # lines of them
        self.foot = LINE * (len(self.words) + self.legends + 1.2)
        self.height = -(-n // columns) * (SIDE + HEAD + BETWEEN / 2) + self.foot
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI)

    def corner(self, i: int) -> tuple[float, float]:
        """Return the lower left corner of card i, in inches."""
        row, column = divmod(i, self.columns)
        return BETWEEN + column * (self.card + BETWEEN), self.height - (row + 1) * (SIDE + HEAD + BETWEEN / 2)

    def axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Return axes at these inches."""
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def maps(self, i: int) -> list[Axes]:
        """Return the axes of the maps of card i."""
        left, bottom = self.corner(i)
        lefts = left + self.picture + GAP + np.cumsum([0.0, *(width + GAP for width in self.widths[:-1])])
        return [self.axes(x, bottom, width, SIDE) for x, width in zip(lefts, self.widths, strict=True)]

    def text(self, x: float, y: float, words: str, **options: Any) -> None:
        """Write words at these inches; a dollar sign is no more than that."""
        self.figure.text(x / self.width, y / self.height, words, parse_math=False, **options)

    def head(self, i: int, name: str, place: str, note: str) -> None:
        """Write above card i the picture's name, where it is most likely from, and a note."""
        left, bottom = self.corner(i)
        y, middle = bottom + SIDE + 0.11, left + self.picture + GAP
        self.text(left, y, shorten(name, self.picture, NOTE), fontsize=NOTE, color=self.style.quiet)
        room = self.card - self.picture - GAP - letters_inches(note, NOTE) - GAP
        self.text(middle, y, shorten(place, room, TITLE), fontsize=TITLE, fontweight="bold")
        self.text(left + self.card, y, note, ha="right", fontsize=NOTE, color=self.style.quiet)

    def show(self, i: int, picture: Any, view: Any = None) -> None:
        """Show a picture, or words, at the left of card i, and below it the view that it was cut from, if any."""
        left, bottom = self.corner(i)
        if isinstance(picture, str):
            lines = textwrap.wrap(picture, 12, max_lines=8, placeholder="…") or [""]
            size = min(17, self.picture / max(letters_inches(line, 1) for line in lines))
            at = left + self.picture / 2, bottom + SIDE / 2
            self.text(*at, "\n".join(lines), ha="center", va="center", fontsize=size)
            return
        if picture is None:
            return
        height = SIDE if view is None else (SIDE - GAP) / 2
        self._pixels(left, bottom + SIDE - height, height, np.asarray(picture), "nearest")
        if view is not None:
            self._pixels(left, bottom, height, np.asarray(view), "antialiased")

    def _pixels(self, left, bottom, height, pixels, small):
        axes = self.axes(left, bottom, self.picture, height)
        axes.imshow(pixels, interpolation=small if max(pixels.shape[:2]) < SMALL else "antialiased")
        axes.set_axis_off()

    def finish(self) -> None:
        """Draw below the cards the scale of the shade and the legend of marks and regions, and say the words."""
        handles, labels = self.figure.axes[-1].get_legend_handles_labels()
        for share, (width, dashes) in zip((50, 90), maps.RIMS, strict=True):
            handles.append(Line2D([], [], color=self.style.rim, lw=width, ls=dashes))
            labels.append(f"{share} % region")
        y, options = self.foot - 1.1 * LINE, {"fontsize": NOTE, "va": "center"}
        self.text(BETWEEN, y, "density: low", **options)
        left = BETWEEN + letters_inches("density: low", NOTE) + GAP
        maps.draw_shade_scale(self.axes(left, y - 0.065, 1.3, 0.13), self.style)
        self.text(left + 1.3 + GAP, y, "peak", **options)
        y -= LINE * (self.legends - 1)
        side, x = ("right", self.width - BETWEEN + 0.1) if self.legends == 1 else ("left", BETWEEN - 0.1)
        self.figure.legend(
            handles, labels, loc=f"center {side}", ncols=len(handles), columnspacing=1.4, handletextpad=0.4,
            bbox_to_anchor=(x / self.width, y / self.height), borderpad=0, fontsize=NOTE,
        )  # fmt: skip
        for k, line in enumerate(reversed(self.words)):
            self.text(BETWEEN, LINE * (k + 0.6), line, fontsize=WORDS, color=self.style.quiet)


def letters_inches(words: str, points: float) -> float:
    """Return about how wide words are in letters of so many points, in inches."""
    return 0.6 * points / 72 * len(words)


def shorten(words: str, inches: float, points: float) -> str:
    """Return the words, cut off where they would be wider."""
    most = int(inches / letters_inches("x", points))
    return words if len(words) <= most else words[: max(0, most - 1)].rstrip() + "…"


def draw_predictions(
    path: Path,
    anchors: Tensor,
    places: Tensor,
    density: Tensor,
    samples: Tensor | None = None,
    truth: Tensor | None = None,
    pictures: Sequence | Tensor | None = None,
    names: Sequence[str] | None = None,
    views: Sequence | Tensor | None = None,
    style: Style = LIGHT,
) -> None:
    """Write a png: for each picture the picture, its density over the world with samples and truth, and a close-up.

    n pictures, at least one: places (n, 2), density (n, N) over the HEALPix `anchors` (N, 2), samples (n, S, 2), truth
    (n, 2), pictures (n; PIL images, arrays (height, width, 3) in [0, 1], words or None), names (n), and views (n;
    arrays), finer pictures of what the pictures show. Raises InputError if the file cannot be written.
    """
    n, where = len(places), gazetteer.describe(places)
    words = _words(views is not None, any(where))
    with rc_context(style.settings()):
        sheet = Sheet(n, min(2, n), ALONE if views is None else ABOVE, (WORLD_WIDTH, SIDE), words, style)
        for i in range(n):
            sheet.head(i, _name(names, pictures, i), *_title(places[i], truth, i, where[i]))
            if pictures is not None:
                sheet.show(i, pictures[i], None if views is None else views[i])
            sampled, true = (None if every is None else every[i] for every in (samples, truth))
            world, near = sheet.maps(i)
            close = maps.close_up(places[i], density[i], anchors)
            for axes, view, inner in ((world, WORLD, close), (near, close, None)):
                maps.draw_density(axes, view, density[i], style)
                maps.mark_all(axes, view, places[i], sampled, true, style, inner)
            maps.draw_scale_bar(near, close, style)
        sheet.finish()
    save(sheet.figure, path, style)


def draw_zooms(
    path: Path,
    posterior: Any,
    places: Tensor,
    truth: Tensor,
    pictures: Sequence | Tensor | None = None,
    views: Sequence | Tensor | None = None,
    style: Style = LIGHT,
) -> None:
    """Write a png of the densities of a LocationPosterior at three scales.

    For each of n pictures, at least one: the picture, and the view, as in `draw_predictions`; the world; and close-ups
    of 3,000 and 300 km with the most likely place (n, 2) and the truth (n, 2). Of the posterior it takes `pixel_probs`
    (n, N), `log_density` and `sample`. Raises InputError if the file cannot be written.
    """
    n, where = len(places), gazetteer.describe(places)
    words = _words(views is not None, any(where))
    with rc_context(style.settings()):
        sheet = Sheet(n, 1, ALONE if views is None else ABOVE, (WORLD_WIDTH, SIDE, SIDE), words, style)
        samples = posterior.sample(SAMPLES)
        for i in range(n):
            sheet.head(i, "", *_title(places[i], truth, i, where[i]))
            if pictures is not None:
                sheet.show(i, pictures[i], None if views is None else views[i])
            world, *near = sheet.maps(i)
            maps.draw_density(world, WORLD, posterior.pixel_probs[i], style)
            views_of = [CloseUp(*places[i].tolist(), half) for half in ZOOMS_KM]
            _draw_close_ups(near, views_of, densities.of_posterior(posterior, i), samples[i], style)
            for axes, view, inner in zip((world, *near), (WORLD, *views_of), (*views_of, None), strict=True):
                maps.mark_all(axes, view, places[i], None, truth[i], style, inner)
            for axes, view in zip(near, views_of, strict=True):
                maps.draw_scale_bar(axes, view, style)
        sheet.finish()
    save(sheet.figure, path, style)


def _draw_close_ups(axes, views, ratio_at, samples, style):
    """Draw a density, a function of places, in close-ups; they show what it is at the samples (S, 2), too.

    Its regions are bounded by the ratios that a half and nine tenths of the samples exceed.
    """
    finer = samples.numpy(), ratio_at(samples.numpy())
    ratios = [densities.on_map(view, ZOOM_HEIGHT, ratio_at, [finer]) for view in views]
    largest, levels = max(ratio.max() for ratio in ratios), np.quantile(finer[1], (0.5, 0.1)).tolist()
    for ax, view, ratio in zip(axes, views, ratios, strict=True):
        maps.draw_base(ax, view, style)
        maps.draw_ratio(ax, view, ratio, largest, levels, style)


def _name(names, pictures, i):
    """Return the name of picture i, if it has one; words may be their own name."""
    own = pictures is not None and isinstance(pictures[i], str) and names and names[i] == pictures[i]
    return "" if own or not names else names[i]


def _title(place, truth, i, where):
    """Return where a place (2,) is, and how far from the truth, or where in degrees."""
    lat, lon = place.tolist()
    degrees = f"{abs(lat):.1f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.1f}° {'E' if lon >= 0 else 'W'}"
    if truth is None:
        return where or degrees, degrees if where else ""
    return where or degrees, f"{great_circle_km(place, truth[i]):,.0f} km from the truth"


def _words(has_views, has_names):
    """Return what a sheet says about its pictures and its sources."""
    words = "Left: the 16 × 16 pixels that the model sees, and below them the same place in Blue Marble. " * has_views
    words += "Frames: the close-ups. Shades: the logarithm of the density, down to the uniform one or to a 10,000th of "
    return words + f"the peak. Map: {base_map.CREDIT}" + "; names: GeoNames" * has_names + "."
