"""Gaussian diffusion of x = sqrt(4 pi) * coeffs: schedules, the forward process, samplers.

A noise level is `alpha_bar` in [0, 1); see `reference.diffusion` for the equations.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import torch


def cosine_schedule(steps):
    """Return alpha_bar of t = 1..steps, (steps,): the cosine schedule of Nichol & Dhariwal (2021), betas <= 0.999."""
    f = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


def shift_schedule(alpha_bar, shift):
    """Divide the signal-to-noise ratio at every t by `shift`: alpha_bar / (alpha_bar + (1 - alpha_bar) shift)."""
    return alpha_bar / (alpha_bar + (1 - alpha_bar) * shift)


def make_schedule(config, dimensions: int) -> torch.Tensor:
    """Return alpha_bar (T,) of the schedule that a DiffusionConfig names, for encodings of so many dimensions."""
    if config.schedule == "cosine":
        alpha_bar = cosine_schedule(config.noise_levels)
    else:
        signal = config.snr_first / dimensions, config.snr_last / dimensions
        alpha_bar = geometric_schedule(config.noise_levels, *signal)
    return shift_schedule(alpha_bar, config.snr_shift)


def geometric_schedule(steps, snr_first, snr_last):
    """Return alpha_bar of t = 1..steps, (steps,): the signal-to-noise ratio falls geometrically, then is zero."""
    snr = torch.logspace(math.log10(snr_first), math.log10(snr_last), steps - 1, dtype=torch.float64)
    snr = torch.nn.functional.pad(snr, (0, 1))
    return snr / (1 + snr)


def q_sample(x_0, alpha_bar, noise):
    """Return x_t ~ q(x_t | x_0): the forward process at one level (Ho et al. 2020, Eq. 4)."""
    return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise


def ddpm_step(x_t, x_0, alpha_bar_t, alpha_bar_s, noise):
    """Return x_s ~ q(x_s | x_t, x_0): one DDPM step given the prediction x_0 (Ho et al. 2020, Eqs. 6 and 7)."""
    alpha = alpha_bar_t / alpha_bar_s
    mean = alpha_bar_s**0.5 * (1 - alpha) * x_0 + alpha**0.5 * (1 - alpha_bar_s) * x_t
    variance = (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)
    return mean / (1 - alpha_bar_t) + variance**0.5 * noise


def ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, eta, noise):
    """Return x_s of a DDIM step (Song et al. 2021, Eqs. 12 and 16); with eta = 1 it has the law of `ddpm_step`."""
    predicted_noise = (x_t - alpha_bar_t**0.5 * x_0) / (1 - alpha_bar_t) ** 0.5
    sigma = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)) ** 0.5
    direction = max(1 - alpha_bar_s - sigma**2, 0) ** 0.5
    return alpha_bar_s**0.5 * x_0 + direction * predicted_noise + sigma * noise


def dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, x_0_before=None, alpha_bar_before=0.0):
    """Return x_s of one step of DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2).

    The prediction is extrapolated, along half the log of the signal-to-noise ratio, from those at this level and at the
    noisier level before. Without one, or where that was pure noise, the step is `ddim_step` with eta = 0.
    """
    if alpha_bar_before > 0:
        half_t, half_s, half_before = (math.log(a / (1 - a)) / 2 for a in (alpha_bar_t, alpha_bar_s, alpha_bar_before))
        x_0 = x_0 + (half_s - half_t) / (half_t - half_before) / 2 * (x_0 - x_0_before)
    return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, 0.0, 0.0)


def bayes_skip(x_t, alpha_bar):
    """Return what x_t adds to natural parameters: sqrt(4 pi alpha_bar) / (1 - alpha_bar) x_t."""
    return (4 * math.pi * alpha_bar) ** 0.5 / (1 - alpha_bar) * x_t


class DDIM:
    """Steps of `ddim_step`: with eta = 1 and all noise levels that is DDPM."""

    def __init__(self, eta: float = 1.0):
        self.eta = eta

    def step(self, x_t, x_0, alpha_bar_t: float, alpha_bar_s: float, sample_noise):
        """Return x_s, given x_t, the prediction x_0 and fresh noise by `sample_noise()`."""
        return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, self.eta, sample_noise())


class DPMSolver:
    """Steps of `dpm_solver_step`, which add no noise; the previous prediction is kept from step to step."""

    def __init__(self):
        self.before = None, 0.0

    def step(self, x_t, x_0, alpha_bar_t: float, alpha_bar_s: float, sample_noise):
        """Return x_s, given x_t and the prediction x_0; `sample_noise` is not used."""
        before = self.before if self.before[1] < alpha_bar_t else (None, 0.0)  # unless another run has begun
        self.before = x_0, alpha_bar_t
        return dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, *before)


# name: make() -> an object with `step`
SAMPLERS: dict[str, Callable] = {"ddim": DDIM, "dpm++": DPMSolver}
SCHEDULES = ("geometric", "cosine")


def sample(denoise, sample_noise, alpha_bar, steps: int, sampler, finish=None):
    """Run the reverse process from pure noise; return finish(x_t, t) at the last step, by default denoise(x_t, t).

    `denoise(x_t, t)` predicts x_0 at t in 1..T, and `sample_noise()` gives standard normal noise of the shape of x.
    `alpha_bar` (T,) is the schedule. The run visits `steps` of its noise levels, from T down to 1:
    T - i (T-1) / (steps-1), rounded. `sampler` is an object with a method `step`, as DDIM and DPMSolver are. Raises
    ValueError if `steps` is not in 1..T.
    """
    if not 1 <= steps <= len(alpha_bar):
        raise ValueError(f"steps must lie in 1..{len(alpha_bar)}, got {steps}")
    spacing = Fraction(len(alpha_bar) - 1, max(steps - 1, 1))
    times = [round(len(alpha_bar) - i * spacing) for i in range(steps)]
    x_t, alphas = sample_noise(), [float(alpha_bar[t - 1]) for t in times]
    for t, (alpha_bar_t, alpha_bar_s) in zip(times, pairwise(alphas), strict=False):
        x_t = sampler.step(x_t, denoise(x_t, t), alpha_bar_t, alpha_bar_s, sample_noise)
    return (finish or denoise)(x_t, times[-1])
