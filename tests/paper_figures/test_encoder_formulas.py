"""Each location encoder against its formula, written once more."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from methods.location_encoders import ENCODERS
from methods.place_decoder import encoding_scale
from support.location_encoders import EDGES, SOME, SPHERE2VEC, at, encoder, starts_within
from support.strategies import at_edges, places
from torch import nn

from locdiff.sphere import shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km, to_unit_vector


def agrees(name, expected, lat_lon, **sizes):
    encode = ENCODERS[name](0, **sizes)
    expected = np.array([expected(*place) for place in lat_lon.tolist()])
    assert encode.dimensions == expected.shape[-1]
    np.testing.assert_allclose(encode(lat_lon), expected, rtol=0, atol=1e-6)


def geometric(scales, smallest, largest):
    return [smallest * (largest / smallest) ** (s / (scales - 1)) for s in range(scales)]


def sin(degrees):
    return math.sin(math.radians(degrees))


def cos(degrees):
    return math.cos(math.radians(degrees))


@given(place=places)
@at_edges()
def test_tile(place):
    lat, lon = place
    code = encoder("tile")(at(lat, lon))
    assert code.sum() == 1 and code.max() == 1
    row, column = divmod(int(code.argmax()), 36)
    assert -90 + 10 * row <= lat and (lat < -80 + 10 * row or (row == 17 and lat == 90))
    assert 0 <= lon + 180 - 10 * column + 1e-9 and lon + 180 < 10 * column + 10 + 1e-9


def test_tile_cells():
    coarse = ENCODERS["tile"](rows=2, columns=3)
    assert coarse(at([-90, -180], [-1, -61], [-1, -59], [90, 179], [0, 61], [0, -180])).argmax(-1).tolist() == [
        0, 0, 1, 5, 5, 3,
    ]  # fmt: skip
    assert coarse.dimensions == 6


def test_wrap():
    agrees("wrap", lambda lat, lon: [sin(lon), cos(lon), math.sin(math.pi * lat / 90), math.cos(math.pi * lat / 90)],
           torch.cat([SOME, EDGES]))  # fmt: skip


def test_wrap_ffn():
    encode = ENCODERS["wrap+ffn"](3, hidden=7, dimensions=5)
    first, second = (layer for layer in encode.network if isinstance(layer, nn.Linear))
    hidden = (encoder("wrap")(SOME) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(encode(SOME), hidden @ second.weight.T + second.bias)
    assert encode.dimensions == 5 and encode(SOME).shape == (5, 5)
    starts_within(encoder("wrap+ffn").network[0], math.sqrt(6 / 4))
    starts_within(encoder("wrap+ffn").network[2], math.sqrt(6 / 512))


def test_rbf():
    encode = ENCODERS["rbf"](0, anchors=9, sigma_deg=7.0)
    anchors = encode.anchors
    torch.testing.assert_close(encode(anchors).diagonal(), torch.ones(9), rtol=0, atol=1e-6)
    agrees("rbf", lambda lat, lon: [math.exp(-((lat - a) ** 2 + (lon - b) ** 2) / 98) for a, b in anchors.tolist()],
           anchors + at(1, 2) * (90 - anchors.abs()[:, :1]) / 90, anchors=9, sigma_deg=7.0)  # fmt: skip
    step = at([3.0, -120.0 + 7.0])
    encode.anchors[:] = at(3.0, -120.0)
    torch.testing.assert_close(encode(step), torch.full((1, 9), math.exp(-1 / 2)))


def test_rbf_anchors_are_spread_evenly_over_the_sphere():
    xyz = to_unit_vector(ENCODERS["rbf"](0, anchors=5000).anchors)
    np.testing.assert_allclose(xyz.T @ xyz / 5000, np.eye(3) / 3, atol=0.02)
    np.testing.assert_allclose(xyz.mean(0), 0, atol=0.03)


@pytest.mark.parametrize("delta", [1.0, 3.0])
def test_rff_approximates_its_kernel(delta):
    encode = ENCODERS["rff"](0, dimensions=40_000, delta=delta)
    codes, plane = encode(SOME).double(), SOME / at(90, 180)
    kernel = torch.exp(-(delta**2) * torch.cdist(plane, plane) ** 2 / 2)
    np.testing.assert_allclose(
        codes @ codes.T, kernel, atol=4 / math.sqrt(40_000)
    )  # standard error 1 / sqrt(D) or less
    assert 0 <= encode.shifts.min() < 0.01 and 6.27 < encode.shifts.max() < 2 * math.pi


def test_rff():
    encode = ENCODERS["rff"](0, dimensions=5)
    (w_lat, w_lon), b = encode.directions.tolist(), encode.shifts.tolist()
    agrees("rff", lambda lat, lon: [
        math.sqrt(0.4) * math.cos(w_lat[i] * lat / 90 + w_lon[i] * lon / 180 + b[i]) for i in range(5)
    ], SOME, dimensions=5)  # fmt: skip


def test_space2vec_grid():
    def expected(lat, lon):
        radii = geometric(4, 0.0005, 360)
        return [f(x / r) for r in radii for x in (lon, lat) for f in (math.sin, math.cos)]

    agrees("Space2Vec-grid", expected, SOME, scales=4)
    agrees("Space2Vec-grid", lambda lat, lon: [math.sin(lon / 2), math.cos(lon / 2), math.sin(lat / 2),
                                               math.cos(lat / 2)], EDGES, scales=1, smallest=2.0)  # fmt: skip


def test_space2vec_theory():
    def expected(lat, lon):
        radii = geometric(3, 0.1, 50)
        directions = [(1, 0), (-1 / 2, math.sqrt(3) / 2), (-1 / 2, -math.sqrt(3) / 2)]
        along = [a * lon + b * lat for a, b in directions]
        return [f(x / r) for r in radii for x in along for f in (math.sin, math.cos)]

    agrees("Space2Vec-theory", expected, torch.cat([SOME, EDGES]), scales=3, smallest=0.1, largest=50.0)


def test_xyz_and_nerf():
    def unit(lat, lon):
        return [cos(lat) * cos(lon), cos(lat) * sin(lon), sin(lat)]

    agrees("xyz", unit, torch.cat([SOME, EDGES]))
    agrees("NeRF", lambda lat, lon: [
        f(2**s * math.pi * x) for x in unit(lat, lon) for s in range(5) for f in (math.sin, math.cos)
    ], torch.cat([SOME, EDGES]), scales=5)  # fmt: skip
    ends = encoder("NeRF")(at([0, 0], [0, -180], [0, 90], [0, -90]))
    torch.testing.assert_close(ends[::2], ends[1::2], rtol=0, atol=1e-6)


def sphere_c(lat, lon, r):
    return [sin(lat / r), cos(lat / r) * cos(lon / r), cos(lat / r) * sin(lon / r)]


def sphere_m(lat, lon, r):
    return [sin(lat / r), cos(lat / r) * cos(lon), cos(lat) * cos(lon / r), cos(lat / r) * sin(lon),
            cos(lat) * sin(lon / r)]  # fmt: skip


def plus(lat, lon, r):
    return [cos(lat / r), sin(lon / r), cos(lon / r)]


@pytest.mark.parametrize(("kind", "parts"), [
    ("sphereC", [sphere_c]), ("sphereC+", [sphere_c, plus]), ("sphereM", [sphere_m]), ("sphereM+", [sphere_m, plus]),
])  # fmt: skip
def test_sphere2vec(kind, parts):
    def expected(lat, lon):
        return [x for r in geometric(4, 0.02, 1) for part in parts for x in part(lat, lon, r)]

    agrees(f"Sphere2Vec-{kind}", expected, torch.cat([SOME, EDGES]), scales=4, smallest=0.02)


def test_dfs():
    def expected(lat, lon):
        radii = geometric(3, 0.02, 1)
        singles = [f(x / r) for r in radii for x in (lat, lon) for f in (sin, cos)]
        return singles + [f(lat / r) * g(lon / q) for f in (sin, cos) for r in radii for g in (sin, cos) for q in radii]

    agrees("Sphere2Vec-dfs", expected, torch.cat([SOME, EDGES]), scales=3, smallest=0.02)


def test_radii():
    for name, smallest, largest in [("Space2Vec-grid", 5e-4, 360), ("Space2Vec-theory", 5e-4, 360)] + [
        (name, 1e-3, 1) for name in SPHERE2VEC
    ]:
        radii = encoder(name).radii
        assert len(radii) == (16 if name.endswith("dfs") else 64)
        np.testing.assert_allclose(radii, geometric(len(radii), smallest, largest), rtol=1e-12)


def test_what_preserves_distances_is_the_scale_one():
    one, many = (ENCODERS["Sphere2Vec-sphereC"](scales=s, smallest=r)(SOME).double() for s, r in [(1, 1.0), (8, 0.1)])
    cosine = torch.cos(great_circle_km(SOME[:, None], SOME) / EARTH_RADIUS_KM)
    torch.testing.assert_close(one @ one.T, cosine, rtol=0, atol=1e-6)
    assert (many @ many.T / 8 - cosine).abs().max() > 0.3
    north, turned = ENCODERS["Sphere2Vec-sphereC"](scales=1, smallest=1.0)(at([90, 0], [90, 77]))
    torch.testing.assert_close(north, turned, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SPHERE2VEC)
def test_sphere2vec_closes_where_radii_are_whole_fractions(name):
    east, west = ENCODERS[name](scales=4, smallest=1 / 8)(at([12, 180 - 1e-7], [12, -180]))
    torch.testing.assert_close(east, west, rtol=0, atol=1e-6)


def test_siren_of_spherical_harmonics():
    encode = ENCODERS["Siren(SH)"](2, l_max=3, hidden=6, layers=2, dimensions=5)
    seen = []
    encode.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    out = encode(SOME)
    torch.testing.assert_close(seen[0], shdd.encode(SOME, 3).float())
    first, second, last = encode.network.layers
    h = np.sin(30 * (seen[0] @ first.weight.T + first.bias).detach().numpy())
    h = np.sin(h @ second.weight.detach().numpy().T + second.bias.detach().numpy())
    expected = h @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(out.detach(), expected, atol=1e-5)
    layers = encoder("Siren(SH)").network.layers
    assert [layer.in_features for layer in layers] == [625, 128, 128, 128] and len(layers) == 4
    starts_within(layers[0], 1 / 625)
    for layer in layers[1:]:
        starts_within(layer, math.sqrt(6 / 128))


def test_shdd_is_encode():
    torch.testing.assert_close(encoder("SHDD")(SOME), shdd.encode(SOME, 23).float(), rtol=0, atol=1e-6)
    assert encoding_scale(encoder("SHDD"), SOME) == pytest.approx((4 * math.pi) ** -0.5, rel=1e-6)
