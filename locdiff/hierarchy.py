"""Below the resolution limit: levels that place pictures in the coordinates of a conformal zoom.

Level 0 gives a density p_0 over the Earth. The zooms of level k = 1, 2, ... are by s = zoom^k about the centres of the
HEALPix cells of nside 8^k; a place y belongs to its four nearest cells c with the weights r(c | y) of linear
interpolation. For a picture and a cell, level k gives the natural parameters of a density in zoomed coordinates, which
`zoom.area_factor` makes a density q_c on the Earth. Of the cells of level k a picture has the set S_k, those to which
P_{k-1}, what the level above says, gives most mass, w_c = integral P_{k-1}(y) r(c | y). With P_0 = p_0 and

    P_k(y) = sum over c in S_k of w_c q_c(y),    R_k(y) = P_k(y) (1 - sum over c in S_{k+1} of r(c | y)),

what a level says and what remains of it below, the density of levels 0 to K is R_0 + ... + R_{K-1} + P_K, which
integrates to one whatever the S_k are. Level 1, `HeadLevel`, has few cells, with a place for each in its network; it is
trained with level 0, by the loss of P_1 with all cells. Further levels are `readouts.ReadoutLevel`. `answer.Answer`
computes the mixture.
"""

import math

import healpy
import numpy as np
import torch
from torch import nn

from locdiff import decoder, shdd, zoom
from locdiff.spherical_harmonics import HealpixTransform

ZOOM_NSIDE = 32  # of the pixels in zoomed coordinates: of the integrals and of the decoder
NARROWEST = 1 / 3  # pixels of ZOOM_NSIDE: the standard deviation of the narrowest hill whose integral they still give


def cells_of(lat_lon, nside):
    """The four nearest cells of places (n, 2), and their weights r(c | y), which sum to one: (n, 4) each."""
    lat, lon = lat_lon.double().cpu().numpy().T
    cells, weights = healpy.get_interp_weights(nside, lon, lat, lonlat=True)
    return torch.from_numpy(cells.T.copy()), torch.from_numpy(weights.T.clip(0))  # on a ring some are -1e-12


def draw_cells(lat_lon, nside, uniform):
    """A cell for each place (n, 2), drawn from r(c | y) by uniform numbers (n,): (n,)."""
    cells, weights = cells_of(lat_lon, nside)
    chosen = (weights.cumsum(dim=-1) <= uniform.double().cpu()[:, None]).sum(dim=-1).clamp(max=3)
    return cells.gather(-1, chosen[:, None])[:, 0]


class Level(nn.Module):
    """What the levels k = 1, 2, ... have in common: `cells` (C,), in order, that training places belong to.

    A level's parameters are cut to the length `longest`, at which a hill is as narrow as the pixels can integrate:
    without that, training would learn to hide peaks between them.
    """

    def __init__(self, k, count, config):
        super().__init__()
        self.nside, self.s, self.l_max = 8**k, config.zoom**k, config.zoom_l_max
        self.grid = HealpixTransform(self.l_max, ZOOM_NSIDE)
        l = np.arange(self.l_max + 1)
        curvature = (l * (l + 1) * (2 * l + 1)).sum() / (8 * math.pi)  # of the F of one place, at its peak
        pixel = math.sqrt(math.pi / 3) / ZOOM_NSIDE
        self.longest = (self.l_max + 1) / math.sqrt(4 * math.pi) / max(curvature * (NARROWEST * pixel) ** 2, 1e-9)
        self.register_buffer("cells", torch.zeros(count, dtype=torch.long))

    def cut(self, natural):
        """Natural parameters (..., D) made no longer than `longest`."""
        return natural * (self.longest / natural.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1)

    def rows_of(self, cells):
        """The rows of the table that these cells have, -1 for cells that are not in it."""
        if not len(self.cells):
            return torch.full_like(cells, -1)
        row = torch.searchsorted(self.cells, cells.to(self.cells)).clamp(max=len(self.cells) - 1)
        return torch.where(self.cells[row] == cells.to(row), row, -1)

    def centers(self, rows):
        """Centres of the cells in rows (...), (..., 2) degrees, float64 on the CPU."""
        lon, lat = healpy.pix2ang(self.nside, self.cells[rows].cpu().numpy(), lonlat=True)
        return torch.from_numpy(np.stack([lat, lon], axis=-1))

    def log_loss(self, natural, zoomed):
        """-log density, by natural parameters (n, D), at places (n, 2) in zoomed coordinates: (n,)."""
        coeffs = shdd.encode(zoomed, self.l_max).to(natural)
        return self.grid.log_partition(natural) - (natural * coeffs).sum(dim=-1)


class HeadLevel(Level):
    """Level 1. Natural parameters of what `see` sees in pictures (m, width), for cells in rows (m,): (m, D).

    Two sine layers see the picture; a head that all cells share, and one of low rank that each cell has for itself,
    turn what they see into parameters. What the latter looks at, the cells of one of HEALPix's 12 base pixels share.
    It is blind to x_t: with the exact skip alone the diffusion in zoomed coordinates draws from exactly this density.
    """

    def __init__(self, k, count, config):
        super().__init__(k, count, config)
        width, rank, d = config.zoom_width, config.zoom_rank, (config.zoom_l_max + 1) ** 2
        self.first, self.second = nn.Linear(config.embed_dim, width), nn.Linear(width, width)
        self.head = nn.Linear(width, d)
        base = healpy.ring2nest(self.nside, range(12 * self.nside**2)) // self.nside**2
        self.register_buffer("base", torch.from_numpy(base), persistent=False)
        self.looks = nn.Linear(width, 12 * rank, bias=False)
        self.own_out = nn.Parameter(torch.zeros(count, rank, d))
        bound = math.sqrt(6 / width)  # as in CSiren
        nn.init.uniform_(self.second.weight, -bound, bound)
        nn.init.normal_(self.looks.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def see(self, image):
        """What the deeper levels see in whitened embeddings (n, embed_dim): (n, width)."""
        return torch.sin(self.second(torch.sin(self.first(image))))

    def forward(self, seen, rows):
        looks = self.looks(seen).unflatten(-1, (12, -1))
        own = looks[torch.arange(len(rows)), self.base[self.cells[rows]]]
        own = torch.bmm(own[:, None], self.own_out.index_select(0, rows))  # on a CPU own_out[rows] would not repeat
        return self.cut(self.head(seen) + own[:, 0])

    def loss(self, image, lat_lon, uniform):
        """-log density, in zoomed coordinates, of places (n, 2) about cells that the `uniform` (n,) draw: (n,)."""
        cells = draw_cells(lat_lon, self.nside, uniform)
        rows = self.rows_of(cells)
        if (rows < 0).any():
            raise ValueError(f"no training place belongs to the cells {cells[rows.cpu() < 0].tolist()}")
        zoomed = zoom.zoom_in(lat_lon.double().cpu(), decoder.healpix_anchors(self.nside)[cells], self.s)
        return self.log_loss(self(self.see(image), rows), zoomed)
