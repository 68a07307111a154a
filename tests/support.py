"""What the tests of the mathematics share: strategies with pinned edge cases, and one tolerance."""

import numpy as np
from hypothesis import example, settings
from hypothesis import strategies as st

settings.register_profile("locdiff", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("locdiff")

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


def tolerance(dtype, l_max, scale=1.0):
    """Absolute tolerance of harmonics and what is linear in them: (l_max + 1) times 1e-14 or 2e-6, times the scale.

    The azimuth enters as m phi, so the rounding of phi counts up to l_max times; measured errors are 2.4 times smaller.
    """
    return (l_max + 1) * {"float64": 1e-14, "float32": 2e-6}[str(dtype).removeprefix("torch.")] * scale


def random_coeffs(seed, l_max, scale=1.0, lead=()):
    return scale * np.random.default_rng(seed).normal(size=(*lead, (l_max + 1) ** 2))


def rotation(seed):
    """A random rotation matrix (3, 3)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def opposite(place):
    return (-place[0], (place[1] + 360) % 360 - 180)
