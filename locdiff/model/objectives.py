"""What the network's output means, and the loss that it is trained by: one class a loss, all in this file.

An output is either the natural parameters e of the density q_e over locations (paper Eq. 11), or a prediction of the
clean encoding x_0 = sqrt(4 pi) PE, whose coefficients are those of a density itself. `Likelihood` is of the first kind;
`Regression` is what the others have in common.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import healpy
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from locdiff.model.calibration import Calibration
from locdiff.sphere import decoder, pixels, shdd
from locdiff.sphere.healpix import HealpixTransform, healpix_transform
from locdiff.sphere.spherical_harmonics import real_spherical_harmonics

ROOT_4_PI = math.sqrt(4 * math.pi)


class Objective(nn.Module, ABC):
    """The meaning of outputs (..., D) of the network, for the configuration of a model."""

    is_natural = False  # whether outputs are natural parameters, to which Bayes' rule adds what x_t says
    usual_steps = 10  # evaluations of the network a sample, where none are asked for

    def __init__(self, config):
        super().__init__()
        self.l_max = config.network.l_max
        self.calibration: Any = None  # a Calibration, of outputs that are natural parameters

    def random_anchors(self, device: torch.device) -> Tensor | None:
        """Return the anchors that the loss of one mini-batch integrates over, (N, 3) in any length, or None."""
        return None

    def calibrated(self, output: Tensor) -> Tensor:
        """Return an output (..., D) of the network with what does not depend on the picture."""
        return output if self.calibration is None else self.calibration(output)

    @abstractmethod
    def loss(self, output: Tensor, coeffs: Tensor, anchors: Tensor | None) -> Tensor:
        """Return the loss (n,) of outputs (n, D), given the encodings `coeffs` (n, D) of the true locations."""

    @abstractmethod
    def denoise(self, output: Tensor) -> Tensor:
        """Return the prediction of x_0, (..., D), that an output stands for."""

    @abstractmethod
    def coeffs(self, output: Tensor) -> Tensor:
        """Return the coefficients (..., D) that a posterior keeps: their largest F is at the mode."""

    def on_pixels(self, coeffs: Tensor, grid: HealpixTransform) -> Tensor:
        """Return F of `coeffs`, as the pixels of a grid have it, (..., N)."""
        return grid.synthesis(coeffs)

    @abstractmethod
    def pixel_probs(self, values: Tensor) -> Tensor:
        """Return the probabilities of pixels (..., N), given `on_pixels`."""

    @abstractmethod
    def log_prob(self, coeffs: Tensor, pixel_probs: Tensor, lat_lon: Tensor) -> Tensor:
        """Return the log density in nats per steradian at one location a picture, (n, 2) -> (n,)."""

    @abstractmethod
    def log_density(self, coeffs: Tensor, pixel_probs: Tensor, lat_lon: Tensor) -> Tensor:
        """Return the log densities at the same locations (m, 2) for all pictures, but for a constant each: (n, m)."""

    @abstractmethod
    def sample(
        self, output: Tensor, uniform: Tensor, grid: HealpixTransform, mode_seek, one_pass: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the locations (n, S, 2) that the last outputs (n, S, D) of a chain lead to, and their coefficients.

        `uniform` (n, S, 1) are random numbers, `mode_seek` the mode-seeking decoder of coefficients. With `one_pass`
        the chain has one step, from pure noise.
        """


class Likelihood(Objective):
    """The output is e; the loss is -log q_e of the true location, at every noise level.

    Its gradient is E_q[Y] - Y(location), and x_0 is predicted by the mean parameter, sqrt(4 pi) E_{q_e}[Y]. The degrees
    that the prior has above the network's are part of q_e. What they give the true location does not depend on the
    network, and is left out of the loss.

    The density of a posterior is (1 - share) q_e + share q_{factor e}, where `broad` = (share, factor): a calibrated
    model gives a share of the probability to a broader density with the same modes. Before calibration it is q_e.
    """

    is_natural, usual_steps = True, 1
    broad: Tensor

    def __init__(self, config):
        super().__init__(config)
        self.density_l_max = config.density_l_max
        self.calibration = Calibration(self.l_max, self.density_l_max, config.integration_nside)
        self.quadrature = HealpixTransform(self.l_max, config.integration_nside)
        self.register_buffer("broad", torch.tensor([0.0, 1.0]))

    def loss(self, output, coeffs, anchors):
        return self.quadrature.log_partition(output, self.calibration.added) - (output * coeffs).sum(dim=-1)

    def denoise(self, output):
        return ROOT_4_PI * self.quadrature.log_partition_and_mean(output, self.calibration.added)[1]

    def coeffs(self, output):
        return self.calibration.complete(output)

    def on_pixels(self, coeffs, grid):
        values = grid.synthesis(coeffs)
        return values + self.calibration.excess(grid.nside).to(values)

    @property
    def mixture(self) -> list[tuple[float, float]]:
        """The (w, f) of which the density is the sum of w q_{f e}."""
        share, factor = self.broad.cpu().tolist()
        return [(1 - share, 1.0), (share, factor)] if share else [(1.0, 1.0)]

    def pixel_probs(self, values):
        share, factor = self.broad.to(values)
        return torch.lerp(pixels.softmax(values), pixels.softmax(factor * values), share)

    def log_prob(self, coeffs, pixel_probs, lat_lon):
        if not len(coeffs):
            return pixel_probs.new_empty(0)
        nside = max(healpy.npix2nside(pixel_probs.shape[-1]), 4 * (self.l_max + 1), 3 * (self.density_l_max + 1) // 2)
        fine = healpix_transform(self.density_l_max, nside, device=self.quadrature.k.device)
        value, parts = (coeffs * shdd.encode(lat_lon, self.density_l_max)).sum(dim=-1), []
        for chunk, at in zip(coeffs.split(8), value.split(8), strict=True):  # in the processor's cache
            parts.append(self._log_density(at, fine.synthesis(chunk.to(fine.k.device))))
        return torch.cat(parts)

    def log_density(self, coeffs, pixel_probs, lat_lon):
        values = decoder.synthesis_at(coeffs, lat_lon)
        if not self.broad[0]:
            return values
        nside, parts = healpy.npix2nside(pixel_probs.shape[-1]), []
        grid = healpix_transform(self.density_l_max, nside, device=self.quadrature.k.device)
        for chunk, at in zip(coeffs.split(8), values.split(8), strict=True):  # in the processor's cache
            picture = torch.arange(len(chunk)).repeat_interleave(at.shape[1])
            parts.append(
                self._log_density(at.flatten(), grid.synthesis(chunk.to(grid.k.device)), picture).view(at.shape)
            )
        return torch.cat(parts) if parts else values

    def mass_above(self, coeffs: Tensor, lat_lon: Tensor, nside: int) -> Tensor:
        """Return the probability of all that is denser than one location a picture, (n, D) and (n, 2) -> (n,).

        It is counted by pixels of `nside`.
        """
        fine = healpix_transform(self.density_l_max, nside, device=self.quadrature.k.device)
        own = (coeffs * shdd.encode(lat_lon, self.density_l_max).to(coeffs)).sum(dim=-1, keepdim=True)
        found = [coeffs.new_empty(0)]
        for chunk, at in zip(coeffs.split(8), own.split(8), strict=True):  # in the processor's cache
            values = fine.synthesis(chunk.to(fine.k.device)).cpu()
            picture, pixel = (values > at).nonzero(as_tuple=True)  # few
            density = self._log_density(values[picture, pixel], values, picture).exp()
            mass = torch.zeros(len(chunk), dtype=density.dtype).index_add_(0, picture, density)
            found.append(mass * (math.pi / (3 * nside**2)))
        return torch.where(own[:, 0].isfinite(), torch.cat(found).clamp(max=1), torch.nan)

    def _log_density(self, at: Tensor, values: Tensor, picture: Tensor | slice = slice(None)) -> Tensor:
        """The log density where F is `at` (m,), by integrals over pixels with F `values` (n, N), of pictures (m,)."""
        (share, factor), log_area = self.broad.cpu().tolist(), math.log(4 * math.pi / values.shape[-1])
        sharp = at - pixels.logsumexp(values).cpu()[picture] - log_area
        if not share:
            return sharp
        broad = factor * at - pixels.logsumexp(factor * values).cpu()[picture] - log_area
        return torch.logaddexp(sharp + math.log1p(-share), broad + math.log(share))

    def sample(self, output, uniform, grid, mode_seek, one_pass):
        density = self.pixel_probs if one_pass else pixels.softmax  # to q_e Bayes' rule adds x_t
        pixel = [
            pixels.sample(density(self.on_pixels(self.coeffs(e), grid)), u)
            for e, u in zip(output.flatten(0, 1).split(64), uniform.to(output).flatten(0, 1).split(64), strict=True)
        ]
        places = grid.anchors[torch.cat(pixel).cpu()].view(*output.shape[:2], 2)
        return places, shdd.encode(places, self.l_max).to(output.dtype)


class Regression(Objective):
    """The output is x_0; where it is the mean over the posterior, its coefficients are those of the density, cut off
    at l_max. The coefficient of l = 0 is known: it is one in every x_0."""

    def denoise(self, output):
        return torch.cat([torch.ones_like(output[..., :1]), output[..., 1:]], dim=-1)

    def coeffs(self, output):
        return self.denoise(output) / ROOT_4_PI

    def pixel_probs(self, values):
        return pixels.from_linear(values)

    def log_prob(self, coeffs, pixel_probs, lat_lon):
        return pixels.log_prob(pixel_probs, lat_lon)

    def log_density(self, coeffs, pixel_probs, lat_lon):
        return pixels.log_density(pixel_probs, lat_lon)

    def sample(self, output, uniform, grid, mode_seek, one_pass):
        coeffs = self.coeffs(output)
        return mode_seek(coeffs), coeffs.cpu()


class ShddKL(Regression):
    """The paper's loss: KL(q_e || p) over random anchors (Eqs. 12 and 16), of e = x_0 / sqrt(4 pi)."""

    def __init__(self, config):
        super().__init__(config)
        self.temperature, self.anchors = config.objective.temperature, config.objective.anchors

    def random_anchors(self, device):
        return torch.randn(self.anchors, 3, dtype=torch.float64, device=device)

    def loss(self, output, coeffs, anchors):
        assert anchors is not None  # those of `random_anchors`
        x, y, z = anchors.T
        theta, phi = torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)
        basis = real_spherical_harmonics(theta, phi, self.l_max).to(output.dtype)
        return shdd.kl_divergence(output / ROOT_4_PI, coeffs, basis, self.temperature)


class L2(Regression):
    """The mean squared error of x_0, over its dimensions."""

    def loss(self, output, coeffs, anchors):
        return (output - ROOT_4_PI * coeffs).square().mean(dim=-1)


class L1(Regression):
    """The mean absolute error of x_0, over its dimensions."""

    def loss(self, output, coeffs, anchors):
        return (output - ROOT_4_PI * coeffs).abs().mean(dim=-1)


class Cosine(Regression):
    """1 - cosine of the angle between the output and x_0: it leaves the length free, which is known."""

    def loss(self, output, coeffs, anchors):
        return 1 - cosine_similarity(output, ROOT_4_PI * coeffs, dim=-1)

    def denoise(self, output):
        return super().denoise(normalize(output, dim=-1) * (self.l_max + 1))


OBJECTIVES: dict[str, type[Objective]] = {
    "likelihood": Likelihood, "shdd_kl": ShddKL, "l2": L2, "l1": L1, "cosine": Cosine,
}  # fmt: skip
