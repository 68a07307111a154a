"""Pictures of predictions: densities on a map of the world."""

import io

import matplotlib
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from locdiff import datasets
from locdiff.coordinates import great_circle_km
from locdiff.model import write_atomically

MAP_HEIGHT = 360  # pixels from pole to pole


def pixel_of_map(nside):
    """HEALPix pixel (RING) under each pixel of a plate carree map, (MAP_HEIGHT, 2 MAP_HEIGHT) int64."""
    import healpy

    lat = 90 - (np.arange(MAP_HEIGHT) + 0.5) * 180 / MAP_HEIGHT
    lon = (np.arange(2 * MAP_HEIGHT) + 0.5) * 180 / MAP_HEIGHT - 180
    return healpy.ang2pix(nside, *np.meshgrid(lon, lat), lonlat=True)


def background():
    """Blue Marble in grey, dark enough to lay a density over it: (MAP_HEIGHT, 2 MAP_HEIGHT) in [0, 1]."""
    grey = datasets.blue_marble_image().mean(dim=0)[None, None]
    return torch.nn.functional.interpolate(grey, (MAP_HEIGHT, 2 * MAP_HEIGHT), mode="area")[0, 0].numpy() ** 0.7 * 0.7


def draw_density(axes, density, base, index):
    """Draw one density (N,) over the map `base`; colour is its logarithm over three decades below its largest value."""
    share = density.numpy()[index]
    strength = np.clip(1 + np.log10(np.maximum(share / share.max(), 1e-9)) / 3, 0, 1)[..., None]
    colour = colormaps["inferno"](0.25 + 0.75 * strength[..., 0])[..., :3]
    opacity = 0.85 * (strength > 0) * (0.3 + 0.7 * strength)
    axes.imshow(
        base[..., None] * (1 - opacity) + colour * opacity, extent=(-180, 180, -90, 90), interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[], xlim=(-180, 180), ylim=(-90, 90))


def draw_predictions(path, anchors, places, density, samples=None, truth=None, pictures=None, names=None):
    """Write a png with a row of maps, two abreast: picture, density over the world, samples, prediction, truth.

    n pictures: places (n, 2), density (n, N) over the HEALPix `anchors` (N, 2), samples (n, S, 2), truth (n, 2),
    pictures (n, height, width, 3) in [0, 1], names (n); all but the first two may be left out.
    """
    n, columns = len(places), min(2, len(places))
    figure = Figure(figsize=(8.4 * columns, 3.15 * -(-n // columns) + 0.5), dpi=110, layout="constrained")
    matplotlib.rcParams["font.size"] = 10
    base, index = background(), pixel_of_map(round((len(anchors) / 12) ** 0.5))
    cells = figure.add_gridspec(
        -(-n // columns), 2 * columns, width_ratios=[1 if pictures is not None else 0.01, 3] * columns
    )
    for i in range(n):
        row, column = divmod(i, columns)
        if pictures is not None:
            axes = figure.add_subplot(cells[row, 2 * column])
            axes.imshow(np.asarray(pictures[i]), interpolation="nearest")
            axes.set(xticks=[], yticks=[], title="the picture")
        axes = figure.add_subplot(cells[row, 2 * column + 1])
        draw_density(axes, density[i], base, index)
        if samples is not None:
            axes.plot(samples[i, :, 1], samples[i, :, 0], ".", color="#66ddff", markersize=4, label="samples")
        axes.plot(*places[i].flip(0), "o", color="white", markersize=9, fillstyle="none", label="most likely")
        title = names[i] if names else ""
        if truth is not None:
            axes.plot(*truth[i].flip(0), "*", color="#7CFC00", markeredgecolor="black", markersize=12, label="truth")
            title = (
                f"{title} most likely place is {great_circle_km(places[i], truth[i]):,.0f} km from the truth".strip()
            )
        axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    caption = "colour: probability per area, from its largest value (yellow) to a thousandth of it (dark)"
    figure.legend(handles, labels, loc="outside lower center", ncols=4, title=caption, facecolor="#999999")
    save_figure(figure, path)


def save_figure(figure, path):
    """Write a matplotlib figure as png, at once or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))
