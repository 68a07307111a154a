"""Conformal zoom: a Moebius dilation of the sphere that spreads the neighbourhood of a centre over the whole sphere.

Stereographic projection from the antipode of the centre, dilation of the plane by s, projection back. In zoomed
coordinates the centre is the north pole, and a place at angle gamma from it comes to lie at gamma',

    tan(gamma' / 2) = s tan(gamma / 2),

its azimuth unchanged. So degree l_max in zoomed coordinates resolves pi / (s l_max) at the centre. Not in the paper.
"""

import numpy as np

from reference.coordinates import from_unit_vector, to_theta_phi, to_unit_vector


def frame(center):
    """Return rotation matrices (..., 3, 3) that take the centres (..., 2), in degrees, to the north pole.

    Their rows are south, east and up at the centre, as unit vectors.
    """
    theta, phi = to_theta_phi(center)
    south = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), -np.sin(theta)], axis=-1)
    east = np.stack([-np.sin(phi), np.cos(phi), np.zeros_like(phi)], axis=-1)
    return np.stack([south, east, to_unit_vector(center)], axis=-2)


def dilate(xyz, s):
    """Dilate unit vectors (..., 3) by s > 0 about the north pole: (..., 3). The inverse dilates by 1 / s.

    (x, y, z) -> (2 s x, 2 s y, (1 + z) - s^2 (1 - z)) / ((1 + z) + s^2 (1 - z)).
    """
    x, y, _ = np.moveaxis(np.asarray(xyz, dtype=np.float64), -1, 0)
    above, below = _heights(xyz)
    total = above + s**2 * below
    return np.stack([2 * s * x / total, 2 * s * y / total, (above - s**2 * below) / total], axis=-1)


def area_factor(xyz, s):
    """Return by how much `dilate` enlarges areas at unit vectors (..., 3): (2 s / ((1 + z) + s^2 (1 - z)))^2, (...).

    It is s^2 at the centre and 1 / s^2 at its antipode. A density at dilated places times this is one on the Earth.
    """
    above, below = _heights(xyz)
    return (2 * s / (above + s**2 * below)) ** 2


def _heights(xyz):
    """Return 1 + z and 1 - z; the smaller as (x^2 + y^2) / the larger, which does not cancel near a pole."""
    x, y, z = np.moveaxis(np.asarray(xyz, dtype=np.float64), -1, 0)
    larger = 1 + np.abs(z)
    smaller = (x**2 + y**2) / larger
    return np.where(z >= 0, larger, smaller), np.where(z >= 0, smaller, larger)


def zoom_in(lat_lon, center, s):
    """Return places (..., 2) in the coordinates zoomed by s about the centres (..., 2), all in degrees: (..., 2)."""
    return from_unit_vector(dilate(np.einsum("...ij,...j", frame(center), to_unit_vector(lat_lon)), s))


def zoom_out(lat_lon, center, s):
    """Return the places whose zoomed coordinates are these, (..., 2): the inverse of `zoom_in`."""
    return from_unit_vector(np.einsum("...ji,...j", frame(center), dilate(to_unit_vector(lat_lon), 1 / s)))


def zoom_area_factor(lat_lon, center, s):
    """Return by how much `zoom_in` enlarges areas at the places (..., 2): `area_factor` about the centres, (...)."""
    return area_factor(np.einsum("...ij,...j", frame(center), to_unit_vector(lat_lon)), s)
