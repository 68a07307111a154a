"""Figure 1: spaces to diffuse in. How encodings take noise, and how their distances follow those on the Earth."""

from collections import namedtuple
from functools import partial

import numpy as np
import torch
from artefact import Claim
from figure_3 import draw_square, square_around
from matplotlib.figure import Figure
from methods.location_encoders import ENCODERS
from report import BLUE, GREEN, RED, band, estimate, markdown_table, save, with_interval, write_csv
from scipy.ndimage import minimum_filter
from scipy.optimize import isotonic_regression

from locdiff.data.blue_marble import is_land
from locdiff.data.geoclip import GeoClip
from locdiff.sphere import healpix, shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.viz import maps
from locdiff.viz.style import DARK
from locdiff.viz.views import WORLD, CloseUp

TITLE = "noise and distances in the spaces of location encodings"
DATA = (
    "encodings of the places of a HEALPix grid and of a square around Paris. Sphere2Vec-sphereM by its formula, 64 "
    "scales, not trained; GeoCLIP's location encoder as its authors trained it."
)
SPHERE2VEC, GEOCLIP, SHDD_23, SHDD_47 = "Sphere2Vec", "GeoCLIP, trained", "SHDD, L = 23", "SHDD, L = 47"
COLORS = {SPHERE2VEC: RED, GEOCLIP: "#CC79A7", SHDD_23: BLUE, SHDD_47: GREEN}
LIGHT = {SPHERE2VEC: "#E69F00", GEOCLIP: "#CC79A7", SHDD_23: "#56B4E9"}  # on dark maps
PARIS, HALF_KM = (48.86, 2.35), 2000.0
NOISES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # length of the noise, in lengths of the encoding
SHOWN, FAR_KM = 4.0, 750.0  # the noise of the maps; beyond this a decoded place is elsewhere


Scale = namedtuple("Scale", "pixels nside places")  # of the square, a side; of the grid decoded to; places with noise
SCALES = {
    "smoke": Scale(25, 8, 20),
    "cpu": Scale(101, 64, 300),
    "full": Scale(101, 64, 1000),
    "paper": Scale(401, 64, 3000),
}


def compute(context):
    """Return of each of COLORS' encoders: `map` (encoders, pixels, pixels), the distances from the encoding of Paris,
    over the largest; its `nonlinearity`; `minima` and `nearest`, the number of its false minima and how far the nearest
    is, in km; `drift` (encoders, NOISES, places), in km, of noisy encodings, and `off` (encoders, NOISES), their mean
    distance from the nearest valid encoding, in lengths of the encoding; `decoded` (encoders, places, 2), where noisy
    encodings of Paris end. `density` is that of the first of these by SHDD_23, `kl` (places,) their divergences from
    that of Paris; `land` (pixels, pixels)."""
    scale, found = SCALES[context.scale], {}
    km, square = square_around(*PARIS, HALF_KM, scale.pixels)
    inside = km <= HALF_KM
    for i, (name, encode) in enumerate(encoders().items()):
        own = context.piece(f"encoder-{i}", repr(scale), partial(measure, encode, square, scale))
        own["map"] = own["map"].reshape(km.shape)
        own["nonlinearity"] = nonlinearity(km[inside], own["map"][inside])
        minima = km[false_minima(own["map"]) & inside & (km > 0)]
        found[name] = own | {"minima": minima.size, "nearest": minima.min(initial=np.inf)}
    keys = ("map", "nonlinearity", "minima", "nearest", "drift", "off", "decoded")
    result = {key: np.stack([own[key] for own in found.values()]) for key in keys}
    noisy = torch.from_numpy(found[SHDD_23]["noisy"])
    basis = shdd.encode(healpix.healpix_anchors(scale.nside), 23).float()
    density = torch.softmax(shdd.synthesis(noisy[0], basis), dim=-1)
    kl = shdd.kl_divergence(noisy, shdd.encode(torch.tensor(PARIS), 23), basis)
    return result | {"kl": kl.numpy(), "density": density.numpy(), "land": is_land(square).view(km.shape).numpy()}


def encoders():
    """Return {name: function} from places (n, 2) to encodings (n, D), float32, in the order of COLORS."""
    geoclip = GeoClip()
    return {
        SPHERE2VEC: ENCODERS["Sphere2Vec-sphereM"](0),
        GEOCLIP: lambda lat_lon: torch.cat([geoclip.places(chunk) for chunk in lat_lon.split(2048)]),
        SHDD_23: lambda lat_lon: shdd.encode(lat_lon, 23).float(),
        SHDD_47: lambda lat_lon: shdd.encode(lat_lon, 47).float(),
    }


def measure(encode, square, scale):
    """Return what compute does of one encoder, besides what follows from its map; and `noisy` encodings of Paris.

    A noisy encoding is decoded as by the paper's Eq. 4, to the place of the grid whose encoding is nearest."""
    anchors, generator = healpix.healpix_anchors(scale.nside), torch.Generator().manual_seed(0)
    valid, paris = encode(anchors), encode(torch.tensor([PARIS], dtype=torch.float64))
    squares = valid.square().sum(dim=-1)
    chosen = torch.randint(len(anchors), (scale.places,), generator=generator)

    def decode(encodings, noise):
        length = encodings.norm(dim=-1, keepdim=True)
        random = torch.randn(len(chosen), valid.shape[1], generator=generator)
        noisy = encodings + noise * length * random / valid.shape[1] ** 0.5
        found = [(squares - 2 * part @ valid.T).min(dim=-1) for part in noisy.split(100)]
        distance, nearest = (torch.cat(parts) for parts in zip(*found, strict=True))
        off = (distance + noisy.square().sum(dim=-1)).clamp(min=0).sqrt() / length[:, 0]
        return noisy, anchors[nearest], off

    decoded = [decode(valid[chosen], noise)[1:] for noise in NOISES]
    noisy, ends, _ = decode(paris, SHOWN)
    distance = (encode(square) - paris).norm(dim=-1)
    return {
        "map": (distance / distance.max()).numpy(),
        "drift": np.stack([great_circle_km(places, anchors[chosen]).numpy() for places, _ in decoded]),
        "off": np.array([off.mean().item() for _, off in decoded]),
        "decoded": ends.numpy(),
        "noisy": noisy.numpy(),
    }


def nonlinearity(km, distance):
    """Return 1 - R^2 of the best increasing function of km (n,) for the distances (n,): the share of the variance of
    distances in encoding space that those on the Earth do not explain."""
    order = np.lexsort((distance, km))
    residual = distance[order] - isotonic_regression(distance[order]).x
    return residual.var() / distance.var()


def false_minima(values):
    """Return which pixels of a map (h, w) are lower than their eight neighbors."""
    neighbors = np.ones((3, 3))
    neighbors[1, 1] = 0
    return values < minimum_filter(values, footprint=neighbors, mode="constant", cval=-np.inf)


def key_numbers(result):
    """Return how far from linear the distances are."""
    return {name: (value, 0.02) for name, value in zip(COLORS, result["nonlinearity"], strict=True)}


def draw(result, folder):
    """Write figure_1.png and figure_1.csv; return Markdown and claims."""
    far = 100 * np.array([[estimate(places) for places in own] for own in result["drift"] > FAR_KM])
    figure = Figure(figsize=(15, 7.3), dpi=110, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    draw_noise(above.subplots(1, 4, width_ratios=(1, 1.9, 1.9, 1)), result, far)
    draw_maps(below.subplots(1, 4, sharex=True, sharey=True), result)
    rows, lines = [], []
    for i, name in enumerate(COLORS):
        nearest = f"{result['nearest'][i]:,.0f}" if result["minima"][i] else "none"
        share = with_interval(*far[i, NOISES.index(SHOWN)])
        rows.append([name, f"{result['nonlinearity'][i]:.3f}", result["minima"][i], nearest, share])
        drifts = zip(NOISES, np.median(result["drift"][i], axis=-1), far[i], result["off"][i], strict=True)
        lines += [[name, noise, drift, *shares, off] for noise, drift, shares, off in drifts]
    header = ["encoder", "noise", "median drift km", f"per cent over {FAR_KM:.0f} km", "low", "high", "off the valid"]
    write_csv(folder / "figure_1.csv", header, lines)
    text = (
        "Non-linearity: 1 - R^2 of the best increasing function of the distance in km for the distance in encoding "
        f"space, within {HALF_KM:,.0f} km of Paris; 0 if the second follows from the first. False minima: pixels of "
        "the maps nearer to Paris, in encoding space, than all around them; at L = 47 they are the ripples of the "
        "truncated delta. Noise is Gaussian, as long as so many encodings; noisy encodings are decoded to the nearest "
        "of a grid's encodings (Eq. 4). (1) Noise leads off the valid encodings of all encoders, SHDD's too; but "
        "there every vector is a density. The paper gives no numbers; its Sphere2Vec is trained and has a learned "
        "decoder, and its heat maps show the distances on the Earth of decoded vectors."
    )
    far_away = f"decoded over {FAR_KM:.0f} km away, noise {SHOWN:g}, %"
    table = markdown_table(["encoder", "non-linearity", "false minima", "nearest, km", far_away], rows)
    return f"{save(figure, folder / 'figure_1.png')}\n\n{text}\n\n{table}", claims(result)


def claims(result):
    """Return the claims that SHDD is the smoother, and the safer to decode."""
    names, score = list(COLORS), result["nonlinearity"]
    ours, theirs = [names.index(n) for n in (SHDD_23, SHDD_47)], [names.index(n) for n in (SPHERE2VEC, GEOCLIP)]
    far = 100 * (result["drift"] > FAR_KM).mean(axis=-1)[:, NOISES.index(SHOWN)]

    def of_each(values, form):
        return ", ".join(f"{name}: {value:{form}}" for name, value in zip(names, values, strict=True))

    return [
        Claim(
            "distances in the space of SHDD follow those on the Earth more closely than in that of other encoders",
            "heat maps, no numbers",
            f"non-linearity {of_each(score, '.2f')}",
            bool(score[ours].max() < score[theirs].min()),
        ),
        Claim(
            f"noise takes fewer places of SHDD far away than of other encoders, here over {FAR_KM:.0f} km",
            "maps of decoded noise, no numbers",
            f"per cent, with noise of {SHOWN:g} times the encoding: {of_each(far, '.0f')}",
            bool(far[ours].max() < far[theirs].min()),
        ),
    ]


def draw_noise(axes, result, far):
    """Draw above what noise does to encodings, and where noisy encodings of Paris are decoded to."""
    for i, (name, color) in enumerate(COLORS.items()):
        axes[0].plot(NOISES, result["off"][i], "o-", color=color, markersize=4, label=name)
        band(axes[3], NOISES, far[i], color, name)
    axes[0].set(title="(1) noise leaves them all invalid", ylabel="distance from the nearest valid")
    axes[3].set(title=f"decoded over {FAR_KM:.0f} km away", ylabel="per cent of places", ylim=(-3, 103))
    axes[0].grid(alpha=0.3)
    axes[0].legend(fontsize=9)
    for ax in (axes[0], axes[3]):
        ax.set_xlabel("noise, in lengths of the encoding")
    star, paris = {"color": "#F0E442", "mec": "black", "ms": 12, "zorder": 9}, np.array([PARIS])
    maps.draw_base(axes[1], WORLD, DARK)
    axes[1].set_title(f"(2) embeddings of Paris with noise {SHOWN:g}, decoded")
    close, density = axes[2].inset_axes((0.7, 0.0, 0.36, 0.6)), torch.from_numpy(result["density"])
    near = CloseUp(*PARIS, HALF_KM)
    for ax, view in ((axes[2], WORLD), (close, near)):
        maps.draw_density(ax, view, density, DARK)
    maps.mark(close, near, paris, "*", **star)
    maps.draw_scale_bar(close, near, DARK)
    axes[2].set_title(f"(3) SHDD of Paris with noise {SHOWN:g}, SHDD-KL {np.median(result['kl']):.1f} nats")
    for ax, names in ((axes[1], (SPHERE2VEC, GEOCLIP)), (axes[2], (SHDD_23,))):
        for name in names:
            ends = result["decoded"][list(COLORS).index(name)]
            maps.mark(ax, WORLD, ends, ".", color=LIGHT[name], markersize=4, zorder=5, label=name)
        maps.mark(ax, WORLD, paris, "*", **star, label="Paris")
        ax.legend(fontsize=9, loc="lower left")


def draw_maps(axes, result):
    """Draw below the distance in encoding space from Paris."""
    for i, (ax, name) in enumerate(zip(axes, COLORS, strict=True)):
        picture = draw_square(ax, result["map"][i], result["land"], HALF_KM, "cividis")
        ax.plot(0, 0, "*", color="#F0E442", markeredgecolor="black", markersize=14)
        panel = "(4a)" if i < 2 else "(4b)"
        ax.set_title(f"{panel} {name}: non-linearity {result['nonlinearity'][i]:.2f}", fontsize=11)
    label = "distance in encoding space,\nover the largest in the square"
    axes[0].figure.colorbar(picture, ax=axes, label=label, shrink=0.8)
