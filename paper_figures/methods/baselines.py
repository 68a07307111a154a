"""The other families of geolocalisation methods, on the same frozen image embeddings as LocDiffusion.

`kernel_density` compares with a gallery. The others are trained: modules with `loss(embeddings, lat_lon)`, which
`train.Trainer` takes, and `predict(embeddings)`, places (n, 2) in degrees, float64 on the CPU. `FAMILIES` names them.
All stand on the same trunk, about as large as the network of LocDiffusion; what their heads weigh comes on top.
"""

import dataclasses
import math
from functools import partial

import healpy
import numpy as np
import torch
from torch import nn
from tqdm import trange

from locdiff.errors import InputError
from locdiff.evaluation.retrieval import nearest
from locdiff.model import diffusion
from locdiff.model.cs_unet import CSUNet, Whitening, sinusoidal_embedding
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.seeding import PictureNoise, derive_seed
from locdiff.sphere.coordinates import (
    EARTH_RADIUS_KM,
    from_unit_vector,
    geographic_center,
    great_circle_km,
    to_unit_vector,
)
from locdiff.training.trainer import Trainer

CHUNK = 256  # pictures that are predicted at a time
LARGEST_NSIDE = 4096  # of the cells: 1.6 km


def kernel_density(queries, gallery, k=100, sigma_deg=4.0, progress=True):
    """[L]kNN of Vo et al. (2017), "Revisiting IM2GPS in the deep learning era": (n, d) -> places (n, 2).

    Of the k pictures of the gallery (Embeddings) nearest by cosine, the place of the one at which the density
    sum_i w_i exp(-d_i^2 / 2 sigma^2) is largest. As in the authors' program, their `predict_gps.m`, k is 100, sigma is
    in degrees, and w_i is the squared Euclidean distance of the normalised features to the power -10, here
    (1 - cosine)^-10. Two things differ: d_i is measured along great circles, not on a grid of latitudes and longitudes,
    and the density is compared at the neighbours only, where theirs takes the most similar one within 100 km of its
    peak. ValueError unless k >= 1 and sigma_deg > 0.
    """
    if k < 1 or not sigma_deg > 0:
        raise ValueError(f"need k >= 1 and sigma_deg > 0, got {k} and {sigma_deg}")
    cosine, position = nearest(queries, gallery, k, progress)
    log_weight = -10 * (1 - cosine.double()).clamp(min=1e-7).log()  # 1e-7: the rounding of a cosine
    found = []
    for rows, weight in zip(position.split(CHUNK), log_weight.split(CHUNK), strict=True):
        places = torch.from_numpy(gallery.lat_lon)[rows]
        distance = torch.rad2deg(great_circle_km(places[:, :, None], places[:, None]) / EARTH_RADIUS_KM)
        best = torch.logsumexp(weight[:, None] - (distance / sigma_deg) ** 2 / 2, dim=-1).argmax(dim=-1)
        found.append(places[torch.arange(len(places)), best])
    return torch.cat(found)


def trunk(config, out, extra=0):
    """An MLP of three hidden layers with GELU: (..., embed_dim + extra) -> (..., out).

    It is so wide that, without its head and the `extra` inputs, it has the parameters of the CS-UNet of `config`: 2.1
    million by default, at a width of 845.
    """
    c = config
    with torch.device("meta"):
        network = CSUNet(c.dimensions, c.embed_dim, c.width, c.depth, c.time_dim, c.dropout)
    linear = c.embed_dim + 3  # parameters = 2 w^2 + linear w
    w = round((math.sqrt(linear**2 + 8 * sum(p.numel() for p in network.parameters())) - linear) / 4)
    layers = [Whitening(c.embed_dim)] if c.whiten else []
    for inputs in (c.embed_dim + extra, w, w):
        layers += [nn.Linear(inputs, w), nn.GELU(), nn.Dropout(c.dropout)]
    return nn.Sequential(*layers, nn.Linear(w, out))


class Baseline(nn.Module):
    """What the trained families share: the configuration, and `predict` by way of `place`."""

    check = LocDiffusion.check

    def __init__(self, config):
        super().__init__()
        self.config = config

    @torch.no_grad()
    def predict(self, embeddings):
        """The places (n, 2) of embeddings (n, embed_dim); InputError if they do not fit or are not finite."""
        places = [self.place(chunk).cpu().double() for chunk in self._chunks(embeddings, CHUNK)]
        return torch.cat(places) if places else torch.empty(0, 2, dtype=torch.float64)

    def _chunks(self, embeddings, size):
        self.check(embeddings)
        device = next(self.parameters()).device
        return (chunk.to(device, torch.float32) for chunk in torch.as_tensor(embeddings).split(size) if len(chunk))


class Partition:
    """A quadtree of HEALPix cells (NESTED): a cell is split while it holds more than n_max of the places (n, 2).

    No cell is split beyond `largest_nside`, a power of two, and cells that hold none of the places do not exist. With a
    `seed` the sphere is first turned at random, which moves the borders. A cell is a range starts <= pixel < ends of
    the pixels of the largest nside, which NESTED order keeps together; its representative, in `centers` (C, 2), is the
    geographic centre of its places. ValueError unless there are places and n_max >= 1.
    """

    def __init__(self, lat_lon, n_max, seed=None, largest_nside=LARGEST_NSIDE):
        if not len(lat_lon) or n_max < 1:
            raise ValueError(f"need places and n_max >= 1, got {len(lat_lon)} and {n_max}")
        self.nside = largest_nside
        self.rotation = np.eye(3) if seed is None else np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        pixel, size, starts, ends = self._pixel(lat_lon), largest_nside**2, [], []
        while size:
            cell, own, count = np.unique(pixel // size, return_inverse=True, return_counts=True)
            leaf = (count <= n_max) | (size == 1)
            starts.append(cell[leaf] * size)
            ends.append(cell[leaf] * size + size)
            pixel, size = pixel[~leaf[own]], size // 4
        self.starts, self.ends = np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends))
        self.centers = _centers(lat_lon, self.find(lat_lon), len(self.starts))

    def _pixel(self, lat_lon):
        xyz = to_unit_vector(lat_lon.cpu().double()).numpy() @ self.rotation.T
        return healpy.vec2pix(self.nside, *xyz.T, nest=True)

    def find(self, lat_lon):
        """The cell of each of the places (n, 2), or -1 where there is none, (n,) on the CPU."""
        pixel = self._pixel(lat_lon)
        cell = np.searchsorted(self.starts, pixel, side="right") - 1
        return torch.from_numpy(np.where((cell >= 0) & (pixel < self.ends[cell]), cell, -1))

    def labels(self, lat_lon):
        """The same, but where there is no cell the one with the nearest representative."""
        cell, lat_lon = self.find(lat_lon), lat_lon.cpu()
        for i in (cell < 0).nonzero()[:, 0]:
            cell[i] = great_circle_km(lat_lon[i], self.centers).argmin()
        return cell


def _centers(lat_lon, group, count):
    """The geographic centre of the places (n, 2) of each group (n,) in 0..count - 1: (count, 2)."""
    xyz = to_unit_vector(lat_lon.cpu().double())
    return from_unit_vector(xyz.new_zeros(count, 3).index_add_(0, group, xyz))


def smoothed_labels(lat_lon, centers, tau_km):
    """Labels smoothed by distance (Haas et al. 2024), each summing to one: (n, 2) x (C, 2) -> (n, C).

    They are proportional to exp(-(d(x, centre_i) - d(x, centre of x's cell)) / tau). Scaled to one, the second distance
    cancels: as tau tends to zero all weight goes to the nearest centre, be it that of x's own cell or not. (The paper
    does not scale them; the authors' program subtracts the distance to the nearest centre.)
    """
    return torch.softmax(-great_circle_km(lat_lon[:, None], centers) / tau_km, dim=-1)


class CellClassifier(Baseline):
    """Classification of the picture into cells, by one linear head for each of the partitions of the Earth.

    The prediction is a candidate: the geographic centre of the training places (n, 2) that share their cells in all
    partitions. Its probability is the product of those of its cells, scaled to one over the candidates.

    - One partition: PlaNet (Weyand et al. 2016); the candidates are the cells.
    - Turned partitions: CPlaNet (Seo et al. 2018); the candidates are the intersections of their cells, much smaller
      than these. That the scores are multiplied is an assumption.
    - Nested partitions, coarse to fine: the hierarchy of ISN (Müller-Budack et al. 2018); the candidates are the fine
      cells, and the product runs over a cell and its ancestors. Without the scene recognition of that paper.
    - tau_km > 0: the label smoothing of PIGEON (Haas et al. 2024), which has 65 for photographs. Only that: without its
      political cells, its pretraining and its refinement within cells.
    """

    def __init__(self, config, partitions, lat_lon, tau_km=0.0):
        super().__init__(config)
        self.partitions, self.tau_km = partitions, tau_km
        self.network = trunk(config, sum(len(p.centers) for p in partitions))
        cells = torch.stack([p.labels(lat_lon) for p in partitions], dim=-1)
        members, candidate = torch.unique(cells, dim=0, return_inverse=True)
        self.register_buffer("members", members, persistent=False)
        self.places = _centers(lat_lon, candidate, len(members))

    def forward(self, embeddings):
        """Log-probabilities of the cells of each partition: (n, embed_dim) -> a list of (n, C)."""
        sizes = [len(p.centers) for p in self.partitions]
        return [logits.log_softmax(dim=-1) for logits in self.network(embeddings).split(sizes, dim=-1)]

    def loss(self, embeddings, lat_lon):
        """Cross-entropy of each picture in nats, the sum over the partitions, (n,)."""
        total = 0
        for partition, log_p in zip(self.partitions, self(embeddings), strict=True):
            if self.tau_km:
                labels = smoothed_labels(lat_lon.to(log_p), partition.centers.to(log_p), self.tau_km)
                total = total - (labels * log_p).sum(dim=-1)
            else:
                total = total - log_p.gather(-1, partition.labels(lat_lon)[:, None].to(log_p.device))[:, 0]
        return total

    def log_probability(self, embeddings):
        """Log-probability of each candidate: (n, embed_dim) -> (n, M)."""
        log_p = zip(self(embeddings), self.members.T, strict=True)
        return sum(values[:, cell] for values, cell in log_p).log_softmax(dim=-1)

    def place(self, embeddings):
        return self.places[self.log_probability(embeddings).argmax(dim=-1).cpu()]


class UnitVectorRegression(Baseline):
    """Regression of the place as a unit vector, by half the squared error of the normalised output, 1 - cosine."""

    def __init__(self, config):
        super().__init__(config)
        self.network = trunk(config, 3)

    def loss(self, embeddings, lat_lon):
        """1 - cosine of the angle between prediction and place of each picture, (n,)."""
        xyz = to_unit_vector(lat_lon).to(embeddings.dtype)
        return 1 - nn.functional.cosine_similarity(self.network(embeddings), xyz, dim=-1)

    def place(self, embeddings):
        return from_unit_vector(self.network(embeddings).cpu().double())


class EncodingDiffusion(Baseline):
    """Diffusion in the space of any encoding of places, which the samples are decoded from.

    encode(places (n, 2)) -> (n, D), of mean square one; decode(encodings (n, D)) -> places (n, 2). By default x is
    sqrt(3) times the unit vector, projected back to the sphere: what the LocDiffusion paper argues against in its
    section 2. A network of (x_t, t, embedding) predicts x_0 with squared error, under the cosine schedule; the
    configuration's geometric one is made for SHDD.
    """

    def __init__(self, config, encode=None, decode=from_unit_vector, dimensions=3):
        super().__init__(config)
        self.encode = encode or (lambda lat_lon: math.sqrt(3) * to_unit_vector(lat_lon))
        self.decode, self.dimensions = decode, dimensions
        self.network = trunk(config, dimensions, extra=dimensions + config.time_dim)
        self.register_buffer("alpha_bar", diffusion.cosine_schedule(config.noise_levels), persistent=False)

    def forward(self, x_t, t, embeddings):
        """The prediction of x_0: x_t (..., D), t (...) in 1..T, embeddings (..., embed_dim) -> (..., D)."""
        time = sinusoidal_embedding(t, self.config.time_dim).to(x_t.dtype)
        inputs = [part.expand(*x_t.shape[:-1], -1) for part in (x_t, time, embeddings)]
        return self.network(torch.cat(inputs, dim=-1))

    def loss(self, embeddings, lat_lon):
        """Mean squared error of x_0 of each picture at a random noise level, (n,)."""
        x_0 = self.encode(lat_lon).to(embeddings)
        t = torch.randint(1, self.config.noise_levels + 1, (len(x_0),), device=x_0.device)
        x_t = diffusion.q_sample(x_0, self.alpha_bar[t - 1, None].to(x_0.dtype), torch.randn_like(x_0))
        return (self(x_t, t, embeddings) - x_0).square().mean(dim=-1)

    @torch.no_grad()
    def sample(self, embeddings, samples=16, seed=0):
        """Random places of each picture, (n, embed_dim) -> (n, samples, 2), by the configuration's `sample_steps`.

        A picture's noise follows from the seed and its position. InputError unless samples >= 1 and seed >= 0, and as
        in `predict`.
        """
        if samples < 1 or seed < 0:
            raise InputError(f"need samples >= 1 and seed >= 0, got {samples} and {seed}")
        places, position = [torch.empty(0, samples, 2, dtype=torch.float64)], 0
        for chunk in self._chunks(embeddings, max(1, CHUNK // samples)):
            seeds = [derive_seed(seed, position + i) for i in range(len(chunk))]
            random, position = PictureNoise(seeds, samples, chunk.device), position + len(chunk)

            def denoise(x_t, t, chunk=chunk):
                return self(x_t, torch.tensor(t, device=x_t.device), chunk[:, None])

            x_0 = diffusion.sample(
                denoise, partial(random.normal, self.dimensions), self.alpha_bar, self.config.sample_steps
            )
            decoded = self.decode(x_0.flatten(0, 1))
            places.append(decoded.cpu().double().view(len(chunk), samples, 2))
        return torch.cat(places)

    def predict(self, embeddings):
        """The geographic centre of 16 samples of each picture, (n, 2); NaN where they cancel."""
        return geographic_center(self.sample(embeddings))


class DensityHead(LocDiffusion):
    """LocDiffusion without diffusion: an MLP gives the natural parameters of q_e (paper Eq. 11) from the picture alone.

    Trained by likelihood like LocDiffusion, it tells what the diffusion adds. All methods of LocDiffusion that take the
    density apart work on it; its samples are drawn from that density.
    """

    def __init__(self, config):
        super().__init__(dataclasses.replace(config, loss="likelihood"))
        self.network = trunk(config, config.dimensions)

    def forward(self, x_t, t, embeddings):
        """Natural parameters, whatever x_t (..., D) and t are: embeddings (..., embed_dim) -> (..., D)."""
        return self.network(embeddings) + torch.zeros_like(x_t)

    def predict(self, embeddings):
        """The top of the most probable hill of each density: (n, embed_dim) -> (n, 2)."""
        coeffs = self.one_pass(embeddings).split(CHUNK)
        return torch.cat([self.modes(e, self.to_density(e))[0][:, 0] for e in coeffs])


def classifier(train, config, cells, turned=False, tau_km=0.0):
    """A CellClassifier on the Embeddings `train`, with a partition for each of `cells`.

    A cell holds at most 1 / `cells` of the training pictures; as they are spread there are two to four times as many.
    """
    lat_lon = torch.from_numpy(train.lat_lon)
    partitions = [
        Partition(lat_lon, max(1, len(train) // number), seed if turned else None) for seed, number in enumerate(cells)
    ]
    return CellClassifier(config, partitions, lat_lon, tau_km)


FAMILIES = {  # make(train, config) -> module
    "PlaNet-style classification": partial(classifier, cells=(2000,)),
    "CPlaNet-style combinatorial partitioning": partial(classifier, cells=(400, 500, 600), turned=True),
    "ISN-style hierarchy of cells": partial(classifier, cells=(100, 500, 2000)),
    "PIGEON-style label smoothing": partial(classifier, cells=(2000,), tau_km=65.0),
    "Regression of the unit vector": lambda train, config: UnitVectorRegression(config),
    "Diffusion in R^3 with projection": lambda train, config: EncodingDiffusion(config),
    "Density head without diffusion": lambda train, config: DensityHead(config),
}


def train_baseline(make, train, settings, device, progress=True):
    """The model make(train, config), trained on the Embeddings `train` as LocDiffusion is; its averaged weights.

    `settings.model` has the `embed_dim` of `train`. InputError if the training diverges.
    """
    trainer = Trainer(settings, train, device, partial(make, train))
    for _ in trange(trainer.steps, desc="training", unit="step", disable=not progress):
        loss, _ = trainer.training_step()
    if not loss.isfinite():
        raise InputError(f"the loss is {loss.item()} after {trainer.steps} steps: lower lr")
    return trainer.finished_model(progress=False)
