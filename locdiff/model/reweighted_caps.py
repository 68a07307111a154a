"""Where most probability of a posterior with weights lies within a distance: its masses, as `divided` has them."""

import math
from collections.abc import Iterator

import healpy
import numpy as np
import torch
from torch import Tensor

from locdiff.model.cell_points import LIGHT
from locdiff.model.divided import Divided, divided
from locdiff.model.posterior import PixelPosterior, cap_area
from locdiff.model.reweighted_parts import Part
from locdiff.model.reweighting import Weights
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, to_unit_vector
from locdiff.sphere.healpix import ang2pix
from locdiff.sphere.points import Points, width_of


def divided_base(base: PixelPosterior, part: Part, weights: Weights, log_mass: Tensor, at: Tensor) -> Iterator[Divided]:
    """Yield, of a base by likelihood, its pixels, the parts of those that it is narrower than, and the smaller pixels
    along an edge; and the densities at locations (n, P, 2)."""
    first, nside = 0, base.grid.nside
    for chunk in divided(base.grid, base.objective, base.coeffs, base.pixel_probs, at.flatten(1, -2)):
        rows = slice(first, first + len(chunk.whole))
        whole, fine = part.points[rows].numpy().copy(), []
        whole[chunk.whole == 0] = 0
        for i, own in enumerate(chunk.parts, start=first):
            xyz = torch.from_numpy(own.xyz.astype(np.float64))
            kept = part.points[i].numpy()[healpy.vec2pix(nside, *own.xyz.T.astype(np.float64))] > 0
            factor = (weights.log_factor_at(xyz) - log_mass[i]).exp().numpy()
            fine.append(Points(own.xyz, (own.mass * factor).astype(np.float32), own.width)[kept])
        log = weights.log(at[rows]).flatten(1) - log_mass[rows, None]
        density = chunk.density * log.exp()
        yield with_pieces(Divided(whole, fine, density), [part], [width_of(nside)], first, nside)
        first = rows.stop


def small_masses(part: Part, whole: Tensor, mode: Tensor, nodes: Tensor, density: Tensor, radii_km, weights) -> Tensor:
    """Return the probabilities within T small radii of modes (n, 2), by densities (n, T, P) at the `nodes` of discs, of
    these `weights` (P,): (n, T).

    Where smaller pixels that are finer than a disc lie in it, they count instead of nodes in the pixels that they are
    parts of; `whole` (N,) says which pixels no edge cuts.
    """
    found = density @ weights
    uncut, nside = whole[ang2pix(healpy.npix2nside(len(whole)), nodes)], healpy.npix2nside(len(whole))
    for i, center in enumerate(to_unit_vector(mode)):
        mass, width = part.pieces[i, : len(part.areas[i])], part.areas[i].sqrt() * width_of(nside)
        chord = (to_unit_vector(part.places[i]) - center).norm(dim=1)
        for j, km in enumerate(radii_km):
            near = chord < 2 * math.sin(km / EARTH_RADIUS_KM / 2)
            if near.any() and width[near].mean() < km / EARTH_RADIUS_KM / 4:
                found[i, j] = (density[i, j] * uncut[i, j]) @ weights + mass[near].sum() / cap_area(km)
    return found * torch.tensor([cap_area(km) for km in radii_km], dtype=torch.float64)


def with_pieces(found: Divided, parts: list[Part], widths: list, first: int, nside: int) -> Divided:
    """Return the masses of pictures, from `first` on, with the smaller pixels of parts: LIGHT ones in their pixels of
    level 0. `widths` are those of the points of each part, (P,) or one for all."""
    for i in range(len(found.whole)):
        for part, width in zip(parts, widths, strict=True):
            mass = part.pieces[first + i, : len(part.areas[first + i])].numpy()
            xyz = part.unit_vectors(first + i)[:, : len(mass)].T.numpy()
            light = mass <= LIGHT
            np.add.at(found.whole[i], healpy.vec2pix(nside, *xyz[light].T.astype(np.float64)), mass[light])
            parents = part.parents[first + i].numpy()
            own = np.broadcast_to(np.asarray(width, np.float32), part.points.shape[1:])[parents]
            own = own * part.areas[first + i].sqrt().numpy()
            found.parts[i] = Points.joined([found.parts[i], Points(xyz, mass, own)[~light]])
    return found
