"""Spherical Harmonics Dirac Delta (SHDD) representation: encoding, densities, divergences.

`basis` is always `real_spherical_harmonics` at N anchors, (N, D) with D = (l_max + 1)**2. Integrals over the sphere are
sums over the anchors (paper Eq. 16); with the pixels of `decoder.healpix_anchors`, which have equal areas, that is a
quadrature, and with uniform random anchors a Monte-Carlo estimate.
"""

import numpy as np
from scipy.special import eval_legendre, log_softmax, logsumexp

from reference.coordinates import to_theta_phi
from reference.spherical_harmonics import real_spherical_harmonics


def encode(lat_lon, l_max):
    """SHDD representation PE of places (..., 2): coefficients of the truncated Dirac delta, (..., D) (Eqs. 7 to 9)."""
    return real_spherical_harmonics(*to_theta_phi(lat_lon), l_max)


def evaluate(coeffs, basis):
    """F_e at the anchors: sum_lm e_lm Y_lm, (..., D) x (N, D) -> (..., N) (the exponent of Eqs. 10 and 11)."""
    return np.asarray(coeffs) @ np.asarray(basis).T


def delta_kernel(gamma, l_max):
    """F of one truncated delta at angle gamma (radians) from it, by the addition theorem: sum_l (2l+1)/(4 pi) P_l.

    The peak, at gamma = 0, is (l_max + 1)**2 / (4 pi); the first zero lies near 3.83 / (l_max + 1) rad.
    """
    return sum((2 * l + 1) / (4 * np.pi) * eval_legendre(l, np.cos(gamma)) for l in range(l_max + 1))


def log_partition(coeffs, basis):
    """log Z(e) = log of the integral of exp(F_e) over the sphere (below Eq. 11), (..., D) -> (...)."""
    return logsumexp(evaluate(coeffs, basis), axis=-1) + np.log(4 * np.pi / len(basis))


def log_density(coeffs, basis):
    """log q_e at the anchors, per steradian (Eq. 11; with coeffs = PE(place) it is log p of Eq. 10), (..., N)."""
    return evaluate(coeffs, basis) - log_partition(coeffs, basis)[..., None]


def kl_divergence(coeffs, target, basis, temperature=1.0):
    """SHDD-KL, KL(q_e || p) in nats over the anchors (Eqs. 12 and 16), with densities exp(F / temperature).

    `coeffs` is e and `target` the encoding of the true place, both (..., D); the result is (...). The paper has
    temperature 1. As it grows, 2 (4 pi) temperature^2 KL tends to the squared error over the degrees l >= 1.
    """
    log_q = log_softmax(evaluate(coeffs, basis) / temperature, axis=-1)
    log_p = log_softmax(evaluate(target, basis) / temperature, axis=-1)
    return (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)


def negative_log_likelihood(coeffs, target, basis):
    """-log q_e(place) in nats, with the density per steradian: log Z(e) - sum_lm e_lm Y_lm(place); (...).

    `target` is the encoding of the place. The uniform density scores log(4 pi) = 2.531.
    """
    return log_partition(coeffs, basis) - (np.asarray(coeffs) * target).sum(axis=-1)


def mean_parameters(coeffs, basis):
    """E_{q_e}[Y_lm], the coefficients of the density q_e itself, (..., D): the gradient of log Z(e)."""
    log_q = log_softmax(evaluate(coeffs, basis), axis=-1)
    return np.exp(log_q) @ basis
