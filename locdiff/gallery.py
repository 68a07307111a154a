"""Retrieval: the place of the most similar picture of a gallery, what LocDiffusion does without."""

import torch
from tqdm import tqdm

_CHUNK = 20_000  # gallery rows compared at a time


def retrieve(queries, gallery, progress=True):
    """The place of the picture of the gallery (Embeddings) nearest by cosine to each query, (n, d) -> (n, 2)."""
    return torch.from_numpy(gallery.lat_lon)[nearest(queries, gallery, 1, progress)[1][:, 0]]


def nearest(queries, gallery, k, progress=True):
    """The k pictures of the gallery (Embeddings) nearest by cosine to each query (n, d), the nearest first.

    Returns their cosines and their positions in the gallery, both (n, k), or (n, len(gallery)) if it holds fewer. Of
    equals in different chunks the first comes first. The gallery is read in chunks: it may be larger than memory.
    """
    queries = torch.nn.functional.normalize(queries, dim=-1)
    cosine, position = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    starts = range(0, len(gallery), _CHUNK)
    for start in tqdm(starts, f"retrieving from {len(gallery):,}", disable=not progress, leave=False):
        chunk, _ = gallery.batch(range(start, min(start + _CHUNK, len(gallery))))
        value, index = (queries @ torch.nn.functional.normalize(chunk, dim=-1).T).topk(min(k, len(chunk)))
        cosine, order = torch.cat([cosine, value], dim=-1).sort(dim=-1, descending=True, stable=True)
        position = torch.cat([position, index + start], dim=-1).gather(-1, order)
        cosine, position = cosine[:, :k], position[:, :k]
    return cosine, position
