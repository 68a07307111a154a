"""Laws of the mixture over refinement levels, and of the sampling loop."""

import healpy
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reference import decoder, diffusion, hierarchy, shdd, zoom

EDGE_PLACES = np.array([(90.0, 0.0), (-90.0, 77.0), (0.0, -180.0), (12.0, 179.99999), (-45.0, -0.0), (41.8103, 0.0)])
CELL_NSIDE, ZOOM, L_MAX = 2, 2.0, 3
seeds = st.integers(0, 2**32 - 1)
places = st.tuples(st.floats(-90, 90, width=32), st.floats(-180, 180, exclude_max=True, width=32))
few = settings(max_examples=6, deadline=None, derandomize=True)
many = settings(max_examples=60, deadline=None, derandomize=True)


def mixture(seed, levels, count=4, share=0.7):
    """Components of `levels` refinement levels, random in all that the network gives and in the cells that there are.

    The cells are larger and the zooms weaker than in use, so that pixels of the Earth resolve the density.
    """
    rng = np.random.default_rng(seed)
    components = [hierarchy.level_zero(1.5 * rng.normal(size=(L_MAX + 1) ** 2), 32)]
    for k in range(1, levels + 1):
        nside = CELL_NSIDE**k
        cell_id = np.flatnonzero(rng.random(12 * nside**2) < share)
        natural_params = rng.normal(size=(len(cell_id), (L_MAX + 1) ** 2))
        components.append(hierarchy.refinement_level(components[-1], nside, ZOOM**k, cell_id, natural_params, count))
    return components


def integral(log_density, nside=32):
    """The integral over the Earth of exp(log_density(places))."""
    pixels = decoder.healpix_anchors(nside)
    total = sum(np.exp(log_density(part)).sum() for part in np.array_split(pixels, 4))
    return total * 4 * np.pi / len(pixels)


# the mixture


@few
@given(seeds, st.sampled_from([1, 2, 3]), st.sampled_from([0, 1, 4, 9]), st.sampled_from([0.0, 0.3, 1.0]))
@example(seed=0, levels=3, count=4, share=0.7)
@example(seed=1, levels=1, count=48, share=1.0)
@example(seed=2, levels=1, count=4, share=0.0)
def test_the_mixture_integrates_to_one_whatever_the_cells_are(seed, levels, count, share):
    components = mixture(seed, levels, count, share)
    assert integral(lambda lat_lon: hierarchy.mixture_log_density(lat_lon, components)) == pytest.approx(1, abs=1e-3)
    masses = hierarchy.mixture_masses(components)
    assert sum(mass.sum() for mass in masses) == pytest.approx(1, abs=1e-12)
    assert all((mass >= 0).all() for mass in masses)


@pytest.mark.parametrize(("count", "share"), [(0, 1.0), (4, 0.0)])
def test_without_cells_the_mixture_is_p_0(count, share):
    components = mixture(3, 2, count, share)
    lat_lon, e = decoder.healpix_anchors(4), components[0].natural_params[0]
    fine = shdd.encode(decoder.healpix_anchors(128), L_MAX)
    p_0 = shdd.synthesis(e, shdd.encode(lat_lon, L_MAX)) - shdd.log_partition(e, fine)
    assert np.allclose(hierarchy.mixture_log_density(lat_lon, components), p_0, atol=5e-4)
    assert np.allclose(hierarchy.mixture_masses(components)[0].sum(), 1, atol=1e-14)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_cells_that_repeat_p_0_change_only_its_weights(count):
    """If every q_c is p_0, the mixture is p_0 (1 - sum over S of r(c | y) + sum over S of w_c): p_0, if S is all cells.

    Without a zoom, zoomed coordinates are turned ones. F is band-limited in these too, so its coefficients are exact.
    """
    e, cells = np.random.default_rng(4).normal(size=(L_MAX + 1) ** 2), np.arange(12)
    pixels = decoder.healpix_anchors(4)
    turned = [zoom.zoom_out(pixels, center, 1.0) for center in decoder.healpix_anchors(1)]
    basis = shdd.encode(pixels, L_MAX)
    natural_params = np.array([np.linalg.lstsq(basis, shdd.encode(at, L_MAX) @ e)[0] for at in turned])
    first = hierarchy.level_zero(e, 32)
    second = hierarchy.refinement_level(first, 1, 1.0, cells, natural_params, count)
    p_0 = np.exp(hierarchy.mixture_log_density(EDGE_PLACES, [first]))
    near, r = healpy.get_interp_weights(1, EDGE_PLACES[:, 1], EDGE_PLACES[:, 0], lonlat=True)
    refined = (r * np.isin(near, second.cell_id)).sum(axis=0)
    density = np.exp(hierarchy.mixture_log_density(EDGE_PLACES, [first, second]))
    assert np.allclose(density / p_0, 1 - refined + second.weights.sum(), atol=1e-5)
    assert (second.weights.sum() > 0.999) == (count == 12)


@few
@given(seeds)
@example(seed=0)
def test_the_density_is_the_mixture_written_out_cell_by_cell(seed):
    """P_2, R_1 and R_0 by their definitions, with healpy's interpolation and the definition of q_c."""
    p_0, p_1, p_2 = mixture(seed, 2)
    lat_lon = np.concatenate([EDGE_PLACES, decoder.healpix_anchors(1) + 0.3])

    def density(component):
        total, fine = 0, shdd.encode(decoder.healpix_anchors(component.partition_nside), L_MAX)
        for w, center, e in zip(component.weights, component.centers, component.natural_params, strict=True):
            zoomed = shdd.encode(zoom.zoom_in(lat_lon, center, component.s), L_MAX)
            q = np.exp(shdd.synthesis(e, zoomed) - shdd.log_partition(e, fine))
            total = total + w * q * zoom.zoom_area_factor(lat_lon, center, component.s)
        return total

    def rest(component):
        near, r = healpy.get_interp_weights(component.nside, lat_lon[:, 1], lat_lon[:, 0], lonlat=True)
        return [1 - sum(r[j, i] for j in range(4) if near[j, i] in component.cell_id) for i in range(len(lat_lon))]

    expected = density(p_0) * rest(p_1) + density(p_1) * rest(p_2) + density(p_2)
    assert np.allclose(np.exp(hierarchy.mixture_log_density(lat_lon, [p_0, p_1, p_2])), expected, rtol=1e-9)


@few
@given(seeds)
@example(seed=0)
def test_a_level_refines_the_cells_with_most_mass(seed):
    """The weights w_c agree with integrals of P_{k-1} over the Earth's pixels; all cells together hold all the mass."""
    below, level = mixture(seed, 2)[1:]
    cells = np.arange(12 * level.nside**2)
    all_weights = hierarchy.cell_weights(hierarchy.points(below), hierarchy.masses(below), level.nside, cells)
    assert all_weights.sum() == pytest.approx(below.weights.sum(), abs=1e-12)
    pixels = decoder.healpix_anchors(64)
    density = below.weights @ np.exp(hierarchy.cell_log_density(pixels, below)) * 4 * np.pi / len(pixels)
    near, r = healpy.get_interp_weights(level.nside, pixels[:, 1], pixels[:, 0], lonlat=True)
    by_area = np.bincount(near.flatten(), (r * density).flatten(), len(cells))
    assert np.allclose(all_weights, by_area, atol=3e-3 * by_area.max())
    assert np.allclose(level.weights, all_weights[level.cell_id]) and (np.diff(level.weights) <= 0).all()
    rng = np.random.default_rng(7)
    known = np.sort(rng.choice(cells, 20, replace=False))
    natural_params = rng.normal(size=(20, 16))
    again = hierarchy.refinement_level(below, level.nside, level.s, known, natural_params, 6)
    assert set(again.cell_id) == set(known[np.argsort(-all_weights[known])[:6]])
    assert np.array_equal(again.natural_params, natural_params[np.searchsorted(known, again.cell_id)])


@pytest.mark.parametrize("s", [1.0, 8.0, 64.0, 4096.0])
def test_a_pixel_holds_the_density_times_its_area(s):
    """Of cells at a pole, on the antimeridian and elsewhere: q_c on the Earth is the share of the zoomed pixel."""
    nside, rng = 8, np.random.default_rng(5)
    cell_id = np.append(healpy.ang2pix(nside, [0.0, 180.0], [89.9, 3.0], lonlat=True), [300, 767])
    first = hierarchy.level_zero(np.zeros(1), 16)
    level = hierarchy.refinement_level(first, nside, s, cell_id, rng.normal(size=(4, 16)), 4)
    assert np.array_equal(level.centers, decoder.healpix_anchors(nside)[level.cell_id])
    for i, (lat_lon, share) in enumerate(zip(hierarchy.points(level), hierarchy.masses(level), strict=True)):
        some = slice(i, None, 97)  # of pixels 12,288
        area = 4 * np.pi / len(lat_lon) / zoom.zoom_area_factor(lat_lon[some], level.centers[i], s)
        q = np.exp(hierarchy.cell_log_density(lat_lon[some], level)[i])
        assert np.allclose(level.weights[i] * q * area, share[some], rtol=1e-4)
    assert np.allclose(hierarchy.points(first)[0], decoder.healpix_anchors(16), atol=1e-12)


# the weights r(c | y)


@many
@given(places, st.sampled_from([1, 2, 8, 64, 4096]))
@example(place=(90.0, 0.0), nside=8)
@example(place=(-90.0, 77.0), nside=8)
@example(place=(0.0, -180.0), nside=8)
@example(place=(12.0, 179.99999), nside=64)
@example(place=(41.8103, 0.0), nside=1)
def test_interpolation_weights_sum_to_one_and_are_those_of_near_cells(place, nside):
    cell_id, r = hierarchy.interpolation_weights(place, nside)
    assert cell_id.shape == r.shape == (4,) and (r >= 0).all() and r.sum() == pytest.approx(1, abs=1e-9)
    near, expected = healpy.get_interp_weights(nside, place[1], place[0], lonlat=True)
    assert np.array_equal(np.bincount(cell_id % 997, r, 997) > 1e-6, np.bincount(near % 997, expected, 997) > 1e-6)
    centers = healpy.pix2vec(nside, cell_id)
    angle = healpy.rotator.angdist(healpy.ang2vec(place[1], place[0], lonlat=True), np.stack(centers))
    assert (angle[r > 1e-6] < 2.5 * healpy.nside2resol(nside)).all()


@pytest.mark.parametrize("nside", [1, 2, 8, 64])
def test_a_cell_has_its_own_centre_alone(nside):
    """There healpy rounds some weights to less than zero."""
    cell_id, r = hierarchy.interpolation_weights(decoder.healpix_anchors(nside), nside)
    own = (r * (cell_id == np.arange(12 * nside**2)[:, None])).sum(axis=-1)
    assert np.allclose(own, 1, atol=1e-9) and (r >= 0).all()


def test_the_mixture_has_no_seam_at_the_poles_and_the_antimeridian():
    components = mixture(6, 2)
    ring = np.linspace(-180, 179, 9)
    for lat in (90.0, -90.0):
        at_pole = hierarchy.mixture_log_density(np.stack([np.full(9, lat), ring], axis=-1), components)
        assert np.allclose(at_pole, at_pole[0], atol=1e-9)
    lat, tiny = np.linspace(-89, 89, 40), 1e-7
    for west, east in [(-180.0, 180.0), (180 - tiny, tiny - 180), (-tiny, tiny), (45 - tiny, 45 + tiny)]:
        sides = (np.stack([lat, np.full(40, lon)], axis=-1) for lon in (west, east))
        west, east = (hierarchy.mixture_log_density(side, components) for side in sides)
        assert np.isfinite(west).all() and np.allclose(west, east, atol=1e-5)


# the sampling loop

ratios = st.floats(1e-3, 0.999)


@many
@given(ratios, ratios, st.floats(-3, 3), st.floats(-3, 3))
@example(alpha_bar_s=0.5, ratio=1e-3, x_t=0.4, x_0=1.0)
def test_ddim_with_eta_one_has_the_mean_and_variance_of_ddpm(alpha_bar_s, ratio, x_t, x_0):
    levels = x_t, x_0, alpha_bar_s * ratio, alpha_bar_s
    mean, one = (diffusion.DDIM(eta=1.0).step(*levels, lambda z=z: z) for z in (0.0, 1.0))
    assert mean == pytest.approx(diffusion.ddpm_step(*levels, 0.0), abs=1e-9)
    deviation = diffusion.ddpm_step(*levels, 1.0) - diffusion.ddpm_step(*levels, 0.0)
    assert abs(one - mean) == pytest.approx(deviation, abs=1e-9)
    assert diffusion.DDIM(eta=0.0).step(*levels, lambda: 7.0) == diffusion.ddim_step(*levels, 0.0, 0.0)


MEAN, VARIANCE = 0.7, 0.3  # of the Gaussian x_0 whose samples the loop should sample


def gaussian(alpha_bar):
    """The exact denoiser E[x_0 | x_t] of that Gaussian."""

    def denoise(x_t, t):
        a = alpha_bar[t - 1]
        return MEAN + np.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a) * (x_t - np.sqrt(a) * MEAN)

    return denoise


def law(alpha_bar, steps, sampler):
    """Mean and standard deviation of x at the last level, exactly: x is linear in every noise that is drawn.

    Column j of x is a run whose only noise is one in sample j; the last column has none.
    """
    impulses = iter(np.eye(steps + 1))
    x = diffusion.sample(gaussian(alpha_bar), lambda: next(impulses), alpha_bar, steps, sampler, lambda x, t: x)
    return x[-1], np.sqrt(((x[:-1] - x[-1]) ** 2).sum())


def wanted(alpha_bar):
    return np.sqrt(alpha_bar[0]) * MEAN, np.sqrt(alpha_bar[0] * VARIANCE + 1 - alpha_bar[0])


def error(steps, sampler):
    alpha_bar = diffusion.geometric_schedule(steps, 100.0, 1e-6)
    return np.abs(np.subtract(law(alpha_bar, steps, sampler), wanted(alpha_bar))).max()


@pytest.mark.parametrize("sampler", [diffusion.DDIM(), diffusion.DDIM(0.5), diffusion.DDIM(0.0), diffusion.DPMSolver()])
def test_samples_of_a_gaussian_have_its_law_in_the_limit_of_many_levels(sampler):
    assert error(400, sampler) < 0.02
    assert error(400, sampler) < 0.6 * error(200, sampler)


def test_dpm_solver_is_of_second_order():
    """It is far nearer to the exact flow than DDIM without noise, and twice the steps leave a quarter of the error."""
    solver, ddim = ([error(n, make) for n in (40, 80)] for make in (diffusion.DPMSolver(), diffusion.DDIM(0.0)))
    assert solver[0] < ddim[0] / 10 and solver[1] < solver[0] / 3


def test_all_levels_with_eta_one_is_ddpm_run_by_hand():
    alpha_bar, noise = diffusion.cosine_schedule(20), np.random.default_rng(8).normal(size=(20, 5))
    denoise, draws = gaussian(alpha_bar), iter(noise)
    found = diffusion.sample(denoise, lambda: next(draws), alpha_bar, 20, diffusion.DDIM())
    x = noise[0]
    for t in range(20, 1, -1):
        x = diffusion.ddpm_step(x, denoise(x, t), alpha_bar[t - 1], alpha_bar[t - 2], noise[20 - t + 1])
    assert np.allclose(found, denoise(x, 1), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_the_levels_of_a_run(steps):
    seen, alpha_bar = [], diffusion.cosine_schedule(20)

    def denoise(x_t, t):
        seen.append(t)
        return x_t

    finished = diffusion.sample(denoise, lambda: 1.0, alpha_bar, steps, diffusion.DDIM(), lambda x, t: ("finished", t))
    assert finished == ("finished", 1 if steps > 1 else 20) and len(seen) == steps - 1
    diffusion.sample(denoise, lambda: 1.0, alpha_bar, steps, diffusion.DDIM())
    levels = seen[steps - 1 :]
    assert levels[0] == 20 and len(levels) == steps and levels[-1] == finished[1]
    assert (np.diff(levels) < 0).all() and np.ptp(np.diff(levels)) <= 1 if steps > 1 else levels == [20]


@pytest.mark.parametrize("steps", [0, 21, -1])
def test_there_are_no_more_steps_than_levels(steps):
    with pytest.raises(ValueError, match=r"steps must lie in 1\.\.20"):
        diffusion.sample(None, None, diffusion.cosine_schedule(20), steps, diffusion.DDIM())


@pytest.mark.parametrize("name", diffusion.SAMPLERS)
@pytest.mark.parametrize("steps", [2, 3, 12])
def test_a_sampler_serves_one_run_after_another(name, steps):
    alpha_bar, sampler = diffusion.cosine_schedule(12), diffusion.SAMPLERS[name]()
    first, second = (law(alpha_bar, steps, sampler) for _ in range(2))
    assert first == second == law(alpha_bar, steps, diffusion.SAMPLERS[name]())
