"""Real orthonormal spherical harmonics, twice: by the stable recurrence and by the paper's explicit Eq. 20."""

from fractions import Fraction
from math import comb, factorial

import numpy as np


def real_spherical_harmonics(theta, phi, l_max):
    """Return Y_lm(theta, phi) for l = 0..l_max (Eq. 19), (..., (l_max + 1)**2), with index k = l*l + l + m.

    `theta`, `phi` are radians and broadcast. Y_l,-m carries sin(m phi), Y_lm cos(m phi), and the integral of
    Y_lm Y_l'm' over the sphere is one if (l, m) = (l', m'), else zero.

    Paper: (-1)^m in Eq. 19 and again in P_l^m of Eq. 20; their product is one. Here: both are left out.
    """
    theta, phi = np.broadcast_arrays(np.asarray(theta, dtype=np.float64), np.asarray(phi, dtype=np.float64))
    harmonics = np.empty((*theta.shape, (l_max + 1) ** 2))
    legendre = normalized_legendre(theta, l_max)
    for l in range(l_max + 1):
        harmonics[..., l * l + l] = legendre[l, 0]
        for m in range(1, l + 1):
            harmonics[..., l * l + l - m] = np.sqrt(2) * legendre[l, m] * np.sin(m * phi)
            harmonics[..., l * l + l + m] = np.sqrt(2) * legendre[l, m] * np.cos(m * phi)
    return harmonics


def normalized_legendre(theta, l_max):
    """Return P_lm = sqrt((2l+1)/(4 pi) (l-m)!/(l+m)!) (-1)^m P_l^m(cos theta) as a dict keyed (l, m), 0 <= m <= l.

    Paper: the explicit sum of Eq. 20. Here: the three-term recurrence in l, started at P_mm, on the normalised
    functions, whose terms all stay of order one.
    """
    x, s = np.cos(theta), np.sin(theta)
    legendre = {(0, 0): np.full_like(x, np.sqrt(1 / (4 * np.pi)))}
    for m in range(1, l_max + 1):
        legendre[m, m] = np.sqrt((2 * m + 1) / (2 * m)) * s * legendre[m - 1, m - 1]
    for m in range(l_max):
        legendre[m + 1, m] = np.sqrt(2 * m + 3) * x * legendre[m, m]
        for l in range(m + 2, l_max + 1):
            a = np.sqrt((4 * l * l - 1) / (l * l - m * m))
            b = np.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
            legendre[l, m] = a * (x * legendre[l - 1, m] - b * legendre[l - 2, m])
    return legendre


def explicit_spherical_harmonics(theta, phi, l_max):
    """Return the same functions by the explicit polynomial sum, Eq. 20, in the floating-point type of `theta`.

    P_l^m(x) = (1 - x^2)^(m/2) sum_{k=m}^{l} 2^l k!/(k-m)! C(l, k) C((l+k-1)/2, l) x^(k-m), scaled by J of Eq. 19. The
    coefficients are exact before they are rounded once. The sum fails: its terms alternate in sign and grow like
    (1 + sqrt 2)^l, so float32 is wrong by a per cent from about l = 17 and float64 from about l = 40.
    """
    theta, phi = np.broadcast_arrays(theta, phi)
    x, s = np.cos(theta), np.sin(theta)
    harmonics = np.empty((*theta.shape, (l_max + 1) ** 2), dtype=theta.dtype)
    for l in range(l_max + 1):
        for m in range(l + 1):
            total = np.zeros_like(x)
            for k in range(m + (l - m) % 2, l + 1, 2):  # the other terms are zero
                total += theta.dtype.type(_explicit_coefficient(l, m, k)) * x ** (k - m)
            harmonics[..., l * l + l - m] = s**m * total * np.sin(m * phi)  # at m = 0 overwritten by the next line
            harmonics[..., l * l + l + m] = s**m * total * np.cos(m * phi)
    return harmonics


def _explicit_coefficient(l, m, k):
    """Return J sqrt(2 if m else 1) 2^l k!/(k-m)! C(l, k) C((l+k-1)/2, l) of Eqs. 19 and 20, exact until rounded."""
    generalised_binomial = Fraction(1)
    for i in range(l):
        generalised_binomial *= (Fraction(l + k - 1, 2) - i) / (i + 1)
    integer = 2**l * Fraction(factorial(k), factorial(k - m)) * comb(l, k) * generalised_binomial
    squared = integer**2 * Fraction(factorial(l - m), factorial(l + m)) * (2 * l + 1) * (2 if m else 1)
    return (1 if integer > 0 else -1) * np.sqrt(float(squared) / (4 * np.pi))
