"""How few steps sampling needs, and how long a picture takes: a trained run, GeoCLIP's retrieval, PLONK's sampler.

  python benchmarks/sampling.py runs/quickstart          ten minutes on 2 cores; --device cuda for a GPU

Accuracy: one place sampled for each of --pictures held-out pictures, --samples times, by every number of steps, against
DDPM with all levels: differences with their 95 % bootstrap intervals. Time: per picture, from its embedding, --pictures
at a time; retrieval is over a gallery of 100,000 vectors of 512 numbers; PLONK (pip install --no-deps diff-plonk geoopt
einops torchdiffeq) is its small network with random weights and its own default of 250 steps.
"""

from functools import partial
from pathlib import Path

import torch
from common import options, report, seconds
from torch.nn.functional import normalize

from locdiff.evaluation import metrics, summaries
from locdiff.model.diffusion import DDIM, DPMSolver
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.options import flatten
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, read_settings

STEPS = (100, 50, 25, 10, 5, 2, 1)
SAMPLERS = {"DDIM, eta = 1": DDIM, "DDIM, eta = 0": partial(DDIM, 0.0), "DPM-Solver++(2M)": DPMSolver}
GALLERY, WIDTH = 100_000, 512


def accuracy(model, embeddings, truth, samples):
    """Return rows: hits of one sample and of the medoid of all, and their differences from those of DDPM with all
    levels."""
    rows, base = [], None
    for steps in STEPS:
        for name, sampler in SAMPLERS.items():
            if (steps == 1 and name != "DDIM, eta = 1") or steps > model.config.diffusion.noise_levels:
                continue  # one step is the same for all
            places = model.sample(embeddings, samples, steps=steps, sampler=sampler)
            one = metrics.hits(places.flatten(0, 1), truth.repeat_interleave(samples, 0))
            hits = {
                "one sample": one.view(len(truth), samples, -1).double().mean(dim=1),
                f"medoid of {samples}": metrics.hits(summaries.medoid(places), truth).double(),
            }
            base = base or hits
            row = {"steps": steps, "sampler": name}
            for kind, values in hits.items():
                low, high = metrics.bootstrap(100 * (values - base[kind]).numpy())
                mean = 100 * values.mean(dim=0)
                row[f"{kind}, 25/200/750/2500 km"] = "/".join(f"{v:.1f}" for v in mean[1:].tolist())
                row[f"{kind}, less DDPM"] = " ".join(
                    f"[{a:+.1f}, {b:+.1f}]" for a, b in zip(low[1:], high[1:], strict=True)
                )
                row[f"{kind}, worse at"] = int(sum(high < 0))
            rows.append(row)
            print(row, flush=True)
    return rows


def plonk(device):
    """Return a function that samples a place for each of n embeddings with PLONK's small network, None without it."""
    try:
        from plonk.models.networks.mlp import GeoAdaLNMLP
        from plonk.models.samplers.riemannian_flow_sampler import riemannian_flow_sampler
        from plonk.models.schedulers import SigmoidScheduler
    except ImportError as error:
        print(f"PLONK is left out: {error}")
        return None
    network = GeoAdaLNMLP(input_dim=3, dim=512, depth=12, expansion=4, cond_dim=768).to(device).eval()
    scheduler = SigmoidScheduler(-7, 3, 1.0)

    @torch.no_grad()
    def sample_noise(embeddings):
        start = normalize(torch.randn(len(embeddings), 3, device=device), dim=-1)
        return riemannian_flow_sampler(network, {"y": start, "emb": embeddings}, scheduler=scheduler)

    return sample_noise


def times(model, embeddings, device):
    """Return rows: milliseconds a picture of every way from embeddings to one place each."""
    gallery = normalize(torch.randn(GALLERY, WIDTH), dim=-1).to(device)
    head = torch.nn.Sequential(torch.nn.Linear(embeddings.shape[1], 768), torch.nn.ReLU(), torch.nn.Linear(768, WIDTH))
    head = head.to(device)

    @torch.no_grad()
    def retrieval(e):
        return (normalize(head(e), dim=-1) @ gallery.T).argmax(dim=-1)

    default, levels = model.config.sample_steps, model.config.diffusion.noise_levels
    ways = {
        "retrieval over 100,000": retrieval,
        "one-pass density, its densest pixel": lambda e: model.posterior(e).pixel_probs.argmax(dim=-1),
        f"one sample, {default} step (the default)": lambda e: model.sample(e, 1),
        "one sample, 10 steps": lambda e: model.sample(e, 1, steps=10),
        f"one sample, DDPM of {levels} steps": lambda e: model.sample(e, 1, steps=levels),
        "one sample by PLONK, 250 steps": plonk(device),
    }
    rows = []
    for batch in (1, 256):
        some = embeddings[:batch].to(device)
        found = seconds({name: lambda f=f, e=some: f(e) for name, f in ways.items() if f}, device.type, rounds=3)
        for name, value in found.items():
            rows.append({
                "pictures at a time": batch, "way": name, "ms a picture": 1e3 * value / batch,
                "/ retrieval": value / found["retrieval over 100,000"],
            })  # fmt: skip
    return rows


def main():
    def add(parser):
        parser.add_argument("run", type=Path, help="folder of a training run")
        parser.add_argument("--pictures", type=int, default=500, help="held-out pictures (default 500)")
        parser.add_argument("--samples", type=int, default=8, help="samples a picture (default 8)")

    arguments = options(__doc__, add)
    device = pick_device(arguments.device)
    model = LocDiffusion.from_pretrained(arguments.run, device)
    _, test = load_data(read_settings(arguments.run))
    embeddings, truth = test.batch(range(min(arguments.pictures, len(test))))
    settings = {key: str(value) for key, value in flatten(model.config).items()}
    torch.manual_seed(0)
    report("sampling_times", times(model, embeddings, device), arguments)
    report("sampling", accuracy(model, embeddings, truth, arguments.samples), arguments, str(settings))


if __name__ == "__main__":
    main()
