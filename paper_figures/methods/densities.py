"""Densities over the Earth that the other families of methods give, with the questions of a LocationPosterior.

Each asks for one location a picture: `log_prob` in nats per steradian, `rank` and `sample`. Tensors are on the CPU,
locations (lat, lon) in degrees.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.seeding import PictureNoise
from locdiff.sphere import pixels
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, tangents, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.points import width_of

NSIDE = 64  # of densities that are held by pixels


class Densities(ABC):
    """Densities over the Earth, one for each of n pictures."""

    ranked = 64  # samples a picture, among which the true location takes its rank
    voting = 512  # samples a picture, among which the best location for a distance is looked for

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def log_prob(self, lat_lon: Tensor) -> Tensor:
        """Return the log densities in nats per steradian, at locations (n, ..., 2) of each picture: (n, ...)."""

    @abstractmethod
    def sample(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Return random locations (n, count, 2), which follow from the seed and from the picture's position."""

    def rank(self, lat_lon: Tensor, seed: int = 0, first: int = 0) -> Tensor:
        """Return about the share of the smallest region that holds one location for each picture, (n, 2) -> (n,).

        Of `ranked` samples it is the share that is denser. A random part of one sample counts, so that the ranks of
        samples are uniform.
        """
        own = self.log_prob(lat_lon)
        denser = (self.log_prob(self.sample(self.ranked, seed, first)) > own[:, None]).sum(dim=-1)
        part = PictureNoise(seed, first, len(self), 1, stream=(2,)).uniform()[:, 0, 0]
        return (denser + part) / (self.ranked + 1)

    def best_within(self, places: Tensor, seed: int = 0, first: int = 0) -> Tensor:
        """Return for each threshold the location within which most of the density lies, (n, thresholds, 2).

        Of `voting` samples it is the one with most of the others within the threshold. Within less than a pixel of
        NSIDE it is the location that the family predicts, `places` (n, 2).
        """
        lat_lon, picked = self.sample(self.voting, seed, first).double(), []
        for xyz in to_unit_vector(lat_lon).float().split(batch_size(5 * self.voting**2)):
            cosine = xyz @ xyz.mT
            votes = [(cosine >= math.cos(km / EARTH_RADIUS_KM)).sum(dim=-1) for km in THRESHOLDS_KM]
            picked.append(torch.stack([counts.argmax(dim=-1) for counts in votes], dim=-1))
        best = lat_lon.gather(1, torch.cat(picked)[..., None].expand(-1, -1, 2))
        is_fine = torch.tensor(THRESHOLDS_KM)[:, None] < EARTH_RADIUS_KM * width_of(NSIDE)
        return torch.where(is_fine, places.double()[:, None], best)


class PixelDensities(Densities):
    """Densities by the probabilities (n, N) of the pixels of NSIDE."""

    def __init__(self, pixel_probs: Tensor):
        self.pixel_probs = pixel_probs

    def __len__(self):
        return len(self.pixel_probs)

    def log_prob(self, lat_lon):
        flat = lat_lon.reshape(len(self), -1, 2)
        values = [pixels.log_prob(self.pixel_probs, flat[:, i]) for i in range(flat.shape[1])]
        return torch.stack(values, dim=1).view(lat_lon.shape[:-1]) if values else lat_lon[..., 0]

    def sample(self, count, seed=0, first=0):
        uniform = PictureNoise(seed, first, len(self), count).uniform()[..., 0]
        return healpix_anchors(NSIDE)[pixels.sample(self.pixel_probs, uniform.to(self.pixel_probs))]

    def rank(self, lat_lon, seed=0, first=0):
        uniform = PictureNoise(seed, first, len(self), 1, stream=(2,)).uniform()[:, 0, 0]
        return pixels.rank(self.pixel_probs, lat_lon, uniform.to(self.pixel_probs))


class VonMisesFisherMixture(Densities):
    """Mixtures of K von Mises-Fisher densities, kappa / (4 pi sinh kappa) exp(kappa <center, y>).

    `log_weights` (n, K), of which the logarithm of the sum of exponentials is zero; `centers` (n, K, 3), unit vectors;
    `kappa` (n, K), above zero. All float64.
    """

    def __init__(self, log_weights: Tensor, centers: Tensor, kappa: Tensor):
        self.log_weights, self.centers, self.kappa = log_weights.double(), centers.double(), kappa.double()

    def __len__(self):
        return len(self.log_weights)

    def log_prob(self, lat_lon):
        flat = to_unit_vector(lat_lon.reshape(len(self), -1, 2).double())
        parts = [flat.new_empty(len(self), 0)]
        for xyz in flat.split(max(1, batch_size(64 * self.log_weights.numel())), dim=1):
            parts.append(log_mixture(self.log_weights, self.centers, self.kappa, xyz))
        return torch.cat(parts, dim=1).view(lat_lon.shape[:-1])

    def sample(self, count, seed=0, first=0):
        uniform = PictureNoise(seed, first, len(self), count).uniform(3).double()
        which = pixels.sample(self.log_weights.exp(), uniform[..., 0].contiguous())
        kappa = self.kappa.gather(1, which)
        center = self.centers.gather(1, which[..., None].expand(-1, -1, 3))
        u, angle = uniform[..., 1], 2 * math.pi * uniform[..., 2]
        height = (1 + torch.log(u + (1 - u) * torch.exp(-2 * kappa)) / kappa).clamp(-1, 1)  # <center, y>, by inversion
        radius = (1 - height.square()).clamp(min=0).sqrt()
        east, north = tangents(center)
        xyz = height[..., None] * center
        xyz = xyz + radius[..., None] * (angle.cos()[..., None] * east + angle.sin()[..., None] * north)
        return from_unit_vector(xyz)


class WithPrior(Densities):
    """(1 - share) times some densities and `share` times the density of all training locations."""

    def __init__(self, own: Densities, prior: Tensor, share: float):
        self.own, self.share, self.ranked, self.voting = own, share, own.ranked, own.voting
        self.prior = PixelDensities(prior.expand(len(own), -1))

    def __len__(self):
        return len(self.own)

    def log_prob(self, lat_lon):
        own = self.own.log_prob(lat_lon)
        if not self.share:
            return own
        return torch.logaddexp(
            own + math.log1p(-self.share), self.prior.log_prob(lat_lon).to(own) + math.log(self.share)
        )

    def sample(self, count, seed=0, first=0):
        uniform = PictureNoise(seed, first, len(self), count, stream=(3,)).uniform()
        other = self.prior.sample(count, seed, first)
        return torch.where(uniform < self.share, other, self.own.sample(count, seed, first))

    def rank(self, lat_lon, seed=0, first=0):
        if isinstance(self.own, PixelDensities):
            mixed = torch.lerp(self.own.pixel_probs, self.prior.pixel_probs.to(self.own.pixel_probs), self.share)
            return PixelDensities(mixed).rank(lat_lon, seed, first)
        return super().rank(lat_lon, seed, first)


def densest_place(pixel_probs: Tensor) -> Tensor:
    """Return the center of the most probable pixel of NSIDE, (N,) -> (2,)."""
    return healpix_anchors(NSIDE)[pixel_probs.argmax()]


def log_mixture(log_weights: Tensor, centers: Tensor, kappa: Tensor, xyz: Tensor) -> Tensor:
    """Return the log density of mixtures (n, K), see `VonMisesFisherMixture`, at unit vectors (n, m, 3): (n, m).

    The exponent is -kappa |center - y|^2 / 2, which does not cancel where kappa is large.
    """
    chord = (centers[:, None] - xyz[:, :, None]).square().sum(dim=-1)
    scale = kappa.log() - math.log(2 * math.pi) - torch.log(-torch.expm1(-2 * kappa))
    return torch.logsumexp((log_weights + scale)[:, None] - kappa[:, None] * chord / 2, dim=-1)
