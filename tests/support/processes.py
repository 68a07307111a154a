"""Processes that tests kill, and what runs in them."""

import multiprocessing
import os
import resource
import signal
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch

from locdiff import options, train
from locdiff.data import encoding
from locdiff.data.encoders import ThumbnailEncoder
from locdiff.errors import InputError
from locdiff.training import loop
from locdiff.training.loop import fit
from support.training import trainer

TESTS = Path(__file__).parents[1]
torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimizer imports much, here once for all processes


def fresh_processes():
    """Return a multiprocessing context whose processes need not import torch; what they run stands in this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        forkserver.ensure_running()
    return context


class SlowEncoder:
    """The mean color, slowly; every picture that is encoded is noted in the file `count`."""

    name, dim, about, prepare = "slow", 3, {}, staticmethod(ThumbnailEncoder.prepare)

    def __init__(self, count):
        self.count = count

    def encode(self, batch):
        time.sleep(0.01)
        with open(self.count, "a") as file:
            file.write(f"{len(batch)} ")
        return batch.mean(dim=(2, 3))


def embed_slowly(source, out, count):
    """Embed the pictures of `source` into `out` by the SlowEncoder."""
    encoding.embed(source, out, SlowEncoder(count), batch=2, workers=0)


def train_on(run, checkpoint_seconds=0, **changes):
    """Train the small run in the folder `run` to its end, with a checkpoint after every step, or every few seconds."""
    loop.CHECKPOINT_SECONDS = checkpoint_seconds
    torch.set_num_threads(1)
    one = trainer(**changes)
    one.restore(run)
    fit(one, run, progress=False)


def train_command(*arguments):
    """Run the command `train` with a checkpoint after every step."""
    loop.CHECKPOINT_SECONDS = 0
    torch.set_num_threads(1)
    options.run(lambda: train.main(arguments))


def embed_on_full_disk(source, out, size, said):
    """Embed the pictures of `source` into `out` where no file can have more than `size` bytes; send what is said."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then it is an error, as a full disk is
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        encoding.embed(source, out, ThumbnailEncoder(), batch=2, workers=0)
        said.send("nothing")
    except InputError as error:
        said.send(str(error))
