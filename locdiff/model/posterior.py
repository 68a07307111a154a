"""What a model says about where pictures were taken, in the manner of torch.distributions.

`LocDiffusion.posterior` makes these objects; prediction, evaluation, figures and the page only ask them. A
`PixelPosterior` is the density of one level; a `RefinedPosterior` (`refined_posterior`) is a mixture over zoomed cells.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from locdiff.errors import InputError
from locdiff.model.divided import best_caps, divided, undivided
from locdiff.model.priors import Prior, log_ratio
from locdiff.model.reweighting import Region, Weights
from locdiff.seeding import PictureNoise
from locdiff.sphere import basins, decoder, pixels, shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector
from locdiff.sphere.healpix import HealpixTransform
from locdiff.sphere.pixels import THRESHOLDS_KM

Chain = Callable[[int, int, int], tuple[Tensor, Tensor | None]]  # (count, seed, first) -> locations and coefficients


class LocationPosterior(ABC):
    """A density over the Earth for each of n pictures. Tensors are on the CPU, locations (lat, lon) in degrees.

    `pixel_probs` (n, N) are the probabilities of the HEALPix pixels, whose centers are `anchors` (N, 2).
    """

    pixel_probs: Tensor
    grid: HealpixTransform
    _make_reweighted: ClassVar[
        Callable[..., "LocationPosterior"]
    ]  # `locdiffusion` sets it: the class derives from this
    _modes: tuple[int, Tensor, Tensor] | None = None  # the largest k asked for, and its modes
    _is_smooth = False  # whether no two modes lie within two pixels

    def __len__(self) -> int:
        return len(self.pixel_probs)

    @property
    def anchors(self) -> Tensor:
        """The centers of the pixels, (N, 2) degrees."""
        return self.grid.anchors

    @abstractmethod
    def log_prob(self, lat_lon: Tensor) -> Tensor:
        """Return the log density in nats per steradian at one location for each picture, (n, 2) -> (n,)."""

    @abstractmethod
    def log_density(self, lat_lon: Tensor) -> Tensor:
        """Return about the log density, in nats per steradian, at the same locations (m, 2) for all pictures: (n, m).

        It is made for galleries: of pixels, or interpolated between them, where `log_prob` is exact.
        """

    def within(self, region: Region) -> "LocationPosterior":
        """Return the posterior given that the locations lie in a region, of `data.regions` or `data.geojson`.

        Its density is zero outside. Raises NoProbability, an InputError, if a picture has no probability inside.
        """
        return self.weighted(Weights(region))

    def reweighted(self, new: Prior, old: Prior) -> "LocationPosterior":
        """Return the posterior by Bayes' rule with the prior `new` in place of `old`, which is `LocDiffusion.prior`.

        Raises NoProbability if a picture has none in the region of the new prior.
        """
        return self.weighted(Weights(new.region, log_ratio(new, old)))

    def weighted(self, weights: Weights) -> "LocationPosterior":
        """Return the posterior times weights, normalised. Raises NoProbability, as `within`."""
        return self._make_reweighted(self, weights)

    @abstractmethod
    def sample(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Return random locations (n, count, 2). A picture's follow from the seed and its position; that of the first
        picture is `first`."""

    @abstractmethod
    def sample_coeffs(self, count: int, seed: int = 0, first: int = 0) -> Tensor:
        """Return the coefficients (n, count, D) of the samples of level 0: those that `sample` starts from."""

    def modes(self, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the k most probable modes (n, k, 2), exact, and the probabilities of their basins (n, k).

        Basins are sets of pixels that do not overlap, so all probabilities sum to one. Where a density has fewer than k
        modes the rest have probability zero; where all have fewer, k is the largest number of them.
        """
        if not (isinstance(k, int) and k >= 1):
            raise InputError(f"need a whole number of modes, at least 1, got {k}")
        if self._modes is None or self._modes[0] < k:
            pixel, probability = basins.modes(self.pixel_probs, k, self._basins)
            self._modes = k, self._exact_modes(pixel), probability
        return self._modes[1][:, :k].clone(), self._modes[2][:, :k].clone()

    @cached_property
    def _basins(self) -> Tensor:
        return basins.basins(self.pixel_probs, self._is_smooth)

    @abstractmethod
    def _exact_modes(self, pixel: Tensor) -> Tensor:
        """Return the modes (n, k, 2) of the basins whose most probable pixels are `pixel` (n, k)."""

    @abstractmethod
    def mass_within(self, lat_lon: Tensor) -> Tensor:
        """Return the probability within each of THRESHOLDS_KM of one location for each picture, (n, 2) -> (n, T)."""

    def rank(self, lat_lon: Tensor, seed: int = 0, first: int = 0) -> Tensor:
        """Return the share of the smallest region that holds one location for each picture, (n, 2) -> (n,).

        Where densities are calibrated, the ranks of true locations are uniform over [0, 1]. A random part of the
        location's pixel counts; it follows from the seed and the picture's position, as in `sample`.
        """
        self.check_one_each(lat_lon)
        uniform = PictureNoise(seed, first, len(self), 1, stream=(2,)).uniform()[:, 0, 0]
        return pixels.rank(self.pixel_probs, lat_lon, uniform)

    @abstractmethod
    def credible_radius(self, lat_lon: Tensor, shares: tuple = (0.5, 0.9)) -> Tensor:
        """Return the radii in km around one location for each picture, (n, 2), that hold these shares: (n, S).

        They are rounded up to whole km.
        """

    @abstractmethod
    def best_within(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return {km: (locations (n, 2), probabilities (n,))}: where most probability lies within each threshold."""

    def check_one_each(self, lat_lon: Tensor) -> None:
        """Raise InputError unless `lat_lon` (n, 2) holds one location for each picture."""
        if tuple(lat_lon.shape) != (len(self), 2):
            raise InputError(f"need one location for each of {len(self)} pictures, got shape {tuple(lat_lon.shape)}")

    def credible_regions(self, shares: tuple = (0.5, 0.9)) -> tuple[Tensor, Tensor]:
        """Return the smallest sets of pixels that hold these shares: masks (n, S, N) and areas (n, S) in km^2."""
        pixels.check_shares(shares)
        return pixels.regions(self.pixel_probs, shares)


class PixelPosterior(LocationPosterior):
    """The density of one level.

    `coeffs` (n, D) are what the `objective` takes from the network's output at pure noise, and `pixel_probs` (n, N) the
    probabilities by it on the pixels of `grid`. Samples are those of this density, or, where there is a `chain`, those
    that the chain makes: chain(count, seed, first) -> locations (n, count, 2), coefficients (n, count, D).
    """

    _is_smooth = True

    def __init__(self, grid: HealpixTransform, objective, coeffs: Tensor, pixel_probs: Tensor, chain: Chain | None):
        self.grid, self.objective, self.coeffs, self.pixel_probs = grid, objective, coeffs, pixel_probs
        self.remaining = pixel_probs  # as of a RefinedPosterior: no level takes anything from it
        self._chain, self._samples = chain, None

    def log_prob(self, lat_lon):
        self.check_one_each(lat_lon)
        return self.objective.log_prob(self.coeffs, self.pixel_probs, lat_lon).to(self.coeffs)

    def log_density(self, lat_lon):
        return pixels.log_density(self.pixel_probs, lat_lon)

    def rank(self, lat_lon, seed=0, first=0):
        """See `LocationPosterior.rank`. By likelihood the density at the location is exact, and the pixels are a
        quarter as wide: those of `grid` are too coarse for the densities of a degree above a third of its nside."""
        if not self.objective.is_natural:
            return super().rank(lat_lon, seed, first)
        self.check_one_each(lat_lon)
        return self.objective.mass_above(self.coeffs, lat_lon, 4 * self.grid.nside)

    def sample(self, count, seed=0, first=0):
        return self._sampled(count, seed, first)[0].clone()

    def sample_coeffs(self, count, seed=0, first=0):
        places, coeffs = self._sampled(count, seed, first)
        return shdd.encode(places, self.objective.l_max).to(self.coeffs) if coeffs is None else coeffs.clone()

    def _sampled(self, *how):
        """Locations, and coefficients or None, for (count, seed, first); the last are remembered."""
        if self._samples is None or self._samples[0] != how:
            self._samples = how, (self._chain or self._sample_density)(*how)
        return self._samples[1]

    def _sample_density(self, count, seed, first):
        random = PictureNoise(seed, first, len(self), count)
        random.skip((self.objective.l_max + 1) ** 2)  # a chain starts from these; one step of it is this
        return self.anchors[pixels.sample(self.pixel_probs, random.uniform()[..., 0])], None

    def _exact_modes(self, pixel):
        return self.ascend(self.anchors[pixel])

    def ascend(self, places: Tensor, pictures: Tensor | slice = slice(None)) -> Tensor:
        """Return the modes of F next to locations (m, k, 2) for the m `pictures`, by Newton's method: (m, k, 2)."""
        device, nside, coeffs = self.grid.k.device, self.grid.nside, self.coeffs[pictures]
        found = [
            decoder.newton_ascent(e.to(device), place.to(device), nside)[0].cpu()
            for e, place in zip(coeffs.split(64), places.split(64), strict=True)
        ]
        return torch.cat(found)

    def _mass_by_km(self, lat_lon):
        return pixels.mass_by_km(self.pixel_probs, lambda _: self.grid.unit_vectors, lat_lon)

    def mass_within(self, lat_lon):
        self.check_one_each(lat_lon)
        return self._mass_by_km(lat_lon)[:, list(THRESHOLDS_KM)]

    def credible_radius(self, lat_lon, shares=(0.5, 0.9)):
        self.check_one_each(lat_lon)
        pixels.check_shares(shares)
        return pixels.radius_holding(self._mass_by_km(lat_lon), shares)

    def best_within(self):
        """See `LocationPosterior.best_within`. Within less than half a pixel, the most probable mode is the answer."""
        mode, basin = (part[:, 0] for part in self.modes())
        half = math.sqrt(math.pi / 3) / self.grid.nside * EARTH_RADIUS_KM / 2
        small, large = ([k for k in THRESHOLDS_KM if (k <= half) == is_small] for is_small in (True, False))
        if self.objective.is_natural:
            nodes, weights = disc_nodes(mode, small)
            chunks = list(divided(self.grid, self.objective, self.coeffs, self.pixel_probs, nodes.flatten(1, 2)))
            density = torch.cat([mode.new_empty(0), *(chunk.density.flatten() for chunk in chunks)])
            means = density.view(nodes.shape[:-1]) @ weights
            found = {k: (mode, (cap_area(k) * mean).clamp(max=1)) for k, mean in zip(small, means.T, strict=True)}
        else:
            # of a round mode with the probability of its basin
            chunks, rate = [undivided(self.pixel_probs)], self.log_prob(mode).exp() / basin
            found = {k: (mode, -basin * torch.expm1(-rate * cap_area(k))) for k in small}
        return found | best_caps(chunks, mode, large)


def cap_area(km: float) -> float:
    """Return the area of the disc of this radius on the unit sphere, in steradians."""
    return 4 * math.pi * math.sin(km / EARTH_RADIUS_KM / 2) ** 2


def disc_nodes(center: Tensor, radii_km: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return locations (n, T, P, 2) and weights (P,) of the mean over the discs of T radii about centers (n, 2).

    Gauss's rule over the area: three rings of six. The mean is exact to 1e-4 for a round mode of half the radius.
    """
    x, weight = np.polynomial.legendre.leggauss(3)
    angle = torch.arange(6, dtype=torch.float64) * (math.pi / 3)
    km = torch.tensor(radii_km, dtype=torch.float64)
    fall = 2 * (km[:, None] / EARTH_RADIUS_KM / 2).sin() ** 2 * torch.from_numpy(x + 1) / 2  # 1 - cos, (T, rings)
    height, away = (1 - fall)[..., None].expand(-1, -1, 6), (fall * (2 - fall)).sqrt()[..., None]
    nodes = torch.stack([away * angle.cos(), away * angle.sin(), height], dim=-1).flatten(1, 2)
    weights = torch.from_numpy(weight).repeat_interleave(6) / 12
    return from_unit_vector(nodes @ zoom.frame(center.double())[:, None]), weights
