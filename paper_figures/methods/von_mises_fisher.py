"""Regression of a density on the sphere: one von Mises-Fisher density, or a mixture of several."""

import math

import torch
from torch.nn.functional import normalize

from locdiff.sphere.coordinates import from_unit_vector, to_unit_vector
from methods.baseline import trunk
from methods.densities import VonMisesFisherMixture, log_mixture
from methods.density_baseline import DensityBaseline
from methods.place_decoder import fibonacci_places

LOG_KAPPA = (-3.0, 14.0)  # from nearly uniform to half a kilometer wide


class VonMisesFisher(DensityBaseline):
    """A network that gives the parameters of a mixture of `components` von Mises-Fisher densities; its loss is minus
    the log density of the true location.

    The components start spread over the sphere, and broad. Sharpness multiplies every kappa.
    """

    def __init__(self, config, components=1):
        super().__init__(config)
        self.components, self.network = components, trunk(config, 5 * components)
        head = self.network[-1]
        with torch.no_grad():
            head.weight.mul_(0.1)
            head.bias.zero_()
            head.bias[2 * components :] = to_unit_vector(fibonacci_places(components)).float().flatten()

    def parameters_of(self, embeddings):
        """Return log weights (n, K), centers (n, K, 3) and kappa (n, K) of embeddings (n, embed_dim)."""
        weights, kappa, centers = self.network(embeddings).split(
            [self.components, self.components, 3 * self.components], dim=-1
        )
        low, high = LOG_KAPPA
        log_kappa = low + (high - low) * torch.sigmoid(4 * kappa / (high - low) + math.log((1 - low) / (high - 1)))
        centers = normalize(centers.unflatten(-1, (-1, 3)), dim=-1)
        return weights.log_softmax(dim=-1), centers, log_kappa.exp()

    def loss(self, embeddings, lat_lon):
        """Return minus the log density of the location of each picture, in nats per steradian, (n,)."""
        return -log_mixture(*self.parameters_of(embeddings), to_unit_vector(lat_lon).to(embeddings)[:, None])[:, 0]

    def densities(self, embeddings, sharpness):
        log_weights, centers, kappa = (part.cpu().double() for part in self.parameters_of(embeddings))
        return VonMisesFisherMixture(log_weights, normalize(centers, dim=-1), sharpness * kappa)

    def place(self, embeddings):
        """Return the centers of the densest components (n, 2)."""
        log_weights, centers, kappa = self.parameters_of(embeddings)
        best = (log_weights + kappa.log()).argmax(dim=-1)
        return from_unit_vector(centers.cpu().double()[torch.arange(len(best)), best.cpu()])
