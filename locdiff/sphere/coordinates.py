"""Locations on the sphere: (lat, lon) in degrees, (theta, phi) in radians, unit vectors, distances, centres."""

import torch
from torch import Tensor

from locdiff.errors import InputError

EARTH_RADIUS_KM = 6371.0088


def check_lat_lon(lat_lon: Tensor) -> Tensor:
    """Return `lat_lon` (..., 2) as it is. Raises InputError if it holds no locations in degrees.

    It waits for a GPU. So it is for what comes from outside; the other functions of this module do not look at values.
    """
    _check_shape(lat_lon)
    if not torch.isfinite(lat_lon).all():
        raise InputError("places must be finite, got NaN or infinity")
    lat, lon = lat_lon.unbind(-1)
    if (lat.abs() > 90).any():
        raise InputError(f"latitude {lat.abs().max():g} is outside [-90, 90]; are the columns swapped? lat comes first")
    if ((lon < -180) | (lon > 360)).any():
        raise InputError("longitude is outside [-180, 360]")
    return lat_lon


def _check_shape(lat_lon):
    if lat_lon.ndim == 0 or lat_lon.shape[-1] != 2:
        raise InputError(f"places need a last axis of 2 (lat, lon), got shape {tuple(lat_lon.shape)}")


def to_theta_phi(lat_lon: Tensor) -> tuple[Tensor, Tensor]:
    """Return the colatitude theta in [0, pi] and the azimuth phi in [0, 2 pi) of locations in degrees.

    (..., 2) -> (...), (...) in radians. NaN stays NaN.
    """
    _check_shape(lat_lon)
    lat, lon = lat_lon.unbind(-1)
    return torch.deg2rad(90 - lat), torch.deg2rad(lon % 360)


def to_lat_lon(theta: Tensor, phi: Tensor) -> Tensor:
    """Return the locations at colatitude theta and azimuth phi, (...) radians: (..., 2) degrees, lon in [-180, 180)."""
    lat, lon = 90 - torch.rad2deg(theta), (torch.rad2deg(phi) + 180) % 360 - 180
    return torch.stack(torch.broadcast_tensors(lat, lon), dim=-1)


def to_unit_vector(lat_lon: Tensor) -> Tensor:
    """Return unit vectors: (..., 2) degrees -> (..., 3).

    x points to (0, 0), y to (0, 90), z to the north pole. NaN stays NaN.
    """
    theta, phi = to_theta_phi(lat_lon)
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def from_unit_vector(xyz: Tensor) -> Tensor:
    """Return the locations that vectors (..., 3) of any positive length point to: (..., 2) degrees.

    The zero vector points nowhere: NaN.
    """
    x, y, z = xyz.unbind(-1)
    lat_lon = to_lat_lon(torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x))
    return lat_lon.masked_fill((xyz == 0).all(dim=-1, keepdim=True), torch.nan)


def great_circle_km(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances in km between locations, (..., 2), (..., 2) degrees -> (...).

    They are right for coincident and for antipodal locations. Unlike its twin in `reference` it lets NaN through: a
    failed prediction is at distance NaN, within no radius.
    """
    a, b = torch.deg2rad(a), torch.deg2rad(b)
    lat_a, lat_b, delta_lon = a[..., 0], b[..., 0], b[..., 1] - a[..., 1]
    east = lat_b.cos() * delta_lon.sin()
    north = (lat_b - lat_a).sin() + 2 * lat_a.sin() * lat_b.cos() * (delta_lon / 2).sin() ** 2
    dot = lat_a.sin() * lat_b.sin() + lat_a.cos() * lat_b.cos() * delta_lon.cos()
    return EARTH_RADIUS_KM * torch.atan2(torch.hypot(east, north), dot)


def geographic_center(lat_lon: Tensor) -> Tensor:
    """Return the geographic centres of n locations: (..., n, 2) -> (..., 2) degrees.

    NaN where the unit vectors cancel, as those of antipodal locations do. Raises InputError as `check_lat_lon`.
    """
    total = to_unit_vector(check_lat_lon(lat_lon)).sum(dim=-2)
    threshold = 4 * torch.finfo(total.dtype).eps * lat_lon.shape[-2]
    return from_unit_vector(total.masked_fill(total.norm(dim=-1, keepdim=True) < threshold, 0.0))


def tangents(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Return two unit vectors at right angles to unit vectors (..., 3) and to each other."""
    axis = torch.eye(3, dtype=xyz.dtype, device=xyz.device)[xyz.abs().argmin(dim=-1)]
    first = torch.nn.functional.normalize(torch.linalg.cross(xyz, axis, dim=-1), dim=-1)
    return first, torch.linalg.cross(xyz, first, dim=-1)
