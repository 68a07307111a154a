import numpy as np
import pytest
import torch
from PIL import Image

from locdiff.data import blue_marble
from locdiff.evaluation import report, summaries


@pytest.fixture
def pictures(tmp_path, cache):
    """Two pictures of the Earth from above, made from the map, one with transparency."""
    places = torch.tensor([[27.0, 30.5], [-3.0, -60.0]], dtype=torch.float64)
    view = blue_marble.thumbnails(blue_marble.blue_marble_image(), places)
    paths = []
    for i, (name, mode) in enumerate([("nile.png", "RGBA"), ("amazon.jpg", "RGB")]):
        pixels = (view[i].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).resize((96, 64), Image.Resampling.BICUBIC).convert(mode).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


@pytest.fixture
def five_views(cache):
    """An embeddings folder of five Blue Marble views that the run was not trained on."""
    settings = blue_marble.BlueMarble(train_views=1, test_views=5, data_seed=7)
    return blue_marble.blue_marble(settings, progress=False) / "test"


@pytest.fixture
def small_galleries(monkeypatch):
    """Galleries of Blue Marble views as those that the run was evaluated with."""
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 300)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)


@pytest.fixture
def undrawn(monkeypatch):
    """No predictions.png, which takes seconds."""
    monkeypatch.setattr(report.sheets, "draw_predictions", lambda *_, **__: None)
