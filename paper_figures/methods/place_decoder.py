"""The learned decoder of Tables 6 and 7, from encodings back to locations, and how far noise makes it drift."""

import math

import torch
from torch import nn
from torch.nn.functional import normalize
from tqdm import trange

from locdiff.sphere.coordinates import from_unit_vector, great_circle_km, to_unit_vector
from methods.networks import feed_forward, random_of

CHUNK = 4096  # locations that are encoded at a time
SAMPLE = 2**14  # locations that tell the scale of the encodings and the drift of a decoder


class PlaceDecoder(nn.Module):
    """The learned decoder of Tables 6 and 7: six linear layers, encodings (..., D) -> locations (..., 2), float64.

    `scale` is the root mean square of the encodings; the network sees them divided by it. So noise of variance v in
    standardized units is noise of variance v * scale^2 on the encodings.
    """

    def __init__(self, dimensions, scale=1.0, hidden=512, seed=0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.network = feed_forward([dimensions, *[hidden] * 5, 3], nn.GELU, random_of(seed))

    def direction(self, encodings):
        """Return unit vectors (..., 3)."""
        return normalize(self.network(encodings / self.scale), dim=-1)

    def forward(self, encodings):
        return from_unit_vector(self.direction(encodings).double())


def fibonacci_places(count):
    """Return a spherical Fibonacci lattice: locations (count, 2) that stand for equal areas.

    Their number may be any, unlike that of HEALPix.
    """
    i = torch.arange(count, dtype=torch.float64)
    lat = torch.rad2deg(torch.asin(1 - (2 * i + 1) / count))
    return torch.stack([lat, 360 * (i * (math.sqrt(5) - 1) / 2 % 1) - 180], dim=-1)


@torch.no_grad()
def encoding_scale(encoder, lat_lon):
    """Return the root mean square of the encodings of locations (n, 2), over locations and dimensions."""
    total = sum(encoder(places).double().square().sum().item() for places in lat_lon.split(CHUNK))
    return math.sqrt(total / (len(lat_lon) * encoder.dimensions))


def train_decoder(
    encoder, places_count=1_000_000, steps=20_000, batch=4096, seed=0, device="cpu", progress=True, noise=0.0,
    hidden=512, lr=1e-3,
):  # fmt: skip
    """Return a PlaceDecoder for locations of a Fibonacci lattice, and its mean drift there, without noise, in km.

    `noise` is the variance of what is added to the encodings in training, in standardized units. The encoder is moved
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
    """Return the perturbation drift (Table 7): km between decoder(encoder(x) + noise) and each location x, (n,).

    `variance` is that of the Gaussian noise on each dimension, in the units of the encodings; `decoder` is any function
    of encodings (n, D) to locations (n, 2). For SHDD that is `decoder.exact_mode` without its score.
    """
    drifts = []
    for places in lat_lon.split(CHUNK):
        found = decoder(_perturbed(encoder(places), variance, generator))
        drifts.append(great_circle_km(found.double(), places.double()))
    return torch.cat(drifts)
