"""The mixture over cells is a density, it is the reference's, and everything that is read off it agrees with it."""

import math

import healpy
import numpy as np
import pytest
import torch
from support.models import EVERY, cell_points, peaked_at, points_and_masses, repeated, sure_of, three_levels, zoomed
from support.strategies import EDGE_PLACES

from locdiff.model.cell_points import LIGHT, apart
from locdiff.model.posterior import PixelPosterior
from locdiff.sphere import pixels, shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors, interpolation
from locdiff.sphere.points import HEAVY
from reference import hierarchy

CENTERS = healpix_anchors(8)
EDGES = torch.tensor(EDGE_PLACES, dtype=torch.float64)
AROUND = CENTERS[300] + torch.tensor([[0.0, 0.0], [0.4, -0.3], [-1.5, 2.0], [30.0, 5.0]])


def reference_components(model, posterior, embedding):
    """P_0, P_1, ... of the reference, from the natural parameters of all cells of each level."""
    config = model.config
    components = [hierarchy.level_zero(posterior.base.coeffs[0].double().numpy(), config.inference.decoder_nside)]
    for level in model.refinements:
        count = len(level.cell_id)
        with torch.no_grad():
            features = model.image_features(embedding).expand(count, -1)
            natural_params = level(features, torch.arange(count)).double().numpy()
        cells = level.cell_id.numpy(), natural_params, config.inference.zoom_into
        components.append(hierarchy.refinement_level(components[-1], level.nside, level.s, *cells))
    return components


@pytest.mark.parametrize(
    ("make", "at"),
    [
        (lambda: zoomed(noise=0.5, zoom_into=3), EDGES),
        (lambda: zoomed(range(0, EVERY, 5), noise=0.5, zoom_into=7, zoom=2.0), EDGES),
        (lambda: sure_of(CENTERS[300], zoom_into=2), AROUND),
        (lambda: sure_of(CENTERS[300], 300, spread=0.5, zoom_into=5), AROUND),
    ],
    ids=["two levels", "some cells", "three levels", "three levels, five cells"],
)
def test_the_mixture_is_the_references(make, at):
    model, embedding = make(), torch.randn(1, 5)
    posterior = model.posterior(embedding.expand(len(at), 5))
    wanted = reference_components(model, posterior, embedding)
    masses = hierarchy.mixture_masses(wanted)
    assert sum(mass.sum() for mass in masses) == pytest.approx(1) and min(mass.sum() for mass in masses) > 0.02
    np.testing.assert_allclose(posterior.remaining[0], masses[0][0], rtol=1e-4, atol=1e-8)
    assert len(posterior.components) == len(wanted) - 1
    for ours, theirs, mass in zip(posterior.components, wanted[1:], masses[1:], strict=True):
        cell_id = ours.level.cell_id[ours.cell_index[0]].numpy()
        order, their_order = cell_id.argsort(), theirs.cell_id.argsort()
        assert np.array_equal(cell_id[order], theirs.cell_id[their_order])
        np.testing.assert_allclose(ours.weight[0][order], theirs.weights[their_order], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(ours.masses[0][order], mass[their_order], rtol=1e-3, atol=1e-9)
        points = hierarchy.points(theirs)[their_order].reshape(-1, 2)
        ours_at = cell_points(ours)[0].view(len(cell_id), -1, 2)[order].flatten(0, 1).double()
        assert great_circle_km(ours_at, torch.from_numpy(points)).max() < 2e-3
    log_density = hierarchy.mixture_log_density(at.numpy(), wanted)
    np.testing.assert_allclose(posterior.log_prob(at), log_density, rtol=0, atol=1e-3)  # by integrals over other pixels


def test_a_repeated_posterior_is_that_of_repeated_pictures():
    model, embedding = sure_of(CENTERS[300], zoom_into=2), torch.randn(1, 5)
    whole = model.posterior(embedding.expand(4, 5)).log_prob(AROUND)
    torch.testing.assert_close(repeated(model.posterior(embedding), 4).log_prob(AROUND), whole)


@pytest.mark.parametrize("into", [1, 4])
@pytest.mark.parametrize("cells", [range(EVERY), range(0, EVERY, 64)], ids=["all cells", "few cells"])
def test_the_mixture_is_a_density_and_its_pixels_hold_it(into, cells):
    model, anchors = zoomed(cells, noise=0.3, zoom_into=into, zoom=2.0), healpix_anchors(16)
    posterior = model.posterior(torch.randn(1, 5))
    log_prob = repeated(posterior, len(anchors)).log_prob(anchors)
    assert log_prob.double().exp().mean().item() * 4 * math.pi == pytest.approx(1, abs=0.01)
    total = posterior.pixel_probs.sum().item(), points_and_masses(posterior)[1].sum().item()
    assert total == pytest.approx((1, 1), abs=1e-5) and (posterior.pixel_probs >= 0).all()
    posterior = model.posterior(torch.randn(1, 5).expand(24, 5))
    within = posterior.mass_within(anchors[::128])
    assert (within.diff(dim=-1) >= 0).all() and (within <= 1 + 1e-5).all()


def test_the_log_density_is_the_mixture_written_out():
    """Of every cell, by the definition in the docstring, with p_0 and the interpolation by healpy."""
    model, embedding = zoomed(noise=0.5, zoom_into=3), torch.randn(1, 5)
    posterior = model.posterior(embedding.expand(len(EDGES), 5))
    first, below = posterior.base.pixel_probs[0].double(), posterior.base.log_prob(EDGES).exp()
    weight = torch.zeros(EVERY, dtype=torch.float64)
    cells, part = interpolation(8, posterior.anchors)
    weight.index_add_(0, cells.flatten(), (first[:, None] * part).flatten())
    chosen = weight.topk(3).indices
    quadrature = shdd.encode(healpix_anchors(64), 4)
    for i, place in enumerate(EDGES):
        near, r = healpy.get_interp_weights(8, place[1].item(), place[0].item(), lonlat=True)
        remains = sum(b for a, b in zip(near, r, strict=True) if a not in chosen)
        density = remains * below[i].item()
        for cell in chosen:
            natural = model.refinements[0](model.image_features(embedding), cell.view(1)).detach()[0].double()
            log_z = torch.logsumexp(quadrature @ natural, 0) + math.log(4 * math.pi / len(quadrature))
            at = zoom.zoom_in(place, CENTERS[cell], 8.0)
            log_q = natural @ shdd.encode(at, 4) - log_z + zoom.zoom_area_factor(place, CENTERS[cell], 8.0).log()
            density += (weight[cell] * log_q.exp()).item()
        assert posterior.log_prob(EDGES)[i].item() == pytest.approx(math.log(density), abs=1e-3)


@pytest.mark.parametrize("decoder_nside", [16, 64])
def test_weights_of_cells_are_integrals(decoder_nside):
    """By 16 times as many points; whatever the pixels of level 0 are, which are coarser than the cells of level 2."""
    model = sure_of(CENTERS[300], zoom_into=2, decoder_nside=decoder_nside)
    posterior, anchors = model.posterior(torch.randn(1, 5)), healpix_anchors(128)
    first, second = posterior.components
    fine = HealpixTransform(4, 128).synthesis(first.natural_params[0]).double().softmax(dim=-1)
    weight, centers = torch.zeros(12 * 64**2, dtype=torch.float64), model.refinements[0].centers(first.cell_index[0])
    for w, masses, center in zip(first.weight[0], fine, centers, strict=True):
        cells, r = interpolation(64, zoom.zoom_out(anchors, center, 8.0))
        weight.index_add_(0, cells.flatten(), (w * masses[:, None] * r).flatten())
    expected = weight[model.refinements[1].cell_id[second.cell_index[0]]]
    assert torch.allclose(second.weight[0].double(), expected, rtol=0.03) and (expected > 1e-3).all()


def test_samples_and_log_densities_of_three_levels_are_of_one_density():
    """The mean of 1 / p over the samples that fall into a region is its area."""
    n = 4000
    posterior = sure_of(CENTERS[300], 300, spread=0.5, zoom_into=9, sample_steps=1).posterior(torch.randn(1, 5))
    samples = posterior.sample(n, seed=1)[0]
    inside = samples[great_circle_km(samples, CENTERS[300]) < 300]
    log_prob = repeated(posterior, len(inside)).log_prob(inside)
    area = 2 * math.pi * (1 - math.cos(300 / EARTH_RADIUS_KM))
    assert log_prob.double().neg().exp().sum().item() / n == pytest.approx(area, rel=0.1)


@pytest.mark.parametrize("into", [EVERY, 3, "three levels"])
def test_samples_are_those_of_the_mixture(into):
    n, small = 40_000, {"zoom_nside": 16, "sample_steps": 1}
    if into == "three levels":
        model = three_levels(CENTERS[300], 1000, zoom_into=1, **small)
        model.network.head.bias.data = 30 * shdd.encode(CENTERS[300], 7).float()
    else:
        model = zoomed(noise=0.5, zoom_into=into, **small)
    posterior = model.posterior(torch.randn(1, 5))
    lat, lon = posterior.sample(n, seed=5)[0].T.numpy()
    found = np.bincount(healpy.ang2pix(4, lon, lat, lonlat=True), minlength=192) / n
    points, masses = points_and_masses(posterior)
    wanted = np.bincount(healpy.ang2pix(4, *points.flip(-1).T.numpy(), lonlat=True), masses.numpy(), 192)
    assert np.abs(found - wanted).max() < 5 * math.sqrt(wanted.max() / n) + 2e-3


def test_the_density_at_a_gallery_is_the_log_density_by_pixels():
    model = peaked_at(torch.tensor([85.0, 40.0], dtype=torch.float64), 1.0, noise=0.3, zoom_into=1, decoder_nside=64)
    torch.nn.init.zeros_(model.network.head.bias)  # an even p_0
    posterior = model.posterior(torch.randn(1, 5).expand(50, 5))
    center = model.refinements[0].centers(posterior.components[0].cell_index[0])
    lat_lon = zoom.zoom_out(healpix_anchors(32)[:4000:80], center, 8.0)
    found = posterior.log_density(lat_lon)
    assert found.shape == (50, 50)
    error = (found.diagonal() - posterior.log_prob(lat_lon)).abs()  # r(c | y) is that of the pixel, q_c is exact
    assert (error < 0.15).all() and (error.sort().values[:10] < 1e-5).all()
    far = healpix_anchors(4)
    far = far[great_circle_km(far, center) > 2500]
    assert torch.allclose(posterior.log_density(far), pixels.log_density(posterior.remaining, far))


@pytest.mark.parametrize("place", [(88.0, 20.0), (70.0, 130.0), (90.0, 0.0)])
def test_the_mode_is_where_the_second_level_says(place):
    local = torch.tensor(place, dtype=torch.float64)
    model = peaked_at(local, zoom_into=1)
    model.network.head.bias.data = 30 * shdd.encode(CENTERS[300], 7).float()  # p_0 is sure of the cell
    posterior = model.posterior(torch.zeros(3, 5))
    cell_index = posterior.components[0].cell_index
    assert (model.refinements[0].cell_id[cell_index] == 300).all()
    modes, probability = posterior.modes()
    wanted = zoom.zoom_out(local.expand(3, 2), model.refinements[0].centers(cell_index[:, 0]), 8.0)
    assert (great_circle_km(modes[:, 0], wanted) < 0.1).all() and (probability > 0).all()
    best = posterior.best_within()
    assert (great_circle_km(best[25][0], wanted) < 0.1).all()
    within = torch.stack([mass for _, mass in best.values()], dim=-1)
    assert (within.diff(dim=-1) > -0.02).all()  # radii above and below a pixel are found in different ways


def test_masses_and_radii_are_those_of_the_points():
    posterior = peaked_at(torch.tensor([85.0, 0.0], dtype=torch.float64), zoom_into=2).posterior(torch.zeros(1, 5))
    mode = posterior.modes()[0][:, 0]
    points, mass = points_and_masses(posterior)
    distance, coarse = great_circle_km(mode, points), len(posterior.anchors)
    parts = slice(coarse, None), slice(coarse)
    within, coarse = torch.tensor([[mass[p][distance[p] <= k].sum() for k in pixels.THRESHOLDS_KM] for p in parts])
    cap = 2 * math.pi * (1 - torch.cos(torch.tensor(pixels.THRESHOLDS_KM).double() / EARTH_RADIUS_KM))
    coarse_by_area, by_area = torch.stack(posterior._log_parts(mode)).exp() * cap
    small = torch.tensor([[k < 415 / 2, k < 26 / 2] for k in pixels.THRESHOLDS_KM]).T  # half the points' distances
    wanted = torch.where(small[0], coarse_by_area, coarse) + torch.where(small[1], by_area, within)
    found = posterior.mass_within(mode)[0].double()
    assert torch.allclose(found, wanted.double(), atol=1e-5)
    assert found[0].item() == pytest.approx(wanted[0].item(), rel=1e-4)
    assert found[0].item() == pytest.approx((posterior.log_prob(mode).exp() * cap[0]).item(), rel=1e-4)
    for share, radius in zip((0.5, 0.9), posterior.credible_radius(mode)[0].tolist(), strict=True):
        assert mass[distance <= radius].sum() >= share - 1e-5
        assert mass[distance < radius - 1 - 1e-3].sum() < share + 1e-5  # it is rounded up to whole km


def test_a_mode_that_no_cell_refines_stays_that_of_the_first_level():
    model = peaked_at(torch.tensor([85.0, 40.0], dtype=torch.float64), zoom_into=1)
    two = torch.stack([CENTERS[300], torch.tensor([20.0, 100.0], dtype=torch.float64)])
    natural = (shdd.encode(two, 7) * torch.tensor([[12.0], [11.9]])).sum(dim=0)
    model.network.head.bias.data = natural.float()
    posterior = model.posterior(torch.zeros(2, 5))
    modes, probability = posterior.modes(2)
    first, _ = posterior.base.modes(2)
    assert probability.min() > 0.1
    other = great_circle_km(first, two[1]).argmin(dim=-1)
    wanted = first[torch.arange(2), other]
    assert (great_circle_km(modes, wanted[:, None]).amin(dim=-1) < 0.01).all()
    assert (great_circle_km(modes, two[0]).amin(dim=-1) < 500).all()


def test_a_sample_that_a_level_leaves_goes_no_further():
    posterior = sure_of(CENTERS[300], zoom_into=1).posterior(torch.randn(1, 5))
    base, (first, second) = posterior.base, posterior.components
    at = second.level.centers(second.cell_index[0]).expand(1, 20, 2)
    arguments = base.grid, base.objective, base.coeffs, base.pixel_probs
    posterior.base = PixelPosterior(*arguments, lambda count, seed, first: (at, None))
    assert not torch.equal(posterior.sample(20), at)
    first.cell_index[:] = first.level.index_of(torch.tensor([0]))  # at the other end of the world
    assert torch.equal(posterior.sample(20), at)


def test_samples_of_a_cell_fill_discs_as_large_as_its_pixels():
    model, nside = zoomed(noise=0.5, zoom_into=1, zoom_nside=8, sample_steps=1), 8
    posterior = model.posterior(torch.randn(1, 5))
    base, places = posterior.base.sample(20_000)[0], posterior.sample(20_000)[0]
    center = model.refinements[0].centers(posterior.components[0].cell_index[0])
    moved = zoom.zoom_in(places[great_circle_km(base, places) > 0], center, 8.0)
    from_pixel = great_circle_km(moved[:, None], healpix_anchors(nside)).amin(dim=1) / EARTH_RADIUS_KM
    radius = 2 / math.sqrt(12) / nside  # of a disc with the area of a pixel
    assert len(moved) > 100 and from_pixel.max() < radius * (1 + 1e-6)
    assert 0.7 * radius**2 / 2 < from_pixel.square().mean() < radius**2 / 2


def test_samples_stay_where_no_cell_is_known():
    model = zoomed([0, 1], sample_steps=1)
    posterior = model.posterior(torch.randn(3, 5))
    base, moved = posterior.base.sample(100), posterior.sample(100)
    known = great_circle_km(base[..., None, :], CENTERS[[0, 1]]).amin(dim=-1) < 1700
    assert torch.equal(moved[~known], base[~known]) and (~known).sum() > 200


@pytest.mark.parametrize("into", [2, 5])
def test_the_points_that_are_listed_are_the_densest_and_all_that_are_not_light(into):
    posterior = sure_of(CENTERS[300], zoom_into=into).posterior(torch.randn(2, 5))
    for i in range(2):
        whole, heavy = apart(posterior._points, i, posterior.pixel_probs[i])
        wanted = torch.cat([component.masses[i].flatten() for component in posterior.components])
        least, most = (wanted[wanted > limit].sum().item() for limit in (HEAVY, LIGHT))
        assert 0 < least - 1e-5 < heavy.mass.sum() < most + 1e-5
        assert whole.sum() + heavy.mass.sum() == pytest.approx(1, abs=1e-5)
        for component, points in zip(posterior.components, posterior._points, strict=True):
            own, density = slice(*points.ends[i : i + 2]), component.masses[i].flatten() / component.point_widths**2
            torch.testing.assert_close(points.log_density[own], density[points.index[own]].log(), rtol=1e-4, atol=1e-4)
            assert points.log_density[own].max() == pytest.approx(density.max().log().item(), abs=1e-4)
            assert torch.isin(torch.where(component.masses[i].flatten() > HEAVY)[0], points.index[own]).all()
            xyz = component.unit_vectors(i)[:, points.index[own]].T.numpy()
            assert np.array_equal(healpy.vec2pix(16, *xyz.T.astype(float)), points.pixel[own])
