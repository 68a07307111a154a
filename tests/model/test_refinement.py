"""Refinement levels: cells, their heads, and that no density is narrower than its integral can tell."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models import EVERY, zoomed
from support.strategies import at_edges, places

from locdiff.model import refinement
from locdiff.sphere import shdd, zoom
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors, interpolation

CENTERS = healpix_anchors(8)


@given(places, st.floats(0, 1, width=32))
@at_edges(uniform=0.0)
@at_edges(uniform=1.0)
def test_a_location_belongs_to_four_near_cells(place, uniform):
    place = torch.tensor([place], dtype=torch.float64)
    cells, weights = interpolation(8, place)
    assert weights.sum().item() == pytest.approx(1) and (weights > -1e-9).all()
    assert (great_circle_km(place, CENTERS[cells[0]]) < 1700).all()
    sampled = refinement.sample_cells(place, 8, torch.tensor([uniform]))
    assert weights[0][cells[0] == sampled].sum() > 0 or uniform in (0.0, 1.0)
    assert sampled in cells


def test_cells_are_sampled_by_their_weights():
    place = torch.tensor([[47.3, 8.5]], dtype=torch.float64)
    cells, weights = interpolation(8, place)
    sampled = refinement.sample_cells(place.expand(10_000, 2), 8, (torch.arange(10_000) + 0.5) / 10_000)
    found = torch.tensor([(sampled == cell).double().mean() for cell in cells[0]], dtype=torch.float64)
    assert torch.allclose(found, weights[0], atol=2e-3)


def test_occupied_cells_are_those_that_any_location_belongs_to():
    places = torch.tensor([[47.3, 8.5], [-33.0, 151.0], [47.3, 8.5]], dtype=torch.float64)
    found = refinement.occupied_cells(places, 8)
    assert found.tolist() == sorted({*interpolation(8, places)[0].flatten().tolist()}) and len(found) == 8


@pytest.mark.parametrize("cells", [range(EVERY), range(3, EVERY, 64), []], ids=["all", "few", "none"])
def test_cells_are_found_by_their_ids(cells):
    cells = list(cells)
    level = refinement.LowRankHeadLevel(1, len(cells), zoomed().config)
    level.cell_id.copy_(torch.tensor(cells))
    index = level.index_of(torch.arange(EVERY).view(2, -1))
    assert index.shape == (2, EVERY // 2)
    assert index.flatten().tolist() == [cells.index(i) if i in cells else -1 for i in range(EVERY)]
    assert (great_circle_km(level.centers(torch.arange(len(cells))), CENTERS[cells]) < 1e-6).all()


@pytest.mark.parametrize("l_max", [0, 4, 15, 31])
@pytest.mark.parametrize(("place", "nats"), [((88.7, 20.0), 0.3), ((3.1, -100.0), 0.3), ((-90.0, 0.0), 1.1)])
def test_no_mode_hides_between_the_pixels(l_max, place, nats):
    """However sure the heads are, the integral over the pixels that training sees is about that over many more; worst
    at the poles of the zoomed coordinates, where four pixels meet."""
    model = zoomed(zoom_l_max=l_max)
    level = model.refinements[0]
    with torch.no_grad():
        level.head.bias.copy_(1000 * shdd.encode(torch.tensor(place, dtype=torch.float64), l_max))
        natural_params = level(torch.zeros(1, 8), torch.zeros(1, dtype=torch.long))
    assert natural_params.norm().item() <= level.max_norm * (1 + 1e-5)
    fine = HealpixTransform(l_max, 256).log_partition(natural_params)
    assert torch.allclose(level.grid.log_partition(natural_params), fine, atol=nats)


def test_only_parameters_that_are_too_long_are_shortened():
    level = zoomed().refinements[0]
    direction = torch.nn.functional.normalize(torch.randn(4, 25), dim=-1)
    length = level.max_norm * torch.tensor([[0.0], [0.5], [0.999], [3.0]])
    wanted = direction * length.clamp(max=level.max_norm)
    torch.testing.assert_close(level.clip_norm(direction * length), wanted)


def test_the_loss_is_the_negative_log_density_in_zoomed_coordinates():
    model, places = zoomed(noise=0.5), torch.tensor([[47.3, 8.5], [-90.0, 0.0], [12.0, 180.0]], dtype=torch.float64)
    level, whitened, uniform = model.refinements[0], torch.randn(3, 5), torch.tensor([0.1, 0.5, 0.99])
    cells = refinement.sample_cells(places, 8, uniform)
    with torch.no_grad():
        found = level.loss(whitened, places, uniform)
        natural_params = level(level.encode_image(whitened), level.index_of(cells)).double()
    basis = shdd.encode(healpix_anchors(64), 4)
    target = shdd.encode(zoom.zoom_in(places, CENTERS[cells], 8.0), 4)
    wanted = torch.stack(
        [shdd.negative_log_likelihood(*row, basis) for row in zip(natural_params, target, strict=True)]
    )
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-3)


def test_locations_of_other_cells_cannot_be_trained_on():
    """Their loss and its gradient are NaN: the trainer leaves such a step out."""
    model = zoomed(noise=0.5)
    level, places = model.refinements[0], torch.tensor([[-40.0, 30.0], [88.0, 30.0]])
    known, _ = level.loss(torch.zeros(2, 5), places, torch.full((2,), 0.5))
    model = zoomed([int(refinement.sample_cells(places, 8, torch.full((2,), 0.5))[0])], noise=0.5)
    level = model.refinements[0]
    one, other = level.loss(torch.zeros(2, 5), places, torch.full((2,), 0.5))
    assert known.isfinite() and one.isfinite() and other.isnan()
    other.backward()
    assert level.head.bias.grad.isnan().all()


def test_gradients_repeat_bit_for_bit():
    """Of a cell's own head too, whose gradients from several pictures are added up."""
    model = zoomed(range(0, EVERY, 4), noise=0.1, zoom_l_max=15, zoom_rank=64, zoom_width=32)
    features, cell_index = torch.randn(256, 32), torch.randint(3, (256,))
    found = set()
    for _ in range(5):
        model.zero_grad()
        model.refinements[0](features, cell_index).square().sum().backward()
        found.add(model.refinements[0].cell_out.grad.numpy().tobytes())
    assert len(found) == 1


def test_each_cell_has_a_head_of_its_own():
    model = zoomed(noise=0.5)
    level, features = model.refinements[0], torch.randn(1, 8).expand(3, -1)
    with torch.no_grad():
        one, again, other = level(features, torch.tensor([5, 5, 6]))
        level.cell_out[5] = 0
        shared, _, same = level(features, torch.tensor([5, 5, 6]))
        assert torch.equal(shared, level.clip_norm(level.head(features[:1]))[0])
    assert torch.equal(one, again) and not torch.allclose(one, other) and torch.equal(other, same)
