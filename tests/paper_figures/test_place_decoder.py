"""The learned decoder: the lattice that it is trained on, the scale, the training, and the drift under noise."""

import math

import numpy as np
import pytest
import torch
from methods import place_decoder
from methods.location_encoders import ENCODERS
from methods.place_decoder import PlaceDecoder, drift_km, encoding_scale, fibonacci_places, train_decoder
from support.location_encoders import EDGES, SOME, at, encoder, starts_within
from torch import nn

from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.decoder import exact_mode


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
    monkeypatch.setattr(place_decoder, "CHUNK", 7)
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

    monkeypatch.setattr(place_decoder, "encoding_scale", spy)
    monkeypatch.setattr(place_decoder, "SAMPLE", 200)
    decoder, drift = small(steps=0)
    assert samples[0].shape == (200, 2) and to_unit_vector(samples[0]).mean(0).norm() < 0.2
    assert drift == drift_km(encoder("xyz"), decoder, samples[0], 0.0, None).mean().item()


def test_training_standardises_its_noise_and_leaves_the_encoder(monkeypatch):
    variances, perturbed = [], place_decoder._perturbed

    def spy(encodings, variance, random):
        variances.append(variance)
        return perturbed(encodings, variance, random)

    monkeypatch.setattr(place_decoder, "_perturbed", spy)
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
    monkeypatch.setattr(place_decoder, "CHUNK", 2)
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
