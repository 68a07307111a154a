"""The one-pass density against retrieval, and texts that training holds apart from new ones."""

import numpy as np
from torch import Tensor

from locdiff.data.embeddings import Embeddings
from locdiff.evaluation import coverage, metrics
from locdiff.sphere.pixels import THRESHOLDS_KM


def less_retrieval(
    each: Tensor, retrieved: Tensor, truth: Tensor, groups: list | None = None
) -> dict[int, list[float]]:
    """Return {km: [difference, low, high]} in points: hits of the best location for each threshold, `each` (n,
    thresholds, 2), less those of the `retrieved` locations (n, 2), with 95 % intervals as `metrics.bootstrap` has them.
    """
    difference = 100 * (metrics.hits(each, truth).double() - metrics.hits(retrieved, truth).double()).numpy()
    low, high = metrics.bootstrap(difference, groups=groups)
    ends = np.stack([difference.mean(axis=0), low, high], axis=1).tolist()
    return dict(zip(THRESHOLDS_KM, ends, strict=True))


def score_texts(
    found: dict[str, Tensor],
    retrieved: Tensor,
    truth: Tensor,
    train: Embeddings,
    test: Embeddings,
    columns: metrics.Columns = metrics.USUAL,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Return, for texts that training holds too and for new ones, the scores of the density and of retrieval,
    {row: score}, and what the density is worth, {part: {count, nats_over_uniform, coverage_50, coverage_90}}.

    `found` is what `predict_all` returns. Pictures have no such parts.
    """
    rows, worth = {}, {}
    if not (train.texts and test.texts):
        return rows, worth
    known = np.isin(np.array(test.texts, dtype=object), np.array(train.texts, dtype=object))
    for name, chosen in (("texts of training too", known), ("new texts", ~known)):
        if not chosen.any():
            continue
        part = f"{chosen.sum():,} {name}"
        rows[f"{part}: one-pass density, best place for each column"] = metrics.score_each(
            found["each"][chosen], truth[chosen]
        )
        rows[f"{part}: retrieval"] = metrics.score(retrieved[chosen], truth[chosen], columns)
        nats = found["calibration"][chosen, 0].double().mean().item()
        worth[name] = {"count": int(chosen.sum()), "nats_over_uniform": nats}
        worth[name] |= coverage.coverage(found["rank"][chosen], test.subset(np.flatnonzero(chosen)).photographers)
    return rows, worth
