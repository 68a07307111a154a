"""Posteriors given a region: they are the old ones inside, nothing outside, and sum to one; for all kinds of them."""

import math

import numpy as np
import pytest
import torch
from support.models import CENTER, KINDS, repeated, seeing, sure_of, with_prior, zoomed

from locdiff.data.regions import Region, box, land
from locdiff.model.posterior import LocationPosterior
from locdiff.model.refined_posterior import RefinedPosterior
from locdiff.model.reweighting import Intersection, NoProbability, inside, intersection, split
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import ang2pix, healpix_anchors

every_kind = pytest.mark.parametrize("kind", KINDS)
EVERYWHERE = box("-90,-180,90,180")
A, B = box("-30,-70,40,-20"), box("5,-60,60,30")
REGIONS = {
    "box": A, "small box": box("14.2,-45.3,14.6,-44.9"), "antimeridian": box("-40,150,30,-140"),
    "north pole": box("55,-180,90,180"), "south pole": box("-90,-180,-55,180"),
}  # fmt: skip


def posterior_of(kind, n=3):
    return KINDS[kind]().posterior(torch.randn(n, 5, generator=torch.Generator().manual_seed(1)))


def area(south, west, north, east):
    return math.radians(east - west) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))


def evenly(south, west, north, east, side=100):
    """Locations (side**2, 2) in a box, each of which stands for the same area; and that area."""
    low, high = (math.sin(math.radians(lat)) for lat in (south, north))
    middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    lat, lon = torch.rad2deg((low + (high - low) * middle).asin()), west + (east - west) * middle
    return torch.cartesian_prod(lat, lon), area(south, west, north, east) / side**2


@every_kind
def test_within_everything_changes_nothing(kind):
    posterior, at = posterior_of(kind), torch.tensor([[90.0, 0.0], [12.0, 179.99], [-41.8, 10.0]], dtype=torch.float64)
    given = posterior.within(EVERYWHERE)
    assert isinstance(given, LocationPosterior) and len(given) == 3
    torch.testing.assert_close(given.pixel_probs, posterior.pixel_probs, rtol=1e-5, atol=1e-9)
    for ask in (
        lambda p: p.log_prob(at), lambda p: p.log_density(at), lambda p: p.modes(3)[0], lambda p: p.modes(3)[1],
        lambda p: p.mass_within(at), lambda p: p.credible_radius(at), lambda p: p.credible_regions()[1],
        lambda p: torch.stack([place for place, _ in p.best_within().values()]),
        lambda p: torch.stack([mass for _, mass in p.best_within().values()]),
    ):  # fmt: skip
        torch.testing.assert_close(ask(given), ask(posterior), rtol=1e-5, atol=1e-5)
    if kind == "one pass":
        assert torch.equal(given.sample(50, seed=2), posterior.sample(50, seed=2))


@every_kind
def test_within_one_region_and_then_another_is_within_both(kind):
    posterior = posterior_of(kind)
    one, both, other = (
        posterior.within(A).within(B),
        posterior.within(intersection(A, B)),
        posterior.within(B).within(A),
    )
    overlap = posterior.within(box("5,-60,40,-20"))
    at = torch.tensor([[14.0, -45.0], [35.0, -25.0], [6.0, -59.0]], dtype=torch.float64)
    for given in (both, other):
        torch.testing.assert_close(given.pixel_probs, one.pixel_probs)
        torch.testing.assert_close(given.log_prob(at), one.log_prob(at))
        torch.testing.assert_close(given.modes(2)[1], one.modes(2)[1])
    torch.testing.assert_close(one.pixel_probs, overlap.pixel_probs, rtol=0.01, atol=3e-3)
    torch.testing.assert_close(one.log_mass, overlap.log_mass, rtol=0, atol=1e-2)
    assert A.contains(one.sample(50)).all() and B.contains(one.sample(50)).all()
    assert intersection(A, A) is A and isinstance(intersection(A, intersection(B, A)), Intersection)


@every_kind
def test_a_region_and_the_rest_share_the_probability(kind):
    """What is on one side of an edge and on the other, of the pixels that it cuts too."""
    posterior = posterior_of(kind)
    sides = [posterior.within(side) for side in (box("-90,-180,90,-44"), box("-90,-44,90,180"))]
    masses = [side.log_mass.exp()[:, None] for side in sides]
    torch.testing.assert_close(
        sum(masses), torch.ones(3, 1).double(), rtol=0, atol=2e-2 if kind == "three levels" else 1e-3
    )
    total = sum(mass * side.pixel_probs for mass, side in zip(masses, sides, strict=True))
    torch.testing.assert_close(total.float(), posterior.pixel_probs, rtol=0.1, atol=1e-4)


@every_kind
@pytest.mark.parametrize("region", REGIONS)
def test_what_is_inside_is_as_it_was_and_nothing_is_outside(kind, region):
    posterior, region = posterior_of(kind), REGIONS[region]
    try:
        given = posterior.within(region)
    except NoProbability:
        assert kind == "three levels" and not region.contains(CENTER)
        return
    samples = given.sample(200, seed=1)
    assert region.contains(samples).all() and samples.isfinite().all()
    places, probability = given.modes(5)
    assert region.contains(places[probability > 0]).all() and (probability[:, 0] > 0).all()
    outside = torch.tensor([[7.0, 100.0], [-7.0, 80.0], [0.0, 60.0]], dtype=torch.float64)
    assert (given.log_prob(outside) == -math.inf).all() and (given.log_density(outside) == -math.inf).all()
    wanted = posterior.log_prob(samples[:, 0]).double() - given.log_mass
    torch.testing.assert_close(given.log_prob(samples[:, 0]).double(), wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(given.pixel_probs.sum(dim=1), torch.ones(3))
    touched = given.pixel_probs[:, split(region, 16).share == 0]
    assert touched.sum() < (0.02 if isinstance(posterior, RefinedPosterior) else 1e-9)  # their cells' pixels are finer
    radius = given.credible_radius(places[:, 0])
    farthest = great_circle_km(places[:, :1], samples).amax(dim=1)
    assert (radius[:, 1] <= 1.3 * farthest + 50).all() and (radius[:, 0] <= radius[:, 1]).all()
    assert (given.mass_within(places[:, 0])[:, -1] >= given.mass_within(places[:, 0])[:, 0]).all()
    size = split(region, 64).share.mean().item() * 4 * math.pi * EARTH_RADIUS_KM**2
    assert (given.credible_regions()[1][:, 1] <= 1.05 * size).all()


DENSITIES = {  # whose mixtures integrate to one over the Earth, as the pixels of level 0 are finer than cells
    "one pass": lambda: seeing(std=0.2, sample_steps=1, decoder_nside=32),
    "two levels": lambda: zoomed(noise=0.3, zoom_into=4, zoom=2.0, sample_steps=1),
    "three levels": lambda: sure_of(CENTER, 40, zoom_into=2, decoder_nside=64),
}


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [*((kind, bounds) for kind in DENSITIES for bounds in ((-30, -70, 40, -20), (15.5, -43.8, 15.9, -43.4))),
     ("one pass", (14.2, -45.3, 14.6, -44.9))],
)  # fmt: skip
def test_the_density_within_a_region_integrates_to_one(kind, bounds):
    """By ten thousand locations inside, whatever the pixels are."""
    places, each = evenly(*bounds)
    posterior = DENSITIES[kind]().posterior(torch.randn(1, 5, generator=torch.Generator().manual_seed(1)))
    if isinstance(posterior, RefinedPosterior):
        log = repeated(posterior, len(places)).log_prob(places)
    else:
        log = _log_prob_at(posterior, places)
    given = posterior.within(box(",".join(map(str, bounds))))
    assert (log.double() - given.log_mass).exp().sum().item() * each == pytest.approx(1, abs=0.03)


def _log_prob_at(posterior, places):
    one = posterior.objective
    coeffs, probs = posterior.coeffs.expand(len(places), -1), posterior.pixel_probs.expand(len(places), -1)
    return torch.cat(
        [one.log_prob(a, b, c) for a, b, c in zip(*(x.split(500) for x in (coeffs, probs, places)), strict=True)]
    )


@pytest.mark.parametrize("kind", ["regression", "one pass"])
def test_pixels_that_the_edge_cuts_count_by_their_part(kind):
    """Brute force: each pixel by 64 x 64 parts of its own, weighted by the density in it."""
    posterior, fine = posterior_of(kind), healpix_anchors(1024)
    given, parent = posterior.within(A), ang2pix(16, fine)
    contained = A.contains(fine).float()
    share = torch.zeros(3072).index_add_(0, parent, contained) / 64**2
    cut = ((share > 0) & (share < 1)).nonzero()[:, 0]
    assert len(cut) > 20
    wanted = posterior.pixel_probs * share
    if kind == "one pass":
        for pixel in cut.tolist():
            inner = fine[parent == pixel][::16]
            density = (posterior.coeffs @ shdd.encode(inner, posterior.grid.l_max).float().T).softmax(dim=1)
            wanted[:, pixel] = posterior.pixel_probs[:, pixel] * (density @ contained[parent == pixel][::16])
    wanted /= wanted.sum(dim=1, keepdim=True)
    torch.testing.assert_close(given.pixel_probs[:, cut], wanted[:, cut], rtol=0.08, atol=2e-4)
    whole = share == 1
    torch.testing.assert_close(given.pixel_probs[:, whole], wanted[:, whole], rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("nside", [4, 64])
@pytest.mark.parametrize(
    "bounds",
    [(48.8, 2.2, 48.9, 2.4), (-30, 170, -10, 190), (60, -180, 90, 180), (-90, -180, -89.9, 180), (-41, 20, 50, 77)],
)
def test_shares_of_pixels_sum_to_the_area(nside, bounds):
    region = box(",".join(map(str, bounds)))
    total = split(region, nside).share.double().sum() * 4 * math.pi / (12 * nside**2)
    assert total.item() == pytest.approx(area(*bounds), rel=0.01)
    center, s = (float(bounds[0]) + 0.01, float(bounds[1])), 8.0  # in zoomed coordinates
    zoomed_in = split(region, 32, center, s)
    assert region.contains(zoomed_in.places).all() and zoomed_in.share.max() <= 1


TINY = {  # where a degree is 111.19 km: a box of 10 m by 10 m, and a triangle with sides of 1 m
    "box": (box("48.85,2.35,48.85008993,2.35013668"), 100.0),
    "triangle": (Region("triangle", [np.array([[20, 0], [20 + 9e-6, 0], [20, 9e-6], [20, 0]])], [1]), 0.5),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("nside", [4, 64])
def test_regions_of_meters_have_their_area(name, nside):
    region, m2 = TINY[name]
    found = split(region, nside)
    total = found.share.double().sum() * 4 * math.pi * (EARTH_RADIUS_KM * 1000) ** 2 / (12 * nside**2)
    assert total.item() == pytest.approx(m2, rel=0.03) and region.contains(found.places).all()


@pytest.mark.parametrize("kind", ["one pass", "regression", "two levels"])
@pytest.mark.parametrize("name", TINY)
def test_predictions_within_meters_lie_there(kind, name):
    given = posterior_of(kind, 1).within(TINY[name][0])
    assert TINY[name][0].contains(given.modes()[0][0, 0]) and TINY[name][0].contains(given.sample(20)).all()


def test_locations_are_looked_up_as_they_are_found():
    places = torch.from_numpy(np.random.default_rng(0).uniform([-90, -180], [90, 180], (5000, 2)))
    for region in (A, REGIONS["small box"], land()):
        assert torch.equal(inside(region, places), region.contains(places))
        assert torch.equal(inside(region, region_edge := _near_edge(region)), region.contains(region_edge))


def _near_edge(region):
    xyz = region.outline[:: max(1, len(region.outline) // 1000)]
    xyz = xyz + 1e-3 * torch.randn(xyz.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lat, lon = torch.atan2(xyz[:, 2], torch.hypot(xyz[:, 0], xyz[:, 1])), torch.atan2(xyz[:, 1], xyz[:, 0])
    return torch.rad2deg(torch.stack([lat, lon], dim=1))


def test_a_mode_outside_gives_way_to_the_densest_place_inside():
    """A round density about a place west of the region: the mode is the nearest place inside."""
    peak = torch.tensor([[20.0, 30.0]])
    posterior = with_prior(4 * shdd.encode(peak, 7).float()[0]).posterior(torch.zeros(1, 5))
    for text, nearest in (("0,40,60,90", [20.3, 40.0]), ("30,20,60,40", [30.0, 30.0]), ("10,20,30,40", [20.0, 30.0])):
        region = box(text)
        mode = posterior.within(region).modes()[0][0, 0]
        assert region.contains(mode) and great_circle_km(mode, torch.tensor(nearest).double()) < 150, (text, mode)


@pytest.mark.parametrize("kind", ["one pass", "chain", "regression", "two levels"])
@pytest.mark.parametrize("region", ["box", "small box", "north pole"])
def test_best_places_have_the_samples_that_they_say(kind, region):
    try:
        given = posterior_of(kind, 2).within(REGIONS[region])
    except NoProbability:
        return
    samples = given.sample(3000, seed=4)
    for km, (place, mass) in given.best_within().items():
        if km < 200 and (region != "small box" or kind == "regression"):
            continue  # below a pixel, whose center is what is sampled; other losses take a mode to be round
        near = (great_circle_km(place[:, None], samples) <= km).double().mean(dim=1)
        torch.testing.assert_close(mass.double(), near, rtol=0.1, atol=0.05)


def test_pictures_without_probability_are_named():
    posterior = with_prior(30 * shdd.encode(CENTER, 7).float()).posterior(torch.zeros(3, 5))
    with pytest.raises(
        NoProbability, match=r"picture 0 has no probability within 40,100,50,110; choose a larger"
    ) as error:
        posterior.within(box("40,100,50,110"))
    assert error.value.pictures == [0, 1, 2]


def test_land_holds_the_samples_of_every_kind():
    for kind in KINDS:
        given = posterior_of(kind).within(land())
        places, probability = given.modes(3)
        assert land().contains(given.sample(100)).all() and land().contains(places[probability > 0]).all()


def test_no_pictures_stay_none():
    for kind in KINDS:
        given = posterior_of(kind, 0).within(A)
        nothing = torch.empty(0, 2)
        assert len(given) == 0 and given.sample(3).shape == (0, 3, 2) and given.log_prob(nothing).shape == (0,)
        assert given.mass_within(nothing).shape == (0, 5) and given.credible_radius(nothing).shape == (0, 2)
        assert to_unit_vector(given.modes()[0]).shape[0] == 0
