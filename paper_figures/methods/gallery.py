"""Retrieval and [L]kNN: the nearest pictures of a gallery, their densest place, and the densities that they make."""

import math

import numpy as np
import torch

from locdiff.evaluation.retrieval import nearest
from locdiff.memory import batch_size
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, great_circle_km, to_unit_vector
from methods.densities import PixelDensities, VonMisesFisherMixture, WithPrior
from methods.density_baseline import best_share

NEIGHBORS = 100
WIDTHS_KM = (10, 20, 40, 80, 160, 320, 640)  # of the kernels
TEMPERATURES = tuple(2.0**-k for k in range(11))  # of the softmax over cosines
SIGMA_DEG = 4.0


def nearest_log_weights(cosine, temperature):
    """Return the log weights of a softmax of cosines (n, k) over a temperature, (n, k)."""
    return torch.log_softmax(cosine.double() / temperature, dim=-1)


def vo_log_weights(cosine):
    """Return the log weights of [L]kNN of Vo et al. (2017) for cosines (n, k): (1 - cosine)^-10, of sum one."""
    return torch.log_softmax(-10 * (1 - cosine.double()).clamp(min=1e-7).log(), dim=-1)  # 1e-7: a cosine's rounding


def kernel_density(queries, gallery, k=NEIGHBORS, sigma_deg=SIGMA_DEG, progress=True):
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
    log_weight, size, found = vo_log_weights(cosine), batch_size(64 * k**2), []
    for rows, weight in zip(position.split(size), log_weight.split(size), strict=True):
        places = torch.from_numpy(gallery.lat_lon)[rows]
        distance = torch.rad2deg(great_circle_km(places[:, :, None], places[:, None]) / EARTH_RADIUS_KM)
        best = torch.logsumexp(weight[:, None] - (distance / sigma_deg) ** 2 / 2, dim=-1).argmax(dim=-1)
        found.append(places[torch.arange(len(places)), best])
    return torch.cat(found)


def kernels(log_weights, places, width_km):
    """Return the mixtures of kernels around places (n, k, 2) with log weights (n, k), of a standard deviation of
    `width_km` in each direction."""
    kappa = torch.full_like(log_weights, (EARTH_RADIUS_KM / width_km) ** 2)
    return VonMisesFisherMixture(log_weights, to_unit_vector(places), kappa)


def _among(places, others):
    """Whether places (n, 2) are among others (m, 2), to 1e-6 degrees: an array (n,)."""
    keys = [np.round(part.numpy() * 1e6).astype(np.int64) @ np.array([10**9, 1]) for part in (places, others)]
    return np.isin(*keys)


class GalleryDensities:
    """Densities of retrieval: kernels around the NEIGHBORS nearest pictures of a gallery, and a share of the prior.

    The weights are a softmax of the cosines over a temperature or, with `vo`, those of [L]kNN. Width, temperature and
    share maximize the likelihood of the `truth` (m, 2) of `unseen` queries (m, d), in the gallery without these very
    places. Where they are None, the kernels are 100 km wide, the temperature 1 / 64 and the share the least.
    """

    def __init__(self, gallery, prior, unseen=None, truth=None, vo=False):
        self.gallery, self.prior, self.vo = gallery, prior, vo
        self.places = torch.from_numpy(gallery.lat_lon)
        self.width_km, self.temperature, self.share = 100, 1 / 64, 1e-4
        if unseen is not None:
            self._choose(unseen, truth)

    def _choose(self, unseen, truth):
        others = self.gallery.subset(np.flatnonzero(~_among(self.places, truth)))
        cosine, position = nearest(unseen, others, NEIGHBORS, False)
        places = torch.from_numpy(others.lat_lon)[position]
        prior, best = PixelDensities(self.prior.expand(len(truth), -1)).log_prob(truth), -math.inf
        for temperature in TEMPERATURES[:1] if self.vo else TEMPERATURES:
            log_weights = self._log_weights(cosine, temperature)
            for width_km in WIDTHS_KM:
                own = kernels(log_weights, places, width_km).log_prob(truth)
                share, value = best_share(own, prior)
                if value > best:
                    self.width_km, self.temperature, self.share, best = width_km, temperature, share, value

    def _log_weights(self, cosine, temperature):
        return vo_log_weights(cosine) if self.vo else nearest_log_weights(cosine, temperature)

    def posterior(self, queries):
        """Return the Densities of queries (n, d)."""
        cosine, position = nearest(queries, self.gallery, NEIGHBORS, False)
        own = kernels(self._log_weights(cosine, self.temperature), self.places[position], self.width_km)
        return WithPrior(own, self.prior, self.share)
