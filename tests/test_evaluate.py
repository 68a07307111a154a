"""Every row of the table is computed from what its name says, and the maps show the density where it is."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from test_model import tiny

from locdiff import decoder, evaluate, maps

TRUTH = torch.tensor([[40.0, -100.0], [-25.0, 135.0], [60.0, 30.0]], dtype=torch.float64)


def rows_with(monkeypatch, **answers):
    """The rows for three pictures of an untrained model, some of whose answers are replaced."""
    model = tiny()
    for name, answer in answers.items():
        monkeypatch.setattr(model, name, answer)
    found = evaluate.predict_all(model, torch.zeros(3, 5), TRUTH, samples=4, progress=False)
    worth = dict(zip(evaluate.CALIBRATION, found["calibration"].mean(dim=0).tolist(), strict=True))
    return {name: row["accuracy"] for name, row in evaluate.score_model(model, found, TRUTH).items()}, worth, found


def test_samples_are_compared_with_the_truth_of_their_own_picture(monkeypatch):
    rows, _, shown = rows_with(monkeypatch, decode=lambda coeffs: TRUTH[:, None].expand(-1, coeffs.shape[1], -1))
    for name in ("one sample (DDIM, 20 steps)", "geographic centre of 4 (the paper's)", "medoid of 4"):
        assert rows[f"LocDiffusion, {name}"][1] == 100
    assert rows["LocDiffusion, mean density of 4"][1] == 0 and shown["samples"].shape == (3, 4, 2)


def test_the_density_rows_follow_the_density(monkeypatch):
    """A density of one pixel at the truth: every prediction from it is right, and so is its calibration."""
    anchors = decoder.healpix_anchors(16)
    pixel = [int(torch.argmin(((anchors - place) ** 2).sum(-1))) for place in TRUTH]
    shares = torch.full((3, len(anchors)), 1e-9)
    shares[range(3), pixel] = 1.0
    rows, worth, _ = rows_with(monkeypatch, to_density=lambda coeffs: shares, one_pass=lambda e: torch.zeros(3, 64))
    assert rows["LocDiffusion, one sample: chance the one-pass density gives it"][750] == pytest.approx(100, abs=0.1)
    for name in ("top of its most probable hill", "best place for each column"):
        assert rows[f"LocDiffusion, one-pass density, {name}"][750] == 100
    assert worth["nats_over_uniform"] == pytest.approx(0, abs=1e-5)  # the natural parameters are zero
    assert worth["in_region_50"] == worth["in_region_90"] == 1
    assert worth["area_50_km2"] == pytest.approx(4 * np.pi * 6371.0088**2 / len(anchors))


@pytest.mark.parametrize("place", [(40.0, -100.0), (-60.0, 170.0), (5.0, -3.0)])
def test_a_density_is_drawn_where_it_is(place):
    anchors = decoder.healpix_anchors(16)
    pixel = int(torch.argmin(((anchors - torch.tensor(place)) ** 2).sum(-1)))
    density = torch.full((len(anchors),), 1e-9)
    density[pixel] = 1.0
    axes = Figure().add_subplot()
    maps.draw_density(axes, density, np.zeros((18, 36)), maps.WORLD)
    left, right, bottom, top = axes.images[0].get_extent()
    image = axes.images[0].get_array().sum(axis=-1)
    row, column = (index.mean() for index in np.nonzero(image > 0.5))
    assert top + (bottom - top) * (row + 0.5) / image.shape[0] == pytest.approx(anchors[pixel, 0].item(), abs=1.5)
    assert left + (right - left) * (column + 0.5) / image.shape[1] == pytest.approx(anchors[pixel, 1].item(), abs=1.5)
    outline = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
    assert np.abs(outline.mean(axis=0) - anchors[pixel].flip(0).numpy()).max() < 3
