"""Pictures and words to embeddings: in batches, and into a folder that a killed run continues."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from locdiff.data.decoding import MAX_PIXELS, read_picture_and_place
from locdiff.data.embedding_progress import FAILED, TODO, Progress, progress_key
from locdiff.data.pictures import Picture, read_source
from locdiff.data.places import read_texts
from locdiff.data.tally import Tally
from locdiff.errors import InputError

EMPTY = "the text is empty"
TEXTS = 1024  # embedded at a time


def encode_pictures(pictures, encoder, batch=64, workers=None, indices=None, max_pixels=MAX_PIXELS):
    """Yield, batch by batch, what was read of the pictures (a list of `pictures.Picture`; of some `indices` in it):

    the indices (m) of the pictures that could be read, their embeddings (m, d), and [(index, reason), ...] of
    those that could not. `workers` processes read; None means one a processor, at most 8, and none for a few pictures.
    Pictures of more than `max_pixels` pixels are read as `decoding.read_picture` says.
    """
    for index, embeddings, failures, _ in _encode(pictures, encoder, batch, workers, indices, max_pixels):
        yield index, embeddings, failures


def _encode(pictures, encoder, batch, workers, indices, max_pixels):
    """What `encode_pictures` yields, and [(lat, lon, reason), ...] (m), the places in the EXIF data."""
    chosen = _Pictures(pictures, encoder.prepare, indices, max_pixels)
    if workers is None:
        workers = min(8, os.cpu_count() or 1, len(chosen) // 32)
    loader = DataLoader(
        chosen, batch, num_workers=workers, collate_fn=_collate, prefetch_factor=4 if workers else None
    )  # fmt: skip
    for index, images, places, reasons in loader:
        good = np.array([not reason for reason in reasons])
        failures = [(i, reason) for i, reason in zip(index, reasons, strict=True) if reason]
        embeddings = encoder.encode(images) if len(images) else torch.empty(0, encoder.dim)
        yield index[good], embeddings, failures, places


def embed_pictures(paths, encoder):
    """Return the embeddings of picture files: n paths -> (n, embed_dim) float32.

    Raises InputError that names a file which is no picture.
    """
    rows = []
    for _, embeddings, failures in encode_pictures([Picture(str(path)) for path in paths], encoder):
        for i, reason in failures:
            raise InputError(f"cannot read the picture {paths[i]}: {reason}")
        rows.append(embeddings)
    return torch.cat(rows) if rows else torch.empty(0, 0)


class _Pictures(Dataset):
    """Prepared pictures with their EXIF places, or the reason why there is none; `indices` picks some."""

    def __init__(self, pictures, prepare, indices, max_pixels):
        self.pictures, self.prepare, self.max_pixels = pictures, prepare, max_pixels
        self.indices = range(len(pictures)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        index = int(self.indices[i])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about odd but readable files
                image, place = read_picture_and_place(self.pictures[index], self.max_pixels)
                return index, self.prepare(image), place, ""
        except ValueError as error:
            return index, None, None, str(error) or "unknown"
        except Exception as error:  # of the preprocessing, such as a picture one pixel wide
            return index, None, None, f"cannot be prepared ({type(error).__name__}: {error})"


def _collate(samples):
    index, images, places, reasons = zip(*samples, strict=True)
    images = [image for image in images if image is not None]
    places = [place for place in places if place is not None]
    return np.array(index), torch.stack(images) if images else torch.empty(0), places, reasons


def embed(
    source, out, encoder, places=None, batch=64, workers=None, rank=0, world=1, barrier=lambda: None,
    columns=None, max_pixels=MAX_PIXELS, tally=None,
):  # fmt: skip
    """Embed all pictures of `source` into the embeddings folder `out`; return what its meta.json holds.

    With `world` processes each embeds every world-th picture, and rank 0 finishes when all have. `places` and `columns`
    are `read_source`'s table and its columns. `tally` receives the count of what became of the files.
    """
    out, tally = Path(out), Tally() if tally is None else tally
    if out.resolve() == Path(source).resolve():
        raise InputError(f"{out} holds the pictures: give another folder for the embeddings")
    pictures, found = read_source(source, places, tally, columns)
    key = progress_key(found.ids, encoder.name, max_pixels)
    state = Progress(out, key, len(pictures), rank == 0, located=tally.table is None)
    barrier()
    state.open()
    todo = np.flatnonzero(np.array(state.progress) == TODO)
    todo = todo[todo % world == rank]
    with tqdm(total=len(todo), desc="embedding", unit="picture", disable=rank > 0) as bar:
        for index, embeddings, failures, exif in _encode(pictures, encoder, batch, workers, todo, max_pixels):
            if tally.table is None:
                state.locate(index, exif)
            state.write(index, embeddings)
            state.fail(failures)
            bar.update(len(index) + len(failures))
    barrier()
    return state.finish(found, encoder, tally) if rank == 0 else None


def embed_texts(source, out, encoder, rank=0, world=1, barrier=lambda: None, tally=None):
    """Embed the texts of the table `source` into the embeddings folder `out`; return what its meta.json holds.

    A text that is there several times is embedded once. For the processes and `tally` see `embed`. Texts without an id
    are numbered.
    """
    tally = Tally() if tally is None else tally
    found, tally.noun = read_texts(source), "texts"
    tally.found, tally.table = len(found.ids), str(source)
    if not any(found.ids):
        found.ids = [str(i) for i in range(1, tally.found + 1)]
    state = Progress(Path(out), progress_key([*found.ids, *found.texts], encoder.name), tally.found, rank == 0)
    barrier()
    state.open()
    states, rows = np.array(state.progress), {}
    for i, text in enumerate(found.texts):
        rows.setdefault(text, []).append(i)
    empty = [i for i in rows.pop("", []) if states[i] != FAILED]
    if rank == 0:
        state.fail([(i, EMPTY) for i in empty])
    todo = [text for text, at in list(rows.items())[rank::world] if (states[at] == TODO).any()]
    with tqdm(total=sum(len(rows[text]) for text in todo), desc="embedding", unit="text", disable=rank > 0) as bar:
        for start in range(0, len(todo), TEXTS):
            texts = todo[start : start + TEXTS]
            times, index = [len(rows[text]) for text in texts], np.concatenate([rows[text] for text in texts])
            state.write(index, encoder.encode_text(texts).repeat_interleave(torch.tensor(times), dim=0))
            bar.update(len(index))
    barrier()
    return state.finish(found, encoder, tally) if rank == 0 else None
