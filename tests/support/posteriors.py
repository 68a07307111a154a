"""Models that say what a test wants them to say."""

import torch

from locdiff.model.posterior import PixelPosterior
from support.models import tiny


def answering(monkeypatch, coeffs=None, pixel_probs=None, samples=None):
    """Return a tiny model whose posteriors are replaced, for n pictures.

    They have the natural parameters `coeffs` (n, D), else zeros; `pixel_probs` (n, N), else those of `coeffs`; and
    `samples`, a pair of locations (n, 2) and coefficients (n, D) that all samples have, else those of the density.
    """
    model = tiny(prior_l_max=0)
    n = next(len(given) for given in (coeffs, pixel_probs, samples and samples[0]) if given is not None)
    coeffs = torch.zeros(n, model.config.network.dimensions) if coeffs is None else coeffs
    pixel_probs = model.objective.pixel_probs(model.grid.synthesis(coeffs)) if pixel_probs is None else pixel_probs

    def chain(count, seed, first):
        return tuple(each[:, None].expand(-1, count, -1) for each in samples)

    posterior = PixelPosterior(model.grid, model.objective, coeffs, pixel_probs, chain if samples else None)
    monkeypatch.setattr(model, "posterior", lambda embeddings: posterior)
    return model
