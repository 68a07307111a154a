"""Figure 3: how sharply the density of one place is drawn by degree L."""

import numpy as np
import torch
from artefact import Claim
from matplotlib.figure import Figure
from report import markdown_table, save
from scipy.integrate import quad
from scipy.optimize import brentq

from locdiff.data.blue_marble import is_land
from reference.coordinates import EARTH_RADIUS_KM, from_unit_vector, to_theta_phi
from reference.shdd import delta_kernel

TITLE = "the density of one place at L = 15, 23, 31"
DATA = "the closed form of the truncated delta (the same at every place, nothing random), around Paris for the scale."
PAPER_RESOLUTION = {15: "about 1300", 23: "about 870", 31: "about 640"}  # km, Appendix A.3: about 20000 / L


def compute(lat=48.86, lon=2.35, degrees=(15, 23, 31), width_km=2400.0, pixels=401):
    """Return exponent F and density exp(F) around a place, on an azimuthal equidistant map of width_km, and their
    widths.

    exponent (degrees, pixels, pixels) is F / F(0), density exp(F - F(0)); land (pixels, pixels) is bool; the widths
    are diameters in km at half of the maximum; mass is the share of the probability inside that of the density.
    """
    km, places = square_around(lat, lon, width_km / 2, pixels)
    F = np.stack([delta_kernel(km / EARTH_RADIUS_KM, L) for L in degrees])
    peak = np.array([delta_kernel(0.0, L) for L in degrees])[:, None, None]
    density_km, exponent_km = np.transpose([half_maximum_km(L) for L in degrees])
    return {
        "degrees": np.array(degrees),
        "width_km": np.array(width_km),
        "land": is_land(places).view(km.shape).numpy(),
        "exponent": (F / peak).astype(np.float32),
        "density": np.exp(F - peak).astype(np.float32),
        "density_km": density_km,
        "exponent_km": exponent_km,
        "mass": np.array([mass_within(width, L) for width, L in zip(density_km, degrees, strict=True)]),
    }


def half_maximum_km(l_max):
    """Return the diameters in km at which exp(F) and F of one truncated delta fall to half of their maximum."""
    peak, first_zero = delta_kernel(0.0, l_max), 3.83 / (l_max + 1)
    density = brentq(lambda angle: delta_kernel(angle, l_max) - peak + np.log(2), 0, first_zero)
    exponent = brentq(lambda angle: delta_kernel(angle, l_max) - peak / 2, 0, first_zero)
    return 2 * EARTH_RADIUS_KM * density, 2 * EARTH_RADIUS_KM * exponent


def mass_within(diameter_km, l_max):
    """Return the share of the probability of exp(F) inside a disc of that diameter around the place."""
    peak, radius, bulk = delta_kernel(0.0, l_max), diameter_km / 2 / EARTH_RADIUS_KM, 3.83 / (l_max + 1)
    inside, near, far = (
        quad(lambda angle: np.exp(delta_kernel(angle, l_max) - peak) * np.sin(angle), a, b, limit=200)[0]
        for a, b in ((0, radius), (radius, bulk), (bulk, np.pi))
    )
    return inside / (inside + near + far)


def square_around(lat, lon, half_km, pixels):
    """Return an azimuthal equidistant map around (lat, lon), as wide as twice half_km: the distances of its pixels from
    the middle in km, (pixels, pixels), south first, and their places, a tensor (pixels * pixels, 2)."""
    east, north = np.meshgrid(*[np.linspace(-half_km, half_km, pixels)] * 2)
    theta, phi = to_theta_phi([lat, lon])
    up = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    to_north = np.array([-np.cos(theta) * np.cos(phi), -np.cos(theta) * np.sin(phi), np.sin(theta)])
    km = np.hypot(east, north)
    step = (east[..., None] * np.cross(to_north, up) + north[..., None] * to_north) / EARTH_RADIUS_KM
    angle = km[..., None] / EARTH_RADIUS_KM
    return km, torch.from_numpy(from_unit_vector(np.cos(angle) * up + np.sinc(angle / np.pi) * step)).view(-1, 2)


def draw_square(ax, values, land, half_km, colors):
    """Draw values in [0, 1] and the coasts of land, both (pixels, pixels), on such a map around Paris."""
    extent, side = (-half_km, half_km, -half_km, half_km), np.linspace(-half_km, half_km, len(land))
    picture = ax.imshow(values, extent=extent, origin="lower", vmin=0, vmax=1, cmap=colors, interpolation="nearest")
    ax.contour(side, side, land, levels=[0.5], colors="white", linewidths=0.6, alpha=0.7)
    if ax.get_subplotspec().is_first_col():
        ax.set_ylabel("km north of Paris")
    if ax.get_subplotspec().is_last_row():
        ax.set_xlabel("km east of Paris")
    return picture


def key_numbers(result):
    """Return the widths of the density, which nothing random goes into."""
    return {f"width at L = {L}": (width, 0.5) for L, width in zip(result["degrees"], result["density_km"], strict=True)}


def draw(result, folder):
    """Write figure_3.png: above F, below exp(F), all panels of one scale; return Markdown and
    claims."""
    degrees, half, turn = result["degrees"].tolist(), float(result["width_km"]) / 2, np.linspace(0, 2 * np.pi, 200)
    figure = Figure(figsize=(9.5, 6.6), dpi=120, layout="compressed")
    axes = figure.subplots(2, len(degrees), sharex=True, sharey=True)
    for row, (name, label) in enumerate([("exponent", "F"), ("density", "exp(F)")]):
        for i, L in enumerate(degrees):
            ax, diameter = axes[row, i], result[f"{name}_km"][i]
            picture = draw_square(ax, result[name][i], result["land"], half, "inferno")
            for km, style, about in (
                (diameter, "-", "half of the maximum (its diameter is the width)"),
                (20000 / L, ":", "the paper's resolution: diameter 20000 km / L"),
            ):
                ax.plot(km / 2 * np.cos(turn), km / 2 * np.sin(turn), style, color="white", label=about)
            ax.set_title(f"L = {L}: {label} is {diameter:,.0f} km wide", fontsize=10.5)
    figure.colorbar(picture, ax=axes, label="F or exp(F), divided by its maximum", extend="min", shrink=0.7)
    handles, labels = axes[-1, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, facecolor="#555555", labelcolor="white")

    header = ["L", "paper: resolution, km", "20000 / L, km", "width of F, km", "width of exp(F), km", "mass in it"]
    columns, rows = (result[key] for key in ("exponent_km", "density_km", "mass")), []
    for L, exponent, density, mass in zip(degrees, *columns, strict=True):
        paper, scale = PAPER_RESOLUTION.get(L, ""), f"{20000 / L:.0f}"
        rows.append([L, paper, scale, f"{exponent:.0f}", f"{density:.0f}", f"{100 * mass:.0f} %"])
    text = "Widths are diameters at half of the maximum, the solid circles; the last columns are ours."
    return f"{save(figure, folder / 'figure_3.png')}\n\n{text}\n\n{markdown_table(header, rows)}", claims(result)


def claims(result):
    """Return the claims about the size of the bright region."""
    degrees, density, exponent = (result[key] for key in ("degrees", "density_km", "exponent_km"))

    def listed(widths):
        return ", ".join(f"{width:.0f}" for width in widths)

    papers, at = 20000 / degrees, f"at L = {listed(degrees)}"
    ratio = density / papers
    return [
        Claim(
            "the bright region shrinks as L grows",
            "seen in the figure",
            f"exp(F) is {listed(density)} km wide {at}: it narrows as 1 / L^2, because the peak of F grows as L^2",
            bool((np.diff(density[degrees.argsort()]) < 0).all()),
        ),
        Claim(
            "its width is about 20000 km / L, within a factor of two",
            f"{listed(papers)} km",
            f"that is the scale of F, {listed(exponent)} km wide {at}; the density exp(F) is {listed(density)} km wide",
            bool(((ratio > 0.5) & (ratio < 2)).all()),
        ),
    ]
