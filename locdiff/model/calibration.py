"""How much a model trusts its network: natural parameters e = tau f(picture) + kappa e_prior.

The prior is the density of the training locations, in the same family q_e. A network f is trained with tau = kappa = 1:
it learns what a picture adds to the prior. Afterwards tau is fitted to pictures that training has not seen; for natural
parameters the log likelihood is a concave function of it. Embeddings that carry nothing lead to tau = 0, the prior; a
network that is too sure leads to tau < 1, one that is not sure enough to tau > 1. `fit_broad` may then multiply both.
"""

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from locdiff.memory import batch_size
from locdiff.model.location_prior import minimize
from locdiff.sphere import pixels, shdd
from locdiff.sphere.healpix import FAINTEST, HealpixTransform, healpix_transform, log_pixel_means
from locdiff.sphere.ring_synthesis import synthesis_of_pixels

FACTORS = tuple(10 ** (k / 24) for k in range(-24, 13))  # of natural parameters, among which the two parts are sought
EVERY = 3  # log Z is computed for each third factor and interpolated
EM_STEPS, WORTH = 50, 5.0  # of their share; nats that the broad part must gain over all pictures
NEWTON_STEPS, TOLERANCE = 12, 1e-3  # of tau
MOST = 100.0  # of tau, which has no best value where all locations lie between the centers of pixels, as a pole does


def fit_scale(loss, start: Tensor) -> Tensor:
    """Return the (tau, kappa) (2,), none below zero, at which loss(scale) is least; `start` if it is NaN there."""
    if not math.isfinite(loss(start).item()):
        return start  # the network has diverged
    scale = start.detach().clone().requires_grad_()
    minimize(lambda: loss(scale.clamp(min=0)), scale)
    return scale.detach().clamp(min=0)


@torch.no_grad()
def fit_broad(natural_params: Tensor, coeffs: Tensor, transform: HealpixTransform) -> tuple[float, float, float]:
    """Return (sharp, share, factor) of the largest likelihood of (1 - share) q_{sharp e} + share q_{factor sharp e}.

    e are natural parameters (n, D) of pictures that training has not seen, `coeffs` (n, D) the encodings of their
    locations. Both factors are of FACTORS; the share is found for each pair of them by expectation maximization. Where
    no pair gains WORTH nats in all, (1, 0, 1).
    """
    log_probs = _log_probs(natural_params, coeffs, transform)
    sharp, broad = torch.triu_indices(len(FACTORS), len(FACTORS), 1).flip(0)
    ratio = (log_probs[broad] - log_probs[sharp]).clamp(max=50).exp()  # (pairs, n)
    share = torch.full((len(sharp), 1), 0.1, dtype=ratio.dtype)
    for _ in range(EM_STEPS):
        share = (share * ratio / (1 + share * (ratio - 1))).mean(dim=1, keepdim=True)
    gain = log_probs[sharp] + (share * (ratio - 1)).log1p() - log_probs[FACTORS.index(1.0)]
    best = int(gain.mean(dim=1).nan_to_num(-math.inf).argmax())
    if not gain[best].sum() > WORTH:
        return 1.0, 0.0, 1.0
    first, second = FACTORS[sharp[best]], FACTORS[broad[best]]
    return first, min(share[best].item(), 1 - 1e-6), second / first


def _log_probs(natural_params, coeffs, transform):
    """The log densities, but for a constant, at the true locations with each of FACTORS, (factors, n), float64."""
    device, some, log_z = transform.k.device, FACTORS[::EVERY], []
    for e in natural_params.split(8):  # whose pixels stay in the processor's cache
        values = transform.synthesis(e.to(device))
        top = values.amax(dim=-1, keepdim=True)
        values -= top
        sums = torch.stack([(factor * values).clamp_(min=-FAINTEST).exp_().sum(dim=-1) for factor in some], dim=1)
        log_z.append((sums.log() + top * torch.tensor(some).to(top)).double().cpu())
    log_z = torch.cat(log_z) if log_z else torch.empty(0, len(some), dtype=torch.float64)
    nodes, factors = np.log(some), torch.tensor(FACTORS, dtype=torch.float64)
    if not log_z.isfinite().all():
        return torch.full((len(FACTORS), len(coeffs)), torch.nan, dtype=torch.float64)
    smooth = torch.from_numpy(CubicSpline(nodes, log_z.numpy(), axis=1)(np.log(FACTORS)))
    return (factors * (natural_params * coeffs).sum(dim=-1, keepdim=True).double() - smooth).T


class Calibration(nn.Module):
    """The natural parameters tau f + kappa e_prior of level 0; `scale` is (tau, kappa).

    The prior has degrees up to `prior_l_max`, the network's output f up to `l_max`. What the prior says in the degrees
    above is a function H, the same for all pictures: `detail` (N,) is the log of the mean of exp(H) over each pixel of
    `nside`.
    """

    prior: Tensor
    detail: Tensor
    scale: Tensor

    def __init__(self, l_max: int, prior_l_max: int, nside: int):
        super().__init__()
        self.dimensions, self.nside = (l_max + 1) ** 2, nside
        self.register_buffer("prior", torch.zeros((prior_l_max + 1) ** 2))
        self.register_buffer("detail", torch.zeros(12 * nside**2))
        self.register_buffer("scale", torch.ones(2))
        self._tables: tuple[Tensor, dict] = torch.empty(0), {}

    def set_prior(self, natural_params: Tensor) -> None:
        """Set the prior's natural parameters, (D',)."""
        self.prior.copy_(natural_params)
        self.detail.copy_(log_pixel_means(self._above, self.nside))

    @property
    def _above(self) -> Tensor:
        """The prior's natural parameters without those of the degrees up to l_max, (D',)."""
        return nn.functional.pad(self.prior[self.dimensions :], (self.dimensions, 0))

    @property
    def added(self) -> Tensor | None:
        """What is added to F, (N,), in integrals over the pixels of `nside`."""
        return self.scale[1] * self.detail if len(self.prior) > self.dimensions else None

    def forward(self, output: Tensor) -> Tensor:
        """Return the natural parameters up to degree l_max, (..., D), of outputs f (..., D)."""
        prior = self.prior[: self.dimensions].to(output)
        return self.scale[0].to(output) * output + self.scale[1].to(output) * prior

    def complete(self, natural_params: Tensor) -> Tensor:
        """Return natural parameters of all degrees, (..., D) -> (..., D')."""
        above = (self.scale[1] * self.prior[self.dimensions :]).to(natural_params)
        return torch.cat([natural_params, above.expand(*natural_params.shape[:-1], -1)], dim=-1)

    def synthesis_of_pixels(self, coeffs: Tensor, picture: np.ndarray, nside: int, pixel: np.ndarray) -> np.ndarray:
        """Return what `ring_synthesis.synthesis_of_pixels` does, of natural parameters (n, D') on the CPU whose degrees
        above l_max are a multiple of the prior's: H is looked up."""
        values = synthesis_of_pixels(coeffs[:, : self.dimensions].contiguous(), picture, nside, pixel)
        prior = self._above.cpu()
        if not prior.any():
            return values
        multiple = (coeffs @ prior / (prior @ prior)).numpy()
        return values + multiple[picture] * self._table(nside, _at_centers).numpy()[pixel]

    def excess(self, nside: int) -> Tensor:
        """Return how far the log of the mean of exp(kappa H) over each pixel of `nside` is above kappa H at its center,
        (N,), CPU: in a pixel on a coast that is as much as one."""
        return self.scale[1].cpu() * self._table(nside, _excess)

    def _table(self, nside, make):
        """The table make(coefficients of H, nside), computed once."""
        above = self._above.cpu()
        if not torch.equal(self._tables[0], above):
            self._tables = above, {}
        if (make, nside) not in self._tables[1]:
            self._tables[1][make, nside] = make(above, nside)
        return self._tables[1][make, nside]

    def fit(self, natural_params: Tensor, lat_lon: Tensor, nside: int, most: float = MOST) -> Tensor:
        """Fit tau, which is still one as kappa is, to the natural parameters (n, D') of pictures that training has not
        seen, at locations (n, 2); return their log densities (n,).

        Integrals are over the pixels of `nside`; tau is at least zero and at most `most`. By Newton's method.
        """
        derivatives = self._derivatives(natural_params, lat_lon, nside)
        tau, found = 1.0, derivatives(1.0)
        for _ in range(NEWTON_STEPS):
            slope, curvature, log_prob = found
            if not (math.isfinite(slope) and math.isfinite(curvature)):
                break  # the network has diverged
            step = slope / max(curvature, 1e-12)
            while abs(step) > TOLERANCE:
                new = min(max(tau + step, 0.0), most)
                found = derivatives(new)
                if found[2].mean() >= log_prob.mean():
                    break
                step = step / 4
            else:
                found = slope, curvature, log_prob
                break
            if new == tau:
                break
            tau = new
        self.scale[0] = tau
        return found[2]

    @torch.no_grad()
    def _derivatives(self, natural_params, lat_lon, nside):
        """Return the function of tau that gives the mean log density's slope and negative second derivative, and the
        log densities (n,)."""
        l_max, device = math.isqrt(self.dimensions) - 1, self.prior.device
        transform, prior = healpix_transform(l_max, nside, device=device), self.prior[: self.dimensions]
        detail = self.detail if nside == self.nside else log_pixel_means(self._above, nside)
        of_prior, f = transform.synthesis(prior) + detail, natural_params[:, : self.dimensions].to(device) - prior
        size = batch_size(16 * max(len(of_prior), len(self.prior)))
        at: list[tuple[Tensor, Tensor]] = []  # f and the prior at the locations
        for own, places in zip(f.split(size), lat_lon.to(device).split(size), strict=True):
            y = shdd.encode(places, math.isqrt(len(self.prior)) - 1).to(f)
            at.append(((own * y[:, : self.dimensions]).sum(dim=-1).double(), (y @ self.prior).double()))

        @torch.no_grad()
        def derivatives(tau):
            pairs = zip(f.split(size), at, strict=True)
            found = [
                _derivatives_of(transform.synthesis(own), of_prior, at_f, at_prior, tau)
                for own, (at_f, at_prior) in pairs
            ]
            slopes, curvatures, log_probs = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
            return slopes.mean().item(), curvatures.mean().item(), log_probs

        return derivatives


def _at_centers(coeffs, nside):
    return HealpixTransform(math.isqrt(len(coeffs)) - 1, nside).synthesis(coeffs)


def _excess(coeffs, nside):
    return log_pixel_means(coeffs, nside) - _at_centers(coeffs, nside)


def _derivatives_of(values, of_prior, at, prior_at, tau):
    """The slopes in tau and negative second derivatives of the log densities of exp(tau F + G) at true locations, and
    these, (n,) each: for F (n, N) and G (N,) at pixels, and F and G (n,) at the locations."""
    logits = tau * values + of_prior
    log_z = pixels.logsumexp(logits)
    probs = (logits - log_z[:, None]).clamp_(min=-FAINTEST).exp_()
    mean, square = (probs * values).sum(dim=-1).double(), (probs * values.square()).sum(dim=-1).double()
    log_prob = tau * at + prior_at - log_z.double() - math.log(4 * math.pi / len(of_prior))
    return at - mean, square - mean.square(), log_prob
