"""Where the points lie that the densities of refinement levels are made of."""

from functools import cached_property, lru_cache

import numpy as np
import scipy.sparse
import torch
from healpy import npix2nside, vec2pix
from torch import Tensor

from locdiff.memory import batch_size
from locdiff.model.refinement import RefinementLevel
from locdiff.sphere import zoom
from locdiff.sphere.coordinates import to_unit_vector
from locdiff.sphere.healpix import healpix_anchors, interpolation
from locdiff.sphere.points import tree_pixels, width_of

POINT_BYTES = 40  # that a point of a remembered cell takes: its pixel, its cells at the next level, their weights


@lru_cache(maxsize=2)
def zoomed_pixels(nside: int) -> Tensor:
    """Return the centers of the pixels of zoomed coordinates, (M, 2) degrees."""
    return healpix_anchors(nside)


class PolarCell:
    """The points of a cell of a level whose center is the north pole: its M zoomed pixels.

    `unit_vectors` are (3, M), float32, and `widths` (M,) the roots of areas in radians. `order` (M,) are the points so
    that the `block` points of each block follow each other.
    """

    def __init__(self, nside: int, s: float):
        side = min(4, nside & -nside)
        self.block, self.order = side**2, torch.from_numpy(tree_pixels(nside)[0])
        local = to_unit_vector(zoomed_pixels(nside))
        self.unit_vectors = zoom.dilate(local, 1 / s).T.float().contiguous()
        self.widths = (zoom.area_factor(local, 1 / s).sqrt() * width_of(nside)).float()


class CellGeometry:
    """The points of one density: of level 0 the pixel centers `anchors`, of the cells of a `level` their zoomed pixels.

    `below` is the next refinement level, if there is one. Cells are asked for by their index in the level; the one
    density of level 0 has index 0. What is known of a cell is remembered within a share of the memory budget: one of as
    many as there are `levels` between the first and the last.
    """

    def __init__(self, anchors: Tensor, level: RefinementLevel | None, below: RefinementLevel | None, levels: int = 1):
        self.anchors, self.level, self.below, self._known = anchors, level, below, {}
        count = 12 * level.zoom_nside**2 if level else len(anchors)
        self._most = 2 * batch_size(levels * POINT_BYTES * count)  # two things are known of a cell

    @cached_property
    def cell(self) -> PolarCell:
        """The points of a cell of the level, as if it lay at the north pole."""
        assert self.level
        return PolarCell(self.level.zoom_nside, self.level.s)

    def points(self, index: int) -> Tensor:
        """Return the locations (M, 2) of the points of a cell in degrees, float32."""
        if not self.level:
            return self.anchors.float()
        center = self.level.centers(torch.tensor(index))
        return zoom.zoom_out(zoomed_pixels(self.level.zoom_nside), center, self.level.s).float()

    def rotations(self, cell_index: Tensor) -> Tensor:
        """Return what takes unit vectors from the pole to the cells at `cell_index` (...): (..., 3, 3), float32."""
        assert self.level
        return zoom.frame(self.level.centers(cell_index)).mT.float().contiguous()

    def pixels(self, index: int, rotation: Tensor) -> Tensor:
        """Return the pixels of level 0 that the points of a cell lie in, (M,); `rotation` (3, 3) is the cell's."""
        return self._remember("pixels", index, lambda: self._pixels(rotation))

    def _pixels(self, rotation):
        xyz = rotation @ self.cell.unit_vectors
        return torch.from_numpy(vec2pix(npix2nside(len(self.anchors)), *xyz.numpy()))

    def memberships(self, index: int):
        """Return r(c | y) of the cells c of the level below and of the points y of a cell, sparse (C, M)."""
        return self._remember("memberships", index, lambda: self._memberships(index))

    def _remember(self, what, index, compute):
        if (what, index) not in self._known:
            if not self.below:
                return compute()
            if len(self._known) >= self._most:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[what, index] = compute()
        return self._known[what, index]

    def _memberships(self, index):
        assert self.below
        points = self.points(index) if self.level else self.anchors
        cell_id, weights = interpolation(self.below.nside, points)
        cell_index = self.below.index_of(cell_id).cpu()
        point, _ = (cell_index >= 0).nonzero(as_tuple=True)
        entries = weights[cell_index >= 0].float(), (cell_index[cell_index >= 0], point)
        return scipy.sparse.csr_array(entries, shape=(len(self.below.cell_id), len(points)))

    def cell_weights(self, cell_index: Tensor, masses: Tensor) -> Tensor:
        """Return w_c, the integral of P(y) r(c | y), for every cell c of the level below: (n, C).

        P is a sum over the cells at `cell_index` (n, K), given by the masses (n, K, M) of their points.
        """
        assert self.below
        weights = torch.zeros(len(cell_index), len(self.below.cell_id))
        for index in cell_index.unique().tolist():
            picture, k = (cell_index == index).nonzero(as_tuple=True)
            weights[picture] += torch.from_numpy((self.memberships(index) @ masses[picture, k].numpy().T).T)
        return weights

    def remove_refined_mass(self, cell_index: Tensor, masses: Tensor, refined: Tensor) -> None:
        """Multiply the masses (n, K, M) at points y by 1 - sum of r(c | y) over the cells at `refined` (n, K')."""
        assert self.below
        for own, cells, refined_cells in zip(masses.numpy(), cell_index.tolist(), refined.tolist(), strict=True):
            for mass, index in zip(own, cells, strict=True):
                known, left = self.memberships(index), np.ones_like(mass)
                for cell in refined_cells:
                    entries = slice(*known.indptr[cell : cell + 2])
                    left[known.indices[entries]] -= known.data[entries]
                mass *= left.clip(min=0)
