"""Places on the sphere: (lat, lon) in degrees, (theta, phi) in radians, unit vectors, distances, centres."""

import numpy as np

EARTH_RADIUS_KM = 6371.0088


def check_lat_lon(lat_lon):
    """Return `lat_lon` as a float64 array (..., 2); raise ValueError if it is no array of places in degrees."""
    lat_lon = np.asarray(lat_lon, dtype=np.float64)
    if lat_lon.ndim == 0 or lat_lon.shape[-1] != 2:
        raise ValueError(f"places need a last axis of 2 (lat, lon), got shape {lat_lon.shape}")
    if not np.isfinite(lat_lon).all():
        raise ValueError("places must be finite, got NaN or infinity")
    if (np.abs(lat_lon[..., 0]) > 90).any():
        worst = np.abs(lat_lon[..., 0]).max()
        raise ValueError(f"latitude {worst:g} is outside [-90, 90]; are the columns swapped? lat comes first")
    if (lat_lon[..., 1] < -180).any() or (lat_lon[..., 1] > 360).any():
        raise ValueError("longitude is outside [-180, 360]")
    return lat_lon


def to_theta_phi(lat_lon):
    """Return colatitude theta in [0, pi] and azimuth phi in [0, 2 pi) of places (..., 2), each (...) in radians.

    Paper: theta in [0, pi), without the south pole (section 3.1). Here: both poles.
    """
    lat_lon = check_lat_lon(lat_lon)
    return np.radians(90 - lat_lon[..., 0]), np.radians(lat_lon[..., 1] % 360)


def to_lat_lon(theta, phi):
    """Return places (..., 2) in degrees, lon in [-180, 180), of colatitude and azimuth in radians."""
    lat, lon = 90 - np.degrees(theta), (np.degrees(phi) + 180) % 360 - 180
    return np.stack(np.broadcast_arrays(lat, lon), axis=-1)


def to_unit_vector(lat_lon):
    """Return unit vectors (..., 3) of places (..., 2): x is towards (0, 0), y towards (0, 90), z towards (90, 0)."""
    theta, phi = to_theta_phi(lat_lon)
    return np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)


def from_unit_vector(xyz):
    """Return places (..., 2) of vectors (..., 3) of any positive length; the zero vector points nowhere: NaN."""
    x, y, z = np.moveaxis(np.asarray(xyz, dtype=np.float64), -1, 0)
    lat_lon = to_lat_lon(np.arctan2(np.hypot(x, y), z), np.arctan2(y, x))
    return np.where(((x == 0) & (y == 0) & (z == 0))[..., None], np.nan, lat_lon)


def great_circle_km(a, b):
    """Return the distance between the places a and b (..., 2), in km; right for coincident and for antipodal places.

    The angle is atan2(|a x b|, a . b), with |a x b| taken from longitude differences so that nothing cancels.
    """
    a, b = np.radians(check_lat_lon(a)), np.radians(check_lat_lon(b))
    lat_a, lat_b, delta_lon = a[..., 0], b[..., 0], b[..., 1] - a[..., 1]
    east = np.cos(lat_b) * np.sin(delta_lon)
    # equals cos(lat_a) sin(lat_b) - sin(lat_a) cos(lat_b) cos(delta_lon), without its cancellation for near places
    north = np.sin(lat_b - lat_a) + 2 * np.sin(lat_a) * np.cos(lat_b) * np.sin(delta_lon / 2) ** 2
    dot = np.sin(lat_a) * np.sin(lat_b) + np.cos(lat_a) * np.cos(lat_b) * np.cos(delta_lon)
    return EARTH_RADIUS_KM * np.arctan2(np.hypot(east, north), dot)


def geographic_center(lat_lon):
    """Return the geographic centre of n places, along the sum of their unit vectors: (..., n, 2) -> (..., 2).

    This is the paper's summary of 16 samples (section 5.1). Where the vectors cancel (antipodal places) it is NaN.
    """
    total = to_unit_vector(lat_lon).sum(axis=-2)
    cancelled = np.linalg.norm(total, axis=-1, keepdims=True) < 1e-12 * np.shape(lat_lon)[-2]
    return from_unit_vector(np.where(cancelled, 0.0, total))
