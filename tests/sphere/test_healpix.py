"""HEALPix pixels, and the separable transform between coefficients and pixels against the dense product."""

import healpy
import numpy as np
import pytest
import torch
from support.tolerances import every_dtype

from locdiff.sphere import healpix, shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors
from reference import decoder

SIZES = [(0, 1), (3, 1), (7, 4), (23, 8), (5, 16), (6, 3), (40, 5)]  # rings shorter and longer than 2 l_max


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


@every_dtype
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


@pytest.mark.parametrize(("l_max", "nside"), [(0, 1), (7, 4), (11, 6), (5, 32)])
def test_means_over_pixels_are_those_of_much_smaller_pixels(l_max, nside):
    coeffs = random((l_max + 1) ** 2, dtype=torch.float32)
    found, fine = healpix.log_pixel_means(coeffs, nside), 8 * nside
    values = shdd.synthesis(coeffs, shdd.encode(healpix_anchors(fine), l_max).float()).double()
    mean = torch.zeros(12 * nside**2).double()
    mean.index_add_(0, healpix.ang2pix(nside, healpix_anchors(fine)), values.exp() / 64)
    torch.testing.assert_close(found.double(), mean.log(), rtol=0, atol=0.04)
    assert found.double().exp().mean().log().item() == pytest.approx(values.exp().mean().log().item(), abs=1e-3)


def test_anchors():
    for nside in (1, 5, 16):
        np.testing.assert_allclose(healpix.healpix_anchors(nside), decoder.healpix_anchors(nside), atol=1e-12)
    assert healpix.healpix_anchors(2, torch.float32).dtype == torch.float32


def test_pixels_are_healpys_whatever_the_shape():
    lat_lon = torch.rand(3, 4, 2, dtype=torch.float64) * torch.tensor([180.0, 360.0]) - torch.tensor([90.0, 180.0])
    found = healpix.ang2pix(16, lat_lon)
    assert found.shape == (3, 4)
    assert np.array_equal(found, healpy.ang2pix(16, lat_lon[..., 1].numpy(), lat_lon[..., 0].numpy(), lonlat=True))
    assert torch.equal(healpix.ang2pix(16, healpix_anchors(16)), torch.arange(12 * 16**2))
    assert healpix.ang2pix(16, lat_lon[0, 0]) == found[0, 0] and healpix.ang2pix(16, lat_lon[:0]).shape == (0, 4)


@pytest.mark.parametrize("nside", [1, 2, 3, 8, 64, 512])
def test_interpolation_is_healpys(nside):
    """At random places, around the poles, and on the borders of the longitudes."""
    rng = np.random.default_rng(nside)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))), rng.uniform(-180, 360, 2000)
    lat[:500], lat[500:505] = rng.choice([-1, 1], 500) * (90 - 30 / nside * rng.random(500)), [90, -90, 90, 0.1, 0.1]
    lon[500:505] = [0, 77, 360, -180, 360]
    pixel, weight = healpix.interpolation(nside, torch.from_numpy(np.stack([lat, lon], axis=-1)))
    pixels, weights = healpy.get_interp_weights(nside, lon, lat, lonlat=True)
    np.testing.assert_array_equal(pixel, pixels.T)
    np.testing.assert_allclose(weight, weights.T, rtol=0, atol=nside * 1e-14)


def test_interpolation_is_between_four_pixels_around():
    lat_lon = torch.rand(50, 2, dtype=torch.float64) * torch.tensor([180.0, 360.0]) - torch.tensor([90.0, 180.0])
    pixel, weight = healpix.interpolation(8, lat_lon)
    assert pixel.shape == weight.shape == (50, 4) and (weight >= 0).all()
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(50, dtype=torch.float64))
    assert (great_circle_km(lat_lon[:, None], healpix_anchors(8)[pixel]) < 1700).all()
    at_center = healpix.interpolation(8, healpix_anchors(8))
    best = at_center[0].gather(1, at_center[1].argmax(dim=1, keepdim=True))
    assert torch.equal(best[:, 0], torch.arange(768)) and at_center[1].amax(dim=1).min() > 1 - 1e-9
