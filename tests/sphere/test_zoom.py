"""Conformal zoom: laws of the reference, and its twin in locdiff."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import at_edges, opposite, places, random_coeffs, seeds
from support.tolerances import every_device, every_dtype

from locdiff.sphere import zoom as torch_zoom
from reference import coordinates, decoder, shdd, zoom

R = coordinates.EARTH_RADIUS_KM
scales = st.sampled_from([0.25, 1.0, 6.0, 16.0, 4096.0])


def km(a, b):
    return coordinates.great_circle_km(a, b)


@given(places, places, scales)
@at_edges(center=(33.0, -120.0), s=16.0)
@at_edges(center=(90.0, 0.0), s=4096.0)
@example(place=(20.0, 30.0), center=(20.0, 30.0), s=4096.0)
@example(place=(-20.0, -150.0), center=(20.0, 30.0), s=4096.0)
def test_zooming_out_undoes_zooming_in(place, center, s):
    zoomed = zoom.zoom_in(place, center, s)
    spread = max(1, zoom.zoom_area_factor(place, center, s) ** -0.5)  # near the antipode rounding is enlarged on return
    assert km(zoom.zoom_out(zoomed, center, s), place) <= 1e-7 * spread


@given(places, places, scales, scales)
@at_edges(center=(-33.0, 120.0), first=6.0, second=16.0)
def test_dilations_are_a_group(place, center, first, second):
    xyz = zoom.frame(center) @ coordinates.to_unit_vector(place)
    twice = zoom.dilate(zoom.dilate(xyz, first), second)
    assert np.allclose(twice, zoom.dilate(xyz, first * second), atol=1e-9)
    assert zoom.area_factor(xyz, first * second) == pytest.approx(
        zoom.area_factor(xyz, first) * zoom.area_factor(zoom.dilate(xyz, first), second), rel=1e-6
    )
    assert np.allclose(zoom.dilate(xyz, 1.0), xyz, atol=1e-12)


@given(places, scales)
@at_edges(s=6.0)
@at_edges(s=4096.0)
def test_centre_and_antipode_stay(place, s):
    assert zoom.zoom_in(place, place, s)[0] == pytest.approx(90, abs=1e-4)
    assert zoom.zoom_in(opposite(place), place, s)[0] == pytest.approx(-90, abs=1e-4)
    assert zoom.zoom_area_factor(place, place, s) == pytest.approx(s**2)
    assert zoom.zoom_area_factor(opposite(place), place, s) == pytest.approx(s**-2)
    assert np.linalg.det(zoom.frame(place)) == pytest.approx(1)


@given(places, places, scales)
@at_edges(center=(33.0, -120.0), s=16.0)
def test_angles_grow_as_they_should(place, center, s):
    gamma, zoomed = km(place, center) / R, km(zoom.zoom_in(place, center, s), (90.0, 0.0)) / R
    assert np.sin(zoomed / 2) * np.cos(gamma / 2) == pytest.approx(s * np.sin(gamma / 2) * np.cos(zoomed / 2), abs=1e-9)


@given(places, scales)
@at_edges(s=6.0)
def test_the_zoom_is_conformal(place, s):
    xyz = torch.tensor(coordinates.to_unit_vector(place))
    jacobian = torch.autograd.functional.jacobian(lambda v: torch_zoom.dilate(v / v.norm(), s), xyz).numpy()
    first, second = zoom.frame(place)[:2]  # tangents
    a, b, scale = jacobian @ first, jacobian @ second, zoom.area_factor(xyz.numpy(), s) ** 0.5
    assert a @ b == pytest.approx(0, abs=1e-6 * scale**2)
    assert (np.linalg.norm(a), np.linalg.norm(b)) == pytest.approx((scale, scale), rel=1e-6)
    assert np.linalg.det([a, b, zoom.dilate(xyz.numpy(), s)]) == pytest.approx(scale**2, rel=1e-6)  # no mirror


@given(places, st.sampled_from([0.5, 1.0, 4.0]), seeds)
@at_edges(s=4.0, seed=0)
def test_densities_integrate_to_one_in_both_coordinates(place, s, seed):
    anchors, coeffs = decoder.healpix_anchors(64), random_coeffs(seed, 3)
    log_z = shdd.log_partition(coeffs, shdd.encode(anchors, 3))
    zoomed = shdd.encode(zoom.zoom_in(anchors, place, s), 3)
    density = np.exp(shdd.synthesis(coeffs, zoomed) - log_z) * zoom.zoom_area_factor(anchors, place, s)
    assert 4 * np.pi * density.mean() == pytest.approx(1, abs=2e-3)


@every_device
@every_dtype
@pytest.mark.parametrize("s", [0.25, 16.0, 4096.0])
def test_twin(dtype, device, s):
    rng = np.random.default_rng(0)
    center = np.concatenate(
        [[(90, 0), (-90, 77), (0, -180), (12, 179.99999), (51.5, 0)], rng.uniform(-80, 80, (40, 2))]
    )
    near = center + rng.uniform(-0.01, 0.01, center.shape) * (np.abs(center[:, :1]) < 89)
    for place in (near, center, np.stack([opposite(c) for c in center]), center[::-1].copy()):
        a, b = (torch.tensor(part, dtype=dtype, device=device) for part in (place, center))
        exact = (a.double().cpu().numpy(), b.double().cpu().numpy(), s)
        eps = torch.finfo(dtype).eps
        factor, wanted = torch_zoom.zoom_area_factor(a, b, s).cpu().numpy(), zoom.zoom_area_factor(*exact)
        unit = np.sqrt(wanted) * max(s, 1 / s)  # by how much rounding of a place by eps can change what is near it
        assert np.isfinite(factor).all()
        assert (np.abs(np.sqrt(factor) / np.sqrt(wanted) - 1) < 20 * eps * np.maximum(unit, 1)).all()
        zoomed = torch_zoom.zoom_in(a, b, s)
        assert (km(zoomed.double().cpu().numpy(), zoom.zoom_in(*exact)) / R < 20 * eps * np.maximum(unit, 1)).all()
        ours, theirs = torch_zoom.zoom_out(a, b, s), zoom.zoom_out(*exact)
        assert (km(ours.double().cpu().numpy(), theirs) / R < 20 * eps * max(s, 1 / s)).all()


def test_a_metre_survives_in_float32():
    center = torch.tensor([51.5, -0.1], dtype=torch.float32)
    place = (center.double() + torch.tensor([1e-3, 1e-3])).float()  # 130 m away
    back = torch_zoom.zoom_out(torch_zoom.zoom_in(place, center, 4096.0), center, 4096.0)
    assert 1000 * km(back.double().numpy(), place.double().numpy()) < 1.5


def test_no_places():
    empty = torch.empty(0, 2)
    assert torch_zoom.zoom_in(empty, empty, 16.0).shape == torch_zoom.zoom_out(empty, empty, 16.0).shape == (0, 2)
    assert torch_zoom.zoom_area_factor(empty, empty, 16.0).shape == (0,)
