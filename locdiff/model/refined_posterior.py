"""The posterior of a model with refinement levels: a mixture of densities over zoomed cells.

`reference.hierarchy` has the equations. The mixture is held as masses of points: of level 0 the masses of its pixels;
of each refinement level, for every cell that the picture is refined in, the masses of the M pixels of its zoomed
coordinates. When a level is added, the mass that it refines is removed from the level above.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.model.cell_geometry import CellGeometry, zoomed_pixels
from locdiff.model.cell_points import CellPoints, Densest, apart, cell_points
from locdiff.model.divided import Divided, best_caps
from locdiff.model.posterior import LocationPosterior, PixelPosterior, cap_area
from locdiff.model.refinement import RefinementLevel, sample_cells
from locdiff.seeding import PictureNoise
from locdiff.sphere import decoder, pixels, shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.sphere.healpix import FAINTEST, healpix_transform, interpolation
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.points import width_of

FADED = 7.0  # nats below the density of another cell: a density whose integral need not be exact
ROWS = 32  # densities of cells at a time: their points stay in the processor's cache
NEAR = math.sqrt(2)  # in the stereographic plane: where the locations of a gallery are given a cell's density


@dataclass
class MixtureComponent:
    """What a refinement level adds: densities q_c of the cells at `cell_index` (n, K), with `weight` w_c (n, K).

    `natural_params` (n, K, D) are in zoomed coordinates; `share` (n, K, M) is what of q_c its points hold, `masses`
    (n, K, M) what remains at these points below further levels. `log_sum` (n, K) is log Z of q_c by these points,
    `exact_log_z` (n, K) by finer ones, NaN where it is not yet known.
    """

    level: RefinementLevel
    geometry: CellGeometry
    cell_index: Tensor
    weight: Tensor
    natural_params: Tensor
    share: Tensor
    log_sum: Tensor
    exact_log_z: Tensor
    masses: Tensor

    @property
    def pixel_km(self) -> float:
        """The distance between neighboring points, where they are densest."""
        return math.sqrt(4 * math.pi / self.masses.shape[-1]) / self.level.s * EARTH_RADIUS_KM

    def points(self, masses: Tensor, pixel_probs: Tensor) -> CellPoints:
        """Return masses (n, K, M) at the points as a list; see `cell_points`."""
        return cell_points(self.geometry, self.cell_index, masses, pixel_probs)

    def unit_vectors(self, picture: int) -> Tensor:
        """Return the unit vectors (3, K M) of the points of one picture, float32."""
        turns = self.geometry.rotations(self.cell_index[picture])
        return torch.cat([turn @ self.geometry.cell.unit_vectors for turn in turns], dim=1)

    def ascend(self, picture: Tensor, point: Tensor) -> Tensor:
        """Return the modes (m, 2) next to points (m,) of some pictures (m,), by Newton's method where it is zoomed.

        Points are counted through the cells of a picture, in the order of `masses`.
        """
        level, local = self.level, zoomed_pixels(self.level.zoom_nside)
        k, start = point // len(local), local[point % len(local)]
        mode, _ = decoder.newton_ascent(self.natural_params[picture, k], start[:, None], level.zoom_nside)
        return zoom.zoom_out(mode[:, 0], level.centers(self.cell_index[picture, k]), level.s)

    @property
    def point_widths(self) -> Tensor:
        """The roots of the areas of the points of a picture, in radians, in the order of `masses`: (K M,)."""
        return self.geometry.cell.widths.repeat(self.masses.shape[1])

    def log_density(self, some: Tensor, lat_lon: Tensor) -> Tensor:
        """Return the log of the sum of w_c q_c at one location for each of some pictures, (m,) and (m, 2) -> (m,)."""
        level, lat_lon = self.level, lat_lon.double()[:, None]
        centers = level.centers(self.cell_index[some])
        coeffs = shdd.encode(zoom.zoom_in(lat_lon, centers, level.s), level.l_max)
        log = self.weight[some].log() + (self.natural_params[some].double() * coeffs).sum(dim=-1)
        log += zoom.zoom_area_factor(lat_lon, centers, level.s).log()
        return torch.logsumexp(log - self.log_z(some, log), dim=-1)

    def log_z(self, some: Tensor, log: Tensor) -> Tensor:
        """Return log Z of the q_c of some pictures in zoomed coordinates, (m, K), by finer pixels than the points.

        Where `log` (m, K), the log of w_c q_c Z, says that a density adds less than a FADED-th nothing finer is needed.
        """
        nearly = log - self.log_sum[some]
        picture, k = (nearly > nearly.amax(dim=1, keepdim=True) - FADED).nonzero(as_tuple=True)
        picture = some[picture]
        unknown = self.exact_log_z[picture, k].isnan()
        picture, k = picture[unknown], k[unknown]
        if len(picture):
            self.exact_log_z[picture, k] = self._integrals(self.natural_params[picture, k])
        found = self.exact_log_z[some]
        return torch.where(found.isnan(), self.log_sum[some], found)

    def _integrals(self, natural_params):
        device = self.level.cell_id.device
        fine = healpix_transform(self.level.l_max, 2 * self.level.zoom_nside, device=device)
        values = (fine.synthesis(chunk.to(device)) for chunk in natural_params.split(ROWS // 2))
        log_sum = torch.cat([pixels.logsumexp(chunk).cpu() for chunk in values])
        return log_sum.double() + math.log(4 * math.pi / 12 / fine.nside**2)


def refine(base: PixelPosterior, levels, geometries, features: Tensor, cells_each: int) -> "RefinedPosterior":
    """Return the mixture of a base density and the densities of refinement levels, in at most `cells_each` cells each.

    `features` (n, width) are those of the pictures, `geometries` the points of level 0 and of every level. Each level
    is evaluated once, for the cells that the level above gives most mass.
    """
    cell_index, masses = torch.zeros(len(base), 1, dtype=torch.long), base.pixel_probs[:, None].clone()
    remaining, components = masses[:, 0], []
    for level, above, own in zip(levels, geometries, geometries[1:], strict=False):
        weight, refined = above.cell_weights(cell_index, masses).topk(min(cells_each, len(level.cell_id)))
        above.remove_refined_mass(cell_index, masses, refined)
        component = _component(level, own, features, refined, weight)
        components.append(component)
        cell_index, masses = refined, component.masses
    return RefinedPosterior(base, remaining, components)


def _component(level, geometry, features, cell_index, weight):
    """The MixtureComponent of a level for the cells (n, K) of these weights, nothing removed from it."""
    points, device = 12 * level.zoom_nside**2, level.cell_id.device
    inputs, flat = features.repeat_interleave(cell_index.shape[1], dim=0), cell_index.flatten().to(device)
    natural_params, share = torch.empty(len(flat), (level.l_max + 1) ** 2), torch.empty(len(flat), points)
    log_sum = torch.empty(len(flat), dtype=torch.float64)
    for chunk in torch.arange(len(flat)).split(ROWS):
        own = level(inputs[chunk.to(device)], flat[chunk.to(device)])
        values = level.grid.synthesis(own)
        top = values.amax(dim=1, keepdim=True)
        parts = values.sub_(top).clamp_(min=-FAINTEST).exp_()
        total = parts.sum(dim=1, keepdim=True)
        share[chunk], natural_params[chunk] = parts.div_(total).cpu(), own.cpu()
        log_sum[chunk] = (top + total.log())[:, 0].double().cpu()
    log_sum += math.log(4 * math.pi / points)
    n, k = cell_index.shape
    natural_params, share, log_sum = (
        natural_params.view(n, k, (level.l_max + 1) ** 2),
        share.view(n, k, points),
        log_sum.view(n, k),
    )
    exact_log_z, masses = torch.full_like(log_sum, torch.nan), share * weight[..., None]
    return MixtureComponent(level, geometry, cell_index, weight, natural_params, share, log_sum, exact_log_z, masses)


class RefinedPosterior(LocationPosterior):
    """The mixture of `base`, of which the masses `remaining` (n, N) are left below the levels, and of `components`."""

    def __init__(self, base: PixelPosterior, remaining: Tensor, components: list[MixtureComponent]):
        self.base, self.grid, self.remaining, self.components = base, base.grid, remaining, components
        self.pixel_probs, self._last = remaining.clone(), None
        self._points = [one.points(one.masses, self.pixel_probs) for one in components]

    def log_prob(self, lat_lon):
        self.base.check_one_each(lat_lon)
        return torch.logsumexp(torch.stack(self._log_parts(lat_lon)), dim=0).to(self.base.coeffs)

    def _log_parts(self, lat_lon):
        """What the base and each component contribute to the density at one location for each picture: logs (n,)."""
        return [self._log_part(i, lat_lon) for i in range(len(self.components) + 1)]

    def _log_part(self, i, lat_lon):
        """What part i contributes: 0 is the base."""
        left = torch.ones(len(lat_lon), dtype=torch.float64)
        for below in self.components[i : i + 1]:
            cell_id, r = interpolation(below.level.nside, lat_lon)
            cell_index = below.level.index_of(cell_id).cpu()
            refined = (cell_index[..., None] == below.cell_index[:, None]).any(dim=-1)
            left = (r * ~refined).sum(dim=-1).clamp(min=0)
        log, some = left.log(), pixels.where(left > 0)
        if i == 0:
            base = self.base.objective.log_prob(self.base.coeffs[some], self.base.pixel_probs[some], lat_lon[some])
            log[some] += base.double()
        else:
            log[some] += self.components[i - 1].log_density(some, lat_lon[some])
        return log

    def log_density(self, lat_lon):
        """See `LocationPosterior.log_density`: by pixels for the base, and for the cells whose plane has the location
        within NEAR, interpolated between their points."""
        out, xyz = pixels.log_density(self.remaining, lat_lon).exp(), to_unit_vector(lat_lon.double())
        for component in self.components:
            level, points = component.level, component.masses.shape[-1]
            for index in component.cell_index.unique():
                center = level.centers(index)
                near = (xyz @ to_unit_vector(center) > math.cos(2 * math.atan(NEAR / level.s))).nonzero()[:, 0]
                if not len(near):
                    continue
                picture, k = (component.cell_index == index).nonzero(as_tuple=True)
                pixel, r = interpolation(level.zoom_nside, zoom.zoom_in(lat_lon[near].double(), center, level.s))
                factor = zoom.zoom_area_factor(lat_lon[near].double(), center, level.s)
                mass = component.masses[picture, k]
                between = sum(mass[:, p] * w.float() for p, w in zip(pixel.T, r.T, strict=True))
                out[picture[:, None], near] += between * (factor * points / (4 * math.pi)).float()
        return out.log()

    def sample(self, count, seed=0, first=0):
        """See `LocationPosterior.sample`. A sample of the base samples a cell at each level; it is replaced by a sample
        of the cell's density if the picture is refined in that cell, and otherwise stays where it is."""
        places = self.base.sample(count, seed, first)
        random, moves = PictureNoise(seed, first, len(self), count, stream=(1,)), torch.ones(places.shape[:2]).bool()
        for component in self.components:
            level, uniform = component.level, random.uniform(4)  # for the cell, the pixel, and where in the pixel
            cell_id = sample_cells(places.flatten(0, 1), level.nside, uniform[..., 0].flatten()).view(moves.shape)
            chosen = level.index_of(cell_id).cpu()[..., None] == component.cell_index[:, None]
            chosen &= moves[..., None]  # (n, S, K)
            moves = chosen.any(dim=-1)
            for some in chosen.nonzero().split(batch_size(170 * component.share.shape[-1])):
                picture, sample, k = some.T
                places[picture, sample] = _sample_cells_density(component, picture, k, uniform[picture, sample, 1:])
        return places

    def sample_coeffs(self, count, seed=0, first=0):
        return self.base.sample_coeffs(count, seed, first)

    def _exact_modes(self, pixel):
        """The densest points of the basins, of any cell or of the base, and from there by Newton's method."""
        n, k = pixel.shape
        rank = torch.full(self.remaining.shape, k).scatter_(1, pixel, torch.arange(k).expand(n, k))  # k: no peak
        densest = Densest((self.remaining.gather(1, pixel) * (len(self.anchors) / (4 * math.pi))).log())
        for points in self._points:
            peak = self._basins[points.picture, points.pixel]
            densest.look_at(points.picture, rank[points.picture, peak], points.log_density)
        places = self.anchors[pixel]
        picture, h = (densest.part == 0).nonzero(as_tuple=True)
        places[picture, h] = self.base.ascend(places[picture, h][:, None], picture)[:, 0]
        for i, (component, points) in enumerate(zip(self.components, self._points, strict=True), start=1):
            picture, h = (densest.part == i).nonzero(as_tuple=True)
            if len(picture):
                places[picture, h] = component.ascend(picture, points.index[densest.point[picture, h]])
        return places

    def _mass_by_km(self, lat_lon):
        """See `pixels.mass_by_km`: of the base and of each component. The last are remembered."""
        if self._last is None or not torch.equal(self._last[0], lat_lon):
            found = [pixels.mass_by_km(self.remaining, lambda _: self.grid.unit_vectors, lat_lon)]
            for component in self.components:
                found.append(pixels.mass_by_km(component.masses.flatten(1), component.unit_vectors, lat_lon))
            self._last = lat_lon.clone(), found
        return self._last[1]

    def mass_within(self, lat_lon):
        """See `LocationPosterior.mass_within`. Where a cap is too small to count points, it is its area times the
        density."""
        self.check_one_each(lat_lon)
        pixel_km = math.sqrt(4 * math.pi / len(self.anchors)) * EARTH_RADIUS_KM
        total = torch.zeros(len(self), len(THRESHOLDS_KM), dtype=torch.float64)
        for i, mass in enumerate(self._mass_by_km(lat_lon)):
            apart = self.components[i - 1].pixel_km if i else pixel_km
            small = [k for k in THRESHOLDS_KM if k < apart / 2]
            total += mass[:, list(THRESHOLDS_KM)]
            if small:
                area = torch.tensor([cap_area(k) for k in small], dtype=torch.float64)
                total[:, : len(small)] += self._log_part(i, lat_lon).exp()[:, None] * area - mass[:, small]
        return total.float().flip(-1).cummin(dim=-1).values.flip(-1)

    def credible_radius(self, lat_lon, shares=(0.5, 0.9)):
        self.check_one_each(lat_lon)
        pixels.check_shares(shares)
        return pixels.radius_holding(torch.stack(self._mass_by_km(lat_lon)).sum(dim=0), shares)

    def best_within(self):
        """See `LocationPosterior.best_within`. Within less than a pixel, the most probable mode is the answer."""
        mode, pixel_km = self.modes()[0][:, 0], width_of(self.grid.nside) * EARTH_RADIUS_KM
        small = [k for k in THRESHOLDS_KM if k < pixel_km]
        own = {k: (mode, mass) for k, mass in zip(small, self.mass_within(mode).T, strict=False)}
        return own | best_caps(self._as_masses(), mode, THRESHOLDS_KM[len(small) :])

    def _as_masses(self):
        """Yield, for each picture, its pixels without the points of cells that hold more than LIGHT, and these."""
        for i, probs in enumerate(self.pixel_probs):
            whole, heavy = apart(self._points, i, probs)
            yield Divided(whole[None], [heavy], torch.empty(1, 0))


def _sample_cells_density(component, picture, k, uniform):
    """Locations (m, 2) sampled from q_c of cell k (m,) of each of some pictures (m,), by uniform numbers (m, 3)."""
    pixel = pixels.sample(component.share[picture, k], uniform[:, :1].contiguous())[:, 0]
    return sample_pixels(component.level, component.cell_index[picture, k], pixel, uniform[:, 1:])


def sample_pixels(level: RefinementLevel, cell_index: Tensor, pixel: Tensor, uniform: Tensor) -> Tensor:
    """Return locations (m, 2) sampled about zoomed pixels (m,) of the cells at `cell_index` (m,), by uniform numbers
    (m, 2): each from a disc of its pixel's area."""
    radius = 2 / math.sqrt(12) / level.zoom_nside * uniform[:, 0].double().sqrt()
    angle = 2 * math.pi * uniform[:, 1].double()
    lat = 90 - torch.rad2deg(radius)  # a disc about the pole, moved to the pixel
    local = zoomed_pixels(level.zoom_nside)[pixel]
    around = zoom.zoom_out(torch.stack([lat, torch.rad2deg(angle) - 180], dim=-1), local, 1.0)
    return zoom.zoom_out(around, level.centers(cell_index), level.s)
