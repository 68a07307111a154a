"""Conformal zoom: a Moebius dilation of the sphere that spreads the neighbourhood of a centre over the whole sphere.

See `reference.zoom` for the equations. Nothing overflows up to s = 4,096 in float32, nor at the antipode. Locations
in float32 are rounded to some 0.5 m, and rotating them to the centre makes that about 1 m.
"""

import torch
from torch import Tensor

from locdiff.sphere.coordinates import from_unit_vector, to_theta_phi, to_unit_vector


def frame(center: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) that take the centres (..., 2), in degrees, to the north pole.

    Their rows are south, east and up at the centre, as unit vectors.
    """
    theta, phi = to_theta_phi(center)
    south = torch.stack([theta.cos() * phi.cos(), theta.cos() * phi.sin(), -theta.sin()], dim=-1)
    east = torch.stack([-phi.sin(), phi.cos(), torch.zeros_like(phi)], dim=-1)
    return torch.stack([south, east, to_unit_vector(center)], dim=-2)


def dilate(xyz: Tensor, s: float) -> Tensor:
    """Dilate unit vectors (..., 3) by s > 0 about the north pole: (..., 3). The inverse dilates by 1 / s.

    (x, y, z) -> (2 s x, 2 s y, (1 + z) - s^2 (1 - z)) / ((1 + z) + s^2 (1 - z)).
    """
    x, y, _ = xyz.unbind(-1)
    above, below = _heights(xyz)
    total = above + s**2 * below
    return torch.stack([2 * s * x / total, 2 * s * y / total, (above - s**2 * below) / total], dim=-1)


def area_factor(xyz: Tensor, s: float) -> Tensor:
    """Return by how much `dilate` enlarges areas at unit vectors (..., 3): (2 s / ((1 + z) + s^2 (1 - z)))^2, (...).

    It is s^2 at the centre and 1 / s^2 at its antipode. A density at dilated locations times this is one on the Earth.
    """
    above, below = _heights(xyz)
    return (2 * s / (above + s**2 * below)) ** 2


def _heights(xyz):
    """Return 1 + z and 1 - z; the smaller as (x^2 + y^2) / the larger, which does not cancel near a pole."""
    x, y, z = xyz.unbind(-1)
    larger = 1 + z.abs()
    smaller = (x**2 + y**2) / larger
    return torch.where(z >= 0, larger, smaller), torch.where(z >= 0, smaller, larger)


def zoom_in(lat_lon: Tensor, center: Tensor, s: float) -> Tensor:
    """Return locations (..., 2) in the coordinates zoomed by s about the centres (..., 2): (..., 2), all in degrees."""
    return from_unit_vector(dilate(_turn(frame(center), to_unit_vector(lat_lon)), s))


def zoom_out(lat_lon: Tensor, center: Tensor, s: float) -> Tensor:
    """Return the locations (..., 2) whose zoomed coordinates are these (..., 2): the inverse of `zoom_in`."""
    return from_unit_vector(_turn(frame(center).mT, dilate(to_unit_vector(lat_lon), 1 / s)))


def zoom_area_factor(lat_lon: Tensor, center: Tensor, s: float) -> Tensor:
    """Return by how much `zoom_in` enlarges areas at the locations (..., 2): `area_factor` about the centres, (...)."""
    return area_factor(_turn(frame(center), to_unit_vector(lat_lon)), s)


def _turn(matrix, xyz):
    return (matrix * xyz[..., None, :]).sum(dim=-1)
