"""The hybrid rows: their predictions, and how the weight of the retrieval is chosen on the other half."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.embeddings import embedded, scattered
from support.models import tiny
from support.posteriors import answering
from support.strategies import seeds

from locdiff.evaluation.hybrid import choose_weight, predict_hybrid
from locdiff.evaluation.retrieval import WEIGHTS, retrieve_by_density, retrieve_near, weigh_modes
from locdiff.seeding import derive_seed

TRUTH = torch.tensor([[40.0, -100.0], [-25.0, 135.0], [60.0, 30.0]], dtype=torch.float64)


HERE, THERE = [0.0, 0.0], [0.0, 90.0]


def where(there):
    """THERE where true, else HERE: (n,) -> (n, 2)."""
    return torch.where(there[:, None], torch.tensor(THERE), torch.tensor(HERE)).double()


@given(seed=seeds, n=st.integers(2, 12))
def test_a_picture_has_no_say_in_its_own_weight(seed, n):
    """One truth can change the predictions of one half of the pictures, to which it does not belong."""
    weighted = torch.tensor([[HERE, THERE]] * n, dtype=torch.float64)
    there, own = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5, torch.eye(n).bool()
    before, changed = choose_weight(weighted, where(there), seed), set()
    for i in range(n):
        after = choose_weight(weighted, where(there ^ own[i]), seed)
        influenced = frozenset((after != before).any(dim=-1).nonzero()[:, 0].tolist())
        assert i not in influenced and len(influenced) in (0, n // 2, n - n // 2)
        changed.add(influenced)
    assert len(frozenset.union(*changed)) == sum(map(len, changed))  # the halves do not overlap


@pytest.mark.parametrize(("better", "worse", "helps"), [(3, 2, False), (60, 50, False), (20, 2, True), (2, 20, False)])
def test_retrieval_alone_is_kept_unless_the_density_has_helped_beyond_chance(better, worse, helps):
    """In either half of 400 pictures so many are right only with the density, and so many only without it."""
    truth = torch.tensor([HERE] * 400, dtype=torch.float64)
    weighted = truth[:, None].repeat(1, 2, 1)
    for half in torch.randperm(400, generator=torch.Generator().manual_seed(derive_seed(0, 2))).tensor_split(2):
        weighted[half[:better], 1] = weighted[half[better : better + worse], 0] = torch.tensor(THERE).double()
    assert torch.equal(choose_weight(weighted, truth), weighted[:, 0 if helps else 1])


def test_halves_follow_from_the_seed_and_are_halves():
    weighted = torch.tensor([[HERE, THERE]] * 9, dtype=torch.float64)
    chosen = []
    for seed in range(40):
        truth = where(torch.arange(9) < 4)
        chosen.append(tuple(choose_weight(weighted, truth, seed)[:, 1].tolist()))
        assert chosen[-1] == tuple(choose_weight(weighted, truth, seed)[:, 1].tolist())
    assert len(set(chosen)) > 5 and {sum(lon > 0 for lon in own) for own in chosen} <= {0, 4, 5, 9}


def test_the_weight_is_that_of_the_highest_mean_accuracy():
    """Half of the pictures to the metre (250), or all within a town (400), or within a country (200); NaN is a miss."""
    truth = torch.zeros(40, 2, dtype=torch.float64)
    exact, lost = torch.zeros(40, 2, dtype=torch.float64), torch.full((40, 2), math.nan, dtype=torch.float64)
    north = torch.tensor([1.0, 0.0], dtype=torch.float64)
    half, town, country = exact.where(torch.arange(40)[:, None] % 2 == 0, lost), exact + 0.1 * north, exact + 6 * north
    for offered, best in (((half, country, lost), 0), ((lost, half, town), 2), ((lost, lost, country), 2)):
        chosen = choose_weight(torch.stack(offered, dim=1), truth)
        torch.testing.assert_close(chosen, offered[best], rtol=0, atol=0, equal_nan=True)


def test_with_one_picture_or_none_there_is_nothing_to_choose_by():
    weighted = torch.tensor([[HERE, THERE]], dtype=torch.float64)
    assert choose_weight(weighted, weighted[:, 0]).tolist() == [THERE]
    assert choose_weight(weighted[:0], weighted[:0, 1]).shape == (0, 2)


def hybrid(model, queries, gallery, samples, truth):
    embeddings = torch.zeros(len(truth), 5)
    rows = predict_hybrid(model, embeddings, samples, queries, gallery, truth, progress=False)
    names, places = zip(*rows.items(), strict=True)
    assert names == (
        f"LocDiffusion + retrieval within 200 km of its {samples.shape[1]} samples (the paper's)",
        "LocDiffusion + retrieval, its 16 most probable modes weighed by the nearest pictures",
        "LocDiffusion + retrieval, density times retrieval score",
    )
    return places


def test_retrieval_is_restricted_to_where_the_model_looks(monkeypatch):
    """The most similar place is far away, and a mode of no probability is there; next to the truth there is another."""
    near, elsewhere = TRUTH + torch.tensor([1.0, 0.0]), torch.tensor([[10.0, 80.0]], dtype=torch.float64)
    gallery = embedded(torch.cat([near, TRUTH + torch.tensor([1.5, 0.0]), elsewhere]))
    gallery.embeddings[:] = [[1, 1, 0, 0, 0]] * 3 + [[0, 1, 0, 0, 0]] * 3 + [[1, 0, 0, 0, 0]]
    queries = torch.tensor([[1.0, 0, 0, 0, 0]]).expand(3, -1)
    model, asked = answering(monkeypatch, coeffs=torch.zeros(3, 64)), []

    def modes(k):
        asked.append(k)
        return torch.stack([TRUTH, elsewhere.expand(3, 2)], dim=1), torch.tensor([[1.0, 0.0]]).expand(3, -1)

    monkeypatch.setattr(model.posterior(None), "modes", modes)
    by_samples, by_modes, _ = hybrid(model, queries, gallery, TRUTH[:, None].expand(-1, 4, -1), TRUTH)
    torch.testing.assert_close(by_samples, near, rtol=0, atol=0)
    torch.testing.assert_close(by_modes, TRUTH, rtol=0, atol=0)
    assert asked == [16]
    everywhere = torch.cat([TRUTH[:, None], elsewhere.expand(3, 1, 2)], dim=1)
    assert (hybrid(model, queries, gallery, everywhere, TRUTH)[0] == elsewhere).all()


@pytest.mark.parametrize("size", [2, 100])
def test_the_rows_of_the_hybrid_do_not_depend_on_the_chunks(size, monkeypatch):
    model, gallery = tiny(), embedded(scattered(50))
    torch.nn.init.normal_(model.network.head.weight)
    embeddings, queries = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0))
    samples, posterior = scattered(15)[:15].view(5, 3, 2), model.posterior(embeddings)
    modes, probability = posterior.modes(16)
    by_samples = retrieve_near(queries, gallery, samples, 200.0, progress=False)
    weighed = weigh_modes(queries, gallery, modes, probability, progress=False)
    weighed = torch.cat([weighed, modes[None, :, 0]]).transpose(0, 1)
    weighted = retrieve_by_density(queries, gallery, posterior.log_density, WEIGHTS, progress=False).transpose(0, 1)
    truth = torch.cat([weighted[:3, 0], weighted[3:, -1]])  # one weight is the best for some, another for the others
    assert len({tuple(choose_weight(weighted, truth, seed).flatten().tolist()) for seed in range(4)}) > 1
    monkeypatch.setattr(type(model), "posterior_batch_size", size)
    for seed in range(4):
        rows = predict_hybrid(model, embeddings, samples, queries, gallery, truth, seed, progress=False)
        expected = (by_samples, choose_weight(weighed, truth, seed), choose_weight(weighted, truth, seed))
        for own, other in zip(rows.values(), expected, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-3)
