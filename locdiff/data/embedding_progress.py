"""The unfinished embeddings of a folder, which a killed run continues, and how they become a finished one."""

import contextlib
import csv
import errno
import hashlib
import io
import os
import shutil
from importlib import metadata

import numpy as np
from numpy.lib.format import write_array_header_1_0

from locdiff.data.decoding import MAX_PIXELS
from locdiff.errors import InputError
from locdiff.files import atomic_path, write_json

TODO, DONE, FAILED = 0, 1, 2  # states of a picture in progress.npy
FILES = ("progress.npy", "embeddings.npy", "failures.csv", "places.csv")  # of an unfinished folder, besides key.txt
COPY = 1024  # rows copied at a time


def progress_key(ids, encoder, max_pixels=MAX_PIXELS):
    digest = hashlib.sha256(encoder.encode())
    if max_pixels != MAX_PIXELS:
        digest.update(str(max_pixels).encode())
    for name in ids:
        digest.update(b"\0" + name.encode())
    return digest.hexdigest()


class Progress:
    """The unfinished embeddings in OUT/unfinished: rows are on disk before they are marked as done."""

    def __init__(self, out, key, n, make, located=False):
        """`make` the folder, or mend it; `located` if a place is noted of every one of the `n` pictures."""
        self.out, self.folder, self.n = out, out / "unfinished", n
        try:
            if (out / "embeddings.npy").exists():
                raise InputError(f"{out} is finished: remove it, or give another folder")
            if make:
                self._begin(key, located)
        except OSError as error:
            raise InputError(f"cannot write into {out}: {error}") from None

    def _begin(self, key, located):
        """Make the folder, or go on with what there is; what is missing or damaged there is to be done again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "key.txt"
        if not settings.exists():
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
        elif settings.read_bytes() != key.encode():
            raise InputError(
                f"{self.folder} was begun with other pictures or texts, or another encoder: remove it to start anew"
            )
        found = self._array("progress.npy", np.uint8, 1)
        states = np.zeros(self.n, np.uint8) if found is None else np.array(found)
        if self._array("embeddings.npy", np.float16, 2) is None:
            (self.folder / "embeddings.npy").unlink(missing_ok=True)
            states[states == DONE] = TODO
        for state, name, columns in ((FAILED, "failures.csv", 2), *[(DONE, "places.csv", 4)] * located):
            noted = np.fromiter((int(row[0]) for row in self._lines(name, columns)), int)
            states[(states == state) & ~np.isin(np.arange(self.n), noted)] = TODO
        data = io.BytesIO()
        np.save(data, states)
        for path, content in ((self.folder / "progress.npy", data.getvalue()), (settings, key.encode())):
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)

    def _array(self, name, dtype, axes):
        """The array of `n` rows in a file, None if that is missing or damaged."""
        try:
            array = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.dtype == dtype and array.ndim == axes and len(array) == self.n else None

    def _lines(self, name, columns):
        """Yield the whole lines of a file, which begin with the index of a picture; none if there is no file."""
        with contextlib.suppress(FileNotFoundError, csv.Error):
            with open(self.folder / name, newline="", encoding="utf-8", errors="replace") as file:
                for row in csv.reader(file):
                    if len(row) == columns and row[0].isdecimal() and int(row[0]) < self.n:
                        yield row

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

    def locate(self, index, places):
        """Note (lat, lon, reason) of the pictures at `index`, before they are marked as done."""
        self._append("places.csv", [(i, *place) for i, place in zip(index, places, strict=True)])

    def fail(self, failures):
        if failures:
            self._append("failures.csv", failures)
            self.progress[[i for i, _ in failures]] = FAILED

    def _append(self, name, rows):
        """Append lines by one system call, so that those of several processes do not mix; a torn one stands alone."""
        text = io.StringIO("\n", newline="")
        text.seek(0, io.SEEK_END)
        csv.writer(text).writerows(rows)
        data = text.getvalue().encode()
        try:
            with open(self.folder / name, "ab", buffering=0) as file:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise InputError(
                f"cannot write {self.folder / name}: {error}; make room there and start the same command again"
            ) from None

    def finish(self, found, encoder, tally):
        """Write the finished folder: the rows that succeeded, embeddings.npy last."""
        done = np.flatnonzero(np.array(self.progress) == DONE)
        self._take_places(found)
        lines = self._lines("failures.csv", 2)
        reasons = {int(i): reason for i, reason in lines if self.progress[int(i)] == FAILED}
        if not len(done):
            first = next(iter(reasons.items()), None)
            raise InputError(
                f"none of the {self.n} {tally.noun} could be read; the first: {found.ids[first[0]]}: {first[1]}"
            )
        tally.used = len(done)
        for i in sorted(reasons):
            tally.failed.add(f"{found.ids[i]} ({reasons[i]})")
        for i in done[np.isnan(found.lat_lon[done]).any(axis=1)]:
            why = found.reasons.get(int(i))
            tally.without_place.add(f"{found.ids[i]} ({why})" if why else found.ids[i])
        try:
            return self._move(done, reasons, found, encoder, tally.noun)
        except OSError as error:
            raise InputError(
                f"cannot write {self.out}: {error}; make room there and start the same command again"
            ) from None

    def _take_places(self, found):
        """Fill in the places that the pictures themselves gave, where there is no other."""
        unknown = np.isnan(found.lat_lon).any(axis=1)
        for i, lat, lon, reason in self._lines("places.csv", 4):
            if unknown[int(i)]:
                found.lat_lon[int(i)] = float(lat), float(lon)
                if reason:
                    found.reasons.setdefault(int(i), reason)

    def _move(self, done, reasons, found, encoder, noun):
        """Write the files of the finished folder and remove the unfinished one; what meta.json holds."""
        rows = np.load(self.folder / "embeddings.npy", mmap_mode="r")
        _write_rows(self.folder / "finished.npy", rows, done)
        _write_csv(
            self.out / "locations.csv",
            ["id", "lat", "lon", "author", *(["text"] if found.texts else [])],
            (
                [
                    found.ids[i],
                    *("" if np.isnan(x) else f"{x:.6f}" for x in found.lat_lon[i]),
                    found.authors[i],
                    *([found.texts[i]] if found.texts else []),
                ]
                for i in done
            ),
        )
        if reasons:
            _write_csv(
                self.out / "failures.csv", ["id", "reason"], ([found.ids[i], reasons[i]] for i in sorted(reasons))
            )
        unplaced = [i for i in done if np.isnan(found.lat_lon[i]).any()]
        if unplaced and found.reasons:
            _write_csv(
                self.out / "without_place.csv", ["id", "reason"],
                ([found.ids[i], found.reasons.get(int(i), "")] for i in unplaced),
            )  # fmt: skip
        packages = ("open_clip_torch", "torch", "numpy")
        meta = {
            "encoder": encoder.name, **encoder.about, noun: len(done),
            "failed": len(reasons), "without_place": len(unplaced), "width": rows.shape[1],
            "versions": {name: metadata.version(name) for name in packages},
        }  # fmt: skip
        write_json(self.out / "meta.json", meta)
        os.replace(self.folder / "finished.npy", self.out / "embeddings.npy")
        shutil.rmtree(self.folder, ignore_errors=True)
        return meta


def _write_rows(path, rows, chosen):
    """Write some rows to a npy file; written, not mapped, as in `Progress.write`."""
    with open(path, "wb") as file:
        write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": (len(chosen), rows.shape[1])})
        for start in range(0, len(chosen), COPY):
            file.write(rows[chosen[start : start + COPY]].astype("<f2", copy=False))
        file.flush()
        os.fsync(file.fileno())


def _write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
