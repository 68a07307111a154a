"""Whether probabilities hold: how often regions hold the truth, and the energy score."""

import numpy as np
from torch import Tensor

from locdiff.sphere.coordinates import great_circle_km

SHARES = (0.5, 0.9)


def coverage(rank: Tensor, groups: list | None = None, resamples: int = 1000) -> dict[str, list[float]]:
    """Return {coverage_50: [share, low, high], ...} of ranks (n,): how many regions hold the truth, in per cent.

    The 95 % interval is by bootstrap: over pictures, or, with the n `groups` that they belong to, over these; pictures
    of one photographer are not independent.
    """
    n, rng = len(rank), np.random.default_rng(0)
    group = np.unique(groups, return_inverse=True)[1] if groups and all(groups) else np.arange(n)
    held = np.stack([(rank <= share).numpy() for share in SHARES], axis=1).astype(float)
    size = np.bincount(group).astype(float)
    sums = np.stack([np.bincount(group, weights=column) for column in held.T], axis=1)
    chosen = rng.integers(len(size), size=(resamples, len(size)))
    means = sums[chosen].sum(axis=1) / size[chosen].sum(axis=1)[:, None]
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return {
        f"coverage_{100 * share:.0f}": [100 * float(held[:, i].mean()), 100 * float(low[i]), 100 * float(high[i])]
        for i, share in enumerate(SHARES)
    }


def energy_score(samples: Tensor, truth: Tensor) -> float:
    """Return the mean over pictures of E d(x, y) - E d(x, x') / 2 in km, for samples x (n, S, 2) and the truth (n, 2).

    It is least in the mean for the true distribution. With one sample it is the distance.
    """
    count = samples.shape[1]
    to_truth = great_circle_km(samples.double(), truth[:, None].double()).mean(dim=1)
    apart = great_circle_km(samples[:, :, None].double(), samples[:, None].double()).sum(dim=(1, 2))
    return (to_truth - apart / (2 * max(1, count * (count - 1)))).mean().item()
