"""The configuration of a model: what it refuses, what it derives, and that a checkpoint keeps every number."""

import dataclasses
import json
import math

import pytest
import torch
from support.models import tiny_config

from locdiff import options
from locdiff.errors import InputError
from locdiff.model.config import ModelConfig


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "l2", "exact_skip": True},
        {"sample_steps": -1},
        {"sample_steps": 41},
        {"depth": 3},
        {"dropout": 1.0},
        {"noise_levels": 0},
        {"loss": "foo", "exact_skip": False},
        {"schedule": "x"},
        {"sampler": "euler"},
        {"snr_first": 0.0},
        {"snr_shift": 0.0},
        {"p_pure_noise": 1.5},
        {"rho_km": -1.0},
        {"time_dim": 31},
        {"width": 0},
        {"l_max": -1},
        {"whiten": -0.1},
        {"input_gate_snr": 0.0},
        {"temperature": 0.0},
        {"anchors": 0},
        {"quadrature_nside": -1},
        {"decoder_nside": 0},
        {"embed_dim": 0},
        {"zoom_nside": 0},
        {"subdivision": 0},
        {"subdivision": 12},
        {"narrowest": 0.0},
        {"knots": ()},
        {"knots": (0.3, 0.1)},
        {"knots": (0.0, 0.1)},
        {"zoom_l_max": 96},
        {"snr_first": 1e300},
        {"snr_shift": 1e-300},
        {"whiten": 1e300},
        {"rho_km": 1e5},
        {"cells": (12 * 64 + 1,), "levels": 2, "whiten": 0.3},
    ],
    ids=str,
)
def test_impossible_configurations_are_refused_by_name(wrong):
    with pytest.raises(InputError, match="|".join(wrong)):
        tiny_config(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"zoom": 0.5},
        {"whiten": 0.0},
        {"loss": "l2", "exact_skip": False},
        {"zoom_into": 0},
        {"zoom_l_max": -1},
        {"levels": 0},
        {"levels": 6},
        {"zoom": 70.0, "levels": 3},
        {"cells": (3, 4)},
        {"cells": (0,)},
        {"levels": 1},
    ],
    ids=str,
)
def test_impossible_levels_are_named(wrong):
    with pytest.raises(InputError, match=r"levels|zoom"):
        tiny_config(**{"levels": 2, "whiten": 0.3, "cells": (5,)} | wrong)
    tiny_config(levels=2, whiten=0.3, cells=(5,))


def test_unless_asked_a_sample_takes_the_steps_that_its_loss_needs():
    """One where the last level samples from a density; more where it gives a mean."""
    assert tiny_config(sample_steps=0).sample_steps == 1
    assert tiny_config(sample_steps=0, loss="l2").sample_steps == 10
    assert tiny_config(sample_steps=0, noise_levels=4, loss="l2").sample_steps == 4
    assert tiny_config(sample_steps=7, loss="l2").sample_steps == 7


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] / 3) if value else (7,)
    return (abs(value) + 0.1) / 3 if isinstance(value, float) else 2 * value + 2


def numbers():
    flat = options.flatten(ModelConfig())
    return sorted(name for name, value in flat.items() if isinstance(value, int | float | tuple) and value is not True)


@pytest.mark.parametrize("name", numbers())
def test_every_number_goes_through_the_file_and_back(name):
    """Bit for bit, floats too; what is written is nested, and what is read is equal."""
    value = {"subdivision": 4, "whiten": 0.7}.get(name) or changed(options.flatten(ModelConfig())[name])
    needed = {"levels": 2} if name == "cells" else {}
    config = options.nest(ModelConfig, {name: value} | needed)
    assert config != options.nest(ModelConfig, needed)
    again = options.from_record(ModelConfig, json.loads(json.dumps(dataclasses.asdict(config), indent=2)))
    assert again == config and options.flatten(again)[name] == value


def test_numbers_that_shape_a_forward_pass_are_in_the_configuration():
    assert {"input_gate_snr", "subdivision", "zoom_nside", "narrowest", "knots"} <= {*numbers()}


def test_wrong_embeddings_are_refused():
    config = tiny_config()
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 5\)"), (torch.full((1, 5), math.nan), "NaN")]:
        with pytest.raises(InputError, match=message):
            config.check(wrong)
    config.check(torch.empty(0, 5))
    with pytest.raises(InputError, match=r"by 'other'.*trained on 'test'"):
        config.check_encoder("other")
    config.check_encoder("test")


def test_cells_can_be_told_without_changing_the_rest():
    config = tiny_config(levels=3, whiten=0.3)
    more = config.with_cells(4, 9)
    assert more.refinement.cells == (4, 9) and more.with_cells() == config
