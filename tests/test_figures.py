"""Figures 1, 2 and 4(a) and the low-pass filter: what they measure, and that they see what is wrong."""

import csv
import dataclasses
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from locdiff.model import cs_unet
from locdiff.sphere import pixels
from locdiff.training.settings import resolve
from reference.coordinates import EARTH_RADIUS_KM, great_circle_km
from reference.shdd import delta_kernel, encode

sys.path.insert(0, str(Path(__file__).parent.parent / "paper_figures"))  # where the script itself looks
make_all, comparison, context_module = map(importlib.import_module, ("make_all", "comparison", "context"))
figure_1, figure_2, figure_4a, figure_4_low_pass, figure_4a_zoom = (
    make_all.ARTEFACTS[name] for name in ("figure_1", "figure_2", "figure_4a", "figure_4_low_pass", "figure_4a_zoom")
)
SMALL = ["figure_1", "figure_2", "figure_4a", "figure_4_low_pass", "figure_4a_zoom"]


@pytest.fixture(scope="module")
def small(cache, geoclip, tmp_path_factory):
    """The output folder of four artefacts at their smallest scale."""
    folder = tmp_path_factory.mktemp("small")
    make_all.main(["--scale", "smoke", "--only", *SMALL, "--out", str(folder)])
    return folder


def numbers(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", SMALL)
def test_an_artefact_draws_its_numbers(small, name):
    assert (small / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    text = (small / f"{name}.md").read_text()
    assert f"({name}.png)" in text and ("Verdict: at scale smoke" in text or name == "figure_2")
    with open(small / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["low"]) <= float(row["per cent"]) <= float(row["high"]) for row in rows if "per cent" in row)
    counts = {"figure_1": 4 * 8, "figure_2": 6 + 2, "figure_4a": 2 * 2 * 5, "figure_4_low_pass": 4 * 4}
    assert len(rows) == (counts | {"figure_4a_zoom": 3 * 5 * (4 * 2 + 4)})[name]


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


def test_figure_1_says_which_encoder_is_smoother(small):
    result = numbers(small, "figure_1")
    assert figure_1.verdict(result).startswith("reproduced")
    result["nonlinearity"] = result["nonlinearity"][::-1]
    assert figure_1.verdict(result).startswith("differs")


def test_figure_2_counts_the_parameters_of_the_networks(small):
    result = numbers(small, "figure_2")
    for name in figure_2.PRESETS:
        c = resolve(name, l_max=23).model
        network = cs_unet.CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout)
        total = sum(p.numel() for p in network.parameters())
        assert result[f"{name}_blocks"][:, 2].sum() + result[f"{name}_parameters"][1] == total
        assert result[f"{name}_parameters"][0] == total and result[f"{name}_checks"].all()
        weights = result[f"{name}_parts"].prod(axis=-1).sum() + result[f"{name}_parts"][..., 1].sum()  # and biases
        assert weights == result[f"{name}_blocks"][:, 2].sum()
    assert "2,739,408 (paper) and 2,080,912" in figure_2.verdict(result)
    result["quickstart_checks"][3] = False
    assert figure_2.verdict(result).startswith(f"differs: not so: {figure_2.CHECKS[3]} (quickstart)")


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
    c = resolve("paper", l_max=23).model
    if isinstance(change, dict):
        c = dataclasses.replace(c, **change)
    network = cs_unet.CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout)
    if callable(change):
        monkeypatch.setattr(cs_unet.CSUNet, "forward", change)
    elif change == "layer":
        network.more = torch.nn.Linear(2, 2)
    elif change in ({"width": 16}, {"depth": 4}):
        c = dataclasses.replace(c, width=32, depth=6)
    elif change == "block":
        monkeypatch.setattr(cs_unet.CSiren, "forward", no_one)
    elif change == "not mirrored":
        monkeypatch.setattr(cs_unet.CSUNet, "forward", no_skips)
        network.up[0] = cs_unet.CSiren(32, 100, 200, 768, 0.0)
        network.up[1] = cs_unet.CSiren(100, 220, 200, 768, 0.0)
    found = figure_2.checks(network, c)
    assert [i for i, ok in enumerate(found) if not ok] == broken


@pytest.mark.parametrize("l_max", [15, 23, 47])
def test_figure_4a_bound_is_the_curvature_of_the_peak(l_max):
    """F falls by curvature / 2 times the angle squared; noise of variance s^2 moves the top by s / sqrt(curvature)."""
    angle = 1e-3
    curvature = 2 * (delta_kernel(0.0, l_max) - delta_kernel(angle, l_max)) / angle**2
    expected = EARTH_RADIUS_KM * 0.1 * np.sqrt(np.pi / 2 / curvature)  # the mean of a Rayleigh distribution
    assert figure_4a.cramer_rao_km(l_max) == pytest.approx(expected, rel=1e-3)


def test_figure_4a_noisy_encodings_are_decoded_to_the_bound():
    assert figure_4a._limit(15, 400)["errors"].mean() == pytest.approx(figure_4a.cramer_rao_km(15), rel=0.1)


def test_figure_4a_trains_each_degree_alike(small):
    result = numbers(small, "figure_4a")
    assert result["hits"].shape == (2, 2, 40, len(pixels.THRESHOLDS_KM)) and list(result["degrees"]) == [5, 7]
    assert "20 steps of 64" in str(result["about"]) and (np.diff(result["hits"].mean(axis=2), axis=-1) >= 0).all()


@pytest.mark.parametrize(("factor", "said"), [(1, "reproduced: a larger L helps, most"), (-1, "differs")])
def test_figure_4a_says_what_the_hits_say(factor, said):
    rng = np.random.default_rng(0)
    gains = factor * np.array([0.0, 0.2, 0.2, 0.02, 0.01])
    right = [rng.random((2, 500, 5)) < 0.5 + gains * share for share in (0, 1)]
    result = {"degrees": np.array([15, 47]), "hits": np.array(right), "errors": np.array([[20.0, 24.0], [2.0, 3.0]])}
    verdict = figure_4a.verdict(result)
    assert verdict.startswith(said) and "from 22.0 to 2.5 km" in verdict


def test_low_pass_keeps_the_largest():
    largest = torch.tensor([0.3, 2.0, 0.1, 1.0])
    assert figure_4_low_pass.low_pass(largest, 2).tolist() == [0, 1, 0, 1]


def test_low_pass_with_all_dimensions_loses_nothing(small):
    result = numbers(small, "figure_4_low_pass")
    errors = dict(zip(figure_4_low_pass.ROWS, result["errors"], strict=True))
    assert result["kept"][0] == 144 and result["energy"][0] == pytest.approx(1)
    assert errors[figure_4_low_pass.FILTER][0].max() < 0.01  # km
    assert errors[figure_4_low_pass.FILTER][-1].min() > 1
    assert errors[figure_4_low_pass.SMALLER].max() < 0.1  # of an encoding without noise, at any l_max
    noisy = errors[figure_4_low_pass.SMALLER + figure_4_low_pass.NOISY].mean(axis=1)
    bound = [figure_4a.cramer_rao_km(round(n**0.5) - 1) for n in result["kept"]]
    np.testing.assert_allclose(noisy, bound, rtol=0.3)
    # the addition theorem: the mean square over the sphere is the same in every dimension
    np.testing.assert_allclose(result["energy"], result["kept"] / 144, atol=0.02)


def test_low_pass_says_which_is_better(small):
    result = numbers(small, "figure_4_low_pass")
    assert figure_4_low_pass.verdict(result).startswith("differs")
    result["errors"] = result["errors"][[1, 0, 3, 2]]
    assert figure_4_low_pass.verdict(result).startswith("reproduced")


def test_figure_4a_zoom_low_pass_sees_and_gives_the_dimensions_of_large_coefficients_only():
    """Also where it is trained: the mask of the encoding, no gradient and no skip elsewhere."""
    config = dataclasses.replace(resolve("smoke").model, embed_dim=12)
    model = figure_4a_zoom.LowPass(20, config)
    torch.nn.init.normal_(model.network.head.weight)
    mask, embeddings = model.mask.bool(), torch.randn(3, config.embed_dim)
    assert mask.sum() == 20 and not mask[0]  # the constant coefficient is the smallest of all
    x_t = torch.randn(3, config.dimensions)
    for t in (1, config.noise_levels):
        output = model(x_t, torch.tensor(t), embeddings)
        assert (output[:, ~mask] == 0).all() and (output[:, mask] != 0).all()
        torch.testing.assert_close(model(x_t * mask, torch.tensor(t), embeddings), output, rtol=0, atol=0)
    assert model.network.head.out_features == 20
    assert model.loss(embeddings, torch.rand(3, 2)).shape == (3,)


@pytest.mark.parametrize(("gain", "said"), [(0.3, "loses nowhere"), (-0.3, "loses at 1 km, 25 km")])
def test_figure_4a_zoom_says_what_the_hits_say(gain, said):
    """Of the longest training; where zoom gains the hybrid adds retrieval's hits, else it is retrieval."""
    rng = np.random.default_rng(0)
    base = rng.random((2, 2, 400, 5)) < 0.3
    zoom = rng.random((1, 2, 400, 5)) < 0.3 + gain * np.array([-1, 1])[:, None, None]
    other = np.stack([base[0, 0], (zoom[0, -1] & (gain > 0)) | base[0, 0]])
    names = [figure_4a_zoom.RETRIEVAL, figure_4a_zoom.HYBRID]
    result = {"names": np.array(["L = 5", "L = 7", figure_4a_zoom.ZOOM]), "hits_0": np.concatenate([base, zoom])}
    text, verdict = figure_4a_zoom._compare(result | {"others_0": np.array(names), "other_hits_0": other}, 0)
    assert said in verdict and ("it beats both its parts at 25 km" in verdict) == (gain > 0)
    k = zoom[0, -1, :, 1].mean() / max(base[:, -1, :, 1].mean(axis=1))
    assert f"has {k:.1f} times" in verdict and text.count("25 km") == 2
