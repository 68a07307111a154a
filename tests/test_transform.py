"""The separable transform between coefficients and HEALPix pixels, against the dense product."""

import pytest
import torch

from locdiff import shdd
from locdiff.decoder import healpix_anchors
from locdiff.spherical_harmonics import HealpixTransform

SIZES = [(0, 1), (3, 1), (7, 4), (23, 8), (5, 16)]


def dense_basis(l_max, nside):
    return shdd.encode(healpix_anchors(nside), l_max).float()


@pytest.mark.parametrize(("l_max", "nside"), SIZES)
def test_synthesis_is_the_dense_product(l_max, nside):
    coeffs = torch.randn(3, 2, (l_max + 1) ** 2, generator=torch.Generator().manual_seed(0))
    expected = coeffs @ dense_basis(l_max, nside).T
    torch.testing.assert_close(HealpixTransform(l_max, nside).synthesis(coeffs), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("l_max", "nside"), SIZES)
def test_analysis_is_the_dense_transpose(l_max, nside):
    values = torch.rand(3, 2, 12 * nside**2, generator=torch.Generator().manual_seed(0))
    expected = values @ dense_basis(l_max, nside)
    torch.testing.assert_close(HealpixTransform(l_max, nside).analysis(values), expected, rtol=1e-5, atol=2e-4)


def test_gradients_are_those_of_the_dense_product():
    transform, basis = HealpixTransform(7, 8), dense_basis(7, 8)
    coeffs = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (separable,) = torch.autograd.grad(torch.logsumexp(transform.synthesis(coeffs), -1).sum(), coeffs)
    (dense,) = torch.autograd.grad(torch.logsumexp(coeffs @ basis.T, -1).sum(), coeffs)
    torch.testing.assert_close(separable, dense, rtol=1e-5, atol=1e-5)
    values = torch.rand(2, 768, requires_grad=True)
    (separable,) = torch.autograd.grad(transform.analysis(values).square().sum(), values)
    (dense,) = torch.autograd.grad((values @ basis).square().sum(), values)
    torch.testing.assert_close(separable, dense, rtol=1e-4, atol=1e-3)


def test_an_empty_batch_stays_empty():
    transform = HealpixTransform(4, 2)
    assert transform.synthesis(torch.empty(0, 25)).shape == (0, 48)
    assert transform.analysis(torch.empty(3, 0, 48)).shape == (3, 0, 25)
