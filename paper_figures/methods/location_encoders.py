"""Location encoders of the paper's appendix A.1, SHDD among them, and a learned decoder from encodings back to places.

`ENCODERS[name](seed)` makes an `Encoder` of places (..., 2) in degrees: Enc = NN(PE(place)) (Eq. 18). Only wrap+ffn and
Siren(SH), which are called after theirs, have an NN, untrained: what is compared is PE.

An encoder knows places: lon and lon + 360 are the same to all. Not all know that the Earth is round:

- Continuous across the antimeridian: wrap, wrap+ffn, xyz, NeRF, Siren(SH), SHDD. Sphere2Vec is so at scales r of which
  1 / r is a whole number; of those from r_min to 1 that is the last. The others take (lon, lat) for a plane.
- Independent of lon at the poles: xyz, NeRF, Siren(SH), SHDD; sphereC at the scale r = 1.
- Not one to one, besides tile: wrap has one encoding for both poles, and so has NeRF, whose sines and cosines of
  multiples of pi do not tell 1 from -1; it also confuses the ends of the other two axes.
"""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import normalize, one_hot
from tqdm import trange

from locdiff.sphere import shdd
from locdiff.sphere.coordinates import check_lat_lon, from_unit_vector, great_circle_km, to_unit_vector

CHUNK = 4096  # places that are encoded at a time
SAMPLE = 2**14  # places that tell the scale of the encodings and the drift of a decoder


class Encoder(nn.Module):
    """Places (..., 2) in degrees -> encodings (..., `dimensions`), float32. ValueError for what is no place.

    `position(lat_lon, **tables)` is PE; it gets float64 with lon in [-180, 180), and tables that move with the module.
    """

    def __init__(self, position, dimensions, network=None, **tables):
        super().__init__()
        self.position, self.dimensions, self.network = position, dimensions, network or nn.Identity()
        for name, table in tables.items():
            self.register_buffer(name, table)

    def forward(self, lat_lon):
        lat, lon = check_lat_lon(lat_lon).double().unbind(-1)
        lat_lon = torch.stack([lat, (lon + 180) % 360 - 180], dim=-1)
        return self.network(self.position(lat_lon, **dict(self.named_buffers(recurse=False))).float())


def tile(seed=0, rows=18, columns=36):
    """Indicator of the cell of a grid of latitudes and longitudes (Berg et al. 2014; Tang et al. 2015), here of 10 deg.

    The authors learn a vector for each cell: the first linear layer of a network that gets the indicator.
    """

    def position(lat_lon):
        row = ((lat_lon[..., 0] + 90) * rows / 180).long().clamp(max=rows - 1)
        column = ((lat_lon[..., 1] + 180) * columns / 360).long().clamp(max=columns - 1)
        return one_hot(row * columns + column, rows * columns)

    return Encoder(position, rows * columns)


def _wrapped(lat_lon):
    lat, lon = torch.deg2rad(lat_lon).unbind(-1)
    return torch.stack([lon.sin(), lon.cos(), (2 * lat).sin(), (2 * lat).cos()], dim=-1)


def wrap(seed=0):
    """Mac Aodha et al. (2019): sine and cosine of pi lon / 180 and of pi lat / 90.

    So latitude goes round in 180 degrees, in their program too; that of Russwurm et al. has the sine and cosine of lat.
    """
    return Encoder(_wrapped, 4)


def wrap_ffn(seed=0, hidden=512, dimensions=256):
    """Mai et al. (2023): wrap and one hidden layer. Their program has ReLU and dropout behind the last layer too."""
    return Encoder(_wrapped, dimensions, _feed_forward([4, hidden, dimensions], nn.ReLU, _random(seed)))


def rbf(seed=0, anchors=200, sigma_deg=10.0):
    """Mai et al. (2020): kernels exp(-d^2 / 2 sigma^2) around random places, d being Euclidean in degrees (lat, lon).

    Theirs are training places, these are spread evenly: their 200 with a sigma of 1 degree, made for data that crowd,
    would leave most of the Earth without an anchor in reach.
    """

    def position(lat_lon, anchors):
        return torch.exp((lat_lon[..., None, :] - anchors).square().sum(dim=-1) / (-2 * sigma_deg**2))

    xyz = torch.randn(anchors, 3, dtype=torch.float64, generator=_random(seed))
    return Encoder(position, anchors, anchors=from_unit_vector(xyz))


def rff(seed=0, dimensions=64, delta=1.0):
    """Random Fourier features (Rahimi and Recht 2007): sqrt(2 / D) cos(w x + b) with w ~ N(0, delta^2), b ~ U(0, 2 pi).

    As with Mai et al. (2023), x is (lat / 90, lon / 180). E<PE(x), PE(y)> = exp(-delta^2 |x - y|^2 / 2). In their
    program the parameter, 1 by default, is the variance of w and not its root.
    """

    def position(lat_lon, directions, shifts):
        plane = lat_lon / torch.tensor([90.0, 180.0]).to(lat_lon)
        return math.sqrt(2 / dimensions) * torch.cos(plane @ directions + shifts)

    random = _random(seed)
    directions = delta * torch.randn(2, dimensions, dtype=torch.float64, generator=random)
    shifts = 2 * math.pi * torch.rand(dimensions, dtype=torch.float64, generator=random)
    return Encoder(position, dimensions, directions=directions, shifts=shifts)


def _radii(scales, smallest, largest):
    """The geometric sequence from the smallest to the largest radius, (scales,)."""
    return torch.linspace(math.log(smallest), math.log(largest), scales, dtype=torch.float64).exp()


def _waves(angle, radii):
    """Sine and cosine of angle / radius: (...) -> two of (..., scales)."""
    angle = angle[..., None] / radii
    return angle.sin(), angle.cos()


def _scale_by_scale(*terms):
    """Terms of each scale, (..., scales) each -> (..., scales * terms)."""
    return torch.stack(terms, dim=-1).flatten(-2)


def space2vec_grid(seed=0, scales=64, smallest=0.0005, largest=360.0):
    """Space2Vec-grid (Mai et al. 2020): sin and cos of lon / r and of lat / r, in degrees; radii of their program."""

    def position(lat_lon, radii):
        return _scale_by_scale(*_waves(lat_lon[..., 1], radii), *_waves(lat_lon[..., 0], radii))

    return Encoder(position, 4 * scales, radii=_radii(scales, smallest, largest))


def space2vec_theory(seed=0, scales=64, smallest=0.0005, largest=360.0):
    """Space2Vec-theory (Mai et al. 2020): sin and cos of <(lon, lat), a_j> / r, a_j unit vectors 120 degrees apart.

    Gratings across directions 120 degrees apart lie 60 degrees apart, as A.1 says.
    """

    def position(lat_lon, radii):
        lat, lon = lat_lon.unbind(-1)
        turns = [2 * math.pi * j / 3 for j in range(3)]
        along = [_waves(math.cos(turn) * lon + math.sin(turn) * lat, radii) for turn in turns]
        return _scale_by_scale(*(wave for pair in along for wave in pair))

    return Encoder(position, 6 * scales, radii=_radii(scales, smallest, largest))


def xyz(seed=0):
    """The unit vector (Mai et al. 2023)."""
    return Encoder(to_unit_vector, 3)


def nerf(seed=0, scales=16):
    """NeRF (Mildenhall et al. 2020, Eq. 4) of the unit vector: sin and cos of 2^s pi x, then of y, then of z."""

    def position(lat_lon, radii):
        waves = (_waves(axis, radii) for axis in to_unit_vector(lat_lon).unbind(-1))
        return torch.cat([_scale_by_scale(*pair) for pair in waves], dim=-1)

    return Encoder(position, 6 * scales, radii=0.5 ** torch.arange(scales, dtype=torch.float64) / math.pi)


def sphere2vec(seed=0, kind="sphereC", scales=64, smallest=0.001, largest=1.0):
    """Sphere2Vec (Mai et al. 2023). For each of the scales, with lat_s = lat / r_s and lon_s = lon / r_s in radians:

    - sphereC: sin lat_s, cos lat_s cos lon_s, cos lat_s sin lon_s. At r = 1 this is the unit vector, and <PE(x), PE(y)>
      the cosine of the angle between x and y: for that scale alone holds that the encoding preserves distances;
    - sphereM: sin lat_s, cos lat_s cos lon, cos lat cos lon_s, cos lat_s sin lon, cos lat sin lon_s;
    - sphereC+, sphereM+: also cos lat_s, sin lon_s, cos lon_s, which with sin lat_s make Space2Vec-grid;
    - dfs: sin lat_s, cos lat_s, sin lon_s, cos lon_s, and each of lat times each of lon for all pairs of scales.

    Their program has the same terms in other orders, and radii like these.
    """

    def position(lat_lon, radii):
        lat, lon = torch.deg2rad(lat_lon).unbind(-1)
        (sin_lat, cos_lat), (sin_lon, cos_lon) = _waves(lat, radii), _waves(lon, radii)
        if kind == "dfs":
            of_lat, of_lon = (torch.cat(pair, dim=-1) for pair in [(sin_lat, cos_lat), (sin_lon, cos_lon)])
            products = (of_lat[..., None] * of_lon[..., None, :]).flatten(-2)
            return torch.cat([_scale_by_scale(sin_lat, cos_lat, sin_lon, cos_lon), products], dim=-1)
        if kind.startswith("sphereC"):
            terms = [sin_lat, cos_lat * cos_lon, cos_lat * sin_lon]
        else:
            (_, cos_lat_1), (sin_lon_1, cos_lon_1) = _waves(lat, 1), _waves(lon, 1)
            terms = [sin_lat, cos_lat * cos_lon_1, cos_lat_1 * cos_lon, cos_lat * sin_lon_1, cos_lat_1 * sin_lon]
        return _scale_by_scale(*terms, *([cos_lat, sin_lon, cos_lon] if kind.endswith("+") else []))

    per_scale = {"sphereC": 3, "sphereC+": 6, "sphereM": 5, "sphereM+": 8, "dfs": 4 + 4 * scales}[kind]
    return Encoder(position, per_scale * scales, radii=_radii(scales, smallest, largest))


def siren_sh(seed=0, l_max=24, hidden=128, layers=3, dimensions=256):
    """Siren(SH) (Russwurm et al. 2024): a network of sines of the real spherical harmonics, here those of SHDD.

    The sizes are those of their program for iNat2018, which counts the degrees, 25. It takes the harmonics at the
    antipode, which turns the sign of the odd degrees.
    """
    network = Siren([(l_max + 1) ** 2, *[hidden] * layers, dimensions], _random(seed))
    return Encoder(partial(shdd.encode, l_max=l_max), dimensions, network)


def shdd_encoder(seed=0, l_max=23):
    """SHDD (paper Eqs. 7 to 9), `shdd.encode`: Y_lm itself, of mean square 1 / (4 pi)."""
    return Encoder(partial(shdd.encode, l_max=l_max), (l_max + 1) ** 2)


ENCODERS = {  # make(seed, **sizes) -> Encoder; the seed is a number or a torch.Generator, and may be left out
    "tile": tile,
    "wrap": wrap,
    "wrap+ffn": wrap_ffn,
    "rbf": rbf,
    "rff": rff,
    "Space2Vec-grid": space2vec_grid,
    "Space2Vec-theory": space2vec_theory,
    "xyz": xyz,
    "NeRF": nerf,
    "Sphere2Vec-sphereC": partial(sphere2vec, kind="sphereC"),
    "Sphere2Vec-sphereC+": partial(sphere2vec, kind="sphereC+"),
    "Sphere2Vec-sphereM": partial(sphere2vec, kind="sphereM"),
    "Sphere2Vec-sphereM+": partial(sphere2vec, kind="sphereM+"),
    "Sphere2Vec-dfs": partial(sphere2vec, kind="dfs", scales=16),  # 64 scales would have 16,640 dimensions
    "Siren(SH)": siren_sh,
    "SHDD": shdd_encoder,
}


def _random(seed):
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def _linear(inputs, outputs, bound, random):
    """A linear layer with weights and biases uniform in (-bound, bound)."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer


def _feed_forward(widths, activation, random):
    """Linear layers of these widths, initialised as He et al. (2015) do, with an activation between them."""
    layers = [(_linear(*sizes, math.sqrt(6 / sizes[0]), random), activation()) for sizes in pairwise(widths)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))[:-1]


class Siren(nn.Module):
    """Sinusoidal network (Sitzmann et al. 2020): sin(30 (W x + b)), then sin(W h + b), then a linear layer.

    As in the program of Russwurm et al., the factor 30 is in the first layer only (Sitzmann et al. have it in all), and
    biases start like weights: uniform within 1 / n in the first layer and sqrt(6 / n) in the others, of n inputs.
    """

    def __init__(self, widths, random):
        super().__init__()
        bounds = [1 / widths[0], *(math.sqrt(6 / n) for n in widths[1:-1])]
        sizes = zip(widths[:-1], widths[1:], bounds, strict=True)
        self.layers = nn.ModuleList(_linear(*size, random) for size in sizes)

    def forward(self, x):
        x = torch.sin(30 * self.layers[0](x))
        for layer in self.layers[1:-1]:
            x = torch.sin(layer(x))
        return self.layers[-1](x)


class PlaceDecoder(nn.Module):
    """The learned decoder of Tables 6 and 7: six linear layers, encodings (..., D) -> places (..., 2), float64.

    `scale` is the root mean square of the encodings; the network sees them divided by it. So noise of variance v in
    standardised units is noise of variance v * scale^2 on the encodings.
    """

    def __init__(self, dimensions, scale=1.0, hidden=512, seed=0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.network = _feed_forward([dimensions, *[hidden] * 5, 3], nn.GELU, _random(seed))

    def direction(self, encodings):
        """Unit vectors (..., 3)."""
        return normalize(self.network(encodings / self.scale), dim=-1)

    def forward(self, encodings):
        return from_unit_vector(self.direction(encodings).double())


def fibonacci_places(count):
    """A spherical Fibonacci lattice: places (count, 2) that stand for equal areas, of any number, unlike HEALPix."""
    i = torch.arange(count, dtype=torch.float64)
    lat = torch.rad2deg(torch.asin(1 - (2 * i + 1) / count))
    return torch.stack([lat, 360 * (i * (math.sqrt(5) - 1) / 2 % 1) - 180], dim=-1)


@torch.no_grad()
def encoding_scale(encoder, lat_lon):
    """Root mean square of the encodings of places (n, 2), over places and dimensions."""
    total = sum(encoder(places).double().square().sum().item() for places in lat_lon.split(CHUNK))
    return math.sqrt(total / (len(lat_lon) * encoder.dimensions))


def train_decoder(
    encoder, places_count=1_000_000, steps=20_000, batch=4096, seed=0, device="cpu", progress=True, noise=0.0,
    hidden=512, lr=1e-3,
):  # fmt: skip
    """A PlaceDecoder for places of a Fibonacci lattice, and its mean drift there, without noise, in km.

    `noise` is the variance of what is added to the encodings in training, in standardised units. The encoder is moved
    to the device and is not trained. The loss is 1 - cosine of the angle, as half the squared chord, which does not
    cancel; the learning rate falls to zero along a cosine.
    """
    random, encoder = torch.Generator(device).manual_seed(seed), encoder.to(device)
    places = fibonacci_places(places_count).to(device)
    sample = places[torch.randperm(len(places), generator=random, device=device)[:SAMPLE]]
    decoder = PlaceDecoder(encoder.dimensions, encoding_scale(encoder, sample), hidden, seed).to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for _ in trange(steps, desc="training", unit="step", disable=not progress):
        lat_lon = places[torch.randint(len(places), (batch,), generator=random, device=device)]
        with torch.no_grad():
            encodings = _perturbed(encoder(lat_lon), noise * decoder.scale.item() ** 2, random)
        chord = decoder.direction(encodings) - to_unit_vector(lat_lon).float()
        optimizer.zero_grad()
        (chord.square().sum(dim=-1).mean() / 2).backward()
        optimizer.step()
        schedule.step()
    return decoder, drift_km(encoder, decoder, sample, 0.0, random).mean().item()


def _perturbed(encodings, variance, random):
    if not variance:
        return encodings
    noise = torch.randn(encodings.shape, generator=random, device=random.device)
    return encodings + math.sqrt(variance) * noise.to(encodings)


@torch.no_grad()
def drift_km(encoder, decoder, lat_lon, variance, generator):
    """Perturbation drift (Table 7): km between decoder(encoder(place) + noise) and each of the places (n, 2), (n,).

    `variance` is that of the Gaussian noise on each dimension, in the units of the encodings; `decoder` is any function
    of encodings (n, D) to places (n, 2). For SHDD that is `decoder.exact_mode` without its score.
    """
    drifts = []
    for places in lat_lon.split(CHUNK):
        found = decoder(_perturbed(encoder(places), variance, generator))
        drifts.append(great_circle_km(found.double(), places.double()))
    return torch.cat(drifts)
