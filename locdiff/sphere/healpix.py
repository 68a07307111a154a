"""HEALPix pixels in RING order: their centers, the pixel of a location, and sums of spherical harmonics over them."""

import math
from functools import cached_property, lru_cache

import healpy
import numpy as np
import torch
from torch import Tensor, nn

from locdiff.sphere.coordinates import check_lat_lon, to_lat_lon, to_theta_phi, to_unit_vector
from locdiff.sphere.spherical_harmonics import _normalized_legendre

FAINTEST = 60.0  # nats below the densest pixel: less counts as that, and adds nothing


@lru_cache(maxsize=8)
def healpix_transform(
    l_max: int, nside: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> "HealpixTransform":
    """Return a HealpixTransform that is made once."""
    return HealpixTransform(l_max, nside, dtype).to(device)


def healpix_anchors(nside: int, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
    """Return the centers of the 12 nside**2 HEALPix pixels in RING order, (N, 2) degrees; pixels have equal areas."""
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    return to_lat_lon(torch.from_numpy(theta), torch.from_numpy(phi)).to(device=device, dtype=dtype)


def ang2pix(nside: int, lat_lon: Tensor) -> Tensor:
    """Return the pixels that locations (..., 2) in degrees lie in, (...), on the CPU.

    Raises InputError for what is no location.
    """
    lat, lon = np.moveaxis(check_lat_lon(lat_lon).cpu().numpy(), -1, 0)
    return torch.from_numpy(np.asarray(healpy.ang2pix(nside, lon, lat, lonlat=True)))


@lru_cache(maxsize=16)
def rings(nside: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, of the 4 nside - 1 rings from north to south: the colatitude, the first pixel, the number of pixels, and
    the azimuth of the first pixel in widths of a pixel, 0 or 1/2."""
    ring = np.arange(1, 4 * nside)
    length = 4 * np.minimum(np.minimum(ring, 4 * nside - ring), nside)
    first = np.cumsum(length) - length
    theta, phi = healpy.pix2ang(nside, first)
    shift = np.rint(phi * length / np.pi) / 2
    theta, first, length, shift = (torch.from_numpy(part).to(device) for part in (theta, first, length, shift))
    return theta, first, length, shift


def interpolation(nside: int, lat_lon: Tensor) -> tuple[Tensor, Tensor]:
    """Return the four pixels that locations (n, 2) lie between, and their weights, which sum to one: (n, 4) each.

    Two lie on the ring to the north and two on the ring to the south, as in healpy. Where that is a pole, the four are
    those of the ring around it, whose mean the pole has. Everything stays on the device of the locations.
    """
    theta, phi = to_theta_phi(lat_lon.double())
    ring_theta, first, length, shift = rings(nside, lat_lon.device)
    edge = nn.functional.pad(ring_theta, (1, 1))
    edge[-1] = math.pi
    south = torch.searchsorted(ring_theta, theta, right=True)
    down = (theta - edge[south]) / (edge[south + 1] - edge[south])
    share = torch.stack([1 - down, down])  # (2, n), of the ring to the north and of that to the south
    is_pole = torch.stack([south == 0, south == len(ring_theta)])
    ring = torch.stack([south - 1, south]).clamp(0, len(ring_theta) - 1)
    turn = phi / (2 * math.pi) * length[ring] - shift[ring]
    left, right = turn.floor(), turn - turn.floor()
    pixel = torch.stack([left, left + 1], dim=-1).long() % length[ring][..., None]  # (2, n, 2), counted on the ring
    pixel = torch.where(is_pole[..., None], (pixel.flip(0) + 2) % 4, pixel) + first[ring][..., None]
    weight = torch.stack([1 - right, right], dim=-1) * torch.where(is_pole, 0, share)[..., None]
    weight = weight + torch.where(is_pole, share, 0).sum(dim=0)[:, None] / 4
    return pixel.transpose(0, 1).flatten(1), weight.transpose(0, 1).flatten(1)


def log_pixel_means(coeffs: Tensor, nside: int) -> Tensor:
    """Return the log of the mean of exp(F) over each pixel of `nside`, (D,) -> (N,), by pixels that resolve F."""
    l_max = math.isqrt(len(coeffs)) - 1
    times = 2 ** max(0, math.ceil(math.log2(4 * (l_max + 1) / nside)))
    fine = HealpixTransform(l_max, times * nside).to(coeffs.device)
    values = fine.synthesis(coeffs).double()
    top, parent = values.max(), ang2pix(nside, fine.anchors).to(coeffs.device)
    total = torch.zeros(12 * nside**2, dtype=torch.float64, device=coeffs.device)
    total.index_add_(0, parent, (values - top).clamp(min=-FAINTEST).exp())
    return ((total / times**2).log() + top).to(coeffs)


class HealpixTransform(nn.Module):
    """F = sum_lm c_lm Y_lm on the 12 nside**2 HEALPix pixels (RING order) and its transpose, without the dense product.

    HEALPix pixels lie on 4 nside - 1 rings of constant theta. A Legendre sum per order m takes the coefficients to
    every ring, and a trigonometric sum per ring to its pixels: a product with a table that rings of one length share;
    where these tables together would exceed TABLES numbers, a fast Fourier transform of every ring of over 2 l_max
    pixels.
    Values have the dtype that the transform was made with.
    """

    k: Tensor
    where: Tensor
    weight: Tensor
    legendre: Tensor
    phase: Tensor
    tables: Tensor

    TABLES = 2**25
    CHUNK = 128  # vectors at a time in `log_partition_and_mean`: their pixels stay in the processor's cache

    def __init__(self, l_max: int, nside: int, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.l_max, self.nside = l_max, nside
        order, degree = torch.arange(l_max + 1)[:, None], torch.arange(l_max + 1)
        theta, first_pixel, lengths, shift = rings(nside)
        phi = 2 * math.pi * shift / lengths
        legendre = enumerate(_normalized_legendre(theta, l_max))
        legendre = torch.stack([nn.functional.pad(p, (0, 0, 0, l_max - l)) for l, p in legendre], dim=-1)

        fits = 4 * nside**2 * (l_max + 1) <= self.TABLES
        self.table_start, tables = {}, [torch.empty(0, dtype=dtype)]
        for n in lengths.unique().tolist():
            if fits or n <= 2 * l_max:
                turns = (order * torch.arange(n)) % n * torch.tensor(2 * math.pi / n, dtype=torch.float64)
                self.table_start[n] = sum(map(len, tables))
                tables.append(torch.stack([turns.cos(), -turns.sin()], dim=1).flatten().to(dtype))
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
            "tables": torch.cat(tables),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    @cached_property
    def anchors(self) -> Tensor:
        """The centers of the pixels, (N, 2) degrees, float64 on the CPU."""
        return healpix_anchors(self.nside)

    @cached_property
    def unit_vectors(self) -> Tensor:
        """The centers of the pixels, (3, N), float32 on the CPU."""
        return to_unit_vector(self.anchors).T.float().contiguous()

    def synthesis(self, coeffs: Tensor) -> Tensor:
        """Return F on the pixels: (..., (l_max + 1)**2) -> (..., 12 nside**2), differentiable."""
        values = _Linear.apply(coeffs.reshape(-1, (self.l_max + 1) ** 2), self._synthesis, self._analysis)
        return values.view(*coeffs.shape[:-1], 12 * self.nside**2)

    def analysis(self, values: Tensor) -> Tensor:
        """Return the sums over pixels of value * Y_lm: (..., 12 nside**2) -> (..., (l_max + 1)**2), differentiable.

        This is the transpose of `synthesis`.
        """
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
    def log_partition_and_mean(self, coeffs: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log Z(e), (..., D) -> (...), and its gradient, the mean parameters E_{q_e}[Y], (..., D).

        Where something is `added` to F, (N,) at the pixels, these are of exp(F + added).
        """
        batch = coeffs.reshape(-1, coeffs.shape[-1])
        log_z, means = [], []
        for chunk in batch.split(self.CHUNK):
            values = self._synthesis(chunk)
            if added is not None:
                values += added
            top = values.amax(dim=-1, keepdim=True)
            total = values.sub_(top).clamp_(min=-FAINTEST).exp_().sum(dim=-1, keepdim=True)
            log_z.append((top + total.log())[:, 0] + math.log(4 * math.pi / values.shape[1]))
            means.append(self._analysis(values) / total)
        log_z, means = torch.cat(log_z or [batch[:, 0]]), torch.cat(means or [batch])
        return log_z.view(coeffs.shape[:-1]), means.reshape(coeffs.shape)

    def log_partition(self, coeffs: Tensor, added: Tensor | None = None) -> Tensor:
        """Return log Z(e), as `shdd.log_partition` on the pixels: (..., D) -> (...), differentiable once."""
        return _LogPartition.apply(coeffs, self, added)


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
    def forward(ctx, coeffs, transform, added):
        log_z, mean = transform.log_partition_and_mean(coeffs, added)
        ctx.save_for_backward(mean)
        return log_z

    @staticmethod
    def backward(ctx, gradient):
        return gradient[..., None] * ctx.saved_tensors[0], None, None
