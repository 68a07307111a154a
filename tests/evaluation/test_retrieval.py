"""Retrieval from galleries, plain, restricted and weighted by a density, against brute force."""

import math
from functools import partial

import healpy
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.embeddings import embedded, queries_for, scattered
from support.strategies import EDGE_PLACES, seeds
from torch.nn.functional import cosine_similarity

from locdiff.data.embeddings import Embeddings
from locdiff.evaluation import retrieval
from locdiff.evaluation.retrieval import WEIGHTS, nearest, retrieve, retrieve_by_density, retrieve_near
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import log_density

EDGES = torch.tensor([*EDGE_PLACES, (0.0, 180.0), (-90.0, 0.0)], dtype=torch.float64)


HALF_THE_EARTH_KM = math.pi * EARTH_RADIUS_KM


def cosines(queries, places):
    return cosine_similarity(queries[:, None], torch.from_numpy(places.embeddings), dim=-1)


def test_retrieval_finds_the_nearest_by_cosine():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(50, 8)).astype(np.float32)
    lat_lon = np.stack([np.linspace(-80, 80, 50), np.zeros(50)], axis=1)
    gallery = Embeddings(embeddings, np.arange(50), lat_lon, list(range(50)), "x")
    queries = torch.from_numpy(embeddings[[3, 40]] * [[5.0], [0.1]]).float()
    np.testing.assert_array_equal(retrieve(queries, gallery, progress=False), lat_lon[[3, 40]])
    subset = gallery.subset(np.arange(10, 50))
    assert retrieve(queries[1:], subset, progress=False).tolist() == [lat_lon[40].tolist()]


@pytest.mark.parametrize("k", [1, 5, 90])
def test_the_nearest_of_a_gallery_do_not_depend_on_its_chunks(k, monkeypatch):
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(60, 8)).astype(np.float32)
    embeddings[50] = embeddings[4]
    pictures = Embeddings(embeddings, np.arange(60), np.zeros((60, 2)), list(range(60)), "x")
    queries = torch.from_numpy(generator.normal(size=(9, 8)).astype(np.float32))
    queries[0] = 3 * torch.from_numpy(embeddings[4])
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], torch.from_numpy(embeddings), dim=-1)
    for chunk in (7, 20_000):
        monkeypatch.setattr(retrieval, "_CHUNK", chunk)
        value, position = retrieval.nearest(queries, pictures, k, progress=False)
        expected = cosine.sort(dim=-1, descending=True).values[:, :k]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(cosine.gather(-1, position), value, rtol=0, atol=1e-6)
        assert all(len(set(row)) == min(k, 60) for row in position.tolist())
        assert chunk > 7 or position[0, 0] == 4  # the first of two equals
    pictures.embeddings[:] = 1.0
    monkeypatch.setattr(retrieval, "_CHUNK", 10)
    assert retrieval.nearest(queries, pictures, 20, progress=False)[1].max() < 20  # of sixty


@given(seed=seeds, n=st.integers(0, 6), size=st.integers(1, 60), k=st.integers(1, 70), chunk=st.integers(1, 400))
@example(seed=0, n=0, size=9, k=1, chunk=1)
@example(seed=0, n=4, size=60, k=60, chunk=7)
def test_the_nearest_are_those_of_the_largest_cosines(seed, n, size, k, chunk):
    places = embedded(torch.rand(size, 2, dtype=torch.float64), seed=seed)
    queries, picked = queries_for(n, seed=seed), np.random.default_rng(seed).permutation(size)[: size // 2 + 1]
    places = places.subset(picked)
    expected = cosines(queries, places)[:, torch.from_numpy(picked)].sort(dim=-1, descending=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_CHUNK", chunk)
        cosine, position = nearest(queries, places, k, progress=False)
        first = retrieve(queries, places, progress=False)
    torch.testing.assert_close(cosine, expected.values[:, :k], rtol=0, atol=1e-6)
    assert position.dtype == torch.long and torch.equal(position, expected.indices[:, :k])
    torch.testing.assert_close(first, torch.from_numpy(places.lat_lon)[position[:, 0]], rtol=0, atol=0)


def near_by_hand(queries, places, candidates, radius_km):
    lat_lon, found = torch.from_numpy(places.lat_lon), []
    for cosine, own in zip(cosines(queries, places), candidates, strict=True):
        near = (great_circle_km(own[:, None], lat_lon) <= radius_km).any(dim=0)
        found.append(lat_lon[cosine.masked_fill(~near, -math.inf).argmax()] if near.any() else own[0])
    return torch.stack(found)


@given(
    seed=seeds, k=st.integers(1, 4), radius_km=st.sampled_from([1, 200, 1000, 5000, 12000, HALF_THE_EARTH_KM + 1]),
    chunk=st.integers(1, 2000),
)  # fmt: skip
@example(seed=0, k=1, radius_km=1e6, chunk=50)
def test_restricted_retrieval_finds_the_most_similar_place_near_any_candidate(seed, k, radius_km, chunk):
    places = embedded(scattered(40, seed=seed % 1000), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.cat([scattered(40, seed=seed % 1000 + 1), torch.from_numpy(places.lat_lon)])
    candidates = candidates[torch.randint(len(candidates), (9, k), generator=generator)]
    candidates[torch.rand(9, k, generator=generator) < 0.2] = math.nan
    candidates[0, 0, 1] = math.nan
    queries = queries_for(9, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_CHUNK", chunk)
        found = retrieve_near(queries, places, candidates, radius_km, progress=False)
    expected = near_by_hand(queries, places, candidates, radius_km)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_the_whole_earth_is_no_restriction():
    places, queries = embedded(scattered(60)), queries_for(20)
    everywhere = retrieve_near(queries, places, EDGES[None, :1].expand(20, -1, -1), HALF_THE_EARTH_KM, progress=False)
    torch.testing.assert_close(everywhere, retrieve(queries, places, progress=False), rtol=0, atol=0)


@pytest.mark.parametrize("edge", EDGES.tolist())
def test_neighborhoods_reach_over_poles_and_the_antimeridian(edge):
    """Twelve places around the candidate, 199.9 km away, and twelve that are more similar, 200.1 km away."""
    edge = torch.tensor([edge], dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([to_unit_vector(edge).T, torch.eye(3, dtype=torch.float64)[:, :2]], dim=1))[0]
    turn = torch.arange(12, dtype=torch.float64)[:, None] * math.pi / 6
    circle = turn.cos() * basis[:, 1] + turn.sin() * basis[:, 2]
    angles = [km / EARTH_RADIUS_KM for km in (199.9, 200.1)]
    near, far = (from_unit_vector(to_unit_vector(edge) + math.tan(angle) * circle) for angle in angles)
    places, queries = embedded(torch.cat([near, far]), d=13), torch.eye(13)[:12] + torch.eye(13)[12]
    places.embeddings[:] = np.concatenate([np.eye(13)[:12], queries.numpy()])
    candidates = edge.expand(12, 1, 2)
    found = retrieve_near(queries, places, candidates, 200.0, progress=False)
    torch.testing.assert_close(found, near, rtol=0, atol=0)
    only_far = places.subset(np.arange(12, 24))
    torch.testing.assert_close(retrieve_near(queries, only_far, candidates, 200.0, progress=False), candidates[:, 0])


def test_without_a_place_nearby_the_first_candidate_stands():
    places = embedded(torch.tensor([[0.0, 0.0]], dtype=torch.float64))
    far, nowhere = [[50.0, 50.0], [-50.0, 70.0]], [math.nan, math.nan]
    candidates = torch.tensor([far, [far[0], nowhere], [nowhere, far[0]], [nowhere, [0.1, 0.1]]])
    found = retrieve_near(queries_for(4), places, candidates, 200.0, progress=False)
    assert found.dtype == torch.float64 and found[:2].tolist() == [far[0]] * 2
    assert found[2].isnan().all() and found[3].tolist() == [0, 0]
    empty = places.subset(np.array([], dtype=int))
    found = retrieve_near(queries_for(1), empty, candidates[:1], 200.0, progress=False)
    assert found.dtype == torch.float64 and found.tolist() == [far[0]]


def test_a_radius_of_a_metre_or_none_keeps_to_the_candidates():
    places, queries = embedded(scattered(60)), queries_for(60)
    own = torch.from_numpy(places.lat_lon)[:60, None]
    torch.testing.assert_close(retrieve_near(queries, places, own, 1e-3, progress=False), own[:, 0], rtol=0, atol=0)
    several = torch.from_numpy(places.lat_lon)[torch.arange(60)[:, None].add(torch.arange(3)) % 60]
    found = retrieve_near(queries, places, several, 0.0, progress=False)
    assert great_circle_km(found[:, None], several).min(dim=-1).values.max() < 1e-3


@given(seed=seeds, chunk=st.integers(1, 2000), sharpness=st.sampled_from([0.1, 3.0, 40.0]))
def test_the_weighted_score_is_the_largest_of_the_gallery(seed, chunk, sharpness):
    places = embedded(scattered(60, seed=seed % 1000), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.softmax(sharpness * torch.randn(5, 192, generator=generator), dim=-1)
    shares[:, ::3] = 0.0
    queries = queries_for(5, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_CHUNK", chunk)
        found = retrieve_by_density(queries, places, partial(log_density, shares), progress=False)
    assert found.shape == (len(WEIGHTS), 5, 2) and found.dtype == torch.float64
    lat_lon, cosine = torch.from_numpy(places.lat_lon), cosines(queries, places).double()
    pixel = healpy.ang2pix(4, *np.radians([90 - places.lat_lon[:, 0], places.lat_lon[:, 1] % 360]))
    log_share = shares[:, pixel].double().clamp(min=1e-30).log()
    for weight, own in zip(WEIGHTS, found, strict=True):
        score = cosine if math.isinf(weight) else weight * cosine + log_share
        chosen = (own[:, None] == lat_lon).all(dim=-1)
        assert chosen.any(dim=-1).all()
        reached = score.masked_fill(~chosen, -math.inf).max(dim=-1).values
        assert (reached >= score.max(dim=-1).values - 1e-6 * (1 + score.abs().max())).all(), weight


def test_weight_zero_is_the_densest_place_and_an_infinite_one_retrieval():
    places, queries = embedded(healpix_anchors(2)), queries_for(6)
    shares = torch.softmax(torch.randn(6, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    densest, most_similar = retrieve_by_density(
        queries, places, partial(log_density, shares), (0.0, math.inf), progress=False
    )
    torch.testing.assert_close(densest, healpix_anchors(2)[shares.argmax(dim=-1)], rtol=0, atol=0)
    torch.testing.assert_close(most_similar, retrieve(queries, places, progress=False), rtol=0, atol=0)
    assert (densest != most_similar).any()


def test_where_the_density_is_zero_everywhere_the_cosine_decides():
    places, queries = embedded(healpix_anchors(2)), queries_for(6)
    found = retrieve_by_density(queries, places, partial(log_density, torch.zeros(6, 48)), (1.0,), progress=False)
    torch.testing.assert_close(found[0], retrieve(queries, places, progress=False), rtol=0, atol=0)
    shares = torch.zeros(6, 48)
    shares[:, 7] = 1e-9
    found = retrieve_by_density(queries, places, partial(log_density, shares), (0.0, 1.0), progress=False)
    assert (found == healpix_anchors(2)[7]).all()  # any density outweighs none


def test_an_empty_gallery_or_no_queries_retrieve_nothing():
    places = embedded(scattered(5))
    empty, shares = places.subset(np.array([], dtype=int)), torch.full((3, 48), 1 / 48)
    assert nearest(queries_for(3), empty, 4, progress=False)[1].shape == (3, 0)
    assert retrieve_by_density(queries_for(3), empty, partial(log_density, shares), progress=False).isnan().all()
    none = queries_for(0)
    assert retrieve(none, places, progress=False).shape == (0, 2)
    assert retrieve_near(none, places, torch.empty(0, 3, 2), progress=False).shape == (0, 2)
    found = retrieve_by_density(none, places, partial(log_density, shares[:0]), progress=False)
    assert found.shape == (len(WEIGHTS), 0, 2)
