"""Every public function of the reference has its twin in locdiff: the same name, parameters, values and gradients."""

import inspect
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import EDGE_PLACES, at_edges, places, random_coeffs, seeds, tolerance

from locdiff.model import diffusion
from locdiff.sphere import coordinates, decoder, healpix, shdd, spherical_harmonics
from reference import coordinates as ref_coordinates
from reference import decoder as ref_decoder
from reference import diffusion as ref_diffusion
from reference import shdd as ref_shdd
from reference import spherical_harmonics as ref_spherical_harmonics

MODULES = ["coordinates", "spherical_harmonics", "shdd", "decoder", "diffusion", "zoom"]
ONLY_IN_THE_REFERENCE = {
    "explicit_spherical_harmonics",  # the paper's unstable formula, for a figure
    "normalized_legendre",  # a loop over (l, m); locdiff has it vectorised and private
}
DTYPES = [torch.float32, torch.float64]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

torch.backends.cuda.matmul.allow_tf32 = False
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_device = pytest.mark.parametrize("device", DEVICES)


def functions(package, module):
    module = import_module(f"{package}.{module}")
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


@pytest.mark.parametrize("module", MODULES)
def test_twins_share_names_and_parameters(module):
    ours, theirs = functions("locdiff", module), functions("reference", module)
    assert theirs
    for name, function in theirs.items():
        if name in ONLY_IN_THE_REFERENCE:
            assert name not in ours
            continue
        wanted, given = (list(inspect.signature(f).parameters.values()) for f in (function, ours[name]))
        assert [p.name for p in given[: len(wanted)]] == [p.name for p in wanted], name
        assert [p.default for p in given[: len(wanted)]] == [p.default for p in wanted], name
        assert all(p.default is not p.empty for p in given[len(wanted) :]), f"{name}: what locdiff adds is optional"


def rounded(array, dtype, device="cpu"):
    """The tensor, and the float64 array of exactly the same numbers: rounded before the reference sees them."""
    tensor = torch.as_tensor(np.asarray(array), dtype=dtype, device=device)
    return tensor, tensor.cpu().double().numpy()


def close(tensor, expected, dtype, l_max, scale=1.0):
    assert tensor.dtype == dtype
    np.testing.assert_allclose(tensor.cpu().double().numpy(), expected, rtol=0, atol=tolerance(dtype, l_max, scale))


# coordinates


@every_device
@every_dtype
@given(place=places, other=places)
@at_edges(other=(-33.0, 151.0))
def test_coordinates(dtype, device, place, other):
    (a, a_ref), (b, b_ref) = rounded(place, dtype, device), rounded(other, dtype, device)
    km = 6371 * torch.finfo(dtype).eps * 40
    assert abs(coordinates.great_circle_km(a, b).item() - ref_coordinates.great_circle_km(a_ref, b_ref)) < km
    for ours, theirs in zip(coordinates.to_theta_phi(a), ref_coordinates.to_theta_phi(a_ref), strict=True):
        close(ours, theirs, dtype, 0, 10)
    close(coordinates.to_unit_vector(a), ref_coordinates.to_unit_vector(a_ref), dtype, 0, 10)
    for again in (
        coordinates.to_lat_lon(*coordinates.to_theta_phi(a)),
        coordinates.from_unit_vector(coordinates.to_unit_vector(a)),
    ):
        assert again.dtype == dtype and -180 <= again[1] <= 180
        assert coordinates.great_circle_km(again, a).item() < 6371 * torch.finfo(dtype).eps * 40


@every_dtype
@given(seed=seeds)
def test_geographic_centres(dtype, seed):
    many = np.random.default_rng(seed).uniform((20, -60), (70, 60), size=(3, 5, 2))
    tensor, array = rounded(many, dtype)
    ours, theirs = coordinates.geographic_center(tensor), ref_coordinates.geographic_center(array)
    assert ours.dtype == dtype
    assert (ref_coordinates.great_circle_km(ours.double().numpy(), theirs) < 6371 * torch.finfo(dtype).eps * 40).all()


@every_dtype
def test_centres_that_do_not_exist_are_nan(dtype):
    assert coordinates.geographic_center(torch.tensor([[0, 0], [0, -180]], dtype=dtype)).isnan().all()
    assert coordinates.from_unit_vector(torch.zeros(2, 3, dtype=dtype)).isnan().all()


@pytest.mark.parametrize("wrong", [[95.0, 0.0], [0.0, 361.0], [np.nan, 0.0], [1.0, 2.0, 3.0], 1.0])
def test_both_refuse_the_same_with_the_same_words(wrong):
    messages = []
    for check, value in [(coordinates.check_lat_lon, torch.tensor(wrong)), (ref_coordinates.check_lat_lon, wrong)]:
        with pytest.raises(ValueError) as error:
            check(value)
        messages.append(str(error.value).split(" got ")[0])
    assert messages[0] == messages[1]


# harmonics


@every_device
@every_dtype
@pytest.mark.parametrize("l_max", [0, 1, 4, 23, 47, 128, 255])
def test_harmonics(dtype, device, l_max):
    rng = np.random.default_rng(l_max)
    many = np.concatenate([EDGE_PLACES, np.degrees(rng.uniform((-1.57, -3.14), (1.57, 3.14), size=(50, 2)))])
    (theta, theta_ref), (phi, phi_ref) = (rounded(angle, dtype, device) for angle in ref_coordinates.to_theta_phi(many))
    ours = spherical_harmonics.real_spherical_harmonics(theta, phi, l_max)
    close(ours, ref_spherical_harmonics.real_spherical_harmonics(theta_ref, phi_ref, l_max), dtype, l_max)
    if (dtype, l_max) == (torch.float32, 47):
        assert tolerance(dtype, l_max) < 1e-4


def test_harmonics_broadcast_and_keep_empty_batches():
    theta, phi = torch.rand(3, 1, 2), torch.rand(4, 1)
    assert spherical_harmonics.real_spherical_harmonics(theta, phi, 2).shape == (3, 4, 2, 9)
    assert shdd.encode(torch.empty(0, 2), 5).shape == (0, 36)
    assert shdd.encode(torch.zeros(2, dtype=torch.float64), 0).tolist() == [(4 * np.pi) ** -0.5]


def test_harmonics_work_in_chunks(monkeypatch):
    theta, phi = torch.rand(11), torch.rand(11)
    whole = spherical_harmonics.real_spherical_harmonics(theta, phi, 4)
    monkeypatch.setitem(spherical_harmonics.BLOCK, "cpu", 15)
    torch.testing.assert_close(spherical_harmonics.real_spherical_harmonics(theta, phi, 4), whole, rtol=0, atol=1e-7)


def test_harmonics_compile_without_a_break():
    theta, phi = torch.rand(2, 9, dtype=torch.float64).requires_grad_(), torch.rand(9, dtype=torch.float64)
    weights = torch.randn(9, 100, dtype=torch.float64)

    def weighed(theta, phi):
        return (spherical_harmonics.real_spherical_harmonics(theta, phi, 9) * weights).sum()

    compiled = torch.compile(weighed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(theta, phi), weighed(theta, phi))
    slopes = (torch.autograd.grad(function(theta, phi), theta)[0] for function in (compiled, weighed))
    torch.testing.assert_close(*slopes)


@every_device
@given(place=places, seed=seeds)
@at_edges(seed=1)
def test_rotate_is_the_change_under_a_small_rotation(device, place, seed):
    p, step = ref_coordinates.to_unit_vector(place), 1e-5
    rotation_vector = np.random.default_rng(seed).normal(size=3)
    nearby = [p + sign * step * np.cross(rotation_vector, p) for sign in (1, -1)]
    forth, back = (ref_shdd.encode(ref_coordinates.from_unit_vector(q / np.linalg.norm(q)), 5) for q in nearby)
    turned = spherical_harmonics.rotate(torch.as_tensor(ref_shdd.encode(place, 5), device=device)).cpu().numpy()
    np.testing.assert_allclose(rotation_vector @ turned, (forth - back) / (2 * step), atol=1e-6)


def test_harmonics_differentiate():
    theta, phi = (
        torch.tensor([0.3, 1.2, 3.0]).double().requires_grad_(),
        torch.tensor([0.0, 2.0, 6.0]).double().requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda a, b: spherical_harmonics.real_spherical_harmonics(a, b, 5), (theta, phi))
    assert torch.autograd.gradgradcheck(
        lambda a, b: spherical_harmonics.real_spherical_harmonics(a, b, 3), (theta, phi)
    )
    poles = torch.tensor([0.0, np.pi], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spherical_harmonics.real_spherical_harmonics(poles, poles.detach(), 7).sum(), poles)
    assert slope.isfinite().all() and slope.abs().max() > 1
    narrow = theta.detach().float().requires_grad_()
    weights = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    (single,) = torch.autograd.grad(
        (weights * spherical_harmonics.real_spherical_harmonics(narrow, phi.detach().float(), 7)).sum(), narrow
    )
    (double,) = torch.autograd.grad(
        (weights * spherical_harmonics.real_spherical_harmonics(theta, phi, 7)).sum(), theta
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-3)


# SHDD


@every_device
@every_dtype
@given(seed=seeds, place=places, l_max=st.integers(0, 8), temperature=st.sampled_from([0.5, 1.0, 8.0]))
@at_edges(seed=0, l_max=4, temperature=1.0)
def test_densities_and_divergences(dtype, device, seed, place, l_max, temperature):
    basis, basis_ref = rounded(ref_shdd.encode(ref_decoder.healpix_anchors(4), l_max), dtype, device)
    e, e_ref = rounded(random_coeffs(seed, l_max, lead=(2, 3)), dtype, device)
    x, x_ref = rounded(ref_shdd.encode(place, l_max), dtype, device)
    scale = (l_max + 1) ** 2  # F sums as many products; what follows has slope one in F, or 1 / temperature
    for name, arguments in {
        "evaluate": (("e",), ()), "log_partition": (("e",), ()), "log_density": (("e",), ()),
        "mean_parameters": (("e",), ()), "negative_log_likelihood": (("e", "x"), ()),
        "kl_divergence": (("e", "x"), (temperature,)),
    }.items():  # fmt: skip
        tensors, arrays = {"e": e, "x": x}, {"e": e_ref, "x": x_ref}
        names, more = arguments
        ours = getattr(shdd, name)(*(tensors[n] for n in names), basis, *more)
        theirs = getattr(ref_shdd, name)(*(arrays[n] for n in names), basis_ref, *more)
        assert ours.shape == theirs.shape
        close(ours, theirs, dtype, l_max, scale / min(temperature, 1.0) ** 2)


@every_dtype
@given(gamma=st.floats(0, np.pi), l_max=st.integers(0, 31))
def test_the_kernel(dtype, gamma, l_max):
    tensor, array = rounded(gamma, dtype)
    close(shdd.delta_kernel(tensor, l_max), ref_shdd.delta_kernel(float(array), l_max), dtype, l_max, (l_max + 1) ** 2)


@every_dtype
@given(place=places)
@at_edges()
def test_encodings(dtype, place):
    tensor, array = rounded(place, dtype)
    scale = 1 if dtype == torch.float64 else 8  # degrees are turned into radians in float32: 6 / 2^24, times l_max
    close(shdd.encode(tensor, 15), ref_shdd.encode(array, 15), dtype, 15, scale)


def test_divergences_differentiate():
    basis = torch.from_numpy(ref_shdd.encode(ref_decoder.healpix_anchors(2), 2))
    e, x = (torch.from_numpy(random_coeffs(seed, 2, lead=(2,))).requires_grad_() for seed in (0, 1))
    assert torch.autograd.gradcheck(lambda a, b: shdd.kl_divergence(a, b, basis, 0.7), (e, x))
    assert torch.autograd.gradcheck(lambda a, b: shdd.negative_log_likelihood(a, b, basis), (e, x))
    assert torch.autograd.gradcheck(lambda a: shdd.mean_parameters(a, basis), (e,))
    (slope,) = torch.autograd.grad(shdd.log_partition(e, basis).sum(), e)
    np.testing.assert_allclose(slope, ref_shdd.mean_parameters(e.detach().numpy(), basis.numpy()), atol=1e-12)
    for function in (shdd.kl_divergence, shdd.negative_log_likelihood):
        (double,) = torch.autograd.grad(function(e, x, basis).sum(), e)
        narrow = e.detach().float().requires_grad_()
        (single,) = torch.autograd.grad(function(narrow, x.detach().float(), basis.float()).sum(), narrow)
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@every_device
@pytest.mark.parametrize("l_max", [7, 15])
def test_the_separable_log_partition_is_the_references(device, l_max):
    transform = healpix.HealpixTransform(l_max, 16).to(device)
    basis = ref_shdd.encode(ref_decoder.healpix_anchors(16), l_max)
    e, e_ref = rounded(random_coeffs(l_max, l_max, 0.5, lead=(3, 100)), torch.float32, device)
    log_z, mean = transform.log_partition_and_mean(e)
    close(log_z, ref_shdd.log_partition(e_ref, basis), torch.float32, l_max, 10)
    close(mean, ref_shdd.mean_parameters(e_ref, basis), torch.float32, l_max, 10)
    e.requires_grad_()
    (slope,) = torch.autograd.grad((transform.log_partition(e) * 3).sum(), e)
    close(slope, 3 * ref_shdd.mean_parameters(e_ref, basis), torch.float32, l_max, 30)


# decoders


def test_anchors():
    for nside in (1, 5, 16):
        np.testing.assert_allclose(healpix.healpix_anchors(nside), ref_decoder.healpix_anchors(nside), atol=1e-12)
    assert healpix.healpix_anchors(2, torch.float32).dtype == torch.float32


@every_device
@every_dtype
@given(seed=seeds, l_max=st.integers(0, 5), rho_km=st.sampled_from([0.0, 1500.0, 25_000.0]))
def test_decoders_find_a_place_as_good_as_the_references(dtype, device, seed, l_max, rho_km):
    """Compared by score, not by place: two anchors may tie. The place found must have the score that is claimed."""
    anchors = np.random.default_rng(7).permutation(ref_decoder.healpix_anchors(4))[:60]
    tensor, array = rounded(anchors, dtype, device)
    e, e_ref = rounded(random_coeffs(seed, l_max, lead=(2, 2)), dtype, device)
    for name, more in (("mode_seeking", (rho_km,)), ("kl_decoder", ())):
        place, score = getattr(decoder, name)(e, tensor, *more)
        ref_place, ref_score = getattr(ref_decoder, name)(e_ref, array, *more)
        assert place.shape == ref_place.shape and place.dtype == dtype
        close(score, ref_score, dtype, l_max, 100)
        unambiguous = np.isclose(place.cpu().double().numpy(), ref_place, atol=1e-3).all(-1)
        if rho_km == 0 and name == "mode_seeking":
            chosen = [int(np.abs(array - p).sum(-1).argmin()) for p in place.cpu().double().numpy().reshape(-1, 2)]
            log_q = ref_shdd.log_density(e_ref, ref_shdd.encode(array, l_max)) + np.log(4 * np.pi / len(array))
            claimed = log_q.reshape(-1, len(array))[np.arange(4), chosen]
            np.testing.assert_allclose(claimed, ref_score.ravel(), atol=tolerance(dtype, l_max, 100))
        assert unambiguous.any() or l_max == 0 or rho_km > 20_000


def test_decoders_work_in_chunks_and_on_nothing(monkeypatch):
    anchors, e = healpix.healpix_anchors(4), torch.from_numpy(random_coeffs(0, 4, lead=(7,)))
    whole = [decoder.mode_seeking(e, anchors, 2000.0), decoder.kl_decoder(e, anchors)]
    monkeypatch.setattr(decoder, "CHUNK", 2 * len(anchors))
    for (place, score), (a, b) in zip(
        whole, [decoder.mode_seeking(e, anchors, 2000.0), decoder.kl_decoder(e, anchors)], strict=True
    ):
        torch.testing.assert_close(place, a)
        torch.testing.assert_close(score, b)
    for place, score in (decoder.mode_seeking(e[:0], anchors, 1.0), decoder.kl_decoder(e[:0], anchors)):
        assert place.shape == (0, 2) and score.shape == (0,)


# diffusion


def test_schedules():
    for steps in (2, 10, 100):
        np.testing.assert_allclose(diffusion.cosine_schedule(steps), ref_diffusion.cosine_schedule(steps), rtol=1e-12)
        np.testing.assert_allclose(
            diffusion.geometric_schedule(steps, 0.05, 1e-4),
            ref_diffusion.geometric_schedule(steps, 0.05, 1e-4),
            rtol=1e-12,
        )
    schedule = diffusion.cosine_schedule(10)
    np.testing.assert_allclose(
        diffusion.shift_schedule(schedule, 9.0), ref_diffusion.shift_schedule(schedule.numpy(), 9.0)
    )


@every_device
@every_dtype
@given(seed=seeds, t=st.floats(0, 0.5), s=st.floats(0.51, 0.999), eta=st.floats(0, 1))
def test_steps(dtype, device, seed, t, s, eta):
    (x_t, x_t_ref), (x_0, x_0_ref), (noise, noise_ref) = (
        rounded(part, dtype, device) for part in np.random.default_rng(seed).normal(size=(3, 2, 9))
    )
    for name, inputs, more in (
        ("q_sample", "0", (t, "n")), ("ddpm_step", "t0", (t, s, "n")),
        ("ddim_step", "t0", (t, s, eta, "n")), ("bayes_skip", "t", (t,)),
    ):  # fmt: skip
        ours = getattr(diffusion, name)(
            *({"t": x_t, "0": x_0}[i] for i in inputs), *(noise if m == "n" else m for m in more)
        )
        theirs = getattr(ref_diffusion, name)(
            *({"t": x_t_ref, "0": x_0_ref}[i] for i in inputs), *(noise_ref if m == "n" else m for m in more)
        )
        close(ours, theirs, dtype, 0, 50)
    t = max(t, 1e-3)
    for before in (0.0, 1e-6, t / 2):
        ours = diffusion.dpm_solver_step(x_t, x_0, t, s, noise, before)
        theirs = ref_diffusion.dpm_solver_step(x_t_ref, x_0_ref, t, s, noise_ref, before)
        close(ours, theirs, dtype, 0, 50 * (1 + abs(theirs).max()))


def test_sampling_visits_the_levels_and_finishes():
    seen, schedule = [], diffusion.cosine_schedule(10)

    def denoise(x, t):
        seen.append(t)
        return 0 * x + 3

    out = diffusion.sample(denoise, lambda: torch.zeros(2), schedule, 4, finish=lambda x, t: (x, t))
    assert seen == [10, 7, 4] and out[1] == 1
    torch.testing.assert_close(out[0], torch.full((2,), 3 * schedule[0].item() ** 0.5), rtol=0.2, atol=0)
    assert diffusion.sample(denoise, lambda: torch.zeros(2), schedule, 1).tolist() == [3, 3] and seen[-1] == 10
    kept = diffusion.sample(denoise, lambda: torch.zeros(2), schedule, 4, solver="dpm++", finish=lambda x, t: x)
    quiet = diffusion.sample(denoise, lambda: torch.zeros(2), schedule, 4, eta=0.0, finish=lambda x, t: x)
    torch.testing.assert_close(kept, quiet)  # the prediction is always the same


def test_a_sample_by_dpm_solver_uses_the_prediction_before():
    schedule = diffusion.geometric_schedule(9, 1.0, 0.01)
    last = diffusion.sample(
        lambda x, t: 0 * x + t, lambda: torch.ones(1), schedule, 3, solver="dpm++", finish=lambda x, t: x
    )
    x, before = torch.ones(1), ()
    for t, s in ((9, 5), (5, 1)):
        x, before = (
            diffusion.dpm_solver_step(
                x, torch.tensor([float(t)]), schedule[t - 1].item(), schedule[s - 1].item(), *before
            ),
            (torch.tensor([float(t)]), schedule[t - 1].item()),
        )
    torch.testing.assert_close(last, x)
