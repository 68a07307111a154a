"""[L]kNN: the nearest pictures of a gallery, and the densest place among them."""

import torch

from locdiff.evaluation.retrieval import nearest
from locdiff.memory import batch_size
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km


def kernel_density(queries, gallery, k=100, sigma_deg=4.0, progress=True):
    """Return the locations (n, 2) of [L]kNN of Vo et al. (2017), "Revisiting IM2GPS in the deep learning era".

    Of the k pictures of the gallery (Embeddings) nearest by cosine to a query (n, d), it is the location of the one at
    which the density sum_i w_i exp(-d_i^2 / 2 sigma^2) is largest. As in the authors' program, their `predict_gps.m`, k
    is 100, sigma is in degrees, and w_i is the squared Euclidean distance of the normalized features to the power -10,
    here (1 - cosine)^-10. Two things differ. d_i is measured along great circles, not on a grid of latitudes and
    longitudes. The density is compared at the neighbors only; theirs takes the most similar one within 100 km of its
    peak. Raises ValueError unless k >= 1 and sigma_deg > 0.
    """
    if k < 1 or not sigma_deg > 0:
        raise ValueError(f"need k >= 1 and sigma_deg > 0, got {k} and {sigma_deg}")
    cosine, position = nearest(queries, gallery, k, progress)
    log_weight = -10 * (1 - cosine.double()).clamp(min=1e-7).log()  # 1e-7: the rounding of a cosine
    size, found = batch_size(64 * k**2), []
    for rows, weight in zip(position.split(size), log_weight.split(size), strict=True):
        places = torch.from_numpy(gallery.lat_lon)[rows]
        distance = torch.rad2deg(great_circle_km(places[:, :, None], places[:, None]) / EARTH_RADIUS_KM)
        best = torch.logsumexp(weight[:, None] - (distance / sigma_deg) ** 2 / 2, dim=-1).argmax(dim=-1)
        found.append(places[torch.arange(len(places)), best])
    return torch.cat(found)
