"""Figure 4(a), the low-pass filter and conformal zoom: what they measure, and that they see what is wrong."""

import dataclasses

import figure_4_low_pass
import figure_4a
import figure_4a_zoom
import numpy as np
import pytest
import torch
from support.figures import csv_rows, holds, is_png, make, numbers

from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.training.settings import resolve
from reference.coordinates import EARTH_RADIUS_KM
from reference.shdd import delta_kernel

COUNTS = {"figure_4a": 2 * 2 * 5, "figure_4_low_pass": 4 * 4, "figure_4a_zoom": 3 * 5 * (4 * 2 + 4)}  # lines of csv


@pytest.fixture(scope="module")
def small(cache, tmp_path_factory):
    """The output folder of the three figures at their smallest scale."""
    return make(tmp_path_factory.mktemp("small"), *COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_a_figure_draws_its_numbers(small, name):
    text, rows = (small / f"{name}.md").read_text(), csv_rows(small / f"{name}.csv")
    assert is_png(small / f"{name}.png") and f"({name}.png)" in text and "only show that the program runs" in text
    assert all(float(row["low"]) <= float(row["per cent"]) <= float(row["high"]) for row in rows if "per cent" in row)
    assert len(rows) == COUNTS[name]


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
    assert result["hits"].shape == (2, 2, 40, len(THRESHOLDS_KM)) and list(result["degrees"]) == [5, 7]
    assert "20 steps of 64" in str(result["about"]) and (np.diff(result["hits"].mean(axis=2), axis=-1) >= 0).all()


@pytest.mark.parametrize(
    ("gains", "holding"),
    [
        ([0.0, 0.2, 0.2, 0.02, 0.01], [True, True, False]),
        ([0.0, 0.02, 0.1, 0.4, 0.4], [True, False, False]),
        ([0.0, 0.2, 0.2, 0.02, -0.2], [False, True, False]),
        ([0.0, -0.2, -0.2, -0.02, -0.01], [False, True, False]),
    ],
)
def test_figure_4a_says_what_the_hits_say(gains, holding):
    rng = np.random.default_rng(0)
    right = [rng.random((2, 500, 5)) < 0.5 + np.array(gains) * share for share in (0, 1)]
    result = {"degrees": np.array([15, 47]), "hits": np.array(right), "errors": np.array([[20.0, 24.0], [2.0, 3.0]])}
    result["title"] = "Views"
    claims = figure_4a.claims(result)
    assert holds(claims) == holding and claims[0].data == "Views" and claims[0].brief.count(" / ") == 4
    assert "22.0 to 2.5 km" in claims[2].ours and claims[2].paper == "1333 to 426 km"
    falls = claims[0].ours.split("falls at ")[1]
    assert falls.startswith("2500 km") == (gains[-1] == -0.2) and ("learns less" in falls) != holding[0]
    for errors, resolved in (([1333.0, 426.0], True), ([1333.0, 200.0], False), ([2700.0, 426.0], False)):
        result["errors"] = np.array(errors)[:, None]
        assert figure_4a.claims(result)[2].holds is resolved


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
    assert holds(figure_4_low_pass.claims(result)) == [False, False]
    result["errors"] = result["errors"][[1, 0, 3, 2]]
    assert holds(figure_4_low_pass.claims(result)) == [True, False]
    result["rms"][5] /= 3
    assert holds(figure_4_low_pass.claims(result)) == [True, True]


def test_figure_4a_zoom_low_pass_sees_and_gives_the_dimensions_of_large_coefficients_only():
    """Also where it is trained: the mask of the encoding, no gradient and no skip elsewhere."""
    config = dataclasses.replace(resolve("smoke").model, embed_dim=12)
    model = figure_4a_zoom.LowPass(20, config)
    torch.nn.init.normal_(model.network.head.weight)
    mask, embeddings = model.mask.bool(), torch.randn(3, config.embed_dim)
    assert mask.sum() == 20 and not mask[0]  # the constant coefficient is the smallest of all
    x_t = torch.randn(3, config.network.dimensions)
    for t in (1, config.diffusion.noise_levels):
        output = model(x_t, torch.tensor(t), embeddings)
        assert (output[:, ~mask] == 0).all() and (output[:, mask] != 0).all()
        torch.testing.assert_close(model(x_t * mask, torch.tensor(t), embeddings), output, rtol=0, atol=0)
    assert model.network.head.out_features == 20
    assert model.loss(embeddings, torch.rand(3, 2)).shape == (3,)


@pytest.mark.parametrize(("gain", "behind"), [(0.3, "none"), (-0.3, "1 km, 25 km")])
def test_figure_4a_zoom_says_what_the_hits_say(gain, behind):
    """Of the longest training; where zoom gains the hybrid adds retrieval's hits, else it is retrieval."""
    rng = np.random.default_rng(0)
    base = rng.random((2, 2, 400, 5)) < 0.3
    zoom = rng.random((1, 2, 400, 5)) < 0.3 + gain * np.array([-1, 1])[:, None, None]
    other = np.stack([base[0, 0], (zoom[0, -1] & (gain > 0)) | base[0, 0]])
    names = [figure_4a_zoom.RETRIEVAL, figure_4a_zoom.HYBRID]
    result = {"names": np.array(["L = 5", "L = 7", figure_4a_zoom.ZOOM]), "hits_0": np.concatenate([base, zoom])}
    result |= {"others_0": np.array(names), "other_hits_0": other, "title_0": np.array("Views: of Earth")}
    ahead, nowhere, hybrid = figure_4a_zoom.claims(result, 0)
    assert nowhere.ours.split("behind at ")[1].startswith(behind) and nowhere.holds == (behind == "none")
    assert ahead.holds == hybrid.holds == (gain > 0) and ahead.claim.startswith("Views: ")
    k = zoom[0, -1, :, 1].mean() / max(base[:, -1, :, 1].mean(axis=1))
    assert ahead.ours.startswith(f"{k:.1f} times") and hybrid.ours.count(" at 25 km") == 1
