"""From coefficients back to a place: the paper's two decoders over a set of anchors."""

import math

import healpy
import numpy as np
import torch
from scipy.spatial import cKDTree

from locdiff.coordinates import EARTH_RADIUS_KM, to_lat_lon, to_unit_vector
from locdiff.shdd import encode, evaluate

CHUNK = 2**25  # elements of the largest intermediate array: 128 MiB in float32


def healpix_anchors(nside, dtype=torch.float64, device=None):
    """Centres of the 12 nside**2 HEALPix pixels in RING order, (N, 2) degrees; pixels have equal areas."""
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    return to_lat_lon(torch.from_numpy(theta), torch.from_numpy(phi)).to(device=device, dtype=dtype)


def mode_seeking(coeffs, anchors, rho_km):
    """The anchor around which most of the mass of exp(F_e) lies within rho_km, and the log of that share (Eqs. 15, 17).

    (..., D) x (N, 2) -> lat_lon (..., 2), score (...). rho_km = 0 takes the anchor of the largest F_e.
    """
    basis = encode(anchors, math.isqrt(coeffs.shape[-1]) - 1).to(coeffs.dtype)
    neighbours = neighbour_matrix(anchors, rho_km).to(coeffs.dtype)
    return seek(lambda batch: evaluate(batch, basis), coeffs, anchors, neighbours)


def seek(evaluate_on_anchors, coeffs, anchors, neighbours):
    """Mode seeking with any `evaluate_on_anchors`: (n, D) -> (n, N), in chunks; returns what `mode_seeking` returns."""
    batch = coeffs.reshape(-1, coeffs.shape[-1])
    best, score = batch.new_empty(len(batch), dtype=torch.long), batch.new_empty(len(batch))
    size = max(1, CHUNK // len(anchors))
    for start in range(0, len(batch), size):
        chunk = slice(start, start + size)
        share = torch.softmax(evaluate_on_anchors(batch[chunk]), dim=-1)
        score[chunk], best[chunk] = (neighbours @ share.T).max(dim=0)
    lead = coeffs.shape[:-1]
    return anchors[best].to(coeffs.dtype).reshape(*lead, 2), score.log().reshape(lead)


def neighbour_matrix(anchors, rho_km):
    """Sparse (N, N) matrix of ones where two anchors lie within rho_km of each other (an anchor with itself always)."""
    chord = 2 * math.sin(min(rho_km / EARTH_RADIUS_KM, math.pi) / 2)
    tree = cKDTree(to_unit_vector(anchors.double().cpu()).numpy())
    pairs = torch.from_numpy(tree.query_pairs(chord, output_type="ndarray").T)
    itself = torch.arange(len(anchors)).expand(2, -1)
    indices = torch.cat([itself, pairs, pairs.flip(0)], dim=1).to(anchors.device)
    ones = torch.ones(indices.shape[1], dtype=anchors.dtype, device=anchors.device)
    return torch.sparse_coo_tensor(indices, ones, (len(anchors), len(anchors)), check_invariants=False).coalesce()


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
