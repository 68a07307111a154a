"""The validation of a model in training: pictures kept apart, the best weights so far, and when to stop."""

import math

import numpy as np
from torch import Tensor

from locdiff.data.embeddings import Embeddings, held_out_order

MOST, FEWEST, LARGEST_SHARE = 2000, 500, 0.2  # pictures kept apart; the fewest, if that is no larger a share
FIRST = 10  # steps between the first validations


def split_validation(train: Embeddings, share: float, seed: int) -> tuple[Embeddings, Embeddings | None]:
    """Return the pictures to train on, and those kept apart from them to choose and calibrate the model.

    These are a `share` of `train`, at most MOST of them, and at least FEWEST or a fifth, whichever is less. Where the
    photographers of all pictures are known, they are all pictures of some. With share 0, or where nothing could be
    kept apart, there are none.
    """
    n = len(train)
    count = min(MOST, max(int(share * n), min(FEWEST, int(LARGEST_SHARE * n)))) if share else 0
    if not count:
        return train, None
    authors = None if train.photographers is None else np.array(train.photographers)
    order, count = held_out_order(n, count, [seed, 1], authors)
    if count == n:
        return train, None
    return train.subset(np.sort(order[count:])), train.subset(np.sort(order[:count]))


def is_due(step: int) -> bool:
    """Return whether a model is validated after this many steps: four times while the number of steps doubles."""
    return step % (FIRST * 2 ** max(0, (step // (4 * FIRST)).bit_length() - 1)) == 0


class Validation:
    """The best weights so far by the mean log density, in nats, at the locations of pictures kept apart.

    `best` are the averaged parameters of then, `nats` what they give and `step` when that was; `since` counts the
    validations after it. Weights that give less stay out of the model.
    """

    def __init__(self, data: Embeddings):
        self.embeddings, self.lat_lon = data.batch(range(len(data)))
        self.best: dict[str, Tensor] = {}
        self.nats, self.step, self.since = -math.inf, 0, 0

    def check(self, model, step: int, broadcast) -> float:
        """Return the mean log density in nats by the averaged `model`, whose parameters are kept if it is the best.

        `broadcast` takes the value of the first process, so that all processes keep the same weights.
        """
        nats = broadcast(model.validation_nats(self.embeddings, self.lat_lon).double().mean().item())
        if nats > self.nats:
            self.nats, self.step, self.since = nats, step, 0
            self.best = {name: value.detach().clone() for name, value in model.named_parameters()}
        else:
            self.since += 1
        return nats

    def tensors(self) -> dict[str, Tensor]:
        """Return the best parameters by their names in a checkpoint."""
        return {f"best.{name}": value for name, value in self.best.items()}

    def metadata(self) -> dict[str, str]:
        """Return what else a checkpoint holds of it."""
        return {"best_nats": repr(self.nats), "best_step": repr(self.step), "since": repr(self.since)}

    def restore(self, best: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Continue from the best parameters and the metadata of a checkpoint."""
        self.best, self.nats = best, float(metadata["best_nats"])
        self.step, self.since = int(metadata["best_step"]), int(metadata["since"])
