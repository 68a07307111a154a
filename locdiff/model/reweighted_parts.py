"""What a posterior consists of, multiplied by weights on the Earth.

A posterior consists of points: the pixels of level 0 and those of cells, each with a mass. Inside a region a point
keeps its mass, outside it loses it. Where the edge cuts the pixel of a point, smaller pixels take the point's place
(`reweighting.Split`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from locdiff.model.cell_geometry import zoomed_pixels
from locdiff.model.posterior import PixelPosterior
from locdiff.model.refined_posterior import MixtureComponent, RefinedPosterior
from locdiff.model.reweighting import FINE, Split, Weights, split
from locdiff.sphere import shdd, zoom
from locdiff.sphere.coordinates import to_unit_vector


@dataclass
class Part:
    """What weights leave of a base or of a component: masses of its points (n, P) and of smaller pixels (n, R).

    The latter are padded by zeros. Of those of each picture, `places` (r, 2) are where they lie, `parents` (r,) the
    points whose pixels they are parts of, and `areas` (r,) their shares of the area of these.
    """

    points: Tensor
    pieces: Tensor
    places: list[Tensor]
    parents: list[Tensor]
    areas: list[Tensor]

    @property
    def total(self) -> Tensor:
        """The mass of each picture, (n,), float64."""
        return self.points.sum(dim=1, dtype=torch.float64) + self.pieces.sum(dim=1, dtype=torch.float64)

    def scaled(self, factor: Tensor) -> "Part":
        """Return the part with all masses times a factor (n,)."""
        factor = factor[:, None].to(self.points)
        return replace(self, points=self.points * factor, pieces=self.pieces * factor)

    def unit_vectors(self, picture: int) -> Tensor:
        """Return the unit vectors (3, R) of the smaller pixels of a picture, float32."""
        return self.padded(to_unit_vector(self.places[picture])).T.float().contiguous()

    def padded(self, values: Tensor) -> Tensor:
        """Return what is given of the smaller pixels of a picture, (r, ...), with zeros for the padding: (R, ...)."""
        full = values.new_zeros(self.pieces.shape[1], *values.shape[1:])
        full[: len(values)] = values
        return full


def parts_of(source: PixelPosterior | RefinedPosterior, weights: Weights) -> list[Part]:
    """Return what weights leave of a posterior: of its base, and of each of its components."""
    base, masses = (
        (source.base, source.remaining) if isinstance(source, RefinedPosterior) else (source, source.pixel_probs)
    )

    def base_density(_, picture, __, one):
        coeffs, probs = base.coeffs[picture], base.pixel_probs[picture]
        return base.objective.log_density(coeffs, probs, one.looked)

    whole = split(weights.region, base.grid.nside)
    cell_index = torch.zeros(len(base), 1, dtype=torch.long)
    found = [_weigh(cell_index, masses[:, None], weights, lambda _: whole, base_density, lambda _: base.anchors)]
    components = source.components if isinstance(source, RefinedPosterior) else []
    return found + [_weigh_component(component, weights) for component in components]


def _weigh_component(component: MixtureComponent, weights: Weights) -> Part:
    level = component.level

    def split_of(index):
        center = tuple(level.centers(torch.tensor(index)).tolist())
        return split(weights.region, level.zoom_nside, center, level.s)

    def log_density(_, picture, k, one):
        return component.natural_params[picture, k] @ shdd.encode(one.looked, level.l_max).float().T

    def points_of(index):
        return zoom.zoom_out(zoomed_pixels(level.zoom_nside), level.centers(torch.tensor(index)), level.s)

    return _weigh(component.cell_index, component.masses, weights, split_of, log_density, points_of)


def _weigh(
    cell_index: Tensor,
    masses: Tensor,
    weights: Weights,
    split_of: Callable[[int], Split],
    log_density: Callable[[int, Tensor, Tensor, Split], Tensor],
    points_of: Callable[[int], Tensor],
) -> Part:
    """Return the Part of masses (n, K, M) in the cells at `cell_index` (n, K)."""
    points, found = torch.zeros_like(masses), [[] for _ in masses]
    for index in cell_index.unique().tolist():
        picture, k = (cell_index == index).nonzero(as_tuple=True)
        own, one = masses[picture, k], split_of(index)
        points[picture, k] = own * one.whole * _factor(weights, points_of, index)
        pieces = own[:, one.pixel]
        if len(one.pixel):
            fractions = one.fractions(log_density(index, picture, k, one))
            pieces = pieces * fractions * _factor(weights, lambda one: one.places, one)
        for i, j, row in zip(picture.tolist(), k.tolist(), pieces, strict=True):
            found[i].append((row, one.places, one.pixel + j * masses.shape[2], one.area / 4**FINE))
    rows, places, parents, areas = ([_joined([each[i] for each in own]) for own in found] for i in range(4))
    padded = pad_sequence(rows, batch_first=True) if rows else masses.new_zeros(0, 0)
    return Part(points.flatten(1), padded, places, parents, areas)


def _factor(weights, places_of, what):
    """Return the factors at the locations places_of(what), (m,), float32, or one where there are none."""
    return 1.0 if weights.log_ratio is None else weights.log_factor(places_of(what).double()).exp().float()


def _joined(tensors):
    """Return tensors as one, without a copy of a single one."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
