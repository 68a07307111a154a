"""Regions of HEALPix pixels as polygons on a map, as GeoJSON (RFC 7946) wants them.

On a map of longitude and latitude a pixel has four sides. A pixel across the antimeridian is cut there in two; the
corner of a pixel at a pole is the whole edge of the map between its meridians. Pixels share whole sides, so the border
of a region is what remains of all sides after those that two pixels share are removed.
"""

from collections import defaultdict

import healpy
import numpy as np

SCALE = 100_000  # points are compared, and written, to 1e-5 degrees
STEP = 2  # parts of the side of a pixel: the sides are curved near the poles


def multipolygon(nside: int, pixels: np.ndarray) -> list:
    """Return the region of some pixels (RING order) as the coordinates of a MultiPolygon: polygons of rings of
    [lon, lat] in degrees, the outer ring first and counterclockwise, holes clockwise.

    No ring crosses the antimeridian or touches itself. No pixels give no polygons.
    """
    rings = [np.array(ring) for ring in _simple_rings(_border(_cells(nside, np.asarray(pixels, dtype=np.int64))))]
    areas = [_doubled_area(ring) for ring in rings]
    outer = sorted((i for i in range(len(rings)) if areas[i] > 0), key=lambda i: areas[i])
    polygons = {i: [rings[i]] for i in outer}
    for hole, area in zip(rings, areas, strict=True):
        if area < 0:
            middle = (hole[0] + hole[1]) / 2  # on no other ring: all edges differ
            around = next(i for i in outer if areas[i] > -area and contains(rings[i], middle))  # the smallest
            polygons[around].append(hole)
    return [[_closed(ring) for ring in polygon] for polygon in polygons.values()]


def contains(ring: np.ndarray, point: np.ndarray) -> bool:
    """Return whether a ring (m, 2) on the map contains a point (2,) that is not on it, by the parity of crossings."""
    a, b = ring, np.roll(ring, -1, axis=0)
    crosses = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    a, b = a[crosses], b[crosses]
    at = a[:, 0] + (point[1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return bool((at > point[0]).sum() % 2)


def _cells(nside, pixels):
    """Yield the outlines of the pixels on the map: arrays (m, points, 2) of whole numbers, counterclockwise."""
    outline = healpy.boundaries(nside, pixels, step=STEP).transpose(0, 2, 1).reshape(-1, 4 * STEP, 3)
    lat = np.rad2deg(np.arctan2(outline[..., 2], np.hypot(outline[..., 0], outline[..., 1])))
    lon = np.rad2deg(np.arctan2(outline[..., 1], outline[..., 0]))
    center = (np.rad2deg(healpy.pix2ang(nside, pixels)[1]).round(9)[:, None] + 180) % 360 - 180
    lon = center + (lon - center + 180) % 360 - 180  # within 180 degrees of the center
    cells = np.rint(np.stack([lon, lat], axis=-1) * SCALE).astype(np.int64)
    pole, (west, south) = 90 * SCALE, (STEP, 2 * STEP)  # the outline begins in the north, and goes on to the west
    at_north, at_south = cells[:, 0, 1] == pole, cells[:, south, 1] == -pole
    cut = cells[:, west, 0] < -2 * pole
    yield cells[~(at_north | at_south | cut)]
    for chosen, corner in ((at_north, 0), (at_south, south)):
        some = cells[chosen]
        edge = [np.stack([some[:, i, 0], some[:, corner, 1]], axis=-1) for i in (corner - 1, corner + 1)]
        yield np.concatenate([np.stack(edge, axis=1), np.roll(some, -corner, axis=1)[:, 1:]], axis=1)
    yield cells[cut][:, : south + 1] + [4 * pole, 0]  # the antimeridian goes through the corners north and south
    yield np.roll(cells[cut], -south, axis=1)[:, : south + 1]


def _border(cells):
    """The directed edges that no two cells share: {start: [ends]}."""
    edges = np.concatenate([np.stack([group, np.roll(group, -1, axis=1)], axis=2).reshape(-1, 2, 2) for group in cells])
    _, point = np.unique(edges[..., 0] * 2**26 + edges[..., 1], return_inverse=True)  # |lat| < 2**25
    a, b = point.reshape(-1, 2).T
    ends = defaultdict(list)
    for start, end in edges[~np.isin(a * len(point) + b, b * len(point) + a)].tolist():
        ends[tuple(start)].append(tuple(end))
    return ends


def _simple_rings(ends):
    """Yield the rings of directed edges, lists of corners; a ring that comes back to a corner is two rings."""
    for start in list(ends):
        while ends[start]:
            path, position = [start], {start: 0}
            while path:
                corner = ends[path[-1]].pop()
                if corner not in position:
                    position[corner] = len(path)
                    path.append(corner)
                    continue
                ring, path = path[position[corner] :], path[: position[corner]]
                yield ring
                for visited in ring:
                    del position[visited]
                if path:
                    position[corner] = len(path)
                    path.append(corner)


def _doubled_area(ring):
    lon, lat = ring.T
    return int((lon * np.roll(lat, -1) - np.roll(lon, -1) * lat).sum())


def _closed(ring):
    return (np.concatenate([ring, ring[:1]]) / SCALE).tolist()
