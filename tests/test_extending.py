"""The examples of docs/extending.md: each of them runs, and what it adds works."""

import importlib
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from support.embeddings import embedded, scattered
from support.models import seeing

from locdiff.data.embeddings import train_and_test
from locdiff.data.encoders import ENCODERS, make_encoder
from locdiff.errors import InputError
from locdiff.model.diffusion import SAMPLERS, geometric_schedule, sample
from locdiff.model.objectives import OBJECTIVES
from locdiff.training.settings import infer_data_fields
from locdiff.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
SECTIONS = dict(
    re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", (ROOT / "docs" / "extending.md").read_text(), flags=re.M | re.S)
)


def blocks(title):
    """Return the Python of a section, a string for each block."""
    return re.findall(r"^```python\n(.*?)^```", SECTIONS[title], flags=re.M | re.S)


def names_of(title):
    """Run the blocks of a section, one after the other; return the names that they define."""
    names = {"__name__": title}
    for block in blocks(title):
        exec(compile(block, f"docs/extending.md, {title}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def registries():
    """Forget what an example adds, after each test."""
    with ExitStack() as stack:
        for registry in (OBJECTIVES, SAMPLERS, ENCODERS):
            stack.enter_context(patch.dict(registry))
        yield


def test_every_section_with_python_is_tested_here():
    with_python = {title for title in SECTIONS if blocks(title)}
    assert with_python == {"A loss", "A sampler", "An encoder", "A figure", "A data set"}


def test_a_model_learns_by_the_new_loss():
    settings = names_of("A loss")["settings"]
    data = embedded(scattered(40))
    trainer = Trainer(infer_data_fields(settings, data), data, torch.device("cpu"))
    embeddings, lat_lon = data.batch(range(len(data)))

    def loss():
        torch.manual_seed(0)
        return trainer.model.loss(embeddings, lat_lon).mean().item()

    before = loss()
    for _ in range(3):
        trainer.training_step()
    assert 0 < loss() < before
    assert type(trainer.model.objective).__name__ == "Huber"
    posterior = trainer.averaged_model().posterior(embeddings[:2])
    torch.testing.assert_close(posterior.pixel_probs.sum(dim=1), torch.ones(2))


def test_the_new_sampler_keeps_the_law_of_the_forward_process():
    sampler, alpha_bar = names_of("A sampler")["Renoise"](), geometric_schedule(20, 30.0, 0.03)
    generator, x_0 = torch.Generator().manual_seed(0), 3.0
    x_1 = sample(
        lambda x_t, t: x_0, lambda: torch.randn(20_000, generator=generator), alpha_bar, 5, sampler, lambda x_t, t: x_t
    )
    assert x_1.mean().item() == pytest.approx(x_0 * alpha_bar[0].sqrt().item(), abs=0.01)
    assert x_1.var().item() == pytest.approx(1 - alpha_bar[0].item(), rel=0.05)


def test_the_new_sampler_is_used_by_name_and_by_class():
    sample_both = names_of("A sampler")["sample_both"]
    embeddings = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    new, ddim = sample_both(seeing(), embeddings)
    assert new.shape == ddim.shape == (3, 4, 2) and not torch.equal(new, ddim)
    assert torch.equal(new, seeing(sampler="renoise", sample_steps=10).sample(embeddings, 4))


def test_the_new_encoder_embeds_pictures(tmp_path):
    embed_files = names_of("An encoder")["embed_files"]
    for name, color in (("red.png", (255, 0, 0)), ("grey.png", (128, 128, 128))):
        Image.new("RGB", (90, 60), color).save(tmp_path / name)
    red, grey = embed_files([tmp_path / "red.png", tmp_path / "grey.png"])
    expected = torch.zeros(3, 8)
    expected[0, 7] = expected[1, 0] = expected[2, 0] = 1
    assert torch.equal(red, expected.flatten())
    assert grey.view(3, 8)[:, 4].tolist() == [1, 1, 1]
    assert (make_encoder("histogram:4").name, make_encoder("histogram:4").dim) == ("histogram:4", 12)
    with pytest.raises(InputError, match="histogram:BINS"):
        make_encoder("histogram:many")


def test_the_new_figure_is_found_computed_and_drawn(tmp_path, monkeypatch):
    (block,) = blocks("A figure")
    (tmp_path / "figure_peak.py").write_text(block)
    monkeypatch.syspath_prepend(ROOT / "paper_figures")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "figure_peak", raising=False)
    artefact = importlib.import_module("artefact")
    found = artefact.find(tmp_path)
    assert list(found) == ["figure_peak"]
    figure = found["figure_peak"]
    assert all(hasattr(figure, name) for name in artefact.Artefact.__annotations__)
    result = figure.compute()
    text, claims = figure.draw(result, tmp_path)
    assert (tmp_path / "figure_peak.png").exists() and "figure_peak.png" in text and "| 47 | 183.3 |" in text
    assert artefact.summary(claims) == "1 of 1 claims hold"
    assert figure.key_numbers(result)["peak at L = 15"][0] == pytest.approx(256 / (4 * torch.pi))


def test_the_new_data_set_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = names_of("A data set")
    train, test = train_and_test("my-data", 0)
    assert (len(train), len(test), train.encoder) == (180, 20, "my-encoder:v1")
    embeddings, lat_lon = train.batch(range(180))
    torch.testing.assert_close(embeddings, names["embeddings"][train.rows].half().float())
    torch.testing.assert_close(lat_lon, names["lat_lon"][train.rows].double(), atol=1e-5, rtol=0)
