"""The prior of a model, and how much it trusts its network: natural parameters e = tau f(picture) + kappa e_prior.

The prior is the density of the training locations, in the same family q_e. A network f is trained with tau = kappa = 1:
it learns what a picture adds to the prior. Afterwards tau and kappa are fitted to pictures that training has not seen.
For natural parameters the log likelihood is a concave function of these two numbers. Embeddings that carry nothing
lead to tau = 0, the prior; a network that is too sure leads to tau < 1, one that is not sure enough to tau > 1.
"""

import math

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from locdiff.memory import batch_size
from locdiff.sphere import pixels, shdd
from locdiff.sphere.healpix import FAINTEST, HealpixTransform

ROUGHNESS = 0.1  # penalty of the prior, in nats of the whole training data, on the integral of |grad F|^2
ITERATIONS = 40
FACTORS = tuple(10 ** (k / 24) for k in range(-24, 13))  # of natural parameters, among which the two parts are sought
EVERY = 3  # log Z is computed for each third factor and interpolated
EM_STEPS, WORTH = 50, 5.0  # of their share; nats that the broad part must gain over all pictures
NEWTON_STEPS, TOLERANCE = 12, 1e-3  # of (tau, kappa)


def fit_prior(transform: HealpixTransform, sums: Tensor, counts: Tensor) -> Tensor:
    """Return the natural parameters e (C, D) of densities of locations, of which `sums` (C, D) are the sums of the
    encodings and `counts` (C,) the numbers, or sums of weights.

    Each e maximizes sum_i log q_e(y_i) - ROUGHNESS / 2 integral |grad F|^2, where the integral is the sum of
    l (l + 1) e_lm^2. Without locations e is zero.
    """
    degree = torch.arange(transform.l_max + 1, device=sums.device)
    degree = degree.repeat_interleave(2 * degree + 1)
    counts = counts[:, None].clamp(min=1e-6)
    mean, penalty = (sums / counts).float(), (ROUGHNESS * degree * (degree + 1) / counts).float()
    mean[:, 0] = 1 / math.sqrt(4 * math.pi)  # of l = 0, which no density depends on
    scale = (1 / (4 * math.pi) + penalty).rsqrt()  # with e = scale x, the Hessian at the uniform density is one
    x = torch.zeros_like(mean).requires_grad_()

    def loss():
        e = scale * x
        return (transform.log_partition(e) - (mean * e).sum(dim=-1) + (penalty * e.square()).sum(dim=-1) / 2).sum()

    _minimize(loss, x)
    return (scale * x).detach()


def prior_of(lat_lon: Tensor, transform: HealpixTransform) -> Tensor:
    """Return the natural parameters (D,) of the density of locations (n, 2), on the transform's device."""
    chunks = lat_lon.split(batch_size(64 * (transform.l_max + 1) ** 2))
    total = torch.stack([shdd.encode(chunk, transform.l_max).double().sum(dim=0) for chunk in chunks]).sum(dim=0)
    device = transform.k.device
    return fit_prior(transform, total[None].to(device), torch.tensor([float(len(lat_lon))], device=device))[0]


def fit_scale(loss, start: Tensor) -> Tensor:
    """Return the (tau, kappa) (2,), none below zero, at which loss(scale) is least; `start` if it is NaN there."""
    if not math.isfinite(loss(start).item()):
        return start  # the network has diverged
    scale = start.detach().clone().requires_grad_()
    _minimize(lambda: loss(scale.clamp(min=0)), scale)
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


@torch.enable_grad()
def _minimize(loss, x):
    """Minimize loss() over the tensor x in place, by L-BFGS."""
    optimizer = torch.optim.LBFGS([x], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


class Calibration(nn.Module):
    """The natural parameters tau f + kappa e_prior of level 0; `scale` is (tau, kappa)."""

    prior: Tensor
    scale: Tensor

    def __init__(self, dimensions: int):
        super().__init__()
        self.register_buffer("prior", torch.zeros(dimensions))
        self.register_buffer("scale", torch.ones(2))

    def forward(self, output: Tensor) -> Tensor:
        return self.scale[0].to(output) * output + self.scale[1].to(output) * self.prior.to(output)

    def fit(self, natural_params: Tensor, coeffs: Tensor, transform: HealpixTransform, most=math.inf) -> Tensor:
        """Fit `scale`, which is still (1, 1), to the natural parameters (n, D) of pictures that training has not seen,
        and the encodings `coeffs` (n, D) of their locations; return their log densities (n,).

        Integrals are over the pixels of `transform`; tau is at most `most`. By Newton's method.
        """
        scale = self.scale.double().cpu()
        found = self._derivatives(natural_params, coeffs, transform, scale)
        for _ in range(NEWTON_STEPS):
            gradient, hessian, log_prob = found
            if not (gradient.isfinite().all() and hessian.isfinite().all()):
                break  # the network has diverged
            free = (scale > torch.tensor([0.0, 0.0])) | (gradient > 0)
            free &= (scale < torch.tensor([most, math.inf])) | (gradient < 0)
            if not free.any():
                break
            step = torch.zeros(2, dtype=torch.float64)
            step[free] = torch.linalg.lstsq(hessian[free][:, free], gradient[free, None]).solution[:, 0]
            while step.abs().max() > TOLERANCE:
                new = (scale + step).clamp(min=0).minimum(torch.tensor([most, math.inf]))
                found = self._derivatives(natural_params, coeffs, transform, new)
                if found[2].mean() >= log_prob.mean():
                    break
                step = step / 4
            else:
                found = gradient, hessian, log_prob
                break
            scale = new
        self.scale = scale.to(self.scale)
        return found[2]

    @torch.no_grad()
    def _derivatives(self, natural_params, coeffs, transform, scale):
        """Gradient (2,) and negative Hessian (2, 2) of the mean log density in (tau, kappa), and the log densities."""
        device, (tau, kappa) = self.prior.device, scale.tolist()
        of_prior, gradient, hessian, log_probs = transform.synthesis(self.prior), [], [], []
        size = batch_size(16 * len(of_prior))
        for e, y in zip(natural_params.split(size), coeffs.split(size), strict=True):
            f, y = e.to(device) - self.prior, y.to(device)
            values = transform.synthesis(f)
            logits = tau * values + kappa * of_prior
            log_z = pixels.logsumexp(logits)
            probs = (logits - log_z[:, None]).clamp_(min=-FAINTEST).exp_()
            mean = torch.stack([(probs * values).sum(dim=-1), probs @ of_prior], dim=-1).double()
            second = torch.stack([
                (probs * values.square()).sum(dim=-1), (probs * values) @ of_prior, probs @ of_prior.square()
            ], dim=-1).double()  # fmt: skip
            at = torch.stack([(f * y).sum(dim=-1), (self.prior * y).sum(dim=-1)], dim=-1).double()
            gradient.append(at - mean)
            hessian.append(second[:, [0, 1, 1, 2]].view(-1, 2, 2) - mean[:, :, None] * mean[:, None])
            log_area = math.log(4 * math.pi / len(of_prior))
            log_probs.append(at @ scale.to(device) - log_z.double() - log_area)
        mean_of = (torch.cat(parts).mean(dim=0).cpu() for parts in (gradient, hessian))
        return *mean_of, torch.cat(log_probs).cpu()
