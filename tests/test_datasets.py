"""Blue Marble views, embeddings folders, lists of places."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings, _read_rows, read_embeddings, train_and_test
from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.evaluation import retrieval, summaries
from locdiff.evaluation.retrieval import retrieve
from locdiff.sphere.coordinates import great_circle_km


def degrees(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def image():
    return blue_marble.blue_marble_image()


def colour(image, lat, lon):
    row, column = int((90 - lat) * 7.5), int((lon + 180) * 7.5)
    return image[:, row, column]


def test_views_show_the_place_they_are_centred_on(image):
    """The mean of the four central pixels is the map's colour there, also at the antimeridian and far south."""
    smooth = torch.nn.functional.avg_pool2d(image[None], 9, stride=1, padding=4, count_include_pad=False)[0]
    for lat, lon in [
        (23.0, 10.0),
        (-3.0, -62.0),
        (66.0, 179.9),
        (66.0, -179.9),
        (-80.0, 0.0),
        (72.0, -40.0),
        (-25.0, 134.0),
    ]:
        view = blue_marble.thumbnails(image, degrees((lat, lon)))[0]
        torch.testing.assert_close(view[:, 6:10, 6:10].mean((1, 2)), colour(smooth, lat, lon), rtol=0, atol=0.08)


def test_views_face_north_and_turn_with_the_heading(image):
    """Mid-latitude coasts: sea to the west of Portugal and to the south of Western Australia's Nullarbor."""
    portugal, nullarbor = blue_marble.thumbnails(image, degrees((40.0, -8.9), (-31.7, 129.0)))
    blueness = lambda part: (part[2] - part[0]).mean()  # noqa: E731
    assert blueness(portugal[:, :, :5]) > blueness(portugal[:, :, 11:]) + 0.1
    assert blueness(nullarbor[:, 12:]) > blueness(nullarbor[:, :5]) + 0.1
    turned = blue_marble.thumbnails(image, degrees((40.0, -8.9)), heading=torch.tensor([180.0]))[0]
    torch.testing.assert_close(turned, portugal.flip(1, 2), rtol=0, atol=1e-3)


def test_zoom_shows_the_middle_larger(image):
    wide, near = (blue_marble.thumbnails(image, degrees((36.0, -5.5)), zoom=torch.tensor([z]))[0] for z in (1.0, 2.0))
    halved = torch.nn.functional.avg_pool2d(near[None], 2)[0]
    torch.testing.assert_close(halved, wide[:, 4:12, 4:12], rtol=0, atol=0.08)


def test_random_land_is_land_and_even_over_it():
    lat_lon = blue_marble.random_land(20_000, torch.Generator().manual_seed(0))
    assert blue_marble.is_land(lat_lon).all() and len(lat_lon) == 20_000
    tropics = (lat_lon[:, 0].abs() < 23.44).double().mean()  # of the pixels that are land, counted independently
    anchors = blue_marble.healpix_land(64)
    assert abs(tropics - (anchors[:, 0].abs() < 23.44).double().mean()) < 0.02
    known = degrees((48.9, 2.4), (0.0, -30.0), (-80.0, 90.0), (89.0, 0.0), (-25.0, 134.0), (30.0, -179.0))
    assert blue_marble.is_land(known).tolist() == [True, False, True, False, True, False]


def test_embedding_and_drawing_are_inverse(image):
    views = blue_marble.thumbnails(image, degrees((10.0, 10.0), (60.0, 100.0)))
    again = blue_marble.thumbnail_pictures(blue_marble.thumbnail_embeddings(views))
    torch.testing.assert_close(again.permute(0, 3, 1, 2), views, rtol=0, atol=1e-6)


def test_blue_marble_is_kept_seeded_and_split_into_disjoint_places(cache):
    settings = blue_marble.BlueMarble(train_views=300, test_views=50)
    folder = blue_marble.blue_marble(settings, progress=False)
    train, test = train_and_test(folder, 0)
    assert (len(train), len(test), train.encoder) == (300, 50, "thumbnail-16")
    nearest = great_circle_km(torch.from_numpy(test.lat_lon)[:, None], torch.from_numpy(train.lat_lon)).min()
    assert nearest > 1
    before = (folder / "train" / "embeddings.npy").stat().st_mtime_ns
    assert blue_marble.blue_marble(settings, progress=False) == folder
    assert (folder / "train" / "embeddings.npy").stat().st_mtime_ns == before
    others = [dataclasses.replace(settings, data_seed=1), dataclasses.replace(settings, color=0.2)]
    assert len({folder, *(blue_marble.blue_marble(other, progress=False) for other in others)}) == 3
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_galleries_do_not_hold_the_held_out_places(cache, monkeypatch):
    """The plain gallery is drawn with another seed than the pictures, or retrieval would find the very place."""
    folder = blue_marble.blue_marble(blue_marble.BlueMarble(train_views=300, test_views=50), progress=False)
    train, test = train_and_test(folder, 0)
    monkeypatch.setattr(summaries, "PLAIN_GALLERY", 400)
    monkeypatch.setattr(summaries, "PLAIN_GRID_NSIDE", 8)
    rows = summaries.score_baselines(*test.batch(range(50)), train, seed=0, progress=False)
    assert len(rows) == 4
    for name, row in rows.items():
        assert row["accuracy"][1] == 0, name


def test_retrieval_finds_the_nearest_by_cosine():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(50, 8)).astype(np.float32)
    lat_lon = np.stack([np.linspace(-80, 80, 50), np.zeros(50)], axis=1)
    gallery = Embeddings(embeddings, np.arange(50), lat_lon, list(range(50)), "x")
    queries = torch.from_numpy(embeddings[[3, 40]] * [[5.0], [0.1]]).float()
    np.testing.assert_array_equal(retrieve(queries, gallery, progress=False), lat_lon[[3, 40]])
    subset = retrieval.subset(np.arange(10, 50))
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


def write_folder(folder, embeddings, lines, meta=None):
    folder.mkdir()
    np.save(folder / "embeddings.npy", embeddings)
    (folder / "locations.csv").write_text("\n".join(["id,lat,lon", *lines]) + "\n")
    if meta is not None:
        (folder / "meta.json").write_text(meta)
    return folder


GOOD = np.ones((3, 4), dtype=np.float16)


def test_an_embeddings_folder_is_read_by_memory_map_and_split(tmp_path):
    rows = np.arange(40, dtype=np.float16).reshape(10, 4)
    folder = write_folder(
        tmp_path / "a", rows, [f"p{i},{i},{2 * i}" for i in range(10)], json.dumps({"encoder": "clip"})
    )
    data = read_embeddings(folder)
    assert isinstance(data.embeddings, np.memmap) and data.encoder == "clip" and data.ids[3] == "p3"
    assert [len(part) for part in train_and_test(folder, holdout=0)] == [9, 1]
    train, test = train_and_test(folder, holdout=3, seed=5)
    assert sorted(train.ids + test.ids) == sorted(data.ids) and len(test) == 3
    for part in (train, test):
        embeddings, lat_lon = part.batch(range(len(part)))
        assert embeddings.dtype == torch.float32
        for name, row, place in zip(part.ids, embeddings, lat_lon, strict=True):
            i = int(name[1:])
            assert row.tolist() == rows[i].tolist() and place.tolist() == [i, 2 * i]


@pytest.mark.parametrize(
    ("embeddings", "lines", "meta", "message"),
    [
        (GOOD, ["a,1,2", "b,3,4"], None, "3 embeddings but 2 lines"),
        (GOOD, ["a,1,2", "b,120,4", "c,5,6"], None, r"locations.csv, line 3: \(120, 4\).*swapped"),
        (GOOD, ["a,1,2", "b,,4", "c,5,6"], None, "line 3: the place is missing"),
        (GOOD, ["a,1,2", "b,nan,4", "c,5,6"], None, "line 3: the place is missing"),
        (GOOD, ["a,1,2", "b,1"], None, "line 3: the place is missing"),
        (GOOD.astype(np.float64), ["a,1,2"] * 3, None, "float64"),
        (GOOD[0], ["a,1,2"] * 4, None, r"need \(n, d\)"),
        (np.array([{}], dtype=object), ["a,1,2"], None, "cannot read"),
        (GOOD, ["a,1,2", "b,3,4", "c,5,6"], "[]", "meta.json"),
    ],
)
def test_bad_embeddings_folders_are_refused_by_file_and_line(tmp_path, embeddings, lines, meta, message):
    folder = write_folder(tmp_path / "bad", embeddings, lines, meta)
    with pytest.raises(InputError, match=message) as error:
        train_and_test(folder, holdout=1)
    assert "bad" in str(error.value)


def test_rows_of_a_memory_map_are_the_arrays_own(tmp_path):
    values = np.random.default_rng(0).normal(size=(5000, 7)).astype(np.float16)
    np.save(tmp_path / "a.npy", values)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    for rows in ([], [4999], [3, 0, 3, 4999], range(5000)):
        rows = np.array(rows, dtype=np.int64)
        for array in (mapped, values):
            read = _read_rows(array, rows)
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, values[rows].astype(np.float32))


def test_an_embedding_that_is_not_finite_is_named_when_it_is_read(tmp_path):
    embeddings = GOOD.copy()
    embeddings[1, 2] = np.inf
    data = read_embeddings(write_folder(tmp_path / "a", embeddings, ["a,1,2", "b,3,4", "c,5,6"]))
    data.batch([0, 2])
    with pytest.raises(InputError, match="row 1"):
        data.batch([0, 1, 2])


def test_missing_files_and_impossible_splits_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere is no folder"):
        train_and_test(tmp_path / "nowhere", 1)
    folder = write_folder(tmp_path / "a", GOOD, ["a,1,2", "b,3,4", "c,5,6"])
    with pytest.raises(InputError, match="cannot hold out 3 of the 3"):
        train_and_test(folder, 3)
    (folder / "embeddings.npy").write_bytes((folder / "embeddings.npy").read_bytes()[:70])
    with pytest.raises(InputError, match=r"cannot read .*embeddings.npy"):
        read_embeddings(folder)


def test_places_are_read_under_their_usual_names(tmp_path):
    path = tmp_path / "p.csv"
    for header in (
        "id,lat,lon",
        "IMG_ID,LAT,LON",
        "Image_ID,Latitude,Longitude",
        "filename,Lat,LNG",
        "\ufeffid,lat,long",
    ):
        path.write_text(f"{header}\na/b.jpg,48.9,2.4\n", encoding="utf-8")
        found = read_places(path)
        ids, lat_lon = found.ids, found.lat_lon
        assert ids == ["a/b.jpg"] and lat_lon.tolist() == [[48.9, 2.4]]
    path.write_text("id,x,y\na,1,2\n")
    with pytest.raises(InputError, match="no column for lat, lon"):
        read_places(path)
    path.write_text("LON,id,LAT\n2.4,a,48.9\nNaN,b,1\n,c,\nx,d,2\n")
    found = read_places(path, missing_is_nan=True)
    ids, lat_lon = found.ids, found.lat_lon
    assert lat_lon[0].tolist() == [48.9, 2.4] and np.isnan(lat_lon[1:]).all() and ids == ["a", "b", "c", "d"]


@pytest.mark.parametrize("wrong", [{"train_views": 0}, {"scale": 0.9}, {"rotation": -1.0}, {"color": 1.0}])
def test_settings_that_make_no_pictures_are_refused(cache, wrong):
    with pytest.raises(InputError):
        blue_marble.blue_marble(blue_marble.BlueMarble(**wrong))
