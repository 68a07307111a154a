"""F at a few pixels of a fine grid against the dense product."""

import numpy as np
import pytest
import torch
from support.strategies import random_coeffs

from locdiff.sphere import shdd
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.ring_synthesis import synthesis_of_pixels


@pytest.mark.parametrize("l_max", [0, 1, 5, 23])
@pytest.mark.parametrize("nside", [1, 3, 8])
def test_it_is_the_dense_product(l_max, nside):
    coeffs = torch.from_numpy(random_coeffs(l_max, l_max, lead=(3,)))
    pixel = np.random.default_rng(0).permutation(12 * nside**2)  # those at the poles and on the antimeridian, too
    picture = pixel % 3
    wanted = shdd.synthesis(coeffs, shdd.encode(healpix_anchors(nside), l_max)).numpy()[picture, pixel]
    found = synthesis_of_pixels(coeffs.float(), picture, nside, pixel)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * (l_max + 1))
    assert len(synthesis_of_pixels(coeffs.float(), picture[:0], nside, pixel[:0])) == 0
