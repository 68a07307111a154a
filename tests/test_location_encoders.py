"""The location encoders against their formulas, their behaviour on the round Earth, and the learned decoder."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from methods import location_encoders
from methods.location_encoders import ENCODERS, PlaceDecoder, drift_km, encoding_scale, fibonacci_places, train_decoder
from support import EDGE_PLACES, at_edges, places
from torch import nn

from locdiff.sphere import shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.decoder import exact_mode

DIMENSIONS = {
    "tile": 648, "wrap": 4, "wrap+ffn": 256, "rbf": 200, "rff": 64, "Space2Vec-grid": 256, "Space2Vec-theory": 384,
    "xyz": 3, "NeRF": 96, "Sphere2Vec-sphereC": 192, "Sphere2Vec-sphereC+": 384, "Sphere2Vec-sphereM": 320,
    "Sphere2Vec-sphereM+": 512, "Sphere2Vec-dfs": 1088, "Siren(SH)": 256, "SHDD": 576,
}  # fmt: skip
SPHERE2VEC = [name for name in DIMENSIONS if name.startswith("Sphere2Vec")]
CONTINUOUS = {"wrap", "wrap+ffn", "xyz", "NeRF", "Siren(SH)", "SHDD"}  # across the antimeridian
ROUND_AT_THE_POLES = {"xyz", "NeRF", "Siren(SH)", "SHDD"}
RANDOM = {"wrap+ffn", "rbf", "rff", "Siren(SH)"}
EDGES = torch.tensor(EDGE_PLACES, dtype=torch.float64)
SOME = torch.tensor([[48.9, 2.3], [-33.9, 151.2], [71.2, -156.8], [-0.1, -78.5], [12.0, 179.9]], dtype=torch.float64)

every_encoder = pytest.mark.parametrize("name", ENCODERS)
MADE = {}


def encoder(name):
    """One of seed 0 for all tests."""
    return MADE.setdefault(name, ENCODERS[name](0))


def at(*place):
    return torch.tensor(place, dtype=torch.float64)


# what all have in common


def test_all_encoders_of_the_appendix_are_there():
    assert {name: encoder(name).dimensions for name in ENCODERS} == DIMENSIONS


@every_encoder
def test_shapes(name):
    encode = encoder(name)
    for shape in [(2,), (0, 2), (6, 2), (2, 3, 2)]:
        encodings = encode(EDGES[: math.prod(shape) // 2].reshape(shape))
        assert encodings.shape == (*shape[:-1], encode.dimensions)
        assert encodings.dtype == torch.float32 and encodings.isfinite().all()
    torch.testing.assert_close(encode(EDGES.reshape(2, 3, 2)).reshape(6, -1), encode(EDGES), rtol=0, atol=1e-5)
    assert encode(SOME.float()).dtype == torch.float32 and encode(torch.tensor([[4, 5]])).isfinite().all()


@every_encoder
@pytest.mark.parametrize("wrong", [[math.nan, 0.0], [0.0, math.inf], [90.1, 0.0], [0.0, 361.0], [1.0, 2.0, 3.0]])
def test_what_is_no_place_is_refused(name, wrong):
    with pytest.raises(ValueError, match=r"places|latitude|longitude"):
        encoder(name)(torch.tensor([wrong]))


@every_encoder
def test_a_place_has_one_encoding(name):
    encode = encoder(name)
    ours, theirs = at([12, -170], [-40, -0.5], [3, -180], [90, 0]), at([12, 190], [-40, 359.5], [3, 180], [90, 360])
    torch.testing.assert_close(encode(ours), encode(theirs), rtol=0, atol=1e-5)
    assert (torch.cdist(encode(SOME), encode(SOME)) + 9 * torch.eye(5) > 0.01).all()


@every_encoder
def test_the_antimeridian(name):
    east, west = encoder(name)(at([12, 180 - 1e-7], [12, -180]))
    assert ((east - west).abs().max() < 1e-3) == (name in CONTINUOUS)


@every_encoder
def test_the_poles(name):
    north, turned, south = encoder(name)(at([90, 0], [90, 77], [-90, 0]))
    assert ((north - turned).abs().max() < 1e-6) == (name in ROUND_AT_THE_POLES)
    assert ((north - south).abs().max() > 1e-3) == (name not in {"wrap", "wrap+ffn", "NeRF"})


@every_encoder
def test_seeds(name):
    before = torch.get_rng_state()
    first = ENCODERS[name](5)(SOME)
    assert torch.equal(first, ENCODERS[name](torch.Generator().manual_seed(5))(SOME))
    assert torch.equal(first, ENCODERS[name](6)(SOME)) == (name not in RANDOM)
    assert torch.equal(ENCODERS[name]()(SOME), ENCODERS[name](0)(SOME))
    assert torch.equal(torch.get_rng_state(), before)


@every_encoder
def test_gradients_reach_the_network_and_the_place(name):
    encode, place = encoder(name), SOME.clone().requires_grad_()
    assert (sum(p.numel() for p in encode.parameters()) > 0) == (name in {"wrap+ffn", "Siren(SH)"})
    if name == "tile":
        assert not encode(place).requires_grad
        return
    slopes = torch.autograd.grad(encode(place).square().sum() + encode(place).sum(), [place, *encode.parameters()])
    assert all(slope.isfinite().all() and slope.abs().sum() > 0 for slope in slopes)


# the formulas, once more


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


def starts_within(layer, bound):
    for parameter in layer.parameters():
        assert 0.95 * bound < parameter.abs().max() <= bound and parameter.mean().abs() < bound / 5


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


# the lattice, the scale and the learned decoder


@pytest.mark.parametrize("count", [1, 1000, 12_345])
def test_the_lattice_is_even(count):
    lattice = fibonacci_places(count)
    assert lattice.shape == (count, 2) and lattice.dtype == torch.float64
    assert (lattice[:, 1] >= -180).all() and (lattice[:, 1] < 180).all()
    if count == 1000:
        xyz = to_unit_vector(lattice)
        np.testing.assert_allclose(xyz.mean(0), 0, atol=0.002)
        np.testing.assert_allclose(xyz.T @ xyz / count, np.eye(3) / 3, atol=0.002)
        distance = torch.cdist(xyz, xyz) + 9 * torch.eye(count)
        nearest = distance.min(dim=1).values * math.sqrt(count)
        assert 2.5 < nearest.min() and nearest.max() < 3.6  # in a square lattice sqrt(4 pi) = 3.54


def test_the_scale_of_encodings(monkeypatch):
    lattice = fibonacci_places(100)
    expected = encoder("rbf")(lattice).double().square().mean().sqrt().item()
    assert encoding_scale(encoder("rbf"), lattice) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(location_encoders, "CHUNK", 7)
    assert encoding_scale(encoder("rbf"), lattice) == pytest.approx(expected, rel=1e-9)


def test_the_decoder_is_six_layers_of_standardised_encodings():
    decoder = PlaceDecoder(5, scale=0.25, hidden=7, seed=1)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    linear = [layer for layer in decoder.network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [7] * 5 + [3]
    h = x / 0.25
    for layer in linear:
        h = h @ layer.weight.T + layer.bias
        if layer is not linear[-1]:
            h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
    expected = (h / h.norm(dim=-1, keepdim=True)).detach()
    torch.testing.assert_close(decoder.direction(x).detach(), expected)
    place = decoder(x)
    assert place.shape == (4, 2) and place.dtype == torch.float64
    torch.testing.assert_close(to_unit_vector(place).detach(), expected.double(), rtol=0, atol=1e-6)
    assert decoder(x[:0]).shape == (0, 2) and decoder(x[None]).shape == (1, 4, 2)
    starts_within(PlaceDecoder(100).network[0], math.sqrt(6 / 100))
    assert PlaceDecoder(4).network[0].out_features == 512 and PlaceDecoder(4).scale == 1
    place.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in decoder.parameters())


def small(name="xyz", **options):
    settings = {"places_count": 500, "steps": 150, "batch": 128, "hidden": 32, "lr": 5e-3, "progress": False}
    return train_decoder(encoder(name), **(settings | options))


def test_training_decodes_and_can_be_repeated():
    decoder, drift = small()
    again, same = small()
    other, different = small(seed=1)
    start, chance = small(steps=0)
    assert not torch.equal(start.network[0].weight, small(steps=0, seed=1)[0].network[0].weight)
    assert drift < 300 and 8000 < chance < 12_000  # a quarter of the circumference is 10,008
    assert drift == same != different
    for a, b, c in zip(decoder.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    elsewhere = drift_km(encoder("xyz"), decoder, SOME, 0.0, None)
    assert elsewhere.mean() < 600
    everywhere = drift_km(encoder("xyz"), decoder, fibonacci_places(500), 0.0, None).mean().item()
    assert drift == pytest.approx(everywhere, rel=1e-6)
    assert decoder.scale.item() == pytest.approx(3**-0.5, rel=1e-6)


def test_scale_and_drift_are_of_places_from_all_over_the_lattice(monkeypatch):
    samples = []

    def spy(encode, lat_lon):
        samples.append(lat_lon)
        return encoding_scale(encode, lat_lon)

    monkeypatch.setattr(location_encoders, "encoding_scale", spy)
    monkeypatch.setattr(location_encoders, "SAMPLE", 200)
    decoder, drift = small(steps=0)
    assert samples[0].shape == (200, 2) and to_unit_vector(samples[0]).mean(0).norm() < 0.2
    assert drift == drift_km(encoder("xyz"), decoder, samples[0], 0.0, None).mean().item()


def test_training_standardises_its_noise_and_leaves_the_encoder(monkeypatch):
    variances, perturbed = [], location_encoders._perturbed

    def spy(encodings, variance, random):
        variances.append(variance)
        return perturbed(encodings, variance, random)

    monkeypatch.setattr(location_encoders, "_perturbed", spy)
    encode = encoder("wrap+ffn")
    before = [p.clone() for p in encode.parameters()]
    decoder, _ = small("wrap+ffn", steps=2, noise=0.3)
    scale = encoding_scale(encode, fibonacci_places(500))
    np.testing.assert_allclose(variances, [0.3 * scale**2] * 2 + [0.0], rtol=1e-5)
    assert all(torch.equal(p, q) and p.grad is None for p, q in zip(encode.parameters(), before, strict=True))
    quiet, _ = small("wrap+ffn", steps=2)
    assert not torch.equal(decoder.network[0].weight, quiet.network[0].weight)


def test_training_slows_down_to_a_halt(monkeypatch, capsys):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, *arguments, **options):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments, **options)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    small(steps=20, lr=0.1)
    np.testing.assert_allclose(rates, [0.05 * (1 + math.cos(math.pi * i / 20)) for i in range(20)], atol=1e-9)
    assert not capsys.readouterr().err
    small(steps=1, progress=True)
    assert "training" in capsys.readouterr().err


def test_the_loss_is_one_minus_the_cosine(monkeypatch):
    """One step of plain gradient descent on one place, by hand."""

    class Descent(torch.optim.SGD):
        def __init__(self, parameters, lr):
            super().__init__(parameters, lr)

    monkeypatch.setattr(torch.optim, "Adam", Descent)
    start, _ = small(places_count=1, batch=3, steps=0)
    trained, _ = small(places_count=1, batch=3, steps=1, lr=0.1)
    place = fibonacci_places(1)
    loss = 1 - (start.direction(encoder("xyz")(place)) * to_unit_vector(place).float()).sum()
    slopes = torch.autograd.grad(loss, list(start.parameters()))
    for before, slope, after in zip(start.parameters(), slopes, trained.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * slope, rtol=1e-4, atol=1e-6)


# perturbation drift


def test_noise_on_unit_vectors_moves_them_as_it_should():
    """Noise of variance s^2 in each of the two tangents: a Rayleigh distance of mean R s sqrt(pi / 2)."""
    generator = torch.Generator().manual_seed(0)
    drift = drift_km(encoder("xyz"), from_unit_vector, fibonacci_places(20_000), 1e-4, generator)
    assert drift.shape == (20_000,) and drift.dtype == torch.float64
    assert drift.mean() == pytest.approx(EARTH_RADIUS_KM * 0.01 * math.sqrt(math.pi / 2), rel=0.02)
    assert drift_km(encoder("xyz"), from_unit_vector, SOME[:0], 1e-4, generator).shape == (0,)


def test_drift_is_repeatable_and_keeps_the_order(monkeypatch):
    def drift(seed):
        return drift_km(encoder("xyz"), from_unit_vector, SOME, 0.01, torch.Generator().manual_seed(seed))

    assert torch.equal(drift(0), drift(0)) and not torch.equal(drift(0), drift(1))
    monkeypatch.setattr(location_encoders, "CHUNK", 2)
    assert torch.equal(drift(0), drift(0))
    constant = drift_km(encoder("xyz"), lambda codes: at(0, 0).expand(len(codes), 2), SOME, 0.0, None)
    torch.testing.assert_close(constant, great_circle_km(SOME, at(0, 0)))
    with pytest.raises(ValueError):
        drift_km(encoder("xyz"), from_unit_vector, SOME, -0.01, torch.Generator())


def test_the_drift_of_shdd():
    """The mode of Y_lm + noise of variance 0.01 moves by 22.3 km at l_max 15; without noise not at all."""
    encode, lattice = ENCODERS["SHDD"](l_max=15), torch.cat([fibonacci_places(1500), EDGES])

    def decode(coeffs):
        return exact_mode(coeffs)[0]

    assert drift_km(encode, decode, torch.cat([lattice[:50], EDGES]), 0.0, None).max() < 0.01
    drift = drift_km(encode, decode, lattice, 0.01, torch.Generator().manual_seed(0))
    assert drift.mean() == pytest.approx(22.3, rel=0.05)
