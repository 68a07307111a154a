"""Training with refinement levels: they find what level 0 cannot resolve, and are all there at the end."""

import numpy as np
import pytest
import torch
from support.embeddings import plane_data
from support.training import CPU

from locdiff.data.embeddings import Embeddings
from locdiff.model import ridge
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.refinement import occupied_cells
from locdiff.sphere.coordinates import great_circle_km
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer

SMALL = {"zoom_width": 32, "zoom_rank": 4, "zoom_nside": 16, "zoom_l_max": 11, "whiten": 0.3}


def begin(data, **changes):
    """Return a Trainer on the data, with refinement levels."""
    return Trainer(infer_data_fields(resolve("smoke", **SMALL | changes), data), data, CPU)


def test_two_places_in_one_pixel_are_learnt_apart(tmp_path):
    """30 km apart, a third of a pixel of level 0; and the model that is saved gives the same places."""
    here = torch.tensor([[47.3, 8.5], [47.3, 8.9]], dtype=torch.float64)
    embeddings = np.eye(2, 4, dtype=np.float32)[np.arange(200) % 2] + np.random.default_rng(0).normal(0, 0.01, (200, 4))
    data = Embeddings(embeddings.astype(np.float32), np.arange(200), here[np.arange(200) % 2].numpy(), [], "test")
    trainer = begin(data, levels=2, zoom=16.0, zoom_into=2, steps=250)
    assert trainer.settings.model.refinement.cells == (len(occupied_cells(here, 8)),)
    for _ in range(250):
        trainer.training_step()
    model, asked = trainer.averaged_model(), torch.eye(2, 4)
    modes = model.posterior(asked).modes()[0][:, 0]
    assert (great_circle_km(modes, here) < 8).all(), great_circle_km(modes, here)
    model.save_pretrained(tmp_path)
    assert torch.equal(LocDiffusion.from_pretrained(tmp_path, "cpu").posterior(asked).modes()[0][:, 0], modes)


def test_training_ends_with_the_levels_that_were_asked_for(tmp_path, capsys, monkeypatch):
    """Levels fitted to the averaged network, saved and loaded; nside 4,096 has no cell with enough places."""
    data = plane_data(1000)
    monkeypatch.setattr(ridge, "PROFILE_STEPS", 60)
    trainer = begin(data, levels=5, steps=150)
    for _ in range(150):
        trainer.training_step()
    assert len(trainer.averaged_model().refinements) == 1
    model = trainer.finished_model(progress=False)
    assert len(model.refinements) == len(model.config.refinement.cells) == 3
    assert "no level 4" in capsys.readouterr().err
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="4 of 5 levels are there"):
        again = LocDiffusion.from_pretrained(tmp_path, "cpu")
    embeddings, lat_lon = plane_data(40, seed=2).batch(np.arange(40))
    error = {}
    for name, one in (("all", again), ("two", trainer.averaged_model())):
        posterior = one.posterior(embeddings)
        modes = posterior.modes()[0][:, 0]
        error[name] = great_circle_km(modes, lat_lon).median(), posterior.log_prob(lat_lon).mean()
        assert name == "two" or torch.equal(modes, model.posterior(embeddings).modes()[0][:, 0])
    assert error["all"][0] < 0.5 * error["two"][0] and error["all"][1] > error["two"][1] + 1
