"""The other families: their cells, labels, probabilities and densities, and that each learns."""

import copy
import math

import healpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods import baselines
from methods.baselines import (
    FAMILIES,
    CellClassifier,
    DensityHead,
    EncodingDiffusion,
    Partition,
    UnitVectorRegression,
    kernel_density,
    smoothed_labels,
    train_baseline,
    trunk,
)
from support import EDGE_PLACES, places, rotation, seeds
from torch import nn

from locdiff.errors import InputError
from locdiff.evaluation.retrieval import nearest, retrieve
from locdiff.model.config import ModelConfig
from locdiff.model.cs_unet import Whitening
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import from_unit_vector, geographic_center, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.training.settings import resolve

TINY = ModelConfig(
    encoder="test", embed_dim=5, l_max=7, width=16, depth=2, time_dim=8, noise_levels=40, sample_steps=20,
    quadrature_nside=16, decoder_nside=16,
)  # fmt: skip


def pictures(lat_lon, d=5, seed=0):
    n = len(lat_lon)
    embeddings = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return embeddings.Embeddings(embeddings, np.arange(n), lat_lon.numpy(), list(range(n)), "test")


def scattered(n, seed=0):
    """n random places, half of them in a few towns, and the edge cases, the first of these six times over."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    towns = xyz[torch.randint(5, (n // 2,), generator=generator)]
    xyz[: n // 2] = towns + 0.01 * torch.randn(n // 2, 3, dtype=torch.float64, generator=generator)
    edges = torch.tensor(EDGE_PLACES + EDGE_PLACES[:1] * 5, dtype=torch.float64)
    return torch.cat([from_unit_vector(xyz), edges])


def close_km(a, b, within):
    assert a.shape == b.shape
    assert (great_circle_km(a, b) < within).all(), great_circle_km(a, b).max()


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("n_max", "nside"), [(1, 4096), (7, 64), (7, 4), (1000, 4096), (60, 1)])
def test_cells_are_a_partition_as_fine_as_their_places_demand(n_max, nside, seed):
    lat_lon, elsewhere = scattered(300), scattered(2000, seed=1)
    partition = Partition(lat_lon, n_max, seed, nside)
    sizes = partition.ends - partition.starts
    assert (partition.ends[:-1] <= partition.starts[1:]).all()  # no place in two cells
    assert (partition.find(lat_lon) >= 0).all()
    assert (partition.find(elsewhere) < 0).any() or n_max >= 60
    count = np.bincount(partition.find(lat_lon), minlength=len(sizes))
    assert (count >= 1).all() and ((count <= n_max) | (sizes == 1)).all()
    xyz = to_unit_vector(torch.cat([lat_lon, elsewhere])).numpy() @ partition.rotation.T
    found = np.full(len(xyz), -1)
    for i, (start, size) in enumerate(zip(partition.starts, sizes, strict=True)):
        side = nside // math.isqrt(size)
        assert start % size == 0 and 12 * side**2 * size == 12 * nside**2  # a whole HEALPix pixel
        own = healpy.vec2pix(side, *xyz.T, nest=True)
        found[own == start // size] = i
        if side > 1:
            parent = healpy.vec2pix(side // 2, *xyz[: len(lat_lon)].T, nest=True)
            assert (parent == start // size // 4).sum() > n_max  # not split without need
    np.testing.assert_array_equal(partition.find(torch.cat([lat_lon, elsewhere])), found)


@given(place=places, n_max=st.integers(1, 3), seed=st.none() | seeds)
def test_one_place_is_one_cell_and_its_own_representative(place, n_max, seed):
    lat_lon = torch.tensor([place] * 2, dtype=torch.float64)
    for many in (1, 2):
        partition = Partition(lat_lon[:many], n_max, seed)
        assert len(partition.centers) == 1
        assert partition.find(lat_lon).tolist() == [0, 0]
        assert partition.ends[0] - partition.starts[0] == (4096**2 if many <= n_max else 1)
        close_km(partition.centers[0], lat_lon[0], 1e-6)


def test_representatives_are_centres_across_the_antimeridian_too():
    lat_lon = torch.tensor([[1.0, 179.0], [-1.0, -179.0], [1.0, 177.0], [-1.0, -177.0], [45.0, 90.0]]).double()
    partition = Partition(lat_lon, 4)
    close_km(partition.centers, torch.tensor([[45.0, 90.0], [0.0, 180.0]]).double(), 1e-6)
    lat_lon = scattered(300)
    partition = Partition(lat_lon, 20, seed=1)
    for i in range(0, len(partition.centers), 5):
        close_km(partition.centers[i], geographic_center(lat_lon[partition.find(lat_lon) == i]), 1e-6)


def test_a_turned_partition_is_that_of_turned_places():
    lat_lon, elsewhere = scattered(300)[:300], scattered(500, seed=1)[:500]
    turned = Partition(lat_lon, 10, seed=5)
    np.testing.assert_allclose(turned.rotation @ turned.rotation.T, np.eye(3), atol=1e-12)

    def turn(p):
        return from_unit_vector(to_unit_vector(p) @ torch.from_numpy(turned.rotation).T)

    plain = Partition(turn(lat_lon), 10)
    assert torch.equal(turned.find(elsewhere), plain.find(turn(elsewhere)))
    assert not torch.equal(turned.find(lat_lon), Partition(lat_lon, 10).find(lat_lon))
    assert not np.allclose(turned.rotation, Partition(lat_lon, 10, seed=6).rotation)


def test_a_place_without_a_cell_counts_to_the_nearest_representative():
    lat_lon = torch.tensor([[10.0, 10.0], [10.0, 20.0], [-40.0, 100.0]]).double()
    partition = Partition(lat_lon, 1)
    own = partition.find(lat_lon)
    new = torch.tensor([[80.0, 18.0], [-80.0, -80.0], [10.0, 20.0]]).double()
    assert partition.find(new).tolist() == [-1, -1, own[1]]
    assert partition.labels(new).tolist() == [own[1], own[2], own[1]]


def test_no_partition_without_places_or_with_nothing_allowed_in_a_cell():
    for lat_lon, n_max in [(torch.empty(0, 2), 5), (torch.zeros(3, 2), 0)]:
        with pytest.raises(ValueError, match="need places and n_max"):
            Partition(lat_lon, n_max)


def nested(lat_lon):
    return [Partition(lat_lon, n_max) for n_max in (80, 20, 4)]


def turned(lat_lon):
    return [Partition(lat_lon, n_max, seed) for seed, n_max in enumerate((40, 50, 60))]


def test_a_fine_cell_lies_within_its_ancestors():
    lat_lon = scattered(400)
    partitions = nested(lat_lon)
    model = CellClassifier(TINY, partitions, lat_lon)
    assert len(model.members) == len(partitions[-1].centers) > len(partitions[0].centers)
    assert model.members[:, -1].unique().tolist() == list(range(len(model.members)))
    for coarse, fine in ((0, 1), (1, 2), (0, 2)):
        above, below = partitions[coarse], partitions[fine]
        for parent, child in model.members[:, [coarse, fine]].tolist():
            assert above.starts[parent] <= below.starts[child] and below.ends[child] <= above.ends[parent]


@pytest.mark.parametrize("partitions", [nested, turned, lambda p: [Partition(p, 10)]])
def test_probabilities_are_the_product_over_a_candidates_cells_and_sum_to_one(partitions):
    lat_lon = scattered(400)
    torch.manual_seed(0)
    model = CellClassifier(TINY, partitions(lat_lon), lat_lon)
    embeddings = torch.randn(7, 5)
    heads = [log_p.exp() for log_p in model(embeddings)]
    for p, partition in zip(heads, model.partitions, strict=True):
        assert p.shape == (7, len(partition.centers))
        torch.testing.assert_close(p.sum(-1), torch.ones(7), rtol=1e-5, atol=1e-5)
    own = torch.stack([partition.find(lat_lon) for partition in model.partitions], -1)
    candidates = sorted({tuple(cells) for cells in own.tolist()})
    assert len(model.places) == len(candidates)
    product = torch.stack([math.prod(p[:, i] for p, i in zip(heads, c, strict=True)) for c in candidates], -1)
    probability = model.log_probability(embeddings).exp()
    torch.testing.assert_close(probability, product / product.sum(-1, keepdim=True), rtol=1e-4, atol=1e-7)
    for place, cells in list(zip(model.places, candidates, strict=True))[::7]:
        close_km(place, geographic_center(lat_lon[(own == torch.tensor(cells)).all(-1)]), 1e-6)
    assert torch.equal(model.predict(embeddings), model.places[product.argmax(-1)])
    loss = -sum(p[torch.arange(7), cell[:7]].log() for p, cell in zip(heads, own.T, strict=True))
    torch.testing.assert_close(model.loss(embeddings, lat_lon[:7]), loss, rtol=1e-5, atol=1e-5)


@given(place=places, tau=st.floats(1, 5000), seed=seeds)
def test_smoothed_labels_sum_to_one_and_fall_with_the_distance_in_excess_of_the_own_cell(place, tau, seed):
    x, centers = torch.tensor([place], dtype=torch.float64), scattered(20, seed % 1000)
    labels = smoothed_labels(x, centers, tau)
    torch.testing.assert_close(labels.sum(-1), torch.ones(1, dtype=torch.float64))
    distance = great_circle_km(x[:, None], centers)
    excess = distance - distance[:, 3:4]  # were the fourth its own
    scaled = torch.exp(torch.clamp(-excess / tau, max=700.0))
    if scaled.max() < 1e300:
        torch.testing.assert_close(labels, scaled / scaled.sum(-1, keepdim=True), rtol=1e-9, atol=1e-300)


def test_smoothing_tends_to_the_nearest_centre_as_tau_tends_to_zero():
    lat_lon = scattered(400)[:400]
    partition = Partition(lat_lon, 10)
    labels = smoothed_labels(lat_lon, partition.centers, 1e-3)
    closest = great_circle_km(lat_lon[:, None], partition.centers).argmin(-1)
    torch.testing.assert_close(labels, nn.functional.one_hot(closest, len(partition.centers)).double())
    usual = closest == partition.find(lat_lon)
    assert 0.5 < usual.double().mean() < 1
    torch.manual_seed(0)
    smooth = CellClassifier(TINY, [partition], lat_lon, tau_km=1e-3)
    hard = copy.deepcopy(smooth)
    hard.tau_km = 0.0
    embeddings = torch.randn(int(usual.sum()), 5)
    torch.testing.assert_close(smooth.loss(embeddings, lat_lon[usual]), hard.loss(embeddings, lat_lon[usual]))
    wide = CellClassifier(TINY, [partition], lat_lon, tau_km=1e9)
    torch.testing.assert_close(
        wide.loss(embeddings, lat_lon[usual]), -wide(embeddings)[0].mean(-1), rtol=1e-4, atol=1e-4
    )


def test_kernel_density_is_retrieval_with_one_neighbour_or_no_width():
    train, queries = pictures(scattered(100)[:100]), torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    one = retrieve(queries, train, progress=False)
    assert torch.equal(kernel_density(queries, train, k=1, progress=False), one)
    assert torch.equal(kernel_density(queries, train, k=30, sigma_deg=1e-9, progress=False), one)
    assert not torch.equal(kernel_density(queries, train, k=30, sigma_deg=20.0, progress=False), one)
    itself = torch.from_numpy(train.embeddings)  # infinitely near
    assert torch.equal(kernel_density(itself, train, progress=False), torch.from_numpy(train.lat_lon))


def test_kernel_density_takes_the_neighbour_with_the_largest_sum():
    train, queries = pictures(scattered(100), d=64), torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    found = kernel_density(queries, train, k=25, sigma_deg=18.0, progress=False)
    cosine, position = nearest(queries, train, 25, progress=False)
    for i in range(40):
        near = torch.from_numpy(train.lat_lon)[position[i]]
        density = []
        for place in near:
            angle = torch.rad2deg((to_unit_vector(near) @ to_unit_vector(place)).clamp(-1, 1).acos())
            density.append(((1 - cosine[i].double()) ** -10 * torch.exp(-(angle**2) / (2 * 18.0**2))).sum())
        close_km(found[i], near[torch.stack(density).argmax()], 1e-6)
    for alone in range(3):  # of three pictures infinitely near two are neighbours
        lat_lon = torch.tensor([[50.0, 3.0], [50.0, 3.5], [50.0, 4.0], [-20.0, 0.0]], dtype=torch.float64)
        lat_lon[alone] = torch.tensor([-60.0, 90.0])
        same = pictures(lat_lon)
        same.embeddings[:3] = np.eye(5)[0]
        assert kernel_density(torch.from_numpy(same.embeddings[:1]), same, progress=False)[0, 0] == 50
    for wrong in ({"k": 0}, {"sigma_deg": 0.0}):
        with pytest.raises(ValueError, match="need k >= 1 and sigma_deg > 0"):
            kernel_density(queries, train, progress=False, **wrong)


@given(seed=seeds)
def test_regression_turned_with_its_places_has_the_same_loss(seed):
    torch.manual_seed(0)
    model, embeddings, lat_lon = UnitVectorRegression(TINY), torch.randn(9, 5), scattered(9)[:9]
    loss = model.loss(embeddings, lat_lon)
    xyz = nn.functional.normalize(model.network(embeddings), dim=-1)
    error = (xyz - to_unit_vector(lat_lon)).square().sum(-1)
    torch.testing.assert_close(loss.double(), error.detach() / 2, rtol=1e-4, atol=1e-5, check_dtype=False)
    turn = torch.from_numpy(rotation(seed)).float()
    before = to_unit_vector(model.predict(embeddings)).float()
    with torch.no_grad():
        model.network[-1].weight.copy_(turn @ model.network[-1].weight)
        model.network[-1].bias.copy_(turn @ model.network[-1].bias)
    turned_places = from_unit_vector(to_unit_vector(lat_lon) @ turn.double().T)
    torch.testing.assert_close(model.loss(embeddings, turned_places), loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(to_unit_vector(model.predict(embeddings)).float(), before @ turn.T, rtol=0, atol=1e-5)


@given(place=places)
def test_diffusion_in_space_of_a_perfectly_learnt_place_returns_it(place):
    model, lat_lon = EncodingDiffusion(TINY).eval(), torch.tensor([place], dtype=torch.float64)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.copy_(math.sqrt(3) * to_unit_vector(lat_lon)[0])
    close_km(model.sample(torch.randn(2, 5), samples=3), lat_lon.expand(2, 3, 2), 2.0)
    close_km(model.predict(torch.randn(2, 5)), lat_lon.expand(2, 2), 2.0)
    assert model.loss(torch.randn(50, 5), lat_lon.expand(50, 2)).abs().max() < 1e-10


def test_samples_in_space_follow_the_posterior_and_repeat_by_seed_and_position(monkeypatch):
    """With the exact posterior mean of two places as the denoiser, each is visited as often as its share says."""
    model, share = EncodingDiffusion(TINY).eval(), torch.tensor([0.3, 0.7])
    lat_lon = torch.tensor([[48.9, 2.4], [-25.0, 135.0]], dtype=torch.float64)
    x_0 = math.sqrt(3) * to_unit_vector(lat_lon).float()

    def posterior_mean(x_t, t, embeddings):
        alpha_bar = model.alpha_bar[t - 1].float()
        distance = (x_t[..., None, :] - alpha_bar.sqrt() * x_0).square().sum(-1)
        return torch.softmax(share.log() - distance / (2 * (1 - alpha_bar)), -1) @ x_0

    monkeypatch.setattr(model, "forward", posterior_mean)
    drawn = model.sample(torch.zeros(40, 5), samples=50, seed=1)
    near = great_circle_km(drawn[:, :, None], lat_lon) < 100
    assert near.any(-1).double().mean() > 0.99
    assert abs(near[:, :, 1].double().mean() - 0.7) < 0.04
    assert not torch.equal(drawn[0], drawn[1])
    for wrong in ({"samples": 0}, {"seed": -1}):
        with pytest.raises(InputError, match="need samples >= 1 and seed >= 0"):
            model.sample(torch.zeros(1, 5), **wrong)
    close_km(model.sample(torch.zeros(3, 5), samples=50, seed=1), drawn[:3], 1.0)
    close_km(model.predict(torch.zeros(40, 5)), geographic_center(model.sample(torch.zeros(40, 5), samples=16)), 1.0)
    monkeypatch.setattr(baselines, "CHUNK", 100)
    close_km(model.sample(torch.zeros(40, 5), samples=50, seed=1), drawn, 1.0)


def test_training_in_space_sees_every_level_of_the_forward_process(monkeypatch):
    model, seen = EncodingDiffusion(TINY), []
    monkeypatch.setattr(model, "forward", lambda x_t, t, embeddings: seen.append((x_t, t)) or torch.zeros_like(x_t))
    torch.manual_seed(0)
    lat_lon = scattered(4000)
    error = model.loss(torch.zeros(len(lat_lon), 5), lat_lon)
    torch.testing.assert_close(error, torch.ones(len(lat_lon)), rtol=1e-5, atol=1e-5)  # as |x_0|^2 = 3
    x_t, t = seen[0]
    alpha_bar = model.alpha_bar[t - 1, None]
    noise = (x_t - (3 * alpha_bar).sqrt() * to_unit_vector(lat_lon)) / (1 - alpha_bar).sqrt()
    for level in range(1, TINY.noise_levels + 1):
        assert noise[t == level].square().mean() == pytest.approx(1, abs=0.35)
    assert t.min() == 1 and t.max() == TINY.noise_levels


def test_the_density_head_is_trained_by_the_likelihood_of_its_density():
    torch.manual_seed(0)
    model, embeddings, lat_lon = DensityHead(TINY).eval(), torch.randn(9, 5), scattered(9)[-9:]
    with torch.no_grad():
        model.network[-1].weight.mul_(5)
    coeffs, density = model.one_pass(embeddings), model.density(embeddings)
    assert density.std() > 0.1 * density.mean()
    torch.testing.assert_close(density.sum(-1), torch.ones(9), rtol=1e-5, atol=1e-5)
    expected = model.log_likelihood(coeffs, density, lat_lon)
    torch.testing.assert_close(-model.loss(embeddings, lat_lon), expected, rtol=1e-4, atol=1e-4, check_dtype=False)
    again = model.loss(embeddings, lat_lon)  # at other noise levels
    torch.testing.assert_close(-again, expected, rtol=1e-4, atol=1e-4, check_dtype=False)
    peak = torch.tensor([[48.9, 2.4]], dtype=torch.float64)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias.copy_(2 * shdd.encode(peak, 7)[0])
    close_km(model.predict(embeddings), peak.expand(9, 2), 1.0)
    shares = model.density(embeddings)[0]
    drawn = model.decode(model.sample(embeddings, samples=200))
    inside = (great_circle_km(model.anchors, peak) < 2500).double()
    hits = (great_circle_km(drawn, peak) < 2500).double().mean()
    assert abs(hits - (shares * inside).sum()) < 0.05


@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig(l_max=15, embed_dim=512, depth=4), TINY])
def test_every_trunk_is_as_large_as_the_network_of_locdiffusion(config):
    *hidden, head = trunk(config, 576, extra=9)
    assert isinstance(hidden[0], Whitening)
    sizes = [(layer.in_features, layer.out_features) for layer in [*hidden, head] if isinstance(layer, nn.Linear)]
    w = sizes[0][1]
    assert sizes == [(config.embed_dim + 9, w), (w, w), (w, w), (w, 576)]
    count = sum(p.numel() for layer in hidden for p in layer.parameters()) - 9 * w
    network = sum(p.numel() for p in LocDiffusion(config).parameters())
    assert count == pytest.approx(network, rel=0.02)
    if config == ModelConfig():
        assert w == 845 and count + sum(p.numel() for p in head.parameters()) == pytest.approx(2_080_912, rel=0.3)


TOY = {
    "embed_dim": 24, "l_max": 7, "width": 32, "depth": 2, "time_dim": 16, "noise_levels": 40, "sample_steps": 10,
    "quadrature_nside": 16, "decoder_nside": 16, "steps": 120, "batch": 48, "lr": 3e-3, "warmup": 5,
    "whiten": 0.0, "p_pure_noise": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_twelve_places_by_heart(name):
    lat_lon = from_unit_vector(to_unit_vector(healpix_anchors(2)[::4]) @ torch.from_numpy(rotation(1)))
    toy, settings = pictures(lat_lon, d=24), resolve("smoke", **TOY)
    model = train_baseline(FAMILIES[name], toy, settings, torch.device("cpu"), progress=False)
    embeddings, truth = toy.batch(range(12))
    found = model.predict(embeddings)
    assert found.dtype == torch.float64 and not model.training
    close_km(found, truth, 300)
    close_km(model.predict(embeddings[:5]), found[:5], 1.0)
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
    assert model.predict(torch.empty(0, 24)).shape == (0, 2)
    for wrong, message in [(torch.zeros(2, 4), r"\(2, 4\).*\(n, 24\)"), (torch.full((1, 24), math.nan), "NaN")]:
        with pytest.raises(InputError, match=message):
            model.predict(wrong)


def test_a_training_that_diverges_is_refused():
    settings = resolve("smoke", **TOY | {"steps": 3, "lr": 1e38})
    make = FAMILIES["PlaNet-style classification"]
    with pytest.raises(InputError, match="loss is nan after 3 steps"):
        train_baseline(make, pictures(scattered(30), d=24), settings, torch.device("cpu"), progress=False)
