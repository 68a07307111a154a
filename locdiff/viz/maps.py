"""Pictures of predictions: densities on a map of the world and close up."""

import io

import healpy
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from locdiff.data import blue_marble
from locdiff.files import atomic_path
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.pixels import regions

CLOSE_UP_DEGREES = 13.5  # half the height: a close-up is about 3000 km across
ZOOMS_DEGREES = (13.5, 1.35)  # the same, of the pictures of `draw_zooms`
WORLD = (0.0, 0.0, 90.0, 180.0)
REGION_STYLES = ("solid", "dotted")


def grey_map():
    """The Blue Marble in grey, to paint on: (1350, 2700) in [0, 1]."""
    return blue_marble.blue_marble_image().mean(dim=0).numpy() ** 0.7 * 0.7


def close_up(lat_lon, half=CLOSE_UP_DEGREES):
    """Window (lat, lon, half height, half width) in degrees around a place, of equal extent in km both ways."""
    lat, lon = lat_lon.tolist()
    return lat, lon, half, min(180.0, half / max(np.cos(np.radians(lat)), 0.05))


def paint(density, image, window, height=360):
    """One density (N,) over the grey map `image` (h, 2h) in a window: colors (height, width, 3) in [0, 1], the density
    there, interpolated, and the lats (height) and lons (width). The colour is logarithmic, three decades."""

    def at(lat_lon):
        return healpy.get_interp_val(density.numpy(), lat_lon[..., 1], lat_lon[..., 0], lonlat=True)

    return paint_function(at, image, window, height, density.max().item())


def paint_function(density_at, image, window, height=360, top=None):
    """As `paint`, of a function of places (..., 2) that gives a density; `top` is its largest value, by default that in
    the window."""
    lat, lon, half_height, half_width = window
    lats = lat + half_height * (1 - 2 * (np.arange(height) + 0.5) / height)
    width = round(height * half_width / half_height) if window == WORLD else height
    lons = lon + half_width * (2 * (np.arange(width) + 0.5) / width - 1)
    grid_lon, grid_lat = np.meshgrid((lons + 180) % 360 - 180, lats.clip(-90, 90))
    base = image[
        ((90 - grid_lat) / 180 * (len(image) - 1)).astype(int), ((grid_lon + 180) / 360 * 2 * len(image)).astype(int)
    ]
    value = density_at(np.stack([grid_lat, grid_lon], axis=-1))
    strength = np.clip(1 + np.log10(np.maximum(value / (top or value.max()), 1e-9)) / 3, 0, 1)
    opacity = (0.85 * (strength > 0) * (0.3 + 0.7 * strength))[..., None]
    colors = base[..., None] * (1 - opacity) + colormaps["inferno"](0.25 + 0.75 * strength)[..., :3] * opacity
    colors[np.abs(lats) > 90] = 1
    return colors, value, lats, lons


def region_levels(density):
    """For the regions of 50 and 90 % of one density (N,), the value halfway between the least dense place inside and
    the densest outside. A region of the whole Earth has none."""
    masks = [mask for mask in regions(density[None])[0][0] if not mask.all()]
    return [(density[mask].min().item() + density[~mask].max().item()) / 2 for mask in masks]


def draw_density(axes, density, image, window):
    """Draw one density (N,) over the map `image` in a window, and the outlines of its 50 and 90 % regions."""
    colors, value, lats, lons = paint(density, image, window)
    show(axes, colors, window)
    for level, style in zip(region_levels(density), REGION_STYLES, strict=False):
        axes.contour(lons, lats, value, levels=[level], colors="white", linewidths=0.8, linestyles=style)


def show(axes, colors, window):
    """Show the colors (height, width, 3) of a window on the axes, in degrees."""
    lat, lon, half_height, half_width = window
    extent = (lon - half_width, lon + half_width, lat - half_height, lat + half_height)
    aspect = 1 if window == WORLD else half_width / half_height
    axes.imshow(colors, extent=extent, interpolation="nearest", aspect=aspect)
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])


def mark(axes, window, lat_lon, *style, **options):
    """Plot places (n, 2) in a window, on the side of the antimeridian where they are nearest to its middle."""
    lon = (lat_lon[:, 1] - window[1] + 180) % 360 - 180 + window[1]
    axes.plot(lon, lat_lon[:, 0], *style, **options)


def draw_predictions(path, anchors, places, density, samples=None, truth=None, pictures=None, names=None):
    """Write a png: for each picture the picture, its density over the world with samples and truth, and a close-up.

    n pictures: places (n, 2), density (n, N) over the HEALPix `anchors` (N, 2), samples (n, S, 2), truth (n, 2),
    pictures (n, height, width, 3) in [0, 1], names (n); all but the first two may be left out.
    """
    n, columns = len(places), min(2, len(places))
    rows, widths = -(-n // columns), [1, 2.3, 1.15]
    figure = Figure(figsize=(9.6 * columns, 2.6 * rows + 1.0), dpi=110, layout="constrained")
    cells = figure.add_gridspec(rows, 3 * columns, width_ratios=widths * columns)
    grey = grey_map()
    for i in range(n):
        row, column = i // columns, 3 * (i % columns)
        if pictures is not None:
            axes = figure.add_subplot(cells[row, column])
            axes.imshow(np.asarray(pictures[i]), interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=names[i] if names else "the picture")
        for offset, window in ((1, WORLD), (2, close_up(places[i]))):
            axes = figure.add_subplot(cells[row, column + offset])
            draw_density(axes, density[i], grey, window)
            if samples is not None:
                mark(axes, window, samples[i], ".", color="#66ddff", markersize=5, label="samples")
            mark(axes, window, places[i : i + 1], "o", color="white", ms=9, fillstyle="none", label="most likely")
            if truth is not None:
                mark(axes, window, truth[i : i + 1], "*", color="#7CFC00", mec="black", ms=11, label="truth")
            if window != WORLD:
                axes.set_title("close-up, 3000 km")
            elif truth is None:
                axes.set_title("most likely: {:.1f}, {:.1f}".format(*places[i].tolist()))
            else:
                axes.set_title(f"most likely: {great_circle_km(places[i], truth[i]):,.0f} km from the truth")
    handles, labels = axes.get_legend_handles_labels()
    for share, style in zip((50, 90), REGION_STYLES, strict=True):
        handles.append(Line2D([], [], color="white", linewidth=0.8, linestyle=style))
        labels.append(f"smallest region of {share} %")
    caption = "colour: probability per area, from its largest value (yellow) to a thousandth of it (dark)"
    figure.legend(handles, labels, loc="outside lower center", ncols=5, title=caption, facecolor="#999999")
    save_png(figure, path)


def draw_zooms(path, posterior, places, truth, pictures=None):
    """Write a png of the densities of a LocationPosterior at three zooms: for each picture the picture, the world, and
    close-ups of 3,000 and 300 km with the most likely place (n, 2) and the truth (n, 2)."""
    n, grey = len(places), grey_map()
    figure = Figure(figsize=(13.5, 2.9 * n + 0.6), dpi=110, layout="constrained")
    cells = figure.add_gridspec(n, 4, width_ratios=[1, 2.3, 1.15, 1.15])
    for i in range(n):
        if pictures is not None:
            axes = figure.add_subplot(cells[i, 0])
            axes.imshow(np.asarray(pictures[i]), interpolation="nearest")
            axes.set(xticks=[], yticks=[], title="the picture, 475 km wide")
        axes = figure.add_subplot(cells[i, 1])
        draw_density(axes, posterior.pixel_probs[i], grey, WORLD)
        axes.set_title(f"most likely: {great_circle_km(places[i], truth[i]):,.0f} km from the truth")

        def density_at(lat_lon, i=i):
            found = posterior.log_density(torch.from_numpy(lat_lon.reshape(-1, 2)))[i]
            return found.double().exp().numpy().reshape(lat_lon.shape[:-1])

        for column, half in enumerate(ZOOMS_DEGREES, 2):
            axes, window = figure.add_subplot(cells[i, column]), close_up(places[i], half)
            show(axes, paint_function(density_at, grey, window, 180)[0], window)
            axes.set_title(f"{half / CLOSE_UP_DEGREES * 3000:,.0f} km")
            mark(axes, window, places[i : i + 1], "o", color="white", ms=9, fillstyle="none", label="most likely")
            mark(axes, window, truth[i : i + 1], "*", color="#7CFC00", mec="black", ms=11, label="truth")
    caption = "colour: probability per area, from its largest value in the window (yellow) to a thousandth of it (dark)"
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, title=caption, facecolor="#999999")
    save_png(figure, path)


def save_png(figure, path):
    """Write the figure as png, at once or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
