"""LocDiffusion and retrieval together."""

import math

import torch
from torch import Tensor

from locdiff.data.embeddings import Embeddings
from locdiff.data.geoclip import GeoClip, embed_places, gallery_places
from locdiff.evaluation import metrics
from locdiff.evaluation.retrieval import retrieve_by_density, retrieve_near, weigh_modes
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.seeding import derive_seed

RADIUS_KM = 200  # of the retrieval around candidates (paper section 5.2)
MODES = 16
NEAR_SAMPLES = f"LocDiffusion + retrieval within {RADIUS_KM} km of its {{}} samples (the paper's)"
WEIGHED_MODES = f"LocDiffusion + retrieval, its {MODES} most probable modes weighed by the nearest pictures"
WEIGHTED = "LocDiffusion + retrieval, density times retrieval score"


@torch.no_grad()
def predict_hybrid(
    model: LocDiffusion, embeddings: Tensor, samples: Tensor, queries: Tensor, gallery: Embeddings, truth: Tensor,
    seed: int = 0, progress: bool = True,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the predictions of LocDiffusion and retrieval together, {row: locations (n, 2)}.

    embeddings (n, d) and the `samples` (n, S, 2) of their posteriors; queries (n, d') and the gallery that they are
    searched in. The weight of the retrieval against the density, or of the nearest pictures, is chosen on the other
    half of the pictures, the halves being random; see `choose_weight`.
    """
    modes, probability = torch.zeros(len(queries), MODES, 2, dtype=torch.float64), torch.zeros(len(queries), MODES)
    weighted = []
    for start in range(0, len(embeddings), model.posterior_batch_size):
        chunk = slice(start, start + model.posterior_batch_size)
        posterior = model.posterior(embeddings[chunk])
        places, own = posterior.modes(MODES)
        modes[chunk, : own.shape[1]], probability[chunk, : own.shape[1]] = places, own
        found = retrieve_by_density(queries[chunk], gallery, posterior.log_density, progress=progress)
        weighted.append(found.transpose(0, 1))
    weighed = weigh_modes(queries, gallery, modes, probability, progress=progress)
    weighed = torch.cat([weighed, modes[None, :, 0]]).transpose(0, 1)
    return {
        NEAR_SAMPLES.format(samples.shape[1]): retrieve_near(queries, gallery, samples, RADIUS_KM, progress),
        WEIGHED_MODES: choose_weight(weighed, truth, seed),
        WEIGHTED: choose_weight(torch.cat(weighted), truth, seed),
    }


def choose_weight(weighted: Tensor, truth: Tensor, seed: int = 0) -> Tensor:
    """Return, of the predictions by several weights, those by the weight that is best on the other half:
    (n, weights, 2) -> (n, 2).

    What counts is the mean accuracy over the thresholds. The last, one part of the hybrid alone, is kept unless another
    is better by more than the standard error of the difference: the other part must have shown that it helps.
    """
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(derive_seed(seed, 2)))
    right = torch.stack([metrics.hits(p, truth).double().mean(dim=-1) for p in weighted.unbind(1)], dim=-1)
    gain, chosen = right - right[:, -1:], torch.empty(len(truth), 2, dtype=torch.float64)  # (n, weights)
    halves = order.tensor_split(2)
    for half, other in (halves, halves[::-1]):
        best, helps = -1, False
        if len(other) > 1:
            mean, error = gain[other].mean(dim=0), gain[other].std(dim=0) / math.sqrt(len(other))
            best = int(mean.argmax())
            helps = mean[best] > error[best]
        chosen[half] = weighted[half, best if helps else -1]
    return chosen


def open_gallery(name, embeddings, train, test, device, progress=True):
    """Return what the hybrid searches: queries (n, d') for embeddings (n, d), and a gallery (Embeddings).

    The gallery is the training pictures, or, with a `name`, places embedded by GeoCLIP; see `geoclip.gallery_places`.
    """
    if not name:
        return embeddings, train
    geoclip = GeoClip().to(device)
    queries = geoclip.queries(embeddings.to(device), test.encoder)
    return queries, embed_places(gallery_places(name), geoclip, progress)
