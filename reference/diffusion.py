"""Gaussian diffusion of x = sqrt(4 pi) * coeffs: schedules, the forward process, reverse steps, samplers, sampling.

A noise level is `alpha_bar` in [0, 1): x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, with alpha_bar falling
from nearly one (a clean encoding) to nearly or exactly zero (pure noise). Its signal-to-noise ratio is
alpha_bar / (1 - alpha_bar). A reverse step goes from level t to any less noisy level s, alpha_bar_s > alpha_bar_t.

Paper: the encoding itself, a schedule that is not given, DDPM with 100 steps (sections 4.6, A.5). Here: the encoding is
scaled by sqrt(4 pi) to the size of the noise, the schedules are those below, and DDPM is one sampler of several.
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np


def cosine_schedule(steps):
    """Return alpha_bar of t = 1..steps, (steps,): Nichol & Dhariwal (2021), Eq. 17, with betas of at most 0.999."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.cumprod(1 - betas)


def shift_schedule(alpha_bar, shift):
    """Divide the signal-to-noise ratio of every level by `shift`: alpha_bar / (alpha_bar + (1 - alpha_bar) shift)."""
    return alpha_bar / (alpha_bar + (1 - alpha_bar) * shift)


def geometric_schedule(steps, snr_first, snr_last):
    """Return alpha_bar of t = 1..steps, (steps,): the signal-to-noise ratio falls geometrically, then to pure noise.

    The ratio is snr_first at t = 1, snr_last at t = steps - 1 and zero at t = steps.
    """
    snr = np.append(np.geomspace(snr_first, snr_last, steps - 1), 0.0)
    return snr / (1 + snr)


def q_sample(x_0, alpha_bar, noise):
    """Return x_t ~ q(x_t | x_0): the forward process at one level (Ho et al. 2020, Eq. 4)."""
    return np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * noise


def ddpm_step(x_t, x_0, alpha_bar_t, alpha_bar_s, noise):
    """Return x_s ~ q(x_s | x_t, x_0): one DDPM step given the prediction x_0 (Ho et al. 2020, Eqs. 6 and 7)."""
    alpha = alpha_bar_t / alpha_bar_s
    mean = np.sqrt(alpha_bar_s) * (1 - alpha) * x_0 + np.sqrt(alpha) * (1 - alpha_bar_s) * x_t
    variance = (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)
    return mean / (1 - alpha_bar_t) + np.sqrt(variance) * noise


def ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, eta, noise):
    """Return x_s of a DDIM step (Song et al. 2021, Eqs. 12, 16); eta = 0 adds no noise, eta = 1 is `ddpm_step`."""
    predicted_noise = (x_t - np.sqrt(alpha_bar_t) * x_0) / np.sqrt(1 - alpha_bar_t)
    sigma = eta * np.sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s))
    direction = np.sqrt(np.maximum(1 - alpha_bar_s - sigma**2, 0))
    return np.sqrt(alpha_bar_s) * x_0 + direction * predicted_noise + sigma * noise


def dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, x_0_before=None, alpha_bar_before=0.0):
    """Return x_s of one step of DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2).

    The prediction is extrapolated, along half the log of the signal-to-noise ratio, from those at this level and at the
    noisier level before. Without one, or where that was pure noise, the step is `ddim_step` with eta = 0.
    """
    if alpha_bar_before > 0:
        half_t, half_s, half_before = (np.log(a / (1 - a)) / 2 for a in (alpha_bar_t, alpha_bar_s, alpha_bar_before))
        x_0 = x_0 + (half_s - half_t) / (half_t - half_before) / 2 * (x_0 - x_0_before)
    return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, 0.0, 0.0)


def bayes_skip(x_t, alpha_bar):
    """Return what x_t adds to natural parameters of a density over places: sqrt(4 pi alpha_bar) / (1 - alpha_bar) x_t.

    Not in the paper. All clean encodings have the same norm, so q(x_t | place) is proportional to exp(F_b(place)) for
    this b. Hence if q_e is the density of the place given the picture, q_{e + b} is that given the picture and x_t.
    """
    return np.sqrt(4 * np.pi * alpha_bar) / (1 - alpha_bar) * x_t


class DDIM:
    """Take DDIM steps; with eta = 1 and all levels of the schedule this is DDPM, the paper's sampler."""

    def __init__(self, eta=1.0):
        self.eta = eta

    def step(self, x_t, x_0, alpha_bar_t, alpha_bar_s, sample_noise):
        """Return x_s, given x_t, the prediction x_0 and `sample_noise`, which returns fresh standard normal noise."""
        return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, self.eta, sample_noise())


class DPMSolver:
    """Take steps of DPM-Solver++(2M), which add no noise; the previous prediction is kept from step to step."""

    def __init__(self):
        self.before = None, 0.0

    def step(self, x_t, x_0, alpha_bar_t, alpha_bar_s, sample_noise):
        """Return x_s, given x_t and the prediction x_0; `sample_noise` is not used."""
        before = self.before if self.before[1] < alpha_bar_t else (None, 0.0)  # unless another run has begun
        self.before = x_0, alpha_bar_t
        return dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, *before)


SAMPLERS = {"ddim": DDIM, "dpm++": DPMSolver}


def sample(denoise, sample_noise, alpha_bar, steps, sampler, finish=None):
    """Run the reverse process from pure noise; return finish(x_t, t) at the last level, by default denoise(x_t, t).

    `denoise(x_t, t)` predicts x_0 at t in 1..T, and `sample_noise()` returns normal noise of the shape of x.
    `alpha_bar` is the schedule, (T,). The run visits `steps` of its levels, from T down to 1: T - i (T-1) / (steps-1),
    rounded, i = 0..steps-1. Raise ValueError if `steps` is not in 1..T.
    """
    if not 1 <= steps <= len(alpha_bar):
        raise ValueError(f"steps must lie in 1..{len(alpha_bar)}, got {steps}")
    spacing = Fraction(len(alpha_bar) - 1, max(steps - 1, 1))
    levels = [round(len(alpha_bar) - i * spacing) for i in range(steps)]
    x_t = sample_noise()
    for t, s in pairwise(levels):
        x_t = sampler.step(x_t, denoise(x_t, t), alpha_bar[t - 1], alpha_bar[s - 1], sample_noise)
    return (finish or denoise)(x_t, levels[-1])
