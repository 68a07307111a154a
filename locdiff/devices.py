"""Which device a computation runs on."""

import torch

from locdiff.errors import InputError

UNFIT = {"mps": "it has no float64, in which locations are computed", "meta": "it holds no numbers"}


def pick_device(name: str | int | torch.device | None = None) -> torch.device:
    """Return the torch device of that name, or a GPU if there is one, else the CPU.

    Raises InputError if it is not there, or if it has no float64, in which locations are computed.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name is None else name
    reason = _why_not(name)
    if reason:
        usable = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"device '{name}' cannot be used: {reason}; choose {' or '.join(usable)}")
    return torch.device(name)


def _why_not(name):
    """Why a device cannot be used, "" if it can."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        return "torch knows no such device"
    if device.type in UNFIT:
        return UNFIT[device.type]
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        return str(error).splitlines()[0].partition(". ")[0]
    return ""
