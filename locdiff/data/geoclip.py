"""GeoCLIP: its trained encoders, and galleries of places embedded by them."""

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

from locdiff.data.embeddings import Embeddings
from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.files import cache_folder, canonical_encoder
from locdiff.sphere.healpix import healpix_anchors

GEOCLIP = "GeoCLIP"  # the encoder of the galleries that its location encoder makes
SIMULATION = "simulated queries from GeoCLIP's location encoder"  # the encoder of `simulation`'s pictures
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
        """Return unit vectors (n, 512) for embeddings (n, 768) of pictures by CLIP ViT-L/14, not normalised."""
        return normalize(self.head(embeddings), dim=-1)

    def places(self, lat_lon):
        """Return unit vectors (n, 512) for places (n, 2) in degrees."""
        return normalize(self.location_encoder(lat_lon.float()), dim=-1)

    def queries(self, embeddings, encoder):
        """Return what galleries of places are searched with, (n, 512), for embeddings (n, d) by the named encoder."""
        if encoder == SIMULATION:
            return normalize(embeddings, dim=-1)
        if geoclip_takes(encoder):
            return self.images(embeddings)
        raise InputError(
            f"GeoCLIP's galleries are searched with embeddings by open_clip:ViT-L-14/openai, these are by '{encoder}': "
            "embed the pictures with python -m locdiff.embed, or search among the training pictures"
        )


def geoclip_takes(encoder):
    """Return whether the named encoder is GeoCLIP's: CLIP ViT-L/14 with OpenAI's weights, or with a user's file."""
    kind, _, details = canonical_encoder(encoder).partition(":")
    model, _, weights = details.partition("/")
    known = re.fullmatch(r"openai|.*-[0-9a-f]{12}", weights)
    return kind == "open_clip" and model in ("ViT-L-14", "ViT-L-14-quickgelu") and known is not None


def _package():
    """The folder of the package geoclip; finding it does not import it, which takes seconds."""
    found = importlib.util.find_spec("geoclip")
    if not found:
        raise InputError("this needs the package geoclip: pip install 'locdiffusion[geoclip]'")
    return Path(found.submodule_search_locations[0])


def _weights(name):
    return torch.load(_package() / "model" / "weights" / name, map_location="cpu", weights_only=True)


def gallery_places(name):
    """Return the places (n, 2) of a gallery by its name.

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
    """Return the gallery of the places (n, 2), embedded by GeoCLIP; the cache folder keeps it for the next time.

    InputError if the cache folder cannot be written.
    """
    lat_lon, device = lat_lon.double().cpu(), next(geoclip.parameters()).device
    key = hashlib.sha256(metadata.version("geoclip").encode() + lat_lon.numpy().tobytes()).hexdigest()[:12]
    path = cache_folder() / f"gallery-{key}.npy"
    if _cached(path, len(lat_lon)) is None:
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
    return Embeddings(_cached(path, len(lat_lon)), rows, lat_lon.numpy(), rows, GEOCLIP)


def _cached(path, count):
    """The gallery of so many places that was kept in a file, None if it is missing or damaged."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == (count, 512) and array.dtype == np.float32 else None
