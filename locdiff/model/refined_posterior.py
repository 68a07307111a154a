"""The posterior of a model with refinement levels: a mixture of densities over zoomed cells.

`reference.hierarchy` has the equations. The mixture is held as masses of points: of level 0 the masses of its pixels;
of each refinement level, for every cell that the picture is refined in, the masses of the M pixels of its zoomed
coordinates. When a level is added, the mass that it refines is removed from the level above.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.model.cell_geometry import CellGeometry, zoomed_pixels
from locdiff.model.divided import Divided, best_caps
from locdiff.model.posterior import LocationPosterior, PixelPosterior, cap_area
from locdiff.model.refinement import RefinementLevel, sample_cells
from locdiff.seeding import PictureNoise
from locdiff.sphere import decoder, pixels, shdd, zoom
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.sphere.healpix import FAINTEST, healpix_transform, interpolation
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.points import Points, width_of

LIGHT = 1e-5  # the probability of a point of a cell that may be moved to the center of its pixel
NEAR = math.sqrt(2)  # in the stereographic plane: where the locations of a gallery are given a cell's density


@dataclass
class MixtureComponent:
    """What a refinement level adds: densities q_c of the cells at `cell_index` (n, K), with `weight` w_c (n, K).

    `natural_params` (n, K, D) are in zoomed coordinates; `log_share` (n, K, M) are the logs of the shares of q_c that
    its points hold, and `masses` (n, K, M) what remains at these points below further levels.
    """

    level: RefinementLevel
    geometry: CellGeometry
    cell_index: Tensor
    weight: Tensor
    natural_params: Tensor
    log_share: Tensor
    masses: Tensor

    @property
    def pixel_km(self) -> float:
        """The distance between neighboring points, where they are densest."""
        return math.sqrt(4 * math.pi / self.masses.shape[-1]) / self.level.s * EARTH_RADIUS_KM

    def unit_vectors(self, picture: int) -> Tensor:
        """Return the unit vectors (3, K M) of the points of one picture, float32."""
        return torch.cat([self.geometry.unit_vectors(cell) for cell in self.cell_index[picture].tolist()], dim=1)

    @cached_property
    def point_widths(self) -> Tensor:
        """The roots of the areas that the points of a picture stand for, in radians: (K M,)."""
        factor = zoom.area_factor(to_unit_vector(zoomed_pixels(self.level.zoom_nside)), 1 / self.level.s)
        return (factor.sqrt() * width_of(self.level.zoom_nside)).float().repeat(self.masses.shape[1])

    @cached_property
    def pixels(self) -> Tensor:
        """Which pixels of level 0 the points lie in, (n, K M)."""
        return self.geometry.of_cells(self.geometry.pixels, self.cell_index)

    @cached_property
    def log_z(self) -> Tensor:
        """log Z of every q_c in zoomed coordinates, by finer pixels than the points: (n, K)."""
        device = self.level.cell_id.device
        fine = healpix_transform(self.level.l_max, 2 * self.level.zoom_nside, device=device)
        points, flat = 12 * fine.nside**2, self.natural_params.flatten(0, 1)
        values = (fine.synthesis(chunk.to(device)) for chunk in flat.split(batch_size(16 * points)))
        log_sum = torch.cat([pixels.logsumexp(chunk).cpu() for chunk in values])
        return log_sum.view(self.weight.shape).double() + math.log(4 * math.pi / points)

    def log_components(self, lat_lon: Tensor) -> Tensor:
        """Return log w_c q_c at one location for each picture, (n, 2) -> (n, K)."""
        level, lat_lon = self.level, lat_lon.double()[:, None]
        centers = level.centers(self.cell_index)
        coeffs = shdd.encode(zoom.zoom_in(lat_lon, centers, level.s), level.l_max)
        log_q = (self.natural_params.double() * coeffs).sum(dim=-1) - self.log_z
        return self.weight.log() + log_q + zoom.zoom_area_factor(lat_lon, centers, level.s).log()

    @cached_property
    def log_area(self) -> Tensor:
        """The logs of the areas on the Earth, in steradians, of the pixels of the points of a cell, (M,), float32."""
        local = to_unit_vector(zoomed_pixels(self.level.zoom_nside))
        factor = zoom.area_factor(local, 1 / self.level.s)
        return (factor.log() + math.log(4 * math.pi / self.masses.shape[-1])).float()

    def log_density(self) -> Tensor:
        """Return the log density at the points, (n, K M)."""
        return (self.masses.log() - self.log_area).flatten(1)


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
    natural_params, log_share = [], []
    for chunk in torch.arange(len(flat), device=device).split(batch_size(170 * points)):
        natural_params.append(level(inputs[chunk], flat[chunk]))
        values = level.grid.synthesis(natural_params[-1])
        log_share.append((values - pixels.logsumexp(values)[:, None]).cpu())
    log_share = torch.cat(log_share).view(*cell_index.shape, points)
    natural_params = torch.cat(natural_params).cpu().view(*cell_index.shape, (level.l_max + 1) ** 2)
    masses = log_share.clamp(min=-FAINTEST).exp_().mul_(weight[..., None])
    return MixtureComponent(level, geometry, cell_index, weight, natural_params, log_share, masses)


class RefinedPosterior(LocationPosterior):
    """The mixture of `base`, of which the masses `remaining` (n, N) are left below the levels, and of `components`."""

    def __init__(self, base: PixelPosterior, remaining: Tensor, components: list[MixtureComponent]):
        self.base, self.grid, self.remaining, self.components = base, base.grid, remaining, components
        self.pixel_probs, self._last = remaining.clone(), None
        for component in components:
            self.pixel_probs.scatter_add_(1, component.pixels, component.masses.flatten(1))

    def log_prob(self, lat_lon):
        return torch.logsumexp(torch.stack(self._log_parts(lat_lon)), dim=0).to(self.base.coeffs)

    def _log_parts(self, lat_lon):
        """What the base and each component contribute to the density at one location for each picture: logs (n,)."""
        return [self._log_part(i, lat_lon) for i in range(len(self.components) + 1)]

    def _log_part(self, i, lat_lon):
        """What part i contributes: 0 is the base."""
        if i == 0:
            log = self.base.log_prob(lat_lon).double()
        else:
            log = torch.logsumexp(self.components[i - 1].log_components(lat_lon), dim=-1)
        for below in self.components[i : i + 1]:
            cell_id, r = interpolation(below.level.nside, lat_lon)
            cell_index = below.level.index_of(cell_id).cpu()
            refined = (cell_index[..., None] == below.cell_index[:, None]).any(dim=-1)
            log = log + (r * ~refined).sum(dim=-1).clamp(min=0).log()
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
            for some in chosen.nonzero().split(batch_size(170 * component.log_share.shape[-1])):
                picture, sample, k = some.T
                places[picture, sample] = _sample_cells_density(component, picture, k, uniform[picture, sample, 1:])
        return places

    def sample_coeffs(self, count, seed=0, first=0):
        return self.base.sample_coeffs(count, seed, first)

    def _exact_modes(self, pixel):
        """The densest points of the basins, of any cell or of the base, and from there by Newton's method."""
        (n, k), best = pixel.shape, (self.remaining.gather(1, pixel) * (len(self.anchors) / (4 * math.pi))).log()
        where = torch.full((2, n, k), -1)  # the component, -1 for the base, and which of its points
        rank = torch.full(self.remaining.shape, k).scatter_(1, pixel, torch.arange(k).expand(n, k))
        rank = rank.gather(1, self._basins)  # which of the k basins each pixel lies in, k for none of them
        for i, component in enumerate(self.components):
            log_density, own = component.log_density(), rank.gather(1, component.pixels)
            top = torch.full((n, k + 1), -torch.inf).scatter_reduce_(1, own, log_density, "amax")
            better = (top > torch.nn.functional.pad(best, (0, 1), value=torch.inf)).gather(1, own)
            picture, point = (better & (log_density == top.gather(1, own))).nonzero(as_tuple=True)
            h = own[picture, point]
            best[picture, h], where[0, picture, h], where[1, picture, h] = log_density[picture, point], i, point
        places = self.anchors[pixel]
        picture, h = (where[0] < 0).nonzero(as_tuple=True)
        places[picture, h] = self.base.ascend(places[picture, h][:, None], picture)[:, 0]
        for i, component in enumerate(self.components):
            picture, h = (where[0] == i).nonzero(as_tuple=True)
            if len(picture):
                places[picture, h] = ascend_in_cell(component, picture, where[1, picture, h])
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
            whole, parts = probs.clone(), [Points.none()]
            for component in self.components:
                mass = component.masses[i].flatten()
                some = pixels.where(mass > LIGHT)
                whole.index_add_(0, component.pixels[i, some], mass[some], alpha=-1)
                xyz = component.unit_vectors(i)[:, some].T.numpy()
                parts.append(Points(xyz, mass[some].numpy(), component.point_widths[some].numpy()))
            yield Divided(whole.clamp_(min=0).numpy()[None], [Points.joined(parts)], torch.empty(1, 0))


def ascend_in_cell(component, picture, point):
    """Return the modes (m, 2) next to the points (m,) of some pictures (m,), by Newton's method where it is zoomed."""
    level, local = component.level, zoomed_pixels(component.level.zoom_nside)
    k, start = point // len(local), local[point % len(local)]
    mode, _ = decoder.newton_ascent(component.natural_params[picture, k], start[:, None], level.zoom_nside)
    return zoom.zoom_out(mode[:, 0], level.centers(component.cell_index[picture, k]), level.s)


def _sample_cells_density(component, picture, k, uniform):
    """Locations (m, 2) sampled from q_c of cell k (m,) of each of some pictures (m,), by uniform numbers (m, 3)."""
    pixel = pixels.sample(pixels.softmax(component.log_share[picture, k]), uniform[:, :1].contiguous())[:, 0]
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
