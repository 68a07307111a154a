"""Figure 3: how sharply the density of one place is drawn by degree L."""

import numpy as np
import torch
from matplotlib.figure import Figure
from report import markdown_table
from scipy.integrate import quad
from scipy.optimize import brentq

from locdiff.datasets import is_land
from reference.coordinates import EARTH_RADIUS_KM, from_unit_vector, to_theta_phi
from reference.shdd import delta_kernel

TITLE = "the density of one place at L = 15, 23, 31"
DATA = "the closed form of the truncated delta (the same at every place, nothing random), around Paris for the scale."
PAPER_RESOLUTION_KM = {15: 1300, 23: 870, 31: 640}  # Appendix A.3: about 20000 / L


def compute(lat=48.86, lon=2.35, degrees=(15, 23, 31), width_km=2400.0, pixels=401):
    """Exponent F and density exp(F) around a place, on an azimuthal equidistant map of width_km, and their widths.

    exponent (degrees, pixels, pixels) is F / F(0), density exp(F - F(0)); land (pixels, pixels) is bool; the widths
    are diameters in km at half of the maximum; mass is the share of the probability inside that of the density.
    """
    east, north = np.meshgrid(*[np.linspace(-width_km / 2, width_km / 2, pixels)] * 2)
    angle = np.hypot(east, north) / EARTH_RADIUS_KM
    F = np.stack([delta_kernel(angle, L) for L in degrees])
    peak = np.array([delta_kernel(0.0, L) for L in degrees])
    widths = [half_maximum_km(L) for L in degrees]
    return {
        "degrees": np.array(degrees),
        "width_km": np.array(width_km),
        "land": land_around(lat, lon, east, north),
        "exponent": (F / peak[:, None, None]).astype(np.float32),
        "density": np.exp(F - peak[:, None, None]).astype(np.float32),
        "density_km": np.array([density for density, _ in widths]),
        "exponent_km": np.array([exponent for _, exponent in widths]),
        "mass": np.array([mass_within(density, L) for (density, _), L in zip(widths, degrees, strict=True)]),
    }


def half_maximum_km(l_max):
    """Diameters in km at which exp(F) and F of one truncated delta fall to half of their maximum."""
    peak = delta_kernel(0.0, l_max)
    first_zero = 3.83 / (l_max + 1)
    density = brentq(lambda angle: delta_kernel(angle, l_max) - peak + np.log(2), 0, first_zero)
    exponent = brentq(lambda angle: delta_kernel(angle, l_max) - peak / 2, 0, first_zero)
    return 2 * EARTH_RADIUS_KM * density, 2 * EARTH_RADIUS_KM * exponent


def mass_within(diameter_km, l_max):
    """Share of the probability of exp(F) inside a disc of that diameter around the place."""
    peak = delta_kernel(0.0, l_max)
    radius, bulk = diameter_km / 2 / EARTH_RADIUS_KM, 3.83 / (l_max + 1)
    inside, near, far = (
        quad(lambda angle: np.exp(delta_kernel(angle, l_max) - peak) * np.sin(angle), a, b, limit=200)[0]
        for a, b in ((0, radius), (radius, bulk), (bulk, np.pi))
    )
    return inside / (inside + near + far)


def land_around(lat, lon, east, north):
    """Whether the points `east`, `north` (km) of a map around (lat, lon) lie on land; bool, of their shape."""
    points = places_around(lat, lon, east, north)
    return is_land(torch.from_numpy(points.reshape(-1, 2))).numpy().reshape(east.shape)


def places_around(lat, lon, east, north):
    """The places (..., 2) of the points `east`, `north` (...), in km, of an azimuthal equidistant map."""
    theta, phi = to_theta_phi([lat, lon])
    up = np.array([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)])
    to_north = np.array([-np.cos(theta) * np.cos(phi), -np.cos(theta) * np.sin(phi), np.sin(theta)])
    to_east = np.cross(to_north, up)
    angle = np.hypot(east, north) / EARTH_RADIUS_KM
    step = (east[..., None] * to_east + north[..., None] * to_north) / EARTH_RADIUS_KM
    points = np.cos(angle)[..., None] * up + np.sinc(angle / np.pi)[..., None] * step
    return from_unit_vector(points)


def key_numbers(result):
    """The widths of the density, which nothing random goes into."""
    return {f"width at L = {L}": (width, 0.5) for L, width in zip(result["degrees"], result["density_km"], strict=True)}


def draw(result, folder):
    """Write figure_3.png: above F, below exp(F), all panels of one scale; Markdown and verdict."""
    degrees, half = [int(L) for L in result["degrees"]], float(result["width_km"]) / 2
    axis_km = np.linspace(-half, half, len(result["land"]))
    figure = Figure(figsize=(9.5, 6.6), dpi=120, layout="compressed")
    axes = figure.subplots(2, len(degrees), sharex=True, sharey=True)
    for row, (name, label) in enumerate([("exponent", "F"), ("density", "exp(F)")]):
        for i, L in enumerate(degrees):
            ax, diameter = axes[row, i], result[f"{name}_km"][i]
            picture = ax.imshow(
                result[name][i], extent=(-half, half, -half, half), origin="lower", vmin=0, vmax=1, cmap="inferno"
            )
            ax.contour(axis_km, axis_km, result["land"], levels=[0.5], colors="white", linewidths=0.6, alpha=0.6)
            circle(ax, diameter, "-", "half of the maximum (its diameter is the width)")
            circle(ax, 20000 / L, ":", "the paper's resolution: diameter 20000 km / L")
            ax.set_title(f"L = {L}: {label} is {diameter:,.0f} km wide", fontsize=10.5)
        axes[row, 0].set_ylabel("km north of Paris")
    for ax in axes[-1]:
        ax.set_xlabel("km east of Paris")
    figure.colorbar(picture, ax=axes, label="F or exp(F), divided by its maximum", extend="min", shrink=0.7)
    handles, labels = axes[-1, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, facecolor="#555555", labelcolor="white")
    figure.savefig(folder / "figure_3.png")

    header = ["L", "paper: resolution, km", "20000 / L, km", "width of F, km", "width of exp(F), km", "mass in it"]
    rows = [
        [L, f"about {PAPER_RESOLUTION_KM[L]}" if L in PAPER_RESOLUTION_KM else "", f"{20000 / L:.0f}",
         f"{result['exponent_km'][i]:.0f}", f"{result['density_km'][i]:.0f}", f"{100 * result['mass'][i]:.0f} %"]
        for i, L in enumerate(degrees)
    ]  # fmt: skip
    narrow = ", ".join(f"{width:.0f}" for width in result["density_km"])
    verdict = (
        "reproduced: the bright region shrinks as L grows. But the paper's 20000 km / L is the scale of F; the density "
        f"exp(F) is only {narrow} km wide and narrows as 1 / L^2, because the peak of F grows as L^2."
    )
    text = "Widths are diameters at half of the maximum, the solid circles; the last columns are ours."
    return f"![figure 3](figure_3.png)\n\n{text}\n\n{markdown_table(header, rows)}", verdict


def circle(ax, diameter_km, style, label):
    """Draw a circle around the middle of the map."""
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(diameter_km / 2 * np.cos(turn), diameter_km / 2 * np.sin(turn), style, color="white", label=label)
