"""Spherical harmonics, their gradients and rotations: the twin of `reference.spherical_harmonics`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from support.strategies import EDGE_PLACES, at_edges, places, seeds
from support.tolerances import close, every_device, every_dtype, rounded, tolerance

from locdiff.sphere import shdd, spherical_harmonics
from reference import coordinates as ref_coordinates
from reference import shdd as ref_shdd
from reference import spherical_harmonics as ref_spherical_harmonics


@every_device
@every_dtype
@pytest.mark.parametrize("l_max", [0, 1, 4, 23, 47, 128, 255])
def test_harmonics(dtype, device, l_max):
    rng = np.random.default_rng(l_max)
    many = np.concatenate([EDGE_PLACES, np.degrees(rng.uniform((-1.57, -3.14), (1.57, 3.14), size=(50, 2)))])
    (theta, theta_ref), (phi, phi_ref) = (rounded(angle, dtype, device) for angle in ref_coordinates.to_theta_phi(many))
    ours = spherical_harmonics.real_spherical_harmonics(theta, phi, l_max)
    close(ours, ref_spherical_harmonics.real_spherical_harmonics(theta_ref, phi_ref, l_max), dtype, l_max)
    if (dtype, l_max) == (torch.float32, 47):
        assert tolerance(dtype, l_max) < 1e-4


def test_harmonics_broadcast_and_keep_empty_batches():
    theta, phi = torch.rand(3, 1, 2), torch.rand(4, 1)
    assert spherical_harmonics.real_spherical_harmonics(theta, phi, 2).shape == (3, 4, 2, 9)
    assert shdd.encode(torch.empty(0, 2), 5).shape == (0, 36)
    assert shdd.encode(torch.zeros(2, dtype=torch.float64), 0).tolist() == [(4 * np.pi) ** -0.5]


def test_harmonics_work_in_chunks(monkeypatch):
    theta, phi = torch.rand(11), torch.rand(11)
    whole = spherical_harmonics.real_spherical_harmonics(theta, phi, 4)
    monkeypatch.setitem(spherical_harmonics.BLOCK, "cpu", 15)
    torch.testing.assert_close(spherical_harmonics.real_spherical_harmonics(theta, phi, 4), whole, rtol=0, atol=1e-7)


def test_harmonics_compile_without_a_break():
    theta, phi = torch.rand(2, 9, dtype=torch.float64).requires_grad_(), torch.rand(9, dtype=torch.float64)
    weights = torch.randn(9, 100, dtype=torch.float64)

    def weighed(theta, phi):
        return (spherical_harmonics.real_spherical_harmonics(theta, phi, 9) * weights).sum()

    compiled = torch.compile(weighed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(theta, phi), weighed(theta, phi))
    slopes = (torch.autograd.grad(function(theta, phi), theta)[0] for function in (compiled, weighed))
    torch.testing.assert_close(*slopes)


@every_device
@given(place=places, seed=seeds)
@at_edges(seed=1)
def test_rotate_is_the_change_under_a_small_rotation(device, place, seed):
    p, step = ref_coordinates.to_unit_vector(place), 1e-5
    rotation_vector = np.random.default_rng(seed).normal(size=3)
    nearby = [p + sign * step * np.cross(rotation_vector, p) for sign in (1, -1)]
    forth, back = (ref_shdd.encode(ref_coordinates.from_unit_vector(q / np.linalg.norm(q)), 5) for q in nearby)
    turned = spherical_harmonics.rotate(torch.as_tensor(ref_shdd.encode(place, 5), device=device)).cpu().numpy()
    np.testing.assert_allclose(rotation_vector @ turned, (forth - back) / (2 * step), atol=1e-6)


def test_harmonics_differentiate():
    theta, phi = (
        torch.tensor([0.3, 1.2, 3.0]).double().requires_grad_(),
        torch.tensor([0.0, 2.0, 6.0]).double().requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda a, b: spherical_harmonics.real_spherical_harmonics(a, b, 5), (theta, phi))
    assert torch.autograd.gradgradcheck(
        lambda a, b: spherical_harmonics.real_spherical_harmonics(a, b, 3), (theta, phi)
    )
    poles = torch.tensor([0.0, np.pi], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spherical_harmonics.real_spherical_harmonics(poles, poles.detach(), 7).sum(), poles)
    assert slope.isfinite().all() and slope.abs().max() > 1
    narrow = theta.detach().float().requires_grad_()
    weights = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    (single,) = torch.autograd.grad(
        (weights * spherical_harmonics.real_spherical_harmonics(narrow, phi.detach().float(), 7)).sum(), narrow
    )
    (double,) = torch.autograd.grad(
        (weights * spherical_harmonics.real_spherical_harmonics(theta, phi, 7)).sum(), theta
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)
