"""The configuration of a model, in groups; a checkpoint holds all of it."""

import dataclasses
import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from locdiff.errors import InputError
from locdiff.model.diffusion import SAMPLERS, SCHEDULES
from locdiff.model.objectives import OBJECTIVES
from locdiff.options import option

WIDEST, FINEST = 65_536, 4096  # layer, and nside: far beyond what anybody trains, to tell a slip from a size


@dataclass(frozen=True)
class NetworkConfig:
    """The representation of places and the denoising network."""

    l_max: int = option(23, "highest degree of the spherical harmonics, the paper's L; (l_max + 1)^2 dimensions")
    width: int = option(256, "bottleneck width w of the CS-UNet")
    depth: int = option(2, "number of C-Siren blocks, even")
    whiten: float = option(
        -1.0,
        "whiten the embeddings, with this share of their mean variance added in all directions; 0: as they are; "
        "-1: chosen by how well a ridge regression predicts locations from them",
    )
    time_dim: int = option(200, "width of the time embedding")
    dropout: float = option(0.0, "dropout in every C-Siren block")
    input_gate_snr: float = 10.0  # dimensions x signal-to-noise ratio at which a matched filter finds a place in x_t

    def __post_init__(self):
        _within(self, "width", 1, WIDEST)
        _within(self, "l_max", 0, 1000)
        _within(self, "depth", 2, 100)
        _within(self, "time_dim", 2, WIDEST)
        for name in ("depth", "time_dim"):
            _require(getattr(self, name) % 2 == 0, f"{name} must be even, got {getattr(self, name)}")
        _require(0 <= self.dropout < 1, f"dropout must lie in [0, 1), got {self.dropout}")
        if self.whiten != -1:  # to be chosen
            _within(self, "whiten", 0, 10**6)
        _within(self, "input_gate_snr", 1e-6, 10**6)

    @property
    def dimensions(self) -> int:
        """(l_max + 1)^2, the length of an encoding: the paper's d."""
        return (self.l_max + 1) ** 2


@dataclass(frozen=True)
class DiffusionConfig:
    """The noise schedule, and how often a batch is trained at which noise."""

    schedule: str = option("geometric", "noise schedule", SCHEDULES)
    noise_levels: int = option(100, "noise levels T of the schedule")
    snr_first: float = option(30.0, "geometric schedule: dimensions x signal-to-noise ratio at t = 1")
    snr_last: float = option(0.03, "geometric schedule: the same at t = T - 1; at t = T it is zero")
    snr_shift: float = option(1.0, "divide the signal-to-noise ratio at all t by this")
    p_pure_noise: float = option(
        0.8, "share of a batch that is trained at pure noise, the input of the one-pass density"
    )

    def __post_init__(self):
        _within(self, "noise_levels", 1, 100_000)
        _one_of(self, "schedule", SCHEDULES)
        for name in ("snr_first", "snr_last", "snr_shift"):
            _within(self, name, 1e-6, 10**6)  # beyond which 1 - alpha_bar is rounded to 0 or 1
        first, last = self.snr_first, self.snr_last
        _require(first > last, f"snr_first must be above snr_last, got {first} and {last}")
        _within(self, "p_pure_noise", 0, 1)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the network's output means, and the loss."""

    loss: str = option("likelihood", "training loss; shdd_kl is the paper's", tuple(OBJECTIVES))
    temperature: float = option(1.0, "temperature of the densities in shdd_kl; large tends to the squared error")
    anchors: int = option(2048, "random anchors a mini-batch in shdd_kl (paper Eq. 16)")
    prior_l_max: int = option(
        63, "highest degree of the prior, the density of the training locations (likelihood only); at least l_max"
    )
    exact_skip: bool = option(True, "add to the network's output what x_t says by Bayes' rule (likelihood only)")
    quadrature_nside: int = option(0, "HEALPix nside of the integrals in the likelihood; 0: as the noise demands")

    def __post_init__(self):
        _one_of(self, "loss", OBJECTIVES)
        _within(self, "anchors", 1, 10**8)
        _within(self, "temperature", 1e-6, 10**6)
        _within(self, "quadrature_nside", 0, FINEST)
        _within(self, "prior_l_max", 0, 255)  # beyond which its tables take gigabytes
        if self.exact_skip and not OBJECTIVES[self.loss].is_natural:
            raise InputError(f"exact_skip needs a loss of natural parameters, got {self.loss}: add --no-exact-skip")


@dataclass(frozen=True)
class RefinementConfig:
    """The refinement levels, which place a picture in coordinates zoomed in about the centers of cells."""

    levels: int = option(1, "levels of the hierarchy: 1, or more that refine the location in zoomed coordinates")
    zoom: float = option(8.0, "how far each level zooms in on the one above, about the center of a cell")
    zoom_l_max: int = option(15, "highest degree of the spherical harmonics in zoomed coordinates")
    zoom_width: int = option(512, "width of the network of refinement level 1")
    zoom_rank: int = option(64, "rank of the output layer that each cell of level 1 has for itself")
    cells: tuple[int, ...] = ()  # cells of each refinement level that there is; the last levels are fitted at the end
    subdivision: int = 8  # the cells of level k are HEALPix pixels of nside subdivision^k
    zoom_nside: int = 32  # of the pixels in zoomed coordinates: of the integrals and of the decoder
    narrowest: float = 1 / 3  # standard deviation of the narrowest mode whose integral those pixels give, in pixels
    knots: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)  # widths, in the stereographic plane, of ridge levels

    def __post_init__(self):
        object.__setattr__(self, "cells", tuple(self.cells))
        object.__setattr__(self, "knots", tuple(self.knots))
        for name in ("zoom_width", "zoom_rank"):
            _within(self, name, 1, WIDEST)
        for name in ("subdivision", "zoom_nside"):
            _within(self, name, 1, FINEST)
        power = self.subdivision & (self.subdivision - 1) == 0
        _require(power, f"subdivision must be a power of two, got {self.subdivision}")
        _within(self, "levels", 1, 5)  # beyond which a cell is smaller than 200 m
        _within(self, "zoom_l_max", 0, 3 * self.zoom_nside - 1)  # the highest degree that those pixels can hold
        if not (1 <= self.zoom and self.zoom ** (self.levels - 1) <= 4096):
            raise InputError(f"need zoom >= 1 and zoom^(levels - 1) <= 4096, got {self.zoom} and {self.levels} levels")
        _within(self, "narrowest", 0.01, 100)
        rising = all(a < b for a, b in pairwise((0, *self.knots)))
        _require(rising and self.knots, f"knots must rise from above 0, got {self.knots}")
        if len(self.cells) >= self.levels or not all(
            1 <= count <= 12 * self.subdivision ** (2 * k) for k, count in enumerate(self.cells, 1)
        ):
            raise InputError(f"cells {self.cells} are not those of levels 1 to {self.levels - 1}")


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained model is asked; a checkpoint only suggests these."""

    decoder_nside: int = option(64, "HEALPix nside of densities and of the anchors of the mode-seeking decoder")
    rho_km: float = option(150.0, "radius of the mode-seeking decoder (paper Eq. 17)")
    sample_steps: int = option(
        0, "steps of the sampler, each one evaluation of the network; 0: one step with likelihood, else ten"
    )
    sampler: str = option("ddim", "how samples are made: ddim, with noise, or DPM-Solver++(2M)", tuple(SAMPLERS))
    zoom_into: int = option(4, "cells that a picture's density is refined in, at each refinement level")

    def __post_init__(self):
        _within(self, "decoder_nside", 1, FINEST)
        _within(self, "zoom_into", 1, 10**6)
        _one_of(self, "sampler", SAMPLERS)
        _within(self, "rho_km", 0, 20_016)  # to the antipode
        _require(self.sample_steps >= 0, f"sample_steps must be at least 0, got {self.sample_steps}")


@dataclass(frozen=True)
class ModelConfig:
    """All that defines a model. Fields without a command-line option are inferred from the training data."""

    encoder: str = "unknown"
    embed_dim: int = 768
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self):
        _within(self, "embed_dim", 1, 10**6)
        if self.refinement.levels > 1 and not (self.objective_type.is_natural and self.network.whiten):
            raise InputError(
                "more levels than one need the likelihood loss and whitened embeddings: leave out --levels"
            )
        if self.sample_steps > self.diffusion.noise_levels:
            raise InputError(
                f"sample_steps must lie in 1..noise_levels = {self.diffusion.noise_levels}, got {self.sample_steps}"
            )

    @property
    def objective_type(self):
        """The class of the objective that the loss names."""
        return OBJECTIVES[self.objective.loss]

    @property
    def sample_steps(self) -> int:
        """Evaluations of the network a sample: those asked for, or as many as the objective needs."""
        usual = min(self.objective_type.usual_steps, self.diffusion.noise_levels)
        return self.inference.sample_steps or usual

    @property
    def samples_in_one_pass(self) -> bool:
        """Whether the reverse process is one evaluation at pure noise of a network that does not see it: then a sample
        is one of the one-pass density. The geometric schedule ends in pure noise."""
        return self.sample_steps == 1 and self.objective.exact_skip and self.diffusion.schedule == "geometric"

    @property
    def density_l_max(self) -> int:
        """The highest degree of the densities of level 0: by likelihood the prior may have more than the network."""
        l_max = self.network.l_max
        return max(l_max, self.objective.prior_l_max) if self.objective_type.is_natural else l_max

    @property
    def integration_nside(self) -> int:
        """quadrature_nside, or what the sharpest posterior needs, that of the first noise level: its width, about
        2 / sqrt(snr_first l_max (l_max + 2)) rad, is then 1.9 pixels; a multiple of 8."""
        l_max = self.network.l_max
        sharpness = math.sqrt(self.diffusion.snr_first * l_max * (l_max + 2))
        return self.objective.quadrature_nside or 8 * max(1, math.ceil(0.46 * sharpness / 2 / 8))

    def check(self, embeddings) -> None:
        """Raise InputError unless `embeddings` are finite and (n, embed_dim)."""
        shape = tuple(embeddings.shape)
        if len(shape) != 2 or shape[1] != self.embed_dim:
            raise InputError(
                f"embeddings of shape {shape} do not fit: this model takes (n, {self.embed_dim}) from the encoder "
                f"'{self.encoder}'"
            )
        if not torch.isfinite(torch.as_tensor(embeddings).float()).all():
            raise InputError("the embeddings hold NaN or infinity")

    def check_encoder(self, encoder: str) -> None:
        """Raise InputError if embeddings by `encoder` are not what the model was trained on."""
        if encoder != self.encoder:
            raise InputError(f"the embeddings are by '{encoder}', but this model was trained on '{self.encoder}'")

    def with_cells(self, *cells: int) -> "ModelConfig":
        """Return the configuration of a model with these numbers of cells, of levels 1, 2, ..."""
        return dataclasses.replace(self, refinement=dataclasses.replace(self.refinement, cells=cells))


def _require(holds, message):
    if not holds:
        raise InputError(message)


def _within(config, name, least, most):
    value = getattr(config, name)
    _require(least <= value <= most, f"{name} must lie in {least:,}..{most:,}, got {value}")


def _one_of(config, name, choices):
    value = getattr(config, name)
    _require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value}")
