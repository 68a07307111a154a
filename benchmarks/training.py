"""Which training is best in the same time: the quickstart with one thing changed at a time.

Every variant trains on the embedded data for as many steps as take --seconds, the time of a step being measured first,
of all variants in turn. It is judged on held-out pictures: accuracy of the one-pass density and of one sample,
likelihood, calibration.

  python benchmarks/training.py --list
  python benchmarks/training.py --only quickstart lr-2e-3 --seeds 0 1 2 --seconds 240
"""

import functools
import math
import statistics

import common
import torch
from torch import nn

from locdiff.data import blue_marble
from locdiff.data.embeddings import train_and_test
from locdiff.evaluation import metrics
from locdiff.evaluation.summaries import calibration
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.distributed import pick_device
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer


class Variant(LocDiffusion):
    """A LocDiffusion which with squared error predicts `target`, and in which, with `residual`, a linear shortcut
    by-passes blocks."""

    def __init__(self, config, target="x0", residual=False):
        super().__init__(config)
        self.target = target
        if residual:
            self.network.down = nn.ModuleList(Residual(block) for block in self.network.down)
            self.network.up = nn.ModuleList(Residual(block) for block in self.network.up)

    def forward(self, x_t, t, embeddings):
        output, alpha_bar = super().forward(x_t, t, embeddings), self.alpha_bar[t - 1][..., None]
        if self.target == "v":
            output = alpha_bar**0.5 * x_t - (1 - alpha_bar) ** 0.5 * output
        if self.target == "noise":
            output = (x_t - (1 - alpha_bar) ** 0.5 * output) / alpha_bar.clamp(min=1e-6) ** 0.5
        return output.to(x_t.dtype)


class Residual(nn.Module):
    """A C-Siren block and a linear map past it."""

    def __init__(self, block):
        super().__init__()
        self.block, self.shortcut = block, nn.Linear(block.from_x.in_features, block.from_x.out_features, bias=False)

    def forward(self, x, time, image):
        return self.block(x, time, image) + self.shortcut(x)


L2 = {"loss": "l2", "exact_skip": False}
KL = {"loss": "shdd_kl", "exact_skip": False}
VARIANTS = {  # settings of the run, and what makes the Variant
    "quickstart": ({}, {}),
    "its first version": ({"depth": 6, "whiten": 0.0, "p_pure_noise": 0.0, "lr": 5e-4}, {}),
    "no exact skip": ({"exact_skip": False}, {}),
    "no exact skip, cosine schedule": ({"exact_skip": False, "schedule": "cosine"}, {}),
    "L2": (L2, {}),
    "L2 of v": (L2, {"target": "v"}),
    "L2 of the noise": (L2, {"target": "noise"}),
    "SHDD-KL": (KL, {}),
    "SHDD-KL, temperature 4": (KL | {"temperature": 4.0}, {}),
    "x_t unseen": ({"input_gate_snr": math.inf}, {}),
    "x_t seen throughout": ({"input_gate_snr": 1e-6}, {}),
    "no pure noise": ({"p_pure_noise": 0.0}, {}),
    "half at pure noise": ({"p_pure_noise": 0.5}, {}),
    "whiten-0": ({"whiten": 0.0}, {}),
    "whiten-0.03": ({"whiten": 0.03}, {}),
    "whiten-3": ({"whiten": 3.0}, {}),
    "width-64": ({"width": 64}, {}),
    "width-576": ({"width": 576}, {}),
    "depth-6": ({"depth": 6}, {}),
    "residual": ({}, {"residual": True}),
    "lr-5e-4": ({"lr": 5e-4}, {}),
    "lr-2e-3": ({"lr": 2e-3}, {}),
    "lr-2e-3, warmup-300": ({"lr": 2e-3, "warmup": 300}, {}),
    "batch-128": ({"batch": 128}, {}),
    "ema-0": ({"ema": 0.0}, {}),
    "beta2-0.999": ({"beta2": 0.999}, {}),
}


def trainer(name, steps, seed, data, device):
    """Return a Trainer of the variant of that name."""
    overrides, options = VARIANTS[name]
    settings = infer_data_fields(resolve("quickstart", **overrides, seed=seed, steps=steps), data)
    return Trainer(settings, data, device, functools.partial(Variant, **options))


def measure(one, test, seed):
    """Train to the end and score; return a row of the table."""
    for _ in range(one.steps):
        one.training_step()
    model, parts = one.averaged_model(), []
    for start in range(0, len(test), model.posterior_batch_size):
        embeddings, truth = test.batch(range(start, min(start + model.posterior_batch_size, len(test))))
        posterior = model.posterior(embeddings)
        mode, sample = posterior.modes()[0][:, 0], posterior.sample(1, seed, start)[:, 0]
        hits = metrics.hits(mode, truth), metrics.hits(sample, truth)
        parts.append((*hits, posterior.mass_within(truth), calibration(posterior, truth)))
    mode, sample, mass, worth = (torch.cat(part).double().mean(dim=0) for part in zip(*parts, strict=True))
    percent = {
        "one pass, % within 25 km": mode[1], "200 km": mode[2], "750 km": mode[3], "one sample, 200 km": sample[2],
        "its chance by the density": mass[2], "in the 50 % region": worth[1], "in the 90 % region": worth[2],
    }  # fmt: skip
    return {"steps": one.steps, "nats": worth[0].item()} | {name: 100 * value.item() for name, value in percent.items()}


def summary(name, seeds):
    """Return a row of the table: mean of the rows of `measure` over the seeds, and how far they spread."""
    row = {"variant": name, "steps": round(statistics.mean(one["steps"] for one in seeds))}
    for key in list(seeds[0])[1:]:
        values, digits = [one[key] for one in seeds], 2 if key == "nats" else 1
        row[key] = f"{statistics.mean(values):.{digits}f} +- {(max(values) - min(values)) / 2:.{digits}f}"
    return row


def main():
    def add(parser):
        parser.add_argument("--only", nargs="+", choices=VARIANTS, help="variants to train (default: all)")
        parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
        parser.add_argument("--seconds", type=float, default=100.0, help="of training, for each (default 100)")
        parser.add_argument("--list", action="store_true", help="name the variants and stop")
        parser.add_argument("--name", default="training", help="of the JSON record (default training)")

    arguments = common.options(__doc__, add)
    if arguments.list:
        print("\n".join(f"{name}: {settings | options}" for name, (settings, options) in VARIANTS.items()))
        return
    device = pick_device(arguments.device)
    folder = blue_marble.blue_marble(resolve().blue_marble)
    data, test = train_and_test(folder, 0)
    found = {name: [] for name in arguments.only or VARIANTS}
    trials = {name: trainer(name, 1000, 0, data, device).training_step for name in found}
    step_takes = common.seconds(trials, device.type, rounds=12)
    del trials
    for seed in arguments.seeds:
        for name in found:
            steps = round(arguments.seconds / step_takes[name])
            found[name].append(measure(trainer(name, steps, seed, data, device), test, seed))
            print(name, f"seed {seed}", found[name][-1], flush=True)
    rows = [summary(name, seeds) for name, seeds in found.items()]
    note = f"{len(test):,} held-out pictures; mean of {len(arguments.seeds)} seeds +- half their range"
    common.report(arguments.name, rows, arguments, note)


if __name__ == "__main__":
    main()
