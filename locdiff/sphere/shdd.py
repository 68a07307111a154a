"""Spherical Harmonics Dirac Delta (SHDD) representation: encoding, densities, divergences. See `reference.shdd`."""

import math

import torch

from locdiff.sphere.coordinates import to_theta_phi
from locdiff.sphere.spherical_harmonics import real_spherical_harmonics


def encode(lat_lon, l_max):
    """SHDD representation PE of places (..., 2): coefficients of the truncated Dirac delta, (..., D) (Eqs. 7 to 9)."""
    return real_spherical_harmonics(*to_theta_phi(lat_lon), l_max)


def synthesis(coeffs, basis):
    """F_e at the anchors: sum_lm e_lm Y_lm, (..., D) x (N, D) -> (..., N) (the exponent of Eqs. 10 and 11)."""
    return coeffs @ basis.T


def delta_kernel(gamma, l_max):
    """F of one truncated delta at angle gamma (radians) from it: sum_l (2l+1)/(4 pi) P_l(cos gamma)."""
    zonal = real_spherical_harmonics(gamma, torch.zeros_like(gamma), l_max)
    degree = torch.arange(l_max + 1, device=gamma.device)
    return zonal[..., degree**2 + degree] @ torch.sqrt((2 * degree + 1).to(gamma.dtype) / (4 * math.pi))


def log_partition(coeffs, basis):
    """log Z(e) = log of the integral of exp(F_e) over the sphere (below Eq. 11), (..., D) -> (...)."""
    return torch.logsumexp(synthesis(coeffs, basis), dim=-1) + math.log(4 * math.pi / len(basis))


def log_density(coeffs, basis):
    """log q_e at the anchors, per steradian (Eq. 11), (..., N)."""
    return torch.log_softmax(synthesis(coeffs, basis), dim=-1) - math.log(4 * math.pi / len(basis))


def kl_divergence(coeffs, target, basis, temperature=1.0):
    """SHDD-KL, KL(q_e || p) in nats over the anchors (Eqs. 12, 16), with densities exp(F / temperature); (...)."""
    log_q = torch.log_softmax(synthesis(coeffs, basis) / temperature, dim=-1)
    log_p = torch.log_softmax(synthesis(target, basis) / temperature, dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=-1)


def negative_log_likelihood(coeffs, target, basis):
    """-log q_e(place) in nats, with the density per steradian; `target` is the encoding of the place; (...)."""
    return log_partition(coeffs, basis) - (coeffs * target).sum(dim=-1)


def mean_parameters(coeffs, basis):
    """E_{q_e}[Y_lm], the coefficients of the density q_e itself, (..., D): the gradient of log Z(e)."""
    return torch.softmax(synthesis(coeffs, basis), dim=-1) @ basis
