"""Embeddings folders: image embeddings with places, read by memory map, and how they are split.

An embeddings folder holds `embeddings.npy` (n, d), float16 or float32; `locations.csv` with the columns id, lat, lon in
the same order; and, if it is known what made them, `meta.json` with {"encoder": NAME}.
"""

import csv
import json
import math
import mmap
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.files import canonical_encoder, read_json

ROWS = 2000  # read at a time
# of an encoder, besides its name: what changes embeddings
ABOUT = ("activation", "preprocessing", "image_size", "weights")


@dataclass
class Embeddings:
    """n pictures: `rows` (n,) of the array `embeddings` (N, d), their places lat_lon (n, 2) in degrees, their ids."""

    embeddings: np.ndarray
    rows: np.ndarray
    lat_lon: np.ndarray
    ids: list
    encoder: str
    authors: list | None = None
    about: dict = field(default_factory=dict)  # what else meta.json says of the encoder
    texts: list | None = None  # the words that were embedded, if no pictures were

    def __len__(self):
        return len(self.rows)

    @property
    def kind(self):
        """What was embedded: "pictures" or "texts"."""
        return "texts" if self.texts else "pictures"

    @property
    def photographers(self):
        """The photographer of each picture, a list (n,), or None unless all are known."""
        return self.authors if self.authors and all(self.authors) else None

    def subset(self, chosen):
        """Return the pictures at the positions `chosen`; nothing is read from the embeddings."""
        ids = [self.ids[i] for i in chosen]
        authors, texts = (part and [part[i] for i in chosen] for part in (self.authors, self.texts))
        rows, lat_lon = self.rows[chosen], self.lat_lon[chosen]
        return replace(self, rows=rows, lat_lon=lat_lon, ids=ids, authors=authors, texts=texts)

    def batch(self, chosen):
        """Return embeddings (m, d) float32 and places (m, 2) float64 at the positions `chosen`, as tensors."""
        embeddings = _read_rows(self.embeddings, self.rows[chosen])
        if not np.isfinite(embeddings).all():
            bad = self.rows[chosen][~np.isfinite(embeddings).all(axis=1)][0]
            path = getattr(self.embeddings, "filename", None) or "embeddings.npy"  # that of a memory map
            raise InputError(f"{path}, row {bad}: the embedding holds NaN or infinity; embed the picture again")
        return torch.from_numpy(embeddings), torch.from_numpy(self.lat_lon[chosen])

    def tensors(self, device):
        """Return what `batch` gives for all pictures, on a device; the embeddings (n, d) keep their stored type."""
        dtype = torch.float16 if self.embeddings.dtype == np.float16 else torch.float32
        embeddings = torch.empty(len(self), self.embeddings.shape[1], dtype=dtype, device=device)
        for chunk in np.array_split(np.arange(len(self)), math.ceil(len(self) / ROWS)):
            embeddings[chunk[0] : chunk[-1] + 1] = self.batch(chunk)[0].to(device)
        return embeddings, torch.from_numpy(self.lat_lon).to(device)


def _read_rows(array, rows):
    """array[rows] in float32. Of a memory map all rows are asked for at once, and the pages are given back after it."""
    mapped = array.base if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED") else None
    if mapped is not None and len(rows):
        first, width = array.offset % mmap.ALLOCATIONGRANULARITY, array.strides[0]
        for start in (first + np.asarray(rows, dtype=np.int64) * width).tolist():
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + width - page)
    values = np.asarray(array[rows], dtype=np.float32)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)
    return values


def read_embeddings(folder, with_places=True):
    """Return the embeddings folder `folder` (see above), with embeddings memory-mapped, as Embeddings.

    Pictures without a place, as `embed` writes them, are left out, which is said; damaged ones raise InputError.
    Without `with_places` all are there, and unknown places are NaN.
    """
    folder = Path(folder)
    embeddings = _open_array(folder / "embeddings.npy")
    places = read_places(folder / "locations.csv", missing_is_nan=not with_places, blank_is_nan=True)
    n, (encoder, about) = len(places.ids), _read_meta(folder / "meta.json")
    if n != len(embeddings):
        raise InputError(f"{folder}: {len(embeddings)} embeddings but {n} lines in locations.csv")
    more = (places.authors, about, places.texts)
    data = Embeddings(embeddings, np.arange(n), places.lat_lon, places.ids, encoder, *more)
    known = np.flatnonzero(np.isfinite(places.lat_lon).all(axis=1))
    if not with_places or len(known) == n:
        return data
    if not len(known):
        raise InputError(f"{folder}: no picture has a place; embed the pictures with --places FILE")
    print(f"{folder}: {n - len(known):,} of {n:,} pictures have no place and are left out", file=sys.stderr)
    return data.subset(known)


def _open_array(path):
    """The array (n, d) in a npy file, by memory map. Raises InputError with the remedy for anything else."""
    save = "save it by numpy.save(path, array)"
    try:
        with open(path, "rb") as file:
            start = file.read(8)
        if start[:2] == b"PK":  # a zip archive, as numpy.savez and torch.save write
            raise InputError(f"{path} is an npz or a torch file, no npy file: load the array from it, and {save}")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        remedy = "turn the objects into numbers" if "Object arrays" in str(error) else "look at what wrote it"
        raise InputError(f"cannot read {path}: {error}; {remedy}, and {save}") from None
    if array.ndim == 3 and array.shape[1] == 1:
        raise InputError(f"{path}: need (n, d), got {array.shape}: remove the middle axis by array[:, 0], and {save}")
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind != "f":
        raise InputError(f"{path}: need floating-point numbers (n, d), got {array.shape} of {array.dtype}; {save}")
    if not len(array):
        raise InputError(f"{path} holds no embeddings: its shape is {array.shape}; embed pictures first")
    return array


def _read_meta(path):
    """The encoder's name, and what else meta.json says of it."""
    try:
        meta = read_json(path) if path.exists() else {"encoder": "unknown"}
        return canonical_encoder(meta["encoder"]), {key: meta[key] for key in (*ABOUT, "precision") if key in meta}
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path}: need {{"encoder": NAME}} ({error!r})') from None


def check_same_encoder(one: Embeddings, other: Embeddings, what: str) -> None:
    """Raise InputError if two sets of embeddings differ in width or encoder; `what` names the two."""
    width, own = one.embeddings.shape[1], other.embeddings.shape[1]
    if width != own:
        raise InputError(f"{what}: the embeddings have {width} and {own} numbers each: embed all by one encoder")
    for key in ("encoder", *ABOUT):
        a, b = (part.encoder if key == "encoder" else part.about.get(key) for part in (one, other))
        if a != b and a is not None and b is not None:
            raise InputError(f"{what}: the embeddings differ in {key}, '{a}' and '{b}': embed all by one encoder")


def train_and_test(folder, holdout, seed=0, split="random"):
    """Return the training and the held-out Embeddings of a folder: its folders train/ and test/, or else a split of it.

    `holdout` rows are held out (0: a tenth of them, at most 2,000).

    They are held out at random, or, with split "author", as all the pictures of randomly chosen photographers until
    there are as many.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is no folder; --data takes one with embeddings.npy and locations.csv")
    if all(os.path.isdir(folder / name) for name in ("train", "test")):
        train, test = read_embeddings(folder / "train"), read_embeddings(folder / "test")
        check_same_encoder(train, test, f"{folder / 'train'} and {folder / 'test'}")
    else:
        train, test = _hold_out(folder, holdout, seed, split)
    for start in range(0, len(test), ROWS):  # which training does not read, but what comes after it
        test.batch(range(start, min(start + ROWS, len(test))))
    return train, test


def _hold_out(folder, holdout, seed, split):
    """The two parts of a folder that has only one."""
    everything = read_embeddings(folder)
    holdout = holdout or min(2000, max(1, len(everything) // 10))
    if not 0 < holdout < len(everything):
        raise InputError(f"cannot hold out {holdout} of the {len(everything)} pictures in {folder}: set --holdout")
    authors = np.array(everything.authors) if split == "author" else None
    if authors is not None and (authors == "").any():
        raise InputError(f"{folder}/locations.csv names no author for {(authors == '').sum()} of the pictures")
    order, holdout = held_out_order(len(everything), holdout, seed, authors)
    if holdout == len(everything):
        raise InputError(f"{folder}: holding out whole authors leaves nothing to train on: lower --holdout")
    return everything.subset(np.sort(order[holdout:])), everything.subset(np.sort(order[:holdout]))


def held_out_order(n, count, seed, authors=None):
    """Return a random order (n,) of n pictures, of which the first are held out, and how many: `count`, or, with the
    array `authors` (n,), all pictures of as many authors as it takes to have `count`."""
    rng = np.random.default_rng(seed)
    if authors is None:
        return rng.permutation(n), count
    names, number = np.unique(authors, return_inverse=True)
    number = rng.permutation(len(names))[number]
    order = np.argsort(number, kind="stable")
    return order, int(np.searchsorted(number[order], number[order[count - 1]], side="right"))


def write_embeddings(folder, embeddings, lat_lon, encoder, authors=None):
    """Write an embeddings folder: (n, d) and (n, 2) tensors, float16 on disk, ids 0, 1, 2, ... and `authors` (n,)."""
    folder.mkdir(parents=True)
    np.save(folder / "embeddings.npy", embeddings.numpy().astype(np.float16))
    write_locations(folder / "locations.csv", lat_lon, authors)
    (folder / "meta.json").write_text(json.dumps({"encoder": encoder}) + "\n")


def write_locations(path, lat_lon, authors=None):
    """Write places (n, 2) to a csv file with the columns id (0, 1, 2, ...), lat, lon and, of `authors` (n,), author."""
    columns = {"author": authors} if authors is not None else {}
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "lat", "lon", *columns])
        rows = zip(lat_lon.tolist(), *columns.values(), strict=True)
        writer.writerows([i, f"{lat:.6f}", f"{lon:.6f}", *more] for i, ((lat, lon), *more) in enumerate(rows))
