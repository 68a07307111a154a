"""One tolerance of harmonics, the dtypes and devices that twins are compared on, and comparisons."""

import numpy as np
import pytest
import torch

from locdiff.sphere.coordinates import great_circle_km

DTYPES = [torch.float32, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_device = pytest.mark.parametrize("device", DEVICES)


def tolerance(dtype, l_max, scale=1.0):
    """Return the absolute tolerance of harmonics and of what is linear in them: (l_max + 1) 1e-14 or 2e-6, times scale.

    The azimuth enters as m phi, so the rounding of phi counts up to l_max times; measured errors are 2.4 times smaller.
    """
    return (l_max + 1) * {"float64": 1e-14, "float32": 2e-6}[str(dtype).removeprefix("torch.")] * scale


def rounded(array, dtype, device="cpu"):
    """Return the tensor, and the float64 array of exactly the same numbers: rounded before the reference sees them."""
    tensor = torch.as_tensor(np.asarray(array), dtype=dtype, device=device)
    return tensor, tensor.cpu().double().numpy()


def close(tensor, expected, dtype, l_max, scale=1.0):
    """Assert that a tensor has this dtype and, within `tolerance`, these values."""
    assert tensor.dtype == dtype
    np.testing.assert_allclose(tensor.cpu().double().numpy(), expected, rtol=0, atol=tolerance(dtype, l_max, scale))


def close_km(a, b, within):
    """Assert that places (..., 2) lie pairwise within so many km."""
    assert a.shape == b.shape
    assert (great_circle_km(a, b) < within).all(), great_circle_km(a, b).max()
