"""From coefficients back to a place: the paper's two decoders over a set of anchors."""

import math

import healpy
import numpy as np
import torch
from scipy.spatial import cKDTree
from torch.nn.functional import embedding_bag

from locdiff.coordinates import EARTH_RADIUS_KM, to_lat_lon, to_unit_vector
from locdiff.shdd import encode, evaluate

CHUNK = 2**23  # elements of the largest intermediate array: 32 MiB in float32


def healpix_anchors(nside, dtype=torch.float64, device=None):
    """Centres of the 12 nside**2 HEALPix pixels in RING order, (N, 2) degrees; pixels have equal areas."""
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    return to_lat_lon(torch.from_numpy(theta), torch.from_numpy(phi)).to(device=device, dtype=dtype)


def mode_seeking(coeffs, anchors, rho_km):
    """The anchor around which most of the mass of exp(F_e) lies within rho_km, and the log of that share (Eqs. 15, 17).

    (..., D) x (N, 2) -> lat_lon (..., 2), score (...). rho_km = 0 takes the anchor of the largest F_e.
    """
    basis = encode(anchors, math.isqrt(coeffs.shape[-1]) - 1).to(coeffs.dtype)
    return seek(lambda batch: evaluate(batch, basis), coeffs, anchors, neighbourhoods(anchors, rho_km))


def seek(evaluate_on_anchors, coeffs, anchors, neighbourhoods):
    """Mode seeking with any `evaluate_on_anchors`: (n, D) -> (n, N), in chunks; returns what `mode_seeking` returns."""
    batch, (members, starts) = coeffs.reshape(-1, coeffs.shape[-1]), neighbourhoods
    best, score = batch.new_empty(len(batch), dtype=torch.long), batch.new_empty(len(batch))
    size = max(1, CHUNK // len(anchors))
    for start in range(0, len(batch), size):
        chunk = slice(start, start + size)
        share = torch.softmax(evaluate_on_anchors(batch[chunk]).T.contiguous(), dim=0)  # (N, n)
        score[chunk], best[chunk] = embedding_bag(members, share, starts, mode="sum").max(dim=0)
    lead = coeffs.shape[:-1]
    return anchors[best].to(coeffs.dtype).reshape(*lead, 2), score.log().reshape(lead)


def neighbourhoods(anchors, rho_km):
    """The anchors within rho_km of each anchor, itself always among them: their indices, all in one list of the order
    of the N anchors, and where in it each anchor's begin, (N,)."""
    chord = 2 * math.sin(min(rho_km / EARTH_RADIUS_KM, math.pi) / 2)
    pairs = cKDTree(to_unit_vector(anchors.double().cpu()).numpy()).query_pairs(chord, output_type="ndarray")
    itself = np.arange(len(anchors))
    first, second = np.concatenate([np.stack([itself, itself], axis=1), pairs, pairs[:, ::-1]]).T
    members = second[np.argsort(first, kind="stable")]
    starts = np.searchsorted(np.sort(first), itself)
    return torch.from_numpy(members).to(anchors.device), torch.from_numpy(starts).to(anchors.device)


def kl_decoder(coeffs, anchors):
    """The anchor whose density p is nearest to q_e, arg min KL(q_e || p), and minus that divergence (Eq. 14).

    Both integrals run over the anchors too. (..., D) x (N, 2) -> lat_lon (..., 2), score (...). As KL(q_e || p) is
    sum q log q - <E_q[Y], PE> + log Z(PE), all N divergences of one e cost one product of N x D.
    """
    basis = encode(anchors, math.isqrt(coeffs.shape[-1]) - 1).to(coeffs.dtype)
    batch = coeffs.reshape(-1, coeffs.shape[-1])
    best, score = batch.new_empty(len(batch), dtype=torch.long), batch.new_empty(len(batch))
    size = max(1, CHUNK // len(anchors))
    log_z = torch.cat([torch.logsumexp(evaluate(b, basis), dim=-1) for b in basis.split(size)])
    for start in range(0, len(batch), size):
        log_q = torch.log_softmax(evaluate(batch[start : start + size], basis), dim=-1)
        entropy = -(log_q.exp() * log_q).sum(dim=-1, keepdim=True)
        gain = entropy + evaluate(log_q.exp() @ basis, basis) - log_z
        score[start : start + size], best[start : start + size] = gain.max(dim=-1)
    lead = coeffs.shape[:-1]
    return anchors[best].to(coeffs.dtype).reshape(*lead, 2), score.reshape(lead)
