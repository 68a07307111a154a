"""Places on the sphere: (lat, lon) in degrees, (theta, phi) in radians, unit vectors, distances, centres."""

import torch

EARTH_RADIUS_KM = 6371.0088


def check_lat_lon(lat_lon):
    """Return the tensor `lat_lon` (..., 2) as it is; raise ValueError if it holds no places in degrees."""
    if lat_lon.ndim == 0 or lat_lon.shape[-1] != 2:
        raise ValueError(f"places need a last axis of 2 (lat, lon), got shape {tuple(lat_lon.shape)}")
    if not torch.isfinite(lat_lon).all():
        raise ValueError("places must be finite, got NaN or infinity")
    lat, lon = lat_lon.unbind(-1)
    if (lat.abs() > 90).any():
        raise ValueError(f"latitude {lat.abs().max():g} is outside [-90, 90]; are the columns swapped? lat comes first")
    if ((lon < -180) | (lon > 360)).any():
        raise ValueError("longitude is outside [-180, 360]")
    return lat_lon


def to_theta_phi(lat_lon):
    """(..., 2) degrees -> colatitude theta in [0, pi] and azimuth phi in [0, 2 pi), each (...) in radians."""
    lat, lon = check_lat_lon(lat_lon).unbind(-1)
    return torch.deg2rad(90 - lat), torch.deg2rad(lon % 360)


def to_lat_lon(theta, phi):
    """Colatitude and azimuth in radians -> (..., 2) degrees, lon in [-180, 180)."""
    lat, lon = 90 - torch.rad2deg(theta), (torch.rad2deg(phi) + 180) % 360 - 180
    return torch.stack(torch.broadcast_tensors(lat, lon), dim=-1)


def to_unit_vector(lat_lon):
    """(..., 2) degrees -> (..., 3): x towards (0, 0), y towards (0, 90), z towards the north pole."""
    theta, phi = to_theta_phi(lat_lon)
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def from_unit_vector(xyz):
    """(..., 3), of any positive length -> (..., 2) degrees; the zero vector points nowhere: NaN."""
    x, y, z = xyz.unbind(-1)
    lat_lon = to_lat_lon(torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x))
    return lat_lon.masked_fill((xyz == 0).all(dim=-1, keepdim=True), torch.nan)


def great_circle_km(a, b):
    """Distance between the places a and b (..., 2), in km; right for coincident and for antipodal places.

    Unlike its twin it lets NaN through: a failed prediction is at distance NaN, within no radius.
    """
    a, b = torch.deg2rad(a), torch.deg2rad(b)
    lat_a, lat_b, delta_lon = a[..., 0], b[..., 0], b[..., 1] - a[..., 1]
    east = lat_b.cos() * delta_lon.sin()
    north = (lat_b - lat_a).sin() + 2 * lat_a.sin() * lat_b.cos() * (delta_lon / 2).sin() ** 2
    dot = lat_a.sin() * lat_b.sin() + lat_a.cos() * lat_b.cos() * delta_lon.cos()
    return EARTH_RADIUS_KM * torch.atan2(torch.hypot(east, north), dot)


def geographic_center(lat_lon):
    """Geographic centre of n places: (..., n, 2) -> (..., 2); NaN where the unit vectors cancel (antipodal places)."""
    total = to_unit_vector(lat_lon).sum(dim=-2)
    threshold = 4 * torch.finfo(total.dtype).eps * lat_lon.shape[-2]
    return from_unit_vector(total.masked_fill(total.norm(dim=-1, keepdim=True) < threshold, 0.0))
