"""Figures 1 and 2: what they measure, and that they see what is wrong."""

import figure_1
import figure_2
import numpy as np
import pytest
import torch
from support.figures import csv_rows, holds, is_png, make, numbers

from locdiff.model import cs_unet
from locdiff.training.settings import resolve
from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import delta_kernel, encode


@pytest.fixture(scope="module")
def small(cache, tmp_path_factory):
    """The output folder of the two figures at their smallest scale."""
    return make(tmp_path_factory.mktemp("small"), "figure_1", "figure_2")


@pytest.mark.parametrize(("name", "count"), [("figure_1", 4 * 8), ("figure_2", 6 + 2)])
def test_a_figure_draws_its_numbers(small, name, count):
    assert is_png(small / f"{name}.png") and len(csv_rows(small / f"{name}.csv")) == count
    text = (small / f"{name}.md").read_text()
    assert f"({name}.png)" in text and ("only show that the program runs" in text) == (name == "figure_1")


def test_figure_1_nonlinearity_is_what_no_increasing_function_explains():
    rng = np.random.default_rng(0)
    km = rng.uniform(0, 2000, 500)
    assert figure_1.nonlinearity(km, 3 * km) == pytest.approx(0, abs=1e-12)
    assert figure_1.nonlinearity(km, np.minimum(km, 700) ** 2) == pytest.approx(0, abs=1e-12)
    assert figure_1.nonlinearity(km, -km) == pytest.approx(1)
    assert 0.9 < figure_1.nonlinearity(km, rng.normal(size=500)) <= 1
    signal, noise = km / km.std(), rng.normal(size=500)
    assert figure_1.nonlinearity(km, signal + noise) == pytest.approx(0.5, abs=0.1)


def test_figure_1_counts_false_minima():
    x, y = np.meshgrid(np.arange(21), np.arange(21))
    bowl = np.hypot(x - 10.0, y - 10.0)
    dented = bowl - 5 * ((x == 4) & (y == 7)) - 9 * (x == 0)
    np.testing.assert_array_equal(np.argwhere(figure_1.false_minima(bowl)), [[10, 10]])
    np.testing.assert_array_equal(np.argwhere(figure_1.false_minima(dented)), [[7, 4], [10, 10]])


def test_figure_1_map_is_the_closed_form_and_noise_is_as_long_as_said():
    scale = figure_1.Scale(pixels=0, nside=8, places=40)
    square = torch.tensor([figure_1.PARIS, (50.0, 10.0), (20.0, 30.0), (-48.86, -177.65)], dtype=torch.float64)
    own = figure_1.measure(lambda lat_lon: torch.from_numpy(encode(lat_lon.numpy(), 11)).float(), square, scale)
    angle = great_circle_km(np.array(figure_1.PARIS), square.numpy()) / EARTH_RADIUS_KM
    expected = np.sqrt(2 * (delta_kernel(0.0, 11) - delta_kernel(angle, 11)).clip(min=0))
    np.testing.assert_allclose(own["map"], expected / expected.max(), atol=1e-5)
    assert not own["drift"][:2].any() and own["drift"][-1].any()
    np.testing.assert_allclose(own["off"][:2], figure_1.NOISES[:2], rtol=0.05)


def test_figure_1_says_which_encoder_is_smoother_and_safer(small):
    result = numbers(small, "figure_1")
    assert holds(figure_1.claims(result)) == [True, True]
    result["nonlinearity"] = result["nonlinearity"][::-1]
    assert holds(figure_1.claims(result)) == [False, True]
    result["drift"] = result["drift"][::-1]
    assert holds(figure_1.claims(result)) == [False, False]


def test_figure_2_counts_the_parameters_of_the_networks(small):
    result = numbers(small, "figure_2")
    for name in figure_2.PRESETS:
        c = resolve(name, l_max=23).model
        network = c_s_unet(c)
        total = sum(p.numel() for p in network.parameters())
        assert result[f"{name}_blocks"][:, 2].sum() + result[f"{name}_parameters"][1] == total
        assert result[f"{name}_parameters"][0] == total and result[f"{name}_checks"].all()
        weights = result[f"{name}_parts"].prod(axis=-1).sum() + result[f"{name}_parts"][..., 1].sum()  # and biases
        assert weights == result[f"{name}_blocks"][:, 2].sum()
    text = (small / "figure_2.md").read_text()
    assert "| paper | together |  | 2,739,408 |" in text and "| quickstart | together |  | 2,080,912 |" in text
    assert holds(figure_2.claims(result)) == [True] * 8
    result["quickstart_checks"][3] = False
    claims = figure_2.claims(result)
    assert holds(claims) == [True] * 3 + [False] + [True] * 4
    assert claims[3].claim == list(figure_2.CHECKS)[3] and claims[3].ours == "paper: yes, quickstart: no"


def c_s_unet(config):
    c = config.network
    return cs_unet.CSUNet(c.dimensions, config.embed_dim, c.width, c.depth, c.time_dim, c.dropout)


def other_image(self, x, t, image):
    time, skips = cs_unet.sinusoidal_embedding(t, self.d_time).to(x.dtype), []
    for block in self.down:
        skips.append(x)
        x = block(x, time, image)
    for block in self.up:
        x = block(x, time, 2 * image) + skips.pop()
    return self.head(x)


def no_one(self, x, time, image):
    scale, shift = self.from_time(time).chunk(2, dim=-1)
    return torch.sin(self.out(scale * self.from_x(x) + shift + self.from_image(image)))


def no_skips(self, x, t, image):
    time = cs_unet.sinusoidal_embedding(t, self.d_time).to(x.dtype)
    for block in [*self.down, *self.up]:
        x = block(x, time, image)
    return self.head(x)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []), ({"width": 16}, [1]), ({"l_max": 15}, [5]), ({"time_dim": 100}, [5]), ({"depth": 4}, [6]),
        ("block", [0]), (no_skips, [3]), (other_image, [4]), ("layer", [7]), ("not mirrored", [2, 3]),
    ],
)  # fmt: skip
def test_figure_2_sees_what_is_wired_otherwise(change, broken, monkeypatch):
    config = resolve("paper", l_max=23).model
    if isinstance(change, dict):
        config = resolve("paper", **{"l_max": 23} | change).model
    network = c_s_unet(config)
    if callable(change):
        monkeypatch.setattr(cs_unet.CSUNet, "forward", change)
    elif change == "layer":
        network.more = torch.nn.Linear(2, 2)
    elif change in ({"width": 16}, {"depth": 4}):
        config = resolve("paper", l_max=23).model
    elif change == "block":
        monkeypatch.setattr(cs_unet.CSiren, "forward", no_one)
    elif change == "not mirrored":
        monkeypatch.setattr(cs_unet.CSUNet, "forward", no_skips)
        network.up[0] = cs_unet.CSiren(32, 100, 200, 768, 0.0)
        network.up[1] = cs_unet.CSiren(100, 220, 200, 768, 0.0)
    found = figure_2.checks(network, config)
    assert [i for i, ok in enumerate(found) if not ok] == broken
