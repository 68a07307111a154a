"""LocDiffusion: the network, its noise schedule and its decoder; from image embeddings to densities and places."""

import contextlib
import dataclasses
import json
import math
import os
import warnings
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from locdiff import decoder, density, diffusion, shdd
from locdiff.answer import Answer, Atlas
from locdiff.cli import InputError, option
from locdiff.coordinates import geographic_center
from locdiff.cs_unet import CSUNet
from locdiff.hierarchy import HeadLevel
from locdiff.readouts import ReadoutLevel
from locdiff.spherical_harmonics import HealpixTransform

FORMAT_VERSION = 3
CHUNK = 2048  # vectors that are evaluated on the whole Earth at a time, of 192 kB each at nside 64
CHUNK_HELP = "samples and densities at a time: less takes less memory"
LOSSES = ("likelihood", "shdd_kl", "l2", "l1", "cosine")


@dataclass(frozen=True)
class ModelConfig:
    """All that a checkpoint must agree on. What has no option is read off the training data, as is embed_dim."""

    encoder: str = "unknown"
    embed_dim: int = 768
    l_max: int = option(23, "highest degree of the spherical harmonics, the paper's L; (l_max + 1)^2 dimensions")
    width: int = option(256, "bottleneck width w of the CS-UNet")
    depth: int = option(2, "number of C-Siren blocks, even")
    whiten: float = option(
        0.3, "whiten the embeddings, with this share of their mean variance added in all directions; 0: as they are"
    )
    time_dim: int = option(200, "width of the time embedding")
    dropout: float = option(0.0, "dropout in every C-Siren block")
    loss: str = option("likelihood", "training loss; shdd_kl is the paper's", LOSSES)
    temperature: float = option(1.0, "temperature of the densities in shdd_kl; large tends to the squared error")
    anchors: int = option(2048, "random anchors a mini-batch in shdd_kl (paper Eq. 16)")
    exact_skip: bool = option(True, "add to the network's output what x_t says by Bayes' rule (likelihood only)")
    schedule: str = option("geometric", "noise schedule", ("geometric", "cosine"))
    noise_levels: int = option(100, "noise levels T of the schedule")
    snr_first: float = option(30.0, "geometric schedule: dimensions x signal-to-noise ratio at t = 1")
    snr_last: float = option(0.03, "geometric schedule: the same at t = T - 1; at t = T it is zero")
    pure_noise: float = option(0.8, "share of a batch that is trained at pure noise, where one pass is made")
    shift: float = option(1.0, "divide the signal-to-noise ratio of all levels by this")
    quadrature_nside: int = option(0, "HEALPix nside of the integrals in the likelihood; 0: as the noise demands")
    decoder_nside: int = option(64, "HEALPix nside of densities and of the anchors of the mode-seeking decoder")
    rho_km: float = option(150.0, "radius of the mode-seeking decoder (paper Eq. 17)")
    sample_steps: int = option(
        0,
        "evaluations of the network a sample, DDIM if fewer than noise_levels; 0: one, or ten without likelihood",
    )
    levels: int = option(
        1, "levels of the hierarchy: 1, or more that refine the place in coordinates zoomed in further"
    )
    zoom: float = option(8.0, "how far each level zooms in on the one above, about the centre of a cell")
    zoom_l_max: int = option(15, "highest degree of the spherical harmonics in zoomed coordinates")
    zoom_width: int = option(512, "width of the second level's network")
    zoom_rank: int = option(64, "rank of the part of it that each cell has for itself")
    zoom_into: int = option(4, "cells that a picture's density is refined in, at each level")
    zoom_cells: tuple = ()  # how many cells each deeper level has that there is; the last ones are fitted at the end
    solver: str = option("ddim", "how samples are drawn: ddim, with noise, or DPM-Solver++(2M)", ("ddim", "dpm++"))

    def __post_init__(self):
        object.__setattr__(self, "zoom_cells", tuple(self.zoom_cells))
        if self.sample_steps == 0:
            steps = 1 if self.loss == "likelihood" else min(10, self.noise_levels)
            object.__setattr__(self, "sample_steps", steps)
        if self.exact_skip and self.loss != "likelihood":
            raise InputError(f"exact_skip needs the likelihood loss, got {self.loss}: add --no-exact-skip")
        if self.levels > 1 and (self.loss != "likelihood" or not self.whiten):
            raise InputError(
                "more levels than one need the likelihood loss and whitened embeddings: leave out --levels"
            )
        if not 1 <= self.levels <= 5:
            raise InputError(f"levels must lie in 1..5, beyond which a cell is smaller than 200 m; got {self.levels}")
        if not (1 <= self.zoom and self.zoom ** (self.levels - 1) <= 4096) or self.zoom_l_max < 0:
            raise InputError("need zoom >= 1, zoom^(levels - 1) <= 4096, and zoom_l_max >= 0")
        if len(self.zoom_cells) >= self.levels or min(self.zoom_cells, default=1) < 1:
            raise InputError(f"zoom_cells {self.zoom_cells} are not the cells of levels 1 to {self.levels - 1}")
        if not 1 <= self.sample_steps <= self.noise_levels:
            raise InputError(f"sample_steps must lie in 1..noise_levels = {self.noise_levels}, got {self.sample_steps}")
        if self.depth < 2 or self.depth % 2:
            raise InputError(f"depth must be an even number of blocks, at least 2, got {self.depth}")
        sizes = ("embed_dim", "width", "noise_levels", "decoder_nside", "anchors", "sample_steps")
        for name in (*sizes, "zoom_width", "zoom_rank", "zoom_into"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.time_dim < 2 or self.time_dim % 2:
            raise InputError(f"time_dim must be even, got {self.time_dim}")
        for name, choices in (("loss", LOSSES), ("schedule", ("geometric", "cosine")), ("solver", ("ddim", "dpm++"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)}")
        if not self.snr_first > self.snr_last > 0 or self.rho_km < 0 or self.quadrature_nside < 0:
            raise InputError("need snr_first > snr_last > 0, rho_km >= 0 and quadrature_nside >= 0")
        if not 0 <= self.pure_noise <= 1 or self.whiten < 0:
            raise InputError("need 0 <= pure_noise <= 1 and whiten >= 0")
        if self.l_max < 0 or not 0 <= self.dropout < 1 or self.temperature <= 0 or self.shift <= 0:
            raise InputError("need l_max >= 0, 0 <= dropout < 1, temperature > 0 and shift > 0")

    @property
    def integration_nside(self):
        """quadrature_nside, or what the sharpest posterior needs, that of the first level: its width, about
        2 / sqrt(snr_first l_max (l_max + 2)) rad, is then 1.9 pixels; a multiple of 8."""
        sharpness = math.sqrt(self.snr_first * self.l_max * (self.l_max + 2))
        return self.quadrature_nside or 8 * max(1, math.ceil(0.46 * sharpness / 2 / 8))

    @property
    def dimensions(self):
        """(l_max + 1)^2, the length of an encoding: the paper's d."""
        return (self.l_max + 1) ** 2


class LocDiffusion(nn.Module):
    """A conditional diffusion over SHDD encodings x = sqrt(4 pi) PE(place), given image embeddings.

    Trained by likelihood, the network gives the natural parameters e of a density q_e over places (paper Eq. 11), and
    the prediction of x_0 is its mean parameter, sqrt(4 pi) E_{q_e}[Y]. With any other loss it gives x_0 itself.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        c = config
        self.network = CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout, c.whiten > 0)
        if c.schedule == "cosine":
            alpha_bar = diffusion.cosine_schedule(c.noise_levels)
        else:
            signal = c.snr_first / c.dimensions, c.snr_last / c.dimensions
            alpha_bar = diffusion.geometric_schedule(c.noise_levels, *signal)
        self.register_buffer("alpha_bar", diffusion.shift_schedule(alpha_bar, c.shift), persistent=False)
        self.readable = 10.0  # dimensions x signal-to-noise ratio at which a matched filter finds a place in x_t
        self.bf16 = False  # whether the network runs in bfloat16
        self.chunk = CHUNK  # less takes less memory
        self.quadrature = HealpixTransform(c.l_max, c.integration_nside)
        self.grid = HealpixTransform(c.l_max, c.decoder_nside)
        kinds = [HeadLevel, *[ReadoutLevel] * c.levels]
        self.deeper = nn.ModuleList(kinds[k](k + 1, cells, c) for k, cells in enumerate(c.zoom_cells))

    @cached_property
    def anchors(self):
        """Pixel centres of the densities and of the decoder, (N, 2) degrees, float64 on the CPU."""
        return decoder.healpix_anchors(self.config.decoder_nside)

    @cached_property
    def atlas(self):
        """Where the points lie that the densities of all levels are made of."""
        return Atlas(self)

    @cached_property
    def _neighbourhoods(self):
        return decoder.neighbourhoods(self.anchors, self.config.rho_km)

    def add_level(self, level):
        """Let a level, a `hierarchy.Level`, refine what the levels there are say."""
        self.config = dataclasses.replace(self.config, zoom_cells=(*self.config.zoom_cells, len(level.cells)))
        self.deeper.append(level)
        self.__dict__.pop("atlas", None)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "atlas"}  # its caches are its own

    def forward(self, x_t, t, embeddings):
        """The network's output: x_t (..., D), t (...) in 1..T, embeddings (..., embed_dim) -> (..., D).

        With the exact skip the output is natural parameters: what Bayes' rule takes from x_t, plus what the network
        makes of the picture. The network itself then sees x_t only as far as a place can be read off it: pure noise,
        which tells it nothing, is scaled to zero.
        """
        if not self.config.exact_skip:
            return self._network(x_t, t, embeddings)
        alpha_bar = self.alpha_bar[t - 1][..., None]
        signal = self.config.dimensions * alpha_bar / (1 - alpha_bar)
        visible = (signal / (self.readable + signal)).to(x_t.dtype)
        skip = diffusion.bayes_skip(1, alpha_bar).to(x_t.dtype) * x_t
        return self._network(visible * x_t, t, embeddings) + skip

    def _network(self, x_t, t, embeddings):
        with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self.bf16):
            return self.network(x_t, t, embeddings).to(x_t.dtype)

    def draw_levels(self, count):
        """The noise levels t that a batch of `count` pictures is trained at, (count,): random, or pure noise."""
        t = torch.randint(1, self.config.noise_levels + 1, (count,), device=self.alpha_bar.device)
        if self.config.pure_noise:
            t[torch.rand(count, device=t.device) < self.config.pure_noise] = self.config.noise_levels
        return t

    def loss(self, embeddings, lat_lon, rank=0, processes=1):
        """Loss of each of a batch at random noise levels, (n,); draws from the global random generator. With more
        levels, the sum of the first two levels' losses; further ones are not trained but fitted.

        embeddings (n, embed_dim) float32, lat_lon (n, 2) degrees: the share of process `rank` of a batch of
        processes x n, for all of which noise is drawn, so that sharing a batch does not change it. (Dropout's masks
        are then drawn by each process for itself.)
        """
        c, device = self.config, embeddings.device
        coeffs = shdd.encode(lat_lon, c.l_max).to(embeddings.dtype)
        x_0 = math.sqrt(4 * math.pi) * coeffs
        share = slice(rank * len(x_0), (rank + 1) * len(x_0))
        t = self.draw_levels(processes * len(x_0))[share]
        noise = torch.randn(processes * len(x_0), c.dimensions, dtype=x_0.dtype, device=device)[share]
        x_t = diffusion.q_sample(x_0, self.alpha_bar[t - 1, None].to(x_0.dtype), noise)
        anchors = torch.randn(c.anchors, 3, dtype=torch.float64, device=device) if c.loss == "shdd_kl" else None
        uniform = torch.rand(processes * len(x_0), device=device)[share] if self.deeper else None
        if rank:
            torch.manual_seed(derive_seed(torch.initial_seed(), rank))
        output = self(x_t, t, embeddings)
        if c.loss == "likelihood":
            loss = self.quadrature.log_partition(output) - (output * coeffs).sum(dim=-1)
            if self.deeper:
                loss = loss + self.deeper[0].loss(self.network.see(embeddings), lat_lon, uniform)
            return loss
        if c.loss == "shdd_kl":
            x, y, z = anchors.T
            theta, phi = torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)
            basis = shdd.real_spherical_harmonics(theta, phi, c.l_max).to(output.dtype)
            return shdd.kl_divergence(output / math.sqrt(4 * math.pi), coeffs, basis, c.temperature)
        if c.loss == "cosine":
            return 1 - nn.functional.cosine_similarity(output, x_0, dim=-1)
        error = output - x_0
        return error.abs().mean(dim=-1) if c.loss == "l1" else error.square().mean(dim=-1)

    def denoise(self, x_t, t, embeddings):
        """The prediction of x_0 from x_t, same shape; its coefficient of l = 0, which is known, is set to one."""
        output = self(x_t, t, embeddings)
        if self.config.loss == "likelihood":
            return math.sqrt(4 * math.pi) * self.quadrature.moments(output)[1]
        if self.config.loss == "cosine":  # the loss leaves the length free; every clean encoding has this one
            output = nn.functional.normalize(output, dim=-1) * (self.config.l_max + 1)
        return torch.cat([torch.ones_like(output[..., :1]), output[..., 1:]], dim=-1)

    @torch.no_grad()
    def sample(self, embeddings, samples=16, steps=None, eta=1.0, seed=0, first=0, solver=None):
        """Coefficients of `samples` random places a picture: (n, embed_dim) -> (n, samples, D).

        `steps` levels of the schedule are used by the `solver` (defaults: the configuration's); eta as in
        `diffusion.ddim_step`. Pictures and samples are one batch, of at most `chunk` vectors at a time. At the
        last level a model trained by likelihood knows the density of the place, and draws the place from it; any other
        model gives its last prediction of x_0. A picture's noise follows from the seed and its position, `first` being
        that of the first.
        """
        self.check(embeddings)
        if samples < 1 or seed < 0:
            raise InputError(f"need samples >= 1 and seed >= 0, got {samples} and {seed}")
        size, chunks = max(1, self.chunk // samples), []
        for start in range(0, len(embeddings), size):
            chunk = self._on_device(embeddings[start : start + size])[:, None]
            seeds = [derive_seed(seed, first + start + i) for i in range(len(chunk))]
            random = PictureNoise(seeds, samples, self.alpha_bar.device)

            def denoise(x_t, t, chunk=chunk):
                return self.denoise(x_t, torch.tensor(t, device=x_t.device), chunk)

            def finish(x_t, t, chunk=chunk, random=random):
                return self._draw(self(x_t, torch.tensor(t, device=x_t.device), chunk), random.uniform())

            draw, count = partial(random.normal, self.config.dimensions), steps or self.config.sample_steps
            is_density = self.config.loss == "likelihood"
            last, how = finish if is_density else denoise, solver or self.config.solver
            x_0 = diffusion.sample(denoise, draw, self.alpha_bar, count, eta, last, how)
            chunks.append(x_0.cpu() / math.sqrt(4 * math.pi))
        return torch.cat(chunks) if chunks else torch.empty(0, samples, self.config.dimensions)

    def _draw(self, natural, uniform):
        """x_0 of a pixel drawn from q_e by its cumulative distribution: e (n, S, D), uniform (n, S, 1) -> (n, S, D)."""
        pixel = [
            torch.searchsorted(torch.softmax(self.grid.synthesis(e), dim=-1).cumsum(dim=-1), u)
            for e, u in zip(natural.flatten(0, 1).split(64), uniform.flatten(0, 1).split(64), strict=True)
        ]
        places = self.anchors[torch.cat(pixel)[:, 0].clamp(max=len(self.anchors) - 1).cpu()]
        coeffs = shdd.encode(places, self.config.l_max).to(natural)
        return math.sqrt(4 * math.pi) * coeffs.view(natural.shape)

    @torch.no_grad()
    def decode(self, coeffs):
        """Mode-seeking decoder over the HEALPix anchors: (..., D) -> places (..., 2) in degrees."""
        coeffs = coeffs.to(self.alpha_bar.device)
        lat_lon, _ = decoder.seek(self.grid.synthesis, coeffs, self.anchors.to(coeffs.device), self._neighbourhoods)
        return lat_lon.cpu()

    @torch.no_grad()
    def one_pass(self, embeddings):
        """The network's answer at pure noise, from one evaluation: (n, embed_dim) -> coefficients (n, D) on the CPU.

        Trained by likelihood these are the natural parameters of the density q_e of the place. Otherwise they are the
        coefficients of the density itself, cut off at l_max.
        """
        self.check(embeddings)
        noise = torch.randn(self.config.dimensions, generator=torch.Generator().manual_seed(0))
        noise, t = noise.to(self.alpha_bar.device), torch.tensor(self.config.noise_levels, device=self.alpha_bar.device)
        chunks = []
        for chunk in torch.as_tensor(embeddings).split(self.chunk):
            chunk = self._on_device(chunk)
            if self.config.loss == "likelihood":
                chunks.append(self(noise, t, chunk).cpu())
            else:
                chunks.append(self.denoise(noise.expand(len(chunk), -1), t, chunk).cpu() / math.sqrt(4 * math.pi))
        return torch.cat(chunks) if chunks else torch.empty(0, self.config.dimensions)

    @torch.no_grad()
    def answer(self, embeddings):
        """The density of each picture, from one evaluation of every level."""
        return Answer(self, embeddings)

    def density(self, embeddings):
        """Probability of each HEALPix pixel of `anchors`, from one network evaluation: (n, embed_dim) -> (n, N)."""
        return self.answer(embeddings).shares

    @torch.no_grad()
    def see(self, embeddings):
        """What the deeper levels see in embeddings (n, embed_dim), on the model's device; None without such levels."""
        return self.deeper[0].see(self.network.see(self._on_device(embeddings))) if self.deeper else None

    def sample_places(self, embeddings, samples=16, seed=0, first=0):
        """Random places a picture, through all levels: (n, embed_dim) -> (n, samples, 2) degrees; see `sample`."""
        parts = []
        for start in range(0, len(embeddings), self.answers):
            part, own = embeddings[start : start + self.answers], first + start
            places = self.decode(self.sample(part, samples, seed=seed, first=own))
            parts.append(self.refine(self.answer(part), places, seed, own) if self.deeper else places)
        return torch.cat(parts) if parts else torch.empty(0, samples, 2, dtype=torch.float64)

    @property
    def answers(self):
        """How many pictures' answers are made at a time: each cell of a deeper level takes three times as many numbers
        as level 0."""
        return max(1, self.chunk // max(1, 3 * self.config.zoom_into * len(self.deeper)))

    @torch.no_grad()
    def refine(self, answer, places, seed=0, first=0):
        """Samples of level 0 (n, S, 2) taken through the deeper levels, if there are any; see `Answer.refine`."""
        if not len(places):
            return places
        return answer.refine(places, [derive_seed(seed, first + i, 1) for i in range(len(places))])

    def to_density(self, coeffs):
        """The density (n, N) that the result of `one_pass` (n, D) stands for; see `density.from_linear`."""
        parts = [
            self.grid.synthesis(chunk.to(self.alpha_bar.device)) for chunk in coeffs.split(max(1, self.chunk // 2))
        ]
        turn = partial(torch.softmax, dim=-1) if self.config.loss == "likelihood" else density.from_linear
        return torch.cat([turn(part).cpu() for part in parts]) if parts else torch.empty(0, len(self.anchors))

    def density_coeffs(self, shares):
        """Coefficients (n, D'), up to degree 2 decoder_nside, of densities over pixels (n, N): for `best_within`."""
        nside = self.config.decoder_nside
        transform = decoder.healpix_transform(2 * nside, nside, device=self.alpha_bar.device)
        return transform.analysis(shares.to(self.alpha_bar.device)).cpu()

    @torch.no_grad()
    def modes(self, coeffs, shares, k=1):
        """The k most probable hills of the densities of `one_pass` (n, D), `shares` (n, N) being those densities.

        Returns the places of their tops (n, k, 2), exact, and their probabilities (n, k), zero where there are fewer;
        see `density.modes`. With fewer than k everywhere, k is the largest number of them.
        """
        pixel, probability = self.hills(shares, k)
        return self.climb(coeffs, self.anchors[pixel]), probability

    def hills(self, shares, k, top=None):
        """Pixels of the tops of the k most probable hills, (n, k), and their probabilities; as in `modes`."""
        pixel, probability = density.modes(shares, k, top)
        found = max(1, int((probability > 0).sum(dim=-1).max())) if len(shares) else k
        return pixel[:, :found], probability[:, :found]

    @torch.no_grad()
    def climb(self, coeffs, places):
        """The tops of the densities of `one_pass` (n, D) next to the places (n, k, 2): (n, k, 2)."""
        device, nside = self.alpha_bar.device, self.config.decoder_nside
        tops = [
            decoder.climb(e.to(device), place.to(device), nside)[0].cpu()
            for e, place in zip(coeffs.split(64), places.split(64), strict=True)
        ]
        return torch.cat(tops) if tops else places

    @torch.no_grad()
    def log_likelihood(self, coeffs, shares, lat_lon):
        """Log density in nats per steradian at the places (n, 2), (n), by the result of `one_pass` and its densities.

        Of a model trained by likelihood that of q_e at the place, its integral by a fine quadrature; of any other that
        of the pixel.
        """
        if self.config.loss != "likelihood" or not len(coeffs):
            return density.log_likelihood(shares, lat_lon)
        l_max, device = self.config.l_max, self.alpha_bar.device
        fine = decoder.healpix_transform(l_max, max(self.config.decoder_nside, 4 * (l_max + 1)), device=device)
        log_z = torch.cat([fine.moments(e.to(device))[0].cpu() for e in coeffs.split(self.chunk)])
        return (coeffs * shdd.encode(lat_lon, self.config.l_max)).sum(dim=-1) - log_z

    def predict(self, pictures_or_embeddings, samples=16, top_k=1, seed=0, weights=None, first=0):
        """Where the pictures were taken: a list of `Prediction`, each with at most `top_k` places.

        Takes embeddings (n, embed_dim), or a list of picture files if the model knows the encoder of its embeddings
        (`weights` is the file of the encoder's weights, if they came from one).
        `samples` places a picture are drawn too, for the paper's prediction; zero draws none. They follow from the seed
        and a picture's position, `first` being that of the first.
        """
        embeddings = pictures_or_embeddings
        if isinstance(embeddings, (list, tuple)):
            from locdiff.embed import embed_pictures, encoder_of

            encoder = encoder_of(self.config.encoder, weights, self.alpha_bar.device)
            embeddings = embed_pictures(embeddings, encoder).view(-1, self.config.embed_dim)
        predictions = []
        if isinstance(embeddings, np.ndarray):
            embeddings = torch.from_numpy(np.array(embeddings))  # a copy: the array may be read-only
        for chunk in embeddings.split(max(1, min(self.answers, 2**23 // len(self.anchors)))):
            answer = self.answer(chunk)
            drawn = torch.empty(len(chunk), 0, 2)
            if samples:
                own = first + len(predictions)
                drawn = self.refine(answer, self.decode(self.sample(chunk, samples, seed=seed, first=own)), seed, own)
            centers = geographic_center(drawn)
            places, probability = answer.modes(top_k)
            within = answer.best_within(places[:, 0])
            radii = [answer.radius_holding(share, places[:, 0]) for share in (0.5, 0.9)]
            _, areas = density.regions(answer.shares)
            for i in range(len(chunk)):
                found = probability[i] > 0
                predictions.append(
                    Prediction(
                        places=places[i][found].tolist(),
                        probabilities=probability[i][found].tolist(),
                        within={k: (*place[i].tolist(), mass[i].item()) for k, (place, mass) in within.items()},
                        radius_50_km=radii[0][i].item(),
                        radius_90_km=radii[1][i].item(),
                        area_50_km2=areas[i, 0].item(),
                        area_90_km2=areas[i, 1].item(),
                        samples=drawn[i].tolist(),
                        center=centers[i].tolist(),
                    )
                )
        return predictions

    def check(self, embeddings):
        """Raise InputError unless `embeddings` are finite and (n, embed_dim)."""
        shape = tuple(embeddings.shape)
        if len(shape) != 2 or shape[1] != self.config.embed_dim:
            raise InputError(
                f"embeddings of shape {shape} do not fit: this model takes (n, {self.config.embed_dim}) "
                f"from the encoder '{self.config.encoder}'"
            )
        if not torch.isfinite(torch.as_tensor(embeddings).float()).all():
            raise InputError("the embeddings hold NaN or infinity")

    def check_encoder(self, encoder):
        """Raise InputError if embeddings by `encoder` are not what this model was trained on."""
        if encoder != self.config.encoder:
            raise InputError(
                f"the embeddings are by '{encoder}', but this model was trained on '{self.config.encoder}'"
            )

    def _on_device(self, embeddings):
        return torch.as_tensor(embeddings).to(self.alpha_bar.device, torch.float32)

    def save(self, folder):
        """Write config.json and model.safetensors into `folder`, each at once or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self.config)
        write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / "model.safetensors", lambda path: save_file(state, path))

    @classmethod
    def load(cls, folder, device=None, local_files_only=False):
        """The model in `folder`, ready for prediction, on `device` (default: a GPU if there is one).

        Where there is no such folder, OWNER/NAME is a model on the Hugging Face Hub, which is downloaded once; with
        `local_files_only` only what was downloaded before is looked for.
        """
        folder = find_model(folder, local_files_only)
        model = cls(read_config(folder))
        path = Path(folder) / "model.safetensors"
        try:
            model.load_state_dict(load_file(path))
        except FileNotFoundError:
            raise InputError(f"{path} is missing: has this run been trained?") from None
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} does not fit its config.json or is damaged: {error}") from None
        if len(model.deeper) < model.config.levels - 1 and model.deeper:
            missing = (
                f"{folder}: {len(model.deeper) + 1} of {model.config.levels} levels are there: either its training has"
            )
            warnings.warn(
                f"{missing} not ended (python -m locdiff.train --resume), or its places are too few", stacklevel=2
            )
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return model.to(device).eval()


@dataclass(frozen=True)
class Prediction:
    """Where one picture was taken, most probable places first; degrees, km and km^2."""

    places: list  # [lat, lon] of the top of each hill of the density
    probabilities: list  # that the picture was taken on that hill
    within: dict  # {k: (lat, lon, probability)}: the place with the most probability within k km of it
    radius_50_km: float  # around the first place
    radius_90_km: float
    area_50_km2: float  # of the smallest region that holds 50 %
    area_90_km2: float
    samples: list  # [lat, lon] of places drawn from the diffusion
    center: list  # the paper's prediction, the geographic centre of the samples; NaN where there is none


class PictureNoise:
    """Random numbers (pictures, samples, ...) with a generator for each picture, drawn on the CPU."""

    def __init__(self, seeds, samples, device):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.samples, self.device = samples, device

    def normal(self, dimensions):
        draws = [torch.randn(self.samples, dimensions, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device)

    def uniform(self):
        return torch.stack([torch.rand(self.samples, 1, generator=g) for g in self.generators]).to(self.device)


def derive_seed(*numbers):
    """One 32-bit seed from several non-negative numbers; torch's CPU generator looks at no more bits than these."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def find_model(name, local_files_only=False):
    """The folder of that name, or else that of the downloaded model OWNER/NAME of the Hugging Face Hub."""
    owner, _, rest = str(name).partition("/")
    if Path(name).is_dir() or not rest or "/" in rest or Path(owner).is_dir() or owner in ("", "~"):
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        wanted = ["config.json", "model.safetensors"]
        return Path(snapshot_download(str(name), allow_patterns=wanted, local_files_only=local_files_only))
    except (OSError, ValueError) as error:  # no network, no such model, no such name
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is neither a folder nor a model that can be had from the Hugging Face Hub: {reason}; give the "
            "folder of a training run"
        ) from None


def read_config(folder):
    """The ModelConfig in folder/config.json; InputError if it is missing, damaged or of another format."""
    path = Path(folder) / "config.json"
    try:
        values = json.loads(path.read_text())
        version = values.pop("format_version")
    except FileNotFoundError:
        raise InputError(f"{path} is missing: give the folder of a training run") from None
    except (json.JSONDecodeError, KeyError, AttributeError) as error:
        raise InputError(f"{path} is no model configuration ({error!r})") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, this program reads version {FORMAT_VERSION}")
    unknown = set(values) - {f.name for f in dataclasses.fields(ModelConfig)}
    if unknown:
        raise InputError(f"{path} holds unknown settings: {', '.join(sorted(unknown))}")
    return ModelConfig(**values)


def write_atomically(path, write):
    """Call write(temporary path), then put the result at `path`: a full disk or a kill leaves the old file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"cannot write {path}: {error}; see that the folder exists and has room") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
