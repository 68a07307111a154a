"""Encodings, densities and divergences: the twin of `reference.shdd`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import at_edges, places, random_coeffs, seeds
from support.tolerances import close, every_device, every_dtype, rounded

from locdiff.sphere import healpix, shdd
from reference import decoder as ref_decoder
from reference import shdd as ref_shdd


@every_device
@every_dtype
@given(seed=seeds, place=places, l_max=st.integers(0, 8), temperature=st.sampled_from([0.5, 1.0, 8.0]))
@at_edges(seed=0, l_max=4, temperature=1.0)
def test_densities_and_divergences(dtype, device, seed, place, l_max, temperature):
    basis, basis_ref = rounded(ref_shdd.encode(ref_decoder.healpix_anchors(4), l_max), dtype, device)
    e, e_ref = rounded(random_coeffs(seed, l_max, lead=(2, 3)), dtype, device)
    x, x_ref = rounded(ref_shdd.encode(place, l_max), dtype, device)
    scale = (l_max + 1) ** 2  # F sums as many products; what follows has slope one in F, or 1 / temperature
    for name, arguments in {
        "synthesis": (("e",), ()), "log_partition": (("e",), ()), "log_density": (("e",), ()),
        "mean_parameters": (("e",), ()), "negative_log_likelihood": (("e", "x"), ()),
        "kl_divergence": (("e", "x"), (temperature,)), "broadened_log_density": (("e",), (0.3, 0.2)),
    }.items():  # fmt: skip
        tensors, arrays = {"e": e, "x": x}, {"e": e_ref, "x": x_ref}
        names, more = arguments
        ours = getattr(shdd, name)(*(tensors[n] for n in names), basis, *more)
        theirs = getattr(ref_shdd, name)(*(arrays[n] for n in names), basis_ref, *more)
        assert ours.shape == theirs.shape
        close(ours, theirs, dtype, l_max, scale / min(temperature, 1.0) ** 2)


@every_dtype
@given(gamma=st.floats(0, np.pi), l_max=st.integers(0, 31))
def test_the_kernel(dtype, gamma, l_max):
    tensor, array = rounded(gamma, dtype)
    close(shdd.delta_kernel(tensor, l_max), ref_shdd.delta_kernel(float(array), l_max), dtype, l_max, (l_max + 1) ** 2)


@every_dtype
@given(place=places)
@at_edges()
def test_encodings(dtype, place):
    tensor, array = rounded(place, dtype)
    scale = 1 if dtype == torch.float64 else 8  # degrees are turned into radians in float32: 6 / 2^24, times l_max
    close(shdd.encode(tensor, 15), ref_shdd.encode(array, 15), dtype, 15, scale)


def test_divergences_differentiate():
    basis = torch.from_numpy(ref_shdd.encode(ref_decoder.healpix_anchors(2), 2))
    e, x = (torch.from_numpy(random_coeffs(seed, 2, lead=(2,))).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda a, b: shdd.kl_divergence(a, b, basis, 0.7), (e, x))
    assert torch.autograd.gradcheck(lambda a, b: shdd.negative_log_likelihood(a, b, basis), (e, x))
    assert torch.autograd.gradcheck(lambda a: shdd.mean_parameters(a, basis), (e,))
    (slope,) = torch.autograd.grad(shdd.log_partition(e, basis).sum(), e)
    np.testing.assert_allclose(slope, ref_shdd.mean_parameters(e.detach().numpy(), basis.numpy()), atol=1e-12)
    for function in (shdd.kl_divergence, shdd.negative_log_likelihood):
        (double,) = torch.autograd.grad(function(e, x, basis).sum(), e)
        narrow = e.detach().float().requires_grad_()
        (single,) = torch.autograd.grad(function(narrow, x.detach().float(), basis.float()).sum(), narrow)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@every_device
@pytest.mark.parametrize("l_max", [7, 15])
def test_the_separable_log_partition_is_the_references(device, l_max):
    transform = healpix.HealpixTransform(l_max, 16).to(device)
    basis = ref_shdd.encode(ref_decoder.healpix_anchors(16), l_max)
    e, e_ref = rounded(random_coeffs(l_max, l_max, 0.5, lead=(3, 100)), torch.float32, device)
    log_z, mean = transform.log_partition_and_mean(e)
    close(log_z, ref_shdd.log_partition(e_ref, basis), torch.float32, l_max, 10)
    close(mean, ref_shdd.mean_parameters(e_ref, basis), torch.float32, l_max, 10)
    e.requires_grad_()
    (slope,) = torch.autograd.grad((transform.log_partition(e) * 3).sum(), e)
    close(slope, 3 * ref_shdd.mean_parameters(e_ref, basis), torch.float32, l_max, 30)
