"""Every tensor lies where it is needed, and a training step waits for the device only where it reads a number.

All of it runs on a device that does not exist (`support.devices`), and gives what the CPU gives. What is written to a
file is not covered: safetensors takes the tensors from a GPU itself.
"""

import copy

import numpy as np
import pytest
import torch
from support.devices import DEVICE, needs_pretended_device, pretended_device
from support.models import seeing, three_levels, zoomed
from support.training import SMALL, pictures

from locdiff.data.regions import box
from locdiff.errors import InputError
from locdiff.model.posterior import LocationPosterior
from locdiff.model.priors import Prior, uniform
from locdiff.model.reweighting import Weights
from locdiff.sphere import shdd
from locdiff.training import batches
from locdiff.training.settings import resolve
from locdiff.training.trainer import Trainer

pytestmark = needs_pretended_device

HILL = Prior("hill", 1 + 0.5 * torch.linspace(-1, 1, 3072, dtype=torch.float64))
BERN = torch.tensor([46.9, 7.4], dtype=torch.float64)
PLACES = torch.tensor([[46.9, 7.4], [-90.0, 0.0], [12.0, 180.0], [89.99, -40.0]], dtype=torch.float64)
PICTURES = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
ONE_LEVEL = [
    {"sample_steps": 3}, {"sample_steps": 1}, {"sampler": "dpm++", "sample_steps": 3},
    {"schedule": "cosine", "exact_skip": False, "sample_steps": 3},
    *({"loss": loss, "anchors": 50, "sample_steps": 3} for loss in ("shdd_kl", "l2", "l1", "cosine")),
]  # fmt: skip
MODELS = {str(changes): lambda changes=changes: seeing(whiten=0.3, **changes) for changes in ONE_LEVEL}
MODELS["one refinement level"] = lambda: zoomed(noise=0.3, sample_steps=2)
MODELS["two, one step"] = lambda: three_levels(BERN, sample_steps=1)
MODELS["two, a chain"] = lambda: three_levels(BERN, sample_steps=2, zoom_into=2)
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
QUESTIONS = {
    "log_prob": lambda posterior: posterior.log_prob(PLACES),
    "log_density": lambda posterior: posterior.log_density(PLACES[:3]),
    "rank": lambda posterior: posterior.rank(PLACES),
    "sample": lambda posterior: posterior.sample(3, seed=1),
    "sample_coeffs": lambda posterior: posterior.sample_coeffs(2),
    "modes": lambda posterior: posterior.modes(3),
    "mass_within": lambda posterior: posterior.mass_within(PLACES),
    "credible_radius": lambda posterior: posterior.credible_radius(PLACES),
    "credible_regions": lambda posterior: posterior.credible_regions(),
    "best_within": lambda posterior: posterior.best_within(),
    "anchors": lambda posterior: posterior.anchors,
    "within": lambda posterior: asked_within(posterior.within(box("-50,150,50,-30"))),
    "reweighted": lambda posterior: asked_within(posterior.reweighted(HILL, uniform(posterior.grid))),
    "weighted": lambda posterior: asked_within(posterior.weighted(Weights())),
    "check_one_each": lambda posterior: posterior.check_one_each(PLACES),
}


def asked_within(posterior):
    return [posterior.pixel_probs, posterior.log_prob(PLACES), posterior.mass_within(PLACES), posterior.log_mass]


def there(tensor):
    return tensor.to(DEVICE)


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_the_device_refuses_and_notes_what_a_gpu_would():
    with pretended_device() as waits:
        x = torch.ones(3, device=DEVICE)
        for mixed in (lambda: x + torch.ones(3), lambda: torch.stack([x[0], torch.tensor(1.0)]), lambda: x.numpy()):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|cpu\(\)"):
                mixed()
        assert (x.cos() * 2 + torch.tensor(1.0)).device.type == DEVICE and not waits
        torch.arange(3).to(x, non_blocking=True)
        assert not waits
        for waiting in (
            lambda: bool(x.isfinite().all()), lambda: x[x > 0], lambda: x[torch.tensor([0])], lambda: x.nonzero(),
            lambda: x.cpu(), lambda: torch.arange(3).to(x), lambda: x.unique(), lambda: x[0].item(),
        ):  # fmt: skip
            waits.clear()
            waiting()
            assert len(waits) == 1


def test_all_that_a_posterior_is_asked_is_asked_here():
    assert QUESTIONS.keys() == {name for name in vars(LocationPosterior) if not name.startswith("_")}


@every_model
def test_posteriors_are_those_of_the_cpu(make):
    model = make()
    wanted = {name: ask(model.posterior(PICTURES)) for name, ask in QUESTIONS.items()}
    with pretended_device():
        posterior = copy.deepcopy(model).to(DEVICE).posterior(there(PICTURES))
        for name, ask in QUESTIONS.items():
            same(ask(posterior), wanted[name])


@every_model
def test_the_reverse_process_is_that_of_the_cpu(make):
    model = make()
    wanted = model.sample(PICTURES, 2, seed=3, steps=3)
    nats = model.validation_nats(PICTURES, PLACES)
    with pretended_device():
        model.to(DEVICE)
        same(model.sample(there(PICTURES), 2, seed=3, steps=3), wanted)
        same(model.validation_nats(PICTURES, PLACES), nats)


@every_model
def test_the_loss_waits_for_nothing(make):
    model = make()
    gradients = torch.autograd.grad(loss_of(model, PICTURES, PLACES), list(model.parameters()))
    with pretended_device() as waits:
        model.to(DEVICE)
        pictures, places = there(PICTURES), there(PLACES)
        loss_of(model, pictures, places)  # fills the caches
        waits.clear()
        loss_of(model, pictures, places).backward()
        assert waits == []
        same([parameter.grad.cpu() for parameter in model.parameters()], list(gradients))


def loss_of(model, pictures, places):
    torch.manual_seed(5)
    return model.train().loss(pictures, places).mean()


class AtOnce:
    """An executor that does at once what it is asked for."""

    def __init__(self, _):
        pass

    def submit(self, function, *arguments):
        out = function(*arguments)
        return type("Done", (), {"result": lambda self: out})()


@pytest.mark.parametrize("resident", [False, True], ids=["read", "resident"])
@pytest.mark.parametrize("changes", [{}, {"levels": 2}, {"loss": "shdd_kl", "exact_skip": False}], ids=str)
def test_a_training_step_waits_only_for_the_norm_of_its_gradient(changes, resident, monkeypatch):
    monkeypatch.setattr(batches, "ThreadPoolExecutor", AtOnce)
    monkeypatch.setattr(batches, "_fits", lambda *_: resident)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    here = make_trainer("cpu", changes)
    for _ in range(3):
        here.training_step()
    with pretended_device() as waits:
        trainer = make_trainer(DEVICE, changes)
        reads = trainer._batches.read
        for step in range(3):
            batch = reads(trainer.step)  # what another thread does meanwhile
            monkeypatch.setattr(trainer._batches, "read", lambda _, batch=batch: batch)
            waits.clear()
            loss, _ = trainer.training_step()
            assert waits == ["aten._local_scalar_dense.default"] or step == 0  # the first fills the caches
        assert loss.device.type == DEVICE
        for name, average in trainer.average.items():
            same(average.cpu(), here.average[name])
        same(trainer.finished_model(progress=False).posterior(torch.ones(2, 6)).pixel_probs,
             here.finished_model(progress=False).posterior(torch.ones(2, 6)).pixel_probs)  # fmt: skip


def make_trainer(device, changes):
    settings = resolve("smoke", **SMALL | {"whiten": 0.3} | changes)
    return Trainer(settings, pictures(), torch.device(device))


def test_the_random_times_are_the_ones_of_a_masked_assignment():
    model = seeing(whiten=0.3)
    torch.manual_seed(7)
    t = torch.randint(1, 41, (1000,))
    t[torch.rand(1000) < model.config.diffusion.p_pure_noise] = 40
    torch.manual_seed(7)
    assert torch.equal(model.random_times(1000), t)


@pytest.mark.parametrize("wrong", [[np.nan, 0.0], [120.0, 7.0], [0.0, 400.0]])
def test_what_is_no_location_is_refused_where_it_comes_in(wrong):
    places = torch.tensor([wrong, [0.0, 0.0]], dtype=torch.float64)
    for model in (seeing(whiten=0.3), seeing(whiten=0.3, loss="l2"), zoomed()):
        posterior = model.posterior(PICTURES[:2])
        for ask in (posterior.log_prob, posterior.log_density, posterior.mass_within, posterior.credible_radius):
            with pytest.raises(InputError, match=r"finite|outside"):
                ask(places)
    with pytest.raises(InputError, match=r"finite|outside"):
        shdd.encode(places, 3)
