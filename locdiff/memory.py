"""One budget for what a computation holds at a time; the batch sizes of evaluation and prediction follow from it."""

from locdiff.errors import InputError

DEFAULT_MB, MOST_MB = 512, 2**30
HELP = "megabytes for the arrays of a batch; less memory takes more time"

_megabytes = DEFAULT_MB


def set_budget(megabytes: int) -> None:
    """Set the budget of this process, in MB. Raises InputError unless it is 1 to MOST_MB."""
    global _megabytes
    if not 1 <= megabytes <= MOST_MB:
        limit = "at least 1 MB" if megabytes < 1 else f"at most {MOST_MB:,} MB"
        raise InputError(f"the memory budget must be {limit}, got {megabytes}: change --memory")
    _megabytes = megabytes


def batch_size(bytes_each: float) -> int:
    """Return how many items of `bytes_each` bytes fit into the budget, at least 1."""
    return max(1, int(_megabytes * 2**20 / bytes_each))
