"""Real orthonormal spherical harmonics at any points, and the separable transform between coefficients and HEALPix."""

import math
from functools import lru_cache

import healpy
import numpy as np
import torch
from torch import nn

BLOCK = {"cpu": 2**19, "cuda": 2**25}  # points x orders at a time: as much as stays in the processor's cache


def real_spherical_harmonics(theta, phi, l_max):
    """Y_lm(theta, phi), index k = l*l + l + m (paper Eq. 19): (...) radians -> (..., (l_max + 1)**2), differentiable.

    The recurrence runs in float64 whatever the input, so a float32 result is right to its last digits; the result has
    the dtype of `theta`. In memory the points come last, which is what a product with coefficients likes best.
    """
    theta, phi = torch.broadcast_tensors(theta, phi)
    return _harmonics(theta.flatten(), phi.flatten(), l_max).view(*theta.shape, (l_max + 1) ** 2)


@torch.library.custom_op("locdiff::spherical_harmonics", mutates_args=())
def _harmonics(theta: torch.Tensor, phi: torch.Tensor, l_max: int) -> torch.Tensor:
    """(n), (n) -> (n, D). One operation, so that torch.compile need not unroll it."""
    harmonics = _empty(theta, phi, l_max)
    size = max(1, BLOCK.get(theta.device.type, BLOCK["cpu"]) // (l_max + 1))
    for start in range(0, len(theta), size):
        points = slice(start, start + size)
        _fill(harmonics.T[:, points], theta[points], phi[points], l_max)
    return harmonics


@_harmonics.register_fake
def _empty(theta, phi, l_max):
    return theta.new_empty((l_max + 1) ** 2, len(theta)).T


def _keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[1], output)


def _backward(ctx, gradient):
    """The derivatives come from the harmonics themselves, by rotations: nothing is singular at the poles."""
    phi, harmonics = ctx.saved_tensors
    about_x, about_y, about_z = ((gradient * turned).sum(dim=-1) for turned in rotate(harmonics))
    return phi.cos() * about_y - phi.sin() * about_x, about_z, None


_harmonics.register_autograd(_backward, setup_context=_keep)


def _fill(out, theta, phi, l_max):
    """Write Y_lm of n points into `out` (D, n)."""
    angles = torch.arange(1, l_max + 1, device=phi.device)[:, None] * phi.double()
    cos, sin = ((2**0.5 * table).to(out.dtype) for table in (angles.cos(), angles.sin().flip(0)))
    for l, legendre in enumerate(_normalised_legendre(theta.double(), l_max)):
        legendre = legendre.to(out.dtype)
        torch.mul(legendre[1:].flip(0), sin[l_max - l :], out=out[l * l : l * l + l])
        out[l * l + l] = legendre[0]
        torch.mul(legendre[1:], cos[:l], out=out[l * l + l + 1 : (l + 1) ** 2])


def _normalised_legendre(theta, l_max):
    """Yield the P_lm(theta), m = 0..l, (l + 1, n) for l = 0..l_max: the reference's recurrence, all m at once."""
    x, s = theta.cos(), theta.sin()
    legendre = torch.full_like(x, (4 * math.pi) ** -0.5)[None]
    below = legendre[:0]
    yield legendre
    for l in range(1, l_max + 1):
        m = torch.arange(l, dtype=theta.dtype, device=theta.device)[:, None]
        a = torch.sqrt((4 * l * l - 1) / (l * l - m * m))
        b = torch.sqrt(((l - 1) ** 2 - m[:-1] ** 2) / max(4 * (l - 1) ** 2 - 1, 1))
        above = torch.empty(l + 1, len(x), dtype=theta.dtype, device=theta.device)
        torch.mul(legendre, x, out=above[:l])
        above[: l - 1].addcmul_(b, below, value=-1)
        above[:l].mul_(a)
        torch.mul(legendre[-1], s * ((2 * l + 1) / (2 * l)) ** 0.5, out=above[l])
        below, legendre = legendre, above
        yield legendre


def rotate(harmonics):
    """d/dw_i of Y(exp(w x) p) at w = 0, for rotations about the axes x, y and z: Y(p) (..., D) -> (3, ..., D).

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
    """The index of (l, -m) for each (l, m), (D), and the weights in `rotate` of the entries there, (5, D)."""
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


class HealpixTransform(nn.Module):
    """F = sum_lm c_lm Y_lm on the 12 nside**2 HEALPix pixels (RING order) and its transpose, without the dense product.

    HEALPix pixels lie on 4 nside - 1 rings of constant theta. A Legendre sum per order m takes the coefficients to
    every ring, and a trigonometric sum per ring to its pixels: a product with a table that rings of one length share;
    where these tables together would exceed TABLES numbers, a fast Fourier transform of every ring of over 2 l_max
    pixels.
    Values have the dtype that the transform was made with.
    """

    TABLES = 2**25
    CHUNK = 128  # vectors at a time in `moments`: few enough that their pixels stay in the processor's cache

    def __init__(self, l_max, nside, dtype=torch.float32):
        super().__init__()
        self.l_max, self.nside = l_max, nside
        order, degree = torch.arange(l_max + 1)[:, None], torch.arange(l_max + 1)
        ring = np.arange(1, 4 * nside)
        lengths = 4 * np.minimum(np.minimum(ring, 4 * nside - ring), nside)
        first_pixel = np.cumsum(lengths) - lengths
        theta, phi = (torch.from_numpy(angle) for angle in healpy.pix2ang(nside, first_pixel))
        legendre = enumerate(_normalised_legendre(theta, l_max))
        legendre = torch.stack([nn.functional.pad(p, (0, 0, 0, l_max - l)) for l, p in legendre], dim=-1)

        fits = 4 * nside**2 * (l_max + 1) <= self.TABLES
        self.table_start, tables = {}, [torch.empty(0)]
        for n in np.unique(lengths).tolist():
            if fits or n <= 2 * l_max:
                turns = (order * torch.arange(n)) % n * torch.tensor(2 * math.pi / n, dtype=torch.float64)
                self.table_start[n] = sum(map(len, tables))
                tables.append(torch.stack([turns.cos(), -turns.sin()], dim=1).flatten())
        equator = (nside - 1, 2 * nside + 1, int(first_pixel[nside - 1]), 4 * nside)
        polar = [(i, 1, int(first_pixel[i]), int(lengths[i])) for i in range(4 * nside - 1)]
        self.blocks = [*polar[: nside - 1], equator, *polar[3 * nside :]]  # first ring, rings, first pixel, length

        part = torch.tensor([1, -1])  # cosines, then sines: all sums are real parts of (c_lm - i c_l,-m) exp(i m phi)
        slot = torch.arange(2 * (l_max + 1) ** 2).view(l_max + 1, l_max + 1, 2)  # (m, l, part)
        k = (degree**2 + degree)[:, None] + order[..., None] * part
        reaches = (degree >= order)[..., None] & ((order[..., None] > 0) | (part > 0))
        where = torch.empty((l_max + 1) ** 2, dtype=torch.long)
        where[k[reaches]] = slot[reaches]
        weight = torch.where(order > 0, 2**0.5, torch.tensor([1.0, 0.0], dtype=torch.float64)) * part
        buffers = {
            "k": (k * reaches).flatten(),  # of each slot; where l < m there is no Y_lm, and the table holds zero
            "where": where,  # the slot of each k
            "weight": weight[:, None, :, None].to(dtype),
            "legendre": legendre.to(dtype),  # (m, ring, l)
            "phase": torch.exp(1j * order * phi).to(dtype.to_complex())[..., None],  # (m, ring, 1)
            "tables": torch.cat(tables).to(dtype),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def synthesis(self, coeffs):
        """(..., (l_max + 1)**2) -> F on the pixels, (..., 12 nside**2), differentiable."""
        values = _Linear.apply(coeffs.reshape(-1, (self.l_max + 1) ** 2), self._synthesis, self._analysis)
        return values.view(*coeffs.shape[:-1], 12 * self.nside**2)

    def analysis(self, values):
        """sum over pixels of value * Y_lm: (..., 12 nside**2) -> (..., (l_max + 1)**2), the transpose of synthesis."""
        coeffs = _Linear.apply(values.reshape(-1, 12 * self.nside**2), self._analysis, self._synthesis)
        return coeffs.view(*values.shape[:-1], (self.l_max + 1) ** 2)

    def _synthesis(self, coeffs):
        orders, n = self.l_max + 1, len(coeffs)
        slots = coeffs.T.index_select(0, self.k).view(orders, orders, 2, n) * self.weight
        on_rings = torch.bmm(self.legendre, slots.flatten(2)).unflatten(2, (2, n))
        spectra = torch.complex(on_rings[:, :, 0], on_rings[:, :, 1]).mul_(self.phase).permute(2, 1, 0).contiguous()
        parts = torch.view_as_real(spectra).flatten(2)  # (n, ring, 2 m)
        values = coeffs.new_empty(n, 12 * self.nside**2)
        for ring, rings, pixel, length in self.blocks:
            block = values[:, pixel : pixel + rings * length]
            if length not in self.table_start:
                half = spectra[:, ring : ring + rings] / 2
                half[..., 0] *= 2
                block[:] = torch.fft.irfft(half, length, norm="forward").flatten(1)
            elif rings == 1:
                torch.mm(parts[:, ring], self._table(length), out=block)
            else:
                block[:] = (parts[:, ring : ring + rings] @ self._table(length)).flatten(1)
        return values

    def _analysis(self, values):
        orders, n = self.l_max + 1, len(values)
        parts = values.new_empty(n, 4 * self.nside - 1, 2 * orders)
        for ring, rings, pixel, length in self.blocks:
            block = values[:, pixel : pixel + rings * length].unflatten(1, (rings, length))
            if length in self.table_start:
                parts[:, ring : ring + rings] = block @ self._table(length).T
            else:
                parts[:, ring : ring + rings] = torch.view_as_real(torch.fft.rfft(block)[..., :orders]).flatten(2)
        spectra = torch.view_as_complex(parts.unflatten(2, (orders, 2))).permute(2, 1, 0) * self.phase.conj()
        on_rings = torch.stack([spectra.real, spectra.imag], dim=2).flatten(2)
        slots = torch.bmm(self.legendre.mT, on_rings).view(orders, orders, 2, n) * self.weight
        return slots.flatten(0, 2).index_select(0, self.where).T

    def _table(self, length):
        start, rows = self.table_start[length], 2 * (self.l_max + 1)
        return self.tables[start : start + rows * length].view(rows, length)

    @torch.no_grad()
    def moments(self, coeffs):
        """log Z(e) (...) and its gradient, the mean parameters E_{q_e}[Y] (..., D), of coefficients e (..., D)."""
        batch = coeffs.reshape(-1, coeffs.shape[-1])
        log_z, means = [], []
        for chunk in batch.split(self.CHUNK):
            values = self._synthesis(chunk)
            top = values.amax(dim=-1, keepdim=True)
            total = values.sub_(top).exp_().sum(dim=-1, keepdim=True)
            log_z.append((top + total.log())[:, 0] + math.log(4 * math.pi / values.shape[1]))
            means.append(self._analysis(values) / total)
        log_z, means = torch.cat(log_z or [batch[:, 0]]), torch.cat(means or [batch])
        return log_z.view(coeffs.shape[:-1]), means.reshape(coeffs.shape)

    def log_partition(self, coeffs):
        """log Z(e), as `shdd.log_partition` on the pixels: (..., D) -> (...), differentiable once."""
        return _LogPartition.apply(coeffs, self)


class _Linear(torch.autograd.Function):
    """A linear map and its transpose, each the gradient of the other."""

    @staticmethod
    def forward(ctx, x, apply, transpose):
        ctx.pair = transpose, apply
        return apply(x)

    @staticmethod
    def backward(ctx, gradient):
        return _Linear.apply(gradient, *ctx.pair), None, None


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
