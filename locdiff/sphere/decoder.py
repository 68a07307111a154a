"""From coefficients back to a location.

Every decoder takes coeffs (..., D) and returns lat_lon (..., 2) in degrees and score (...). `mode_seeking` and
`kl_decoder`, the paper's, choose among anchors. `exact_mode` and `best_within` are not limited to them: what they
maximise is smooth, so Newton's method takes them from the best pixel to the mode.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]  # compiled, and scipy has no stubs
from scipy.special import eval_legendre
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from locdiff.memory import batch_size
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, tangents, to_theta_phi, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors, healpix_transform
from locdiff.sphere.shdd import encode, synthesis
from locdiff.sphere.spherical_harmonics import real_spherical_harmonics, rotate

NEWTON_STEPS = 12

Neighborhoods = list[tuple[Tensor, Tensor]]  # see `neighborhoods`


def mode_seeking(coeffs: Tensor, anchors: Tensor, rho_km: float) -> tuple[Tensor, Tensor]:
    """Return the anchor with the largest share of the mass of exp(F_e) within rho_km, and the log of that share.

    Eqs. 15, 17: (..., D), (N, 2) -> lat_lon (..., 2), score (...). rho_km = 0 gives the anchor of the largest F_e. The
    harmonics at the anchors are kept where the memory budget allows it, else computed again in pieces.
    """
    if len(anchors) <= batch_size(16 * coeffs.shape[-1]):
        basis = encode(anchors, math.isqrt(coeffs.shape[-1]) - 1).to(coeffs.dtype)
        return mode_seek(lambda batch: synthesis(batch, basis), coeffs, anchors, neighborhoods(anchors, rho_km))
    return mode_seek(lambda batch: synthesis_at(batch, anchors), coeffs, anchors, neighborhoods(anchors, rho_km))


def synthesis_at(coeffs: Tensor, lat_lon: Tensor) -> Tensor:
    """Return F_e at any locations, by the dense product: (..., D), (N, 2) -> (..., N).

    The harmonics never exist all at once.
    """
    dimensions = coeffs.shape[-1]
    values = coeffs.new_empty(*coeffs.shape[:-1], len(lat_lon))
    size = batch_size(64 * dimensions)
    for start in range(0, len(lat_lon), size):
        basis = encode(lat_lon[start : start + size], math.isqrt(dimensions) - 1)
        values[..., start : start + size] = synthesis(coeffs, basis.to(coeffs.dtype))
    return values


def mode_seek(
    evaluate_on_anchors: Callable[[Tensor], Tensor], coeffs: Tensor, anchors: Tensor, neighborhoods: Neighborhoods
) -> tuple[Tensor, Tensor]:
    """Return what `mode_seeking` returns, with any `evaluate_on_anchors`: (n, D) -> F_e (n, N), in chunks.

    `neighborhoods` are those of the anchors (N, 2).
    """
    batch = coeffs.reshape(-1, coeffs.shape[-1])
    best, score = batch.new_empty(len(batch), dtype=torch.long), batch.new_empty(len(batch))
    size = batch_size(64 * len(anchors))
    for start in range(0, len(batch), size):
        chunk = slice(start, start + size)
        share = torch.softmax(evaluate_on_anchors(batch[chunk]), dim=-1).T.contiguous()  # (N, n)
        on_device = (tuple(part.to(share.device) for part in block) for block in neighborhoods)
        mass = torch.cat([embedding_bag(members, share, starts, mode="sum") for members, starts in on_device])
        score[chunk], best[chunk] = mass.max(dim=0)
    lead = coeffs.shape[:-1]
    return _or_nan(coeffs, anchors[best].to(coeffs.dtype).reshape(*lead, 2), score.log().reshape(lead))


def neighborhoods(anchors: Tensor, rho_km: float, pairs: int = 2**22) -> Neighborhoods:
    """Return the anchors within rho_km of each of the N anchors (N, 2), itself always among them.

    The list has one (members, starts) for every so many anchors as have about `pairs` neighbours together: the indices
    of all of these, and where in them each anchor's begin; int32. All pairs are kept, 4 bytes each.
    """
    chord = 2 * math.sin(min(rho_km / EARTH_RADIUS_KM, math.pi) / 2)
    block = max(1, int(pairs / (1 + len(anchors) * chord**2 / 4)))
    xyz = to_unit_vector(anchors.double().cpu()).numpy()
    tree, blocks = cKDTree(xyz), []
    for start in range(0, len(xyz), block):
        own = np.arange(len(xyz[start : start + block]))
        found = cKDTree(xyz[start : start + block]).sparse_distance_matrix(tree, chord, output_type="ndarray")
        near = found[found["i"] + start != found["j"]]
        owner = np.concatenate([own, near["i"]])
        order = np.argsort(owner, kind="stable")
        members = np.concatenate([own + start, near["j"]])[order]
        starts = np.searchsorted(owner[order], own)
        members, starts = (torch.from_numpy(part.astype(np.int32)).to(anchors.device) for part in (members, starts))
        blocks.append((members, starts))
    return blocks


def kl_decoder(coeffs: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the anchor whose density p is nearest to q_e, arg min KL(q_e || p), and minus that divergence (Eq. 14).

    (..., D), (N, 2) -> lat_lon (..., 2), score (...) in nats. Both integrals run over the anchors too. As KL(q_e || p)
    is sum q log q - <E_q[Y], PE> + log Z(PE), all N divergences of one e cost one product of N x D. The harmonics at
    all anchors are kept, and log Z costs N x N x D once.
    """
    basis = encode(anchors, math.isqrt(coeffs.shape[-1]) - 1).to(coeffs.dtype)
    batch = coeffs.reshape(-1, coeffs.shape[-1])
    best, score = batch.new_empty(len(batch), dtype=torch.long), batch.new_empty(len(batch))
    size = batch_size(64 * len(anchors))
    log_z = torch.cat([torch.logsumexp(synthesis(b, basis), dim=-1) for b in basis.split(size)])
    for start in range(0, len(batch), size):
        log_q = torch.log_softmax(synthesis(batch[start : start + size], basis), dim=-1)
        entropy = -(log_q.exp() * log_q).sum(dim=-1, keepdim=True)
        gain = entropy + synthesis(log_q.exp() @ basis, basis) - log_z
        score[start : start + size], best[start : start + size] = gain.max(dim=-1)
    lead = coeffs.shape[:-1]
    return _or_nan(coeffs, anchors[best].to(coeffs.dtype).reshape(*lead, 2), score.reshape(lead))


def exact_mode(coeffs: Tensor, nside: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the location of the largest F_e on the whole sphere, and that F_e: (..., D) -> (..., 2), (...).

    It is found by Newton's method from the best of the HEALPix pixels of `nside` (default l_max + 1, a quarter of the
    width of a mode); the score is never below that pixel's. Modes whose F_e differ by less than about 7 % may be taken
    for each other. NaN for coefficients that are not finite.
    """
    l_max = math.isqrt(coeffs.shape[-1]) - 1
    nside = nside or l_max + 1
    transform = healpix_transform(l_max, nside, coeffs.dtype, coeffs.device)
    anchors = healpix_anchors(nside, device=coeffs.device)
    batch, places, scores = coeffs.reshape(-1, coeffs.shape[-1]), [], []
    batch = torch.where(torch.isfinite(batch).all(dim=-1, keepdim=True), batch, 0)  # such become NaN in the end
    for chunk in batch.split(batch_size(16 * max(10 * coeffs.shape[-1], len(anchors)))):
        place, score = newton_ascent(chunk, anchors[transform.synthesis(chunk).argmax(dim=-1)][:, None], nside)
        places.append(place)
        scores.append(score)
    lead = coeffs.shape[:-1]
    if not places:
        return coeffs.new_empty(*lead, 2), coeffs.new_empty(lead)
    lat_lon = torch.cat(places).to(coeffs.dtype)
    lat_lon[..., 1] = torch.where(lat_lon[..., 1] >= 180, -180, lat_lon[..., 1])  # rounded up
    return _or_nan(coeffs, lat_lon.view(*lead, 2), torch.cat(scores).to(coeffs.dtype).view(lead))


def _or_nan(coeffs, lat_lon, score):
    """Return both with NaN for coefficients that are not finite: a failed prediction is no location."""
    failed = ~torch.isfinite(coeffs).all(dim=-1)
    return lat_lon.masked_fill(failed[..., None], torch.nan), score.masked_fill(failed, torch.nan)


def newton_ascent(coeffs: Tensor, lat_lon: Tensor, nside: int) -> tuple[Tensor, Tensor]:
    """Return the maxima of F_e nearest to locations (n, k, 2), and F_e there (n, k), for coefficients (n, D); float64.

    This is Newton's method on the sphere. Derivatives are taken along rotations (`rotate`), which have no poles. No
    step is longer than one pixel of `nside`. Where the surface is not concave, the step follows the gradient; where F_e
    would fall, it is shortened. After a step so short that the next would be lost in rounding, a location is left
    alone. A location that strays over two pixels is returned as it came.
    """
    n, k, _ = lat_lon.shape
    pixel, short = math.sqrt(math.pi / 3) / nside, torch.finfo(coeffs.dtype).eps ** 0.5
    start = to_unit_vector(lat_lon.double()).flatten(0, 1)
    trial, best, step = start.clone(), start.clone(), torch.zeros_like(start)
    height = torch.full((n * k,), -torch.inf, dtype=torch.float64, device=coeffs.device)
    first, moving = height.clone(), torch.arange(n * k, device=coeffs.device)
    turned = -rotate(coeffs / coeffs.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(coeffs.dtype).tiny))
    for i in range(NEWTON_STEPS):
        here, own = trial[moving], moving // k
        value, slope, curvature = _derivatives(coeffs[own], turned[:, own], here)
        if i == 0:
            first = value
        better = value > height[moving]
        height[moving] = torch.where(better, value, height[moving])
        best[moving] = top = torch.where(better[:, None], here, best[moving])
        newton = _newton_step(here, slope, curvature, pixel)
        step[moving] = turn = torch.where(better[:, None], newton, step[moving] / 4)
        angle = turn.norm(dim=-1, keepdim=True)
        direction = torch.linalg.cross(turn / angle.clamp(min=1e-300), top, dim=-1)
        trial[moving] = normalize(angle.cos() * top + angle.sin() * direction, dim=-1)
        last = better & (angle[:, 0] <= short)
        best[moving[last]] = trial[moving[last]]  # what it adds to F_e is below rounding
        moving = moving[~last & (angle[:, 0] > 1e-9)]  # 6 mm
        if not len(moving):
            break
    strayed = (best - start).norm(dim=-1) > 2 * pixel
    places = torch.where(strayed[:, None], lat_lon.double().flatten(0, 1), from_unit_vector(best))
    return places.view(n, k, 2), torch.where(strayed, first, height).view(n, k)


def _derivatives(coeffs, turned, xyz):
    """Return F_e (n,), float64, at unit vectors (n, 3), and its first (n, 3) and second (n, 3, 3) derivatives.

    They are along rotations, `turned` (3, n, D) the coefficients of the first ones. Rotations are antisymmetric, so a
    second derivative is the product of a turned vector with the harmonics turned the other way.
    """
    harmonics = real_spherical_harmonics(*to_theta_phi(from_unit_vector(xyz)), math.isqrt(coeffs.shape[-1]) - 1)
    value = torch.einsum("nd,nd->n", coeffs.double(), harmonics)
    harmonics = harmonics.to(coeffs.dtype)
    slope = torch.einsum("fnd,nd->nf", turned, harmonics).double()
    curvature = torch.einsum("fnd,gnd->nfg", turned, rotate(harmonics)).double()
    return value, slope, (curvature + curvature.mT) / 2


def _newton_step(xyz, slope, curvature, longest):
    """Return the rotation vector (..., 3), at right angles to xyz (..., 3), towards the maximum.

    It is |curvature|^-1 slope, at most `longest` radians.
    """
    plane = torch.stack(tangents(xyz), dim=-1)  # (..., 3, 2)
    bend, rise = plane.mT @ curvature @ plane, plane.mT @ slope[..., None]
    mean = (bend[..., 0, 0] + bend[..., 1, 1]) / 2
    spread = torch.hypot((bend[..., 0, 0] - bend[..., 1, 1]) / 2, bend[..., 0, 1])  # eigenvalues are mean +- spread
    eigenvalues = torch.stack([mean + spread, mean - spread]).abs()
    above, below = 1 / torch.maximum(eigenvalues, eigenvalues.amax(dim=0) * 1e-6 + 1e-300)
    tilt = (above - below) / (2 * spread).clamp(min=1e-300)
    deviation = bend - mean[..., None, None] * torch.eye(2, dtype=bend.dtype, device=bend.device)
    inverse_times_rise = ((above + below) / 2)[..., None, None] * rise + tilt[..., None, None] * (deviation @ rise)
    step = (plane @ inverse_times_rise)[..., 0]
    return step * (longest / step.norm(dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1)


def best_within(
    coeffs: Tensor, rho_km: float, nside: int | None = None, mode: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the location with the most mass within rho_km of it, and that mass: most often right within rho_km.

    See `best_within_each`: -> lat_lon (..., 2), score (...) in [0, 1].
    """
    place, mass = best_within_each(coeffs, (rho_km,), nside, mode)
    return place[..., 0, :], mass[..., 0]


def best_within_each(
    coeffs: Tensor, radii_km: Sequence[float], nside: int | None = None, mode: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return, for each of T radii, the location with the most mass within it, and that mass.

    `coeffs` (..., D) are those of a density, per steradian, such as the mean of samples, or `shdd.mean_parameters`:
    -> lat_lon (..., T, 2), score (..., T) in [0, 1]. Raises ValueError unless all radii are above zero.

    A mode narrower than the radius fits into many caps, and the ripples of a series cut off at l_max, up to a tenth of
    its mass, would choose among them. So radii above two ripples are taken with Lanczos' factors, which average over
    one. Where the cap around the density's mode holds the most mass but for 2 %, the mode is taken; that is so without
    a search where it holds 98 %, and where the radius is below half a pixel of `nside`. `mode` (..., 2) is the exact
    mode of `coeffs`, if it is known.
    """
    if not all(rho_km > 0 for rho_km in radii_km):
        raise ValueError(f"rho_km must be above zero, got {radii_km}")
    l_max = math.isqrt(coeffs.shape[-1]) - 1
    nside, lead, batch = nside or l_max + 1, coeffs.shape[:-1], coeffs.reshape(-1, coeffs.shape[-1])
    if not radii_km:
        return coeffs.new_empty(*lead, 0, 2, dtype=torch.float64), coeffs.new_empty(*lead, 0)
    mode = (exact_mode(coeffs, nside)[0] if mode is None else mode).reshape(-1, 2)
    factors = torch.stack([_cap_factors(l_max, rho_km) * _ripple_factors(l_max, rho_km) for rho_km in radii_km])
    factors = factors.to(batch)[:, _degrees(l_max).to(batch.device)]  # (T, D)
    mass = ((batch * encode(torch.nan_to_num(mode), l_max)) @ factors.T.to(mode)).to(batch).clamp(0, 1)
    place = mode[:, None].repeat(1, len(radii_km), 1)
    seen = torch.tensor(radii_km, device=batch.device) > math.sqrt(math.pi / 3) / nside * EARTH_RADIUS_KM / 2
    for pairs in ((mass <= 0.98) & seen).nonzero().split(batch_size(64 * batch.shape[-1])):
        row, i = pairs.T
        found, most = exact_mode(batch[row] * factors[i], nside)
        better = mass[row, i] <= 0.98 * most.clamp(0, 1)
        place[row[better], i[better]], mass[row[better], i[better]] = found[better].to(place), most[better].clamp(0, 1)
    return place.view(*lead, len(radii_km), 2), mass.view(*lead, len(radii_km))


def cap_mass(coeffs: Tensor, rho_km: float) -> Tensor:
    """Return the coefficients of the mass within rho_km of every location, for those of a density: (..., D).

    They are multiplied by (Funk and Hecke)
    b_0 = 2 pi (1 - cos rho), b_l = 2 pi (P_{l-1}(cos rho) - P_{l+1}(cos rho)) / (2l + 1).
    """
    l_max = math.isqrt(coeffs.shape[-1]) - 1
    return coeffs * _cap_factors(l_max, rho_km)[_degrees(l_max)].to(coeffs)


def _cap_factors(l_max, rho_km):
    """Return the b_l of `cap_mass`, (l_max + 1,), float64."""
    rho, degree = min(rho_km / EARTH_RADIUS_KM, math.pi), np.arange(l_max + 1)
    lower = np.where(degree == 0, 1.0, eval_legendre(degree - 1.0 * (degree > 0), math.cos(rho)))
    b = 2 * np.pi * (lower - eval_legendre(degree + 1.0, math.cos(rho))) / (2 * degree + 1)
    b[0] = 4 * np.pi * math.sin(rho / 2) ** 2
    return torch.from_numpy(b)


def _ripple_factors(l_max, rho_km):
    """Return Lanczos' factors for radii above two ripples of a series, else ones: (l_max + 1,), float64."""
    wide = rho_km > 2 * math.pi * EARTH_RADIUS_KM / (l_max + 1)
    return torch.from_numpy(np.sinc(wide * np.arange(l_max + 1) / (l_max + 1)))


def _degrees(l_max):
    """Return the degree l of each coefficient, (D,)."""
    return torch.arange(l_max + 1).repeat_interleave(2 * torch.arange(l_max + 1) + 1)
