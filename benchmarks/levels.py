"""What every level of a hierarchy adds, in accuracy and in time: a run trained with several, cut off after each.

  python benchmarks/levels.py runs/zoom                  three minutes on 2 cores; --device cuda for a GPU

Accuracy: the most probable mode of each of --pictures held-out pictures, and the mean log density at the true place, in
nats over the uniform density. Time: per picture, from its embedding, of the density on the pixels of level 0, of this
with its mode, and of all that `predict` gives; every round has other pictures.
"""

import math
from pathlib import Path

import torch
from common import options, report, seconds

from locdiff.evaluation import metrics
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.options import flatten, nest
from locdiff.pipeline import Pipeline
from locdiff.sphere.coordinates import great_circle_km
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, read_settings

SHOWN_KM = (1, 5, 25, 200, 750, 2500)


def first_levels(model, n):
    """Return the model without its levels from n on."""
    changes = {"levels": n, "cells": model.config.refinement.cells[: n - 1]}
    cut, state = LocDiffusion(nest(ModelConfig, flatten(model.config) | changes)), model.state_dict()
    cut.load_state_dict({name: state[name] for name in cut.state_dict()})
    return cut.to(model.device).eval()


def accuracy(model, embeddings, truth):
    """Return how many modes are right within each distance, their median error, and the gain in nats."""
    modes, gain, size = [], [], model.posterior_batch_size
    for e, place in zip(embeddings.split(size), truth.split(size), strict=True):
        posterior = model.posterior(e)
        modes.append(posterior.modes()[0][:, 0])
        gain.append(posterior.log_prob(place).double() + math.log(4 * math.pi))
    distance = great_circle_km(torch.cat(modes), truth)
    within = {f"{k} km": 100 * (distance <= k).double().mean().item() for k in SHOWN_KM}
    return within | {
        "median km": metrics.score(torch.cat(modes), truth)["median_km"],
        "nats": torch.cat(gain).mean().item(),
    }


def times(models, embeddings, device, batch, turn, rounds=3):
    """Return rows: milliseconds a picture, `batch` pictures at a time, and how many times those of level 0 alone.

    `turn` counts, for each model, the pictures it has seen: each round takes new ones.
    """
    work = {
        "density": lambda model, e: model.posterior(e).pixel_probs,
        "density and mode": lambda model, e: model.posterior(e).modes(),
        "predict": lambda model, e: Pipeline(model).predict(e),
    }
    rows, count = [], min(max(batch, 20), len(embeddings))
    for name, function in work.items():

        def run(n, model, function=function):
            some = embeddings.roll(-turn[n], dims=0)[:count]
            turn[n] += count
            for part in some.split(batch):
                function(model, part)

        found = seconds({n: lambda n=n, m=m: run(n, m) for n, m in models.items()}, device, rounds)
        for n, value in found.items():
            rows.append({
                "pictures at a time": batch, "what": name, "levels": n, "ms a picture": 1e3 * value / count,
                "/ one level": value / found[1],
            })  # fmt: skip
    return rows


def main():
    def add(parser):
        parser.add_argument("run", type=Path, help="folder of a training run with several levels")
        parser.add_argument("--pictures", type=int, default=1000, help="held-out pictures (default 1000)")

    arguments = options(__doc__, add)
    device = pick_device(arguments.device)
    model = LocDiffusion.from_pretrained(arguments.run, device)
    _, test = load_data(read_settings(arguments.run))
    embeddings, truth = test.batch(range(min(arguments.pictures, len(test))))
    models = {n: first_levels(model, n) for n in range(1, len(model.refinements) + 2)}
    turn = dict.fromkeys(models, 0)
    rows = [row for batch in (1, 64) for row in times(models, embeddings, device.type, batch, turn)]
    report("levels_times", rows, arguments)
    rows = [{"levels": n} | accuracy(one, embeddings, truth) for n, one in models.items()]
    report("levels", rows, arguments, f"{len(truth)} pictures of {arguments.run}")


if __name__ == "__main__":
    main()
