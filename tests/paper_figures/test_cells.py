"""Classification into cells: the partitions, the labels and the probabilities."""

import copy
import math

import healpy
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.cells import CellClassifier, Partition, smoothed_labels
from support.embeddings import scattered
from support.models import tiny_config
from support.strategies import places, seeds
from support.tolerances import close_km
from torch import nn

from locdiff.sphere.coordinates import from_unit_vector, geographic_center, great_circle_km, to_unit_vector


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
    model = CellClassifier(tiny_config(), partitions, lat_lon)
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
    model = CellClassifier(tiny_config(), partitions(lat_lon), lat_lon)
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
    smooth = CellClassifier(tiny_config(), [partition], lat_lon, tau_km=1e-3)
    hard = copy.deepcopy(smooth)
    hard.tau_km = 0.0
    embeddings = torch.randn(int(usual.sum()), 5)
    torch.testing.assert_close(smooth.loss(embeddings, lat_lon[usual]), hard.loss(embeddings, lat_lon[usual]))
    wide = CellClassifier(tiny_config(), [partition], lat_lon, tau_km=1e9)
    torch.testing.assert_close(
        wide.loss(embeddings, lat_lon[usual]), -wide(embeddings)[0].mean(-1), rtol=1e-4, atol=1e-4
    )
