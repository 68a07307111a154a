"""Settings: presets, what is refused, and the folder that a run keeps them in."""

import dataclasses
import json

import pytest
import torch
from support.training import SMALL, pictures

from locdiff import options
from locdiff.errors import InputError
from locdiff.sphere.healpix import interpolation
from locdiff.training.settings import infer_data_fields, read_settings, resolve, start


def test_the_paper_preset_is_table_3():
    for l_max, d in [(15, 256), (23, 576), (31, 1024), (47, 2304)]:
        settings = resolve("paper", l_max=l_max)
        model, training = settings.model, settings.training
        network, objective = model.network, model.objective
        assert (network.dimensions, model.embed_dim, network.time_dim, network.dropout) == (d, 768, 200, 0.3)
        assert (objective.loss, objective.temperature, objective.anchors) == ("shdd_kl", 1.0, 2048)
        assert (model.diffusion.noise_levels, model.sample_steps) == (100, 100)
        assert (training.batch, training.lr, training.epochs, training.steps) == (512, 1e-4, 500, 0)
        assert (training.beta1, training.beta2, training.weight_decay, training.samples) == (0.9, 0.99, 5e-4, 16)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"batch": 0}, {"steps": 0}, {"beta1": 1.0}, {"nonsense": 1}, {"l_max": -1}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        resolve("quickstart", **wrong)
    with pytest.raises(InputError, match="unknown preset 'large'; there are quickstart, zoom, names, paper, smoke"):
        resolve("large")


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_what_has_no_option_is_inferred_from_the_data(levels):
    """The encoder, the width and, where there are refinement levels, the cells of level 1 that have a picture."""
    settings = infer_data_fields(resolve("smoke", **SMALL | {"levels": levels, "embed_dim": 99}), pictures())
    model = settings.model
    assert (model.encoder, model.embed_dim) == ("test", 6)
    cells = {int(c) for c in interpolation(8, torch.from_numpy(pictures().lat_lon))[0].flatten()}
    assert model.refinement.cells == ((len(cells),) if levels > 1 else ())
    assert infer_data_fields(settings, pictures()) == settings


def test_runs_get_free_names_and_their_settings_back(tmp_path):
    settings = resolve("smoke", l_max=9)
    first, second = (start(settings, tmp_path / "a" / "smoke") for _ in range(2))
    assert (first.name, second.name) == ("smoke", "smoke-2")
    assert read_settings(second) == settings
    record = json.loads((first / "training.json").read_text())
    assert record["versions"]["torch"] == torch.__version__
    assert record["settings"]["model"] == json.loads(json.dumps(dataclasses.asdict(settings.model)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the run folder"):
        start(settings, tmp_path / "file" / "run")


def test_settings_of_an_older_run_are_read(tmp_path):
    """Before 0.2 the model's were flat, and some had other names."""
    model = {"encoder": "ViT-L-14/openai", "l_max": 9, "shift": 4.0, "pure_noise": 0.5, "solver": "dpm++", "levels": 2}
    record = {"model": model | {"zoom_cells": [7]}, "training": {"lr": 0.5}, "blue_marble": {"colour": 0.3}}
    (tmp_path / "training.json").write_text(json.dumps({"settings": record}))
    found = read_settings(tmp_path)
    names = {"encoder": "open_clip:ViT-L-14/openai+gelu", "l_max": 9, "snr_shift": 4.0, "p_pure_noise": 0.5}
    names |= {"sampler": "dpm++", "levels": 2, "cells": (7,), "lr": 0.5, "color": 0.3}
    names |= {"validation": 0.0, "prior_l_max": 0}  # there was none; the prior had the degrees of the network
    assert found == options.nest(type(found), names)


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"settings": {}}', '{"settings": {"model": {"nonsense": 1}}}'])
def test_settings_that_cannot_be_read_are_named(tmp_path, record):
    (tmp_path / "training.json").write_text(record)
    with pytest.raises(InputError, match=r"cannot read the training settings in .*training.json"):
        read_settings(tmp_path)


def test_epochs_are_not_overruled_by_the_presets_steps():
    training = resolve("smoke", epochs=3).training
    assert (training.steps, training.epochs) == (0, 3)
    with pytest.raises(InputError, match="give one of them"):
        resolve("smoke", epochs=3, steps=10)
