"""Exported files: the same numbers as the model's, for any number of pictures, and what a file says of itself."""

import io
import json
import math
import zipfile

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.models import seeing, tiny, zoomed

from locdiff.errors import InputError
from locdiff.model import exported
from locdiff.sphere.healpix import HealpixTransform

PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")  # how torch.save and pickle begin


def calibrated(**changes):
    """A model of two densities, with a prior, whose outputs depend on the picture."""
    model = seeing(**changes)
    model.objective.broad.copy_(torch.tensor([0.3, 0.5]))
    model.calibration.scale.copy_(torch.tensor([1.5, 0.7]))
    model.calibration.set_prior(torch.randn(144))
    model.network.whiten.mean.normal_()
    model.network.whiten.matrix.mul_(2)
    return model


def regression(loss, **changes):
    model = seeing(loss=loss, **changes)
    torch.nn.init.normal_(model.network.head.bias)
    return model


def refined():
    model = zoomed(noise=0.5)
    torch.nn.init.normal_(model.network.head.weight, std=0.1)
    return model


MODELS = {
    "calibrated": calibrated,
    "without the skip": lambda: calibrated(exact_skip=False, schedule="cosine"),
    "as they are": lambda: seeing(whiten=0.0, std=0.5),
    "l2": lambda: regression("l2"),
    "cosine": lambda: regression("cosine"),
    "shdd_kl": lambda: regression("shdd_kl", whiten=0.0),
    "level 0": refined,
}


def level_0(model, embeddings):
    coeffs = model.one_pass(embeddings)
    return coeffs, model.objective.pixel_probs(model.objective.on_pixels(coeffs, model.grid))


@given(st.integers(0, 12), st.sampled_from([1, 2, 4, 8, 16]), st.integers(0, 3))
@example(0, 1, 1)
@example(23, 16, 2)
@example(30, 2, 2)
def test_plain_operations_give_the_function_on_the_pixels(l_max, nside, n):
    grid = HealpixTransform(l_max, nside)
    coeffs = torch.randn(n, (l_max + 1) ** 2)
    expected = grid.synthesis(coeffs)
    found = exported.PlainSynthesis(grid)(coeffs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=4e-6 * (l_max + 1))


@pytest.mark.parametrize("name", MODELS)
def test_the_module_gives_the_numbers_of_the_model(name):
    model, embeddings = MODELS[name](), torch.randn(3, 5)
    coeffs, probs = level_0(model, embeddings)
    with torch.no_grad():
        found = exported.OnePass(model)(embeddings)
    torch.testing.assert_close(found[0], coeffs, rtol=0, atol=1e-6 * coeffs.abs().max().item())
    torch.testing.assert_close(found[1], probs, rtol=0, atol=2e-6)
    if not model.refinements:
        torch.testing.assert_close(found[1], model.posterior(embeddings).pixel_probs, rtol=0, atol=2e-6)
    assert probs[0].max() > 2 * probs[0].min() and not torch.equal(probs[0], probs[1])  # it says something


@pytest.mark.parametrize(("ending", "name"), [(".onnx", "calibrated"), (".onnx", "l2"), (".pt2", "calibrated")])
def test_a_file_gives_the_numbers_of_the_model(ending, name):
    model = MODELS[name]()
    write, read = exported.FORMATS[ending]
    data = write(model)
    for n in (0, 1, 5):
        embeddings = torch.randn(n, 5)
        coeffs, probs = level_0(model, embeddings)
        found = read(data, embeddings)
        assert found[0].shape == coeffs.shape == (n, 64 if name == "l2" else 144)
        assert found[1].shape == probs.shape == (n, 12 * 16**2)
        if n:
            assert (found[0] - coeffs).abs().max() <= 1e-5 * coeffs.abs().max()
            assert (found[1] - probs).abs().max() <= 1e-5
            assert max(exported.deviation(model, found, embeddings)) <= 1e-5
    says = SAYS[ending](data)
    assert says == exported.about(model) and says["encoder"] == "test" and says["nside"] == "16"
    assert says["outputs"].startswith("natural_params (n, 144)" if name == "calibrated" else "coeffs (n, 64)")
    if ending == ".pt2":
        members = zipfile.ZipFile(io.BytesIO(data))
        assert not any(members.read(name).startswith(PICKLES) for name in members.namelist())


def metadata_of_onnx(data):
    session = pytest.importorskip("onnxruntime").InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [one.name for one in (*session.get_inputs(), *session.get_outputs())]
    shapes = [one.shape for one in (*session.get_inputs(), *session.get_outputs())]
    assert names[0] == "embeddings" and names[2] == "pixel_probs" and [shape[0] for shape in shapes] == ["n"] * 3
    return session.get_modelmeta().custom_metadata_map


def metadata_of_pt2(data):
    extra = {exported.ABOUT: ""}
    torch.export.load(io.BytesIO(data), extra_files=extra)
    return json.loads(extra[exported.ABOUT])


SAYS = {".onnx": metadata_of_onnx, ".pt2": metadata_of_pt2}


def test_a_file_says_of_which_levels_and_densities_it_is():
    says = exported.about(calibrated())
    assert says["density"] == "0.7 q_e + 0.3 q_f, where f = 0.5 e" and says["level"] == "0, of 1"
    assert "note" not in says and "density" not in exported.about(regression("l2"))
    refined = exported.about(zoomed())
    assert refined["level"] == "0, of 2" and "coarser" in refined["note"]


def test_refinement_levels_are_left_out_only_if_that_is_asked_for():
    exported.check_exportable(tiny())
    exported.check_exportable(zoomed(), level_0=True)
    with pytest.raises(InputError, match=r"has 2 levels, and a file holds level 0 alone.*add --level-0"):
        exported.check_exportable(zoomed())


def test_a_module_holds_no_more_than_it_needs():
    size = sum(tensor.numel() for tensor in exported.OnePass(zoomed(noise=0.5)).state_dict().values())
    assert size == sum(tensor.numel() for tensor in exported.OnePass(tiny(whiten=0.3)).state_dict().values())
    model = zoomed()
    exported.OnePass(model)
    assert len(model.refinements) == 1 and model.objective.quadrature is not None  # they stay in the model


def test_what_differs_from_the_model_is_refused():
    model, embeddings = calibrated(), torch.randn(3, 5)
    coeffs, probs = level_0(model, embeddings)
    assert exported.deviation(model, [coeffs, probs], embeddings) == (0, 0)
    for spoilt in ([coeffs * 1.001, probs], [coeffs, probs.flip(1)], [coeffs, probs * math.nan]):
        with pytest.raises(InputError, match=r"the file would differ from the model, by .* and is not written"):
            exported.deviation(model, spoilt, embeddings)


def test_typical_embeddings_are_white_to_the_model():
    model = calibrated()
    white = model.network.whiten(exported.typical_embeddings(model, 20_000))
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(5), atol=0.03, rtol=0)
    torch.testing.assert_close(white.T.cov(), torch.eye(5), atol=0.05, rtol=0)
