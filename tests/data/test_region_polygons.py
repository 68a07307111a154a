"""Regions of pixels as polygons on the map: areas, points in them, poles and the antimeridian."""

import healpy
import numpy as np
import pytest

from locdiff.data.region_polygons import contains, multipolygon


def rings(polygons):
    return [np.array(ring) for polygon in polygons for ring in polygon]


def share_of_sphere(ring):
    """The signed share of the sphere in a ring: the integral of sin(lat) along edges that are straight on the map."""
    lon, lat = np.deg2rad(ring).T
    change, middle = np.diff(lat), (lat[1:] + lat[:-1]) / 2
    mean = np.sin(middle) * np.sinc(change / 2 / np.pi)  # of sin(lat) along an edge
    return -(mean * np.diff(lon)).sum() / (4 * np.pi)


def inside(polygons, point):
    """Whether a point (lon, lat) is in an odd number of rings: in the region and in none of its holes."""
    return sum(contains(ring[:-1], np.array(point)) for ring in rings(polygons)) % 2 == 1


def disc(nside, lat, lon, degrees):
    return healpy.query_disc(nside, healpy.ang2vec(lon, lat, lonlat=True), np.deg2rad(degrees))


def check(nside, pixels, rel=0.02):
    """A region has the area of its pixels, holds the centers of them and of no others, and is right by RFC 7946."""
    polygons = multipolygon(nside, pixels)
    for polygon in polygons:
        for i, ring in enumerate(polygon):
            assert ring[0] == ring[-1] and len(ring) >= 4
            assert len({tuple(corner) for corner in ring}) == len(ring) - 1  # touches itself nowhere
            assert (share_of_sphere(np.array(ring)) > 0) == (i == 0)
            assert (np.abs(ring) <= [180, 90]).all()
        outer = np.array(polygon[0])
        for hole in polygon[1:]:
            assert contains(outer[:-1], (np.array(hole[0]) + hole[1]) / 2)
    area = sum(share_of_sphere(ring) for ring in rings(polygons))
    assert area == pytest.approx(len(pixels) / (12 * nside**2), rel=rel)
    lon, lat = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)
    centers = np.stack([(lon + 180) % 360 - 180 + 1e-4, lat + 1e-4], axis=-1)  # a corner may lie on the same parallel
    found = [i for i, center in enumerate(centers) if inside(polygons, center)]
    assert found == sorted(int(i) for i in pixels)
    return polygons


@pytest.mark.parametrize(
    ("lat", "lon", "count"),
    [(0, 0, 1), (52, 13, 1), (0, 180, 2), (-30, 179.5, 2), (60, -179, 2), (90, 0, 1), (-90, 0, 1), (84, 178, 1)],
)
def test_discs_anywhere_are_whole(lat, lon, count):
    assert len(check(16, disc(16, lat, lon, 10))) == count


def test_each_pixel_alone_and_all_together():
    for pixel in (*range(0, 192, 7), 1, 2, 3, 188, 189, 190, 191):
        check(4, np.array([pixel]), rel=0.05)  # sides near a pole are curved
    (whole,) = check(4, np.arange(12 * 4**2))
    assert len(whole) == 1 and share_of_sphere(np.array(whole[0])) == pytest.approx(1)
    assert multipolygon(4, np.array([], dtype=int)) == []


def test_a_region_across_the_antimeridian_is_cut_there():
    polygons = check(16, disc(16, 10, 180, 8))
    sides = sorted(np.sign(np.array(polygon[0])[:, 0]).sum() > 0 for polygon in polygons)
    assert sides == [False, True]
    for polygon in polygons:
        assert 180 in np.abs(np.array(polygon[0])[:, 0]) and np.ptp(np.array(polygon[0])[:, 0]) < 12


def test_a_region_over_a_pole_reaches_the_edge_of_the_map():
    for lat in (90, -90):
        (polygon,) = check(16, disc(16, lat, 0, 12))
        edge = [corner for corner in polygon[0] if corner[1] == lat]
        assert {corner[0] for corner in edge} == {-180, -90, 0, 90, 180}  # at the pole
        for lon in (-179.9, -91, 3, 100, 179.9):
            assert inside([polygon], (lon, lat - np.sign(lat) * 0.1)) and not inside([polygon], (lon, 0.0))


def test_holes_and_islands_in_them():
    ring = np.setdiff1d(disc(32, 20, 40, 20), disc(32, 20, 40, 12))
    island = disc(32, 20, 40, 4)
    polygons = check(32, np.concatenate([ring, island]))
    assert sorted(len(polygon) for polygon in polygons) == [1, 2]


@pytest.mark.parametrize("seed", range(6))
def test_random_pixels_that_touch_at_corners(seed):
    rng = np.random.default_rng(seed)
    check(8, np.flatnonzero(rng.random(12 * 8**2) < rng.choice([0.2, 0.5, 0.8])))


def test_all_sides_cancel_at_the_nside_of_the_densities():
    pixels = disc(64, 0, 10, 60)
    (polygon,) = multipolygon(64, pixels)
    assert len(polygon) == 1 and share_of_sphere(np.array(polygon[0])) == pytest.approx(len(pixels) / 49152, rel=1e-3)
    (world,) = multipolygon(64, np.arange(49152))
    assert len(world) == 1
