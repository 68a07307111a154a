"""A training step of the paper's preset (SHDD-KL over 2,048 anchors, batch 512): time, memory, where the time goes.

  python benchmarks/step.py                    five minutes on 2 cores; --device cuda for a GPU
  python benchmarks/step.py --profile 47       what takes the time of a step at l_max 47

Compared, in one run, with

  floor            the arithmetic: the step's matrix products, counted, at the rate of the fastest one measured here
  explicit         the same step with the harmonics of batch and anchors by the paper's Eq. 20, every (l, m) for itself
  straightforward  explicit, and F of every picture at every anchor by a sum over an array of batch x anchors x
                   coefficients, as the memory in the paper's Table 5 suggests (here a few pictures at a time, to fit)

Each is measured in a process of its own, for the memory.
"""

import json
import math
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import torch
from common import options, report
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from locdiff.model import objectives
from locdiff.sphere import shdd

sys.path.insert(0, str(Path(__file__).parent.parent / "paper_figures"))
from table_5 import make_trainer, peak_mb

DEGREES = (15, 23, 31, 47, 95)
WAYS = ("ours", "ours, bf16", "explicit", "straightforward")
TABLE_5 = {15: 130, 23: 212, 31: 388}  # the paper's seconds of 1,500 steps
PIECE = 16  # pictures at a time in the straightforward step


@cache
def polynomial(l, m):
    """Return the powers of cos theta in the Legendre function of degree l and order m, and their weights (Eq. 20)."""
    k = torch.arange((l - m) // 2 + 1, dtype=torch.float64)
    logs = torch.lgamma(2 * l - 2 * k + 1) - torch.lgamma(k + 1) - torch.lgamma(l - k + 1)
    logs = logs - torch.lgamma(l - m - 2 * k + 1) - l * math.log(2)
    norm = math.log((2 * l + 1) / (4 * math.pi)) / 2 + (math.lgamma(l - m + 1) - math.lgamma(l + m + 1)) / 2
    return (l - m - 2 * k).long(), (-1) ** k * torch.exp(logs + norm) * (2**0.5 if m else 1)


def explicit_harmonics(theta, phi, l_max):
    """Return Y_lm by Eq. 20, term by term: (...) -> (..., D)."""
    theta, phi = theta.double(), phi.double()
    powers = torch.cos(theta)[..., None] ** torch.arange(l_max + 1, device=theta.device)
    columns = []
    for l in range(l_max + 1):
        for m in range(-l, l + 1):
            exponents, weights = (part.to(theta.device) for part in polynomial(l, abs(m)))
            legendre = torch.sin(theta) ** abs(m) * (powers[..., exponents] @ weights)
            columns.append(legendre * (torch.cos(m * phi) if m >= 0 else torch.sin(-m * phi)))
    return torch.stack(columns, dim=-1)


def synthesis_by_products(coeffs, basis):
    """Return F_e as the sum over an array (pictures, anchors, D)."""
    return torch.cat([(piece[:, None] * basis).sum(dim=-1) for piece in coeffs.split(PIECE)])


def measure(l_max, way, steps, device):
    """Print seconds of a step (the best of `steps`), memory in MB, parameters and operations, as JSON."""
    make_trainer(1, "paper", 4, device).training_step()
    before = peak_mb(device)
    if way in ("explicit", "straightforward"):
        objectives.real_spherical_harmonics = shdd.real_spherical_harmonics = explicit_harmonics
    if way == "straightforward":
        shdd.synthesis = synthesis_by_products
    trainer = make_trainer(l_max, "paper", 512, device)
    trainer.model.bf16 = way == "ours, bf16"
    trainer.training_step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        trainer.training_step()  # waits for the gradient's norm, so for the GPU
        times.append(time.perf_counter() - start)
    memory = peak_mb(device)
    with FlopCounterMode(display=False) as counter:
        trainer.training_step()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(json.dumps([min(times), memory, memory - before, parameters, counter.get_total_flops()]))


def matmul_rate(device, dtype=torch.float32, rounds=20):
    """Return the most floating-point operations a second of a product (512 x d) (d x d)."""
    best = 0.0
    for d in (512, 1024, 2048):
        a, b = (torch.randn(rows, d, dtype=dtype, device=device) for rows in (512, d))
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(3):
                c = a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 3 * 2 * 512 * d * d / (time.perf_counter() - start))
        del c
    return best


def show_profile(l_max, device):
    """Print where the time of three steps goes."""
    trainer = make_trainer(l_max, "paper", 512, device)
    trainer.training_step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as record:
        for _ in range(3):
            trainer.training_step()
    order = "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    print(record.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=40))


def in_its_own_process(l_max, way, arguments):
    """Return what `measure` prints, run in a process of its own."""
    steps = 2 if way == "straightforward" else arguments.steps
    command = [sys.executable, __file__, "--one", str(l_max), way, "--steps", str(steps), "--device", arguments.device]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def compare(arguments, device):
    """Return the rows of the table, and the rate of the fastest product."""
    rows, rate = [], 0.0
    for l_max in arguments.degrees:
        floor, own = None, None
        for way in WAYS:
            rate = matmul_rate(device)
            seconds, memory, added, parameters, operations = in_its_own_process(l_max, way, arguments)
            if way == "ours":
                floor, own = operations / rate, seconds
            rows.append({
                "l_max": l_max, "step": way, "ms": 1e3 * seconds, "/ ours": seconds / own,
                "floor, ms": 1e3 * floor, "/ floor": seconds / floor, "peak, MB": round(memory),
                "of it the step's": round(added),
                "1,500 steps, s": 1500 * seconds, "paper's GPU / this": TABLE_5.get(l_max, math.nan) / (1500 * seconds),
                "million parameters": parameters / 1e6,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows, rate


def main():
    def add(parser):
        parser.add_argument("--degrees", type=int, nargs="+", default=DEGREES, help="l_max to measure")
        parser.add_argument("--steps", type=int, default=5, help="steps, of which the fastest counts (default 5)")
        parser.add_argument("--profile", type=int, metavar="L_MAX", help="show where the time goes, and stop")
        parser.add_argument(
            "--one", nargs=2, metavar=("L_MAX", "WAY"), help="measure one, and print it for this script"
        )

    arguments = options(__doc__, add)
    device = torch.device(arguments.device)
    if arguments.one:
        measure(int(arguments.one[0]), arguments.one[1], arguments.steps, device)
    elif arguments.profile is not None:
        show_profile(arguments.profile, device)
    else:
        rows, rate = compare(arguments, device)
        report("step", rows, arguments, f"matrix products at {rate / 1e9:.0f} GFLOP/s in float32")


if __name__ == "__main__":
    main()
