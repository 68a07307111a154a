"""Places through GeoCLIP, against the package itself; restricted and weighted retrieval, against brute force."""

import copy
import math
import sys
from functools import partial
from pathlib import Path

import healpy
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support import EDGE_PLACES, seeds
from test_baselines import pictures, scattered
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from locdiff.data.geoclip import GEOCLIP, SIMULATION, GeoClip, embed_places, gallery_places
from locdiff.errors import InputError
from locdiff.evaluation import retrieval
from locdiff.evaluation.retrieval import WEIGHTS, nearest, retrieve, retrieve_by_density, retrieve_near, weigh_hills
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import log_density_at

EDGES = torch.tensor([*EDGE_PLACES, (0.0, 180.0), (-90.0, 0.0)], dtype=torch.float64)
HALF_THE_EARTH_KM = math.pi * EARTH_RADIUS_KM


@pytest.fixture(scope="module")
def package(geoclip):
    """GeoCLIP as its authors' package puts it together, on a CLIP for which a picture is its embedding."""
    from geoclip.model import GeoCLIP, image_encoder

    class Clip(nn.Module):
        def get_image_features(self, pixel_values):
            return pixel_values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_encoder, "CLIPModel", lambda config: Clip())
        patch.setattr(image_encoder, "CLIPImageProcessor", lambda: None)
        return GeoCLIP(clip_pretrained=False).eval()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def clip_embeddings(n):
    return 10 * torch.randn(n, 768, generator=torch.Generator().manual_seed(1))


def queries_for(n, d=5, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosines(queries, places):
    return cosine_similarity(queries[:, None], torch.from_numpy(places.embeddings), dim=-1)


def test_cosines_times_scale_are_the_logits_of_the_package(geoclip, package):
    embeddings, places = clip_embeddings(7), torch.cat([EDGES, gallery_places("mp16")[:50]])
    with torch.no_grad():
        expected = package(embeddings, places.float())
    logits = geoclip.scale * geoclip.images(embeddings) @ geoclip.places(places).T
    assert expected.std() > 1 and expected.shape == (7, 58)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * geoclip.scale)
    for vectors in (geoclip.images(embeddings), geoclip.places(places)):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(len(vectors)), rtol=1e-5, atol=0)
    assert not any(parameter.requires_grad for parameter in geoclip.parameters())


def test_retrieval_from_places_is_the_prediction_of_the_package(geoclip, package, own_cache, tmp_path):
    embeddings, places = clip_embeddings(12), torch.cat([EDGES, gallery_places("mp16")[:200]])
    package = copy.deepcopy(package)
    package.gps_gallery = places.float()
    Image.new("RGB", (2, 2)).save(tmp_path / "any.png")
    expected = []
    for picture in embeddings:
        processed = {"pixel_values": picture[None]}
        package.image_encoder.image_processor = lambda images, return_tensors, processed=processed: processed
        expected.append(package.predict(tmp_path / "any.png", top_k=1)[0])
    queries = geoclip.queries(embeddings, "ViT-L-14/openai")
    found = retrieve(queries, embed_places(places, geoclip, progress=False), progress=False)
    assert len(torch.unique(found, dim=0)) > 3
    torch.testing.assert_close(found.float(), torch.cat(expected), rtol=0, atol=0)


def test_galleries_are_searched_with_clip_embeddings_or_simulated_ones_only(geoclip):
    embeddings = clip_embeddings(3)
    for encoder in ("ViT-L-14/openai", "ViT-L-14-quickgelu/openai", "ViT-L-14/my-clip.pt-0123456789ab"):
        torch.testing.assert_close(geoclip.queries(embeddings, encoder), geoclip.images(embeddings), rtol=0, atol=0)
    simulated = geoclip.queries(embeddings[:, :512], SIMULATION)
    torch.testing.assert_close(simulated, normalize(embeddings[:, :512], dim=-1))
    for encoder in ("thumbnail-16", "ViT-B-32/openai", "ViT-L-14/laion2b_s32b_b82k", "ViT-L-14", "unknown", ""):
        with pytest.raises(InputError, match=f"by ViT-L-14/openai, these are by '{encoder}': embed the pictures"):
            geoclip.queries(embeddings, encoder)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    for module in ("geoclip", "geoclip.model"):
        monkeypatch.setitem(sys.modules, module, None)
    for use in (GeoClip, lambda: gallery_places("mp16")):
        with pytest.raises(InputError, match=r"needs the package geoclip: pip install 'locdiffusion\[geoclip\]'"):
            use()
    assert len(gallery_places("grid:12")) == 12  # which need no package


def test_the_gallery_of_the_package_is_whole(geoclip, package):
    places = gallery_places("mp16")
    assert places.shape == (100_000, 2) and places.dtype == torch.float64
    torch.testing.assert_close(places.float(), package.gps_gallery, rtol=0, atol=0)
    assert (places.abs() <= torch.tensor([90, 180])).all() and places.std(dim=0).min() > 20


GRIDS = [(2, 12), (21_000, 21_168), (100_000, 99_372), (500_000, 499_392), (1_000_000, 1_002_252)]


@pytest.mark.parametrize(("size", "expected"), GRIDS)
def test_a_grid_is_even_and_of_about_its_size(size, expected):
    places = gallery_places(f"grid:{size}")
    assert places.shape == (expected, 2)
    assert abs((places[:, 0].abs() < 30).double().mean() - 0.5) < 2 / math.sqrt(expected)  # half of the area
    quarter = ((places[:, 1] + 180) // 90).long().bincount(minlength=4)
    assert (quarter / expected - 0.25).abs().max() < 2 / math.sqrt(expected)


def test_a_grid_of_latitudes_and_longitudes():
    expected = [[lat, lon] for lat in (60.0, 0.0, -60.0) for lon in (-150.0, -90.0, -30.0, 30.0, 90.0, 150.0)]
    assert gallery_places("latlon:18").tolist() == expected
    assert gallery_places("latlon:2").tolist() == [[0, -90], [0, 90]]
    places = gallery_places("latlon:21000")
    assert abs(len(places) - 21_000) < 300 and abs((places[:, 0].abs() < 30).double().mean() - 1 / 3) < 0.02


def test_a_file_of_places_is_a_gallery(tmp_path):
    (tmp_path / "places.csv").write_text("IMG_ID,LAT,LON\na,90,0\nb,-12.5,-180\n")
    for name in (tmp_path / "places.csv", str(tmp_path / "places.csv")):
        places = gallery_places(name)
        assert places.tolist() == [[90, 0], [-12.5, -180]] and places.dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grid:x", "needs a number of places N, at least 2, got 'grid:x'"),
        ("grid:1", "got 'grid:1'"),
        ("grid:", "got 'grid:'"),
        ("grid", "got 'grid'"),
        ("grid:-5", "got 'grid:-5'"),
        ("latlon:1e5", "'latlon:N' needs .* got 'latlon:1e5'"),
        ("nowhere.csv", "cannot read nowhere.csv"),
        ("mp17", "cannot read mp17"),
        ("empty.csv", "empty.csv holds no places"),
    ],
)
def test_a_gallery_that_there_is_not_is_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_text("id,lat,lon\n")
    with pytest.raises(InputError, match=message) as error:
        gallery_places(name)
    assert "\n" not in str(error.value)


def test_embedded_places_are_kept_and_do_not_depend_on_the_chunks(geoclip, own_cache, tmp_path, monkeypatch):
    places = torch.cat([EDGES, gallery_places("mp16")[:30]])
    made = embed_places(places, geoclip, progress=False)
    [file] = own_cache.iterdir()
    first = file.read_bytes()
    assert made.encoder == GEOCLIP and len(made) == 38 and made.embeddings.dtype == np.float32
    embeddings, lat_lon = made.batch(range(38))
    torch.testing.assert_close(embeddings, geoclip.places(places), rtol=0, atol=1e-6)
    torch.testing.assert_close(lat_lon, places, rtol=0, atol=0)
    with monkeypatch.context() as patch:
        patch.setattr(GeoClip, "places", None)  # nothing is embedded twice
        again = embed_places(places, geoclip, progress=False)
    np.testing.assert_array_equal(again.embeddings, made.embeddings)
    np.testing.assert_array_equal(again.lat_lon, made.lat_lon)
    for size in (1, 7, 38):
        monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path / f"other-{size}"))
        monkeypatch.setattr(geoclip, "_EMBEDDED", size)
        other = embed_places(places, geoclip, progress=False)
        np.testing.assert_allclose(other.embeddings, made.embeddings, rtol=0, atol=1e-4)  # sines of large angles
    assert (tmp_path / "other-38" / file.name).read_bytes() == first


def test_other_places_or_another_package_are_another_file(geoclip, own_cache, monkeypatch):
    embed_places(EDGES, geoclip, progress=False)
    embed_places(EDGES.flip(0), geoclip, progress=False)
    embed_places(EDGES * (1 - 1e-12), geoclip, progress=False)
    assert len(list(own_cache.iterdir())) == 3
    monkeypatch.setattr(retrieval.metadata, "version", lambda name: f"another {name}")
    embed_places(EDGES, geoclip, progress=False)
    assert len(list(own_cache.iterdir())) == 4


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_embedding_leaves_nothing(geoclip, own_cache, monkeypatch, interruption):
    real, calls = GeoClip.places, []

    def stopped(self, lat_lon):
        if calls:
            raise interruption
        calls.append(1)
        return real(self, lat_lon)

    monkeypatch.setattr(GeoClip, "places", stopped)
    monkeypatch.setattr(geoclip, "_EMBEDDED", 5)
    with pytest.raises(KeyboardInterrupt if interruption is KeyboardInterrupt else InputError) as error:
        embed_places(EDGES, geoclip, progress=False)
    assert list(own_cache.iterdir()) == []
    if interruption is not KeyboardInterrupt:
        assert "No space left on device; set LOCDIFF_CACHE to a folder with room" in str(error.value)
        assert str(own_cache) in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(geoclip, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCDIFF_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match=r"cannot write .*file/cache/gallery-.*set LOCDIFF_CACHE"):
        embed_places(EDGES, geoclip, progress=False)


@given(seed=seeds, n=st.integers(0, 6), size=st.integers(1, 60), k=st.integers(1, 70), chunk=st.integers(1, 400))
@example(seed=0, n=0, size=9, k=1, chunk=1)
@example(seed=0, n=4, size=60, k=60, chunk=7)
def test_the_nearest_are_those_of_the_largest_cosines(seed, n, size, k, chunk):
    places = pictures(torch.rand(size, 2, dtype=torch.float64), seed=seed)
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
    places = pictures(scattered(40, seed=seed % 1000), seed=seed)
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
    places, queries = pictures(scattered(60)), queries_for(20)
    everywhere = retrieve_near(queries, places, EDGES[None, :1].expand(20, -1, -1), HALF_THE_EARTH_KM, progress=False)
    torch.testing.assert_close(everywhere, retrieve(queries, places, progress=False), rtol=0, atol=0)


@pytest.mark.parametrize("edge", EDGES.tolist())
def test_neighbourhoods_reach_over_poles_and_the_antimeridian(edge):
    """Twelve places around the candidate, 199.9 km away, and twelve that are more similar, 200.1 km away."""
    edge = torch.tensor([edge], dtype=torch.float64)
    basis = torch.linalg.qr(torch.cat([to_unit_vector(edge).T, torch.eye(3, dtype=torch.float64)[:, :2]], dim=1))[0]
    turn = torch.arange(12, dtype=torch.float64)[:, None] * math.pi / 6
    circle = turn.cos() * basis[:, 1] + turn.sin() * basis[:, 2]
    angles = [km / EARTH_RADIUS_KM for km in (199.9, 200.1)]
    near, far = (from_unit_vector(to_unit_vector(edge) + math.tan(angle) * circle) for angle in angles)
    places, queries = pictures(torch.cat([near, far]), d=13), torch.eye(13)[:12] + torch.eye(13)[12]
    places.embeddings[:] = np.concatenate([np.eye(13)[:12], queries.numpy()])
    candidates = edge.expand(12, 1, 2)
    found = retrieve_near(queries, places, candidates, 200.0, progress=False)
    torch.testing.assert_close(found, near, rtol=0, atol=0)
    only_far = places.subset(np.arange(12, 24))
    torch.testing.assert_close(retrieve_near(queries, only_far, candidates, 200.0, progress=False), candidates[:, 0])


def test_without_a_place_nearby_the_first_candidate_stands():
    places = pictures(torch.tensor([[0.0, 0.0]], dtype=torch.float64))
    far, nowhere = [[50.0, 50.0], [-50.0, 70.0]], [math.nan, math.nan]
    candidates = torch.tensor([far, [far[0], nowhere], [nowhere, far[0]], [nowhere, [0.1, 0.1]]])
    found = retrieve_near(queries_for(4), places, candidates, 200.0, progress=False)
    assert found.dtype == torch.float64 and found[:2].tolist() == [far[0]] * 2
    assert found[2].isnan().all() and found[3].tolist() == [0, 0]
    empty = places.subset(np.array([], dtype=int))
    found = retrieve_near(queries_for(1), empty, candidates[:1], 200.0, progress=False)
    assert found.dtype == torch.float64 and found.tolist() == [far[0]]


def test_a_radius_of_a_metre_or_none_keeps_to_the_candidates():
    places, queries = pictures(scattered(60)), queries_for(60)
    own = torch.from_numpy(places.lat_lon)[:60, None]
    torch.testing.assert_close(retrieve_near(queries, places, own, 1e-3, progress=False), own[:, 0], rtol=0, atol=0)
    several = torch.from_numpy(places.lat_lon)[torch.arange(60)[:, None].add(torch.arange(3)) % 60]
    found = retrieve_near(queries, places, several, 0.0, progress=False)
    assert great_circle_km(found[:, None], several).min(dim=-1).values.max() < 1e-3


@given(seed=seeds, chunk=st.integers(1, 2000), sharpness=st.sampled_from([0.1, 3.0, 40.0]))
def test_the_weighted_score_is_the_largest_of_the_gallery(seed, chunk, sharpness):
    places = pictures(scattered(60, seed=seed % 1000), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.softmax(sharpness * torch.randn(5, 192, generator=generator), dim=-1)
    shares[:, ::3] = 0.0
    queries = queries_for(5, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_CHUNK", chunk)
        found = retrieve_by_density(queries, places, partial(log_density_at, shares), progress=False)
    assert found.shape == (len(WEIGHTS), 5, 2) and found.dtype == torch.float64
    lat_lon, cosine = torch.from_numpy(places.lat_lon), cosines(queries, places).double()
    pixel = healpy.ang2pix(4, *np.radians([90 - places.lat_lon[:, 0], places.lat_lon[:, 1] % 360]))
    log_density = shares[:, pixel].double().clamp(min=1e-30).log()
    for weight, own in zip(WEIGHTS, found, strict=True):
        score = cosine if math.isinf(weight) else weight * cosine + log_density
        chosen = (own[:, None] == lat_lon).all(dim=-1)
        assert chosen.any(dim=-1).all()
        reached = score.masked_fill(~chosen, -math.inf).max(dim=-1).values
        assert (reached >= score.max(dim=-1).values - 1e-6 * (1 + score.abs().max())).all(), weight


def test_weight_zero_is_the_densest_place_and_an_infinite_one_retrieval():
    places, queries = pictures(healpix_anchors(2)), queries_for(6)
    shares = torch.softmax(torch.randn(6, 48, generator=torch.Generator().manual_seed(0)), dim=-1)
    densest, most_similar = retrieve_by_density(
        queries, places, partial(log_density_at, shares), (0.0, math.inf), progress=False
    )
    torch.testing.assert_close(densest, healpix_anchors(2)[shares.argmax(dim=-1)], rtol=0, atol=0)
    torch.testing.assert_close(most_similar, retrieve(queries, places, progress=False), rtol=0, atol=0)
    assert (densest != most_similar).any()


def test_where_the_density_is_zero_everywhere_the_cosine_decides():
    places, queries = pictures(healpix_anchors(2)), queries_for(6)
    found = retrieve_by_density(queries, places, partial(log_density_at, torch.zeros(6, 48)), (1.0,), progress=False)
    torch.testing.assert_close(found[0], retrieve(queries, places, progress=False), rtol=0, atol=0)
    shares = torch.zeros(6, 48)
    shares[:, 7] = 1e-9
    found = retrieve_by_density(queries, places, partial(log_density_at, shares), (0.0, 1.0), progress=False)
    assert (found == healpix_anchors(2)[7]).all()  # any density outweighs none


def test_an_empty_gallery_or_no_queries_retrieve_nothing():
    places = pictures(scattered(5))
    empty, shares = places.subset(np.array([], dtype=int)), torch.full((3, 48), 1 / 48)
    assert nearest(queries_for(3), empty, 4, progress=False)[1].shape == (3, 0)
    assert retrieve_by_density(queries_for(3), empty, partial(log_density_at, shares), progress=False).isnan().all()
    none = queries_for(0)
    assert retrieve(none, places, progress=False).shape == (0, 2)
    assert retrieve_near(none, places, torch.empty(0, 3, 2), progress=False).shape == (0, 2)
    assert retrieve_by_density(none, places, partial(log_density_at, shares[:0]), progress=False).shape == (
        len(WEIGHTS),
        0,
        2,
    )


@given(seed=seeds, k=st.integers(1, 4), pictures_there=st.integers(1, 130))
def test_hills_are_weighed_by_the_votes_of_the_nearest_pictures(seed, k, pictures_there):
    """By its formula, in numpy, a picture at a time; the places are close together, so that votes overlap."""
    middle = torch.tensor([[10.0, 179.5]])
    places = pictures(
        from_unit_vector(to_unit_vector(middle + scattered(pictures_there, seed=seed % 1000) / 90)), seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    queries = queries_for(3, seed=seed)
    hills = from_unit_vector(to_unit_vector(middle.double() + 2 * torch.rand(3, k, 2, generator=generator)))
    probability = torch.rand(3, k, generator=generator).softmax(dim=-1)
    found = weigh_hills(queries, places, hills, probability, (0.0, 3.0, 300.0), progress=False)
    cosine, position = nearest(queries, places, 100, progress=False)
    for w, weight in enumerate((0.0, 3.0, 300.0)):
        for i in range(3):
            share = np.exp(weight * (cosine[i] - cosine[i, 0]).double().numpy())
            distance = great_circle_km(hills[i][:, None], torch.from_numpy(places.lat_lon)[position[i]]).numpy()
            votes = (np.exp(-(distance**2) / 2 / 50**2) * share / share.sum()).sum(axis=-1)
            score = probability[i].double().numpy() * (1e-3 + votes)
            chosen = (hills[i] == found[w, i]).all(dim=-1).numpy()
            assert chosen.any() and score[chosen].max() >= score.max() * (1 - 1e-4)


def test_without_pictures_nearby_the_most_probable_hill_stays():
    hills, probability = (
        healpix_anchors(1)[:4].view(1, 4, 2).expand(3, -1, -1),
        torch.tensor([[0.2, 0.5, 0.3, 0.0]] * 3),
    )
    antipodes = pictures(from_unit_vector(-to_unit_vector(healpix_anchors(1)[:4])))
    for places in (antipodes, antipodes.subset(np.array([], dtype=int))):
        found = weigh_hills(queries_for(3), places, hills, probability, (1.0,), progress=False)
        torch.testing.assert_close(found, hills[None, :, 1], rtol=0, atol=0)
    on_another = pictures(healpix_anchors(1)[2:4])  # on the last, of no probability, too
    assert (weigh_hills(queries_for(3), on_another, hills, probability, (0.0,), progress=False) == hills[0, 2]).all()
    none = weigh_hills(queries_for(0), on_another, hills[:0], probability[:0], progress=False)
    assert none.shape == (len(WEIGHTS) - 1, 0, 2)
