"""Which pictures a step sees, and how they are read."""

import numpy as np
import pytest
import torch
from support.training import CPU, pictures

from locdiff.training import batches
from locdiff.training.batches import BatchReader, batch_rows


@pytest.mark.parametrize(("n", "batch"), [(20, 8), (7, 7), (3, 8), (1, 4)])
def test_every_epoch_shows_every_picture_once_in_a_new_order(n, batch):
    rows = np.concatenate([batch_rows(step, batch, n, 0) for step in range(3 * n)])
    epochs = rows[: len(rows) // n * n].reshape(-1, n)
    assert (np.sort(epochs) == np.arange(n)).all()
    assert n < 5 or not (epochs[0] == epochs[1]).all()


def test_the_seed_alone_decides_the_order():
    first, again, other = (np.concatenate([batch_rows(s, 8, 20, seed) for s in range(3)]) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_batches_that_are_read_ahead_are_those_asked_for():
    """Also where the steps are not asked for in turn, as after resuming."""
    data = pictures()
    reader = BatchReader(data, 8, 0, CPU, 0, 1)
    for step in (0, 1, 2, 7, 8, 3, 3):
        expected = data.batch(batch_rows(step, 8, 20, 0))
        for one, other in zip(reader.read(step), expected, strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype


def test_processes_share_out_the_rows_of_a_batch():
    whole = BatchReader(pictures(), 12, 0, CPU, 0, 1).read(5)
    parts = [BatchReader(pictures(), 12, 0, CPU, rank, 3).read(5) for rank in range(3)]
    for one, others in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(one, torch.cat(others)) and len(others[0]) == 4


def test_pictures_kept_on_the_device_are_those_read(monkeypatch):
    read = BatchReader(pictures(), 8, 0, CPU, 0, 1)
    monkeypatch.setattr(batches, "_fits", lambda *_: True)
    kept = BatchReader(pictures(), 8, 0, CPU, 0, 1)
    assert kept._resident is not None and read._resident is None
    for step in range(3):
        for one, other in zip(read.read(step), kept.read(step), strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype
