"""The posterior that another becomes, multiplied by weights on the Earth and normalised again."""

import math
from functools import cached_property

import torch
from torch import Tensor

from locdiff.model.cell_points import apart
from locdiff.model.divided import Divided, best_caps
from locdiff.model.posterior import LocationPosterior, PixelPosterior, cap_area, disc_nodes
from locdiff.model.refined_posterior import RefinedPosterior, sample_pixels
from locdiff.model.reweighted_caps import divided_base, small_masses, with_pieces
from locdiff.model.reweighted_modes import BasePart, CellPart, exact_modes
from locdiff.model.reweighted_parts import parts_of
from locdiff.model.reweighting import LEAST, NoProbability, Weights, split
from locdiff.seeding import PictureNoise
from locdiff.sphere import basins, pixels, shdd
from locdiff.sphere.coordinates import EARTH_RADIUS_KM
from locdiff.sphere.healpix import ang2pix
from locdiff.sphere.pixels import THRESHOLDS_KM
from locdiff.sphere.points import width_of

Source = PixelPosterior | RefinedPosterior


class ReweightedPosterior(LocationPosterior):
    """A `source` times `weights`. The logs of the integrals of these products are `log_mass` (n,).

    Samples are those of the density, also where the source's are made by a chain. Raises NoProbability if a picture has
    no probability in the region.
    """

    def __init__(self, source: Source, weights: Weights):
        self.source, self.weights, self.grid = source, weights, source.grid
        self.base = source.base if isinstance(source, RefinedPosterior) else source
        self.components = source.components if isinstance(source, RefinedPosterior) else []
        parts = parts_of(source, weights)
        total = torch.stack([part.total for part in parts]).sum(dim=0)
        if weights.region and (empty := (total < LEAST).nonzero()[:, 0].tolist()):
            raise NoProbability(weights.region, empty)
        self.log_mass = total.log()
        self._parts = [part.scaled(1 / total) for part in parts]
        probs = self._parts[0].points.double()
        self._points = [
            component.points(part.points.view_as(component.masses), probs)
            for component, part in zip(self.components, self._parts[1:], strict=True)
        ]
        self._whole = probs.to(source.pixel_probs)
        for i, part in enumerate(self._parts):
            probs.scatter_add_(1, self._pixels_of_pieces(i), part.pieces.double())
        self.pixel_probs = probs.to(source.pixel_probs)

    def _pixels_of_pieces(self, i):
        """The pixels of level 0 that the smaller pixels of part i lie in, (n, R)."""
        part = self._parts[i]
        of_base = part.parents if i == 0 else [ang2pix(self.grid.nside, places) for places in part.places]
        return torch.stack([part.padded(own) for own in of_base]) if of_base else part.pieces.long()

    def weighted(self, weights):
        return ReweightedPosterior(self.source, self.weights * weights)

    def log_prob(self, lat_lon):
        log = self.source.log_prob(lat_lon)
        return (log.double() + self.weights.log(lat_lon) - self.log_mass).to(log)

    def log_density(self, lat_lon):
        log = self.source.log_density(lat_lon)
        return (log.double() + self.weights.log(lat_lon) - self.log_mass[:, None]).to(log)

    def sample(self, count, seed=0, first=0):
        """See `LocationPosterior.sample`. Pixels of level 0, and smaller ones along an edge, give their centers."""
        random, jitter = (PictureNoise(seed, first, len(self), count, stream) for stream in ((), (1,)))
        random.skip((self.base.objective.l_max + 1) ** 2)  # as PixelPosterior
        uniform, around = random.uniform()[..., 0].double(), jitter.uniform(2)
        places = torch.empty(len(self), count, 2, dtype=torch.float64)
        for i in range(len(self)):
            masses = [row for part in self._parts for row in (part.points[i], part.pieces[i])]
            ends = torch.tensor([0, *map(len, masses)]).cumsum(0)
            total = torch.cat(masses).cumsum(0, dtype=torch.float64)
            index = torch.searchsorted(total, uniform[i] * total[-1], right=True).clamp(max=len(total) - 1)
            kind = torch.searchsorted(ends, index, right=True) - 1
            for own in kind.unique().tolist():
                chosen = kind == own
                places[i, chosen] = self._places(own, i, index[chosen] - ends[own], around[i, chosen])
        return places

    def _places(self, kind, picture, index, uniform):
        """Locations (m, 2) of points, or of smaller pixels, of a picture: part 0, its pieces, part 1, ...."""
        part = self._parts[kind // 2]
        if kind % 2:
            return part.places[picture][index.clamp(max=len(part.places[picture]) - 1)]
        if kind == 0:
            return self.anchors[index]
        component = self.components[kind // 2 - 1]
        k, pixel = index // component.masses.shape[-1], index % component.masses.shape[-1]
        how = component.level, component.cell_index[picture, k], pixel
        found = sample_pixels(*how, uniform)
        inside = self.weights.contain(found)
        return torch.where(inside[:, None], found, sample_pixels(*how, torch.zeros_like(uniform)))

    def sample_coeffs(self, count, seed=0, first=0):
        return shdd.encode(self.sample(count, seed, first), self.base.objective.l_max).to(self.base.coeffs)

    @cached_property
    def _share(self) -> Tensor:
        """The share of each pixel of level 0 that lies in the region, (N,)."""
        return split(self.weights.region, self.grid.nside).share

    @cached_property
    def _basins(self) -> Tensor:  # of densities: a pixel that is cut is no valley
        return basins.basins(self._mean_density, self.source._is_smooth)

    @property
    def _mean_density(self):
        """The mean density of each pixel of level 0 inside the region, by its area, (n, N)."""
        return self.pixel_probs / self._share.clamp(min=1e-3)

    def _exact_modes(self, pixel):
        """The densest points of the basins, and from there by Newton's method if that stays inside the region."""
        parts = [self._mode_part(i) for i in range(len(self._parts))]
        return exact_modes(parts, self.anchors, self._basins, pixel, self.weights)

    def _mode_part(self, i):
        part, pieces = self._parts[i], self._pixels_of_pieces(i)
        if i == 0:
            return BasePart(part, pieces, self.base, self._smooth_base)
        return CellPart(part, pieces, self.components[i - 1], self._points[i - 1])

    @property
    def _smooth_base(self):
        """The base whose F has the maxima of this one's density: to natural parameters log_ratio is added. Others have
        none."""
        ratio, base = self.weights.log_ratio, self.base
        if ratio is None or not base.objective.is_natural:
            return base if ratio is None else None
        added = self.grid.analysis(ratio.to(self.grid.k.device, torch.float32)).cpu() * (4 * math.pi / len(ratio))
        return PixelPosterior(self.grid, base.objective, base.coeffs + added, base.pixel_probs, None)

    def _mass_by_km(self, lat_lon):
        """See `pixels.mass_by_km`: of each part."""
        for i, part in enumerate(self._parts):
            of_points = self.components[i - 1].unit_vectors if i else lambda _: self.grid.unit_vectors
            mass = pixels.mass_by_km(part.points, of_points, lat_lon)
            if part.pieces.shape[1]:
                mass = mass + pixels.mass_by_km(part.pieces, part.unit_vectors, lat_lon)
            yield mass

    def mass_within(self, lat_lon):
        """See `LocationPosterior.mass_within`. With refinement levels, where a cap is too small to count points, it is
        its area times the density."""
        self.check_one_each(lat_lon)
        total = torch.zeros(len(self), len(THRESHOLDS_KM), dtype=torch.float64)
        for i, mass in enumerate(self._mass_by_km(lat_lon)):
            total += mass[:, list(THRESHOLDS_KM)]
            if isinstance(self.source, RefinedPosterior):
                apart = (
                    self.components[i - 1].pixel_km
                    if i
                    else math.sqrt(4 * math.pi / len(self.anchors)) * EARTH_RADIUS_KM
                )
                small = [km for km in THRESHOLDS_KM if km < apart / 2]
                density = self.source._log_part(i, lat_lon) + self.weights.log(lat_lon) - self.log_mass
                area = torch.tensor([cap_area(km) for km in small], dtype=torch.float64)
                total[:, : len(small)] += density.exp()[:, None] * area - mass[:, small]
        return total.float().flip(-1).cummin(dim=-1).values.flip(-1)

    def credible_radius(self, lat_lon, shares=(0.5, 0.9)):
        self.check_one_each(lat_lon)
        pixels.check_shares(shares)
        return pixels.radius_holding(torch.stack(list(self._mass_by_km(lat_lon))).sum(dim=0), shares)

    def credible_regions(self, shares=(0.5, 0.9)):
        """See `LocationPosterior.credible_regions`. Of a pixel that is cut only what lies inside counts as area."""
        pixels.check_shares(shares)
        order = self._mean_density.argsort(dim=1, descending=True, stable=True)
        reached, area = self.pixel_probs.gather(1, order).cumsum(dim=1), self._share[order].double().cumsum(dim=1)
        last = torch.stack([(reached < share * (1 - 1e-6)).sum(dim=1) for share in shares], dim=1)
        last = last.clamp(max=len(self.anchors) - 1)
        rank = torch.empty_like(order).scatter_(1, order, torch.arange(len(self.anchors)).expand_as(order))
        pixel_km2 = 4 * math.pi * EARTH_RADIUS_KM**2 / len(self.anchors)
        return rank[:, None] <= last[..., None], (area.gather(1, last) * pixel_km2).float()

    def best_within(self):
        """See `LocationPosterior.best_within`: what the source does, of these masses."""
        (mode, basin), pixel_km = (part[:, 0] for part in self.modes()), width_of(self.grid.nside) * EARTH_RADIUS_KM
        if isinstance(self.source, RefinedPosterior):
            small = [k for k in THRESHOLDS_KM if k < pixel_km]
            found = {k: (mode, mass) for k, mass in zip(small, self.mass_within(mode).T, strict=False)}
            return found | best_caps(self._as_masses(), mode, THRESHOLDS_KM[len(small) :])
        small = [k for k in THRESHOLDS_KM if k <= pixel_km / 2]
        if self.base.objective.is_natural:
            nodes, node_weights = disc_nodes(mode, small)
            chunks = list(divided_base(self.base, self._parts[0], self.weights, self.log_mass, nodes))
            density = torch.cat([mode.new_empty(0), *(chunk.density.flatten() for chunk in chunks)])
            whole = split(self.weights.region, self.grid.nside).whole
            how = self._parts[0], whole, mode, nodes, density.view(nodes.shape[:-1]), small, node_weights
            found = {k: (mode, own.clamp(max=1)) for k, own in zip(small, small_masses(*how).T, strict=True)}
        else:
            chunks, rate = self._as_masses(), self.log_prob(mode).exp() / basin
            found = {k: (mode, -basin * torch.expm1(-rate * cap_area(k))) for k in small}
        return found | best_caps(chunks, mode, THRESHOLDS_KM[len(small) :])

    def _as_masses(self):
        """Yield, for each picture, its pixels, and apart from them what points of cells and smaller pixels hold, where
        it is more than LIGHT."""
        widths = [width_of(self.grid.nside), *(component.point_widths.numpy() for component in self.components)]
        for i in range(len(self)):
            whole, heavy = apart(self._points, i, self._whole[i])
            found = Divided(whole[None], [heavy], torch.empty(1, 0))
            yield with_pieces(found, self._parts, widths, i, self.grid.nside)
