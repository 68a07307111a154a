"""Spherical Harmonics Dirac Delta (SHDD) representation: encoding, densities, divergences. See `reference.shdd`.

`basis` (N, D) holds the harmonics at N anchors of equal areas; sums over them stand for integrals over the sphere.
"""

import math

import torch
from torch import Tensor

from locdiff.sphere.coordinates import check_lat_lon, to_theta_phi
from locdiff.sphere.spherical_harmonics import real_spherical_harmonics


def encode(lat_lon: Tensor, l_max: int) -> Tensor:
    """Return the SHDD representation PE of locations: the coefficients of the truncated Dirac delta (Eqs. 7 to 9).

    (..., 2) degrees -> (..., D), D = (l_max + 1)**2. Raises InputError for what is no location.
    """
    return encode_checked(check_lat_lon(lat_lon), l_max)


def encode_checked(lat_lon: Tensor, l_max: int) -> Tensor:
    """Return `encode` of what is known to be locations: their values are not looked at, no GPU is waited for."""
    return real_spherical_harmonics(*to_theta_phi(lat_lon), l_max)


def synthesis(coeffs: Tensor, basis: Tensor) -> Tensor:
    """Return F_e = sum_lm e_lm Y_lm at the anchors, the exponent of Eqs. 10 and 11: (..., D), (N, D) -> (..., N)."""
    return coeffs @ basis.T


def delta_kernel(gamma: Tensor, l_max: int) -> Tensor:
    """Return F of one truncated delta at angles gamma (...) in radians: sum_l (2l+1)/(4 pi) P_l(cos gamma), (...)."""
    zonal = real_spherical_harmonics(gamma, torch.zeros_like(gamma), l_max)
    degree = torch.arange(l_max + 1, device=gamma.device)
    return zonal[..., degree**2 + degree] @ torch.sqrt((2 * degree + 1).to(gamma.dtype) / (4 * math.pi))


def log_partition(coeffs: Tensor, basis: Tensor) -> Tensor:
    """Return log Z(e), the log of the integral of exp(F_e) over the sphere (below Eq. 11): (..., D) -> (...)."""
    return torch.logsumexp(synthesis(coeffs, basis), dim=-1) + math.log(4 * math.pi / len(basis))


def log_density(coeffs: Tensor, basis: Tensor) -> Tensor:
    """Return log q_e at the anchors, in nats per steradian (Eq. 11): (..., D) -> (..., N)."""
    return torch.log_softmax(synthesis(coeffs, basis), dim=-1) - math.log(4 * math.pi / len(basis))


def broadened_log_density(coeffs: Tensor, basis: Tensor, share: float, factor: float) -> Tensor:
    """Return log((1 - share) q_e + share q_{factor e}) at the anchors, in nats per steradian: (..., D) -> (..., N)."""
    sharp, broad = log_density(coeffs, basis), log_density(factor * coeffs, basis)
    weights = torch.tensor([1 - share, share], dtype=coeffs.dtype, device=coeffs.device).log()
    return torch.logaddexp(sharp + weights[0], broad + weights[1])


def kl_divergence(coeffs: Tensor, target: Tensor, basis: Tensor, temperature: float = 1.0) -> Tensor:
    """Return SHDD-KL, KL(q_e || p) in nats over the anchors (Eqs. 12, 16): (..., D), (..., D) -> (...).

    `target` are the coefficients of p. The densities are those of exp(F / temperature).
    """
    log_q = torch.log_softmax(synthesis(coeffs, basis) / temperature, dim=-1)
    log_p = torch.log_softmax(synthesis(target, basis) / temperature, dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def negative_log_likelihood(coeffs: Tensor, target: Tensor, basis: Tensor) -> Tensor:
    """Return -log q_e(location) in nats, the density being per steradian: (..., D), (..., D) -> (...).

    `target` is the encoding of the location.
    """
    return log_partition(coeffs, basis) - (coeffs * target).sum(dim=-1)


def mean_parameters(coeffs: Tensor, basis: Tensor) -> Tensor:
    """Return E_{q_e}[Y_lm], the coefficients of the density q_e itself, the gradient of log Z(e): (..., D)."""
    return torch.softmax(synthesis(coeffs, basis), dim=-1) @ basis
