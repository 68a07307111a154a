"""The decoders that are not limited to anchors, against brute force, closed forms and the Cramer-Rao bound."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.strategies import EDGE_PLACES, at_edges, opposite, places, random_coeffs, seeds
from support.tolerances import close, every_device, every_dtype, rounded, tolerance

from locdiff.sphere import decoder, healpix, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km
from locdiff.sphere.spherical_harmonics import rotate
from reference import coordinates
from reference import decoder as ref_decoder
from reference import shdd as ref_shdd


def tensor(*rows, dtype=torch.float64, device="cpu"):
    return torch.tensor(rows, dtype=dtype, device=device)


def random_places(n, seed=0):
    u, v = np.random.default_rng(seed).uniform(size=(2, n))
    return torch.from_numpy(np.stack([np.degrees(np.arcsin(2 * u - 1)), 360 * v - 180], axis=-1))


@every_device
@every_dtype
@given(place=places, l_max=st.sampled_from([1, 4, 12]))
@at_edges(l_max=7)
def test_the_exact_mode_of_an_encoding_is_the_place(dtype, device, place, l_max):
    coeffs = shdd.encode(tensor(place), l_max).to(device, dtype)
    found, score = decoder.exact_mode(coeffs[0])
    assert found.dtype == dtype and found.shape == (2,) and score.shape == ()
    assert great_circle_km(tensor(place)[0], found.double().cpu()) < (0.5 if dtype == torch.float32 else 1e-3)
    assert score.item() == pytest.approx((l_max + 1) ** 2 / (4 * math.pi), rel=1e-5)


@given(seed=seeds, l_max=st.integers(0, 6))
def test_the_exact_mode_is_above_every_anchor_and_flat(seed, l_max):
    coeffs = torch.from_numpy(random_coeffs(seed, l_max, lead=(3,)))
    found, score = decoder.exact_mode(coeffs)
    fine = decoder.synthesis_at(coeffs, healpix.healpix_anchors(32)).max(dim=-1).values
    assert (score >= fine - 0.08 * fine.abs() - 1e-9).all()  # as promised, and nearly always above
    torch.testing.assert_close(score, (coeffs * shdd.encode(found, l_max)).sum(-1))
    for north, east in ((1e-4, 0), (-1e-4, 0), (0, 1e-4), (0, -1e-4)):
        cos = torch.cos(torch.deg2rad(found[:, 0])).clamp(min=1e-3)
        near = torch.stack([(found[:, 0] + north).clamp(-90, 90), found[:, 1] + east / cos], dim=-1)
        assert ((coeffs * shdd.encode(near, l_max)).sum(-1) <= score + 1e-10).all()


def test_the_exact_mode_has_any_leading_shape_and_survives_flat_tops():
    coeffs = torch.from_numpy(random_coeffs(0, 3, lead=(2, 3)))
    found, score = decoder.exact_mode(coeffs)
    assert found.shape == (2, 3, 2) and score.shape == (2, 3)
    torch.testing.assert_close(decoder.exact_mode(coeffs[1, 2]), (found[1, 2], score[1, 2]))
    for flat in (torch.zeros(2, 16), torch.ones(1, 1), torch.eye(16)[:1]):
        place, score = decoder.exact_mode(flat)
        assert place.isfinite().all() and score.isfinite().all()
    empty = decoder.exact_mode(torch.empty(0, 4, 16))
    assert empty[0].shape == (0, 4, 2) and empty[1].shape == (0, 4)


def test_a_ridge_is_ascended_to_a_point_of_it():
    """-Y_20 is largest all along the equator, where it is flat to the east."""
    found, score = decoder.exact_mode(-torch.eye(9, dtype=torch.float64)[6])
    assert found[0].abs() < 1e-6 and score.item() == pytest.approx(math.sqrt(5 / (16 * math.pi)))


def test_an_ascent_that_leaves_its_basin_returns_where_it_began():
    """From the foot of a peak, steps of at most a pixel lead far away; the start is returned, with its own height."""
    coeffs, start = shdd.encode(tensor((0.0, 0.0)), 2), tensor((60.0, 30.0))[None]
    found, height = decoder.newton_ascent(coeffs, start, 16)
    torch.testing.assert_close(found, start)
    torch.testing.assert_close(height[0], (coeffs * shdd.encode(start[0], 2)).sum(-1))
    found, _ = decoder.newton_ascent(coeffs, tensor((2.0, -1.0))[None], 16)
    assert great_circle_km(found[0, 0], tensor((0.0, 0.0))[0]) < 0.01


def test_an_ascent_never_loses_height_and_ends_where_it_is_flat():
    """Over many peaks with long steps: a step that would go down is shortened."""
    coeffs, start = torch.from_numpy(random_coeffs(0, 8, lead=(40,))), random_places(1000, 2).view(40, 25, 2)
    found, height = decoder.newton_ascent(coeffs, start, 3)
    harmonics = shdd.encode(found, 8)
    torch.testing.assert_close(height, torch.einsum("nd,nkd->nk", coeffs, harmonics))
    assert (height >= torch.einsum("nd,nkd->nk", coeffs, shdd.encode(start, 8)) - 1e-9).all()
    slope = torch.einsum("fnd,nkd->fnk", -rotate(coeffs), harmonics).norm(dim=0)
    stayed = great_circle_km(start, found) < 1e-6
    assert ((slope > 1e-4) & ~stayed).sum() < 30 and stayed.sum() < 200


@every_device
@pytest.mark.parametrize("l_max", [15, 31])
def test_the_exact_mode_reaches_the_cramer_rao_bound(device, l_max):
    """Noise of variance s^2 on every coefficient moves the mode by s / sqrt(K2) an axis: 22.2 and 5.5 km at s = 0.1."""
    truth = random_places(2000, l_max)
    noise = 0.1 * torch.randn(2000, (l_max + 1) ** 2, generator=torch.Generator().manual_seed(l_max))
    found, _ = decoder.exact_mode((shdd.encode(truth, l_max) + noise).float().to(device))
    degree = np.arange(l_max + 1)
    curvature = (degree * (degree + 1) / 2 * (2 * degree + 1)).sum() / (4 * np.pi)
    bound = EARTH_RADIUS_KM * 0.1 * math.sqrt(math.pi / 2 / curvature)
    assert great_circle_km(truth, found.double().cpu()).mean().item() == pytest.approx(bound, rel=0.05)


# the mass within a radius


@given(seed=seeds, rho_km=st.sampled_from([300.0, 1500.0, 6000.0, 15_000.0, 20_015.2]), place=places)
@at_edges(seed=0, rho_km=3000.0)
def test_the_mass_within_a_radius_is_the_sum_over_the_cap(seed, rho_km, place):
    """Against Gauss-Legendre times equal steps, in coordinates centred on the place."""
    l_max, coeffs = 5, torch.from_numpy(random_coeffs(seed, 5))
    x, weights = np.polynomial.legendre.leggauss(12)
    cos_rho = math.cos(min(rho_km / EARTH_RADIUS_KM, math.pi))
    gamma, azimuth = np.meshgrid(np.arccos(cos_rho + (1 - cos_rho) * (x + 1) / 2), np.arange(24) * np.pi / 12)
    centre = coordinates.to_unit_vector(place)
    east = np.cross([0.6, 0.0, 0.8], centre) / np.linalg.norm(np.cross([0.6, 0.0, 0.8], centre))
    round_it = np.cos(azimuth)[..., None] * east + np.sin(azimuth)[..., None] * np.cross(centre, east)
    around = coordinates.from_unit_vector(np.cos(gamma)[..., None] * centre + np.sin(gamma)[..., None] * round_it)
    values = decoder.synthesis_at(coeffs, torch.from_numpy(around.reshape(-1, 2))).view(24, 12)
    expected = (values.mean(dim=0).numpy() * weights).sum() * (1 - cos_rho) * np.pi
    found = (decoder.cap_mass(coeffs, rho_km) * shdd.encode(tensor(place)[0], l_max)).sum().item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_mass_within_tiny_and_whole_radii():
    coeffs = torch.from_numpy(random_coeffs(1, 40))
    place = tensor((50.0, 8.0))[0]
    value = (coeffs * shdd.encode(place, 40)).sum()
    small = (decoder.cap_mass(coeffs, 0.1) * shdd.encode(place, 40)).sum()
    assert small.item() == pytest.approx(value.item() * math.pi * (0.1 / EARTH_RADIUS_KM) ** 2, rel=1e-5)
    whole = decoder.cap_mass(coeffs, 30_000.0)
    assert whole[0].item() == pytest.approx(4 * math.pi * coeffs[0].item()) and whole[1:].abs().max() < 1e-12


@given(place=places, rho_km=st.sampled_from([50.0, 800.0]))
@at_edges(rho_km=800.0)
def test_one_peak_is_the_best_place_within_any_radius(place, rho_km):
    coeffs = shdd.encode(tensor(place), 10)[0]
    found, mass = decoder.best_within(coeffs, rho_km)
    assert great_circle_km(tensor(place)[0], found) < 0.01 and 0 < mass < 1


@settings(max_examples=15)
@given(place=places, sd_km=st.sampled_from([30.0, 250.0, 700.0]), rho_km=st.sampled_from([500.0, 1000.0, 2500.0]))
@at_edges(sd_km=30.0, rho_km=2500.0)
def test_one_mode_is_found_within_any_radius_with_its_mass(place, sd_km, rho_km):
    """Narrower than the radius, it fits into many caps; the one about its center is wanted, with its probability."""
    anchors = healpix.healpix_anchors(32)
    mode = torch.softmax(-((great_circle_km(tensor(place)[0], anchors) / sd_km) ** 2) / 2, dim=-1)
    found, mass = decoder.best_within(healpix.healpix_transform(64, 32, torch.float64).analysis(mode), rho_km, 32)
    assert great_circle_km(tensor(place)[0], found) < 160  # most of a pixel
    assert mass.item() == pytest.approx(1 - math.exp(-((rho_km / sd_km) ** 2) / 2), abs=0.12)


def test_coefficients_that_are_not_finite_have_no_place():
    coeffs = torch.from_numpy(random_coeffs(0, 3, lead=(3,)))
    coeffs[1, 4], coeffs[2, 5] = math.nan, math.inf
    anchors = healpix.healpix_anchors(4)
    for place, score in (
        decoder.exact_mode(coeffs), decoder.best_within(coeffs, 500.0), decoder.mode_seeking(coeffs, anchors, 500.0),
        decoder.kl_decoder(coeffs, anchors),
    ):  # fmt: skip
        assert place[0].isfinite().all() and score[0].isfinite()
        assert place[1:].isnan().all() and score[1:].isnan().all()
    for rho_km in (0.0, -5.0, math.nan):
        with pytest.raises(ValueError, match="rho_km must be above zero"):
            decoder.best_within(coeffs, rho_km)


def test_coefficients_of_any_size_are_decoded():
    place = tensor((10.0, 20.0))
    for scale in (1e-30, 5e37):
        found, _ = decoder.exact_mode((shdd.encode(place, 5) * scale).float())
        assert great_circle_km(place, found.double()) < 1


def test_a_wide_mode_wins_at_large_radii_and_a_sharp_one_at_small():
    degree = torch.arange(21).repeat_interleave(2 * torch.arange(21) + 1)
    sharp, wide = (shdd.encode(tensor(p), 20)[0] * (-degree * (degree + 1) * s).exp()
                   for p, s in (((40.0, 20.0), 0.002), ((-30.0, -60.0), 0.02)))  # fmt: skip
    density = 0.35 * sharp + 0.65 * wide
    for rho_km, winner in ((100.0, (40.0, 20.0)), (2500.0, (-30.0, -60.0))):
        found, _ = decoder.best_within(density, rho_km)
        assert great_circle_km(found, tensor(winner)[0]) < 100
    assert decoder.best_within(density, 2500.0)[1].item() == pytest.approx(
        0.555, abs=0.03
    )  # 0.65 (1 - exp(-rho^2 / 4 s))


# the paper's, on many anchors


def test_the_dense_product_in_pieces_is_the_product(megabytes):
    anchors, coeffs = healpix.healpix_anchors(4), torch.from_numpy(random_coeffs(0, 4, lead=(2, 3)))
    expected = shdd.synthesis(coeffs, shdd.encode(anchors, 4))
    whole = decoder.mode_seeking(coeffs, anchors, 1500.0)
    megabytes(0.01)
    torch.testing.assert_close(decoder.synthesis_at(coeffs, anchors), expected)
    torch.testing.assert_close(decoder.mode_seeking(coeffs, anchors, 1500.0), whole)


def test_neighborhoods_in_blocks_hold_each_anchor_and_those_near_it():
    anchors = torch.cat([random_places(200, 1), tensor(*EDGE_PLACES), tensor(EDGE_PLACES[3], opposite(EDGE_PLACES[3]))])
    near = great_circle_km(anchors[:, None], anchors) <= 3000
    found = torch.zeros_like(near)
    blocks = decoder.neighborhoods(anchors, 3000.0, pairs=500)
    assert len(blocks) > 3
    owner = 0
    for members, starts in blocks:
        for first, last in zip(starts, [*starts[1:], len(members)], strict=True):
            found[owner, members[first:last].long()] = True
            owner += 1
            assert len(set(members[first:last].tolist())) == last - first
    assert torch.equal(found, near)


@every_device
@every_dtype
@given(seed=seeds, l_max=st.integers(0, 5), rho_km=st.sampled_from([0.0, 1500.0, 25_000.0]))
def test_decoders_find_a_place_as_good_as_the_references(dtype, device, seed, l_max, rho_km):
    """Compared by score, not by place: two anchors may tie. The place found must have the score that is claimed."""
    anchors = np.random.default_rng(7).permutation(ref_decoder.healpix_anchors(4))[:60]
    tensor, array = rounded(anchors, dtype, device)
    e, e_ref = rounded(random_coeffs(seed, l_max, lead=(2, 2)), dtype, device)
    for name, more in (("mode_seeking", (rho_km,)), ("kl_decoder", ())):
        place, score = getattr(decoder, name)(e, tensor, *more)
        ref_place, ref_score = getattr(ref_decoder, name)(e_ref, array, *more)
        assert place.shape == ref_place.shape and place.dtype == dtype
        close(score, ref_score, dtype, l_max, 100)
        unambiguous = np.isclose(place.cpu().double().numpy(), ref_place, atol=1e-3).all(-1)
        if rho_km == 0 and name == "mode_seeking":
            chosen = [int(np.abs(array - p).sum(-1).argmin()) for p in place.cpu().double().numpy().reshape(-1, 2)]
            log_q = ref_shdd.log_density(e_ref, ref_shdd.encode(array, l_max)) + np.log(4 * np.pi / len(array))
            claimed = log_q.reshape(-1, len(array))[np.arange(4), chosen]
            np.testing.assert_allclose(claimed, ref_score.ravel(), atol=tolerance(dtype, l_max, 100))
        assert unambiguous.any() or l_max == 0 or rho_km > 20_000


def test_decoders_work_in_chunks_and_on_nothing(megabytes):
    anchors, e = healpix.healpix_anchors(4), torch.from_numpy(random_coeffs(0, 4, lead=(7,)))
    whole = [decoder.mode_seeking(e, anchors, 2000.0), decoder.kl_decoder(e, anchors)]
    megabytes(0.03)
    for (place, score), (a, b) in zip(
        whole, [decoder.mode_seeking(e, anchors, 2000.0), decoder.kl_decoder(e, anchors)], strict=True
    ):
        torch.testing.assert_close(place, a)
        torch.testing.assert_close(score, b)
    for place, score in (decoder.mode_seeking(e[:0], anchors, 1.0), decoder.kl_decoder(e[:0], anchors)):
        assert place.shape == (0, 2) and score.shape == (0,)
