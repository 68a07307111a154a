"""Classification of pictures into cells of the Earth, as PlaNet, CPlaNet, ISN and PIGEON do."""

import healpy
import numpy as np
import torch

from locdiff.sphere.coordinates import from_unit_vector, great_circle_km, to_unit_vector
from locdiff.sphere.healpix import ang2pix, healpix_anchors
from methods.baseline import trunk
from methods.densities import NSIDE, PixelDensities
from methods.density_baseline import DensityBaseline

LARGEST_NSIDE = 4096  # of the cells: 1.6 km
FINE_NSIDE = 128  # of the points that tell which pixels a cell covers


class Partition:
    """A quadtree of HEALPix cells (NESTED): a cell is split while it holds more than n_max of the locations (n, 2).

    No cell is split beyond `largest_nside`, a power of two, and cells that hold none of the locations do not exist.
    With a `seed` the sphere is first turned at random, which moves the borders. A cell is a range
    starts <= pixel < ends of the pixels of the largest nside, which NESTED order keeps together; its representative, in
    `centers` (C, 2), is the geographic center of its locations. Raises ValueError unless there are locations and
    n_max >= 1.
    """

    def __init__(self, lat_lon, n_max, seed=None, largest_nside=LARGEST_NSIDE):
        if not len(lat_lon) or n_max < 1:
            raise ValueError(f"need places and n_max >= 1, got {len(lat_lon)} and {n_max}")
        self.nside = largest_nside
        self.rotation = np.eye(3) if seed is None else np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        pixel, size, starts, ends = self._pixel(lat_lon), largest_nside**2, [], []
        while size:
            cell, own, count = np.unique(pixel // size, return_inverse=True, return_counts=True)
            leaf = (count <= n_max) | (size == 1)
            starts.append(cell[leaf] * size)
            ends.append(cell[leaf] * size + size)
            pixel, size = pixel[~leaf[own]], size // 4
        self.starts, self.ends = np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends))
        self.centers = _centers(lat_lon, self.find(lat_lon), len(self.starts))

    def _pixel(self, lat_lon):
        xyz = to_unit_vector(lat_lon.cpu().double()).numpy() @ self.rotation.T
        return healpy.vec2pix(self.nside, *xyz.T, nest=True)

    def find(self, lat_lon):
        """Return the cell of each of the locations (n, 2), or -1 where there is none: (n,) on the CPU."""
        pixel = self._pixel(lat_lon)
        cell = np.searchsorted(self.starts, pixel, side="right") - 1
        return torch.from_numpy(np.where((cell >= 0) & (pixel < self.ends[cell]), cell, -1))

    def labels(self, lat_lon):
        """Return the same, but where there is no cell the one with the nearest representative."""
        cell, lat_lon = self.find(lat_lon), lat_lon.cpu()
        for i in (cell < 0).nonzero()[:, 0]:
            cell[i] = great_circle_km(lat_lon[i], self.centers).argmin()
        return cell


def _centers(lat_lon, group, count):
    """Return the geographic center of the locations (n, 2) of each group (n,) in 0..count - 1: (count, 2)."""
    xyz = to_unit_vector(lat_lon.cpu().double())
    return from_unit_vector(xyz.new_zeros(count, 3).index_add_(0, group, xyz))


def smoothed_labels(lat_lon, centers, tau_km):
    """Return labels smoothed by distance (Haas et al. 2024), each summing to one: (n, 2) x (C, 2) -> (n, C).

    They are proportional to exp(-(d(x, center_i) - d(x, center of x's cell)) / tau). Scaled to one, the second distance
    cancels: as tau tends to zero all weight goes to the nearest center, be it that of x's own cell or not. (The paper
    does not scale them; the authors' program subtracts the distance to the nearest center.)
    """
    return torch.softmax(-great_circle_km(lat_lon[:, None], centers) / tau_km, dim=-1)


def spread(partitions, members, places):
    """Return how candidates spread over the pixels of NSIDE: a sparse matrix (N, M), whose columns sum to one.

    A candidate is the intersection of the cells `members` (M, P) of P partitions. It is sampled at the centers of finer
    pixels; one so small that it holds none lies in the pixel of its place (M, 2).
    """
    fine = healpix_anchors(FINE_NSIDE)
    cells = torch.stack([p.find(fine) for p in partitions], dim=-1)
    known = (cells >= 0).all(dim=-1).nonzero()[:, 0]
    both = torch.unique(torch.cat([members, cells[known]]), dim=0, return_inverse=True)[1]
    candidate_of = torch.full((int(both.max()) + 1,), -1)
    candidate_of[both[: len(members)]] = torch.arange(len(members))
    candidate = candidate_of[both[len(members) :]]
    known, candidate = known[candidate >= 0], candidate[candidate >= 0]
    pixel = ang2pix(NSIDE, fine[known])
    empty = (torch.bincount(candidate, minlength=len(members)) == 0).nonzero()[:, 0]
    pixel, candidate = torch.cat([pixel, ang2pix(NSIDE, places[empty])]), torch.cat([candidate, empty])
    count = torch.bincount(candidate, minlength=len(members)).float()
    size = (12 * NSIDE**2, len(members))
    return torch.sparse_coo_tensor(
        torch.stack([pixel, candidate]), 1 / count[candidate], size, check_invariants=True
    ).coalesce()


class CellClassifier(DensityBaseline):
    """Classification of the picture into cells, by one linear head for each of the partitions of the Earth.

    The prediction is a candidate: the geographic center of the training locations (n, 2) that share their cells in all
    partitions. Its probability is the product of those of its cells, scaled to one over the candidates.

    - One partition: PlaNet (Weyand et al. 2016); the candidates are the cells.
    - Turned partitions: CPlaNet (Seo et al. 2018); the candidates are the intersections of their cells, much smaller
      than these. That the scores are multiplied is an assumption.
    - Nested partitions, coarse to fine: the hierarchy of ISN (Müller-Budack et al. 2018); the candidates are the fine
      cells, and the product runs over a cell and its ancestors. Without the scene recognition of that paper.
    - tau_km > 0: the label smoothing of PIGEON (Haas et al. 2024), which has 65 for photographs. Only that: without its
      political cells, its pretraining and its refinement within cells.
    """

    def __init__(self, config, partitions, lat_lon, tau_km=0.0):
        super().__init__(config)
        self.partitions, self.tau_km = partitions, tau_km
        self.network = trunk(config, sum(len(p.centers) for p in partitions))
        cells = torch.stack([p.labels(lat_lon) for p in partitions], dim=-1)
        members, candidate = torch.unique(cells, dim=0, return_inverse=True)
        self.register_buffer("members", members, persistent=False)
        self.places = _centers(lat_lon, candidate, len(members))
        self.on_pixels = spread(partitions, members, self.places)

    def forward(self, embeddings):
        """Return the log-probabilities of the cells of each partition: (n, embed_dim) -> a list of (n, C)."""
        sizes = [len(p.centers) for p in self.partitions]
        return [logits.log_softmax(dim=-1) for logits in self.network(embeddings).split(sizes, dim=-1)]

    def loss(self, embeddings, lat_lon):
        """Return the cross-entropy of each picture in nats, the sum over the partitions, (n,)."""
        total = 0
        for partition, log_p in zip(self.partitions, self(embeddings), strict=True):
            if self.tau_km:
                labels = smoothed_labels(lat_lon.to(log_p), partition.centers.to(log_p), self.tau_km)
                total = total - (labels * log_p).sum(dim=-1)
            else:
                total = total - log_p.gather(-1, partition.labels(lat_lon)[:, None].to(log_p.device))[:, 0]
        return total

    def log_probability(self, embeddings):
        """Return the log-probability of each candidate: (n, embed_dim) -> (n, M)."""
        log_p = zip(self(embeddings), self.members.T, strict=True)
        return sum(values[:, cell] for values, cell in log_p).log_softmax(dim=-1)

    def densities(self, embeddings, sharpness):
        log_p = (sharpness * self.log_probability(embeddings)).log_softmax(dim=-1).cpu()
        return PixelDensities((self.on_pixels @ log_p.exp().T).T.contiguous())

    def place(self, embeddings):
        return self.places[self.log_probability(embeddings).argmax(dim=-1).cpu()]


def classifier(train, config, cells, turned=False, tau_km=0.0):
    """Return a CellClassifier on the Embeddings `train`, with a partition for each of `cells`.

    A cell holds at most 1 / `cells` of the training pictures; as they are spread there are two to four times as many.
    """
    lat_lon = torch.from_numpy(train.lat_lon)
    partitions = [
        Partition(lat_lon, max(1, len(train) // number), seed if turned else None) for seed, number in enumerate(cells)
    ]
    return CellClassifier(config, partitions, lat_lon, tau_km)
