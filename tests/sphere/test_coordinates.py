"""Coordinates: the twin of `reference.coordinates`."""

import numpy as np
import pytest
import torch
from hypothesis import given
from support.strategies import at_edges, places, seeds
from support.tolerances import close, every_device, every_dtype, rounded

from locdiff.sphere import coordinates
from reference import coordinates as ref_coordinates


@every_device
@every_dtype
@given(place=places, other=places)
@at_edges(other=(-33.0, 151.0))
def test_coordinates(dtype, device, place, other):
    (a, a_ref), (b, b_ref) = rounded(place, dtype, device), rounded(other, dtype, device)
    km = 6371 * torch.finfo(dtype).eps * 40
    assert abs(coordinates.great_circle_km(a, b).item() - ref_coordinates.great_circle_km(a_ref, b_ref)) < km
    for ours, theirs in zip(coordinates.to_theta_phi(a), ref_coordinates.to_theta_phi(a_ref), strict=True):
        close(ours, theirs, dtype, 0, 10)
    close(coordinates.to_unit_vector(a), ref_coordinates.to_unit_vector(a_ref), dtype, 0, 10)
    for again in (
        coordinates.to_lat_lon(*coordinates.to_theta_phi(a)),
        coordinates.from_unit_vector(coordinates.to_unit_vector(a)),
    ):
        assert again.dtype == dtype and -180 <= again[1] <= 180
        assert coordinates.great_circle_km(again, a).item() < 6371 * torch.finfo(dtype).eps * 40


@every_device
@every_dtype
@given(place=places)
@at_edges()
def test_tangents_are_at_right_angles(dtype, device, place):
    xyz = coordinates.to_unit_vector(rounded(place, dtype, device)[0])
    basis = torch.stack([xyz, *coordinates.tangents(xyz)])
    close(basis @ basis.mT, np.eye(3), dtype, 0, 10)


@every_dtype
@given(seed=seeds)
def test_geographic_centres(dtype, seed):
    many = np.random.default_rng(seed).uniform((20, -60), (70, 60), size=(3, 5, 2))
    tensor, array = rounded(many, dtype)
    ours, theirs = coordinates.geographic_center(tensor), ref_coordinates.geographic_center(array)
    assert ours.dtype == dtype
    assert (ref_coordinates.great_circle_km(ours.double().numpy(), theirs) < 6371 * torch.finfo(dtype).eps * 40).all()


@every_dtype
def test_centres_that_do_not_exist_are_nan(dtype):
    assert coordinates.geographic_center(torch.tensor([[0, 0], [0, -180]], dtype=dtype)).isnan().all()
    assert coordinates.from_unit_vector(torch.zeros(2, 3, dtype=dtype)).isnan().all()


@pytest.mark.parametrize("wrong", [[95.0, 0.0], [0.0, 361.0], [np.nan, 0.0], [1.0, 2.0, 3.0], 1.0])
def test_both_refuse_the_same_with_the_same_words(wrong):
    messages = []
    for check, value in [(coordinates.check_lat_lon, torch.tensor(wrong)), (ref_coordinates.check_lat_lon, wrong)]:
        with pytest.raises(ValueError) as error:
            check(value)
        messages.append(str(error.value).split(" got ")[0])
    assert messages[0] == messages[1]
