"""Schedules, steps, samplers and the sampling loop: the twin of `reference.diffusion`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import seeds
from support.tolerances import close, every_device, every_dtype, rounded

from locdiff.model import diffusion
from reference import diffusion as ref_diffusion


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

    def run(sampler, steps=4, **more):
        return diffusion.sample(denoise, lambda: torch.zeros(2), schedule, steps, sampler, **more)

    out = run(diffusion.DDIM(), finish=lambda x, t: (x, t))
    assert seen == [10, 7, 4] and out[1] == 1
    torch.testing.assert_close(out[0], torch.full((2,), 3 * schedule[0].item() ** 0.5), rtol=0.2, atol=0)
    assert run(diffusion.DDIM(), steps=1).tolist() == [3, 3] and seen[-1] == 10
    kept, quiet = (run(one, finish=lambda x, t: x) for one in (diffusion.DPMSolver(), diffusion.DDIM(0.0)))
    torch.testing.assert_close(kept, quiet)  # the prediction is always the same
    for wrong in (0, 11):
        with pytest.raises(ValueError, match=r"steps must lie in 1\.\.10"):
            run(diffusion.DDIM(), steps=wrong)


def test_a_sample_by_dpm_solver_uses_the_prediction_before():
    schedule, sampler = diffusion.geometric_schedule(9, 1.0, 0.01), diffusion.DPMSolver()
    x, before = torch.ones(1), ()
    for t, s in ((9, 5), (5, 1)):
        x_0, alphas = torch.tensor([float(t)]), (schedule[t - 1].item(), schedule[s - 1].item())
        x, before = diffusion.dpm_solver_step(x, x_0, *alphas, *before), (x_0, alphas[0])
    for _ in range(2):  # the second run does not use the predictions of the first
        last = diffusion.sample(
            lambda x, t: 0 * x + t, lambda: torch.ones(1), schedule, 3, sampler, finish=lambda x, t: x
        )
        torch.testing.assert_close(last, x)


@every_device
@every_dtype
@pytest.mark.parametrize("sampler", [("ddim",), ("ddim", 0.3), ("dpm++",)], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
@pytest.mark.parametrize("last", [None, "finish"])
def test_sampling_is_the_references(dtype, device, sampler, steps, last):
    """With the same noise and a denoiser that depends on x_t and t; the schedule ends in pure noise."""
    noise = rounded(np.random.default_rng(steps).normal(size=(steps, 3, 9)), dtype, device)
    found, (name, *eta) = [], sampler
    for module, fresh, cos in ((diffusion, noise[0], torch.cos), (ref_diffusion, noise[1], np.cos)):
        sample_noise, schedule = iter(fresh), module.geometric_schedule(20, 3.0, 0.01)
        finish = (lambda x, t: x * t) if last else None
        one = module.SAMPLERS[name](*eta)
        found.append(
            module.sample(
                lambda x, t, cos=cos: cos(x + t / 10), lambda d=sample_noise: next(d), schedule, steps, one, finish
            )
        )
    close(*found, dtype, 0, 500)
