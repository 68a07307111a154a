"""What a model answers: the density of each picture over the Earth, through all levels, and what is read off it.

See `hierarchy` for the mixture. It is held as a sum of parts, one for each level: masses of points. Those of level 0
are the pixels of the model's decoder; those of a deeper level are, for each of the cells of S, the M pixels of its
zoomed coordinates. When a level is added, what it refines is taken from the masses of the level above.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import healpy
import numpy as np
import scipy.sparse
import torch

from locdiff import decoder, density, metrics, shdd, zoom
from locdiff.coordinates import EARTH_RADIUS_KM, from_unit_vector, to_unit_vector
from locdiff.hierarchy import ZOOM_NSIDE, Level, cells_of, draw_cells

CHUNK = 256  # pictures x cells at a time, of 0.25 MB each
NEAR = math.sqrt(2)  # in the stereographic plane: where the places of a gallery are given a cell's density
PATCHES = 1024  # cells whose geometry is remembered, of 0.6 MB each


@dataclass
class Part:
    """What one level, if not level 0 (None), contributes: q_c of the cells in `rows` (n, K), with `weight` w_c (n, K)
    and natural parameters (n, K, D); the share of each pixel in q_c, and what remains of its mass (n, K, M)."""

    level: Level | None
    rows: torch.Tensor
    weight: torch.Tensor
    natural: torch.Tensor
    log_share: torch.Tensor | None
    masses: torch.Tensor

    @property
    def pixel_km(self):
        """The distance between neighbouring points, where they are densest."""
        zoomed = self.level.s if self.level else 1
        return math.sqrt(4 * math.pi / self.masses.shape[-1]) / zoomed * EARTH_RADIUS_KM

    @cached_property
    def log_z(self):
        """log Z of every q_c in zoomed coordinates, by finer pixels than those of `log_share`: (n, K)."""
        device = self.level.cells.device
        fine = decoder.healpix_transform(self.level.l_max, 2 * ZOOM_NSIDE, device=device)
        parts = [fine.moments(e.to(device))[0].cpu() for e in self.natural.flatten(0, 1).split(CHUNK)]
        return torch.cat(parts).view(self.rows.shape).double()

    def log_components(self, lat_lon):
        """log w_c q_c, (n, K), at one place a picture (n, 2)."""
        level, lat_lon = self.level, lat_lon.double()[:, None]
        centers = level.centers(self.rows)
        coeffs = shdd.encode(zoom.zoom_in(lat_lon, centers, level.s), level.l_max)
        log_q = (self.natural.double() * coeffs).sum(dim=-1) - self.log_z
        return self.weight.log() + log_q + zoom.zoom_area_factor(lat_lon, centers, level.s).log()


class Answer:
    """The density over the Earth of each of n pictures, from one evaluation of every level.

    `coeffs` (n, D) are those of level 0; `shares` (n, N) the probabilities of the pixels of `model.anchors`.
    """

    def __init__(self, model, embeddings):
        self.model, self.coeffs, self.seen = model, model.one_pass(embeddings), model.see(embeddings)
        shares = model.to_density(self.coeffs)
        n = len(shares)
        rows, weight = torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1)
        self.parts = [Part(None, rows, weight, self.coeffs[:, None], None, shares[:, None])]
        for level in model.deeper:
            self._refine(level)
        self.shares = shares if len(self.parts) == 1 else shares.clone()
        for i, part in self._deeper():
            self.shares.scatter_add_(1, self._pixels(i), part.masses.flatten(1))

    def _refine(self, level):
        """Add the part of a level."""
        weight, rows = self._weigh(level).topk(min(self.model.config.zoom_into, len(level.cells)))
        self._take(level, rows)
        device, k = level.cells.device, rows.shape[1]
        seen, flat = self.seen.repeat_interleave(k, dim=0), rows.flatten().to(device)
        natural, log_share = [], []
        for chunk in torch.arange(len(flat)).split(CHUNK):
            natural.append(level(seen[chunk.to(device)], flat[chunk.to(device)]))
            log_share.append(level.grid.synthesis(natural[-1]).log_softmax(dim=-1).cpu())
        log_share = torch.cat(log_share).view(*rows.shape, 12 * ZOOM_NSIDE**2)
        natural = torch.cat(natural).cpu().view(*rows.shape, (level.l_max + 1) ** 2)
        masses = log_share.exp().mul_(weight[..., None])
        self.parts.append(Part(level, rows, weight, natural, log_share, masses))

    def _weigh(self, level):
        """w_c = integral P(y) r(c | y) of every cell c of a level, P being what the level above says: (n, C)."""
        i, part, weight = len(self.parts) - 1, self.parts[-1], torch.zeros(len(self.coeffs), len(level.cells))
        for row in part.rows.unique().tolist():
            picture, k = (part.rows == row).nonzero(as_tuple=True)
            belongs = self.model.atlas.belongs(i, row)
            weight[picture] += torch.from_numpy((belongs.T @ part.masses[picture, k].numpy().T).T)
        return weight

    def _take(self, level, rows):
        """Multiply the masses of the level above by 1 - sum over c in S of r(c | y), S being these rows."""
        (n, k), i, part = rows.shape, len(self.parts) - 1, self.parts[-1]
        chosen = (np.ones(n * k, np.float32), rows.flatten(), np.arange(0, n * k + 1, k))
        chosen = scipy.sparse.csr_array(chosen, shape=(n, len(level.cells)))
        for row in part.rows.unique().tolist():
            picture, k = (part.rows == row).nonzero(as_tuple=True)
            taken = (chosen[picture.numpy()] @ self.model.atlas.belongs(i, row).T).tocoo()
            which, point = (torch.from_numpy(index).long() for index in taken.coords)
            part.masses[picture[which], k[which], point] *= torch.from_numpy(1 - taken.data).clamp_(min=0)

    def _deeper(self):
        return list(enumerate(self.parts))[1:]

    def _pixels(self, i):
        """Which of the N pixels the points of part i lie in, (n, K M)."""
        return self._of_cells(i, self.model.atlas.pixels)

    def _points(self, i):
        """Places of the points of part i, (n, K M, 2), float32."""
        return self._of_cells(i, self.model.atlas.points)

    def _of_cells(self, i, find):
        rows, inverse = self.parts[i].rows.unique(return_inverse=True)
        return torch.stack([find(i, row) for row in rows.tolist() or [0]])[inverse].flatten(1, 2)

    def log_likelihood(self, lat_lon):
        """Log density in nats per steradian at one place a picture, (n, 2) -> (n,)."""
        return torch.logsumexp(torch.stack(self._log_parts(lat_lon)), dim=0).to(self.coeffs)

    def _log_parts(self, lat_lon):
        """What each part contributes to the density at one place a picture (n, 2): its log, (n,) each."""
        logs = [self.model.log_likelihood(self.coeffs, self.shares, lat_lon).double()]
        for _, part in self._deeper():
            cells, r = cells_of(lat_lon, part.level.nside)
            taken = (part.level.rows_of(cells).cpu()[..., None] == part.rows[:, None]).any(dim=-1)
            logs[-1] = logs[-1] + (r * ~taken).sum(dim=-1).clamp(min=0).log()
            logs.append(torch.logsumexp(part.log_components(lat_lon), dim=-1))
        return logs

    def modes(self, k=1):
        """Tops of the k most probable hills (n, k, 2) and the hills' probabilities (n, k); see `LocDiffusion.modes`.

        The top of a hill is the densest point on it, of any cell or of what remains of level 0.
        """
        if len(self.parts) == 1:
            return self.model.modes(self.coeffs, self.shares, k)
        model, basin = self.model, density.basins(self.shares)
        pixel, probability = model.hills(self.shares, k, basin)
        tops = model.anchors[pixel]
        best = (self.parts[0].masses[:, 0].gather(1, pixel) * (len(model.anchors) / (4 * math.pi))).log()
        where = torch.zeros(2, *pixel.shape, dtype=torch.long)  # the part, and which of its points
        for i, part in self._deeper():
            log_density = part.masses.log().sub_(_log_area(part.level.s)).flatten(1)
            hill = basin.gather(1, self._pixels(i))
            for h in range(pixel.shape[1]):
                value, point = log_density.masked_fill(hill != pixel[:, h : h + 1], -torch.inf).max(dim=-1)
                better = value > best[:, h]
                best[better, h] = value[better]
                where[0, better, h], where[1, better, h] = i, point[better]
        for i, part in enumerate(self.parts):
            picture, h = (where[0] == i).nonzero(as_tuple=True)
            if i == 0:
                tops[picture, h] = model.climb(self.coeffs[picture], tops[picture, h][:, None])[:, 0]
            elif len(picture):
                local, point = _zoomed_pixels(), where[1, picture, h]
                cell, start = point // len(local), local[point % len(local)]
                top, _ = decoder.climb(part.natural[picture, cell], start[:, None], ZOOM_NSIDE)
                centers = part.level.centers(part.rows[picture, cell])
                tops[picture, h] = zoom.zoom_out(top[:, 0], centers, part.level.s)
        return tops, probability

    def refine(self, places, seeds):
        """Places drawn from p_0, (n, S, 2), made places drawn from the mixture; seeds[i] for the pictures' numbers.

        At each level each draws one of its cells and, if that is in S, a place from its q_c; otherwise it stays there.
        """
        refined, local = places.double().clone(), _zoomed_pixels()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        moves = torch.ones(places.shape[:2], dtype=torch.bool)
        for _, part in self._deeper():
            # what they are drawn with: the cell, the pixel, and where in the pixel
            uniform = torch.stack([torch.rand(places.shape[1], 4, generator=g) for g in generators])
            level = part.level
            cells = draw_cells(refined.flatten(0, 1), level.nside, uniform[..., 0].flatten()).view(places.shape[:2])
            chosen = level.rows_of(cells).cpu()[..., None] == part.rows[:, None]
            chosen &= moves[..., None]  # (n, S, K)
            moves = chosen.any(dim=-1)
            for some in chosen.nonzero().split(CHUNK):
                (picture, sample, k), u = some.T, uniform[some[:, 0], some[:, 1]]
                share = part.log_share[picture, k].exp().cumsum(dim=-1)
                pixel = torch.searchsorted(share, u[:, 1:2].contiguous())[:, 0].clamp(max=len(local) - 1)
                radius, angle = 2 / math.sqrt(12) / ZOOM_NSIDE * u[:, 2].double().sqrt(), 2 * math.pi * u[:, 3].double()
                lat = 90 - torch.rad2deg(radius)  # a disc of a pixel's area about the pole, taken to the pixel
                around = zoom.zoom_out(torch.stack([lat, torch.rad2deg(angle) - 180], dim=-1), local[pixel], 1.0)
                refined[picture, sample] = zoom.zoom_out(around, level.centers(part.rows[picture, k]), level.s)
        return refined.to(places)

    def log_density(self, lat_lon):
        """About the log density in nats per steradian at the same places (m, 2) for all pictures, (n, m): of level 0 by
        its pixels, of the cells whose plane has them within NEAR interpolated between the pixels there."""
        first = density.log_density_at(self.parts[0].masses[:, 0], lat_lon)
        if len(self.parts) == 1:
            return first
        out, xyz = first.exp(), to_unit_vector(lat_lon.double())
        for _, part in self._deeper():
            level = part.level
            for row in part.rows.unique():
                center = level.centers(row)
                near = (xyz @ to_unit_vector(center) > math.cos(2 * math.atan(NEAR / level.s))).nonzero()[:, 0]
                if not len(near):
                    continue
                picture, k = (part.rows == row).nonzero(as_tuple=True)
                lat, lon = zoom.zoom_in(lat_lon[near].double(), center, level.s).T.numpy()
                pixel, r = healpy.get_interp_weights(ZOOM_NSIDE, lon, lat, lonlat=True)
                factor = zoom.zoom_area_factor(lat_lon[near].double(), center, level.s)
                share = part.masses[picture, k]
                between = sum(share[:, p] * torch.from_numpy(w.clip(0)).float() for p, w in zip(pixel, r, strict=True))
                out[picture[:, None], near] += between * (factor * 3 * ZOOM_NSIDE**2 / math.pi).float()
        return out.log()

    def mass_within(self, lat_lon):
        """Probability within each threshold of one place a picture, (n, 2) -> (n, thresholds)."""
        if len(self.parts) == 1:
            return metrics.mass_within(self.shares, self.model.anchors, lat_lon)
        logs, total = self._log_parts(lat_lon), 0
        for i, part in enumerate(self.parts):
            points = self._points(i).double()
            each = zip(part.masses.flatten(1)[:, None], points, lat_lon[:, None], strict=True)
            mass = torch.cat([torch.empty(0, len(metrics.THRESHOLDS_KM)), *(metrics.mass_within(*one) for one in each)])
            for j, k in enumerate(metrics.THRESHOLDS_KM):
                if k < part.pixel_km / 2:  # too few of the points lie in so small a cap
                    mass[:, j] = logs[i].exp() * 2 * math.pi * (1 - math.cos(k / EARTH_RADIUS_KM))
            total = total + mass
        return total.flip(-1).cummin(dim=-1).values.flip(-1)

    def radius_holding(self, share, lat_lon):
        """Radius in km around one place a picture (n, 2) that holds `share` of the density, (n,)."""
        masses, anchors = torch.cat([part.masses.flatten(1) for part in self.parts], dim=1), self.model.anchors
        if len(self.parts) == 1 or not len(masses):
            return density.radius_holding(share, masses, lat_lon, anchors)
        points = zip(*(self._points(i).double() for i, _ in self._deeper()), strict=True)
        radii = [
            density.radius_holding(share, mass[None], place[None], torch.cat([anchors, *own]))
            for mass, place, own in zip(masses, lat_lon, points, strict=True)
        ]
        return torch.cat(radii)

    def best_within(self, tops):
        """{k: (places (n, 2), probability (n,))}: the place with most probability within k km, for each threshold.

        `tops` (n, 2) are those of the most probable hills; they are the answer where k is less than a pixel of `shares`
        and a deeper level has found them.
        """
        fine, nside = self.model.density_coeffs(self.shares), self.model.config.decoder_nside
        if len(self.parts) == 1:
            top = decoder.exact_mode(fine, nside)[0]
            return {k: decoder.best_within(fine, k, nside, top) for k in metrics.THRESHOLDS_KM}
        own, found = self.mass_within(tops), {}
        for i, k in enumerate(metrics.THRESHOLDS_KM):
            if k < math.sqrt(math.pi / 3) / nside * EARTH_RADIUS_KM:
                found[k] = tops, own[:, i]
            else:
                found[k] = decoder.best_within(fine, k, nside, tops)
        return found


class Atlas:
    """Where the points of a model's parts lie: of part i, 0 for level 0, and of a row of its cells."""

    def __init__(self, model):
        self.levels, self.anchors = [None, *model.deeper], model.anchors
        self.points = lru_cache(PATCHES)(self._points)
        self.pixels = lru_cache(PATCHES)(self._pixels)
        self.belongs = lru_cache(PATCHES)(self._belongs)

    def _points(self, i, row):
        """Places (M, 2) in degrees, float32."""
        return self.anchors.float() if i == 0 else from_unit_vector(self._unit_vectors(i, row)).float()

    def _unit_vectors(self, i, row):
        level = self.levels[i]
        return _dilated(level.s) @ zoom.frame(level.centers(torch.tensor(row)))

    def _pixels(self, i, row):
        """In which of the pixels of level 0 they lie, (M,)."""
        x, y, z = self._unit_vectors(i, row).T.numpy()
        return torch.from_numpy(healpy.vec2pix(healpy.npix2nside(len(self.anchors)), x, y, z))

    def _belongs(self, i, row):
        """r(c | y) of the cells c of the next level and of these points y, sparse (M, C)."""
        level, points = self.levels[i + 1], self.anchors if i == 0 else self.points(i, row)
        cells, weights = cells_of(points, level.nside)
        rows = level.rows_of(cells).cpu()
        point, _ = (rows >= 0).nonzero(as_tuple=True)
        entries = weights[rows >= 0].float(), (point, rows[rows >= 0])
        return scipy.sparse.csr_array(entries, shape=(len(points), len(level.cells)))


@lru_cache(maxsize=1)
def _zoomed_pixels():
    return decoder.healpix_anchors(ZOOM_NSIDE)


@lru_cache(maxsize=8)
def _dilated(s):
    """Unit vectors (M, 3) of the pixels of coordinates zoomed by s about the north pole."""
    return zoom.dilate(to_unit_vector(_zoomed_pixels()), 1 / s)


def _log_area(s):
    """Log of the area on the Earth, in steradian, of each pixel in zoomed coordinates, (M,)."""
    factor = zoom.area_factor(to_unit_vector(_zoomed_pixels()), 1 / s)  # of the way back
    return (factor.log() + math.log(math.pi / 3 / ZOOM_NSIDE**2)).float()
