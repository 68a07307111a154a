"""Training on 4.7 million embeddings (7.2 GB, as many as MP-16): memory, and what reading costs a step.

  python benchmarks/reading.py                 two minutes on 2 cores, 7.5 GB of disk in --folder
  python benchmarks/reading.py --pictures 100000

The embeddings are made up: random numbers at random places. The steps are the quickstart's. Reading is timed alone;
in training a thread reads the next batch during a step. "Cold" is right after the file was dropped from the operating
system's cache. Memory is the most that the process held, with and without the pages of files that the system may take
back.
"""

import csv
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from common import options, report

from locdiff.sphere.coordinates import from_unit_vector
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, resolve
from locdiff.training.trainer import Trainer

WIDTH, STEPS, CHUNK = 768, 60, 100_000


def make(folder, n):
    """Write an embeddings folder of n made-up pictures."""
    rng = np.random.default_rng(0)
    embeddings = np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float16, (n, WIDTH))
    block = rng.standard_normal((CHUNK, WIDTH), dtype=np.float32).astype(np.float16)
    with open(folder / "locations.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "lat", "lon", "author"])
        for start in range(0, n, CHUNK):
            count = min(CHUNK, n - start)
            embeddings[start : start + count] = np.roll(block, start // CHUNK, axis=1)[:count]
            places = from_unit_vector(torch.from_numpy(rng.standard_normal((count, 3))))
            writer.writerows(
                [f"{i % 256:02x}/{i // 256 % 256:02x}/{i + 10**9}.jpg", f"{lat:.6f}", f"{lon:.6f}", f"{i // 20}@N00"]
                for i, (lat, lon) in enumerate(places.tolist(), start)
            )
    embeddings.flush()


class Peak(threading.Thread):
    """The largest memory of this process while it runs, in GB: (all, without the pages of files)."""

    def __init__(self):
        super().__init__(daemon=True)
        self.total, self.own = 0.0, 0.0

    def run(self):
        while True:
            lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
            gigabytes = {key: int(lines[key].split()[0]) / 1e6 for key in ("VmRSS", "RssAnon")}
            self.total, self.own = max(self.total, gigabytes["VmRSS"]), max(self.own, gigabytes["RssAnon"])
            time.sleep(0.05)


def forget(path):
    """Drop the file from the operating system's cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(path):
    """Read the file into the operating system's cache."""
    with open(path, "rb") as file:
        while file.read(2**24):
            pass


def median_ms(function):
    """Return the median time of function(0), function(1), ..."""
    times = []
    for step in range(STEPS):
        start = time.perf_counter()
        function(step)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def main():
    def more(parser):
        parser.add_argument("--pictures", type=int, default=4_700_000, help="embeddings (default 4,700,000)")
        parser.add_argument(
            "--folder", type=Path, help="where to put them for the time being (default: a temporary one)"
        )

    arguments = options(__doc__, more)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = Path(folder)
        make(folder, arguments.pictures)
        peak = Peak()
        peak.start()
        start = time.perf_counter()
        settings = resolve(data=str(folder))
        data, _ = load_data(settings)
        opened = time.perf_counter() - start
        trainer = Trainer(settings, data, pick_device(arguments.device))
        step = median_ms(lambda _: trainer.training_step())
        batches = np.random.default_rng(0).integers(len(data), size=(2, STEPS, settings.training.batch))
        forget(folder / "embeddings.npy")
        cold = median_ms(lambda i: data.batch(batches[0, i]))
        remember(folder / "embeddings.npy")
        warm = median_ms(lambda i: data.batch(batches[1, i]))
        table = [
            {
                "pictures": arguments.pictures, "opened, s": opened, "step, ms": step, "reading a batch, ms": warm,
                "reading / step, %": 100 * warm / step, "cold, ms": cold, "cold / step, %": 100 * cold / step,
                "memory, GB": peak.total, "without pages of files, GB": peak.own,
            }
        ]  # fmt: skip
        report("reading", table, arguments)


if __name__ == "__main__":
    main()
