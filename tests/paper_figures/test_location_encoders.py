"""What all location encoders have in common, and how they behave on the round Earth."""

import math

import pytest
import torch
from methods.location_encoders import ENCODERS
from support.location_encoders import EDGES, SOME, at, encoder

DIMENSIONS = {
    "tile": 648, "wrap": 4, "wrap+ffn": 256, "rbf": 200, "rff": 64, "Space2Vec-grid": 256, "Space2Vec-theory": 384,
    "xyz": 3, "NeRF": 96, "Sphere2Vec-sphereC": 192, "Sphere2Vec-sphereC+": 384, "Sphere2Vec-sphereM": 320,
    "Sphere2Vec-sphereM+": 512, "Sphere2Vec-dfs": 1088, "Siren(SH)": 256, "SHDD": 576,
}  # fmt: skip
CONTINUOUS = {"wrap", "wrap+ffn", "xyz", "NeRF", "Siren(SH)", "SHDD"}  # across the antimeridian
ROUND_AT_THE_POLES = {"xyz", "NeRF", "Siren(SH)", "SHDD"}
RANDOM = {"wrap+ffn", "rbf", "rff", "Siren(SH)"}
every_encoder = pytest.mark.parametrize("name", ENCODERS)


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
