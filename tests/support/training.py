"""A small run: its settings, its pictures and its trainer."""

import numpy as np
import torch

from locdiff.data.embeddings import Embeddings
from locdiff.training.settings import resolve
from locdiff.training.trainer import Trainer

SMALL = {"l_max": 5, "width": 8, "time_dim": 8, "embed_dim": 6, "steps": 24, "batch": 8, "dropout": 0.2}
CPU = torch.device("cpu")


def pictures(count=20, d=6):
    """Return Embeddings of `count` pictures at random places, in float16."""
    generator = np.random.default_rng(1)
    lat_lon = np.stack([generator.uniform(-80, 80, count), generator.uniform(-180, 180, count)], axis=1)
    embeddings = generator.normal(size=(count, d)).astype(np.float16)
    return Embeddings(embeddings, np.arange(count), lat_lon, list(range(count)), "test")


def trainer(**changes):
    """Return a Trainer of the small run; `changes` are by flat names."""
    return Trainer(resolve("smoke", **SMALL | changes), pictures(), CPU)
