"""Retrieval from a gallery of places: what LocDiffusion does without, and what it is combined with.

A gallery is an `Embeddings`: pictures with known places, or bare places embedded by GeoCLIP's location encoder.
"""

import contextlib
import hashlib
import importlib.util
import math
import os
import re
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import nn
from torch.nn.functional import normalize
from tqdm import tqdm

from locdiff.cli import InputError
from locdiff.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.datasets import Embeddings, cache_folder
from locdiff.decoder import healpix_anchors
from locdiff.layouts import read_places

GEOCLIP = "GeoCLIP"  # the encoder of the galleries that its location encoder makes
SIMULATION = "simulated queries from GeoCLIP's location encoder"  # the encoder of `simulation`'s pictures
WEIGHTS = (0.0, *(2.0**i for i in range(13)), math.inf)  # of the cosine, from the density alone to retrieval alone
VOTERS, VOTE_KM, FLOOR = 100, 50.0, 1e-3  # of `weigh_hills`
_CHUNK = 2**25  # cosines at a time
_EMBEDDED = 4096  # places embedded at a time


class GeoClip(nn.Module):
    """The trained parts of GeoCLIP (Vivanco Cepeda et al. 2023) that the package `geoclip` carries; not CLIP itself.

    On embeddings by OpenAI's CLIP ViT-L/14, `images` and `places` are what the cosines of GeoCLIP are taken of, and
    `scale` times them are its logits.
    """

    def __init__(self):
        super().__init__()
        _package()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that geoclip imports
            from geoclip.model.location_encoder import LocationEncoder
        self.location_encoder = LocationEncoder()
        self.head = nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 512))
        self.head.load_state_dict(_weights("image_encoder_mlp_weights.pth"))
        self.scale = _weights("logit_scale_weights.pth").exp().item()
        self.eval().requires_grad_(False)

    def images(self, embeddings):
        """Embeddings of pictures by CLIP ViT-L/14, not normalised: (n, 768) -> unit vectors (n, 512)."""
        return normalize(self.head(embeddings), dim=-1)

    def places(self, lat_lon):
        """Places (n, 2) in degrees -> unit vectors (n, 512)."""
        return normalize(self.location_encoder(lat_lon.float()), dim=-1)

    def queries(self, embeddings, encoder):
        """What galleries of places are searched with, (n, 512), for embeddings (n, d) by the encoder of that name."""
        if encoder == SIMULATION:
            return normalize(embeddings, dim=-1)
        if geoclip_takes(encoder):
            return self.images(embeddings)
        raise InputError(
            f"GeoCLIP's galleries are searched with embeddings by ViT-L-14/openai, these are by '{encoder}': embed the "
            "pictures with python -m locdiff.embed, or search among the training pictures"
        )


def geoclip_takes(encoder):
    """Whether the encoder of that name is GeoCLIP's: CLIP ViT-L/14 with OpenAI's weights, or with a user's own file."""
    model, _, weights = encoder.partition("/")
    known = re.fullmatch(r"openai|.*-[0-9a-f]{12}", weights)
    return model in ("ViT-L-14", "ViT-L-14-quickgelu") and known is not None


def _package():
    """The folder of the package geoclip; finding it does not import it, which takes seconds."""
    found = importlib.util.find_spec("geoclip")
    if not found:
        raise InputError("this needs the package geoclip: pip install 'locdiffusion[geoclip]'")
    return Path(found.submodule_search_locations[0])


def _weights(name):
    return torch.load(_package() / "model" / "weights" / name, map_location="cpu", weights_only=True)


def gallery_places(name):
    """The places (n, 2) of a gallery by its name.

    mp16: GeoCLIP's gallery, 100,000 places of pictures of MP-16. grid:N: the HEALPix grid nearest to N places, evenly
    spread. latlon:N: a grid of latitudes and longitudes of about N places, dense at the poles. Else a file of places.
    """
    kind, _, size = str(name).partition(":")
    if name == "mp16":
        path = _package() / "model" / "gps_gallery" / "coordinates_100K.csv"
        places = np.loadtxt(path, delimiter=",", skiprows=1)
    elif kind in ("grid", "latlon"):
        if not re.fullmatch("[0-9]+", size) or int(size) < 2:
            raise InputError(f"a gallery '{kind}:N' needs a number of places N, at least 2, got '{name}'")
        if kind == "grid":
            return healpix_anchors(max(1, round(math.sqrt(int(size) / 12))))
        rows = max(1, round(math.sqrt(int(size) / 2)))
        lat, lon = 90 - (np.arange(rows) + 0.5) * 180 / rows, -180 + (np.arange(2 * rows) + 0.5) * 180 / rows
        places = np.stack(np.meshgrid(lat, lon, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        places = read_places(name).lat_lon
        if not len(places):
            raise InputError(f"{name} holds no places")
    return torch.from_numpy(places)


def embed_places(lat_lon, geoclip, progress=True):
    """The gallery of the places (n, 2), embedded by GeoCLIP; kept in the cache folder, where it is read from next time.

    InputError if the cache folder cannot be written.
    """
    lat_lon, device = lat_lon.double().cpu(), next(geoclip.parameters()).device
    key = hashlib.sha256(metadata.version("geoclip").encode() + lat_lon.numpy().tobytes()).hexdigest()[:12]
    path = cache_folder() / f"gallery-{key}.npy"
    if not path.exists():
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            chunks = lat_lon.split(_EMBEDDED)
            with open(unfinished, "wb") as file:  # written, not mapped: a full disk is an error, not a bus error
                write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (len(lat_lon), 512)})
                for chunk in tqdm(chunks, f"embedding {len(lat_lon):,} places", disable=not progress, leave=False):
                    file.write(geoclip.places(chunk.to(device)).cpu().numpy().astype("<f4").tobytes())
            os.replace(unfinished, path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}; set LOCDIFF_CACHE to a folder with room") from None
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink()
    rows = np.arange(len(lat_lon))
    return Embeddings(np.load(path, mmap_mode="r"), rows, lat_lon.numpy(), rows, GEOCLIP)


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
    """The place of the picture of the gallery (Embeddings) nearest by cosine to each query, (n, d) -> (n, 2)."""
    return torch.from_numpy(gallery.lat_lon)[nearest(queries, gallery, 1, progress)[1][:, 0]]


def nearest(queries, gallery, k, progress=True):
    """The k pictures of the gallery (Embeddings) nearest by cosine to each query (n, d), the nearest first.

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
    """Retrieval restricted to the neighbourhood of candidates: the paper's LocDiffusion + GeoCLIP (section 5.2).

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
    """Retrieval whose score is multiplied by a density: for each weight w the place of the gallery of the largest

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


def weigh_hills(queries, gallery, hills, probability, weights=WEIGHTS[:-1], progress=True):
    """Hills of a density weighed by retrieval: for each weight w, of the tops x_h the one of the largest

        P_h (FLOOR + sum over j of softmax_j(w cosine_j) exp(-d(x_h, y_j)^2 / (2 VOTE_KM^2))),

    y_j being the places of the VOTERS nearest pictures of the gallery. Unlike those, tops lie between the pictures.
    queries (n, d), `hills` x (n, k, 2) and their `probability` P (n, k) as of `Answer.modes` -> (len(weights), n, 2).
    """
    cosine, position = nearest(queries, gallery, VOTERS, progress)
    voters = to_unit_vector(torch.from_numpy(gallery.lat_lon)[position])
    chord = torch.cdist(to_unit_vector(hills.double()), voters, compute_mode="donot_use_mm_for_euclid_dist")
    near = torch.exp(-((chord * EARTH_RADIUS_KM / VOTE_KM) ** 2) / 2)
    places = []
    for weight in weights:
        votes = (near * (weight * cosine.double()).softmax(dim=-1)[:, None]).sum(dim=-1)
        best = (probability * (FLOOR + votes)).argmax(dim=-1)
        places.append(hills[torch.arange(len(hills)), best].double())
    return torch.stack(places)
