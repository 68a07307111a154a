"""What densities are worth beside distances: bits, localizability, and how samples cover the true locations.

The definitions are those of PLONK (Dufour et al., Around the World in 80 Timesteps, 2024); docs/scoring.md says what
differs.
"""

import math

import torch
from torch import Tensor

from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km

NEIGHBORS = 3
CHUNKS = 20


def bits_per_dimension(log_prob: Tensor) -> Tensor:
    """Return -log p / (3 ln 2) for log densities in nats per steradian; the uniform density has 1.217."""
    return -log_prob / (3 * math.log(2))


def localizability(pixel_probs: Tensor) -> Tensor:
    """Return the integral of p log2 p over the sphere, (n, N) -> (n,): minus the entropy of each density, in bits.

    The density is even within a pixel. The uniform density has -log2(4 pi) = -3.651.
    """
    count = pixel_probs.shape[-1]
    return (torch.special.xlogy(pixel_probs, pixel_probs).sum(dim=-1) + math.log(count / (4 * math.pi))) / math.log(2)


def manifold_metrics(samples: Tensor, truth: Tensor) -> dict[str, float]:
    """Return precision, recall, density and coverage of one sample for each true location, (n, 2) and (n, 2) degrees:
    the means over 20 chunks of the pictures, in their order. NaN if a chunk has too few for NEIGHBORS neighbors.
    """
    chunks = zip(samples.double().chunk(CHUNKS), truth.double().chunk(CHUNKS), strict=True)
    values = torch.tensor([list(_prdc(fake, real).values()) for fake, real in chunks], dtype=torch.float64)
    return dict(zip(("precision", "recall", "density", "coverage"), values.mean(dim=0).tolist(), strict=True))


def _prdc(fake, real):
    """Precision, recall, density and coverage: distances in radians, strictly less than that of the third neighbor."""
    if min(len(fake), len(real)) <= NEIGHBORS:
        return dict.fromkeys(("precision", "recall", "density", "coverage"), math.nan)
    between = _radians(real, fake)
    near_real = between < _neighbor_radius(real)[:, None]
    near_fake = between < _neighbor_radius(fake)[None]
    return {
        "precision": near_real.any(dim=0).double().mean().item(),
        "recall": near_fake.any(dim=1).double().mean().item(),
        "density": near_real.sum(dim=0).double().mean().item() / NEIGHBORS,
        "coverage": near_real.any(dim=1).double().mean().item(),
    }


def _radians(a, b):
    return great_circle_km(a[:, None], b[None]) / EARTH_RADIUS_KM


def _neighbor_radius(lat_lon):
    """The distance to the third neighbor of each location; the first of four is the location itself."""
    return _radians(lat_lon, lat_lon).kthvalue(NEIGHBORS + 1, dim=-1).values
