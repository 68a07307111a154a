"""Which pictures a training step sees, and how they are read."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from locdiff.data.embeddings import Embeddings


@lru_cache(maxsize=2)
def _permutation(n, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(n)


def batch_rows(step: int, batch: int, n: int, seed: int) -> np.ndarray:
    """Return which of n pictures step `step` (from 0) sees: (batch,). Each epoch is a new random order of all."""
    position = np.arange(step * batch, (step + 1) * batch)
    return np.concatenate([
        _permutation(n, seed, epoch)[position[position // n == epoch] % n] for epoch in np.unique(position // n)
    ])  # fmt: skip


class BatchReader:
    """One process's share of the batches of `train`, on a device; the next batch is read while one is used.

    All pictures are kept on a GPU where they take at most a third of what is free there.
    """

    def __init__(self, train: Embeddings, batch: int, seed: int, device: torch.device, rank: int, processes: int):
        self.train, self.batch, self.seed, self.device = train, batch, seed, device
        self.share = slice(rank * batch // processes, (rank + 1) * batch // processes)
        self._resident = train.tensors(device) if _fits(train, device) else None
        self._reader, self._ahead = ThreadPoolExecutor(1), {}

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the embeddings (m, d) float32 and the locations (m, 2) of a step."""
        own: Future = self._ahead.pop(step, None) or self._reader.submit(self._read, step)
        self._ahead = {step + 1: self._reader.submit(self._read, step + 1)}
        embeddings, lat_lon = own.result()
        return embeddings.to(self.device, non_blocking=True), lat_lon.to(self.device, non_blocking=True)

    def _read(self, step):
        rows = batch_rows(step, self.batch, len(self.train), self.seed)[self.share]
        if self._resident:
            rows = torch.from_numpy(rows).to(self.device)
            return self._resident[0][rows].float(), self._resident[1][rows]
        embeddings, lat_lon = self.train.batch(rows)
        return (embeddings, lat_lon) if self.device.type == "cpu" else (embeddings.pin_memory(), lat_lon.pin_memory())


def _fits(train, device):
    return device.type == "cuda" and len(train) * train.embeddings[:1].nbytes < torch.cuda.mem_get_info(device)[0] / 3
