"""Where the points lie that the densities of refinement levels are made of."""

from functools import lru_cache

import numpy as np
import scipy.sparse
import torch
from healpy import npix2nside, vec2pix
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.model.refinement import RefinementLevel
from locdiff.sphere import zoom
from locdiff.sphere.coordinates import from_unit_vector, to_unit_vector
from locdiff.sphere.healpix import healpix_anchors, interpolation

POINT_BYTES = 52  # that a point of a remembered cell takes: its location, its pixel, its cells at the next level


@lru_cache(maxsize=2)
def zoomed_pixels(nside: int) -> Tensor:
    """Return the centers of the pixels of zoomed coordinates, (M, 2) degrees."""
    return healpix_anchors(nside)


@lru_cache(maxsize=8)
def _dilated(nside, s):
    """Unit vectors (M, 3) of the pixels of coordinates zoomed by s about the north pole."""
    return zoom.dilate(to_unit_vector(zoomed_pixels(nside)), 1 / s)


class CellGeometry:
    """The points of one density: of level 0 the pixel centers `anchors`, of the cells of a `level` their zoomed pixels.

    `below` is the next refinement level, if there is one. Cells are asked for by their index in the level; the one
    density of level 0 has index 0. What was computed is remembered within a share of the memory budget: one of as many
    as there are `geometries`.
    """

    def __init__(
        self, anchors: Tensor, level: RefinementLevel | None, below: RefinementLevel | None, geometries: int = 1
    ):
        self.anchors, self.level, self.below, self._known = anchors, level, below, {}
        count = 12 * level.zoom_nside**2 if level else len(anchors)
        self._most = 3 * batch_size(geometries * POINT_BYTES * count)  # three things are known of a cell

    def points(self, index: int) -> Tensor:
        """Return the locations (M, 2) of the points of a cell in degrees, float32."""
        return from_unit_vector(self._exact(index)).float() if self.level else self.anchors.float()

    def unit_vectors(self, index: int) -> Tensor:
        """Return the unit vectors (3, M) of the points of a cell, float32."""
        return self._remember(self._unit_vectors, index)

    def pixels(self, index: int) -> Tensor:
        """Return the pixels of level 0 that the points of a cell lie in, (M,)."""
        return self._remember(self._pixels, index)

    def memberships(self, index: int):
        """Return r(c | y) of the points y of a cell and of the cells c of the level below, sparse (M, C)."""
        return self._remember(self._memberships, index)

    def _remember(self, compute, index):
        key = compute.__name__, index
        if key not in self._known:
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[key] = compute(index)
        return self._known[key]

    def _exact(self, index):
        """Unit vectors (M, 3), float64."""
        assert self.level  # those of level 0 are not asked for
        return _dilated(self.level.zoom_nside, self.level.s) @ zoom.frame(self.level.centers(torch.tensor(index)))

    def _unit_vectors(self, index):
        return self._exact(index).T.float().contiguous()

    def _pixels(self, index):
        x, y, z = self._exact(index).T.numpy()
        return torch.from_numpy(vec2pix(npix2nside(len(self.anchors)), x, y, z))

    def _memberships(self, index):
        assert self.below
        points = self.points(index) if self.level else self.anchors
        cell_id, weights = interpolation(self.below.nside, points)
        cell_index = self.below.index_of(cell_id).cpu()
        point, _ = (cell_index >= 0).nonzero(as_tuple=True)
        entries = weights[cell_index >= 0].float(), (point, cell_index[cell_index >= 0])
        return scipy.sparse.csr_array(entries, shape=(len(points), len(self.below.cell_id)))

    def of_cells(self, find, cell_index: Tensor) -> Tensor:
        """Return find(index) for each of the cells (n, K), a method of this object: (n, K M, ...)."""
        distinct, inverse = cell_index.unique(return_inverse=True)
        return torch.stack([find(index) for index in distinct.tolist() or [0]])[inverse].flatten(1, 2)

    def cell_weights(self, cell_index: Tensor, masses: Tensor) -> Tensor:
        """Return w_c, the integral of P(y) r(c | y), for every cell c of the level below: (n, C).

        P is a sum over the cells at `cell_index` (n, K), given by the masses (n, K, M) of their points.
        """
        assert self.below
        weights = torch.zeros(len(cell_index), len(self.below.cell_id))
        for index in cell_index.unique().tolist():
            picture, k = (cell_index == index).nonzero(as_tuple=True)
            weights[picture] += torch.from_numpy((self.memberships(index).T @ masses[picture, k].numpy().T).T)
        return weights

    def remove_refined_mass(self, cell_index: Tensor, masses: Tensor, refined: Tensor) -> None:
        """Multiply the masses (n, K, M) at points y by 1 - sum of r(c | y) over the cells at `refined` (n, K')."""
        assert self.below
        n, k = refined.shape
        ones = (np.ones(n * k, np.float32), refined.flatten(), np.arange(0, n * k + 1, k))
        chosen = scipy.sparse.csr_array(ones, shape=(n, len(self.below.cell_id)))
        for index in cell_index.unique().tolist():
            picture, k = (cell_index == index).nonzero(as_tuple=True)
            taken = (chosen[picture.numpy()] @ self.memberships(index).T).tocoo()
            which, point = (torch.from_numpy(i).long() for i in taken.coords)
            masses[picture[which], k[which], point] *= torch.from_numpy(1 - taken.data).clamp_(min=0)
