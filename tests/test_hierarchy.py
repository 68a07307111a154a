"""Deeper levels: the mixture over cells is a density, and everything that is read off it agrees with it."""

import copy
import dataclasses
import math

import healpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support import EDGE_PLACES, at_edges, places
from test_model import tiny

from locdiff.data.embeddings import Embeddings
from locdiff.errors import InputError
from locdiff.model import refinement
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.ridge import RidgeReadoutLevel
from locdiff.sphere import pixels, shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors
from locdiff.sphere.pixels import log_density_at
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer
from locdiff.viz import maps

CENTERS = healpix_anchors(8)
EDGES = torch.tensor(EDGE_PLACES, dtype=torch.float64)
EVERY = 12 * 8**2


def zoomed(cells=range(EVERY), noise=0.0, **changes):
    """A tiny model with a second level for these cells, whose heads are noise."""
    small = {"zoom_l_max": 4, "zoom_width": 8, "zoom_rank": 2, "zoom_cells": (len(cells),)}
    model = tiny(**{"whiten": 0.3, "levels": 2, "zoom": 8.0} | small | changes)
    with torch.no_grad():
        model.refinements[0].cells.copy_(torch.tensor(list(cells)))
        model.network.head.bias.normal_(std=2.0)  # densities of level 0 that are not even
        model.refinements[0].head.bias.normal_(std=noise)
        model.refinements[0].own_out.normal_(std=noise)
    return model


def three_levels(near, count=400, spread=0.2, **changes):
    """A tiny model whose third level has the `count` cells next to the place, whose readouts are noise."""
    cells = great_circle_km(near, healpix_anchors(64)).argsort()[:count].sort().values
    model = zoomed(noise=0.3, levels=3, **changes)
    model.config = dataclasses.replace(model.config, zoom_cells=(EVERY, count))
    level = RidgeReadoutLevel(2, count, model.config)
    level.cells.copy_(cells)
    level.bias.normal_(std=spread)
    level.sigma.fill_(0.1)
    level.profile.fill_(0.5)
    model.refinements.append(level)
    return model


def points_and_masses(answer):
    """Places (P, 2) and masses (P,) of all parts of the answer for the first picture."""
    points = torch.cat([answer._points(i)[0].double() for i in range(len(answer.parts))])
    return points, torch.cat([part.masses[0].flatten() for part in answer.parts])


def peaked_at(place, sharpness=8.0, **changes):
    """A model that puts the picture at this place (2,) in the zoomed coordinates of every cell."""
    model = zoomed(**changes)
    with torch.no_grad():
        model.refinements[0].head.bias.copy_(sharpness * shdd.encode(place, model.config.zoom_l_max))
    return model


@given(places, st.floats(0, 1, width=32))
@at_edges(uniform=0.0)
@at_edges(uniform=1.0)
def test_a_place_belongs_to_four_near_cells(place, uniform):
    place = torch.tensor([place], dtype=torch.float64)
    cells, weights = refinement.cells_of(place, 8)
    assert weights.sum().item() == pytest.approx(1) and (weights > -1e-9).all()
    assert (great_circle_km(place, CENTERS[cells[0]]) < 1700).all()
    drawn = refinement.draw_cells(place, 8, torch.tensor([uniform]))
    assert weights[0][cells[0] == drawn].sum() > 0 or uniform in (0.0, 1.0)
    assert drawn in cells


def test_cells_are_drawn_by_their_weights():
    place = torch.tensor([[47.3, 8.5]], dtype=torch.float64)
    cells, weights = refinement.cells_of(place, 8)
    drawn = refinement.draw_cells(place.expand(10_000, 2), 8, (torch.arange(10_000) + 0.5) / 10_000)
    found = torch.tensor([(drawn == cell).double().mean() for cell in cells[0]], dtype=torch.float64)
    assert torch.allclose(found, weights[0], atol=2e-3)


@pytest.mark.parametrize("into", [1, 4])
@pytest.mark.parametrize("cells", [range(EVERY), range(0, EVERY, 64)], ids=["all cells", "few cells"])
def test_the_mixture_is_a_density_and_its_pixels_hold_it(into, cells):
    model = zoomed(cells, noise=0.3, zoom_into=into, zoom=2.0)
    embedding, anchors, total = torch.randn(1, 5), healpix_anchors(16), 0.0
    for part in anchors.split(256):
        answer = model.posterior(embedding.expand(len(part), 5))
        total += posterior.log_likelihood(part).double().exp().sum().item() * 4 * math.pi / len(anchors)
    assert total == pytest.approx(1, abs=0.01)
    one = posterior.pixel_probs.sum(dim=-1), sum(part.masses.sum(dim=(1, 2)) for part in answer.parts)
    assert torch.allclose(torch.stack(one), torch.ones(2, len(part)), atol=1e-5) and (posterior.pixel_probs >= 0).all()
    within = posterior.mass_within(part)
    assert (within.diff(dim=-1) >= 0).all() and (within <= 1 + 1e-5).all()


def test_the_likelihood_is_the_mixture_written_out():
    """Of every cell, by the definition in the docstring, with p_0 and the interpolation by healpy."""
    model, embedding = zoomed(noise=0.5, zoom_into=3), torch.randn(1, 5)
    answer = model.posterior(embedding.expand(len(EDGES), 5))
    first = model.to_density(model.one_pass(embedding))[0].double()
    weight = torch.zeros(EVERY, dtype=torch.float64)
    cells, part = refinement.cells_of(model.anchors, 8)
    weight.index_add_(0, cells.flatten(), (first[:, None] * part).flatten())
    chosen = weight.topk(3).indices
    quadrature = shdd.encode(healpix_anchors(64), 4)
    for i, place in enumerate(EDGES):
        near, r = healpy.get_interp_weights(8, place[1].item(), place[0].item(), lonlat=True)
        remains = sum(b for a, b in zip(near, r, strict=True) if a not in chosen)
        density = remains * model.log_likelihood(answer.coeffs[i : i + 1], None, place[None]).exp().item()
        for cell in chosen:
            natural = model.refinements[0](model.see(embedding), cell.view(1)).detach()[0].double()
            log_z = torch.logsumexp(quadrature @ natural, 0) + math.log(4 * math.pi / len(quadrature))
            at = zoom.zoom_in(place, CENTERS[cell], 8.0)
            log_q = natural @ shdd.encode(at, 4) - log_z + zoom.zoom_area_factor(place, CENTERS[cell], 8.0).log()
            density += (weight[cell] * log_q.exp()).item()
        assert posterior.log_likelihood(EDGES)[i].item() == pytest.approx(math.log(density), abs=1e-3)


def sure_of(place, *count, **changes):
    """A model with three levels, the first two of which are sure of the place (2,), the centre of a cell."""
    model = three_levels(place, *count, **changes)
    with torch.no_grad():
        model.refinements[0].head.bias.copy_(3 * shdd.encode(torch.tensor([90.0, 0.0]), 4))
    torch.nn.init.zeros_(model.network.head.weight)
    model.network.head.bias.data = 30 * shdd.encode(place, model.config.l_max).float()
    return model


def test_a_third_level_refines_the_mixture_of_the_first_two():
    """P_2 and R_1 written out from P_1, whose weights of the cells are taken from its points."""
    model, embedding = sure_of(CENTERS[300], zoom_into=2), torch.randn(1, 5)
    level, at = model.refinements[1], CENTERS[300] + torch.tensor([[0.0, 0.0], [0.4, -0.3], [-1.5, 2.0], [30.0, 5.0]])
    below = copy.deepcopy(model)
    del below.refinements[1]
    answer, first = (one.posterior(embedding.expand(len(at), 5)) for one in (model, below))
    points, masses = first._points(1)[0].double(), first.parts[1].masses[0].flatten()
    cells, r = refinement.cells_of(points, 64)
    weight = torch.zeros(12 * 64**2, dtype=torch.float64).index_add_(
        0, cells.flatten(), (masses[:, None] * r).flatten()
    )
    chosen = level.cells[weight[level.cells].topk(2).indices]
    assert (answer.parts[2].weight[0].sort().values - weight[chosen].sort().values).abs().max() < 1e-5
    assert weight[chosen].sum() > 0.02
    (rest, expected), quadrature = torch.stack(first._log_parts(at)).exp(), shdd.encode(healpix_anchors(64), 4)
    for i, place in enumerate(at):
        cells, r = refinement.cells_of(place[None], 64)
        expected[i] *= 1 - r[torch.isin(cells, chosen)].sum()
        for cell in chosen:
            natural = level(model.see(embedding), level.rows_of(cell.view(1)))[0].double()
            log_z = torch.logsumexp(quadrature @ natural, 0) + math.log(4 * math.pi / len(quadrature))
            center = healpix_anchors(64)[cell]
            log_q = natural @ shdd.encode(zoom.zoom_in(place, center, 64.0), 4) - log_z
            expected[i] += weight[cell] * log_q.exp() * zoom.zoom_area_factor(place, center, 64.0)
    assert torch.allclose(posterior.log_likelihood(at).double(), (rest + expected).log(), atol=2e-3)


@pytest.mark.parametrize("decoder_nside", [16, 64])
def test_weights_of_cells_are_integrals(decoder_nside):
    """By 16 times as many points; whatever the pixels of level 0 are, which are coarser than the cells of level 2."""
    model = sure_of(CENTERS[300], zoom_into=2, decoder_nside=decoder_nside)
    answer, anchors = model.posterior(torch.randn(1, 5)), healpix_anchors(128)
    first, second = answer.parts[1:]
    fine = HealpixTransform(4, 128).synthesis(first.natural[0]).double().softmax(dim=-1)
    weight = torch.zeros(12 * 64**2, dtype=torch.float64)
    for w, masses, center in zip(first.weight[0], fine, model.refinements[0].centers(first.rows[0]), strict=True):
        cells, r = refinement.cells_of(zoom.zoom_out(anchors, center, 8.0), 64)
        weight.index_add_(0, cells.flatten(), (w * masses[:, None] * r).flatten())
    expected = weight[model.refinements[1].cells[second.rows[0]]]
    assert torch.allclose(second.weight[0].double(), expected, rtol=0.03) and (expected > 1e-3).all()


def test_samples_and_likelihoods_of_three_levels_are_of_one_density():
    """The mean of 1 / p over the samples that fall into a region is its area."""
    model, n = sure_of(CENTERS[300], 300, spread=0.5, zoom_into=9), 4000
    embedding = torch.randn(1, 5)
    first = model.to_density(model.one_pass(embedding))[0]
    start = model.anchors[torch.multinomial(first, n, replacement=True)]
    samples = model.posterior(embedding).refine(start[None], [1])[0]
    inside = samples[great_circle_km(samples, CENTERS[300]) < 300]
    answers = [model.posterior(embedding.expand(len(part), 5)).log_likelihood(part) for part in inside.split(200)]
    area = 2 * math.pi * (1 - math.cos(300 / EARTH_RADIUS_KM))
    assert torch.cat(answers).double().neg().exp().sum().item() / n == pytest.approx(area, rel=0.1)


def test_the_density_at_a_gallery_is_the_likelihood_by_pixels():
    model = peaked_at(torch.tensor([85.0, 40.0], dtype=torch.float64), 1.0, noise=0.3, zoom_into=1, decoder_nside=64)
    torch.nn.init.zeros_(model.network.head.bias)  # an even p_0
    answer = model.posterior(torch.randn(1, 5).expand(50, 5))
    center = model.refinements[0].centers(answer.parts[1].rows[0])
    lat_lon = zoom.zoom_out(healpix_anchors(refinement.ZOOM_NSIDE)[:4000:80], center, 8.0)
    found = posterior.log_density(lat_lon)
    assert found.shape == (50, 50)
    error = (found.diagonal() - posterior.log_likelihood(lat_lon)).abs()  # r(c | y) is that of the pixel, q_c is exact
    assert (error < 0.15).all() and (error.sort().values[:10] < 1e-5).all()
    far = healpix_anchors(4)
    far = far[great_circle_km(far, center) > 2500]
    assert torch.allclose(posterior.log_density(far), log_density_at(answer.parts[0].masses[:, 0], far))


@pytest.mark.parametrize("place", [(88.0, 20.0), (70.0, 130.0), (90.0, 0.0)])
def test_the_top_is_where_the_second_level_says(place):
    local = torch.tensor(place, dtype=torch.float64)
    model = peaked_at(local, zoom_into=1)
    torch.nn.init.zeros_(model.network.head.weight)
    model.network.head.bias.data = 30 * shdd.encode(CENTERS[300], model.config.l_max).float()  # p_0 is sure of the cell
    answer = model.posterior(torch.zeros(3, 5))
    assert (model.refinements[0].cells[answer.parts[1].rows] == 300).all()
    tops, probability = posterior.modes()
    wanted = zoom.zoom_out(local.expand(3, 2), model.refinements[0].centers(answer.parts[1].rows[:, 0]), 8.0)
    assert (great_circle_km(tops[:, 0], wanted) < 0.1).all() and (probability > 0).all()
    best = posterior.best_within(tops[:, 0])
    assert (great_circle_km(best[25][0], wanted) < 0.1).all()
    within = torch.stack([mass for _, mass in best.values()], dim=-1)
    assert (within.diff(dim=-1) > -0.02).all()  # radii above and below a pixel are found in different ways


def test_masses_and_radii_are_those_of_the_points():
    model = peaked_at(torch.tensor([85.0, 0.0], dtype=torch.float64), zoom_into=2)
    answer, tops = model.posterior(torch.zeros(1, 5)), torch.tensor([[10.0, 20.0]], dtype=torch.float64)
    tops = posterior.modes()[0][:, 0]
    points, mass = points_and_masses(answer)
    distance, coarse = great_circle_km(tops, points), len(model.anchors)
    parts = slice(coarse, None), slice(coarse)
    within, coarse = torch.tensor([[mass[p][distance[p] <= k].sum() for k in pixels.THRESHOLDS_KM] for p in parts])
    cap = 2 * math.pi * (1 - torch.cos(torch.tensor(pixels.THRESHOLDS_KM).double() / EARTH_RADIUS_KM))
    coarse_by_area, by_area = torch.stack(answer._log_parts(tops)).exp() * cap
    small = torch.tensor([[k < 415 / 2, k < 26 / 2] for k in pixels.THRESHOLDS_KM]).T  # half the points' distances
    wanted = torch.where(small[0], coarse_by_area, coarse) + torch.where(small[1], by_area, within)
    found = posterior.mass_within(tops)[0].double()
    assert torch.allclose(found, wanted.double(), atol=1e-5) and found[0].item() == pytest.approx(
        wanted[0].item(), rel=1e-4
    )
    assert found[0].item() == pytest.approx((posterior.log_likelihood(tops).exp() * cap[0]).item(), rel=1e-4)
    radius = posterior.credible_radius(0.5, tops).item()
    assert mass[distance <= radius].sum() >= 0.5 - 1e-5 and mass[distance < radius - 1e-3].sum() < 0.5 + 1e-5


@pytest.mark.parametrize("into", [EVERY, 3, "three levels"])
def test_samples_are_drawn_from_the_mixture(into):
    n, embedding = 40_000, torch.randn(1, 5)
    if into == "three levels":
        model = three_levels(CENTERS[300], 1000, zoom_into=1)
        model.network.head.bias.data = 30 * shdd.encode(CENTERS[300], model.config.l_max).float()
    else:
        model = zoomed(noise=0.5, zoom_into=into)
    answer = model.posterior(embedding)
    first = model.to_density(model.one_pass(embedding))[0]
    start = model.anchors[torch.multinomial(first, n, replacement=True)]
    places = posterior.refine(start[None], [5])[0]
    lat, lon = places.T.numpy()
    found = np.bincount(healpy.ang2pix(4, lon, lat, lonlat=True), minlength=192) / n
    points, masses = points_and_masses(answer)
    wanted = np.bincount(healpy.ang2pix(4, *points.flip(-1).T.numpy(), lonlat=True), masses.numpy(), 192)
    assert np.abs(found - wanted).max() < 5 * math.sqrt(wanted.max() / n) + 2e-3


@pytest.mark.parametrize("l_max", [0, 4, 15, 31])
@pytest.mark.parametrize(("place", "nats"), [((88.7, 20.0), 0.3), ((3.1, -100.0), 0.3), ((-90.0, 0.0), 1.1)])
def test_no_peak_hides_between_the_pixels(l_max, place, nats):
    """However sure the heads are, the integral over the pixels that training sees is about that over many more; worst
    at the poles of the zoomed coordinates, where four pixels meet."""
    model = zoomed(zoom_l_max=l_max)
    with torch.no_grad():
        model.refinements[0].head.bias.copy_(1000 * shdd.encode(torch.tensor(place, dtype=torch.float64), l_max))
        natural = model.refinements[0](torch.zeros(1, 8), torch.zeros(1, dtype=torch.long))
    fine = HealpixTransform(l_max, 256).log_partition(natural)
    assert torch.allclose(model.refinements[0].grid.log_partition(natural), fine, atol=nats)


def test_a_hill_that_no_cell_refines_keeps_the_top_of_the_first_level():
    model = peaked_at(torch.tensor([85.0, 40.0], dtype=torch.float64), zoom_into=1)
    torch.nn.init.zeros_(model.network.head.weight)
    hills = torch.stack([CENTERS[300], torch.tensor([20.0, 100.0], dtype=torch.float64)])
    natural = (shdd.encode(hills, model.config.l_max) * torch.tensor([[12.0], [11.9]])).sum(dim=0)
    model.network.head.bias.data = natural.float()
    answer = model.posterior(torch.zeros(2, 5))
    tops, probability = posterior.modes(2)
    first, _ = model.modes(answer.coeffs, model.to_density(answer.coeffs), 2)
    assert probability.min() > 0.1
    other = great_circle_km(first, hills[1]).argmin(dim=-1)
    wanted = first[torch.arange(2), other]
    assert (great_circle_km(tops, wanted[:, None]).amin(dim=-1) < 0.01).all()
    assert (great_circle_km(tops, hills[0]).amin(dim=-1) < 500).all()


def test_places_of_other_cells_cannot_be_trained_on():
    model = zoomed([0, 1])
    with pytest.raises(ValueError, match="no training place belongs to the cells"):
        model.refinements[0].loss(torch.zeros(1, 5), torch.tensor([[-40.0, 30.0]]), torch.zeros(1))


def test_a_sample_that_a_level_leaves_goes_no_further():
    model = sure_of(CENTERS[300], zoom_into=1)
    answer = model.posterior(torch.randn(1, 5))
    at = healpix_anchors(64)[model.refinements[1].cells[answer.parts[2].rows[0]]].expand(1, 20, 2)
    assert not torch.equal(posterior.refine(at, [0]), at)
    answer.parts[1].rows[:] = model.refinements[0].rows_of(torch.tensor([0]))  # at the other end of the world
    assert torch.equal(posterior.refine(at, [0]), at)


def test_copies_and_further_levels_have_their_own_geometry():
    """What an answer remembers of where cells lie must not outlive a change of the levels."""
    model, embeddings = sure_of(CENTERS[300], zoom_into=2), torch.randn(2, 5)
    below = copy.deepcopy(model)
    del below.refinements[1]
    below.config = dataclasses.replace(below.config, zoom_cells=(EVERY,))
    assert len(below.posterior(embeddings).parts) == 2
    other = copy.deepcopy(below)
    assert "atlas" not in other.__dict__
    below.add_level(model.refinements[1])
    assert below.config.zoom_cells == (EVERY, len(model.refinements[1].cells))
    assert torch.equal(below.posterior(embeddings).pixel_probs, model.posterior(embeddings).pixel_probs)


def test_samples_repeat_and_stay_where_no_cell_is_known():
    model, embeddings = zoomed([0, 1]), torch.randn(3, 5)
    at = torch.tensor([[[-40.0, 30.0], [-41.0, 31.0]]], dtype=torch.float64).expand(3, 2, 2)
    assert torch.equal(model.refine(model.posterior(embeddings), at), at)
    model = zoomed(noise=0.5)
    whole, part = model.sample_places(embeddings, 4, seed=3), model.sample_places(embeddings[1:], 4, seed=3, first=1)
    assert torch.equal(whole[1:], part) and not torch.equal(whole, model.sample_places(embeddings, 4, seed=4))
    assert whole.shape == (3, 4, 2) and model.sample_places(embeddings[:0], 4).shape == (0, 4, 2)
    assert len(model.predict(embeddings[:0])) == 0 and len(model.predict(embeddings, 2, top_k=3)) == 3
    assert model.posterior(embeddings[:0]).mass_within(torch.empty(0, 2)).shape == (0, len(pixels.THRESHOLDS_KM))


def test_the_picture_of_three_zooms_shows_the_density_where_it_is(tmp_path):
    model = peaked_at(torch.tensor([86.0, 70.0], dtype=torch.float64), 20.0, zoom_into=1)
    answer = model.posterior(torch.zeros(1, 5))
    tops = posterior.modes()[0][:, 0]
    seen = []

    def density_at(lat_lon):
        seen.append(lat_lon)
        return posterior.log_density(torch.from_numpy(lat_lon.reshape(-1, 2)))[0].exp().numpy().reshape(lat_lon.shape[:-1])

    window = maps.close_up(tops[0], 3.0)
    colors, value, lats, lons = maps.paint_function(density_at, np.zeros((90, 180)), window, 60)
    row, column = np.unravel_index(value.argmax(), value.shape)
    brightest = torch.tensor([[lats[row], lons[column]]], dtype=torch.float64)
    assert great_circle_km(brightest, tops).item() < 40 and seen[0].shape == (60, 60, 2)  # pixels of 11 and 25 km
    assert colors[row, column].sum() == colours.sum(axis=-1).max()
    maps.draw_zooms(tmp_path / "zooms.png", answer, tops, EDGES[:1], np.zeros((1, 4, 4, 3)))
    with Image.open(tmp_path / "zooms.png") as picture:
        assert picture.size[0] > 1000


def test_two_places_in_one_pixel_are_learnt_apart(tmp_path):
    """30 km apart, a third of a pixel of level 0; and the model that is saved gives the same places."""
    here = torch.tensor([[47.3, 8.5], [47.3, 8.9]], dtype=torch.float64)
    embeddings = np.eye(2, 4, dtype=np.float32)[np.arange(200) % 2] + np.random.default_rng(0).normal(0, 0.01, (200, 4))
    data = Embeddings(embeddings.astype(np.float32), np.arange(200), here[np.arange(200) % 2].numpy(), [], "test")
    changes = {"levels": 2, "zoom": 16.0, "zoom_width": 32, "zoom_rank": 4, "zoom_into": 2, "steps": 250, "whiten": 0.3}
    settings = infer_data_fields(resolve("smoke", **changes), data)
    trainer = Trainer(settings, data, torch.device("cpu"))
    assert settings.model.zoom_cells == (len(refinement.cells_of(here, 8)[0].unique()),)
    for _ in range(250):
        trainer.training_step()
    model, asked = trainer.averaged_model(), torch.eye(2, 4)
    tops = model.posterior(asked).modes()[0][:, 0]
    assert (great_circle_km(tops, here) < 8).all(), great_circle_km(tops, here)
    model.save(tmp_path)
    assert torch.equal(LocDiffusion.load(tmp_path, "cpu").posterior(asked).modes()[0][:, 0], tops)


def test_gradients_repeat_bit_for_bit():
    """Of a cell's own head too, whose gradients from several pictures are added up."""
    model = zoomed(range(0, EVERY, 4), noise=0.1, zoom_l_max=15, zoom_rank=64, zoom_width=32)
    seen, rows = torch.randn(256, 32), torch.randint(3, (256,))
    found = set()
    for _ in range(5):
        model.zero_grad()
        model.refinements[0](seen, rows).square().sum().backward()
        found.add(model.refinements[0].own_out.grad.numpy().tobytes())
    assert len(found) == 1


def test_sharing_a_batch_does_not_change_the_loss():
    model, embeddings = zoomed(noise=0.5), torch.randn(8, 5)
    lat_lon = torch.cat([EDGES, EDGES[:2]])
    torch.manual_seed(7)
    whole = model.loss(embeddings, lat_lon)
    for rank in range(4):
        torch.manual_seed(7)
        part = slice(2 * rank, 2 * rank + 2)
        assert torch.allclose(model.loss(embeddings[part], lat_lon[part], rank, 4), whole[part], rtol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"zoom": 0.5},
        {"whiten": 0.0},
        {"zoom_into": 0},
        {"zoom_l_max": -1},
        {"levels": 0},
        {"levels": 6},
        {"zoom": 70.0, "levels": 3},
        {"zoom_cells": (3, 4)},
        {"levels": 1},
    ],
)
def test_impossible_settings_are_named(changes):
    with pytest.raises(InputError, match=r"levels|zoom"):
        zoomed(**changes)


def test_a_checkpoint_of_other_cells_is_refused(tmp_path):
    zoomed(range(10)).save(tmp_path / "a")
    zoomed(range(11)).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").replace(tmp_path / "b" / "model.safetensors")
    with pytest.raises(InputError, match=r"does not fit its config\.json"):
        LocDiffusion.load(tmp_path / "b", "cpu")
