"""Gaussian diffusion of x = sqrt(4 pi) * coeffs: schedules, the forward process, reverse steps, sampling.

A noise level is `alpha_bar` in [0, 1); see `reference.diffusion` for the equations.
"""

import math
from itertools import pairwise

import torch


def cosine_schedule(steps):
    """alpha_bar of t = 1..steps, (steps,) float64: the cosine schedule of Nichol & Dhariwal (2021), betas <= 0.999."""
    f = torch.cos((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


def shift_schedule(alpha_bar, shift):
    """Divide the signal-to-noise ratio of every level by `shift`: alpha_bar / (alpha_bar + (1 - alpha_bar) shift)."""
    return alpha_bar / (alpha_bar + (1 - alpha_bar) * shift)


def geometric_schedule(steps, snr_first, snr_last):
    """alpha_bar of t = 1..steps, (steps,) float64: the signal-to-noise ratio falls geometrically, then is zero."""
    snr = torch.logspace(math.log10(snr_first), math.log10(snr_last), steps - 1, dtype=torch.float64)
    snr = torch.nn.functional.pad(snr, (0, 1))
    return snr / (1 + snr)


def q_sample(x_0, alpha_bar, noise):
    """x_t ~ q(x_t | x_0): the forward process at one level (Ho et al. 2020, Eq. 4)."""
    return alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise


def ddpm_step(x_t, x_0, alpha_bar_t, alpha_bar_s, noise):
    """x_s ~ q(x_s | x_t, x_0): one DDPM step given the prediction x_0 (Ho et al. 2020, Eqs. 6 and 7)."""
    alpha = alpha_bar_t / alpha_bar_s
    mean = alpha_bar_s**0.5 * (1 - alpha) * x_0 + alpha**0.5 * (1 - alpha_bar_s) * x_t
    variance = (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)
    return mean / (1 - alpha_bar_t) + variance**0.5 * noise


def ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, eta, noise):
    """One DDIM step (Song et al. 2021, Eqs. 12 and 16): eta = 0 adds no noise, eta = 1 has the law of `ddpm_step`."""
    predicted_noise = (x_t - alpha_bar_t**0.5 * x_0) / (1 - alpha_bar_t) ** 0.5
    sigma = eta * ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)) ** 0.5
    direction = max(1 - alpha_bar_s - sigma**2, 0) ** 0.5
    return alpha_bar_s**0.5 * x_0 + direction * predicted_noise + sigma * noise


def dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, x_0_before=None, alpha_bar_before=0.0):
    """One step of DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): the prediction is extrapolated, along half the log of
    the signal-to-noise ratio, from those at this level and at the noisier level before. Without one, or where that was
    pure noise, it is `ddim_step` with eta = 0."""
    if alpha_bar_before > 0:
        half_t, half_s, half_before = (math.log(a / (1 - a)) / 2 for a in (alpha_bar_t, alpha_bar_s, alpha_bar_before))
        x_0 = x_0 + (half_s - half_t) / (half_t - half_before) / 2 * (x_0 - x_0_before)
    return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, 0.0, 0.0)


def bayes_skip(x_t, alpha_bar):
    """What x_t adds to the natural parameters of a density over places: sqrt(4 pi alpha_bar) / (1 - alpha_bar) x_t."""
    return (4 * math.pi * alpha_bar) ** 0.5 / (1 - alpha_bar) * x_t


def sample(denoise, draw, alpha_bar, steps, eta=1.0, finish=None, solver="ddim"):
    """Run the reverse process from pure noise and return finish(x_t, t) at the last level, by default denoise(x_t, t).

    `denoise(x_t, t)` predicts x_0 at t in 1..T and `draw()` gives fresh standard normal noise of the shape of x;
    `alpha_bar` is the schedule, (T,); `steps` <= T levels of it are used, evenly spread from T down to 1. eta = 1 with
    all levels is DDPM; fewer levels or a smaller eta is DDIM. With the solver "dpm++" there is no eta, and no noise but
    the first.
    """
    levels = torch.linspace(len(alpha_bar), 1, steps).round().long().tolist()
    x_t, alphas, before = draw(), [float(alpha_bar[t - 1]) for t in levels], ()
    for t, (alpha_bar_t, alpha_bar_s) in zip(levels, pairwise(alphas), strict=False):
        x_0 = denoise(x_t, t)
        if solver == "dpm++":
            x_t = dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, *before)
            before = x_0, alpha_bar_t
        else:
            x_t = ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, eta, draw())
    return (finish or denoise)(x_t, levels[-1])
