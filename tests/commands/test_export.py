"""The command that exports a model, and the example of its page."""

import re
import sys
from pathlib import Path

import healpy
import numpy as np
import pytest
import torch
from support.commands import outcome, succeed
from support.models import seeing, zoomed

from locdiff import export
from locdiff.model import exported

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture
def run(tmp_path):
    """A folder with a small model."""
    seeing().save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_the_examples_of_the_page_find_the_best_places(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embeddings, model = torch.randn(3, 5), seeing()
    for ending in ("onnx", "pt2"):
        out, _ = succeed(export.main, [str(run), f"model.{ending}"], capsys)
        assert (
            f"written: model.{ending}" in out and "pixel_probs (n, 3072)" in out and "differs from the model by" in out
        )
    np.save("embeddings.npy", embeddings.numpy())
    with_onnx, with_torch = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    names = {}
    exec(with_onnx, names)
    probs = model.posterior(embeddings).pixel_probs
    np.testing.assert_allclose(names["pixel_probs"], probs, atol=1e-5)
    lat_lon = model.grid.anchors[probs.argmax(dim=1)].numpy()
    np.testing.assert_allclose(healpy.ang2vec(names["lon"], names["lat"], lonlat=True),
                               healpy.ang2vec(lat_lon[:, 1], lat_lon[:, 0], lonlat=True), atol=1e-9)  # fmt: skip
    mask = model.posterior(embeddings).credible_regions((0.9,))[0][0, 0]
    assert set(names["region"]) == set(mask.nonzero()[:, 0].tolist())
    exec(with_torch.replace("torch.randn(3, 768)", "torch.randn(2, 5)"), names)
    assert names["pixel_probs"].shape == (2, 3072) and '"RING"' in names["extra"]["locdiff.json"]


def test_what_cannot_be_exported_is_one_line(run, tmp_path, capsys, monkeypatch):
    zoomed().save_pretrained(tmp_path / "zoomed")
    cases = [
        ([run, tmp_path / "model.bin"], "the file's ending must be one of .onnx, .pt2"),
        ([run, tmp_path / "nowhere" / "model.pt2"], "is no folder"),
        ([tmp_path / "none", tmp_path / "model.pt2"], "config.json is missing"),
        ([tmp_path / "zoomed", tmp_path / "model.pt2"], "this model has 2 levels.*add --level-0 if that is meant"),
    ]
    for name in ("onnx", "onnxscript"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ValueError, match=rf"an ONNX file needs {name}: pip install -e '.\[export\]'"):
                exported.to_onnx(seeing())
    for argv, message in cases:
        code, lines = outcome(export.main, [str(part) for part in argv], capsys)
        assert code == 2 and len(lines) == 1 and re.search(message, lines[0]), lines
    assert {path.name for path in tmp_path.iterdir()} == {"run", "zoomed"}


def test_a_file_that_differs_from_the_model_is_not_written(run, tmp_path, capsys, monkeypatch):
    shifted = (lambda model: b"", lambda data, x: [torch.zeros(4, 144), torch.ones(4, 3072)])
    monkeypatch.setitem(exported.FORMATS, ".pt2", shifted)
    (tmp_path / "model.pt2").write_text("old")
    code, lines = outcome(export.main, [str(run), str(tmp_path / "model.pt2")], capsys)
    assert code == 2 and len(lines) == 1 and "is not written" in lines[0]
    assert (tmp_path / "model.pt2").read_text() == "old"
