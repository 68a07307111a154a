"""The galleries of Table 2: what retrieval searches, and the anchors that LocDiffusion decodes at."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from report import slashes
from scipy.spatial import cKDTree

from locdiff.data.geoclip import gallery_places
from locdiff.evaluation import retrieval
from locdiff.evaluation.metrics import hits
from locdiff.memory import batch_size
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, geographic_center, great_circle_km, to_unit_vector
from locdiff.sphere.decoder import synthesis_at
from locdiff.sphere.healpix import ang2pix, healpix_anchors
from locdiff.sphere.pixels import THRESHOLDS_KM

NSIDES = (256, 128, 64, 32)  # of the HEALPix cells that keep one training picture each
REGION = 8  # nside of the cells whose own pictures are left out
OTHER_REGIONS = "other regions"
ABOUT = (
    "A grid keeps one of the training {kind} for each HEALPix cell that has any, that nearest to the cell's centre; "
    "the nside of the cells is {nsides}. Other regions: for each test location all training {kind} but those in its "
    "own HEALPix cell of nside {region}, one of {count} cells of equal area, about {width:.0f} km wide. Nothing in "
    "that cell can be found, neither by retrieval nor as an anchor, but the network was trained on all of them. Of "
    "the test locations, {reach} % have one that is left within {thresholds} km. Retrieval and the densest anchor "
    "cannot be right more often; a centre can lie between anchors."
)


@dataclass
class Gallery:
    """Places (m, 2) in degrees by which to predict those of n test pictures.

    `search()` returns the queries of these pictures (n, d) and the Embeddings of the places. With `own`, the pictures'
    HEALPix cells of nside REGION (n,), a picture finds no place in its own cell.
    """

    name: str
    places: torch.Tensor
    search: Callable
    own: torch.Tensor | None = None

    def mask(self, values, places):
        """Return the values (n, m) of places (m, 2) for the pictures: minus infinity where these cannot find them."""
        if self.own is None:
            return values
        return values.masked_fill((self.own[:, None] == ang2pix(REGION, places)).to(values.device), -torch.inf)

    def retrieve(self):
        """Return the place nearest by cosine to each picture, (n, 2)."""
        queries, embeddings = self.search()
        if self.own is None:
            return retrieval.retrieve(queries, embeddings)

        def can_be_found(places):
            return self.mask(torch.zeros(len(queries), len(places)), places)

        return retrieval.retrieve_by_density(queries, embeddings, can_be_found, (1.0,))[0]

    def densest(self, coeffs, device):
        """Return the place where each density (n, D), given by natural parameters, is largest: (n, 2).

        Many places take several turns.
        """
        chunks = self.places.double().split(batch_size(16 * len(coeffs)))
        found = [self.mask(synthesis_at(coeffs.to(device), part.to(device)), part).max(dim=-1) for part in chunks]
        best = torch.stack([value for value, _ in found]).argmax(dim=0).cpu()
        places = torch.stack([part[index.cpu()] for part, (_, index) in zip(chunks, found, strict=True)])
        return places[best, torch.arange(len(best))]

    def nearest(self, locations):
        """Return the place nearest to each of the pictures' locations (n, k, 2): (n, k, 2), float64."""
        xyz, points = to_unit_vector(self.places.double()).numpy(), to_unit_vector(locations.double()).numpy()
        if self.own is None:
            return self.places[cKDTree(xyz).query(points)[1]].double()
        cells, found = ang2pix(REGION, self.places), torch.empty(locations.shape, dtype=torch.float64)
        for cell in self.own.unique():
            kept = torch.nonzero(cells != cell)[:, 0]
            found[self.own == cell] = self.places[kept[cKDTree(xyz[kept]).query(points[self.own == cell])[1]]].double()
        return found

    def center(self, samples):
        """Return the paper's prediction with these places for anchors: the geographic center of the samples (n, k, 2),
        each decoded to the nearest anchor, which is where the density of a single location is largest; (n, 2)."""
        return geographic_center(self.nearest(samples))


def galleries(data):
    """Return the galleries of a data set: its own, even grids, and, where pictures are searched, other regions."""
    if data.places is not None:
        grids = [gallery_places(f"grid:{size}") for size in data.scale.grids]
        names = ["MP16", *(f"grid, {len(grid):,}" for grid in grids)]
        pairs = zip(names, [data.places, *grids], strict=True)
        return [Gallery(name, places, partial(data.search, places)) for name, places in pairs]
    places = torch.from_numpy(data.train.lat_lon)
    found = [Gallery(f"all training {data.train.kind}", places, data.search)]
    for nside in NSIDES:
        chosen = thinned(places, nside)
        kept = data.train.subset(chosen.numpy())
        found.append(Gallery(f"grid, {len(kept):,}", places[chosen], lambda kept=kept: (data.embeddings, kept)))
    return [*found, Gallery(OTHER_REGIONS, places, data.search, ang2pix(REGION, data.truth))]


def thinned(places, nside):
    """Return the positions (k,), in order, of the places (m, 2) that are nearest to the centre of their HEALPix cell:
    one for each cell of this nside with a place."""
    cell = ang2pix(nside, places)
    order = np.lexsort((great_circle_km(places, healpix_anchors(nside)[cell]).numpy(), cell.numpy()))
    _, first = np.unique(cell.numpy()[order], return_index=True)
    return torch.from_numpy(np.sort(order[first]))


def about(data, nearest):
    """Return what the galleries of a data set are whose training pictures are searched; the places of other regions
    `nearest` (n, 2) to the true ones tell what can be right there."""
    return ABOUT.format(
        kind=data.train.kind,
        nsides=", ".join(map(str, NSIDES)),
        region=REGION,
        count=12 * REGION**2,
        width=EARTH_RADIUS_KM * math.sqrt(4 * math.pi / (12 * REGION**2)),
        reach=slashes((100 * hits(nearest, data.truth).double().mean(dim=0)).numpy().round(1).tolist()),
        thresholds=slashes(THRESHOLDS_KM),
    )
