"""Location encoders of seed 0, and places to encode."""

import torch
from methods.location_encoders import ENCODERS

from support.strategies import EDGE_PLACES

EDGES = torch.tensor(EDGE_PLACES, dtype=torch.float64)
SOME = torch.tensor([[48.9, 2.3], [-33.9, 151.2], [71.2, -156.8], [-0.1, -78.5], [12.0, 179.9]], dtype=torch.float64)
SPHERE2VEC = [name for name in ENCODERS if name.startswith("Sphere2Vec")]
MADE = {}


def encoder(name):
    """Return the encoder of seed 0, the same for all tests."""
    return MADE.setdefault(name, ENCODERS[name](0))


def at(*place):
    """Return a place, or several, as a tensor (..., 2)."""
    return torch.tensor(place, dtype=torch.float64)


def starts_within(layer, bound):
    """Assert that the parameters of a layer are those of a uniform distribution in (-bound, bound)."""
    for parameter in layer.parameters():
        assert 0.95 * bound < parameter.abs().max() <= bound and parameter.mean().abs() < bound / 5
