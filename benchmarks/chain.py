"""What the diffusion adds: samples by one pass and by chains of several steps, of networks trained in several ways.

  python benchmarks/chain.py                                 Blue Marble, l_max 7, 15 and 23
  python benchmarks/chain.py --data place-names --l-max 15   names, or a folder of embeddings
  python benchmarks/chain.py --only default --training 1000    one way of training, for 1,000 steps

Each network is trained for --training steps as `locdiff.train` does it, but not calibrated: the broad part that a
calibration adds is of one pass alone, and would make its law another than the chain's. Then --pictures held-out
pictures have --samples samples each, by each number of steps: the table has their energy score with its 95 % interval
and the hits of single samples. Both are fair to a chain: neither needs its density, which nobody knows.
"""

import math

import numpy as np
import torch
from common import options, report, trained

from locdiff.evaluation import coverage, metrics
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, resolve

PAPER = {"loss": "shdd_kl", "exact_skip": False, "schedule": "cosine", "p_pure_noise": 0.0}
BETWEEN = {"p_pure_noise": 0.2}
WAYS = {  # how a network is trained: its settings, and how many times as long
    "default": ({}, 1),
    "levels between, twice as long": (BETWEEN, 2),
    "levels between, finer, deeper": (BETWEEN | {"snr_first": 300.0, "depth": 4}, 2),
    "no exact skip": ({"exact_skip": False, "p_pure_noise": 0.2}, 1),
    "the paper's loss and schedule": (PAPER, 1),
}
STEPS = (1, 10, 100)


class SkipOnly(LocDiffusion):
    """A LocDiffusion whose network does not see x_t: what x_t says is added by Bayes' rule alone, so that samples have
    the law of the one-pass density for every number of steps (but for the discretisation)."""

    def _network(self, x_t, t, embeddings):
        return super()._network(torch.zeros_like(x_t), torch.full_like(t, len(self.alpha_bar)), embeddings)


def score(model, embeddings, truth, count, steps, seed):
    """Return the columns of the table of samples by this number of steps."""
    places = model.sample(embeddings, count, seed, steps=steps)
    each = torch.tensor([coverage.energy_score(p[None], y[None]) for p, y in zip(places, truth, strict=True)])
    low, high = metrics.bootstrap(each[:, None].numpy())
    hits = metrics.hits(places.flatten(0, 1), truth.repeat_interleave(count, 0)).double().mean(dim=0)
    return {
        "energy score, km": f"{each.mean():.0f} [{low[0]:.0f}, {high[0]:.0f}]",
        "one sample, 25/200/750/2500 km": "/".join(f"{100 * value:.1f}" for value in hits[1:].tolist()),
    }


def main():
    def add(parser):
        parser.add_argument("--data", default="", help="place-names or an embeddings folder (default: Blue Marble)")
        parser.add_argument("--l-max", nargs="+", type=int, default=[7, 15, 23])
        parser.add_argument("--only", nargs="+", choices=WAYS, help="ways of training (default: all)")
        parser.add_argument("--training", type=int, default=2000, help="training steps (default 2000)")
        parser.add_argument("--pictures", type=int, default=500, help="held-out pictures (default 500)")
        parser.add_argument("--samples", type=int, default=8, help="samples a picture (default 8)")
        parser.add_argument("--name", default="chain", help="of the JSON record (default chain)")

    arguments = options(__doc__, add)
    device, rows = pick_device(arguments.device), []
    for l_max in arguments.l_max:
        for name in arguments.only or WAYS:
            values, times = WAYS[name]
            own = {"data": arguments.data, "l_max": l_max, "calibrate": False}
            settings = resolve("quickstart", **own, steps=times * arguments.training, **values)
            data, test = load_data(settings)
            embeddings, truth = test.batch(np.arange(min(arguments.pictures, len(test))))
            model, stopped = trained(settings, data, device)
            tried = [(name, model)]
            if name == "default":
                tried.append(("default, the exact skip alone", as_skip_only(model)))
            nats = one_pass_nats(model, embeddings, truth)
            for way, one in tried:
                for steps in STEPS:
                    row = {
                        "l_max": l_max,
                        "network": way,
                        "stopped at": stopped,
                        "steps": steps,
                        "one pass, nats": nats,
                    }
                    rows.append(row | score(one, embeddings, truth, arguments.samples, steps, settings.training.seed))
                    print(rows[-1], flush=True)
    report(arguments.name, rows, arguments, f"{arguments.pictures} held-out pictures, {arguments.training} steps")


def one_pass_nats(model, embeddings, truth):
    """Return the mean log density of one pass at the truth over that of the uniform density."""
    size = model.posterior_batch_size
    pairs = zip(embeddings.split(size), truth.split(size), strict=True)
    log_prob = torch.cat([model.posterior(e).log_prob(y) for e, y in pairs])
    return log_prob.double().mean().item() + math.log(4 * math.pi)


def as_skip_only(model):
    """Return the model with its network seeing no x_t."""
    one = SkipOnly(model.config)
    one.load_state_dict(model.state_dict())
    return one.to(model.device).eval()


if __name__ == "__main__":
    main()
