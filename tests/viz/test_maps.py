"""The maps show the density where it is, at the antimeridian and the poles too."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors
from locdiff.viz import maps
from locdiff.viz.style import DARK, LIGHT
from locdiff.viz.views import WORLD, CloseUp

ANCHORS = healpix_anchors(16)
EDGES = [(40.0, -100.0), (-60.0, 179.0), (5.0, -3.0), (87.0, 45.0), (-88.0, -120.0)]


def one_pixel(place):
    """Return the pixel next to a place and a density that lies in it alone."""
    pixel = int(great_circle_km(torch.tensor(place, dtype=torch.float64), ANCHORS).argmin())
    density = torch.zeros(len(ANCHORS))
    density[pixel] = 1.0
    return ANCHORS[pixel], density


@pytest.mark.parametrize("place", EDGES)
@pytest.mark.parametrize("style", [LIGHT, DARK], ids=["light", "dark"])
def test_a_density_is_drawn_where_it_is(place, style):
    center, density = one_pixel(place)
    for view in (WORLD, CloseUp(*center.tolist(), 1500.0)):
        axes = Figure().add_subplot()
        maps.draw_density(axes, view, density, style)
        [image] = axes.images
        left, right, bottom, top = image.get_extent()
        shade = image.get_array()[..., 3]
        row, column = np.unravel_index(shade.argmax(), shade.shape)
        x = left + (right - left) * (column + 0.5) / shade.shape[1]
        y = top + (bottom - top) * (row + 0.5) / shade.shape[0]
        found = torch.from_numpy(view.inverse(np.array([x, y])))
        assert great_circle_km(found, center).item() < 250  # a pixel is 400 km wide
        assert axes.get_xlim() == (-view.half_width, view.half_width) and axes.get_ylim() == (bottom, top)
        # and its regions are outlined around it
        rims = np.concatenate([path.vertices for one in axes.collections[2:] for path in one.get_paths()])
        km = great_circle_km(torch.from_numpy(view.inverse(rims * 0.9999)), center)
        assert len(axes.collections) == 4 and km.nan_to_num().max() < 700


def test_the_uniform_density_leaves_the_map_as_it_is():
    axes = Figure().add_subplot()
    maps.draw_density(axes, WORLD, torch.full((192,), 1 / 192))
    assert axes.images[0].get_array()[..., 3].max() < 1e-6 and len(axes.collections) == 2  # borders and coasts


@pytest.mark.parametrize("place", EDGES)
def test_a_close_up_is_as_wide_as_the_density_is_there(place):
    center, _ = one_pixel(place)
    km = great_circle_km(center, ANCHORS)
    far = great_circle_km(torch.stack([-center[0], center[1] + 180]), ANCHORS)
    found = [
        maps.close_up(center, torch.softmax(-((km / width) ** 2) / 2, dim=0), ANCHORS).half
        for width in (1.0, 250.0, 5000.0)
    ]
    assert found[0] == maps.CLOSEST_KM < found[1] < maps.WIDEST_KM == found[2]
    wide = torch.softmax(-((km / 250.0) ** 2) / 2, dim=0) + torch.softmax(-((far / 250.0) ** 2) / 2, dim=0)
    assert maps.close_up(center, wide / 2, ANCHORS).half == pytest.approx(found[1], rel=0.05)
    one = maps.close_up(center, torch.ones(1), torch.zeros(1, 2))
    assert one.half == maps.WIDEST_KM and [one.lat, one.lon] == center.tolist()


def test_marks_lie_where_the_places_are_and_a_frame_stands_for_those_inside():
    axes, inner = Figure().add_subplot(), CloseUp(0.0, 180.0, 500.0)
    samples = torch.tensor([[0.0, -179.0], [0.0, 179.5], [0.0, 170.0], [80.0, 0.0]])
    maps.mark_all(axes, WORLD, torch.tensor([0.0, 180.0]), samples, torch.tensor([1.0, 179.0]), LIGHT, inner)
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert list(drawn) == ["samples", "truth", "most likely place"]
    np.testing.assert_allclose(drawn["samples"], WORLD.forward(samples[2:].numpy()), rtol=1e-6)
    assert len(drawn["truth"]) == len(drawn["most likely place"]) == 0 and len(axes.collections) == 1
    axes = Figure().add_subplot()
    maps.mark_all(axes, inner, torch.tensor([0.0, 180.0]), None, torch.tensor([0.0, -179.0]))
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["truth"], [[111.2, 0]], atol=0.1)  # to the east, and no further
    np.testing.assert_allclose(drawn["most likely place"], [[0, 0]], atol=1e-6)


def test_a_scale_bar_is_drawn_as_long_as_it_says():
    axes, view = Figure().add_subplot(), CloseUp(90.0, 0.0, 1500.0)
    maps.draw_scale_bar(axes, view)
    [line], [text] = axes.lines, axes.texts
    assert text.get_text() == "1,000 km"
    assert great_circle_km(*torch.from_numpy(view.inverse(line.get_xydata()))).item() == pytest.approx(1000, rel=1e-3)
