"""What the tests of the mathematics draw from: Hypothesis strategies with pinned edge cases, and random arrays."""

import numpy as np
from hypothesis import example
from hypothesis import strategies as st

EDGE_PLACES = [
    (90.0, 0.0),
    (-90.0, 77.0),
    (0.0, -180.0),
    (12.0, 179.99999),
    (0.0, 0.0),
    (-45.0, -0.0),
]  # poles, antimeridian

places = st.tuples(
    st.floats(-90, 90, allow_nan=False, width=32), st.floats(-180, 180, exclude_max=True, allow_nan=False, width=32)
)
degrees = st.integers(0, 12)
seeds = st.integers(0, 2**32 - 1)


def at_edges(**others):
    """Pin the edge places as examples of a test that takes `place`, with the other arguments as given."""

    def pin(test):
        for place in EDGE_PLACES:
            test = example(place=place, **others)(test)
        return test

    return pin


def random_coeffs(seed, l_max, scale=1.0, lead=()):
    """Return normal coefficients (*lead, (l_max + 1)^2)."""
    return scale * np.random.default_rng(seed).normal(size=(*lead, (l_max + 1) ** 2))


def rotation(seed):
    """Return a random rotation matrix (3, 3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def opposite(place):
    """Return the antipode of a place."""
    return (-place[0], (place[1] + 360) % 360 - 180)
