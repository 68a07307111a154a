"""What `predict` is told besides the pictures: the region that the locations lie in."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from locdiff import options
from locdiff.data import regions
from locdiff.data.geojson import read_region
from locdiff.model.posterior import LocationPosterior
from locdiff.model.reweighting import NoProbability, Region, intersection
from locdiff.pipeline import Pipeline, Prediction, summarize

BOX = re.compile(r"[-+.\deE]+(,[-+.\deE]+){3}")


def add_options(parser: ArgumentParser) -> None:
    """Add the options to the parser of `predict`."""
    parser.add_argument(
        "--within", type=options.text, metavar="REGION",
        help="condition on a region: a GeoJSON file of polygons, or the box lat,lon,lat,lon, south-west corner first",
    )  # fmt: skip
    parser.add_argument("--on-land", action="store_true", help="condition on land")


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
    """What is known of all pictures: the region that they lie in, if any."""

    region: Region | None = None

    @classmethod
    def of(cls, arguments: Namespace) -> "Given":
        """Return what the command line gives. Raises InputError for what is no region."""
        found = []
        if arguments.within:
            found.append((regions.box if BOX.fullmatch(arguments.within) else read_region)(arguments.within))
        if arguments.on_land:
            found.append(regions.land())
        return cls(intersection(*found))

    @property
    def note(self) -> str:
        """What the page says of it."""
        return f" Given: within {self.region.name}." if self.region else ""

    def apply(self, posterior: LocationPosterior) -> LocationPosterior:
        """Return a posterior given this. Raises NoProbability where a picture has none in the region."""
        return posterior.within(self.region) if self.region else posterior

    @property
    def reason(self) -> str:
        """Why a picture has no prediction."""
        return f"its density has no probability within {self.region.name}" if self.region else ""

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
