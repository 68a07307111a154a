"""The mixture over refinement levels: a density of one picture's place that is finer than one encoding resolves.

Level 0 gives a density p_0 over the Earth. Level k = 1, 2, ... zooms by s = zoom^k about the centres of the HEALPix
cells of nside 8^k. A place y belongs to four cells c, two on the ring above it and two on that below, with the weights
r(c | y) of HEALPix's linear interpolation, which sum to one. The network gives natural parameters e_c of a density in
the zoomed coordinates of c. On the Earth it is q_c(y) = q_{e_c}(zoom_in(y)) * zoom_area_factor(y). S_k are the cells of
level k to which P_{k-1} gives most mass. With P_0 = p_0,

    w_c = integral of P_{k-1}(y) r(c | y) dy,
    P_k(y) = sum over c in S_k of w_c q_c(y),
    R_k(y) = P_k(y) (1 - sum over c in S_{k+1} of r(c | y)),

the density is R_0 + ... + R_{K-1} + P_K. P_k holds exactly the mass that R_{k-1} lacks of P_{k-1}, so the density
integrates to one whatever the S_k and the e_c are. To sample from it, sample y from p_0; then at each level sample a
cell c from r(c | y): if c is in S_k, replace y by a sample of q_c, and if not, stop.

Integrals are sums over HEALPix pixels of the zoomed coordinates: pixel i of c has the mass w_c softmax(F_{e_c})_i.
Paper: one level; hierarchical generation is future work (section 6). Here: any number of levels.
"""

from dataclasses import dataclass
from math import isqrt

import healpy
import numpy as np
from scipy.special import logsumexp, softmax

from reference.coordinates import to_lat_lon, to_theta_phi
from reference.decoder import healpix_anchors
from reference.shdd import encode, negative_log_likelihood, synthesis
from reference.zoom import zoom_area_factor, zoom_in, zoom_out

ZOOM_NSIDE = 32  # of the pixels in zoomed coordinates


@dataclass(frozen=True)
class MixtureComponent:
    """P_k for one picture: the K cells in S_k, and the density q_c and the weight w_c of each."""

    nside: int | None  # of the cells; None at level 0
    cell_id: np.ndarray  # (K,), S_k
    centers: np.ndarray  # (K, 2), degrees
    s: float  # the zoom
    natural_params: np.ndarray  # (K, D), e_c
    weights: np.ndarray  # (K,), w_c
    pixel_nside: int  # of the M pixels that hold the masses
    partition_nside: int  # of the pixels that give Z to the values of densities


def level_zero(natural_params, nside):
    """Return P_0 = q_e, of e (D,), with masses on the pixels of `nside`: one cell, zoomed by 1 about the north pole."""
    fine, north_pole = max(nside, 4 * isqrt(len(natural_params))), np.array([[90.0, 0.0]])
    return MixtureComponent(None, np.array([0]), north_pole, 1.0, natural_params[None], np.ones(1), nside, fine)


def refinement_level(above, nside, s, cell_id, natural_params, count):
    """Return P_k, given P_{k-1} and natural parameters (C, D) of the cells `cell_id` (C,) of `nside`, zoomed by s.

    A level has cells only where there were training places. S_k has `count` of them, or all C if these are fewer; of
    cells of equal weights the first are chosen.
    """
    weights = cell_weights(points(above), masses(above), nside, cell_id)
    best = np.argsort(-weights, kind="stable")[:count]
    cell_id, weights, natural_params = np.asarray(cell_id, dtype=int)[best], weights[best], natural_params[best]
    centers = to_lat_lon(*healpy.pix2ang(nside, cell_id))
    return MixtureComponent(nside, cell_id, centers, s, natural_params, weights, ZOOM_NSIDE, 2 * ZOOM_NSIDE)


def points(component):
    """Return the places of the M pixels of each of K cells, (K, M, 2) in degrees."""
    return zoom_out(healpix_anchors(component.pixel_nside), component.centers[:, None], component.s)


def masses(component):
    """Return the mass of P_k in each of these pixels, w_c softmax(F_{e_c}), (K, M)."""
    basis = encode(healpix_anchors(component.pixel_nside), isqrt(component.natural_params.shape[-1]) - 1)
    return component.weights[:, None] * softmax(synthesis(component.natural_params, basis), axis=-1)


def interpolation_weights(lat_lon, nside):
    """Return the four cells that places (..., 2) lie between, and the weights r(c | y), which sum to one: (..., 4)."""
    cell_id, r = healpy.get_interp_weights(nside, *to_theta_phi(lat_lon))
    return np.moveaxis(cell_id, 0, -1), np.moveaxis(r, 0, -1).clip(min=0)  # healpy rounds some zeros to -1e-12


def cell_weights(lat_lon, mass, nside, cell_id):
    """Return w_c = sum_i mass_i r(c | y_i) of cells (C,), for masses (...) at places (..., 2): (C,)."""
    near, r = interpolation_weights(lat_lon, nside)
    return np.array([(mass[..., None] * r)[near == c].sum() for c in cell_id])


def remaining_fraction(lat_lon, refined_by):
    """Return 1 - sum over c in S of r(c | y) at places (..., 2), S being that of a component, or empty for None."""
    if refined_by is None:
        return np.ones(np.shape(lat_lon)[:-1])
    near, r = interpolation_weights(lat_lon, refined_by.nside)
    return (r * ~np.isin(near, refined_by.cell_id)).sum(axis=-1)


def mixture_masses(components):
    """Return the masses (K, M) of R_0, ..., R_{K-1}, P_K, given P_0, ..., P_K; all together they sum to one."""
    pairs = zip(components, [*components[1:], None], strict=True)
    return [masses(one) * remaining_fraction(points(one), refined_by) for one, refined_by in pairs]


def mixture_log_density(lat_lon, components):
    """Return log(R_0 + ... + R_{K-1} + P_K) at places (n, 2), in nats per steradian, given P_0, ..., P_K: (n,)."""
    log_p = [logsumexp(cell_log_density(lat_lon, one), b=one.weights[:, None], axis=0) for one in components]
    fractions = [remaining_fraction(lat_lon, refined_by) for refined_by in [*components[1:], None]]
    return logsumexp(log_p, b=fractions, axis=0)


def cell_log_density(lat_lon, component):
    """Return log q_c of each of the K cells at places (n, 2), in nats per steradian of the Earth, (K, n)."""
    centers, s, natural_params = component.centers[:, None], component.s, component.natural_params[:, None]
    l_max = isqrt(natural_params.shape[-1]) - 1
    basis = encode(healpix_anchors(component.partition_nside), l_max)
    log_q = -negative_log_likelihood(natural_params, encode(zoom_in(lat_lon, centers, s), l_max), basis)
    return log_q + np.log(zoom_area_factor(lat_lon, centers, s))
