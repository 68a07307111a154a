"""Retrieval from a gallery of places: what LocDiffusion does without, and what it is combined with.

A gallery is an `Embeddings`: pictures with known places, or bare places embedded by GeoCLIP's location encoder.
"""

import math

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector

WEIGHTS = (0.0, *(2.0**i for i in range(13)), math.inf)  # of the cosine, from the density alone to retrieval alone
VOTERS, VOTE_KM, FLOOR = 100, 50.0, 1e-3  # of `weigh_modes`
_CHUNK = 2**25  # cosines at a time


def _cosines(queries, gallery, progress):
    """For one part of the gallery after another: its positions, the cosines with the queries, (n, m), its places."""
    queries, size = normalize(queries, dim=-1), max(1, _CHUNK // max(1, len(queries)))
    for start in tqdm(
        range(0, len(gallery), size), f"retrieving from {len(gallery):,}", disable=not progress, leave=False
    ):
        positions = torch.arange(start, min(start + size, len(gallery)))
        chunk, lat_lon = gallery.batch(positions.numpy())
        yield positions, queries @ normalize(chunk.to(queries.device), dim=-1).T, lat_lon


def retrieve(queries, gallery, progress=True):
    """Return the place of the picture of the gallery (Embeddings) nearest by cosine to each query, (n, d) -> (n, 2)."""
    return torch.from_numpy(gallery.lat_lon)[nearest(queries, gallery, 1, progress)[1][:, 0]]


def nearest(queries, gallery, k, progress=True):
    """Return the k pictures of the gallery (Embeddings) nearest by cosine to each query (n, d), the nearest first.

    Returns their cosines and their positions in the gallery, both (n, k), or (n, len(gallery)) if it holds fewer. Of
    equals in different chunks the first comes first. The gallery is read in chunks: it may be larger than memory. It is
    searched on the device of the queries; the results are on the CPU.
    """
    cosine, position = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
    for positions, values, _ in _cosines(queries, gallery, progress):
        value, index = (part.cpu() for part in values.topk(min(k, len(positions))))
        cosine, order = torch.cat([cosine, value], dim=-1).sort(dim=-1, descending=True, stable=True)
        position = torch.cat([position, index + positions[0]], dim=-1).gather(-1, order)
        cosine, position = cosine[:, :k], position[:, :k]
    return cosine, position


def retrieve_near(queries, gallery, candidates, radius_km=200.0, progress=True):
    """Retrieve in the neighbourhood of candidates only: the paper's LocDiffusion + GeoCLIP (section 5.2).

    Of the gallery's places within radius_km of any of the k candidates of a query, the one nearest by cosine; where
    there is none, the first candidate. queries (n, d), candidates (n, k, 2) -> places (n, 2). A candidate that is NaN
    has no neighbourhood.
    """
    known = candidates.isfinite().all(dim=-1, keepdim=True)
    xyz = to_unit_vector(candidates.double().nan_to_num()).masked_fill(~known, torch.nan)
    chord = 2 * math.sin(min(radius_km / EARTH_RADIUS_KM, math.pi) / 2)
    best, places = torch.full((len(queries),), -torch.inf), candidates[:, 0].double().clone()
    for _, values, lat_lon in _cosines(queries, gallery, progress):
        part = to_unit_vector(lat_lon).T
        near = torch.zeros(values.shape, dtype=torch.bool)
        for candidate in xyz.unbind(1):
            near |= 2 - 2 * candidate @ part <= chord**2 * (1 + 1e-12)
        value, index = values.cpu().masked_fill(~near, -torch.inf).max(dim=-1)
        better = value > best
        best, places = torch.where(better, value, best), torch.where(better[:, None], lat_lon[index], places)
    return places


def retrieve_by_density(queries, gallery, log_density, weights=WEIGHTS, progress=True):
    """Retrieve by a score times a density: return for each weight w the place of the gallery of the largest

        w cosine + log density,

    queries (n, d), log_density a function of places (m, 2) that gives (n, m) -> (len(weights), n, 2). Weight 0 takes
    the densest place of the gallery, an infinite one the nearest picture.
    """
    weights = torch.tensor(weights)
    with_cosine, with_density = weights.nan_to_num(posinf=1.0), weights.isfinite().float()
    best = torch.full((len(weights), len(queries)), -torch.inf)
    places = torch.full((len(weights), len(queries), 2), torch.nan, dtype=torch.float64)
    for _, values, lat_lon in _cosines(queries, gallery, progress):
        values, density = values.cpu(), log_density(lat_lon)
        for i in range(len(weights)):
            value, index = (with_cosine[i] * values + with_density[i] * density).max(dim=-1)
            better = value > best[i]
            best[i] = torch.where(better, value, best[i])
            places[i] = torch.where(better[:, None], lat_lon[index], places[i])
    return places


def weigh_modes(queries, gallery, modes, probability, weights=WEIGHTS[:-1], progress=True):
    """Return one mode of each density, chosen by retrieval: for each weight w, of the modes x_h that of the largest

        P_h (FLOOR + sum over j of softmax_j(w cosine_j) exp(-d(x_h, y_j)^2 / (2 VOTE_KM^2))),

    y_j being the places of the VOTERS nearest pictures of the gallery. Unlike those, modes lie between the pictures.
    queries (n, d), `modes` x (n, k, 2) and their `probability` P (n, k), of `LocationPosterior.modes`
    -> (len(weights), n, 2).
    """
    cosine, position = nearest(queries, gallery, VOTERS, progress)
    voters = to_unit_vector(torch.from_numpy(gallery.lat_lon)[position])
    chord = torch.cdist(to_unit_vector(modes.double()), voters, compute_mode="donot_use_mm_for_euclid_dist")
    near = torch.exp(-((chord * EARTH_RADIUS_KM / VOTE_KM) ** 2) / 2)
    places = []
    for weight in weights:
        votes = (near * (weight * cosine.double()).softmax(dim=-1)[:, None]).sum(dim=-1)
        best = (probability * (FLOOR + votes)).argmax(dim=-1)
        places.append(modes[torch.arange(len(modes)), best].double())
    return torch.stack(places)
