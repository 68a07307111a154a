"""Blue Marble views: they show the place they are of, and are built once, from their settings."""

import dataclasses

import pytest
import torch

from locdiff.data import blue_marble
from locdiff.data.embeddings import train_and_test
from locdiff.errors import InputError
from locdiff.sphere.coordinates import great_circle_km


def degrees(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def image():
    return blue_marble.blue_marble_image()


def color_at(image, lat, lon):
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
        torch.testing.assert_close(view[:, 6:10, 6:10].mean((1, 2)), color_at(smooth, lat, lon), rtol=0, atol=0.08)


def test_thumbnails_are_cut_from_the_full_views(image):
    """Four by four pixels of a full view are about one of the thumbnail, also at the antimeridian and a pole."""
    places = degrees((29.6, 91.1), (66.0, 179.9), (-90.0, 0.0), (37.0, -8.0))
    full = blue_marble.full_views(places)
    assert full.shape == (4, 64, 64, 3) and full.min() >= 0 and full.max() <= 1
    small = torch.nn.functional.avg_pool2d(full.permute(0, 3, 1, 2), 4)
    assert (small - blue_marble.thumbnails(image, places)).abs().mean() < 0.01
    assert full.diff(dim=2).abs().mean() > 0.023  # of the image at half its size it would be 0.019


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


@pytest.mark.parametrize("wrong", [{"train_views": 0}, {"scale": 0.9}, {"rotation": -1.0}, {"color": 1.0}])
def test_settings_that_make_no_pictures_are_refused(cache, wrong):
    with pytest.raises(InputError):
        blue_marble.blue_marble(blue_marble.BlueMarble(**wrong))
