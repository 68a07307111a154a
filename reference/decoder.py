"""From coefficients back to a place: the paper's two decoders over a set of anchors."""

import healpy
import numpy as np
from scipy.special import log_softmax, logsumexp

from reference.coordinates import great_circle_km, to_lat_lon
from reference.shdd import encode, evaluate, kl_divergence


def healpix_anchors(nside):
    """Centres of the 12 nside**2 HEALPix pixels in RING order, (N, 2) degrees; pixels have equal areas."""
    return to_lat_lon(*healpy.pix2ang(nside, np.arange(12 * nside**2)))


def mode_seeking(coeffs, anchors, rho_km):
    """The anchor around which most of the mass of exp(F_e) lies within rho_km, and the log of that share (Eqs. 15, 17).

    (..., D) x (N, 2) -> lat_lon (..., 2), score (...). rho_km = 0 takes the anchor of the largest F_e.
    """
    log_q = log_softmax(evaluate(coeffs, encode(anchors, _l_max(coeffs))), axis=-1)
    scores = np.empty_like(log_q)
    for i, anchor in enumerate(anchors):
        inside = great_circle_km(anchor, anchors) <= rho_km
        inside[i] = True
        scores[..., i] = logsumexp(log_q[..., inside], axis=-1)
    best = scores.argmax(axis=-1)
    return np.asarray(anchors)[best], scores.max(axis=-1)


def kl_decoder(coeffs, anchors):
    """The anchor whose density p is nearest to q_e, arg min KL(q_e || p), and minus that divergence (Eq. 14).

    Both integrals run over the anchors too. (..., D) x (N, 2) -> lat_lon (..., 2), score (...).
    """
    basis = encode(anchors, _l_max(coeffs))
    scores = -np.stack([kl_divergence(coeffs, encoding, basis) for encoding in basis], axis=-1)
    return np.asarray(anchors)[scores.argmax(axis=-1)], scores.max(axis=-1)


def _l_max(coeffs):
    return round(np.sqrt(np.shape(coeffs)[-1])) - 1
