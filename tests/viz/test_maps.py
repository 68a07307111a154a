"""The maps show the density where it is."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import regions
from locdiff.viz import maps


@pytest.mark.parametrize("place", [(40.0, -100.0), (-60.0, 170.0), (5.0, -3.0)])
def test_a_density_is_drawn_where_it_is(place):
    anchors = healpix_anchors(16)
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


def test_region_levels_part_what_lies_inside_from_what_lies_outside():
    density = torch.softmax(torch.randn(192, generator=torch.Generator().manual_seed(0)), dim=-1)
    for level, mask in zip(maps.region_levels(density), regions(density[None])[0][0], strict=True):
        assert torch.equal(density > level, mask)
    assert maps.region_levels(torch.full((48,), 1 / 48)) != [] and maps.region_levels(torch.ones(1)) == []


@pytest.mark.parametrize(("samples", "truth"), [(True, True), (False, False)])
def test_predictions_are_drawn_with_what_there_is(tmp_path, samples, truth):
    anchors, places = healpix_anchors(4), torch.tensor([[10.0, 179.0], [-80.0, 0.0], [0.0, 0.0]]).double()
    density = torch.softmax(torch.randn(3, 192, generator=torch.Generator().manual_seed(0)), dim=-1)
    options = {"samples": places[:, None].expand(3, 4, 2)} if samples else {}
    options |= {"truth": places} if truth else {"pictures": [np.zeros((4, 4, 3))] * 3, "names": ["a", "b", "c"]}
    maps.draw_predictions(tmp_path / "map.png", anchors, places, density, **options)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 20
