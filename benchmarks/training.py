"""Which training is best in the same wall time: variants of the quickstart, a setting changed at a time.

Every variant trains for --seconds on the embedded data (the number of steps follows from its own time a step, measured
first), and is judged on held-out pictures: accuracy of the one-pass density and of one sample, likelihood, calibration.

  python benchmarks/training.py --list
  python benchmarks/training.py --only first white --seeds 0 1 2 --seconds 240
"""

import functools
import math
import time

import common
from torch import nn

from locdiff import datasets, diffusion, metrics, train
from locdiff import model as model_module
from locdiff.evaluate import calibration
from locdiff.model import LocDiffusion
from locdiff.train import Trainer, resolve


class Variant(LocDiffusion):
    """A LocDiffusion whose network sees x_t where dimensions x signal-to-noise ratio exceeds `readable`; which with
    squared error predicts `target`; and in which, with `residual`, a linear shortcut by-passes every block."""

    def __init__(self, config, readable=model_module.READABLE, target="x0", residual=False):
        super().__init__(config)
        self.readable, self.target = readable, target
        if residual:
            self.network.down = nn.ModuleList(Residual(block) for block in self.network.down)
            self.network.up = nn.ModuleList(Residual(block) for block in self.network.up)

    def forward(self, x_t, t, embeddings):
        alpha_bar = self.alpha_bar[t - 1][..., None]
        if self.config.exact_skip:
            signal = self.config.dimensions * alpha_bar / (1 - alpha_bar)
            visible = (signal / (self.readable + signal)).to(x_t.dtype) if self.readable < math.inf else 0
            skip = diffusion.bayes_skip(x_t, alpha_bar).to(x_t.dtype)
            return self._network(visible * x_t, t, embeddings) + skip
        output = super().forward(x_t, t, embeddings)
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


FIRST = {"depth": 6, "whiten": 0.0, "pure_noise": 0.0, "lr": 5e-4}  # the paper's network, as the quickstart once was
L2 = {"loss": "l2", "exact_skip": False}
KL = {"loss": "shdd_kl", "exact_skip": False}
FLAT = FIRST | {"depth": 2}
HALF = FLAT | {"pure_noise": 0.5}
WHITE = HALF | {"whiten": 0.01}
VARIANTS = {  # settings of the run, and what makes the Variant
    "first": (FIRST, {}),
    "lr-1e-3": (FIRST | {"lr": 1e-3}, {}),
    "warmup-200": (FIRST | {"warmup": 200}, {}),
    "batch-128": (FIRST | {"batch": 128}, {}),
    "batch-512": (FIRST | {"batch": 512}, {}),
    "width-1024": (FIRST | {"width": 1024}, {}),
    "depth-4": (FIRST | {"depth": 4}, {}),
    "depth-2": (FLAT, {}),
    "depth-2, width-1024": (FLAT | {"width": 1024}, {}),
    "residual": (FIRST, {"residual": True}),
    "pure-0.25": (FIRST | {"pure_noise": 0.25}, {}),
    "pure-0.5": (FIRST | {"pure_noise": 0.5}, {}),
    "pure-1": (FIRST | {"pure_noise": 1.0}, {}),
    "whitened-1e-4": (FIRST | {"whiten": 1e-4}, {}),
    "whitened-1e-2": (FIRST | {"whiten": 1e-2}, {}),
    "blind": (FIRST, {"readable": math.inf}),
    "readable-0": (FIRST, {"readable": 0.0}),
    "no exact skip": (FIRST | {"exact_skip": False}, {}),
    "cosine schedule, no skip": (FIRST | {"schedule": "cosine", "exact_skip": False}, {}),
    "L2": (FIRST | L2, {}),
    "L2, v": (FIRST | L2, {"target": "v"}),
    "L2, noise": (FIRST | L2, {"target": "noise"}),
    "SHDD-KL": (FIRST | KL, {}),
    "SHDD-KL, temperature 4": (FIRST | KL | {"temperature": 4.0}, {}),
    "L-15": (FIRST | {"l_max": 15}, {}),
    "L-31": (FIRST | {"l_max": 31}, {}),
    "ema-0.95": (FIRST | {"ema": 0.95}, {}),
    "beta2-0.999": (FIRST | {"beta2": 0.999}, {}),
    "clip-10": (FIRST | {"clip": 10.0}, {}),
    "depth-2, pure-0.5": (HALF, {}),
    "depth-2, pure-0.5, blind": (HALF, {"readable": math.inf}),
    "depth-2, pure-0.5, lr-1e-3": (HALF | {"lr": 1e-3}, {}),
    "depth-2, pure-0.5, width-576": (HALF | {"width": 576}, {}),
    "white": (WHITE, {}),
    "white, lr-1e-3": (WHITE | {"lr": 1e-3}, {}),
    "white, lr-2e-3": (WHITE | {"lr": 2e-3}, {}),
    "white, lr-4e-3": (WHITE | {"lr": 4e-3}, {}),
    "white-1e-3, lr-1e-3": (WHITE | {"lr": 1e-3, "whiten": 1e-3}, {}),
    "white-0.1, lr-1e-3": (WHITE | {"lr": 1e-3, "whiten": 0.1}, {}),
    "white-0.3, lr-1e-3": (WHITE | {"lr": 1e-3, "whiten": 0.3}, {}),
    "white-1, lr-1e-3": (WHITE | {"lr": 1e-3, "whiten": 1.0}, {}),
    "white-0.1, lr-2e-3": (WHITE | {"lr": 2e-3, "whiten": 0.1}, {}),
    "white-0.1, lr-1e-3, width-576": (WHITE | {"lr": 1e-3, "whiten": 0.1, "width": 576}, {}),
    "white-0.1, lr-1e-3, depth-6": (WHITE | {"lr": 1e-3, "whiten": 0.1, "depth": 6}, {}),
    "white-0.1, lr-1e-3, L-31": (WHITE | {"lr": 1e-3, "whiten": 0.1, "l_max": 31}, {}),
    "white-0.1, lr-1e-3, residual": (WHITE | {"lr": 1e-3, "whiten": 0.1}, {"residual": True}),
    "white, lr-1e-3, batch-128": (WHITE | {"lr": 1e-3, "batch": 128}, {}),
    "white, lr-1e-3, batch-512": (WHITE | {"lr": 1e-3, "batch": 512}, {}),
    "white, lr-1e-3, depth-6": (WHITE | {"lr": 1e-3, "depth": 6}, {}),
    "white, lr-1e-3, width-64": (WHITE | {"lr": 1e-3, "width": 64}, {}),
    "white, lr-1e-3, width-576": (WHITE | {"lr": 1e-3, "width": 576}, {}),
    "white, lr-1e-3, pure-0.25": (WHITE | {"lr": 1e-3, "pure_noise": 0.25}, {}),
    "white, lr-1e-3, pure-0.8": (WHITE | {"lr": 1e-3, "pure_noise": 0.8}, {}),
    "white, lr-1e-3, blind": (WHITE | {"lr": 1e-3}, {"readable": math.inf}),
    "white, lr-1e-3, L-31": (WHITE | {"lr": 1e-3, "l_max": 31}, {}),
    "white, lr-1e-3, residual": (WHITE | {"lr": 1e-3}, {"residual": True}),
    "white, lr-1e-3, no skip": (WHITE | {"lr": 1e-3, "exact_skip": False}, {}),
    "white, lr-1e-3, L2": (WHITE | {"lr": 1e-3} | L2, {}),
    "white, lr-1e-3, SHDD-KL, temperature 4": (WHITE | {"lr": 1e-3, "temperature": 4.0} | KL, {}),
}


def measure(name, seed, data, test, seconds, device):
    """Train a variant for so many seconds and score it: a row of the table."""
    overrides, options = VARIANTS[name]
    make = functools.partial(Variant, **options)

    def trainer(steps):
        settings = train.fitted(resolve("quickstart", **overrides, seed=seed, steps=steps), data)
        return Trainer(settings, data, device, make)

    trial = trainer(13)
    for step in range(13):
        if step == 3:
            started = time.perf_counter()
        trial.advance()
    steps = max(20, round(seconds / (time.perf_counter() - started) * 10))
    one, started = trainer(steps), time.perf_counter()
    for _ in range(steps):
        one.advance()
    taken = time.perf_counter() - started
    model = one.averaged_model()
    embeddings, truth = test.batch(range(len(test)))
    coeffs = model.one_pass(embeddings)
    shares = model.to_density(coeffs)
    tops = model.modes(coeffs, shares)[0][:, 0]
    samples = model.decode(model.sample(embeddings, 1, seed=seed))[:, 0]
    worth = calibration(shares, model.log_likelihood(coeffs, shares, truth), truth).double().mean(dim=0)
    mass = metrics.mass_within(shares, model.anchors, truth).double().mean(dim=0)
    shown = [1, 2, 3, 4]

    def slashes(values):
        return "/".join(f"{100 * value:.1f}" for value in values)

    return {
        "variant": name, "seed": seed, "steps": steps, "seconds": round(taken),
        "one pass, 25/200/750/2500 km": slashes(metrics.hits(tops, truth).double().mean(dim=0)[shown].tolist()),
        "one sample": slashes(metrics.hits(samples, truth).double().mean(dim=0)[shown].tolist()),
        "its chance by the density": slashes(mass[shown].tolist()),
        "nats over uniform": round(worth[0].item(), 3),
        "in 50/90 % regions": slashes(worth[1:3].tolist()),
        "left out": one.skipped,
    }  # fmt: skip


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
    device = train.pick_device(arguments.device)
    folder = datasets.blue_marble(resolve().blue_marble)
    data, test = datasets.train_and_test(folder, 0)
    rows = []
    for seed in arguments.seeds:
        for name in arguments.only or VARIANTS:
            rows.append(measure(name, seed, data, test, arguments.seconds, device))
            print(rows[-1], flush=True)
    common.report(arguments.name, rows, arguments, f"{len(test):,} held-out pictures of the embedded data")


if __name__ == "__main__":
    main()
