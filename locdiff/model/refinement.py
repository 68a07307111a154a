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

import healpy
import numpy as np
import torch
from torch import Tensor, nn

from locdiff.sphere import shdd, zoom
from locdiff.sphere.healpix import HealpixTransform, healpix_anchors, interpolation


def sample_cells(lat_lon: Tensor, nside: int, uniform: Tensor) -> Tensor:
    """Return a cell id for each location (n, 2), sampled from r(c | y) by uniform numbers (n,): (n,)."""
    cell_id, weights = interpolation(nside, lat_lon)
    chosen = (weights.cumsum(dim=-1) <= uniform.double().cpu()[:, None]).sum(dim=-1).clamp(max=3)
    return cell_id.gather(-1, chosen[:, None])[:, 0]


def occupied_cells(lat_lon: Tensor, nside: int) -> Tensor:
    """Return the ids of the cells, in order, that any of the locations (n, 2) belongs to: (C,)."""
    return interpolation(nside, lat_lon)[0].unique()


class RefinementLevel(nn.Module):
    """What the levels k = 1, 2, ... have in common: the ids `cell_id` (C,), in order, of the cells that they refine.

    Natural parameters are clipped to the norm `max_norm`, at which a mode is as narrow as the pixels of zoomed
    coordinates can integrate: without that, training would learn to hide modes between them.
    """

    cell_id: Tensor

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

    def clip_norm(self, natural_params: Tensor) -> Tensor:
        """Return the natural parameters (..., D), none of a norm above `max_norm`."""
        norm = natural_params.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return natural_params * (self.max_norm / norm).clamp(max=1)

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
        coeffs = shdd.encode(zoomed, self.l_max).to(natural_params)
        return self.grid.log_partition(natural_params) - (natural_params * coeffs).sum(dim=-1)


class LowRankHeadLevel(RefinementLevel):
    """Level 1. Natural parameters from features of pictures (m, width), for the cells at `cell_index` (m,): (m, D).

    Two sine layers make the features; a head that all cells share, and one of low rank that each cell has for itself,
    turn them into natural parameters. The cells of one of HEALPix's 12 base pixels share the input of the latter.
    The level does not see x_t: with the exact skip alone, diffusion in zoomed coordinates samples exactly this density.
    """

    base: Tensor

    def __init__(self, k, count, config):
        super().__init__(k, count, config)
        c = config.refinement
        width, rank, d = c.zoom_width, c.zoom_rank, (c.zoom_l_max + 1) ** 2
        self.first, self.second = nn.Linear(config.embed_dim, width), nn.Linear(width, width)
        self.head = nn.Linear(width, d)
        base = healpy.ring2nest(self.nside, range(12 * self.nside**2)) // self.nside**2
        self.register_buffer("base", torch.from_numpy(base), persistent=False)
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

    def forward(self, features: Tensor, cell_index: Tensor) -> Tensor:
        inputs = self.cell_in(features).unflatten(-1, (12, -1))
        own = inputs[torch.arange(len(cell_index)), self.base[self.cell_id[cell_index]]]
        own = torch.bmm(own[:, None], self.cell_out.index_select(0, cell_index))  # on a CPU indexing would not repeat
        return self.clip_norm(self.head(features) + own[:, 0])

    def loss(self, whitened: Tensor, lat_lon: Tensor, uniform: Tensor) -> Tensor:
        """Return -log density, zoomed, of locations (n, 2) about cells sampled by `uniform` (n,): (n,)."""
        cell_id = sample_cells(lat_lon, self.nside, uniform)
        cell_index = self.index_of(cell_id)
        if (cell_index < 0).any():
            unknown = cell_id[cell_index.cpu() < 0].tolist()
            raise ValueError(f"no training location belongs to the cells {unknown}")
        zoomed = zoom.zoom_in(lat_lon.double().cpu(), healpix_anchors(self.nside)[cell_id], self.s)
        return self.negative_log_likelihood(self(self.encode_image(whitened), cell_index), zoomed)
