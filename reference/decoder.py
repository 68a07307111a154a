"""From coefficients back to a place: the paper's two decoders over a set of anchors."""

import healpy
import numpy as np
from scipy.special import log_softmax, logsumexp

from reference.coordinates import great_circle_km, to_lat_lon
from reference.shdd import encode, kl_divergence, synthesis


def healpix_anchors(nside):
    """Return the centres of the N = 12 nside**2 HEALPix pixels, of equal areas, in RING order: (N, 2) degrees."""
    return to_lat_lon(*healpy.pix2ang(nside, np.arange(12 * nside**2)))


def mode_seeking(coeffs, anchors, rho_km):
    """Return the anchor with the largest share of the mass of exp(F_e) within rho_km, and the log of that share.

    Eqs. 15, 17: (..., D), (N, 2) -> lat_lon (..., 2), score (...). rho_km = 0 gives the anchor of the largest F_e.
    Paper: Eq. 15 integrates du dv over a box of +-rho, Eq. 17 sums over a disc of d_C. Here: a geodesic disc.
    Paper: the maximum is over all places. Here: over the anchors.
    """
    log_q = log_softmax(synthesis(coeffs, encode(anchors, _l_max(coeffs))), axis=-1)
    scores = np.empty_like(log_q)
    for i, anchor in enumerate(anchors):
        inside = great_circle_km(anchor, anchors) <= rho_km
        inside[i] = True
        scores[..., i] = logsumexp(log_q[..., inside], axis=-1)
    best = scores.argmax(axis=-1)
    return np.asarray(anchors)[best], scores.max(axis=-1)


def kl_decoder(coeffs, anchors):
    """Return the anchor whose density p is nearest to q_e, arg min KL(q_e || p), and minus that divergence (Eq. 14).

    (..., D), (N, 2) -> lat_lon (..., 2), score (...).
    Paper: the minimum is over all places, and not computed. Here: over the anchors, as are the integrals.
    """
    basis = encode(anchors, _l_max(coeffs))
    scores = -np.stack([kl_divergence(coeffs, encoding, basis) for encoding in basis], axis=-1)
    return np.asarray(anchors)[scores.argmax(axis=-1)], scores.max(axis=-1)


def _l_max(coeffs):
    return round(np.sqrt(np.shape(coeffs)[-1])) - 1
