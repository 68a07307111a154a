"""Whether probabilities hold: how often regions hold the truth, and the energy score."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from locdiff.evaluation import metrics
from locdiff.sphere.coordinates import great_circle_km

SHARES = (0.5, 0.9)


def coverage(rank: Tensor, groups: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Return {coverage_50: [share, low, high], ...} of ranks (n,): how many regions hold the truth, in per cent.

    The 95 % interval is by `metrics.bootstrap`, over the `groups` where they are given.
    """
    held = 100.0 * np.stack([(rank <= share).numpy() for share in SHARES], axis=1)
    low, high = metrics.bootstrap(held, groups=groups)
    ends = zip(held.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {f"coverage_{100 * share:.0f}": list(end) for share, end in zip(SHARES, ends, strict=True)}


def energy_scores(samples: Tensor, truth: Tensor) -> Tensor:
    """Return E d(x, y) - E d(x, x') / 2 in km, for samples x (n, S, 2) and the truth y (n, 2) of each picture: (n,).

    It is least in the mean for the true distribution. With one sample it is the distance.
    """
    count = samples.shape[1]
    to_truth = great_circle_km(samples.double(), truth[:, None].double()).mean(dim=1)
    apart = great_circle_km(samples[:, :, None].double(), samples[:, None].double()).sum(dim=(1, 2))
    return to_truth - apart / (2 * max(1, count * (count - 1)))


def energy_score(samples: Tensor, truth: Tensor) -> float:
    """Return the mean of `energy_scores` over the pictures."""
    return energy_scores(samples, truth).mean().item()
