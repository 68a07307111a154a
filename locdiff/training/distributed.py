"""The processes that torchrun starts, their devices, and the signals that stop them."""

import contextlib
import os
import signal
import threading

import torch
from torch import distributed

from locdiff.devices import pick_device
from locdiff.errors import InputError


def rank_and_world_size():
    """Return this process's number among those that torchrun started, and how many there are, else (0, 1)."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def _variable(name, default):
    """The number in an environment variable that torchrun sets."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} is '{text}', not a number: start with torchrun, or unset it")
    return int(text)


@contextlib.contextmanager
def process_group(name=None, backend=None):
    """Join the processes that torchrun, or what sets its variables, started, if any; yield this one's device.

    Nothing may hold the process group afterwards: its threads would outlive it, and abort the process as it ends.
    """
    if _variable("WORLD_SIZE", 1) < 2:
        yield pick_device(name)
        return
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    device = pick_device(f"cuda:{_variable('LOCAL_RANK', 0)}" if name == "cuda" else name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    from torch.distributed.nn import functional  # noqa: F401  before there is a group, which it would keep for ever

    try:
        distributed.init_process_group(backend or ("nccl" if device.type == "cuda" else "gloo"))
    except ValueError as error:  # of the other variables
        raise InputError(f"WORLD_SIZE is set, but {error}: start with torchrun, or unset WORLD_SIZE") from None
    try:
        yield device
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def deferred_signals():
    """Yield a list into which Ctrl-C and SIGTERM only put their number, to be looked at between steps."""
    stop = [0]

    def ask(number, _):
        stop[0] = number

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
