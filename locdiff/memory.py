"""One budget for what a computation holds at a time; the batch sizes of evaluation and prediction follow from it."""

from locdiff.errors import InputError

DEFAULT_MB = 512
HELP = "megabytes for the arrays of a batch; less memory takes more time"

_megabytes = DEFAULT_MB


def set_budget(megabytes: int) -> None:
    """Set the budget of this process, in MB. Raises InputError unless it is at least 1."""
    global _megabytes
    if megabytes < 1:
        raise InputError(f"the memory budget must be at least 1 MB, got {megabytes}: change --memory")
    _megabytes = megabytes


def batch_size(bytes_each: float) -> int:
    """Return how many items of `bytes_each` bytes fit into the budget, at least 1."""
    return max(1, int(_megabytes * 2**20 / bytes_each))
