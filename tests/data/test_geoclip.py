"""Places through GeoCLIP, against the package itself; galleries of places by their names, and in the cache."""

import copy
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.strategies import EDGE_PLACES
from torch import nn
from torch.nn.functional import normalize

from locdiff.data import geoclip as geoclip_module
from locdiff.data.geoclip import GEOCLIP, SIMULATION, GeoClip, embed_places, gallery_places
from locdiff.errors import InputError
from locdiff.evaluation.retrieval import retrieve
from locdiff.files import canonical_encoder

EDGES = torch.tensor([*EDGE_PLACES, (0.0, 180.0), (-90.0, 0.0)], dtype=torch.float64)


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
    queries = geoclip.queries(embeddings, "open_clip:ViT-L-14/openai")
    found = retrieve(queries, embed_places(places, geoclip, progress=False), progress=False)
    assert len(torch.unique(found, dim=0)) > 3
    torch.testing.assert_close(found.float(), torch.cat(expected), rtol=0, atol=0)


OWN_FILE = "ViT-L-14/my-clip.pt-0123456789ab"


@pytest.mark.parametrize("name", ["ViT-L-14/openai", "ViT-L-14-quickgelu/openai", OWN_FILE])
def test_galleries_are_searched_with_embeddings_by_openais_clip(geoclip, name):
    embeddings = clip_embeddings(3)
    for encoder in {f"open_clip:{name}", canonical_encoder(name)} - {"open_clip:ViT-L-14/openai+gelu"}:
        torch.testing.assert_close(geoclip.queries(embeddings, encoder), geoclip.images(embeddings), rtol=0, atol=0)


def test_galleries_are_searched_with_simulated_embeddings(geoclip):
    embeddings = clip_embeddings(3)[:, :512]
    torch.testing.assert_close(geoclip.queries(embeddings, SIMULATION), normalize(embeddings, dim=-1))


OTHERS = ["thumbnail-16", "open_clip:ViT-B-32/openai", "open_clip:ViT-L-14/laion2b_s32b_b82k", "open_clip:ViT-L-14"]
OTHERS += ["timm:ViT-L-14/openai", "open_clip:ViT-L-14/openai+gelu", "unknown", ""]


@pytest.mark.parametrize("encoder", OTHERS)
def test_galleries_are_searched_with_no_other_embeddings(geoclip, encoder):
    with pytest.raises(
        InputError, match=rf"by open_clip:ViT-L-14/openai, these are by '{re.escape(encoder)}': embed the pictures"
    ):
        geoclip.queries(clip_embeddings(3), encoder)


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
        monkeypatch.setattr(geoclip_module, "_EMBEDDED", size)
        other = embed_places(places, geoclip, progress=False)
        np.testing.assert_allclose(other.embeddings, made.embeddings, rtol=0, atol=1e-4)  # sines of large angles
    assert (tmp_path / "other-38" / file.name).read_bytes() == first


def test_other_places_or_another_package_are_another_file(geoclip, own_cache, monkeypatch):
    embed_places(EDGES, geoclip, progress=False)
    embed_places(EDGES.flip(0), geoclip, progress=False)
    embed_places(EDGES * (1 - 1e-12), geoclip, progress=False)
    assert len(list(own_cache.iterdir())) == 3
    monkeypatch.setattr(geoclip_module.metadata, "version", lambda name: f"another {name}")
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
    monkeypatch.setattr(geoclip_module, "_EMBEDDED", 5)
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


@pytest.mark.parametrize("damage", [b"", b"no array", "cut", "float64"])
def test_a_damaged_gallery_of_the_cache_is_made_again(geoclip, own_cache, damage):
    made = np.array(embed_places(EDGES, geoclip, progress=False).embeddings)
    [path] = own_cache.iterdir()
    if damage == "float64":
        np.save(path, made.astype(np.float64))
    else:
        path.write_bytes(path.read_bytes()[:-4] if damage == "cut" else damage)
    np.testing.assert_array_equal(embed_places(EDGES, geoclip, progress=False).embeddings, made)
    assert list(own_cache.iterdir()) == [path]
