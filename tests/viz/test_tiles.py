"""Tiles in Web Mercator: where their pixels lie, what they show there, and what happens at the edges of the map."""

import healpy
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.path import Path

from locdiff.data.blue_marble import blue_marble_image
from locdiff.errors import InputError
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import regions
from locdiff.viz import densities, tiles
from locdiff.viz.style import DARK
from locdiff.viz.views import unit_vectors

SHARP = 400.0


def peak(lat, lon, sharp=SHARP):
    """The ratio of a density around a place to the uniform one, as a function of locations (..., 2)."""
    middle = unit_vectors(np.array([lat, lon]))
    return lambda at: 2 * sharp * np.exp(sharp * (unit_vectors(at) @ middle - 1))


def pixel_of(lat, lon, zoom):
    """The tile (x, y) and its pixel (row, column) that show a place."""
    x, y = tiles.position(np.array([lat, lon])) * 2**zoom
    return (int(x), int(y)), (int(y % 1 * tiles.SIDE), int(x % 1 * tiles.SIDE))


def pixels(image):
    return np.asarray(image).astype(int)


def test_known_positions():
    """Greenwich on the equator is the middle; 66.51 N is a quarter down: arctan(sinh(pi / 2))."""
    found = tiles.position(np.array([(0.0, 0.0), (66.51326, 90.0), (85.0511288, -180.0), (-90.0, 180.0)]))
    np.testing.assert_allclose(found, [(0.5, 0.5), (0.75, 0.25), (0, 0), (1, 1)], atol=1e-7)


@given(st.floats(-85, 85), st.floats(-180, 180))
@example(0.0, -180.0)
def test_location_is_the_inverse_of_position(lat, lon):
    place = np.array([lat, lon])
    np.testing.assert_allclose(tiles.location(tiles.position(place)), place, atol=1e-9)


@pytest.mark.parametrize("zoom", [0, 2, 9])
def test_four_tiles_have_the_pixels_of_the_one_above_between_them(zoom):
    """In the middle of every 2 x 2 pixels of the closer tiles lies the middle of one pixel."""
    x = 2**zoom // 2
    parent = tiles.position(tiles.locations(zoom, x, x))
    if zoom == tiles.DEEPEST:
        with pytest.raises(InputError):
            tiles.locations(zoom + 1, 2 * x, 2 * x)
        return
    child = tiles.position(tiles.locations(zoom + 1, 2 * x, 2 * x + 1))
    middles = child.reshape(128, 2, 128, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(middles, parent[128:, :128], atol=1e-12)


@pytest.mark.parametrize("tile", [(0, 1, 0), (0, 0, -1), (-1, 0, 0), (10, 0, 0), (3, 8, 0), (3, 0, 8)])
def test_there_is_no_other_tile(tile):
    with pytest.raises(InputError, match="there is no tile"):
        tiles.locations(*tile)


@pytest.mark.parametrize("zoom", [0, 3, 6, 9])
@pytest.mark.parametrize("place", [(48.86, 2.35), (-17.7, 179.999), (-33.9, -179.999), (84.9, 60.0), (0.0, 0.0)])
def test_a_tile_is_shaded_by_the_density_at_its_pixels(place, zoom):
    tile, (row, column) = pixel_of(*place, zoom)
    shades = pixels(tiles.density(peak(*place), 2 * SHARP, zoom, *tile))
    at = tiles.locations(zoom, *tile)
    assert np.abs(at[row, column] - place).max() <= 360 / tiles.SIDE / 2**zoom
    km = 6371 * np.arccos(np.clip(unit_vectors(at[row, column]) @ unit_vectors(np.array(place)), -1, 1))
    strong = 1 - SHARP * (km / 6371) ** 2 / 2 / np.log(2 * SHARP)  # of a normal density, whose logarithm is a parabola
    np.testing.assert_allclose(shades[row, column], 255 * DARK.shade(np.array([strong]))[0], atol=3)
    far = unit_vectors(at) @ unit_vectors(np.array(place)) < np.cos(4 / np.sqrt(SHARP))
    assert not far.any() or shades[far][:, 3].max() == 0


@pytest.mark.parametrize("y", [1, 2])
def test_the_map_goes_on_across_the_antimeridian(y):
    ratio_at, rows = peak(0.0, 180.0, 30.0), slice(0, 256)
    west, east = (pixels(tiles.density(ratio_at, 60.0, 2, x, y)) for x in (3, 0))
    assert (west[rows, -1] == east[rows, 0]).all() and west[:, -1, 3].max() > 200


@pytest.mark.parametrize("lat", [90.0, -90.0])
def test_a_density_at_a_pole_reaches_the_edge_of_the_map_evenly(lat):
    y = 0 if lat > 0 else 3
    edge = pixels(tiles.density(peak(lat, 0.0, 60.0), 120.0, 2, 1, y))[0 if lat > 0 else -1]
    assert (edge == edge[0]).all() and edge[0, 3] > 200


def test_the_earth_has_the_colors_of_the_blue_marble():
    """Compared with the mean of its pixels around places far from coasts and borders."""
    image = blue_marble_image(reduce=1).permute(1, 2, 0).numpy()
    sea = np.array([int(DARK.sea[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    for lat, lon in [(22.0, 29.0), (-5.0, -62.0), (20.0, -40.0), (75.0, -40.0), (0.0, -179.9), (-40.0, 179.9)]:
        tile, (row, column) = pixel_of(lat, lon, 5)
        found = pixels(tiles.earth(5, *tile))[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].mean((0, 1))
        i, j = int((90 - lat) * 15), int((lon + 180) * 15)
        around = image[i - 1 : i + 2, max(j - 1, 0) : j + 2].mean((0, 1))
        np.testing.assert_allclose(found / 255, tiles.MARBLE * around + (1 - tiles.MARBLE) * sea, atol=0.05)


@pytest.mark.parametrize("tile", [(0, 0, 0), (4, 0, 0), (4, 15, 15), (9, 511, 0), (9, 0, 511)])
def test_the_corners_of_the_map_have_tiles(tile):
    assert tiles.earth(*tile).size == (256, 256)


def test_lines_follow_coasts_and_borders_and_not_where_the_data_are_cut():
    def drawn(name, lat, lon, zoom=6, around=3):
        tile, (row, column) = pixel_of(lat, lon, zoom)
        near = slice(max(row - around, 0), row + around + 1), slice(max(column - around, 0), column + around + 1)
        return tiles._line_mask(name, zoom, *tile)[near].max()

    assert drawn("coast", 36.0, -5.61) > 0.5 and drawn("coast", -34.36, 18.48) > 0.5  # Tarifa, Cape Point
    assert drawn("coast", 23.0, 10.0) == 0 and drawn("border", 49.0, -105.0) > 0.5
    assert drawn("border", 45.0, -105.0) == 0
    assert drawn("coast", 68.0, 180.0) == drawn("coast", 68.0, -180.0) == 0  # Chukotka, cut at the antimeridian
    assert drawn("coast", -80.0, 0.0) == drawn("coast", -80.0, -0.01) == 0  # Antarctica, cut at Greenwich


@pytest.mark.parametrize("place", [(20.0, 30.0), (-17.0, 180.0), (70.0, -100.0)])
def test_outlines_hold_the_pixels_of_the_regions(place):
    """Pixels inside the polygons, by an even number of crossings, are those of the regions, but for a few at rims."""
    anchors = healpix_anchors(32)
    probs = torch.from_numpy(peak(*place, 60.0)(anchors.numpy()) + peak(-40.0, 100.0, 60.0)(anchors.numpy()))
    probs /= probs.sum()
    xy, masks = tiles.position(anchors.numpy()), regions(probs[None])[0][0]
    for (polygons, rims), mask in zip(tiles.region_outlines(probs), masks, strict=True):
        inside = np.zeros(len(xy), dtype=int)
        for ring in [ring for polygon in polygons for ring in polygon]:
            inside += Path(tiles.position(ring)).contains_points(xy)
        differ = (inside % 2 == 1) != mask.numpy()
        assert differ.sum() <= 0.05 * mask.sum() and mask.sum() > 20
        lon = np.concatenate(rims)[:, 1]
        step = 360 / (tiles.OUTLINE_FINE * 32)
        assert np.abs(lon).max() <= 180 + step and (place[1] < 180 or (lon.min() < -180 and lon.max() > 180))
        for rim in rims:  # no side runs along the cut
            along = (np.abs(np.abs(rim[1:, 1]) - 180) < 1e-6) & (np.abs(np.abs(rim[:-1, 1]) - 180) < 1e-6)
            assert not along.any()


def test_a_region_of_one_pixel_is_outlined_and_the_uniform_density_is_not():
    probs = torch.full((12 * 32**2,), 1e-9, dtype=torch.float64)
    probs[healpy.ang2pix(32, 10.0, 5.0, lonlat=True)] = 1
    (polygons, rims), _ = tiles.region_outlines(probs / probs.sum())
    (ring,) = [ring for polygon in polygons for ring in polygon]
    center = healpix_anchors(32)[healpy.ang2pix(32, 10.0, 5.0, lonlat=True)].numpy()
    assert Path(ring).contains_point(center) and len(rims) == 1 and np.abs(ring - center).max() < 4
    assert tiles.region_outlines(torch.full((192,), 1 / 192)) == []
    assert densities.region_levels(torch.full((192,), 1 / 192)) == []
