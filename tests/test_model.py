"""LocDiffusion as a whole: the exact skip, honest samples, densities, folders."""

import dataclasses
import json
import math

import pytest
import torch

from locdiff.errors import InputError
from locdiff.evaluation import metrics
from locdiff.files import write_atomically
from locdiff.model import diffusion
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LOSSES, LocDiffusion
from locdiff.sphere import pixels, shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors

TINY = {
    "encoder": "test", "embed_dim": 5, "l_max": 7, "width": 16, "depth": 2, "time_dim": 8, "noise_levels": 40,
    "sample_steps": 20, "quadrature_nside": 16, "decoder_nside": 16, "rho_km": 300.0,
}  # fmt: skip


def tiny(**changes):
    torch.manual_seed(0)
    values = TINY | changes
    return LocDiffusion(ModelConfig(**values | {"exact_skip": values.get("loss", "likelihood") == "likelihood"})).eval()


def with_prior(coeffs):
    """A model whose network ignores everything and gives the natural parameters `coeffs`."""
    model = tiny()
    with torch.no_grad():
        for block in [*model.network.down, *model.network.up]:
            block.out.weight.zero_()
            block.out.bias.zero_()
        model.network.head.bias.copy_(coeffs)
    return model


def test_an_untrained_model_says_by_bayes_rule_what_x_t_says():
    """The density that the noisy encoding gives is the exact posterior over the pixels under a uniform prior."""
    model, anchors = tiny(), healpix_anchors(16)
    x_0 = math.sqrt(4 * math.pi) * shdd.encode(anchors, 7).float()
    t = torch.tensor(10)
    alpha_bar = model.alpha_bar[t - 1].float()
    x_t = diffusion.q_sample(x_0[1234], alpha_bar, torch.randn(64))
    log_likelihood = -((x_t - alpha_bar.sqrt() * x_0) ** 2).sum(-1) / (2 * (1 - alpha_bar))
    posterior = torch.softmax(model.quadrature.synthesis(model(x_t, t, torch.zeros(5))), -1)
    torch.testing.assert_close(posterior, torch.softmax(log_likelihood, -1), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("solver", "steps"), [("ddim", None), ("ddim", 1), ("ddim", 20), ("dpm++", 10)])
def test_samples_follow_the_density_that_one_pass_gives(solver, steps):
    """With a known density of two unequal modes, the sampler visits each as often as its mass says."""
    two = 12.0 / 8 * shdd.encode(torch.tensor([[40.0, -100.0], [-25.0, 135.0]]), 7).float()
    model = with_prior(two[0] * 1.06 + two[1])
    embeddings = torch.zeros(40, 5)
    density = model.density(embeddings)
    places = model.decode(model.sample(embeddings, 50, steps, seed=3, solver=solver)).flatten(0, 1)
    for truth in ([40.0, -100.0], [-25.0, 135.0], [0.0, 0.0]):
        truth = torch.tensor([truth], dtype=torch.float64)
        hits = metrics.score(places, truth.expand(len(places), 2))["accuracy"]
        mass = pixels.mass_within(density[:1], model.anchors, truth)[0] * 100
        mass = dict(zip(pixels.THRESHOLDS_KM, mass.tolist(), strict=True))
        assert abs(hits[2500] - mass[2500]) < 5, (truth, hits[2500], mass[2500])
    assert hits[2500] < 20


def test_samples_repeat_by_seed_and_picture_position():
    model, embeddings = tiny(), torch.randn(3, 5)
    first = model.sample(embeddings, samples=2, seed=1)
    torch.testing.assert_close(model.sample(embeddings[:1], samples=2, seed=1), first[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.sample(embeddings, samples=2, seed=1), first, rtol=0, atol=0)
    torch.testing.assert_close(model.sample(embeddings[2:], 2, seed=1, first=2), first[2:], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.sample(embeddings, samples=2, seed=2), first)
    assert not torch.allclose(first[:, 0], first[:, 1])
    assert not torch.allclose(model.sample(embeddings, samples=2, seed=1, solver="dpm++"), first)
    model.chunk = 1  # which bounds the memory and changes nothing else
    torch.testing.assert_close(model.sample(embeddings, samples=2, seed=1), first, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.to_density(model.one_pass(embeddings)), tiny().density(embeddings))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_gives_densities_and_known_mass(loss):
    model = tiny(loss=loss)
    embeddings, truth = torch.randn(6, 5), torch.tensor([[10.0, 20.0]] * 6, dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    torch.manual_seed(0)
    before = model.loss(embeddings.repeat(20, 1), truth.repeat(20, 1)).mean()
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(embeddings, truth).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as in training; cosine starts with a huge gradient
        optimizer.step()
    torch.manual_seed(0)
    assert model.loss(embeddings.repeat(20, 1), truth.repeat(20, 1)).mean() < before
    density = model.density(embeddings)
    assert density.shape == (6, 3072) and (density >= 0).all()
    torch.testing.assert_close(density.sum(-1), torch.ones(6), rtol=1e-5, atol=1e-5)
    x_0 = model.denoise(torch.randn(6, 64), torch.tensor(20), embeddings)
    torch.testing.assert_close(x_0[:, 0], torch.ones(6), rtol=1e-4, atol=1e-4)
    if loss == "cosine":  # which leaves the length free: every clean encoding has the square (l_max + 1)^2
        torch.testing.assert_close((x_0[:, 1:] ** 2).sum(-1), torch.full((6,), 63.0), rtol=0.02, atol=0)


def test_unless_asked_a_sample_takes_the_steps_that_its_loss_needs():
    """One where the last level draws from a density; more where it gives a mean."""
    assert tiny(sample_steps=0).config.sample_steps == 1
    asked = {"loss": "l2", "exact_skip": False}
    assert tiny(sample_steps=0, **asked).config.sample_steps == 10
    assert tiny(sample_steps=0, noise_levels=4, **asked).config.sample_steps == 4
    assert tiny(sample_steps=7, **asked).config.sample_steps == 7


def test_the_likelihood_is_that_of_the_density():
    """At pure noise the training loss is -log of the density per steradian, pixel for pixel."""
    model = tiny(noise_levels=2, sample_steps=1)
    torch.nn.init.normal_(model.network.head.weight, std=0.05)
    embeddings, place = torch.randn(1, 5), healpix_anchors(16)[700:701]
    with torch.no_grad():
        coeffs = shdd.encode(place, 7).float()
        output = model(torch.zeros(1, 64), torch.tensor(2), embeddings)
        loss = (
            torch.logsumexp(model.quadrature.synthesis(output), -1)
            + math.log(4 * math.pi / 3072)
            - (output * coeffs).sum()
        )
        expected = -(model.density(embeddings)[0, 700] * 3072 / (4 * math.pi)).log()
        losses = {round(model.loss(embeddings, place).item(), 3) for _ in range(30)}
    torch.testing.assert_close(loss[0], expected, rtol=1e-4, atol=1e-4)
    assert round(loss.item(), 3) in losses  # drawn whenever the noise level is the last


def test_a_loaded_model_is_the_saved_one(tmp_path):
    model, embeddings = tiny(), torch.randn(3, 5)
    torch.nn.init.normal_(model.network.head.weight)
    model.save(tmp_path / "run")
    again = LocDiffusion.load(tmp_path / "run", "cpu")
    assert again.config == model.config
    torch.testing.assert_close(again.density(embeddings), model.density(embeddings), rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]


def damage(folder, what):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "cut weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    elif what == "no config":
        path.unlink()
    elif what == "no json":
        path.write_text("{")
    else:
        path.write_text(json.dumps(config | what))


def test_a_model_of_the_hub_is_found_where_it_was_downloaded_to(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = tiny()
    downloaded = tmp_path / "hub" / "models--me--my-model"
    model.save(downloaded / "snapshots" / "0123abcd")
    (downloaded / "refs").mkdir()
    (downloaded / "refs" / "main").write_text("0123abcd")
    loaded = LocDiffusion.load("me/my-model", "cpu", local_files_only=True)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"me/other is neither a folder nor a model that can be had.*give the folder"):
        LocDiffusion.load("me/other", "cpu", local_files_only=True)
    monkeypatch.chdir(tmp_path)  # a folder `hub` exists: a name in it is a path, and nothing is asked of the network
    for absent in ("hub/other", "absent", tmp_path / "absent", "./hub/other"):
        with pytest.raises(InputError, match=r"config.json is missing"):
            LocDiffusion.load(absent, "cpu")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"width": 17}, "does not fit"), ({"format_version": 99}, "format version 99"),
        ({"color": 1}, "unknown settings: color"), ("no weights", "is missing"), ("cut weights", "damaged"),
        ("no config", "is missing"), ("no json", "no model configuration"),
    ],
)  # fmt: skip
def test_a_damaged_model_folder_is_refused_by_name(tmp_path, what, message):
    tiny().save(tmp_path)
    damage(tmp_path, what)
    with pytest.raises(InputError, match=message) as error:
        LocDiffusion.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")

    def full_disk(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        write_atomically(path, full_disk)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_wrong_embeddings_are_refused():
    model = tiny()
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 5\)"), (torch.full((1, 5), math.nan), "NaN")]:
        for use in (model.density, model.sample, model.predict):
            with pytest.raises(InputError, match=message):
                use(wrong)
    assert model.predict(torch.empty(0, 5)) == []
    assert model.sample(torch.empty(0, 5)).shape == (0, 16, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "l2"},
        {"sample_steps": -1},
        {"sample_steps": 41},
        {"depth": 3},
        {"dropout": 1.0},
        {"noise_levels": 0},
        {"loss": "foo", "exact_skip": False},
        {"schedule": "x"},
        {"snr_first": 0.0},
        {"rho_km": -1.0},
        {"time_dim": 31},
    ],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(InputError):
        ModelConfig(**TINY | wrong)


def test_predictions_come_from_the_density():
    """Two hills of known places: their tops, the probabilities those of the density, radii and areas too."""
    here, there = torch.tensor([[48.9, 2.4]]), torch.tensor([[-25.0, 135.0]])
    model = with_prior(2.2 * shdd.encode(here, 7).float()[0] + 2 * shdd.encode(there, 7).float()[0])
    first, second = model.predict(torch.zeros(2, 5), top_k=3)
    assert first.places == second.places and len(first.places) == len(first.probabilities) == 3
    for place, hill in zip((here, there), first.places, strict=False):
        distance = great_circle_km(place.double(), torch.tensor(hill, dtype=torch.float64))
        assert distance < 300  # each hill stands on the ripples of the other
    density = model.density(torch.zeros(1, 5))
    mass = pixels.mass_within(density, model.anchors, here.double())[0]
    assert first.probabilities[0] > first.probabilities[1] > 0.1 and sum(first.probabilities) <= 1.0001
    for k, expected in zip(pixels.THRESHOLDS_KM, mass, strict=True):
        lat, lon, probability = first.within[k]
        if k >= 750:  # some pixels
            assert probability == pytest.approx(expected.item(), rel=0.1)
            assert great_circle_km(here[0].double(), torch.tensor([lat, lon])) < 1000
    assert len(first.samples) == 16 and first.samples != second.samples and len(first.center) == 2
    everything = model.predict(torch.zeros(1, 5), samples=0, top_k=1000)[0]
    assert everything.samples == [] and math.isnan(everything.center[0])
    assert 2 < len(everything.places) < 100 and min(everything.probabilities) > 0
    assert sum(everything.probabilities) == pytest.approx(1, abs=1e-4)
    assert 0 < first.radius_50_km < first.radius_90_km and 0 < first.area_50_km2 < first.area_90_km2


@pytest.mark.parametrize("l_max", [7, 15, 23])
def test_the_quadrature_is_fine_enough_for_the_sharpest_level(l_max):
    """log Z at the first level, against pixels of a third of the side, to a few hundredths of a nat."""
    model = tiny(l_max=l_max, quadrature_nside=0)
    alpha_bar = model.alpha_bar[0].float()
    place = torch.tensor([[12.3, 45.6], [89.9, 0.0], [-41.8, 10.0]])
    x_0 = math.sqrt(4 * math.pi) * shdd.encode(place, l_max)
    x_1 = diffusion.q_sample(x_0, alpha_bar, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)))
    sharp = diffusion.bayes_skip(x_1, alpha_bar)
    fine = HealpixTransform(l_max, 3 * model.config.integration_nside)
    torch.testing.assert_close(model.quadrature.log_partition(sharp), fine.log_partition(sharp), rtol=0, atol=0.1)
    assert tiny(l_max=23, quadrature_nside=0).config.integration_nside == 32


def test_the_likelihood_of_a_place_is_that_of_its_pixel():
    """A model trained by likelihood knows it between the pixels; at their centres both agree, and any model has one."""
    by_likelihood = with_prior(2 * shdd.encode(torch.tensor([[48.9, 2.4]]), 7).float()[0])
    for model in (by_likelihood, tiny(loss="l2")):
        coeffs = model.one_pass(torch.zeros(9, 5))
        shares, places = model.to_density(coeffs), model.anchors[100:1000:100]
        expected = (shares[0, 100:1000:100] * 3072 / (4 * math.pi)).log()
        found = model.log_likelihood(coeffs, shares, places)
        torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=1e-3)


def test_config_survives_a_round_trip_through_json():
    config = ModelConfig(**TINY)
    assert ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
