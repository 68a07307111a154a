"""The density of training locations: the likelihood that it gives other locations, by its highest degree.

  python benchmarks/prior_degree.py                     200 to 200,000 place names, two minutes on a core
  python benchmarks/prior_degree.py --photos FOLDER     and five splits by author of a folder of embeddings

Nats over the uniform density: as fitted to the training locations, and times the factor that cross-validation gives
it. The names are GeoNames' (extra `names`), 2,000 others to test on.
"""

import math
from pathlib import Path

import numpy as np
import torch
from common import options, report

from locdiff.data.embeddings import train_and_test
from locdiff.data.place_names import read_geonames
from locdiff.memory import batch_size
from locdiff.model.location_prior import fit_prior, prior_of
from locdiff.sphere import pixels, shdd
from locdiff.sphere.healpix import healpix_transform

DEGREES, TEST, COUNTS = (7, 15, 23, 47, 63, 95), 2000, (200, 2000, 20_000, 200_000)
SPLITS, HOLDOUT = 5, 600


def encoded(lat_lon, l_max):
    """Yield the encodings of locations (n, 2), in chunks."""
    for chunk in lat_lon.split(batch_size(64 * (l_max + 1) ** 2)):
        yield shdd.encode(chunk, l_max)


def nats(e, lat_lon):
    """Return the mean log density over uniform that natural parameters e (D,) give locations (n, 2)."""
    l_max = math.isqrt(len(e)) - 1
    values = healpix_transform(l_max, max(64, 2 * (l_max + 1))).synthesis(e)
    log_z = pixels.logsumexp(values).item() - math.log(len(values))
    return torch.cat([y.float() @ e for y in encoded(lat_lon, l_max)]).mean().item() - log_z


def worth(train, test, photographers, l_max):
    """Return the nats as fitted, and those by cross-validation."""
    total = sum(y.sum(dim=0, keepdim=True) for y in encoded(train, l_max))
    transform = healpix_transform(l_max, 8 * (l_max // 8 + 2))
    fitted = fit_prior(transform, total, torch.tensor([float(len(train))]))[0]
    return nats(fitted, test), nats(prior_of(train, l_max, photographers=photographers), test)


def row(name, splits):
    """Return a row: the mean over (training locations, test locations, photographers)."""
    found = {l_max: np.mean([worth(*split, l_max) for split in splits], axis=0) for l_max in DEGREES}
    return {"locations": name} | {f"l_max {l_max}": f"{a:.2f}, {b:.2f}" for l_max, (a, b) in found.items()}


def main():
    def more(parser):
        parser.add_argument("--photos", type=Path, metavar="FOLDER", help="embeddings with an author for each picture")

    arguments = options(__doc__, more)
    names = torch.tensor(read_geonames()[2], dtype=torch.float64)
    names = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(0))]
    rows = [row(f"{n:,} place names", [(names[TEST : TEST + n], names[:TEST], None)]) for n in COUNTS]
    if arguments.photos:
        splits = [train_and_test(arguments.photos, HOLDOUT, seed, "author") for seed in range(SPLITS)]
        pairs = [
            (torch.from_numpy(train.lat_lon), torch.from_numpy(test.lat_lon), train.photographers)
            for train, test in splits
        ]
        rows.append(row(f"{arguments.photos.name}, {SPLITS} splits by author", pairs))
    report("prior_degree", rows, arguments, "Nats over uniform: as fitted, and by cross-validation.")


if __name__ == "__main__":
    main()
