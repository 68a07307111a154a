"""The tables that a run writes while it trains, and the same numbers as TensorBoard's event files."""

import csv
from pathlib import Path
from typing import TextIO

from locdiff.errors import InputError

LOG, VALIDATION_LOG = "log.csv", "validation.csv"
HEADS = {LOG: "step,loss,lr,skipped", VALIDATION_LOG: "step,nats"}
CURVES = {LOG: "training", VALIDATION_LOG: "validation"}


class Logs:
    """The tables `names` of the run folder, continued after `step`, and, if asked for, their curves in event files.

    A process that writes nothing has no tables. Raises InputError if the package tensorboard is needed and missing.
    """

    def __init__(self, run: Path | None, step: int, names: tuple[str, ...], tensorboard: bool = False):
        # readers drop the points of earlier files from `purge_step` on: an interrupted run may have left some
        purge_step = step + 1 if step else 0
        self._events = summary_writer()(str(run), purge_step=purge_step) if tensorboard and names else None
        self._files = {name: open_log(run / name, step) for name in names}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for file in self._files.values():
            file.close()
        if self._events:
            self._events.close()

    def write(self, name: str, step: int, *values: float) -> None:
        """Write a line to the table `name` and a point to each of its curves, if there is such a table."""
        if name not in self._files:
            return
        texts = [f"{value:.6g}" for value in values]
        self._files[name].write(",".join([str(step), *texts]) + "\n")
        if self._events:
            for column, text in zip(HEADS[name].split(",")[1:], texts, strict=True):
                self._events.add_scalar(f"{CURVES[name]}/{column}", float(text), step)

    def flush(self) -> None:
        """Write out all points of the curves."""
        if self._events:
            self._events.flush()


def open_log(path: Path, step: int) -> TextIO:
    """Open log.csv or validation.csv for appending, without the lines after `step` that an interrupted run may have
    left."""
    kept = []
    if step and path.exists():
        with open(path, newline="") as file:
            kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= step]
    file = open(path, "w", newline="", buffering=1)
    file.write("\n".join([HEADS[path.name], *(",".join(row) for row in kept)]) + "\n")
    return file


def summary_writer() -> type:
    """Return torch's SummaryWriter. Raises InputError if the package tensorboard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'") from None
    return SummaryWriter
