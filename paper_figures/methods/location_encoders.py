"""Location encoders of the paper's appendix A.1, SHDD among them.

`ENCODERS[name](seed)` makes an `Encoder` of locations (..., 2) in degrees: Enc = NN(PE(location)) (Eq. 18). Only
wrap+ffn and Siren(SH), which are called after theirs, have an NN, untrained: what is compared is PE.

An encoder knows locations: lon and lon + 360 are the same to all. Not all know that the Earth is round:

- Continuous across the antimeridian: wrap, wrap+ffn, xyz, NeRF, Siren(SH), SHDD. Sphere2Vec is so at scales r of which
  1 / r is a whole number; of those from r_min to 1 that is the last. The others take (lon, lat) for a plane.
- Independent of lon at the poles: xyz, NeRF, Siren(SH), SHDD; sphereC at the scale r = 1.
- Not one to one, besides tile: wrap has one encoding for both poles, and so has NeRF, whose sines and cosines of
  multiples of pi do not tell 1 from -1; it also confuses the ends of the other two axes.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.nn.functional import one_hot

from locdiff.sphere import shdd
from locdiff.sphere.coordinates import check_lat_lon, from_unit_vector, to_unit_vector
from methods.networks import Siren, feed_forward, random_of


class Encoder(nn.Module):
    """Locations (..., 2) in degrees -> encodings (..., `dimensions`), float32. Raises ValueError for what is none.

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
    """Return the indicator of the cell of a grid (Berg et al. 2014; Tang et al. 2015), here of 10 by 10 degrees.

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
    """Return the encoder of Mac Aodha et al. (2019): sine and cosine of pi lon / 180 and of pi lat / 90.

    So latitude goes round in 180 degrees, in their program too; that of Russwurm et al. has the sine and cosine of lat.
    """
    return Encoder(_wrapped, 4)


def wrap_ffn(seed=0, hidden=512, dimensions=256):
    """Return that of Mai et al. (2023): wrap and one hidden layer.

    Their program has ReLU and dropout behind the last layer too.
    """
    return Encoder(_wrapped, dimensions, feed_forward([4, hidden, dimensions], nn.ReLU, random_of(seed)))


def rbf(seed=0, anchors=200, sigma_deg=10.0):
    """Return that of Mai et al. (2020): kernels exp(-d^2 / 2 sigma^2) around random locations, d in degrees (lat, lon).

    d is Euclidean. Their anchors are training locations, these are spread evenly: their 200 with a sigma of 1 degree,
    made for data that crowd, would leave most of the Earth without an anchor in reach.
    """

    def position(lat_lon, anchors):
        return torch.exp((lat_lon[..., None, :] - anchors).square().sum(dim=-1) / (-2 * sigma_deg**2))

    xyz = torch.randn(anchors, 3, dtype=torch.float64, generator=random_of(seed))
    return Encoder(position, anchors, anchors=from_unit_vector(xyz))


def rff(seed=0, dimensions=64, delta=1.0):
    """Return random Fourier features (Rahimi and Recht 2007): sqrt(2 / D) cos(w x + b).

    They have w ~ N(0, delta^2) and b ~ U(0, 2 pi). As with Mai et al. (2023), x is (lat / 90, lon / 180), and
    E<PE(x), PE(y)> = exp(-delta^2 |x - y|^2 / 2). In their program the parameter, 1 by default, is the variance of w
    and not its root.
    """

    def position(lat_lon, directions, shifts):
        plane = lat_lon / torch.tensor([90.0, 180.0]).to(lat_lon)
        return math.sqrt(2 / dimensions) * torch.cos(plane @ directions + shifts)

    random = random_of(seed)
    directions = delta * torch.randn(2, dimensions, dtype=torch.float64, generator=random)
    shifts = 2 * math.pi * torch.rand(dimensions, dtype=torch.float64, generator=random)
    return Encoder(position, dimensions, directions=directions, shifts=shifts)


def _radii(scales, smallest, largest):
    """Return the geometric sequence from the smallest to the largest radius, (scales,)."""
    return torch.linspace(math.log(smallest), math.log(largest), scales, dtype=torch.float64).exp()


def _waves(angle, radii):
    """Return sine and cosine of angle / radius: (...) -> two of (..., scales)."""
    angle = angle[..., None] / radii
    return angle.sin(), angle.cos()


def _scale_by_scale(*terms):
    """Return the terms (..., scales), side by side for each scale: (..., scales * terms)."""
    return torch.stack(terms, dim=-1).flatten(-2)


def space2vec_grid(seed=0, scales=64, smallest=0.0005, largest=360.0):
    """Return Space2Vec-grid (Mai et al. 2020): sin and cos of lon / r and of lat / r, in degrees.

    The radii are those of their program.
    """

    def position(lat_lon, radii):
        return _scale_by_scale(*_waves(lat_lon[..., 1], radii), *_waves(lat_lon[..., 0], radii))

    return Encoder(position, 4 * scales, radii=_radii(scales, smallest, largest))


def space2vec_theory(seed=0, scales=64, smallest=0.0005, largest=360.0):
    """Return Space2Vec-theory (Mai et al. 2020): sin and cos of <(lon, lat), a_j> / r.

    The a_j are unit vectors 120 degrees apart. Gratings across them lie 60 degrees apart, as A.1 says.
    """

    def position(lat_lon, radii):
        lat, lon = lat_lon.unbind(-1)
        turns = [2 * math.pi * j / 3 for j in range(3)]
        along = [_waves(math.cos(turn) * lon + math.sin(turn) * lat, radii) for turn in turns]
        return _scale_by_scale(*(wave for pair in along for wave in pair))

    return Encoder(position, 6 * scales, radii=_radii(scales, smallest, largest))


def xyz(seed=0):
    """Return the unit vector (Mai et al. 2023)."""
    return Encoder(to_unit_vector, 3)


def nerf(seed=0, scales=16):
    """Return NeRF (Mildenhall et al. 2020, Eq. 4) of the unit vector: sin and cos of 2^s pi x, then of y, then of z."""

    def position(lat_lon, radii):
        waves = (_waves(axis, radii) for axis in to_unit_vector(lat_lon).unbind(-1))
        return torch.cat([_scale_by_scale(*pair) for pair in waves], dim=-1)

    return Encoder(position, 6 * scales, radii=0.5 ** torch.arange(scales, dtype=torch.float64) / math.pi)


def sphere2vec(seed=0, kind="sphereC", scales=64, smallest=0.001, largest=1.0):
    """Return Sphere2Vec (Mai et al. 2023): for each scale, with lat_s = lat / r_s and lon_s = lon / r_s in radians,

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
    """Return Siren(SH) (Russwurm et al. 2024): a network of sines of the real spherical harmonics, those of SHDD.

    The sizes are those of their program for iNat2018, which counts the degrees, 25. It takes the harmonics at the
    antipode, which turns the sign of the odd degrees.
    """
    network = Siren([(l_max + 1) ** 2, *[hidden] * layers, dimensions], random_of(seed))
    return Encoder(partial(shdd.encode, l_max=l_max), dimensions, network)


def shdd_encoder(seed=0, l_max=23):
    """Return SHDD (paper Eqs. 7 to 9), `shdd.encode`: Y_lm itself, of mean square 1 / (4 pi)."""
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
