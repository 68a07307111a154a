"""Retrieval: the place of the most similar picture of a gallery, what LocDiffusion does without."""

import torch
from tqdm import tqdm

_CHUNK = 20_000  # gallery rows compared at a time


def retrieve(queries, gallery, progress=True):
    """The place of the picture of the gallery (Embeddings) that is nearest by cosine to each query, (n, d) -> (n, 2).

    The gallery is read in chunks, so that it may be larger than memory.
    """
    queries = torch.nn.functional.normalize(queries, dim=-1)
    best = torch.full((len(queries),), -torch.inf)
    position = torch.zeros(len(queries), dtype=torch.long)
    starts = range(0, len(gallery), _CHUNK)
    for start in tqdm(starts, f"retrieving from {len(gallery):,}", disable=not progress, leave=False):
        chunk, _ = gallery.batch(range(start, min(start + _CHUNK, len(gallery))))
        value, index = (queries @ torch.nn.functional.normalize(chunk, dim=-1).T).max(dim=-1)
        position = torch.where(value > best, index + start, position)
        best = torch.maximum(best, value)
    return torch.from_numpy(gallery.lat_lon)[position]
