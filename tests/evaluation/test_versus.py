"""The density against retrieval, and texts of training apart from new ones."""

import numpy as np
import pytest
import torch

from locdiff.data.embeddings import Embeddings
from locdiff.evaluation.versus import less_retrieval, score_texts

TRUTH = torch.tensor([[0.0, 0.0], [10.0, 10.0], [20.0, 20.0], [-30.0, 170.0]])
FAR = torch.tensor([[-60.0, -60.0]]).expand(4, 2)


def data(texts):
    n = len(texts or TRUTH)
    lat_lon = np.zeros((n, 2)) if texts is None or n != 4 else TRUTH.numpy()
    return Embeddings(np.zeros((n, 3), np.float32), np.arange(n), lat_lon, list(map(str, range(n))), "e", texts=texts)


def found():
    calibration = torch.tensor([[1.0], [2.0], [3.0], [6.0]]).expand(4, 5)
    return {
        "each": TRUTH[:, None].expand(4, 5, 2),
        "calibration": calibration,
        "rank": torch.tensor([0.1, 0.6, 0.95, 0.4]),
    }


def test_a_density_that_is_right_is_ahead_of_a_retrieval_that_is_wrong_by_a_hundred_points():
    ahead = less_retrieval(found()["each"], FAR, TRUTH)
    assert ahead == {k: [100.0, 100.0, 100.0] for k in (1, 25, 200, 750, 2500)}
    assert less_retrieval(FAR[:, None].expand(4, 5, 2), TRUTH, TRUTH)[25] == [-100.0, -100.0, -100.0]


def test_the_difference_lies_in_its_interval_and_groups_widen_it():
    hit = torch.rand(400, generator=torch.Generator().manual_seed(0)).repeat_interleave(10) < 0.5
    truth = torch.zeros(4000, 2)
    each = torch.where(hit[:, None], truth, truth + 90)[:, None].expand(-1, 5, 2)
    alone = less_retrieval(each, truth + 90, truth)[200]
    together = less_retrieval(each, truth + 90, truth, [str(i // 10) for i in range(4000)])[200]
    assert alone[0] == together[0] == pytest.approx(100 * hit.double().mean().item())
    assert alone[1] < alone[0] < alone[2] and together[2] - together[1] > 2 * (alone[2] - alone[1])


def test_texts_of_training_and_new_ones_are_scored_apart():
    rows, worth = score_texts(found(), FAR, TRUTH, data(["a", "b"]), data(["b", "c", "a", "ab"]))
    assert worth["texts of training too"]["count"] == worth["new texts"]["count"] == 2
    assert worth["texts of training too"]["nats_over_uniform"] == 2 and worth["new texts"]["nats_over_uniform"] == 4
    assert worth["texts of training too"]["coverage_50"][0] == 50 and worth["new texts"]["coverage_90"][0] == 100
    accuracy = {name: row["accuracy"][200] for name, row in rows.items()}
    assert accuracy == {
        "2 texts of training too: one-pass density, best place for each column": 100,
        "2 texts of training too: retrieval": 0,
        "2 new texts: one-pass density, best place for each column": 100,
        "2 new texts: retrieval": 0,
    }


def test_pictures_have_no_such_parts_and_texts_that_are_all_new_have_one():
    assert score_texts(found(), FAR, TRUTH, data(None), data(None)) == ({}, {})
    rows, worth = score_texts(found(), FAR, TRUTH, data(["x"]), data(["b", "c", "a", "ab"]))
    assert len(rows) == 2 and list(worth) == ["new texts"]
