"""Masses within a distance of a location, by adding up points: no trees, no bins, no series."""

import numpy as np
import torch

from locdiff.sphere.coordinates import EARTH_RADIUS_KM


def half_chord(a, b):
    """Return sin(d / 2R) for places (..., 2) in degrees at distances d, by the haversine formula, float64."""
    (lat_a, lon_a), (lat_b, lon_b) = (np.moveaxis(np.radians(np.asarray(p, np.float64)), -1, 0) for p in (a, b))
    h = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return np.sqrt(np.clip(h, 0, 1))


def mass_within(probs, points, lat_lon, km, slack=0.0):
    """Return the mass of points (N, 2) with probabilities (n, N) within distances km (K,) of one location each, (n, 2).

    It is (n, K), float64. With `slack`, half a chord may be so much longer.
    """
    radius = np.sin(np.minimum(np.asarray(km, np.float64) / EARTH_RADIUS_KM, np.pi) / 2)
    total = np.empty((len(probs), len(radius)))
    for i, here in enumerate(np.asarray(lat_lon)):
        distance = half_chord(here, points)
        order = distance.argsort()
        mass = np.concatenate([[0], np.asarray(probs[i], np.float64)[order].cumsum()])
        total[i] = mass[np.searchsorted(distance[order], radius + slack, side="right")]
    return torch.from_numpy(total)
