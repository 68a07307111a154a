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
    """Return PE of places (..., 2), the coefficients of a truncated Dirac delta (Eqs. 7 to 9): (..., D)."""
    return real_spherical_harmonics(*to_theta_phi(lat_lon), l_max)


def synthesis(coeffs, basis):
    """Return F_e = sum_lm e_lm Y_lm at the anchors, the exponent of Eqs. 10 and 11: (..., D), (N, D) -> (..., N)."""
    return np.asarray(coeffs) @ np.asarray(basis).T


def delta_kernel(gamma, l_max):
    """Return F of one delta at angle gamma (radians) from it, Eq. 9 by the addition theorem: sum_l (2l+1)/(4 pi) P_l.

    The peak, at gamma = 0, is (l_max + 1)**2 / (4 pi); the first zero lies near 3.83 / (l_max + 1) rad.
    """
    return sum((2 * l + 1) / (4 * np.pi) * eval_legendre(l, np.cos(gamma)) for l in range(l_max + 1))


def log_partition(coeffs, basis):
    """Return log Z(e), the log of the integral of exp(F_e) over the sphere (below Eq. 11): (..., D) -> (...).

    Paper: integrates over du dv, without the factor sin u of the area. Here: over area, so densities are per steradian.
    """
    return logsumexp(synthesis(coeffs, basis), axis=-1) + np.log(4 * np.pi / len(basis))


def log_density(coeffs, basis):
    """Return log q_e at the anchors, per steradian (Eq. 11; of coeffs = PE(place) it is log p of Eq. 10): (..., N)."""
    return synthesis(coeffs, basis) - log_partition(coeffs, basis)[..., None]


def broadened_log_density(coeffs, basis, share, factor):
    """Return log((1 - share) q_e + share q_{factor e}) at the anchors, per steradian: (..., N). Not in the paper.

    With factor < 1 the second part is broader. The order of places by density, and so every mode, is that of F_e.
    """
    parts = np.stack([log_density(coeffs, basis), log_density(factor * np.asarray(coeffs), basis)], axis=-1)
    return logsumexp(parts, axis=-1, b=[1 - share, share])


def kl_divergence(coeffs, target, basis, temperature=1.0):
    """Return the SHDD-KL, KL(q_e || p) in nats over the anchors (Eqs. 12 and 16): (...).

    `coeffs` is e and `target` the encoding of the true place, both (..., D).

    Paper: Eq. 12 integrates over du dv, without sin u. Here: over area, if the anchors are spread evenly.
    Paper: Eq. 16 sums q log(q / p) over anchors, of densities normalised elsewhere. Here: of densities normalised over
    the anchors, so that the sum is a divergence.
    Paper: densities exp(F). Here: exp(F / temperature). As the temperature grows, 2 (4 pi) temperature^2 KL tends to
    the squared error over the degrees l >= 1.
    """
    log_q = log_softmax(synthesis(coeffs, basis) / temperature, axis=-1)
    log_p = log_softmax(synthesis(target, basis) / temperature, axis=-1)
    return (np.exp(log_q) * (log_q - log_p)).sum(axis=-1)


def negative_log_likelihood(coeffs, target, basis):
    """Return -log q_e(place) in nats, for densities per steradian: log Z(e) - sum_lm e_lm Y_lm(place), (...).

    Not in the paper. `target` is the encoding of the place. The uniform density scores log(4 pi) = 2.531.
    """
    return log_partition(coeffs, basis) - (np.asarray(coeffs) * target).sum(axis=-1)


def mean_parameters(coeffs, basis):
    """Return E_{q_e}[Y_lm], the coefficients of q_e itself and the gradient of log Z(e), (..., D). Not in the paper."""
    log_q = log_softmax(synthesis(coeffs, basis), axis=-1)
    return np.exp(log_q) @ basis
