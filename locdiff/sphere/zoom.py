"""Conformal zoom: a Moebius dilation of the sphere that spreads the neighbourhood of a centre over the whole sphere.

See `reference.zoom` for the equations. Nothing overflows up to s = 4,096 in float32, nor at the antipode; but places
in float32 are rounded to some 0.5 m, and rotating them to the centre makes that about 1 m.
"""

import torch

from locdiff.sphere.coordinates import from_unit_vector, to_theta_phi, to_unit_vector


def frame(center):
    """Rotation matrices (..., 3, 3) that take the centres (..., 2), in degrees, to the north pole.

    Their rows are south, east and up at the centre, as unit vectors.
    """
    theta, phi = to_theta_phi(center)
    south = torch.stack([theta.cos() * phi.cos(), theta.cos() * phi.sin(), -theta.sin()], dim=-1)
    east = torch.stack([-phi.sin(), phi.cos(), torch.zeros_like(phi)], dim=-1)
    return torch.stack([south, east, to_unit_vector(center)], dim=-2)


def dilate(xyz, s):
    """Moebius dilation by s > 0 about the north pole: unit vectors (..., 3) -> (..., 3). Its inverse dilates by 1 / s.

    (x, y, z) -> (2 s x, 2 s y, (1 + z) - s^2 (1 - z)) / ((1 + z) + s^2 (1 - z)).
    """
    x, y, _ = xyz.unbind(-1)
    above, below = _heights(xyz)
    total = above + s**2 * below
    return torch.stack([2 * s * x / total, 2 * s * y / total, (above - s**2 * below) / total], dim=-1)


def area_factor(xyz, s):
    """By how much `dilate` enlarges areas around unit vectors (..., 3): (2 s / ((1 + z) + s^2 (1 - z)))^2, (...).

    It is s^2 at the centre and 1 / s^2 at its antipode. A density at dilated places times this is one on the Earth.
    """
    above, below = _heights(xyz)
    return (2 * s / (above + s**2 * below)) ** 2


def _heights(xyz):
    """1 + z and 1 - z; the smaller as (x^2 + y^2) / the larger, which does not cancel near a pole."""
    x, y, z = xyz.unbind(-1)
    larger = 1 + z.abs()
    smaller = (x**2 + y**2) / larger
    return torch.where(z >= 0, larger, smaller), torch.where(z >= 0, smaller, larger)


def zoom_in(lat_lon, center, s):
    """Places (..., 2) in the coordinates zoomed by s about the centres (..., 2), all in degrees: (..., 2)."""
    return from_unit_vector(dilate(_turn(frame(center), to_unit_vector(lat_lon)), s))


def zoom_out(lat_lon, center, s):
    """The places whose zoomed coordinates are these: the inverse of `zoom_in`."""
    return from_unit_vector(_turn(frame(center).mT, dilate(to_unit_vector(lat_lon), 1 / s)))


def zoom_area_factor(lat_lon, center, s):
    """By how much `zoom_in` enlarges areas around the places (..., 2): `area_factor` about the centres, (...)."""
    return area_factor(_turn(frame(center), to_unit_vector(lat_lon)), s)


def _turn(matrix, xyz):
    return (matrix * xyz[..., None, :]).sum(dim=-1)
