"""Pictures of predictions: densities on a map of the world and close up.

A density (N,) holds the probabilities of the N = 12 nside**2 HEALPix pixels in RING order. Places are (lat, lon) in
degrees.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import healpy
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from locdiff.data import blue_marble
from locdiff.files import atomic_path
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.pixels import regions

Window = tuple[float, float, float, float]  # lat and lon of the middle, half the height, half the width; degrees

CLOSE_UP_DEGREES = 13.5  # half the height: a close-up is about 3000 km across
ZOOMS_DEGREES = (13.5, 1.35)  # the same, of the pictures of `draw_zooms`
WORLD: Window = (0.0, 0.0, 90.0, 180.0)
REGION_STYLES = ("solid", "dotted")


def grey_map() -> np.ndarray:
    """Return the Blue Marble in grey, to paint on: (1350, 2700) in [0, 1]."""
    return blue_marble.blue_marble_image().mean(dim=0).numpy() ** 0.7 * 0.7


def close_up(lat_lon: Tensor | np.ndarray, half: float = CLOSE_UP_DEGREES) -> Window:
    """Return the window of half the height `half`, in degrees, around a place (2,), of equal extent in km both ways."""
    lat, lon = lat_lon.tolist()
    return lat, lon, half, min(180.0, half / max(np.cos(np.radians(lat)), 0.05))


def paint(density: Tensor, image: np.ndarray, window: Window, height: int = 360) -> tuple[np.ndarray, ...]:
    """Paint one density (N,), interpolated between pixels, over the grey map `image` (h, 2h) in a window.

    See `paint_function` for what is returned; the largest value is that of the whole density.
    """

    def at(lat_lon):
        return healpy.get_interp_val(density.numpy(), lat_lon[..., 1], lat_lon[..., 0], lonlat=True)

    return paint_function(at, image, window, height, density.max().item())


def paint_function(
    density_at: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    window: Window,
    height: int = 360,
    largest: float | None = None,
) -> tuple[np.ndarray, ...]:
    """Paint a function of places (..., 2) that gives a density (...) over the grey map `image` (h, 2h) in a window.

    Return colors (height, width, 3) in [0, 1], the density there (height, width), and the lats (height) and lons
    (width). The colour is logarithmic, three decades below the `largest` value, by default that in the window. What
    lies beyond a pole is white.
    """
    lat, lon, half_height, half_width = window
    lats = lat + half_height * (1 - 2 * (np.arange(height) + 0.5) / height)
    width = round(height * half_width / half_height) if window == WORLD else height
    lons = lon + half_width * (2 * (np.arange(width) + 0.5) / width - 1)
    grid_lon, grid_lat = np.meshgrid((lons + 180) % 360 - 180, lats.clip(-90, 90))
    base = image[
        ((90 - grid_lat) / 180 * (len(image) - 1)).astype(int), ((grid_lon + 180) / 360 * 2 * len(image)).astype(int)
    ]
    value = density_at(np.stack([grid_lat, grid_lon], axis=-1))
    strength = np.clip(1 + np.log10(np.maximum(value / (largest or value.max()), 1e-9)) / 3, 0, 1)
    opacity = (0.85 * (strength > 0) * (0.3 + 0.7 * strength))[..., None]
    colors = base[..., None] * (1 - opacity) + colormaps["inferno"](0.25 + 0.75 * strength)[..., :3] * opacity
    colors[np.abs(lats) > 90] = 1
    return colors, value, lats, lons


def region_levels(density: Tensor) -> list[float]:
    """Return the values of one density (N,) at the rims of its 50 and 90 % regions.

    A rim's value lies halfway between the least dense pixel inside and the densest outside. A region of the whole Earth
    has none.
    """
    masks = [mask for mask in regions(density[None])[0][0] if not mask.all()]
    return [(density[mask].min().item() + density[~mask].max().item()) / 2 for mask in masks]


def draw_density(axes: Axes, density: Tensor, image: np.ndarray, window: Window) -> None:
    """Draw one density (N,) over the grey map `image` (h, 2h) in a window, and outline its 50 and 90 % regions."""
    colors, value, lats, lons = paint(density, image, window)
    show(axes, colors, window)
    for level, style in zip(region_levels(density), REGION_STYLES, strict=False):
        axes.contour(lons, lats, value, levels=[level], colors="white", linewidths=0.8, linestyles=style)


def show(axes: Axes, colors: np.ndarray, window: Window) -> None:
    """Show the colors (height, width, 3) of a window on the axes, in degrees."""
    lat, lon, half_height, half_width = window
    extent = (lon - half_width, lon + half_width, lat - half_height, lat + half_height)
    aspect = 1 if window == WORLD else half_width / half_height
    axes.imshow(colors, extent=extent, interpolation="nearest", aspect=aspect)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])


def mark(axes: Axes, window: Window, lat_lon: Tensor | np.ndarray, *style: Any, **options: Any) -> None:
    """Plot places (n, 2) in a window, on the side of the antimeridian where they are nearest to its middle.

    `style` and `options` are those of `Axes.plot`.
    """
    lon = (lat_lon[:, 1] - window[1] + 180) % 360 - 180 + window[1]
    axes.plot(lon, lat_lon[:, 0], *style, **options)


def draw_predictions(
    path: Path,
    anchors: Tensor,
    places: Tensor,
    density: Tensor,
    samples: Tensor | None = None,
    truth: Tensor | None = None,
    pictures: Sequence | Tensor | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write a png: for each picture the picture, its density over the world with samples and truth, and a close-up.

    n pictures, at least one: places (n, 2), density (n, N) over the HEALPix `anchors` (N, 2), samples (n, S, 2), truth
    (n, 2), pictures (n; PIL images, arrays (height, width, 3) in [0, 1], words or None), names (n). Raises InputError
    if the file cannot be written.
    """
    n, columns = len(places), min(2, len(places))
    rows, widths = -(-n // columns), [1, 2.3, 1.15]
    figure = Figure(figsize=(9.6 * columns, 2.6 * rows + 1.0), dpi=110, layout="constrained")
    cells = figure.add_gridspec(rows, 3 * columns, width_ratios=widths * columns)
    grey = grey_map()
    for i in range(n):
        row, column = i // columns, 3 * (i % columns)
        if pictures is not None:
            title = names[i] if names else _kind(pictures[i])
            _draw_picture(figure.add_subplot(cells[row, column]), pictures[i], title)
        sampled, true = (None if every is None else every[i] for every in (samples, truth))
        for offset, window in ((1, WORLD), (2, close_up(places[i]))):
            axes = figure.add_subplot(cells[row, column + offset])
            draw_density(axes, density[i], grey, window)
            _mark_all(axes, window, places[i], sampled, true)
            axes.set_title(_title(places[i], true) if window == WORLD else "close-up, 3000 km")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    for share, style in zip((50, 90), REGION_STYLES, strict=True):
        handles.append(Line2D([], [], color="white", linewidth=0.8, linestyle=style))
        labels.append(f"smallest region of {share} %")
    caption = "colour: probability per area, from its largest value (yellow) to a thousandth of it (dark)"
    figure.legend(handles, labels, loc="outside lower center", ncols=5, title=caption, facecolor="#999999")
    save_png(figure, path)


def draw_zooms(
    path: Path, posterior: Any, places: Tensor, truth: Tensor, pictures: Sequence | Tensor | None = None
) -> None:
    """Write a png of the densities of a LocationPosterior at three zooms.

    For each of n pictures, at least one: the picture (n; arrays (height, width, 3) in [0, 1], or words), the world, and
    close-ups of 3,000 and 300 km with the most likely place (n, 2) and the truth (n, 2). Of the posterior it takes
    `pixel_probs` (n, N) and `log_density`. Raises InputError if the file cannot be written.
    """
    n, grey = len(places), grey_map()
    figure = Figure(figsize=(13.5, 2.9 * n + 0.6), dpi=110, layout="constrained")
    cells = figure.add_gridspec(n, 4, width_ratios=[1, 2.3, 1.15, 1.15])
    for i in range(n):
        if pictures is not None:
            _draw_picture(figure.add_subplot(cells[i, 0]), pictures[i], _kind(pictures[i]))
        axes = figure.add_subplot(cells[i, 1])
        draw_density(axes, posterior.pixel_probs[i], grey, WORLD)
        axes.set_title(_title(places[i], truth[i]))
        for column, half in enumerate(ZOOMS_DEGREES, 2):
            axes, window = figure.add_subplot(cells[i, column]), close_up(places[i], half)
            show(axes, paint_function(_density_of(posterior, i), grey, window, 180)[0], window)
            axes.set_title(f"{half / CLOSE_UP_DEGREES * 3000:,.0f} km")
            _mark_all(axes, window, places[i], None, truth[i])
    caption = "colour: probability per area, from its largest value in the window (yellow) to a thousandth of it (dark)"
    handles = figure.axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, title=caption, facecolor="#999999")
    save_png(figure, path)


def save_png(figure: Figure, path: Path) -> None:
    """Write the figure as png, whole or not at all. Raises InputError if the file cannot be written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _kind(picture):
    return "the text" if isinstance(picture, str) else "the picture"


def _draw_picture(axes, picture, title):
    if picture is None or isinstance(picture, str):
        axes.set_axis_off()
        axes.text(0.5, 0.5, picture or "", ha="center", va="center", wrap=True, fontsize=14, parse_math=False)
    else:
        axes.imshow(np.asarray(picture), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    if not (isinstance(picture, str) and picture == title):  # words may be their own name
        axes.set_title(title, parse_math=False)  # a name may hold dollar signs


def _mark_all(axes, window, place, samples, truth):
    """Mark the samples (S, 2), the most likely place (2,) and the true one (2,); None for what there is not."""
    if samples is not None:
        mark(axes, window, samples, ".", color="#66ddff", markersize=5, label="samples")
    mark(axes, window, place[None], "o", color="white", ms=9, fillstyle="none", label="most likely")
    if truth is not None:
        mark(axes, window, truth[None], "*", color="#7CFC00", mec="black", ms=11, label="truth")


def _title(place, truth):
    if truth is None:
        return "most likely: {:.1f}, {:.1f}".format(*place.tolist())
    return f"most likely: {great_circle_km(place, truth):,.0f} km from the truth"


def _density_of(posterior, i):
    """Return picture i's density, per steradian, as a function of places (..., 2) -> (...)."""

    def density_at(lat_lon):
        found = posterior.log_density(torch.from_numpy(lat_lon.reshape(-1, 2)))[i]
        return found.double().exp().numpy().reshape(lat_lon.shape[:-1])

    return density_at
