"""What must hold whatever the input: properties of the reference (and, through the twins, of locdiff)."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import at_edges, degrees, opposite, places, random_coeffs, rotation, seeds

from reference import coordinates, decoder, diffusion, shdd

R = coordinates.EARTH_RADIUS_KM
L_MAX = 6
ANCHORS = decoder.healpix_anchors(8)
FEW = decoder.healpix_anchors(4)  # for the decoders, which loop over the anchors
BASIS = shdd.encode(ANCHORS, L_MAX)


def turned(place, seed):
    return coordinates.from_unit_vector(rotation(seed) @ coordinates.to_unit_vector(place))


# harmonics


@given(places, places, degrees)
@at_edges(other=(33.0, -120.0), l_max=5)
@example(place=(20.0, 30.0), other=(20.0, 30.0), l_max=0)
def test_addition_theorem(place, other, l_max):
    gamma = coordinates.great_circle_km(place, other) / R
    product = shdd.encode(place, l_max) @ shdd.encode(other, l_max)
    assert product == pytest.approx(shdd.delta_kernel(gamma, l_max), abs=1e-11)


@given(places, degrees)
@at_edges(l_max=5)
def test_every_encoding_has_the_same_norm(place, l_max):
    assert 4 * np.pi * (shdd.encode(place, l_max) ** 2).sum() == pytest.approx((l_max + 1) ** 2)


@given(places, degrees)
@at_edges(l_max=5)
def test_parity(place, l_max):
    sign = np.concatenate([np.full(2 * l + 1, (-1.0) ** l) for l in range(l_max + 1)])
    assert np.allclose(shdd.encode(opposite(place), l_max), sign * shdd.encode(place, l_max), atol=1e-12)


@pytest.mark.parametrize("l_max", [0, 1, 7, 20])
def test_orthonormality(l_max):
    """Gauss-Legendre nodes in cos(theta) times equal steps in phi integrate products up to degree 2 l_max exactly."""
    x, weights = np.polynomial.legendre.leggauss(l_max + 1)
    phi = np.arange(2 * l_max + 1) * 2 * np.pi / (2 * l_max + 1)
    theta, phi = (grid.ravel() for grid in np.meshgrid(np.arccos(x), phi, indexing="ij"))
    harmonics = shdd.real_spherical_harmonics(theta, phi, l_max)
    weights = np.repeat(weights, 2 * l_max + 1) * 2 * np.pi / (2 * l_max + 1)
    assert np.allclose((harmonics * weights[:, None]).T @ harmonics, np.eye((l_max + 1) ** 2), atol=1e-12)


@given(places, places, seeds)
def test_the_kernel_does_not_change_under_rotation(place, other, seed):
    kernel = shdd.encode(place, L_MAX) @ shdd.encode(other, L_MAX)
    rotated = shdd.encode(turned(place, seed), L_MAX) @ shdd.encode(turned(other, seed), L_MAX)
    assert rotated == pytest.approx(kernel, abs=1e-10)


@given(places)
@at_edges()
def test_the_partition_of_a_delta_does_not_depend_on_the_place(place):
    """At l_max 3, where these pixels resolve exp(F), whose peak is 1.3, also at the poles."""
    basis = shdd.encode(decoder.healpix_anchors(16), 3)
    gamma, step = np.linspace(0, np.pi, 20_001, retstep=True)
    expected = np.log((2 * np.pi * np.exp(shdd.delta_kernel(gamma, 3)) * np.sin(gamma)).sum() * step)
    assert shdd.log_partition(shdd.encode(place, 3), basis) == pytest.approx(expected, abs=5e-4)


def test_empty_batches_stay_empty():
    none = np.empty((0, 2))
    assert shdd.encode(none, 3).shape == (0, 16)
    assert coordinates.great_circle_km(none, none).shape == (0,)
    assert shdd.kl_divergence(np.empty((0, 49)), np.empty((0, 49)), BASIS).shape == (0,)
    assert decoder.mode_seeking(np.empty((0, 49)), ANCHORS[:5], 100.0)[0].shape == (0, 2)


# densities and divergences


@given(seeds)
def test_densities_integrate_to_one(seed):
    density = np.exp(shdd.log_density(random_coeffs(seed, L_MAX), BASIS))
    assert density.mean() * 4 * np.pi == pytest.approx(1)


@given(seeds, places, st.sampled_from([0.3, 1.0, 5.0]))
@at_edges(seed=1, temperature=1.0)
def test_kl_is_positive_and_zero_only_for_equal_densities(seed, place, temperature):
    e, target = random_coeffs(seed, L_MAX), shdd.encode(place, L_MAX)
    assert shdd.kl_divergence(e, target, BASIS, temperature) > 1e-6
    same = target + 5.0 * np.eye(len(target))[0]  # the constant, l = 0, is not part of the density
    assert shdd.kl_divergence(same, target, BASIS, temperature) == pytest.approx(0, abs=1e-12)


@given(seeds, seeds)
def test_kl_is_the_bregman_divergence_of_the_log_partition(seed, other):
    e, x = random_coeffs(seed, L_MAX), random_coeffs(other + 1, L_MAX)
    bregman = shdd.log_partition(x, BASIS) - shdd.log_partition(e, BASIS) - shdd.mean_parameters(e, BASIS) @ (x - e)
    assert shdd.kl_divergence(e, x, BASIS) == pytest.approx(bregman, abs=1e-10)


@given(seeds)
def test_the_best_prediction_for_kl_is_the_posterior_mean(seed):
    """Whatever the posterior over places, no small step from its mean encoding lowers the expected divergence."""
    rng = np.random.default_rng(seed)
    encodings = shdd.encode(ANCHORS[rng.choice(len(ANCHORS), 5, replace=False)], L_MAX)
    weights = rng.dirichlet(np.ones(5))
    mean = weights @ encodings

    def expected(e):
        return weights @ shdd.kl_divergence(np.broadcast_to(e, encodings.shape), encodings, BASIS)

    for step in 0.1 * rng.normal(size=(5, len(mean))):
        assert expected(mean + step) > expected(mean)
    step = 1e-4 * rng.normal(size=len(mean))
    assert abs(expected(mean + step) - expected(mean - step)) < 1e-9


@given(seeds, places)
def test_squared_error_is_kl_at_infinite_temperature(seed, place):
    e, x = random_coeffs(seed, L_MAX), shdd.encode(place, L_MAX)
    limit = 2 * 4 * np.pi * 1e6 * shdd.kl_divergence(e, x, BASIS, temperature=1e3)
    assert limit == pytest.approx(((e - x)[1:] ** 2).sum(), rel=0.02)


@given(seeds, places)
def test_the_likelihood_is_the_density_and_its_gradient_the_moments(seed, place):
    e = random_coeffs(seed, L_MAX)
    pixel = np.random.default_rng(seed).integers(len(ANCHORS))
    target = BASIS[pixel]
    assert shdd.negative_log_likelihood(e, target, BASIS) == pytest.approx(-shdd.log_density(e, BASIS)[pixel])
    step = 1e-5 * random_coeffs(seed + 1, L_MAX)
    rise = shdd.negative_log_likelihood(e + step, target, BASIS) - shdd.negative_log_likelihood(e - step, target, BASIS)
    assert rise == pytest.approx(2 * (shdd.mean_parameters(e, BASIS) - target) @ step, abs=1e-11)


# decoders

SPACING_KM = 1640.0  # the side of a pixel of FEW; no place lies farther from its anchor


@given(places)
@at_edges()
def test_decoding_an_encoding_gives_the_place_up_to_the_anchors(place):
    e = shdd.encode(place, L_MAX)
    for lat_lon, _ in (decoder.mode_seeking(e, FEW, 0.0), decoder.kl_decoder(e, FEW)):
        assert coordinates.great_circle_km(place, lat_lon) < SPACING_KM
    assert coordinates.great_circle_km(place, decoder.mode_seeking(e, FEW, 2000.0)[0]) < 2 * SPACING_KM


@given(seeds)
def test_a_larger_radius_holds_more_mass(seed):
    e = random_coeffs(seed, 3)
    scores = [decoder.mode_seeking(e, ANCHORS[::6], rho)[1] for rho in (0.0, 1000.0, 5000.0, 20_100.0)]
    assert (np.diff(scores) >= -1e-12).all() and scores[-1] == pytest.approx(0, abs=1e-12)


# diffusion


@given(st.floats(0.01, 0.5), st.floats(0.51, 0.999), seeds)
def test_ddim_with_eta_one_has_the_law_of_ddpm(t, s, seed):
    x_t, x_0, noise = np.random.default_rng(seed).normal(size=3)
    quiet = diffusion.ddpm_step(x_t, x_0, t, s, 0.0)
    assert diffusion.ddim_step(x_t, x_0, t, s, 1.0, 0.0) == pytest.approx(quiet, abs=1e-12)
    assert diffusion.ddim_step(x_t, x_0, t, s, 1.0, noise) == pytest.approx(
        diffusion.ddpm_step(x_t, x_0, t, s, noise), abs=1e-12
    )


@given(st.floats(0.01, 0.5), st.floats(0.51, 0.999), st.floats(0, 1), seeds)
def test_a_ddim_step_keeps_the_marginal_for_every_eta(t, s, eta, seed):
    """With x_t = sqrt(t) x_0 + sqrt(1 - t) n and the true x_0, x_s has mean sqrt(s) x_0 and variance 1 - s."""
    x_0 = np.random.default_rng(seed).normal()
    mean = diffusion.ddim_step(diffusion.q_sample(x_0, t, 0.0), x_0, t, s, eta, 0.0)
    from_noise = diffusion.ddim_step(diffusion.q_sample(x_0, t, 1.0), x_0, t, s, eta, 0.0) - mean
    fresh = diffusion.ddim_step(diffusion.q_sample(x_0, t, 0.0), x_0, t, s, eta, 1.0) - mean
    assert mean == pytest.approx(np.sqrt(s) * x_0, abs=1e-10)
    assert from_noise**2 + fresh**2 == pytest.approx(1 - s, abs=1e-10)


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 400), (1.0, 400)])
def test_sampling_with_the_exact_denoiser_of_a_gaussian_gives_the_gaussian(eta, steps):
    """x_0 ~ N(1.5, 0.5^2): E[x_0 | x_t] is linear in x_t, and the reverse process ends in that Gaussian."""
    mu, sigma, rng = 1.5, 0.5, np.random.default_rng(0)
    schedule = diffusion.geometric_schedule(steps, 1e4, 1e-3)
    x = rng.normal(size=20_000)
    for t, s in zip(schedule[::-1], [*schedule[-2::-1], 1.0], strict=True):
        gain = np.sqrt(t) * sigma**2 / (t * sigma**2 + 1 - t)
        x_0 = mu + gain * (x - np.sqrt(t) * mu)
        x = diffusion.ddim_step(x, x_0, t, s, eta, rng.normal(size=x.shape))
    assert x.mean() == pytest.approx(mu, abs=0.015) and x.std() == pytest.approx(sigma, abs=0.015)


def test_dpm_solver_is_of_second_order_where_ddim_is_of_first():
    """x_0 ~ N(mu, sigma^2): the flow without noise keeps (x_t - mean_t) / std_t, so its end is known exactly."""
    mu, sigma, x_first = 1.5, 0.5, 0.8
    errors = {"ddim": [], "dpm++": []}
    for steps in (20, 40, 80):
        levels = diffusion.geometric_schedule(steps, 50.0, 0.02)[-2::-1]  # without the level of pure noise
        mean, std = np.sqrt(levels) * mu, np.sqrt(levels * sigma**2 + 1 - levels)
        exact = mean[-1] + std[-1] / std[0] * (x_first - mean[0])
        for solver, found in errors.items():
            x, before = x_first, ()
            for i, (t, s) in enumerate(pairwise(levels)):
                x_0 = mu + np.sqrt(t) * sigma**2 / std[i] ** 2 * (x - mean[i])
                if solver == "dpm++":
                    x, before = diffusion.dpm_solver_step(x, x_0, t, s, *before), (x_0, t)
                else:
                    x = diffusion.ddim_step(x, x_0, t, s, 0.0, 0.0)
            found.append(abs(x - exact))
    first, second = (np.log2(np.divide(found[:-1], found[1:])) for found in errors.values())
    assert first == pytest.approx(1, abs=0.15) and second == pytest.approx(2, abs=0.25)
    assert errors["dpm++"][0] < errors["ddim"][0] / 4


@given(st.floats(0.0, 0.5), st.floats(0.51, 0.999), seeds)
def test_the_first_step_of_dpm_solver_is_ddim_and_an_unchanged_prediction_changes_nothing(t, s, seed):
    x_t, x_0, other = np.random.default_rng(seed).normal(size=3)
    plain = diffusion.ddim_step(x_t, x_0, t, s, 0.0, 0.0)
    assert diffusion.dpm_solver_step(x_t, x_0, t, s) == plain
    assert diffusion.dpm_solver_step(x_t, x_0, t, s, other, 0.0) == plain  # after pure noise
    if t > 0.02:
        assert diffusion.dpm_solver_step(x_t, x_0, t, s, x_0, 0.01) == pytest.approx(plain, abs=1e-12)


@given(seeds, st.floats(1e-3, 0.5))
def test_the_exact_skip_is_bayes_rule(seed, alpha_bar):
    """Prior q_e over the anchors times the Gaussian likelihood of x_t is q_{e + b} over them."""
    rng = np.random.default_rng(seed)
    e = random_coeffs(seed, L_MAX)
    x_0 = np.sqrt(4 * np.pi) * BASIS
    x_t = diffusion.q_sample(x_0[rng.integers(len(x_0))], alpha_bar, rng.normal(size=BASIS.shape[1]))
    log_joint = shdd.synthesis(e, BASIS) - ((x_t - np.sqrt(alpha_bar) * x_0) ** 2).sum(-1) / (2 * (1 - alpha_bar))
    log_posterior = log_joint - np.logaddexp.reduce(log_joint)
    combined = shdd.log_density(e + diffusion.bayes_skip(x_t, alpha_bar), BASIS) + np.log(4 * np.pi / len(BASIS))
    assert np.allclose(combined, log_posterior, atol=1e-9)
