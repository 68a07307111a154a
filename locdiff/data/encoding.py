"""Pictures to embeddings: in batches, read by several processes, and into a folder that a killed run continues."""

import contextlib
import csv
import hashlib
import os
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from locdiff.data.pictures import Picture, read_picture, read_source
from locdiff.errors import InputError
from locdiff.files import write_json

TODO, DONE, FAILED = 0, 1, 2  # states of a picture in progress.npy
COPY = 65_536  # rows copied at a time


def encode_pictures(pictures, encoder, batch=64, workers=None, indices=None):
    """Yield, batch by batch, what was read of the pictures (a list of `pictures.Picture`; of some `indices` in it):

    the indices (m) of the pictures that could be read, their embeddings (m, d), and [(index, reason), ...] of
    those that could not. `workers` processes read; None means one a processor, at most 8, and none for a few pictures.
    """
    chosen = _Pictures(pictures, encoder.prepare, indices)
    if workers is None:
        workers = min(8, os.cpu_count() or 1, len(chosen) // 32)
    loader = DataLoader(
        chosen, batch, num_workers=workers, collate_fn=_collate, prefetch_factor=4 if workers else None
    )  # fmt: skip
    for index, images, reasons in loader:
        good = np.array([not reason for reason in reasons])
        failures = [(i, reason) for i, reason in zip(index, reasons, strict=True) if reason]
        yield index[good], encoder.encode(images) if len(images) else torch.empty(0, encoder.dim), failures


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
    """Prepared pictures, or the reason why there is none; `indices` picks some."""

    def __init__(self, pictures, prepare, indices=None):
        self.pictures, self.prepare = pictures, prepare
        self.indices = range(len(pictures)) if indices is None else indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        index = int(self.indices[i])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about odd but readable files
                return index, self.prepare(read_picture(self.pictures[index])), ""
        except ValueError as error:
            return index, None, str(error)


def _collate(samples):
    index, images, reasons = zip(*samples, strict=True)
    images = [image for image in images if image is not None]
    return np.array(index), torch.stack(images) if images else torch.empty(0), reasons


def embed(source, out, encoder, places=None, batch=64, workers=None, rank=0, world=1, barrier=lambda: None):
    """Embed all pictures of `source` into the embeddings folder `out`; return what its meta.json holds.

    With `world` processes each embeds every world-th picture, and rank 0 finishes when all have.
    """
    out = Path(out)
    pictures, found = read_source(source, places)
    state = _Progress(out, _key(found.ids, encoder.name), len(pictures), rank == 0)
    barrier()
    state.open()
    todo = np.flatnonzero(np.array(state.progress) == TODO)
    todo = todo[todo % world == rank]
    with tqdm(total=len(todo), desc="embedding", unit="picture", disable=rank > 0) as bar:
        for index, embeddings, failures in encode_pictures(pictures, encoder, batch, workers, todo):
            state.write(index, embeddings)
            state.fail(failures)
            bar.update(len(index) + len(failures))
    barrier()
    return state.finish(found, encoder) if rank == 0 else None


def _key(ids, encoder):
    digest = hashlib.sha256(encoder.encode())
    for name in ids:
        digest.update(b"\0" + name.encode())
    return digest.hexdigest()


class _Progress:
    """The unfinished embeddings in OUT/unfinished: rows are on disk before they are marked as done."""

    def __init__(self, out, key, n, make):
        self.out, self.folder, self.n = out, out / "unfinished", n
        if (out / "embeddings.npy").exists():
            raise InputError(f"{out} is finished: remove it, or give another folder")
        settings = self.folder / "key.txt"
        if make:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not settings.exists():
                    np.save(self.folder / "progress.npy", np.zeros(n, np.uint8))
                    (self.folder / "failures.csv").write_text("")
                    settings.write_text(key)
            except OSError as error:
                raise InputError(f"cannot write into {out}: {error}") from None
            if settings.read_text() != key:
                raise InputError(
                    f"{self.folder} was begun with other pictures or another encoder: remove it to start anew"
                )

    def open(self):
        self.progress = np.load(self.folder / "progress.npy", mmap_mode="r+")

    def write(self, index, embeddings):
        if not len(index):
            return
        path = self.folder / "embeddings.npy"
        try:
            if not path.exists():  # several processes may make it, all alike
                temporary = path.with_name(f"{os.getpid()}.npy")
                np.lib.format.open_memmap(temporary, "w+", np.float16, (self.n, embeddings.shape[1])).flush()
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path)
                temporary.unlink()
            rows = embeddings.numpy().astype(np.float16)
            start = path.stat().st_size - self.n * rows[0].nbytes  # the length of the header
            with open(path, "r+b") as file:  # written, not mapped: a full disk is an error, not a bus error
                for row, values in zip(index, rows, strict=True):
                    file.seek(start + int(row) * values.nbytes)
                    file.write(values.tobytes())
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error}; make room there and start the same command again"
            ) from None
        self.progress[index] = DONE

    def fail(self, failures):
        if failures:
            with open(self.folder / "failures.csv", "a", newline="") as file:
                csv.writer(file).writerows(failures)
            self.progress[[i for i, _ in failures]] = FAILED

    def finish(self, found, encoder):
        """Write the finished folder: the rows that succeeded, embeddings.npy last."""
        done = np.flatnonzero(np.array(self.progress) == DONE)
        with open(self.folder / "failures.csv", newline="") as file:
            reasons = {int(i): reason for i, reason in csv.reader(file)}
        if not len(done):
            first = next(iter(reasons.items()), None)
            raise InputError(
                f"none of the {self.n} pictures could be read; the first: {found.ids[first[0]]}: {first[1]}"
            )
        try:
            return self._move(done, reasons, found, encoder)
        except OSError as error:
            raise InputError(
                f"cannot write {self.out}: {error}; make room there and start the same command again"
            ) from None

    def _move(self, done, reasons, found, encoder):
        """Write the files of the finished folder and remove the unfinished one; what meta.json holds."""
        rows = np.load(self.folder / "embeddings.npy", mmap_mode="r")
        finished = np.lib.format.open_memmap(self.folder / "finished.npy", "w+", np.float16, (len(done), rows.shape[1]))
        for start in range(0, len(done), COPY):
            finished[start : start + COPY] = rows[done[start : start + COPY]]
        finished.flush()
        _write_csv(
            self.out / "locations.csv",
            ["id", "lat", "lon", "author"],
            (
                [found.ids[i], *("" if np.isnan(x) else f"{x:.6f}" for x in found.lat_lon[i]), found.authors[i]]
                for i in done
            ),
        )
        if reasons:
            _write_csv(
                self.out / "failures.csv", ["id", "reason"], ([found.ids[i], reasons[i]] for i in sorted(reasons))
            )
        packages = ("open_clip_torch", "torch", "numpy")
        meta = {
            "encoder": encoder.name, "preprocessing": str(encoder.prepare), "pictures": len(done),
            "failed": len(reasons), "width": rows.shape[1],
            "versions": {name: metadata.version(name) for name in packages},
        }  # fmt: skip
        write_json(self.out / "meta.json", meta)
        os.replace(self.folder / "finished.npy", self.out / "embeddings.npy")
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()
        return meta


def _write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
