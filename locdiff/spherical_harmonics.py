"""Real orthonormal spherical harmonics at any points, and the separable transform between coefficients and HEALPix."""

import math

import healpy
import numpy as np
import torch
from torch import nn


def real_spherical_harmonics(theta, phi, l_max):
    """Y_lm(theta, phi), index k = l*l + l + m (paper Eq. 19): (...) radians -> (..., (l_max + 1)**2), differentiable.

    The recurrence runs in float64 whatever the input, so a float32 result is right to its last digits; the result has
    the dtype of `theta`.
    """
    theta, phi = torch.broadcast_tensors(theta, phi)
    angles = phi.double()[..., None] * torch.arange(1, l_max + 1, device=phi.device)
    cos, sin = 2**0.5 * angles.cos(), 2**0.5 * angles.sin()
    degrees = []
    for l, legendre in enumerate(_normalised_legendre(theta.double(), l_max)):
        zonal, others = legendre[..., :1], legendre[..., 1:]
        degrees += [(others * sin[..., :l]).flip(-1), zonal, others * cos[..., :l]]
    return torch.cat(degrees, dim=-1).to(theta.dtype)


def _normalised_legendre(theta, l_max):
    """Yield the P_lm(theta), m = 0..l, (..., l + 1) for l = 0..l_max: the reference's recurrence, all m at once."""
    x, s = theta.cos()[..., None], theta.sin()[..., None]
    below, legendre = x[..., :0], torch.full_like(x, (4 * np.pi) ** -0.5)
    yield legendre
    for l in range(1, l_max + 1):
        m = torch.arange(l, dtype=theta.dtype, device=theta.device)
        a = torch.sqrt((4 * l * l - 1) / (l * l - m * m))
        b = torch.sqrt(((l - 1) ** 2 - m * m) / max(4 * (l - 1) ** 2 - 1, 1))
        column = a * (x * legendre - b * nn.functional.pad(below, (0, 1)))
        diagonal = ((2 * l + 1) / (2 * l)) ** 0.5 * s * legendre[..., -1:]
        below, legendre = legendre, torch.cat([column, diagonal], dim=-1)
        yield legendre


class HealpixTransform(nn.Module):
    """F = sum_lm c_lm Y_lm on the 12 nside**2 HEALPix pixels (RING order) and its transpose, without the dense product.

    HEALPix pixels lie on 4 nside - 1 rings of constant theta. A Legendre sum per order m takes the coefficients to
    every ring, then a trigonometric sum per ring to its pixels: two batched products, about eight times fewer
    operations than pixels x coefficients at l_max 23, nside 32. Tables and values are float32.
    """

    CHUNK = 128  # vectors at a time in `moments`

    def __init__(self, l_max, nside):
        super().__init__()
        self.l_max, self.nside = l_max, nside
        order = torch.arange(-l_max, l_max + 1)
        degree = torch.arange(l_max + 1)
        first_pixel, ring_pixels, _, _, _ = healpy.ringinfo(nside, np.arange(1, 4 * nside))
        theta, _ = healpy.pix2ang(nside, first_pixel)
        legendre = enumerate(_normalised_legendre(torch.from_numpy(theta), l_max))
        legendre = torch.stack([nn.functional.pad(p, (0, l_max - l)) for l, p in legendre])  # (l, ring, m >= 0)
        legendre = legendre[:, :, order.abs()].permute(2, 1, 0) * torch.where(order == 0, 1.0, 2**0.5)[:, None, None]

        slot = torch.arange(4 * nside)
        inside = slot < torch.from_numpy(ring_pixels)[:, None]  # (ring, slot): polar rings have fewer pixels
        pixel = np.minimum(first_pixel[:, None] + slot.numpy(), 12 * nside**2 - 1)
        angles = torch.from_numpy(healpy.pix2ang(nside, pixel)[1])[..., None] * order.abs()
        trigonometric = torch.where(order < 0, angles.sin(), angles.cos()) * inside[..., None]

        reaches = degree >= order.abs()[:, None]  # (m, l): where l < |m| there is no Y_lm, and the table holds zero
        k = (degree**2 + degree + order[:, None]).where(reaches, 0)
        tables = {
            "index": k.flatten(),
            "k": k[reaches],
            "reaches": reaches.flatten().nonzero().squeeze(1),
            "pixels": inside.flatten().nonzero().squeeze(1),
            "legendre": legendre.float().contiguous(),  # (m, ring, l)
            "trigonometric": trigonometric.float().contiguous(),  # (ring, slot, m)
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def synthesis(self, coeffs):
        """(..., (l_max + 1)**2) -> F on the pixels, (..., 12 nside**2). Inside, the batch is the last axis."""
        batch = coeffs.reshape(-1, coeffs.shape[-1]).T
        orders = batch.index_select(0, self.index).view(2 * self.l_max + 1, self.l_max + 1, batch.shape[1])
        on_rings = torch.bmm(self.legendre, orders).transpose(0, 1)  # (ring, m, batch)
        on_slots = torch.bmm(self.trigonometric, on_rings).flatten(0, 1)  # (ring * slot, batch)
        return on_slots.index_select(0, self.pixels).T.reshape(*coeffs.shape[:-1], len(self.pixels))

    def analysis(self, values):
        """sum over pixels of value * Y_lm: (..., 12 nside**2) -> (..., (l_max + 1)**2), the transpose of synthesis."""
        batch = values.reshape(-1, values.shape[-1]).T
        rings, slots, _ = self.trigonometric.shape
        on_slots = batch.new_zeros(rings * slots, batch.shape[1]).index_copy(0, self.pixels, batch)
        on_slots = on_slots.view(rings, slots, batch.shape[1])
        on_rings = torch.bmm(self.trigonometric.mT, on_slots).transpose(0, 1)  # (m, ring, batch)
        orders = torch.bmm(self.legendre.mT, on_rings).flatten(0, 1).index_select(0, self.reaches)
        coeffs = torch.zeros_like(orders).index_copy(0, self.k, orders)
        return coeffs.T.reshape(*values.shape[:-1], len(self.k))

    @torch.no_grad()
    def moments(self, coeffs):
        """log Z(e) (...) and its gradient, the mean parameters E_{q_e}[Y] (..., D), of coefficients e (..., D)."""
        batch = coeffs.reshape(-1, coeffs.shape[-1])
        log_z, means = [], []
        for chunk in batch.split(self.CHUNK):  # few enough that the pixels stay in the processor's cache
            values = self.synthesis(chunk).T
            log_sum = torch.logsumexp(values, dim=0)
            log_z.append(log_sum + math.log(4 * math.pi / len(self.pixels)))
            means.append(self.analysis((values - log_sum).exp().T))
        log_z, means = torch.cat(log_z or [batch[:, 0]]), torch.cat(means or [batch])
        return log_z.view(coeffs.shape[:-1]), means.view(coeffs.shape)

    def log_partition(self, coeffs):
        """log Z(e), as `shdd.log_partition` on the pixels: (..., D) -> (...), differentiable once."""
        return _LogPartition.apply(coeffs, self)


class _LogPartition(torch.autograd.Function):
    """log Z with its gradient kept, so that nothing of the size of batch x pixels is stored for the way back."""

    @staticmethod
    def forward(ctx, coeffs, transform):
        log_z, mean = transform.moments(coeffs)
        ctx.save_for_backward(mean)
        return log_z

    @staticmethod
    def backward(ctx, gradient):
        return gradient[..., None] * ctx.saved_tensors[0], None
