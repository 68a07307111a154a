"""LocDiffusion: the network, its noise schedule and its objective; from image embeddings to posteriors."""

import math
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from locdiff.errors import InputError
from locdiff.memory import batch_size
from locdiff.model import diffusion, held_out, priors
from locdiff.model.cell_geometry import CellGeometry
from locdiff.model.checkpoint import PretrainedModel
from locdiff.model.config import ModelConfig
from locdiff.model.cs_unet import CSUNet
from locdiff.model.location_prior import prior_of
from locdiff.model.posterior import LocationPosterior, PixelPosterior
from locdiff.model.refined_posterior import refine
from locdiff.model.refinement import LowRankHeadLevel, RefinementLevel, calibrate_level, cell_priors, occupied_cells
from locdiff.model.reverse_process import ReverseProcess
from locdiff.model.reweighted_posterior import ReweightedPosterior
from locdiff.model.ridge import RidgeReadoutLevel, ridge_levels
from locdiff.model.training_data import TrainingData
from locdiff.model.whitening import fit_whitening
from locdiff.seeding import derive_seed
from locdiff.sphere import decoder, shdd
from locdiff.sphere.healpix import HealpixTransform


class LocDiffusion(PretrainedModel):
    """A conditional diffusion over SHDD encodings x = sqrt(4 pi) PE(location), given image embeddings.

    What the network's output means is said by its `objective`. By default it is what a picture adds to the prior; both
    together, `calibration`, are the natural parameters e of a density q_e over locations (paper Eq. 11), and the
    prediction of x_0 is its mean parameter, sqrt(4 pi) E_{q_e}[Y].
    """

    alpha_bar: Tensor
    objective: Any  # an Objective
    refinements: Any  # an nn.ModuleList of RefinementLevels, of which the first is a LowRankHeadLevel

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        n, d = config.network, config.diffusion
        if n.whiten < 0:
            raise InputError("whiten is -1, to be chosen from the data: training.settings.infer_data_fields does it")
        self.network = CSUNet(n.dimensions, config.embed_dim, n.width, n.depth, n.time_dim, n.dropout, n.whiten > 0)
        self.register_buffer("alpha_bar", diffusion.make_schedule(d, n.dimensions), persistent=False)
        self.bf16 = False  # whether the network runs in bfloat16
        self.objective = config.objective_type(config)
        self.grid = HealpixTransform(config.density_l_max, config.inference.decoder_nside)
        kinds = [LowRankHeadLevel, *[RidgeReadoutLevel] * config.refinement.levels]
        levels = [kinds[k](k + 1, count, config) for k, count in enumerate(config.refinement.cells)]
        self.refinements = nn.ModuleList(levels)

    def prepare(self, data: TrainingData) -> None:
        """Set what follows from the training data: the whitening, the prior, the cells of level 1 with their priors.

        Raises InputError if the embeddings cannot be whitened.
        """
        self.__dict__.pop("geometries", None)
        fit_whitening(self, data, self.config.network.whiten)
        lat_lon = torch.from_numpy(data.lat_lon)
        if self.calibration:
            self.calibration.set_prior(prior_of(lat_lon, self.config.density_l_max, self.device, data.photographers))
        for level in self.refinements:
            level.cell_id.copy_(occupied_cells(lat_lon, level.nside))
            level.prior.copy_(cell_priors(level, lat_lon))

    def finalize(self, data: TrainingData, validation: TrainingData | None = None, progress: bool = True) -> None:
        """Add what is fitted to the trained network: the refinement levels beyond the first, and the calibration of all
        levels by pictures that training has not seen, if there are any."""
        unseen = None if validation is None else validation.batch(range(len(validation)))
        if unseen:
            held_out.calibrate(self, *unseen)
        for level in ridge_levels(self.config, self.image_features, data, progress):
            if unseen:
                calibrate_level(level.to(self.device), self.image_features(unseen[0]), unseen[1])
            self.add_level(level)

    @property
    def calibration(self):
        """The Calibration of level 0, or None where the network's output is no natural parameters."""
        return self.objective.calibration

    validation_nats = held_out.validation_nats
    prior = property(priors.learned)
    prior_of = priors.of_places

    def add_level(self, level: RefinementLevel) -> None:
        """Let a level refine what the levels there are say."""
        self.config = self.config.with_cells(*self.config.refinement.cells, len(level.cell_id))
        self.refinements.append(level.to(self.device))
        self.__dict__.pop("geometries", None)

    def loss(self, embeddings: Tensor, lat_lon: Tensor, rank: int = 0, processes: int = 1) -> Tensor:
        """Return the loss of each picture of a batch at random noise levels, (n,); samples from the global generator.

        With refinement levels it is the sum of the losses of levels 0 and 1; further levels are fitted, not trained.

        embeddings (n, embed_dim) float32, lat_lon (n, 2) degrees: the share of process `rank` of a batch of
        processes x n, for all of which noise is sampled, so that sharing a batch does not change it. (Dropout's masks
        are then sampled by each process for itself.)
        """
        device, dimensions = embeddings.device, self.config.network.dimensions
        coeffs = shdd.encode_checked(lat_lon, self.config.network.l_max).to(embeddings.dtype)
        x_0 = math.sqrt(4 * math.pi) * coeffs
        share = slice(rank * len(x_0), (rank + 1) * len(x_0))
        t = self.random_times(processes * len(x_0))[share]
        noise = torch.randn(processes * len(x_0), dimensions, dtype=x_0.dtype, device=device)[share]
        x_t = diffusion.q_sample(x_0, self.alpha_bar[t - 1, None].to(x_0.dtype), noise)
        anchors = self.objective.random_anchors(device)
        uniform = torch.rand(processes * len(x_0), device=device)[share] if self.refinements else None
        if rank:
            torch.manual_seed(derive_seed(torch.initial_seed(), rank))
        loss = self.objective.loss(self(x_t, t, embeddings), coeffs, anchors)
        if uniform is not None:
            loss = loss + self.refinements[0].loss(self.network.whiten(embeddings), lat_lon, uniform)
        return loss

    def random_times(self, count: int) -> Tensor:
        """Return the times t that a batch of `count` pictures is trained at, (count,): random, or pure noise."""
        d = self.config.diffusion
        t = torch.randint(1, d.noise_levels + 1, (count,), device=self.alpha_bar.device)
        if d.p_pure_noise:
            t = torch.where(torch.rand(count, device=t.device) < d.p_pure_noise, d.noise_levels, t)
        return t

    def forward(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Return the network's output: x_t (..., D), t (...) in 1..T, embeddings (..., embed_dim) -> (..., D).

        With the exact skip the output is natural parameters: what Bayes' rule takes from x_t, plus the prior and what
        the network makes of the picture. The network itself then sees x_t only as far as a location can be read off
        it: a gate scales pure noise, which says nothing, to zero.
        """
        if not self.config.objective.exact_skip:
            return self.objective.calibrated(self._network(x_t, t, embeddings))
        alpha_bar = self.alpha_bar[t - 1][..., None]
        snr = self.config.network.dimensions * alpha_bar / (1 - alpha_bar)
        input_gate = (snr / (self.config.network.input_gate_snr + snr)).to(x_t.dtype)
        skip = diffusion.bayes_skip(1, alpha_bar).to(x_t.dtype) * x_t
        return self.objective.calibrated(self._network(input_gate * x_t, t, embeddings)) + skip

    def _network(self, x_t, t, embeddings):
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(x_t, t, embeddings).to(x_t.dtype)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.alpha_bar.device

    @torch.no_grad()
    def posterior(self, embeddings: Tensor) -> LocationPosterior:
        """Return what the model says about pictures, (n, embed_dim): from one evaluation of every level.

        `posterior_batch_size` pictures fit into the memory budget. Raises InputError if the embeddings do not fit.
        """
        coeffs = self.one_pass(embeddings)
        chunks = coeffs.split(batch_size(8 * len(self.grid.anchors)))
        values = (self.objective.on_pixels(chunk.to(self.device), self.grid) for chunk in chunks)
        probs = [self.objective.pixel_probs(chunk).cpu() for chunk in values]
        chain = None if self.config.samples_in_one_pass else ReverseProcess(self, embeddings)
        base = PixelPosterior(self.grid, self.objective, coeffs, torch.cat(probs), chain)
        if not self.refinements:
            return base
        features, cells_each = self.image_features(embeddings), self.config.inference.zoom_into
        return refine(base, self.refinements, self.geometries, features, cells_each)

    @property
    def posterior_batch_size(self) -> int:
        """How many pictures' posteriors fit into the memory budget, with what is computed from them."""
        points = 20 * len(self.grid.anchors)
        points += sum(self.config.inference.zoom_into * 6 * 12 * level.zoom_nside**2 for level in self.refinements)
        return batch_size(4 * points)

    @torch.no_grad()
    def one_pass(self, embeddings: Tensor) -> Tensor:
        """Return the coefficients of the density at pure noise, from one evaluation: (n, embed_dim) -> (n, D'), CPU.

        By likelihood they are the natural parameters of q_e, with the degrees that the prior has above the network's;
        else D' = D, and they are the coefficients of the density, cut off at l_max.
        """
        self.config.check(embeddings)
        dimensions, t = self.config.network.dimensions, torch.tensor(len(self.alpha_bar), device=self.device)
        noise = torch.randn(dimensions, generator=torch.Generator().manual_seed(0)).to(self.device)
        chunks = torch.as_tensor(embeddings).split(batch_size(256 * dimensions))
        outputs = [self.objective.coeffs(self(noise, t, self.on_device(chunk))).cpu() for chunk in chunks]
        return torch.cat(outputs)

    @torch.no_grad()
    def image_features(self, embeddings: Tensor) -> Tensor:
        """Return the features that refinement levels read, (n, embed_dim) -> (n, width), on the model's device."""
        return self.refinements[0].encode_image(self.network.whiten(self.on_device(embeddings)))

    @cached_property
    def geometries(self) -> list[CellGeometry]:
        """Where the points lie that the densities of level 0 and of every refinement level are made of."""
        levels = [None, *self.refinements, None]
        return [CellGeometry(self.grid.anchors, *pair, max(1, len(levels) - 3)) for pair in pairwise(levels)]

    def sample(
        self, embeddings: Tensor, count: int = 16, seed: int = 0, first: int = 0, *, steps: int = 0, sampler=None
    ) -> Tensor:
        """Return `count` locations a picture by the reverse process of level 0, (n, embed_dim) -> (n, count, 2).

        See `ReverseProcess`. `posterior(embeddings).sample` takes these through the refinement levels.
        """
        return ReverseProcess(self, embeddings, steps, sampler)(count, seed, first)[0]

    @torch.no_grad()
    def mode_seek(self, coeffs: Tensor) -> Tensor:
        """Return the locations (..., 2) that the mode-seeking decoder finds over the pixels, for (..., D) (Eq. 17)."""
        coeffs, anchors = coeffs.to(self.device), self.grid.anchors.to(self.device)
        return decoder.mode_seek(self.grid.synthesis, coeffs, anchors, self._neighborhoods)[0].cpu().double()

    @cached_property
    def _neighborhoods(self):
        return decoder.neighborhoods(self.grid.anchors, self.config.inference.rho_km)

    def on_device(self, embeddings) -> Tensor:
        """Return embeddings as float32 on the model's device."""
        return torch.as_tensor(embeddings).to(self.device, torch.float32)

    def __getstate__(self):  # its caches are its own
        return {name: value for name, value in self.__dict__.items() if name != "geometries"}


LocationPosterior._make_reweighted = ReweightedPosterior
