"""The separable transform between coefficients and HEALPix pixels, against the dense product."""

import pytest
import torch

from locdiff.sphere import shdd
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors

SIZES = [(0, 1), (3, 1), (7, 4), (23, 8), (5, 16), (6, 3), (40, 5)]  # rings shorter and longer than 2 l_max
DTYPES = [torch.float32, torch.float64]


@pytest.fixture(params=["tables", "fft"])
def rings(request, monkeypatch):
    """Both ways of summing over a ring."""
    if request.param == "fft":
        monkeypatch.setattr(HealpixTransform, "TABLES", 0)
    return request.param


def random(*shape, dtype):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def near(ours, dense, dtype):
    scale = dense.abs().max().item() if dense.numel() else 1.0
    torch.testing.assert_close(ours, dense, rtol=0, atol=scale * (5e-6 if dtype == torch.float32 else 1e-13))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("l_max", "nside"), SIZES)
def test_both_ways_are_the_dense_product(l_max, nside, dtype, rings):
    transform, basis = HealpixTransform(l_max, nside, dtype), shdd.encode(healpix_anchors(nside), l_max).to(dtype)
    assert (4 * nside in transform.table_start) == (rings == "tables" or 4 * nside <= 2 * l_max)
    coeffs, values = random(3, 2, (l_max + 1) ** 2, dtype=dtype), random(3, 2, 12 * nside**2, dtype=dtype)
    near(transform.synthesis(coeffs), coeffs @ basis.T, dtype)
    near(transform.analysis(values), values @ basis, dtype)


def test_gradients_are_those_of_the_dense_product(rings):
    transform, basis = HealpixTransform(5, 6, torch.float64), shdd.encode(healpix_anchors(6), 5)
    for apply, dense, x in (
        (transform.synthesis, basis.T, random(2, 36, dtype=torch.float64)),
        (transform.analysis, basis, random(2, 432, dtype=torch.float64)),
    ):
        x.requires_grad_()
        (ours,) = torch.autograd.grad(torch.logsumexp(apply(x), -1).sum(), x)
        (theirs,) = torch.autograd.grad(torch.logsumexp(x @ dense, -1).sum(), x)
        near(ours, theirs, torch.float64)
        assert torch.autograd.gradgradcheck(lambda x, apply=apply: apply(x).square().sum(), x[:1, :])


def test_the_log_partition_and_its_gradient():
    transform, basis = HealpixTransform(7, 8, torch.float64), shdd.encode(healpix_anchors(8), 7)
    coeffs = random(300, 64, dtype=torch.float64).requires_grad_()
    log_z = transform.log_partition(coeffs)
    near(log_z, shdd.log_partition(coeffs, basis), torch.float64)
    (gradient,) = torch.autograd.grad(log_z.sum(), coeffs)
    near(gradient, shdd.mean_parameters(coeffs, basis), torch.float64)


def test_an_empty_batch_stays_empty(rings):
    transform = HealpixTransform(4, 2)
    assert transform.synthesis(torch.empty(0, 25)).shape == (0, 48)
    assert transform.analysis(torch.empty(3, 0, 48)).shape == (3, 0, 25)
    assert transform.log_partition(torch.empty(0, 25)).shape == (0,)
