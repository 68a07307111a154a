"""Refinement levels, below the resolution limit: they place pictures in the coordinates of a conformal zoom.

Level 0 gives a density p_0 over the Earth. Level k = 1, 2, ... zooms by s = zoom^k about the centers of the HEALPix
cells of nside subdivision^k. A location y belongs to four cells c around it with the weights r(c | y) of linear
interpolation. For a picture and a cell, level k gives the natural parameters of a density in zoomed coordinates, which
`zoom.area_factor` makes a density q_c on the Earth. `reference.hierarchy` has the mixture that these densities form;
`refined_posterior` computes it.

Level 1, `LowRankHeadLevel`, has few cells, with parameters for each in its network; it is trained with level 0, by the
loss of the mixture with all cells. Further levels are `ridge.RidgeReadoutLevel`.
"""

import math
from abc import ABC, abstractmethod

import healpy
import numpy as np
import torch
from torch import Tensor, nn

from locdiff.memory import batch_size
from locdiff.model.calibration import fit_scale
from locdiff.model.location_prior import fit_prior
from locdiff.sphere import shdd, zoom
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors, healpix_transform, interpolation


def sample_cells(lat_lon: Tensor, nside: int, uniform: Tensor) -> Tensor:
    """Return a cell id for each location (n, 2), sampled from r(c | y) by uniform numbers (n,): (n,)."""
    cell_id, weights = interpolation(nside, lat_lon)
    chosen = (weights.cumsum(dim=-1) <= uniform.double()[:, None]).sum(dim=-1).clamp(max=3)
    return cell_id.gather(-1, chosen[:, None])[:, 0]


def occupied_cells(lat_lon: Tensor, nside: int) -> Tensor:
    """Return the ids of the cells, in order, that any of the locations (n, 2) belongs to: (C,)."""
    return interpolation(nside, lat_lon)[0].unique()


class RefinementLevel(nn.Module, ABC):
    """What the levels k = 1, 2, ... have in common: the ids `cell_id` (C,), in order, of the cells that they refine.

    Natural parameters are clipped to the norm `max_norm`, at which a mode is as narrow as the pixels of zoomed
    coordinates can integrate: without that, training would learn to hide modes between them.
    """

    cell_id: Tensor
    scale: Tensor

    def __init__(self, k: int, count: int, config):
        super().__init__()
        c = config.refinement
        self.nside, self.s, self.l_max, self.zoom_nside = c.subdivision**k, c.zoom**k, c.zoom_l_max, c.zoom_nside
        self.grid = HealpixTransform(self.l_max, self.zoom_nside)
        l = np.arange(self.l_max + 1)
        curvature = (l * (l + 1) * (2 * l + 1)).sum() / (8 * math.pi)  # of the F of one location, at its mode
        width = c.narrowest * math.sqrt(math.pi / 3) / self.zoom_nside
        self.max_norm = (self.l_max + 1) / math.sqrt(4 * math.pi) / max(curvature * width**2, 1e-9)
        self.register_buffer("cell_id", torch.zeros(count, dtype=torch.long))
        self.register_buffer("scale", torch.ones(2))  # (tau, kappa)

    def clip_norm(self, natural_params: Tensor) -> Tensor:
        """Return the natural parameters (..., D), none of a norm above `max_norm`."""
        norm = natural_params.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return natural_params * (self.max_norm / norm).clamp(max=1)

    @abstractmethod
    def parts(self, features: Tensor, cell_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `calibrated` takes, for features (m, width) and the cells at `cell_index` (m,): (m, D) each."""

    def forward(self, features: Tensor, cell_index: Tensor) -> Tensor:
        """Return the natural parameters (m, D) for features (m, width) and the cells at `cell_index` (m,)."""
        return self.calibrated(*self.parts(features, cell_index))

    def calibrated(self, own: Tensor, prior: Tensor) -> Tensor:
        """Return the natural parameters tau own + kappa prior, (..., D), clipped; see `calibration`."""
        return self.clip_norm(self.scale[0] * own + self.scale[1] * prior)

    def index_of(self, cell_id: Tensor) -> Tensor:
        """Return where the level holds these cells, (...) -> (...); -1 for cells that it does not refine."""
        if not len(self.cell_id):
            return torch.full_like(cell_id, -1)
        index = torch.searchsorted(self.cell_id, cell_id.to(self.cell_id)).clamp(max=len(self.cell_id) - 1)
        return torch.where(self.cell_id[index] == cell_id.to(index), index, -1)

    def centers(self, cell_index: Tensor) -> Tensor:
        """Return the centers of the cells held at `cell_index` (...): (..., 2) degrees, float64 on the CPU."""
        lon, lat = healpy.pix2ang(self.nside, self.cell_id[cell_index].cpu().numpy(), lonlat=True)
        return torch.from_numpy(np.stack([lat, lon], axis=-1))

    def negative_log_likelihood(self, natural_params: Tensor, zoomed: Tensor) -> Tensor:
        """Return -log density by natural parameters (n, D) at locations (n, 2) in zoomed coordinates: (n,)."""
        coeffs = shdd.encode_checked(zoomed, self.l_max).to(natural_params)
        return self.grid.log_partition(natural_params) - (natural_params * coeffs).sum(dim=-1)


class LowRankHeadLevel(RefinementLevel):
    """Level 1. Natural parameters from features of pictures (m, width), for the cells at `cell_index` (m,): (m, D).

    Two sine layers make the features; a head that all cells share, and one of low rank that each cell has for itself,
    turn them into natural parameters. The cells of one of HEALPix's 12 base pixels share the input of the latter.
    The level does not see x_t: with the exact skip alone, diffusion in zoomed coordinates samples exactly this density.
    """

    base: Tensor
    all_centers: Tensor
    prior: Tensor

    def __init__(self, k, count, config):
        super().__init__(k, count, config)
        c = config.refinement
        width, rank, d = c.zoom_width, c.zoom_rank, (c.zoom_l_max + 1) ** 2
        self.first, self.second = nn.Linear(config.embed_dim, width), nn.Linear(width, width)
        self.head = nn.Linear(width, d)
        self.register_buffer("prior", torch.zeros(count, d))
        base = healpy.ring2nest(self.nside, range(12 * self.nside**2)) // self.nside**2
        self.register_buffer("base", torch.from_numpy(base), persistent=False)
        self.register_buffer("all_centers", healpix_anchors(self.nside), persistent=False)
        self.cell_in = nn.Linear(width, 12 * rank, bias=False)
        self.cell_out = nn.Parameter(torch.zeros(count, rank, d))
        bound = math.sqrt(6 / width)  # as in CSiren
        nn.init.uniform_(self.second.weight, -bound, bound)
        nn.init.normal_(self.cell_in.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def encode_image(self, whitened: Tensor) -> Tensor:
        """Return the features that all refinement levels read, of whitened embeddings (n, embed_dim): (n, width)."""
        return torch.sin(self.second(torch.sin(self.first(whitened))))

    def parts(self, features: Tensor, cell_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the pictures add to the priors of their cells, and these priors: (m, D) each."""
        inputs = self.cell_in(features).unflatten(-1, (12, -1))
        own = inputs[torch.arange(len(cell_index), device=inputs.device), self.base[self.cell_id[cell_index]]]
        own = torch.bmm(own[:, None], self.cell_out.index_select(0, cell_index))  # on a CPU indexing would not repeat
        return self.head(features) + own[:, 0], self.prior[cell_index]

    @torch.no_grad()
    def validation_nats(self, features: Tensor, lat_lon: Tensor) -> Tensor:
        """Return the log density over the uniform one, zoomed, of locations (n, 2): (n,), CPU.

        It is the mean over the cells of a location by r(c | y). Cells without training locations count as uniform."""
        nats = torch.zeros(lat_lon.shape[0])
        for natural, prior, zoomed, picture, r in _cells_of(self, features, lat_lon):
            own = math.log(4 * math.pi) - self.negative_log_likelihood(self.calibrated(natural, prior), zoomed)
            nats.index_add_(0, picture, (r * own.cpu()).float())
        return nats

    def loss(self, whitened: Tensor, lat_lon: Tensor, uniform: Tensor) -> Tensor:
        """Return -log density, zoomed, of locations (n, 2) about cells sampled by `uniform` (n,): (n,).

        It is NaN, as its gradient is, for a location that belongs to a cell which the level does not hold.
        """
        cell_id = sample_cells(lat_lon, self.nside, uniform)
        cell_index = self.index_of(cell_id)
        known = torch.where(cell_index < 0, torch.nan, 1.0)
        zoomed = zoom.zoom_in(lat_lon.double(), self.all_centers[cell_id], self.s)
        natural_params = self(self.encode_image(whitened), cell_index.clamp(min=0))
        return self.negative_log_likelihood(natural_params, zoomed) * known


def cell_priors(level: LowRankHeadLevel, lat_lon: Tensor) -> Tensor:
    """Return the natural parameters (C, D) of the densities of locations (n, 2) in the cells' zoomed coordinates, each
    location weighted by r(c | y)."""
    d = (level.l_max + 1) ** 2
    sums, counts = torch.zeros(len(level.cell_id), d), torch.zeros(len(level.cell_id))
    for chunk in lat_lon.split(batch_size(4 * 32 * d)):
        index, r, zoomed, _ = _neighbors(level, chunk)
        sums.index_add_(0, index, (r[:, None] * shdd.encode(zoomed, level.l_max)).float())
        counts.index_add_(0, index, r.float())
    transform = healpix_transform(level.l_max, level.l_max // 2 + 1, device=level.cell_id.device)
    return fit_prior(transform, sums.to(level.cell_id.device), counts.to(level.cell_id.device))


@torch.no_grad()
def calibrate_level(level: RefinementLevel, features: Tensor, lat_lon: Tensor) -> None:
    """Fit (tau, kappa) of a level to the features (n, width) and locations (n, 2) of pictures not trained on."""
    parts = list(_cells_of(level, features, lat_lon))

    def loss(scale):
        total = torch.zeros((), device=scale.device)
        level.scale = scale
        for natural, prior, zoomed, _, r in parts:
            nats = level.negative_log_likelihood(level.calibrated(natural, prior), zoomed)
            total = total + (r.to(nats) * nats).sum()
        return total / len(lat_lon)

    if parts:
        level.scale = fit_scale(loss, level.scale).detach()


def _cells_of(level, features, lat_lon):
    """For chunks of pairs of a picture and a cell: `parts`, zoomed locations, positions of the pictures, weights."""
    index, r, zoomed, picture = _neighbors(level, lat_lon)
    device = level.cell_id.device
    for some in torch.arange(len(index)).split(batch_size(12 * 4 * level.zoom_nside**2)):
        own = level.parts(features[picture[some].to(device)], index[some].to(device))
        yield *own, zoomed[some], picture[some], r[some]


def _neighbors(level, lat_lon):
    """The pairs of a location (n, 2) and a cell of the level: index of the cell, r, zoomed location, position."""
    cell_id, r = interpolation(level.nside, lat_lon)
    index = level.index_of(cell_id).cpu()
    picture, k = (index >= 0).nonzero(as_tuple=True)
    zoomed = zoom.zoom_in(lat_lon.double()[picture], level.centers(index[picture, k]), level.s)
    return index[picture, k], r[picture, k], zoomed, picture
