"""Gaussian diffusion of x = sqrt(4 pi) * coeffs: schedules, the forward process, one reverse step.

A noise level is `alpha_bar` in [0, 1): x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, with alpha_bar falling
from nearly one (a clean encoding) to nearly or exactly zero (pure noise). Its signal-to-noise ratio is
alpha_bar / (1 - alpha_bar). A reverse step goes from level t to any less noisy level s, alpha_bar_s > alpha_bar_t.
"""

import numpy as np


def cosine_schedule(steps):
    """alpha_bar of t = 1..steps, (steps,): the cosine schedule of Nichol & Dhariwal (2021), betas at most 0.999."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.cumprod(1 - betas)


def shift_schedule(alpha_bar, shift):
    """Divide the signal-to-noise ratio of every level by `shift`: alpha_bar / (alpha_bar + (1 - alpha_bar) shift)."""
    return alpha_bar / (alpha_bar + (1 - alpha_bar) * shift)


def geometric_schedule(steps, snr_first, snr_last):
    """alpha_bar of t = 1..steps, (steps,): the signal-to-noise ratio falls geometrically, then to pure noise.

    The ratio is snr_first at t = 1, snr_last at t = steps - 1 and zero at t = steps.
    """
    snr = np.append(np.geomspace(snr_first, snr_last, steps - 1), 0.0)
    return snr / (1 + snr)


def q_sample(x_0, alpha_bar, noise):
    """x_t ~ q(x_t | x_0): the forward process at one level (Ho et al. 2020, Eq. 4)."""
    return np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * noise


def ddpm_step(x_t, x_0, alpha_bar_t, alpha_bar_s, noise):
    """x_s ~ q(x_s | x_t, x_0): one DDPM step given the prediction x_0 (Ho et al. 2020, Eqs. 6 and 7)."""
    alpha = alpha_bar_t / alpha_bar_s
    mean = np.sqrt(alpha_bar_s) * (1 - alpha) * x_0 + np.sqrt(alpha) * (1 - alpha_bar_s) * x_t
    variance = (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t)
    return mean / (1 - alpha_bar_t) + np.sqrt(variance) * noise


def ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, eta, noise):
    """One DDIM step (Song et al. 2021, Eqs. 12 and 16): eta = 0 adds no noise, eta = 1 has the law of `ddpm_step`."""
    predicted_noise = (x_t - np.sqrt(alpha_bar_t) * x_0) / np.sqrt(1 - alpha_bar_t)
    sigma = eta * np.sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s))
    direction = np.sqrt(np.maximum(1 - alpha_bar_s - sigma**2, 0))
    return np.sqrt(alpha_bar_s) * x_0 + direction * predicted_noise + sigma * noise


def dpm_solver_step(x_t, x_0, alpha_bar_t, alpha_bar_s, x_0_before=None, alpha_bar_before=0.0):
    """One step of DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): the prediction is extrapolated, along half the log of
    the signal-to-noise ratio, from those at this level and at the noisier level before. Without one, or where that was
    pure noise, it is `ddim_step` with eta = 0."""
    if alpha_bar_before > 0:
        half_t, half_s, half_before = (np.log(a / (1 - a)) / 2 for a in (alpha_bar_t, alpha_bar_s, alpha_bar_before))
        x_0 = x_0 + (half_s - half_t) / (half_t - half_before) / 2 * (x_0 - x_0_before)
    return ddim_step(x_t, x_0, alpha_bar_t, alpha_bar_s, 0.0, 0.0)


def bayes_skip(x_t, alpha_bar):
    """What x_t adds to the natural parameters of a density over places: sqrt(4 pi alpha_bar) / (1 - alpha_bar) x_t.

    All clean encodings have the same norm, so q(x_t | place) is proportional to exp(F_b(place)) for this b.
    Hence if q_e is the density of the place given the picture, q_{e + b} is exactly the density given picture and x_t.
    """
    return np.sqrt(4 * np.pi * alpha_bar) / (1 - alpha_bar) * x_t
