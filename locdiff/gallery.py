"""Retrieval: the place of the most similar picture of a gallery, what LocDiffusion does without."""

import numpy as np
import torch
from tqdm import tqdm

_CHUNK = 20_000  # gallery rows compared at a time


def retrieve(queries, gallery, progress=True):
    """Position in the gallery of the nearest embedding by cosine, for each query: (n, d) x (N, d) -> (n,) long.

    Arrays or tensors; the gallery may be float16 and mapped from disk: it is read in chunks.
    """
    queries = torch.nn.functional.normalize(torch.as_tensor(queries).float(), dim=-1)
    best = torch.full((len(queries),), -torch.inf)
    position = torch.zeros(len(queries), dtype=torch.long)
    starts = range(0, len(gallery), _CHUNK)
    for start in tqdm(starts, f"retrieving from {len(gallery):,}", disable=not progress, leave=False):
        chunk = torch.as_tensor(np.array(gallery[start : start + _CHUNK], dtype=np.float32))
        chunk = torch.nn.functional.normalize(chunk, dim=-1)
        value, index = (queries @ chunk.T).max(dim=-1)
        position = torch.where(value > best, index + start, position)
        best = torch.maximum(best, value)
    return position
