"""Which training is best in the same time: the defaults with one thing changed at a time, on several data sets.

Every variant trains for as many steps as take --seconds, the time of a step being measured first, of all variants in
turn. Validation comes on top; it chooses the weights and calibrates them as in `locdiff.train`. The model is judged on
held-out pictures: likelihood, coverage, accuracy of the one-pass density and of one sample.

  python benchmarks/training.py --list
  python benchmarks/training.py --only quickstart lr-2e-3 --seeds 0 1 2 --seconds 240
  python benchmarks/training.py --data names names-minilm simulation FOLDER --only quickstart dropout-0.1

A FOLDER of embeddings is held out by author, 600 pictures, other ones for each seed.
"""

import functools
import statistics

import common
import torch
from torch import nn

from locdiff.data.simulated import Simulation, simulation
from locdiff.evaluation import coverage, metrics
from locdiff.evaluation.summaries import calibration
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, resolve
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
    "x_t unseen": ({"input_gate_snr": 1e6}, {}),
    "x_t seen throughout": ({"input_gate_snr": 1e-6}, {}),
    "no pure noise": ({"p_pure_noise": 0.0}, {}),
    "half at pure noise": ({"p_pure_noise": 0.5}, {}),
    "whiten-0": ({"whiten": 0.0}, {}),
    "whiten-0.03": ({"whiten": 0.03}, {}),
    "whiten-3": ({"whiten": 3.0}, {}),
    "whiten-0.3": ({"whiten": 0.3}, {}),
    "width-64": ({"width": 64}, {}),
    "width-128": ({"width": 128}, {}),
    "width-512": ({"width": 512}, {}),
    "dropout-0.1": ({"dropout": 0.1}, {}),
    "dropout-0.3": ({"dropout": 0.3}, {}),
    "depth-6": ({"depth": 6}, {}),
    "residual": ({}, {"residual": True}),
    "lr-5e-4": ({"lr": 5e-4}, {}),
    "lr-2e-3": ({"lr": 2e-3}, {}),
    "lr-2e-3, warmup-300": ({"lr": 2e-3, "warmup": 300}, {}),
    "batch-128": ({"batch": 128}, {}),
    "ema-0": ({"ema": 0.0}, {}),
    "beta2-0.999": ({"beta2": 0.999}, {}),
}


NAMES = {"data": "place-names"}
DATA = {  # settings of the run
    "blue-marble": {},
    "blue-marble-strong": {"rotation": 45.0, "scale": 1.33, "color": 0.2},
    "names": NAMES,
    "names-minilm": NAMES | {"names_encoder": "text:all-MiniLM-L6-v2"},
}


def settings_of(source, variant, seed, steps):
    """Return the settings of a variant on a data set."""
    own = DATA.get(source, {"data": source, "holdout": 600, "split": "author"})
    if source == "simulation":
        own = {"data": str(simulation(Simulation()))}
    return resolve("quickstart", **own | VARIANTS[variant][0], seed=seed, steps=steps)


def measure(settings, options, device):
    """Train to the end and score; return a row of the table."""
    data, test = load_data(settings)
    model, steps = common.trained(settings, data, device, functools.partial(Variant, **options))
    parts, seed = [], settings.training.seed
    for start in range(0, len(test), model.posterior_batch_size):
        embeddings, truth = test.batch(range(start, min(start + model.posterior_batch_size, len(test))))
        posterior = model.posterior(embeddings)
        each = torch.stack([place for place, _ in posterior.best_within().values()], dim=1)
        hits = metrics.hits(each, truth), metrics.hits(posterior.sample(1, seed, start)[:, 0], truth)
        parts.append((calibration(posterior, truth)[:, 0], posterior.rank(truth, seed, start), *hits))
    nats, rank, best, sample = map(torch.cat, zip(*parts, strict=True))
    held = coverage.coverage(rank)
    return {
        "stopped at": steps, "nats": nats.double().mean().item(), "50 % regions hold": held["coverage_50"][0],
        "90 % regions hold": held["coverage_90"][0],
        "best place, 25/200/750/2500 km": [100 * value for value in best.double().mean(dim=0)[1:].tolist()],
        "one sample, 200 km": 100 * sample[:, 2].double().mean().item(),
    }  # fmt: skip


def summary(source, name, seeds):
    """Return a row of the table: mean of the rows of `measure` over the seeds, and how far they spread."""
    row = {"data": source, "variant": name}
    for key in seeds[0]:
        digits, values = {"nats": 2, "stopped at": 0}.get(key, 1), [one[key] for one in seeds]
        columns = zip(*values, strict=True) if isinstance(values[0], list) else [values]
        row[key] = " / ".join(_mean_and_spread(column, digits) for column in columns)
    return row


def _mean_and_spread(values, digits):
    return f"{statistics.mean(values):.{digits}f} +- {(max(values) - min(values)) / 2:.{digits}f}"


def steps_in(seconds, source, names, device):
    """Return {variant: steps that take so long}, all timed in turn."""
    trials = {}
    for name in names:
        settings = settings_of(source, name, 0, 1000)
        known, _, settings = common.prepared(settings, load_data(settings)[0])
        trials[name] = Trainer(settings, known, device, functools.partial(Variant, **VARIANTS[name][1])).training_step
    return {name: round(seconds / takes) for name, takes in common.seconds(trials, device.type, rounds=12).items()}


def main():
    def add(parser):
        parser.add_argument("--data", nargs="+", default=["blue-marble"], metavar="DATA",
                            help=f"{', '.join(DATA)}, simulation or folders of embeddings")  # fmt: skip
        parser.add_argument("--only", nargs="+", choices=VARIANTS, help="variants to train (default: all)")
        parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
        parser.add_argument("--seconds", type=float, default=100.0, help="of training, for each (default 100)")
        parser.add_argument("--list", action="store_true", help="name the variants and stop")
        parser.add_argument("--name", default="training", help="of the JSON record (default training)")

    arguments = common.options(__doc__, add)
    if arguments.list:
        print("\n".join(f"{name}: {settings | options}" for name, (settings, options) in VARIANTS.items()))
        return
    device, rows = pick_device(arguments.device), []
    for source in arguments.data:
        steps = steps_in(arguments.seconds, source, arguments.only or VARIANTS, device)
        for name, count in steps.items():
            found = []
            for seed in arguments.seeds:
                found.append(measure(settings_of(source, name, seed, count), VARIANTS[name][1], device))
                print(source, name, f"seed {seed}, {count} steps", found[-1], flush=True)
            rows.append(summary(source, name, found))
    note = f"mean of {len(arguments.seeds)} seeds +- half their range; {arguments.seconds:g} s of training each"
    common.report(arguments.name, rows, arguments, note)


if __name__ == "__main__":
    main()
