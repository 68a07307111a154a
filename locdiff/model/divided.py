"""The density of one level as masses: of its pixels, and of parts of those pixels that it is narrower than."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.sphere import caps, pixels, shdd
from locdiff.sphere.basins import neighbors
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, to_unit_vector
from locdiff.sphere.healpix import HealpixTransform
from locdiff.sphere.points import HEAVY, PixelTree, Points, divide, width_of

TIMES = 3  # so a part is an eighth as wide as its pixel
VERY_HEAVY = 0.03  # the probability of a pixel whose neighbors are divided too: a narrow mode may lie between centers


@dataclass
class Divided:
    """What is known of m pictures.

    `whole` (m, N) are the masses of the pixels that are not divided, and zeros; `parts` are those of the others, for
    each picture; `density` (m, P) is per steradian, at the locations that were asked for.
    """

    whole: np.ndarray
    parts: list[Points]
    density: Tensor


def undivided(pixel_probs: Tensor) -> Divided:
    """Return a density (n, N) as it is: no pixel has parts, and no density was asked for."""
    return Divided(pixel_probs.numpy(), [Points.none()] * len(pixel_probs), torch.empty(len(pixel_probs), 0))


def divided(grid: HealpixTransform, objective, coeffs: Tensor, pixel_probs: Tensor, at: Tensor) -> Iterator[Divided]:
    """Yield the densities of natural parameters e (n, D) by the `objective`, a Likelihood, in chunks: each is the sum
    of w q_{f e} over the (w, f) of its mixture.

    `at` (n, P, 2) are locations where the density is asked for. Pixels that hold more than HEAVY are divided. What a
    part holds is its area times the density at its center, and all of a density is what its pixels and parts hold.
    """
    size = min(32, batch_size(16 * 12 * grid.nside**2))  # 32 in the processor's cache
    for chunk in torch.arange(len(coeffs)).split(size):
        yield _divided(grid, objective, coeffs[chunk], pixel_probs[chunk], at[chunk])


def _divided(grid, objective, coeffs, probs, at):
    weights, factors = (np.array(part) for part in zip(*objective.mixture, strict=True))
    log_z = _log_normalizers(grid, coeffs, factors)

    def masses(picture, nside, pixel):
        values = objective.calibration.synthesis_of_pixels(coeffs, picture, nside, pixel)
        f = factors * values[:, None].astype(np.float64)
        return weights * np.exp(f - log_z[picture]) * width_of(nside) ** 2

    picture, pixel = _to_divide(probs, grid.nside)
    own, xyz, mass, width = divide(grid.nside, picture, pixel, masses, TIMES)
    total = np.tile(weights, (len(coeffs), 1))  # that each density of the mixture holds, by pixels alone
    np.subtract.at(total, picture, masses(picture, grid.nside, pixel))
    np.add.at(total, own, mass)
    scale = weights / total  # the pixels that are left hold the tails, which need none
    order = np.argsort(own, kind="stable")  # `divide` returns the larger parts of all pictures first
    every = Points(xyz, (mass * scale[own]).sum(axis=-1).astype(np.float32), width)[order]
    ends = np.searchsorted(own[order], np.arange(len(coeffs) + 1))
    parts = [every[start:end] for start, end in itertools.pairwise(ends)]
    whole = probs.numpy().copy()
    whole[picture, pixel] = 0
    value = (coeffs[:, None] * shdd.encode(at, grid.l_max)).sum(dim=-1).double().numpy()[..., None]
    density = (weights * scale[:, None] * np.exp(factors * value - log_z[:, None])).sum(axis=-1)
    return Divided(whole, parts, torch.from_numpy(density))


def _log_normalizers(grid, coeffs, factors):
    """The logs of the integrals of exp(f F) over the pixels, (n, F), float64."""
    values, log_area = grid.synthesis(coeffs.to(grid.k.device)).cpu(), math.log(4 * math.pi / 12 / grid.nside**2)
    logs = [pixels.logsumexp(values if f == 1 else f * values).double() + log_area for f in factors.tolist()]
    return torch.stack(logs, dim=-1).numpy()


def _to_divide(probs, nside):
    """Pixels (m,) of pictures (m,), in order: the heavy ones of (n, N), and the neighbors of the very heavy ones."""
    count = probs.shape[-1]
    heavy = pixels.where(probs.flatten() > HEAVY)
    very = heavy[probs.flatten()[heavy] > VERY_HEAVY]
    around = neighbors(nside)[:, very % count] + very // count * count
    return divmod(torch.cat([heavy, around.flatten()]).unique().numpy(), count)


def best_caps(chunks: Iterable[Divided], mode: Tensor, radii_km: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """Return {km: (locations (n, 2), probabilities (n,))}: where most probability lies within each radius.

    `mode` (n, 2) are the most probable modes of the densities in `chunks`; see `caps.best_cap`.
    """
    centers, radii = to_unit_vector(mode).numpy(), [km / EARTH_RADIUS_KM for km in radii_km]
    place, mass = mode[:, None].repeat(1, len(radii), 1), torch.zeros(len(mode), len(radii))
    pairs = (pair for chunk in chunks for pair in zip(chunk.whole, chunk.parts, strict=True))
    for i, (whole, parts) in enumerate(pairs):
        around, tree = caps.CapsAround(whole, parts, centers[i]), None
        for j, radius in enumerate(radii):
            mass[i, j] = own = around.mass(radius)
            if not around.are_best(radius):
                tree = tree or PixelTree(whole)
                found, most = caps.best_cap(tree, parts, radius)
                if own < caps.PREFERRED * most:
                    place[i, j], mass[i, j] = from_unit_vector(torch.from_numpy(found)), most
    return {k: (place[:, j], mass[:, j].clamp(0, 1)) for j, k in enumerate(radii_km)}
