"""Below the resolution limit: a second level that places pictures in the coordinates of a conformal zoom.

Level 0 gives a density p_0 over the Earth. The centres of the HEALPix cells of nside CELL_NSIDE are those of zooms; a
place y belongs to its four nearest cells c with the weights r(c | y) of linear interpolation. Level 1 gives, for a
picture and a cell, the natural parameters of a density in zoomed coordinates, which `zoom.area_factor` makes a density
q_c on the Earth. With the set S of the cells to which p_0 gives most mass w_c = integral p_0(y) r(c | y), the density
of the hierarchy is the mixture

    p(y) = sum over c in S of w_c q_c(y) + p_0(y) (1 - sum over c in S of r(c | y)),

which integrates to one whatever S is, and with all cells is what training fits.
"""

import math
from functools import cached_property

import healpy
import numpy as np
import scipy.sparse
import torch
from torch import nn

from locdiff import decoder, density, metrics, shdd, zoom
from locdiff.cli import InputError
from locdiff.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.spherical_harmonics import HealpixTransform

CELL_NSIDE = 8
ZOOM_NSIDE = 32  # of the pixels in zoomed coordinates: of the integrals and of the decoder
CHUNK = 256  # pictures x cells at a time, of 0.25 MB each
NARROWEST = 1 / 3  # pixels of ZOOM_NSIDE: the standard deviation of the narrowest hill whose integral they still give


def cells_of(lat_lon):
    """The four nearest cells of places (n, 2), and their weights r(c | y), which sum to one: (n, 4) each."""
    lat, lon = lat_lon.double().cpu().numpy().T
    cells, weights = healpy.get_interp_weights(CELL_NSIDE, lon, lat, lonlat=True)
    return torch.from_numpy(cells.T.copy()), torch.from_numpy(weights.T.copy())


def cells_used(lat_lon):
    """The cells (C,), in order, that any of the places (n, 2) belongs to."""
    return cells_of(lat_lon)[0].unique()


def draw_cells(lat_lon, uniform):
    """A cell for each place (n, 2), drawn from r(c | y) by uniform numbers (n,): (n,)."""
    cells, weights = cells_of(lat_lon)
    chosen = (weights.cumsum(dim=-1) <= uniform.double().cpu()[:, None]).sum(dim=-1).clamp(max=3)
    return cells.gather(-1, chosen[:, None])[:, 0]


class ZoomLevel(nn.Module):
    """Level 1: natural parameters in zoomed coordinates, of pictures (m, d_image) and cells (m,) -> (m, D).

    Two sine layers see the picture; a head that all cells share, and one of low rank that each cell has for itself,
    turn what they see into parameters. What the latter looks at, the cells of one of HEALPix's 12 base pixels share.
    It is blind to x_t: with the exact skip alone the diffusion in zoomed coordinates draws from exactly this density.
    The parameters are cut to the length `longest`, at which a hill is as narrow as the pixels can integrate: without
    that, training would learn to hide peaks between them.
    """

    def __init__(self, d_image, cells, config):
        super().__init__()
        if not cells:
            raise InputError("a second level needs zoom_cells, the number of cells of its training places")
        width, rank, d = config.zoom_width, config.zoom_rank, (config.zoom_l_max + 1) ** 2
        self.s, self.l_max = config.dilation, config.zoom_l_max
        self.grid = HealpixTransform(self.l_max, ZOOM_NSIDE)
        l = np.arange(self.l_max + 1)
        curvature = (l * (l + 1) * (2 * l + 1)).sum() / (8 * math.pi)  # of the F of one place, at its peak
        pixel = math.sqrt(math.pi / 3) / ZOOM_NSIDE
        self.longest = (self.l_max + 1) / math.sqrt(4 * math.pi) / max(curvature * (NARROWEST * pixel) ** 2, 1e-9)
        self.register_buffer("cells", torch.zeros(cells, dtype=torch.long))
        self.first, self.second, self.head = nn.Linear(d_image, width), nn.Linear(width, width), nn.Linear(width, d)
        base = healpy.ring2nest(CELL_NSIDE, range(12 * CELL_NSIDE**2)) // CELL_NSIDE**2
        self.register_buffer("base", torch.from_numpy(base), persistent=False)
        self.looks = nn.Linear(width, 12 * rank, bias=False)
        self.own_out = nn.Parameter(torch.zeros(cells, rank, d))
        bound = math.sqrt(6 / width)  # as in CSiren
        nn.init.uniform_(self.second.weight, -bound, bound)
        nn.init.normal_(self.looks.weight, std=1 / math.sqrt(width))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image, rows):
        seen = torch.sin(self.second(torch.sin(self.first(image))))
        looks = self.looks(seen).unflatten(-1, (12, -1))
        own = looks[torch.arange(len(rows)), self.base[self.cells[rows]]]
        own = torch.bmm(own[:, None], self.own_out[rows])
        output = self.head(seen) + own[:, 0]
        return output * (self.longest / output.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1)

    def rows_of(self, cells):
        """The rows of the table that these cells have, -1 for cells that no training place belongs to."""
        row = torch.searchsorted(self.cells, cells.to(self.cells)).clamp(max=len(self.cells) - 1)
        return torch.where(self.cells[row] == cells.to(row), row, -1)

    def centers(self, rows):
        """Centres of the cells in rows (...), (..., 2) degrees, float64 on the CPU."""
        return decoder.healpix_anchors(CELL_NSIDE)[self.cells[rows].cpu()]

    def loss(self, image, lat_lon, uniform):
        """-log density, in zoomed coordinates, of places (n, 2) about cells that the `uniform` (n,) draw: (n,)."""
        cells = draw_cells(lat_lon, uniform)
        rows = self.rows_of(cells)
        if (rows < 0).any():
            raise ValueError(f"no training place belongs to the cells {cells[rows.cpu() < 0].tolist()}")
        output = self(image, rows)
        zoomed = zoom.zoom_in(lat_lon.double().cpu(), decoder.healpix_anchors(CELL_NSIDE)[cells], self.s)
        coeffs = shdd.encode(zoomed, self.l_max).to(output)
        return self.grid.log_partition(output) - (output * coeffs).sum(dim=-1)


class Answer:
    """The density over the Earth of each of n pictures, from one pass of the model: `coeffs` (n, D), `shares` (n, N).

    `shares` are the probabilities of the pixels of `model.anchors`.
    """

    def __init__(self, model, embeddings):
        self.model = model
        self.coeffs = model.one_pass(embeddings)
        self.shares = model.to_density(self.coeffs)

    def modes(self, k=1):
        """Tops of the k most probable hills (n, k, 2) and the hills' probabilities (n, k); see `LocDiffusion.modes`."""
        return self.model.modes(self.coeffs, self.shares, k)

    def log_likelihood(self, lat_lon):
        """Log density in nats per steradian at one place a picture, (n, 2) -> (n,)."""
        return self.model.log_likelihood(self.coeffs, self.shares, lat_lon)

    def log_density(self, lat_lon):
        """About the log density in nats per steradian at the same places (m, 2) for all pictures, by pixels: (n, m)."""
        return density.log_density_at(self.shares, lat_lon)

    def mass_within(self, lat_lon):
        """Probability within each threshold of one place a picture, (n, 2) -> (n, thresholds)."""
        return metrics.mass_within(self.shares, self.model.anchors, lat_lon)

    def radius_holding(self, share, lat_lon):
        """Radius in km around one place a picture (n, 2) that holds `share` of the density, (n,)."""
        return density.radius_holding(share, self.shares, lat_lon, self.model.anchors)

    def best_within(self, tops):
        """{k: (places (n, 2), probability (n,))}: the place with most probability within k km, for each threshold;
        `tops` (n, 2) are those of the most probable hills."""
        fine, nside = self.model.density_coeffs(self.shares), self.model.config.decoder_nside
        top = decoder.exact_mode(fine, nside)[0]
        return {k: decoder.best_within(fine, k, nside, top) for k in metrics.THRESHOLDS_KM}


class ZoomedAnswer(Answer):
    """The Answer of a model with a second level: the mixture above, with S of `config.zoom_into` cells a picture.

    Each q_c is a probability of each of M pixels in zoomed coordinates: `points` (n, K M, 2) are their centres on the
    Earth, and `masses` (n, K M) what the mixture gives them. `coarse` (n, N) is what remains with the pixels of p_0.
    """

    def __init__(self, model, embeddings):
        super().__init__(model, embeddings)
        level, cells = model.zoomed, model.cells_of_pixels
        weight = cells.weigh(self.shares)  # (n, C)
        self.weight, self.rows = weight.topk(min(model.config.zoom_into, weight.shape[1]))
        self.natural = model.zoom_into(embeddings, self.rows)  # (n, K, D)
        self.log_share = _synthesis_of(level, self.natural).log_softmax(dim=-1)  # (n, K, M)
        self.masses = self.log_share.exp().mul_(self.weight[..., None]).flatten(1)
        self.coarse = cells.take(self.shares, self.rows)
        cells.know(level, self.rows)
        self.shares = self.coarse.scatter_add(1, cells.pixels_of_places[self.rows].flatten(1), self.masses)

    @cached_property
    def points(self):
        return self.model.cells_of_pixels.places[self.rows].flatten(1, 2)

    def log_likelihood(self, lat_lon):
        first = self.model.log_likelihood(self.coeffs, self.shares, lat_lon)  # of p_0
        cells, weights = cells_of(lat_lon)
        taken = (self.model.zoomed.rows_of(cells).cpu()[..., None] == self.rows[:, None]).any(dim=-1)
        remains = (weights * ~taken).sum(dim=-1).clamp(min=0)
        parts = [first.double() + remains.log(), *self._log_components(lat_lon).unbind(-1)]
        return torch.logsumexp(torch.stack(parts), dim=0).to(first)

    @cached_property
    def _log_z(self):
        """log Z of every q_c in zoomed coordinates, by finer pixels than those of `log_share`: (n, K)."""
        level = self.model.zoomed
        fine = decoder.healpix_transform(level.l_max, 2 * ZOOM_NSIDE, device=level.cells.device)
        parts = [fine.moments(e.to(level.cells.device))[0].cpu() for e in self.natural.flatten(0, 1).split(CHUNK)]
        return torch.cat(parts or [torch.empty(0)]).view(self.rows.shape).double()

    def _log_components(self, lat_lon):
        """log w_c q_c, (n, K), at one place a picture (n, 2)."""
        level, lat_lon = self.model.zoomed, lat_lon.double()[:, None]
        centers = level.centers(self.rows)
        coeffs = shdd.encode(zoom.zoom_in(lat_lon, centers, level.s), level.l_max)
        log_q = (self.natural.double() * coeffs).sum(dim=-1) - self._log_z
        return self.weight.log() + log_q + zoom.zoom_area_factor(lat_lon, centers, level.s).log()

    def modes(self, k=1):
        """As of an Answer. The top of a hill is the densest point on it, of any cell or of what remains of p_0."""
        model, level, local = self.model, self.model.zoomed, _zoomed_pixels()
        basin = density.basins(self.shares)
        pixel, probability = model.hills(self.shares, k, basin)
        tops = model.anchors[pixel]
        centers, row = level.centers(self.rows), torch.arange(len(tops))
        log_density = self.weight.log()[..., None] + self.log_share
        log_density = log_density.sub_(_log_area(level.s)).flatten(1)  # (n, K M)
        hill = basin.gather(1, model.cells_of_pixels.pixels_of_places[self.rows].flatten(1))  # of every point
        remains = (self.coarse.gather(1, pixel) * (len(model.anchors) / (4 * math.pi))).log()
        for i in range(tops.shape[1]):
            value, best = log_density.masked_fill(hill != pixel[:, i : i + 1], -torch.inf).max(dim=-1)
            which, start = best // len(local), local[best % len(local)]
            top, _ = decoder.climb(self.natural[row, which], start[:, None], ZOOM_NSIDE)
            found = zoom.zoom_out(top[:, 0], centers[row, which], level.s)
            first = ~(value > remains[:, i])
            found[first] = model.climb(self.coeffs[first], tops[first, i : i + 1])[:, 0]
            tops[:, i] = found
        return tops, probability

    def refine(self, places, uniform):
        """Places drawn from p_0, (n, S, 2), made places drawn from the mixture.

        Each draws one of its cells and, if that is in S, a place from its q_c; otherwise it stays. `uniform` (n, S, 4)
        are what they are drawn with: the cell, the pixel, and where in the pixel.
        """
        level, local, refined = self.model.zoomed, _zoomed_pixels(), places.double().clone()
        cells = draw_cells(places.flatten(0, 1), uniform[..., 0].flatten()).view(places.shape[:2])
        chosen = level.rows_of(cells).cpu()[..., None] == self.rows[:, None]  # (n, S, K)
        for part in chosen.nonzero().split(CHUNK):
            (picture, sample, k), u = part.T, uniform[part[:, 0], part[:, 1]]
            share = self.log_share[picture, k].exp().cumsum(dim=-1)
            pixel = torch.searchsorted(share, u[:, 1:2].contiguous())[:, 0].clamp(max=len(local) - 1)
            radius, angle = 2 / math.sqrt(12) / ZOOM_NSIDE * u[:, 2].double().sqrt(), 2 * math.pi * u[:, 3].double()
            lat = 90 - torch.rad2deg(radius)  # a disc of a pixel's area about the pole, taken to the pixel
            around = zoom.zoom_out(torch.stack([lat, torch.rad2deg(angle) - 180], dim=-1), local[pixel], 1.0)
            refined[picture, sample] = zoom.zoom_out(around, level.centers(self.rows[picture, k]), level.s)
        return refined.to(places)

    def log_density(self, lat_lon):
        """As of an Answer; within NEAR of a cell's centre interpolated between the pixels of its zoomed coordinates."""
        level, out = self.model.zoomed, density.log_density_at(self.coarse, lat_lon).exp()
        xyz = to_unit_vector(lat_lon.double())
        for row in self.rows.unique():
            center = level.centers(row)
            near = (xyz @ to_unit_vector(center) > math.cos(NEAR)).nonzero()[:, 0]
            picture, k = (self.rows == row).nonzero(as_tuple=True)
            zoomed = zoom.zoom_in(lat_lon[near].double(), center, level.s)
            lat, lon = zoomed.T.numpy()
            pixel, part = healpy.get_interp_weights(ZOOM_NSIDE, lon, lat, lonlat=True)
            per_area = zoom.zoom_area_factor(lat_lon[near].double(), center, level.s) * 3 * ZOOM_NSIDE**2 / math.pi
            share = self.masses.unflatten(1, (self.rows.shape[1], -1))[picture, k]
            between = sum(share[:, p] * torch.from_numpy(w).float() for p, w in zip(pixel, part, strict=True))
            out[picture[:, None], near] += between * per_area.float()
        return out.log()

    def mass_within(self, lat_lon):
        zoomed = torch.cat([
            metrics.mass_within(mass[None], points.double(), place[None])
            for mass, points, place in zip(self.masses, self.points, lat_lon, strict=True)
        ] or [torch.empty(0, len(metrics.THRESHOLDS_KM))])  # fmt: skip
        mass = metrics.mass_within(self.coarse, self.model.anchors, lat_lon) + zoomed
        per_area = self.log_likelihood(lat_lon).exp()
        for i, k in reversed(list(enumerate(metrics.THRESHOLDS_KM))):  # too few points lie in a small cap
            cap = 2 * math.pi * (1 - math.cos(k / EARTH_RADIUS_KM))
            if k < math.sqrt(math.pi / 3) / ZOOM_NSIDE / self.model.zoomed.s * EARTH_RADIUS_KM / 2:
                mass[:, i] = (per_area * cap).clamp(max=mass[:, i + 1])
        return mass

    def radius_holding(self, share, lat_lon):
        radii = []
        for coarse, mass, points, place in zip(self.coarse, self.masses, self.points, lat_lon, strict=True):
            places = torch.cat([self.model.anchors, points.double()])
            radii.append(density.radius_holding(share, torch.cat([coarse, mass])[None], place[None], places))
        return torch.cat(radii) if radii else torch.empty(0)

    def best_within(self, tops):
        """As of an Answer; within less than a pixel of `shares` it is the top of the most probable hill."""
        fine, nside = self.model.density_coeffs(self.shares), self.model.config.decoder_nside
        own, found = self.mass_within(tops), {}
        for i, k in enumerate(metrics.THRESHOLDS_KM):
            if k < math.sqrt(math.pi / 3) / nside * EARTH_RADIUS_KM:
                found[k] = tops, own[:, i]
            else:
                found[k] = decoder.best_within(fine, k, nside, tops)
        return found


NEAR = math.radians(20)  # of a centre, beyond which a place of a gallery has p_0 alone


def _synthesis_of(level, natural):
    """F (..., M) on the CPU of natural parameters (..., D) on the CPU, by chunks on the level's device."""
    flat = [level.grid.synthesis(part.to(level.cells.device)).cpu() for part in natural.flatten(0, -2).split(CHUNK)]
    pixels = 12 * ZOOM_NSIDE**2
    return (torch.cat(flat) if flat else torch.empty(0, pixels)).view(*natural.shape[:-1], pixels)


def _zoomed_pixels():
    return decoder.healpix_anchors(ZOOM_NSIDE)


def _log_area(s):
    """Log of the area on the Earth, in steradian, of each pixel in zoomed coordinates, (M,)."""
    factor = zoom.area_factor(to_unit_vector(_zoomed_pixels()), 1 / s)  # of the way back
    return (factor.log() + math.log(math.pi / 3 / ZOOM_NSIDE**2)).float()


class CellsOfPixels:
    """r(c | y) of the cells and of the N pixels y of a model's decoder, `part`, sparse (C, N). And where each cell's
    pixels in zoomed coordinates lie on the Earth."""

    def __init__(self, level, anchors):
        cells, weights = cells_of(anchors)
        rows, count = level.rows_of(cells).cpu(), len(level.cells)
        pixel, _ = (rows >= 0).nonzero(as_tuple=True)
        entries = weights[rows >= 0].float(), (rows[rows >= 0], pixel)
        self.part = scipy.sparse.csr_array(entries, shape=(count, len(anchors)))
        self.nside = healpy.npix2nside(len(anchors))
        self.known = torch.zeros(count, dtype=torch.bool)
        self.places = torch.zeros(count, 12 * ZOOM_NSIDE**2, 2)
        self.pixels_of_places = torch.zeros(self.places.shape[:2], dtype=torch.long)

    def weigh(self, shares):
        """w_c = integral p_0(y) r(c | y) of every cell c, for densities (n, N): (n, C)."""
        return torch.from_numpy((self.part @ shares.numpy().T).T)

    def take(self, shares, rows):
        """p_0(y) (1 - sum over c in S of r(c | y)), in place, for the cells in rows (n, K) and p_0 (n, N): (n, N)."""
        n, k = rows.shape
        chosen = (np.ones(n * k, np.float32), rows.flatten(), np.arange(0, n * k + 1, k))
        taken = (scipy.sparse.csr_array(chosen, shape=(n, self.part.shape[0])) @ self.part).tocoo()
        shares[taken.coords] *= torch.from_numpy(1 - taken.data).clamp_(min=0)
        return shares

    def know(self, level, rows):
        """Fill in, for the cells in `rows`, where their pixels in zoomed coordinates lie: `places` (C, M, 2), and in
        which of the N pixels, `pixels_of_places` (C, M)."""
        for row in rows[~self.known[rows]].unique():
            places = zoom.zoom_out(_zoomed_pixels(), level.centers(row), level.s)
            self.places[row] = places.float()
            pixel = healpy.ang2pix(self.nside, *places.flip(-1).T.numpy(), lonlat=True)
            self.pixels_of_places[row] = torch.from_numpy(pixel)
            self.known[row] = True
