"""Real orthonormal spherical harmonics at any points, and the separable transform between coefficients and HEALPix."""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

BLOCK = {"cpu": 2**19, "cuda": 2**25}  # points x orders at a time: as much as stays in the processor's cache


def real_spherical_harmonics(theta: Tensor, phi: Tensor, l_max: int) -> Tensor:
    """Return Y_lm(theta, phi) at index k = l*l + l + m (paper Eq. 19): (...) radians -> (..., (l_max + 1)**2).

    It is differentiable. The recurrence runs in float64 whatever the input, so a float32 result is right to its last
    digits. The result has the dtype of `theta`. In memory the points come last: products with coefficients are then
    fastest.
    """
    theta, phi = torch.broadcast_tensors(theta, phi)
    return OPERATION(theta.flatten(), phi.flatten(), l_max).view(*theta.shape, (l_max + 1) ** 2)


def _harmonics(theta, phi, l_max):
    """Return Y_lm of n points, (n,), (n,) -> (n, D)."""
    harmonics = _empty(theta, phi, l_max)
    size = max(1, BLOCK.get(theta.device.type, BLOCK["cpu"]) // (l_max + 1))
    for start in range(0, len(theta), size):
        points = slice(start, start + size)
        _fill(harmonics.T[:, points], theta[points], phi[points], l_max)
    return harmonics


def _empty(theta, phi, l_max):
    return theta.new_empty((l_max + 1) ** 2, len(theta)).T


def _keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], output)


def _backward(ctx, gradient):
    """Return the gradients for theta and phi: by rotations of the harmonics, which are not singular at the poles."""
    phi, harmonics = ctx.saved_tensors
    about_x, about_y, about_z = ((gradient * turned).sum(dim=-1) for turned in rotate(harmonics))
    return phi.cos() * about_y - phi.sin() * about_x, about_z, None


# One operation, which torch.compile need not unroll; `torch.library.custom_op` would import the compiler to run it.
_NAME = "locdiff::spherical_harmonics"
torch.library.define(_NAME, "(Tensor theta, Tensor phi, int l_max) -> Tensor")
torch.library.impl(_NAME, "default", _harmonics)
torch.library.register_fake(_NAME, _empty)
torch.library.register_autograd(_NAME, _backward, setup_context=_keep)
OPERATION = torch.ops.locdiff.spherical_harmonics.default


def _fill(out, theta, phi, l_max):
    """Write Y_lm of n points into `out` (D, n)."""
    angles = torch.arange(1, l_max + 1, device=phi.device)[:, None] * phi.double()
    cos, sin = ((2**0.5 * table).to(out.dtype) for table in (angles.cos(), angles.sin().flip(0)))
    for l, legendre in enumerate(_normalized_legendre(theta.double(), l_max)):
        legendre = legendre.to(out.dtype)
        torch.mul(legendre[1:].flip(0), sin[l_max - l :], out=out[l * l : l * l + l])
        out[l * l + l] = legendre[0]
        torch.mul(legendre[1:], cos[:l], out=out[l * l + l + 1 : (l + 1) ** 2])


def _normalized_legendre(theta, l_max):
    """Yield P_lm(theta), m = 0..l, (l + 1, n), for l = 0..l_max, by the recurrence of `reference`, all m at once."""
    x, s = theta.cos(), theta.sin()
    legendre = torch.full_like(x, (4 * math.pi) ** -0.5)[None]
    below = legendre[:0]
    yield legendre
    for l, (a, b) in enumerate(_recurrence(l_max, theta.dtype, theta.device), start=1):
        above = torch.empty(l + 1, len(x), dtype=theta.dtype, device=theta.device)
        torch.mul(legendre, x, out=above[:l])
        above[: l - 1].addcmul_(b, below, value=-1)
        above[:l].mul_(a)
        torch.mul(legendre[-1], s * ((2 * l + 1) / (2 * l)) ** 0.5, out=above[l])
        below, legendre = legendre, above
        yield legendre


@lru_cache(maxsize=8)
def _recurrence(l_max, dtype, device):
    """Return the factors a (l, 1) and b (l - 1, 1) of the recurrence for l = 1..l_max."""
    factors = []
    for l in range(1, l_max + 1):
        m = np.arange(l)[:, None]
        a = np.sqrt((4 * l * l - 1) / (l * l - m * m))
        b = np.sqrt(((l - 1) ** 2 - m[:-1] ** 2) / max(4 * (l - 1) ** 2 - 1, 1))
        factors.append(tuple(torch.from_numpy(part).to(device, dtype) for part in (a, b)))
    return factors


def rotate(harmonics: Tensor) -> Tensor:
    """Return d/dw_i of Y(exp(w x) p) at w = 0, for rotations about the axes x, y and z: Y(p) (..., D) -> (3, ..., D).

    These are the generators of the rotations, antisymmetric and sparse: they mix orders m and m +- 1 of one degree.
    For coefficients c of F(p) = sum c_lm Y_lm(p), -rotate(c) holds those of the derivatives of F.
    """
    l_max = math.isqrt(harmonics.shape[-1]) - 1
    opposite, weights = _generators(l_max)
    opposite = torch.as_tensor(opposite, device=harmonics.device)
    x_below, x_above, y_below, y_above, z = torch.as_tensor(weights, device=harmonics.device).to(harmonics.dtype)
    swapped = harmonics.index_select(-1, opposite)  # cosines for sines
    below, above, swapped_below, swapped_above = (
        nn.functional.pad(part, shift) for part in (harmonics, swapped) for shift in ((1, -1), (-1, 1))
    )
    about_x = x_below * swapped_below + x_above * swapped_above
    return torch.stack([about_x, y_below * below + y_above * above, z * swapped])


@lru_cache
def _generators(l_max):
    """Return the index of (l, -m) for each (l, m), (D,), and the weights of the entries there in `rotate`, (5, D)."""
    l = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    m = np.arange(len(l)) - l * l - l
    order = np.abs(m)
    inwards = np.sqrt((l + order) * (l - order + 1.0)) / 2  # from |m| - 1 to |m|
    outwards = np.sqrt((l - order) * (l + order + 1.0)) / 2 * np.where(m == 0, np.sqrt(2), 1)  # from |m| + 1 to |m|
    zonal = np.sqrt(2) * inwards  # from 0 to |m| = 1, for cosines only: there is no sine of zero
    x_below = np.select([m > 1, m < 0], [inwards, -outwards], 0)
    x_above = np.select([m >= 0, m == -1], [outwards, -zonal], -inwards)
    y_below = np.select([m > 1, m == 1, m < 0], [inwards, zonal, -outwards], 0)
    y_above = np.select([m >= 0, m < -1], [-outwards, inwards], 0)
    return l * l + l - m, np.stack([x_below, x_above, y_below, y_above, -1.0 * m])
