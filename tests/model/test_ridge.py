"""Ridge levels: the closed forms are what they stand for; fitted, they find places between those of the training."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.embeddings import plane_data
from support.models import tiny
from support.strategies import EDGE_PLACES, at_edges, places

from locdiff.data.embeddings import Embeddings
from locdiff.model import ridge
from locdiff.model.ridge import from_plane, to_plane
from locdiff.sphere import shdd, zoom
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors, interpolation

S = 64.0
LEVEL = {"whiten": 0.3, "levels": 3, "zoom": 8.0, "zoom_l_max": 9, "zoom_width": 6, "zoom_rank": 2, "zoom_nside": 16}


def level_of(cells, **changes):
    """A RidgeReadoutLevel of these cells of nside 64, nothing fitted."""
    level = ridge.RidgeReadoutLevel(2, len(cells), tiny(**LEVEL | changes).config)
    level.cell_id.copy_(torch.as_tensor(cells))
    return level


@given(places, places, st.sampled_from([1.0, 8.0, 64.0]))
@at_edges(center=EDGE_PLACES[0], s=64.0)
def test_the_plane_is_that_of_the_zoom(place, center, s):
    place, center = (torch.tensor([p], dtype=torch.float64) for p in (place, center))
    if great_circle_km(place, center) > 20_000:  # the antipode of a centre has no place in the plane
        return
    u = to_plane(place, center, s)
    gamma = great_circle_km(place, center) / 6371.0088
    assert u.norm(dim=-1).item() == pytest.approx(s * math.tan(gamma.item() / 2), rel=1e-6, abs=1e-7)
    assert great_circle_km(from_plane(u), zoom.zoom_in(place, center, s)) < 1e-3


@pytest.mark.parametrize(("n", "d"), [(3, 5), (8, 3), (30, 40)])
def test_errors_are_those_of_a_fit_without_the_place(n, d):
    """Ridge regression written out by the normal equations, with the penalty that was chosen for all places."""
    rng = torch.Generator().manual_seed(n)
    x, u = (torch.randn(n, k, generator=rng, dtype=torch.float64) for k in (d, 2))
    u, r = u + x[:, :2], torch.rand(n, generator=rng, dtype=torch.float64) + 0.1
    weight, bias, error = ridge.ridge(x, u, r)
    mean = (r[:, None] * x).sum(dim=0) / r.sum()
    square = (r[:, None] * (x - mean).square()).sum() / r.sum()

    def written_out(keep, share):
        a = torch.cat([x[keep], torch.ones(int(keep.sum()), 1, dtype=torch.float64)], dim=1)
        w = (r / r.sum())[keep, None]
        penalty = torch.diag(torch.cat([(share * square / n + 1e-12).expand(d), torch.zeros(1, dtype=torch.float64)]))
        return torch.linalg.solve(a.T @ (w * a) + penalty, a.T @ (w * u[keep]))

    every, best = torch.ones(n, dtype=torch.bool), None
    for share in ridge.PENALTIES:
        fits = [written_out(torch.arange(n) != i, share) for i in range(n)]
        left_out = torch.stack([u[i] - x[i] @ fit[:-1] - fit[-1] for i, fit in enumerate(fits)])
        score = (r[:, None] * left_out.square()).sum()
        if best is None or score < best[0]:
            best = score, share, left_out
    assert torch.allclose(error, best[2], atol=1e-6)
    whole = written_out(every, best[1])
    assert torch.allclose(torch.cat([weight, bias[None]]), whole, atol=1e-6)


def test_peaks_are_about_the_place_and_as_wide_as_sigma_says():
    level = level_of([0])
    level.profile.copy_(torch.linspace(2.0, 0.5, len(level.knots))[:, None].expand(-1, 10))
    u = torch.tensor([[0.3, -0.2], [0.0, 0.0], [3.0, 4.0]])
    natural = level.peak(u, torch.full((3,), 0.05))
    best = healpix_anchors(64)[(natural.double() @ shdd.encode(healpix_anchors(64), 9).T).argmax(dim=-1)]
    assert (great_circle_km(best, from_plane(u.double())) < 120).all()  # pixels of 100 km
    low, between, high = (level.peak(u[:1], torch.tensor([s])).norm().item() for s in (0.03, 0.03**0.5 * 0.1**0.5, 0.1))
    assert between == pytest.approx((low + high) / 2, rel=1e-4)
    outside = level.peak(u[:1], torch.tensor([1e-3])), level.peak(u[:1], torch.tensor([0.01]))
    assert torch.allclose(*outside)
    assert level.peak(u[:0], torch.ones(0)).shape == (0, 100)
    level.profile.fill_(1e6)
    assert level.peak(u, torch.ones(3)).norm(dim=-1) == pytest.approx([level.max_norm] * 3, rel=1e-4)


def fitted(data):
    level = level_of(ridge.cells_to_fit(data, 64), zoom_width=4)
    ridge.fit(level, lambda embeddings: embeddings, data, progress=False)
    return level


def test_readouts_interpolate_between_training_places():
    data, asked = plane_data(), plane_data(60, seed=1)
    level = fitted(data)
    embeddings, lat_lon = asked.batch(np.arange(60))
    cells, weights = interpolation(64, lat_lon)
    index = level.index_of(cells.gather(1, weights.argmax(dim=1, keepdim=True))[:, 0])
    assert (index >= 0).sum() > 50
    embeddings, lat_lon, index = embeddings[index >= 0], lat_lon[index >= 0], index[index >= 0]
    u = (level.weight[index] @ embeddings[..., None])[..., 0] + level.bias[index]
    found = zoom.zoom_out(from_plane(u.double()), level.centers(index), S)
    assert (great_circle_km(found, lat_lon) < 3).all()  # training places lie 15 km apart
    zoomed = zoom.zoom_in(lat_lon, level.centers(index), S)
    loss = level.negative_log_likelihood(level(embeddings, index), zoomed)
    assert loss.mean() < -2.5  # against 2.5 of the uniform density in zoomed coordinates


@pytest.fixture
def any_profile(monkeypatch):
    monkeypatch.setattr(ridge, "PROFILE_STEPS", 3)


def test_several_pictures_of_a_place_do_not_vouch_for_each_other(any_profile):
    """Embeddings that are a random code of the place: what is learnt of one place says nothing of the next."""
    sigma = {}
    for repeats in (1, 4):
        data = plane_data(200, repeats=repeats)
        codes = np.random.default_rng(1).normal(size=(200, 60)).astype(np.float32)
        data = dataclasses.replace(data, embeddings=np.repeat(codes, repeats, axis=0))
        level = level_of(ridge.cells_to_fit(data, 64), zoom_width=60)
        ridge.fit(level, lambda embeddings: embeddings, data, progress=False)
        sigma[repeats] = level.sigma.median().item()
    assert sigma[4] == pytest.approx(sigma[1], rel=0.05) and sigma[1] > 0.1


def test_only_cells_with_enough_distinct_places_have_readouts():
    one = Embeddings(np.zeros((50, 4), np.float32), np.arange(50), np.tile([[47.0, 8.0]], (50, 1)), [], "test")
    assert len(ridge.cells_to_fit(one, 64)) == 0
    data = plane_data(300)
    cells, weights = interpolation(64, torch.from_numpy(data.lat_lon))
    found = ridge.cells_to_fit(data, 64)
    count = [(weights[cells == cell] > 1e-3).sum() for cell in found]
    assert len(found) and min(count) >= ridge.MIN_PLACES and (found.diff() > 0).all()


def test_a_cell_takes_no_more_places_than_it_may(monkeypatch, any_profile):
    monkeypatch.setattr(ridge, "MAX_PLACES", 20)
    few = fitted(plane_data())
    monkeypatch.setattr(ridge, "MAX_PLACES", 10**6)
    assert few.sigma.isfinite().all() and not torch.equal(few.weight, fitted(plane_data()).weight)


def test_pictures_that_say_nothing_give_the_training_places_of_the_cell(any_profile):
    """Embeddings that are all the same: the readout is the mean place, and sigma their spread."""
    data = plane_data()
    data.embeddings[:] = 1.0
    level = fitted(data)
    assert level.weight.abs().max() < 1e-6 and level.sigma.isfinite().all()
    assert 0.1 < level.sigma.median() < 0.4 and level.bias.abs().max() < 1.5
