"""Embedded pictures with places, in memory and in folders."""

import numpy as np
import torch

from locdiff.data.embeddings import Embeddings
from locdiff.sphere.coordinates import from_unit_vector
from support.strategies import EDGE_PLACES


def embedded(lat_lon, d=5, seed=0):
    """Return Embeddings of pictures at the places (n, 2), with random embeddings (n, d)."""
    n = len(lat_lon)
    embeddings = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return Embeddings(embeddings, np.arange(n), lat_lon.numpy(), list(range(n)), "test")


def scattered(n, seed=0):
    """Return n random places, half of them in a few towns, and the edge cases, the first of these six times over."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    towns = xyz[torch.randint(min(5, n), (n // 2,), generator=generator)]
    xyz[: n // 2] = towns + 0.01 * torch.randn(n // 2, 3, dtype=torch.float64, generator=generator)
    edges = torch.tensor(EDGE_PLACES + EDGE_PLACES[:1] * 5, dtype=torch.float64)
    return torch.cat([from_unit_vector(xyz), edges])


def queries_for(n, d=5, seed=1):
    """Return random queries (n, d)."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def write_folder(folder, embeddings, lines, meta=None, header="id,lat,lon"):
    """Write an embeddings folder with these lines of locations.csv and this text of meta.json; return it."""
    folder.mkdir()
    np.save(folder / "embeddings.npy", embeddings)
    (folder / "locations.csv").write_text("\n".join([header, *lines]) + "\n")
    if meta is not None:
        (folder / "meta.json").write_text(meta)
    return folder


def plane_data(n=800, noise=0.0, repeats=1, seed=0):
    """Return Embeddings of pictures around Bern: their place in a plane, with noise, and two random numbers."""
    rng = np.random.default_rng(seed)
    lat_lon = np.repeat(np.array([46.9, 7.4]) + rng.uniform(-2, 2, (n, 2)) * [1.0, 1.4], repeats, axis=0)
    embeddings = np.concatenate([lat_lon - [46.9, 7.4], rng.normal(0, 1, (n * repeats, 2))], axis=1)
    embeddings[:, :2] += rng.normal(0, noise, (n * repeats, 2))
    return Embeddings(embeddings.astype(np.float32), np.arange(n * repeats), lat_lon, [], "test")
