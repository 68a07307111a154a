"""Draw maps: the base map, a density over it, marks, frames and a scale bar.

Places are (lat, lon) in degrees. `view` says what an axes shows; its units are km.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from torch import Tensor

from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz import base_map, densities
from locdiff.viz.style import LIGHT, Style
from locdiff.viz.views import WORLD, CloseUp, View, frame, outline, positions, scale_bar

HEIGHT, FINER = 246, 2  # pixels of a map, as many as a sheet has for it; coasts of the world are so much finer
CLOSEST_KM, WIDEST_KM = 400.0, 1500.0  # half of a close-up
REACH = 2.5  # half of a close-up, over the radius that holds 90 % of the probability in the widest one
RIMS = ((1.3, "solid"), (0.9, (0, (2.5, 1.5))))  # widths and dashes of the regions of 50 and 90 %


def close_up(place: Tensor, density: Tensor, anchors: Tensor) -> CloseUp:
    """Return the close-up around a place (2,), from 800 to 3,000 km wide, as wide as a density (N,) over `anchors`
    (N, 2) is there."""
    km, order = great_circle_km(place, anchors).sort()
    reached = density[order].cumsum(0)
    around = reached[(km <= WIDEST_KM).sum() - 1]
    half = REACH * km[(reached < 0.9 * around).sum()].item()
    return CloseUp(*place.tolist(), min(max(half, CLOSEST_KM), WIDEST_KM))


def draw_base(axes: Axes, view: View, style: Style = LIGHT) -> None:
    """Draw sea, land, coasts and borders, and set the axes to what the view shows."""
    height = HEIGHT * (FINER if view == WORLD else 1)
    sea = Polygon(outline(view), fc=style.sea, ec="none", zorder=0)
    rings = base_map.land_rings(view, height)
    land = PathPatch(Path.make_compound_path(*map(Path, rings)), fc=style.land, ec="none", zorder=0.5)
    borders = LineCollection(base_map.border_lines(view, height), colors=style.border, linewidths=0.6)
    coasts = LineCollection(base_map.coast_lines(view, height), colors=style.coast, linewidths=0.6)
    for artist in (sea, land, borders, coasts):
        axes.add_artist(artist)
        artist.set_clip_path(sea)
    axes.add_patch(Polygon(outline(view), fc="none", ec=style.coast, lw=0.8, zorder=4, clip_on=False))
    axes.set(xlim=(-view.half_width, view.half_width), ylim=(-view.half_height, view.half_height), aspect="equal")
    axes.set_axis_off()


def draw_ratio(
    axes: Axes, view: View, ratio: np.ndarray, largest: float, levels: Sequence[float], style: Style = LIGHT
) -> None:
    """Draw a density by its ratio to the uniform one (height, width), the `largest` being the darkest, and outline its
    regions, whose rims lie at these `levels`; see `densities`."""
    w, h = view.half_width, view.half_height
    shade = style.shade(densities.strength(ratio, largest))
    shown = axes.imshow(shade, extent=(-w, w, -h, h), interpolation="bilinear", zorder=1)
    shown.set_clip_path(Polygon(outline(view), transform=axes.transData))
    for level, (width, dashes) in zip(levels, RIMS, strict=False):
        if ratio.min() < level < ratio.max():
            axes.contour(
                *positions(view, len(ratio)), ratio, levels=[level], colors=style.rim, linewidths=width,
                linestyles=[dashes],
            )  # fmt: skip


def draw_density(axes: Axes, view: View, density: Tensor, style: Style = LIGHT) -> None:
    """Draw the base map and one density (N,) of HEALPix pixels over it, with its regions of 50 and 90 %."""
    draw_base(axes, view, style)
    ratio = densities.on_map(view, HEIGHT, densities.of_pixels(density), [densities.pixels_of(density)])
    draw_ratio(axes, view, ratio, len(density) * density.max().item(), densities.region_levels(density), style)


def mark(axes: Axes, view: View, lat_lon: Tensor | np.ndarray, *style: Any, **options: Any) -> None:
    """Plot places (n, 2) on a map; `style` and `options` are those of `Axes.plot`."""
    x, y = view.forward(np.asarray(lat_lon)).T
    axes.plot(x, y, *style, **options)


def mark_all(
    axes: Axes,
    view: View,
    place: Tensor | None,
    samples: Tensor | None,
    truth: Tensor | None,
    style: Style = LIGHT,
    inner: CloseUp | None = None,
) -> None:
    """Mark the samples (S, 2), the most likely place (2,) and the true one (2,); None for what there is not.

    On a map with the frame of an `inner` one, the frame stands for what lies in it.
    """
    halo = [withStroke(linewidth=3.2, foreground=style.edge)]
    looks = {
        "samples": (samples, "o", {"color": style.sample, "mec": style.edge, "mew": 0.4, "ms": 4.2}),
        "truth": (truth, "*", {"color": style.truth, "mec": style.edge, "mew": 0.7, "ms": 13}),
        "most likely place": (place, "+", {"color": style.mode, "ms": 10, "mew": 1.7, "path_effects": halo}),
    }
    for order, (label, (places, shape, options)) in enumerate(looks.items(), 5):
        if places is not None:
            shown = np.asarray(places).reshape(-1, 2)
            if inner is not None:
                shown = shown[(np.abs(inner.forward(shown)) > inner.half).any(axis=-1)]
            mark(axes, view, shown, shape, ls="none", **options, zorder=order, label=label)
    if inner is not None:
        _draw_frame(axes, view, inner, style)


def _draw_frame(axes, view, inner, style):
    """Draw on a map where a close-up lies."""
    halo = [withStroke(linewidth=2.4, foreground=style.edge)]
    axes.add_collection(
        LineCollection(frame(view, inner), colors=style.mode, linewidths=1.1, zorder=4, path_effects=halo)
    )


def draw_scale_bar(axes: Axes, view: CloseUp, style: Style = LIGHT) -> None:
    """Draw a bar of a round number of km in the lower left corner."""
    km, ends = scale_bar(view)
    halo = [withStroke(linewidth=2.5, foreground=style.edge)]
    axes.plot(*ends.T, color=style.ink, lw=2, solid_capstyle="butt", zorder=8, path_effects=halo)
    start = ends[0] + [0, 0.04 * view.half]
    axes.text(*start, f"{km:,} km", ha="left", va="bottom", fontsize=10, color=style.ink, path_effects=halo, zorder=8)


def draw_shade_scale(axes: Axes, style: Style = LIGHT) -> None:
    """Draw the shades from the uniform density, at the left, to the largest, over land."""
    colors = style.shade(np.linspace(0, 1, 128)[None])
    axes.imshow(np.broadcast_to(to_rgb(style.land), (1, 1, 3)), extent=(0, 1, 0, 1), aspect="auto")
    axes.imshow(colors, extent=(0, 1, 0, 1), aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=style.coast, linewidth=0.6)
