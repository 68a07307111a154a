"""What `predict` is told besides the pictures: the region that the locations lie in, and the prior."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from locdiff import options
from locdiff.data import regions
from locdiff.data.archives import ending
from locdiff.data.geojson import read_region
from locdiff.data.places import TABLES, read_locations
from locdiff.errors import InputError
from locdiff.model import priors
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.posterior import LocationPosterior
from locdiff.model.reweighting import NoProbability, Region, Weights, intersection
from locdiff.pipeline import Pipeline, Prediction, summarize

UNIFORM, LAND = "uniform", regions.LAND
BOX = re.compile(r"[-+.\deE]+(,[-+.\deE]+){3}")


def add_options(parser: ArgumentParser) -> None:
    """Add the options to the parser of `predict`."""
    parser.add_argument(
        "--within", type=options.text, metavar="REGION",
        help="condition on a region: a GeoJSON file of polygons, or the box lat,lon,lat,lon, south-west corner first",
    )  # fmt: skip
    parser.add_argument("--on-land", action="store_true", help="condition on land")
    parser.add_argument(
        "--prior", type=options.text, metavar="PRIOR",
        help="land, uniform, or a table of places (lat, lon), in place of the density of the training places",
    )  # fmt: skip


def joined(argv: list[str]) -> list[str]:
    """Return a command line in which a box that begins with a minus sign is no option: --within=-10,20,5,30."""
    out = []
    for one in argv:
        if out and out[-1] == "--within" and BOX.fullmatch(one):
            out[-1] = f"--within={one}"
        else:
            out.append(one)
    return out


@dataclass(frozen=True)
class Given:
    """What is known of all pictures: the region that they lie in, if any, and the prior, if it is not the model's.

    `places` (n, 2) are those that the prior is the density of; it is made by `for_model`, as are the `weights`.
    """

    region: Region | None = None
    prior: str | None = None
    places: Tensor | None = None
    weights: Weights = field(default_factory=Weights)
    holds_prior: bool = False

    @classmethod
    def of(cls, arguments: Namespace) -> "Given":
        """Return what the command line gives. Raises InputError for what is no region and no prior."""
        found = []
        if arguments.within:
            found.append((regions.box if BOX.fullmatch(arguments.within) else read_region)(arguments.within))
        if arguments.on_land:
            found.append(regions.land())
        is_table = arguments.prior and arguments.prior not in (UNIFORM, LAND)
        if is_table and ending(arguments.prior) not in TABLES:
            raise InputError(
                f"--prior {arguments.prior}: give {LAND}, {UNIFORM} or a table ({', '.join(sorted(TABLES))})"
            )
        places = torch.from_numpy(read_locations(arguments.prior)) if is_table else None
        return cls(intersection(*found), arguments.prior, places)

    def for_model(self, model: LocDiffusion) -> "Given":
        """Return this with the weights for a model. Raises InputError if it holds no prior that could be replaced."""
        weights = Weights(self.region)
        if self.prior:
            if self.places is not None:
                new = model.prior_of(self.prior, self.places)
            else:
                new = priors.uniform(model.grid, self.prior, regions.land() if self.prior == LAND else None)
            weights *= Weights(new.region, priors.log_ratio(new, model.prior))
        return replace(self, weights=weights, holds_prior=model.calibration is not None)

    @property
    def note(self) -> str:
        """What the page says of it."""
        if self.prior:
            said = f"{'uniform over land' if self.prior == LAND else self.prior}, instead of the training places"
        else:
            said = "the density of the training places" if self.holds_prior else ""
        return f" Prior: {said}." * bool(said) + (f" Given: within {self.region.name}." if self.region else "")

    def apply(self, posterior: LocationPosterior) -> LocationPosterior:
        """Return a posterior given this. Raises NoProbability where a picture has none in the region."""
        given = self.weights.region is not None or self.weights.log_ratio is not None
        return posterior.weighted(self.weights) if given else posterior

    @property
    def reason(self) -> str:
        """Why a picture has no prediction."""
        return f"its density has no probability within {self.weights.region.name}" if self.weights.region else ""

    def stream(
        self, pipeline: Pipeline, embeddings: Tensor, samples: int, top_k: int, seed: int, first: int
    ) -> Iterator[tuple[list[int], LocationPosterior, list[Prediction]]]:
        """Yield what `Pipeline.stream` yields, given this, and before it the positions of its pictures: those that have
        no probability in the region are left out."""
        for rows in torch.arange(len(embeddings)).split(pipeline.model.posterior_batch_size):
            try:
                posterior = self.apply(pipeline.model.posterior(embeddings[rows]))
            except NoProbability as error:
                rows = rows[~torch.isin(torch.arange(len(rows)), torch.tensor(error.pictures))]
                if not len(rows):
                    continue
                posterior = self.apply(pipeline.model.posterior(embeddings[rows]))
            with torch.no_grad():
                predictions = summarize(posterior, samples, top_k, seed, first)
            first += len(rows)
            yield rows.tolist(), posterior, predictions
