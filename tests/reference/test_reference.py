"""The NumPy reference against scipy, healpy and values worked out by hand."""

import healpy
import numpy as np
import pytest
from hypothesis import given
from scipy.special import sph_harm_y
from support.strategies import at_edges, places, random_coeffs

from reference import coordinates, decoder, diffusion, shdd, spherical_harmonics

R = coordinates.EARTH_RADIUS_KM


def random_points(count, seed=0):
    generator = np.random.default_rng(seed)
    return np.arccos(generator.uniform(-1, 1, count)), generator.uniform(0, 2 * np.pi, count)


# coordinates


def test_known_directions():
    assert np.allclose(coordinates.to_unit_vector([[0, 0], [0, 90], [90, 5]]), np.eye(3), atol=1e-15)
    theta, phi = coordinates.to_theta_phi([48.9, 2.4])
    assert (round(theta, 3), round(phi, 3)) == (0.717, 0.042)
    assert coordinates.to_theta_phi([0, -90])[1] == pytest.approx(1.5 * np.pi)


@given(places)
@at_edges()
def test_coordinates_round_trip_and_agree_with_healpy(place):
    theta, phi = coordinates.to_theta_phi(place)
    assert 0 <= theta <= np.pi and 0 <= phi < 2 * np.pi
    vector = coordinates.to_unit_vector(place)
    assert np.allclose(vector, healpy.ang2vec(place[1], place[0], lonlat=True), atol=1e-15)
    for again in (coordinates.to_lat_lon(theta, phi), coordinates.from_unit_vector(3 * vector)):
        assert coordinates.great_circle_km(place, again) < 1e-6 and -180 <= again[1] < 180


@pytest.mark.parametrize("step_km", [1e-6, 1e-3, 1.0, 1000.0, 20_000.0])
def test_distances_along_a_meridian_and_the_equator_are_exact(step_km):
    degrees = np.degrees(step_km / R)
    for start in ([0.0, 0.0], [0.0, 179.999]):
        assert coordinates.great_circle_km(start, [0.0, (start[1] + degrees + 180) % 360 - 180]) == pytest.approx(
            step_km, rel=1e-7, abs=1e-8
        )
    assert coordinates.great_circle_km([-80.0, 30.0], [-80.0 + min(degrees, 170), 30.0]) == pytest.approx(
        min(step_km, np.radians(170) * R), rel=1e-7, abs=1e-8
    )


@given(places, places)
def test_distance_is_the_angle_between_the_vectors(place, other):
    a, b = coordinates.to_unit_vector(place), coordinates.to_unit_vector(other)
    angle = np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)
    assert coordinates.great_circle_km(place, other) == pytest.approx(R * angle, abs=1e-6)
    assert coordinates.great_circle_km(other, place) == pytest.approx(R * angle, abs=1e-6)


@given(places)
@at_edges()
def test_coincident_places_are_at_zero_and_antipodal_ones_half_way_round(place):
    assert coordinates.great_circle_km(place, place) == 0
    antipode = (-place[0], (place[1] + 360) % 360 - 180)
    assert coordinates.great_circle_km(place, antipode) == pytest.approx(np.pi * R, abs=1e-4)


def test_known_distances():
    assert coordinates.great_circle_km([0, 0], [90, 0]) == pytest.approx(np.pi / 2 * R)
    assert coordinates.great_circle_km([48.8566, 2.3522], [40.7128, -74.0060]) == pytest.approx(
        5837, abs=1
    )  # Paris, New York


def test_geographic_centres_by_hand():
    assert np.allclose(coordinates.geographic_center([[10, 179], [10, -179]])[1], -180)
    assert np.allclose(coordinates.geographic_center([[0, 0], [0, 90]]), [0, 45])
    assert coordinates.geographic_center([[80, 0], [80, 120], [80, -120]])[0] == pytest.approx(90)
    assert np.isnan(coordinates.geographic_center([[0, 0], [0, 180]])).all()
    assert coordinates.geographic_center(np.zeros((3, 5, 2))).shape == (3, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([95.0, 0.0], "swapped"), ([0.0, 361.0], "longitude"), ([np.nan, 0.0], "finite"),
        ([1.0, 2.0, 3.0], "last axis"), (1.0, "last axis"),
    ],
)  # fmt: skip
def test_no_places_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        coordinates.to_theta_phi(wrong)


# spherical harmonics


def test_harmonics_are_scipys_up_to_degree_63():
    theta, phi = random_points(40)
    theta[:3], phi[:3] = [0, np.pi, np.pi / 2], [0, 1, 0]
    ours = spherical_harmonics.real_spherical_harmonics(theta, phi, 63)
    for l in range(64):
        for m in range(l + 1):
            z = sph_harm_y(l, m, theta, phi) * ((-1) ** m * np.sqrt(2) if m else 1)
            assert np.allclose(ours[:, l * l + l + m], z.real, atol=64e-14)
            if m:
                assert np.allclose(ours[:, l * l + l - m], z.imag, atol=64e-14)


def test_the_first_harmonics_are_the_textbooks():
    theta, phi = random_points(9)
    x, y, z = np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)
    one, three, five = np.sqrt(np.array([1, 3, 5]) / (4 * np.pi))
    expected = [one + 0 * x, three * y, three * z, three * x, five * np.sqrt(3) * x * y]
    assert np.allclose(spherical_harmonics.real_spherical_harmonics(theta, phi, 2)[:, :5].T, expected, atol=1e-15)


def test_the_explicit_sum_is_right_at_low_degrees_and_breaks_where_the_paper_stops():
    theta, phi = random_points(1000)
    truth = spherical_harmonics.real_spherical_harmonics(theta, phi, 50)
    wide = spherical_harmonics.explicit_spherical_harmonics(theta, phi, 50)
    narrow = spherical_harmonics.explicit_spherical_harmonics(theta.astype(np.float32), phi.astype(np.float32), 28)
    assert narrow.dtype == np.float32
    assert np.abs(wide - truth)[:, : 21**2].max() < 1e-6
    assert np.abs(wide)[:, 50**2 :].max() > 20 > 10 * np.abs(truth).max() / 1.5
    assert np.abs(narrow)[:, 28**2 :].max() > 10


# SHDD


def test_synthesis_on_pixels_is_healpys():
    """healpy's complex coefficients are ours after a_lm = (c_lm - i c_l-m) / sqrt 2, with its phase (-1)^m."""
    l_max, nside = 6, 8
    coeffs = random_coeffs(0, l_max)
    alm = np.zeros(healpy.Alm.getsize(l_max), dtype=complex)
    for l in range(l_max + 1):
        alm[healpy.Alm.getidx(l_max, l, 0)] = coeffs[l * l + l]
        for m in range(1, l + 1):
            c = coeffs[l * l + l + m] - 1j * coeffs[l * l + l - m]
            alm[healpy.Alm.getidx(l_max, l, m)] = (-1) ** m * c / np.sqrt(2)
    ours = shdd.synthesis(coeffs, shdd.encode(decoder.healpix_anchors(nside), l_max))
    assert np.allclose(ours, healpy.alm2map(alm, nside), atol=1e-12)


def test_the_kernel_is_the_direct_sum_and_peaks_as_derived():
    for l_max in (0, 1, 15, 47):
        anchor, others = np.array([[20.0, 30.0]]), np.array([[20.0, 30.0], [-20.0, -150.0], [21.0, 33.0]])
        gamma = coordinates.great_circle_km(anchor, others) / R
        direct = shdd.synthesis(shdd.encode(anchor, l_max), shdd.encode(others, l_max))[0]
        assert np.allclose(shdd.delta_kernel(gamma, l_max), direct, atol=1e-10)
        assert shdd.delta_kernel(0.0, l_max) == pytest.approx((l_max + 1) ** 2 / (4 * np.pi))
    assert [round(shdd.delta_kernel(0.0, l)) for l in (15, 23, 31, 47)] == [20, 46, 81, 183]


def test_the_uniform_density_by_hand():
    basis = shdd.encode(decoder.healpix_anchors(16), 3)
    zero, place = np.zeros(16), shdd.encode([10.0, 20.0], 3)
    assert shdd.log_partition(zero, basis) == pytest.approx(np.log(4 * np.pi))
    assert np.allclose(shdd.log_density(zero, basis), -np.log(4 * np.pi))
    assert shdd.negative_log_likelihood(zero, place, basis) == pytest.approx(2.531, abs=5e-4)
    assert np.allclose(shdd.mean_parameters(zero, basis), [1 / np.sqrt(4 * np.pi), *[0] * 15], atol=1e-3)
    assert shdd.kl_divergence(place, place, basis) == 0


def test_kl_of_two_anchors_by_hand():
    """Two anchors at which F differs by 1 and by -1: Bernoulli densities with odds e and 1/e."""
    basis, e, target = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([7.0, 1.0]), np.array([0.0, -1.0])
    p = 1 / (1 + np.exp(-1))
    assert shdd.kl_divergence(e, target, basis) == pytest.approx((2 * p - 1) * 1.0)
    half = 1 / (1 + np.exp(-0.5))
    assert shdd.kl_divergence(e, target, basis, temperature=2.0) == pytest.approx((2 * half - 1) * 0.5)


# decoders


def test_anchors_are_healpys_pixel_centres_in_ring_order():
    anchors = decoder.healpix_anchors(8)
    assert (
        anchors.shape == (768, 2)
        and (healpy.ang2pix(8, anchors[:, 1], anchors[:, 0], lonlat=True) == np.arange(768)).all()
    )


def test_decoders_are_the_brute_force_search():
    l_max, anchors = 4, decoder.healpix_anchors(3)
    coeffs = random_coeffs(1, l_max, lead=(2, 2))
    xyz = coordinates.to_unit_vector(anchors)
    near = np.arccos(np.clip(xyz @ xyz.T, -1, 1)) * R <= 3000
    share = np.exp(shdd.synthesis(coeffs, shdd.encode(anchors, l_max)))
    share /= share.sum(-1, keepdims=True)
    lat_lon, score = decoder.mode_seeking(coeffs, anchors, 3000.0)
    mass = share @ near
    assert np.array_equal(lat_lon, anchors[mass.argmax(-1)]) and np.allclose(np.exp(score), mass.max(-1))
    lat_lon, score = decoder.kl_decoder(coeffs, anchors)
    p = np.exp(shdd.synthesis(shdd.encode(anchors, l_max), shdd.encode(anchors, l_max)))
    p /= p.sum(-1, keepdims=True)
    divergence = (share[..., None, :] * np.log(share[..., None, :] / p)).sum(-1)
    assert np.array_equal(lat_lon, anchors[divergence.argmin(-1)]) and np.allclose(score, -divergence.min(-1))


# diffusion


def test_schedules_fall_from_clean_to_noise():
    for schedule in (diffusion.cosine_schedule(100), diffusion.geometric_schedule(100, 0.05, 5e-5)):
        assert schedule.shape == (100,) and (np.diff(schedule) < 0).all() and schedule[0] < 1 and schedule[-1] < 1e-4
    snr = diffusion.geometric_schedule(5, 8.0, 1.0)
    assert np.allclose(snr / (1 - snr), [8, 4, 2, 1, 0])
    shifted = diffusion.shift_schedule(diffusion.cosine_schedule(50), 64.0)
    ratio = diffusion.cosine_schedule(50) / (1 - diffusion.cosine_schedule(50)) / (shifted / (1 - shifted))
    assert np.allclose(ratio, 64)
    assert diffusion.cosine_schedule(100)[49] == pytest.approx(0.4938, abs=5e-4)  # half-way nearly half the signal


def test_forward_steps_compose():
    """Going to level s and from there on to t is going to t: the means and the variances agree."""
    s, t = 0.7, 0.2
    assert diffusion.q_sample(2.0, t, 0.0) == pytest.approx(np.sqrt(t / s) * diffusion.q_sample(2.0, s, 0.0))
    assert diffusion.q_sample(0.0, t, 1.0) ** 2 == pytest.approx(
        t / s * diffusion.q_sample(0.0, s, 1.0) ** 2 + 1 - t / s
    )


def test_the_ddpm_step_is_the_gaussian_posterior():
    """x_s given x_t and x_0, by multiplying the densities q(x_s | x_0) and q(x_t | x_s) on a grid."""
    x_0, x_t, s, t = 0.8, -0.3, 0.6, 0.25
    x = np.linspace(-8, 8, 200_001)
    log = -((x - np.sqrt(s) * x_0) ** 2) / (2 * (1 - s)) - (x_t - np.sqrt(t / s) * x) ** 2 / (2 * (1 - t / s))
    p = np.exp(log) / np.exp(log).sum()
    mean, std = (p * x).sum(), np.sqrt((p * (x - (p * x).sum()) ** 2).sum())
    assert diffusion.ddpm_step(x_t, x_0, t, s, 0.0) == pytest.approx(mean, abs=1e-6)
    assert diffusion.ddpm_step(x_t, x_0, t, s, 1.0) - mean == pytest.approx(std, abs=1e-6)
