"""Table 5: what a training step takes, in time and memory, at every degree; every measurement is a process of its own.

`python table_5.py DEGREE SETUP WARMUP STEPS BATCH` takes one measurement and prints it as JSON.
"""

import json
import platform
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from artefact import Claim
from report import markdown_table, write_csv

from locdiff.data.embeddings import Embeddings
from locdiff.training.distributed import pick_device
from locdiff.training.settings import infer_data_fields, resolve
from locdiff.training.trainer import Trainer

TITLE = "training time and memory"
DATA = (
    "random embeddings of 768 numbers at random places. After a few steps the others are timed singly, each with its "
    "batch, gradient, Adam and moving average; the seconds of 1,500 are scaled from their median, least and most."
)
SETUPS = {  # what differs from the preset `paper`
    "paper": {},
    "likelihood": {"loss": "likelihood", "exact_skip": True, "schedule": "geometric"},
}
NAMES = {"paper": "the paper's: SHDD-KL, 2,048 anchors", "likelihood": "the quickstart's likelihood, same network"}
SCALES = {
    "smoke": {"degrees": (7,), "warmup": 1, "steps": 3, "batch": 32},
    "cpu": {"degrees": (15, 23, 31, 47), "warmup": 2, "steps": 15, "batch": 512},
    "full": {"degrees": (15, 23, 31, 47), "warmup": 2, "steps": 30, "batch": 512},
    "paper": {"degrees": (15, 23, 31, 47), "warmup": 50, "steps": 300, "batch": 512},
}
PAPER = {15: (130, 5691), 23: (212, 10599), 31: (388, 17407)}  # L: seconds of 1,500 steps, MB
EPOCH, PAPERS_GPU_MB, LARGEST = 1500, 24 * 1024, 31  # the paper: its GPU holds no more than this degree
COPIES = 5  # of the parameters in training: themselves, gradient, two moments of Adam, moving average


def compute(context):
    """Return for each measurement i: its `setup` and `degree`, the `seconds` of each step (i, steps), the MB of memory
    of the process at its `peak` and `before` it had that model, the number of `parameters`, and the `device`."""
    scale, measured = SCALES[context.scale], []
    rest = [str(scale[key]) for key in ("warmup", "steps", "batch")]
    for setup, degree in product(SETUPS, scale["degrees"]):
        command = [sys.executable, __file__, str(degree), setup, *rest]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured.append({"setup": setup, "degree": degree} | json.loads(output))
    return {key: np.array([one[key] for one in measured]) for key in measured[0]}


def measure(degree, setup, warmup, steps, batch):
    """Take one measurement, of this process, as a dict of numbers."""
    device = pick_device()
    # loads what torch puts off until it trains; without the prior, whose fit takes more memory than a small model
    make_trainer(1, setup, 4, device, prior_l_max=0).training_step()
    before = peak_mb(device)
    trainer, seconds = make_trainer(degree, setup, batch, device), []
    for _ in range(warmup + steps):
        start = time.perf_counter()
        trainer.training_step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    memory = {"before": before, "peak": peak_mb(device)}
    return {"seconds": seconds[warmup:], "parameters": parameters, "device": device_name(device)} | memory


def make_trainer(degree, setup, batch, device, **differs):
    """Return a Trainer of the preset `paper` as the set-up changes it, on random embeddings at random places."""
    n, rng = 8 * batch, np.random.default_rng(0)
    lat_lon = np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=-1)
    embeddings = rng.standard_normal((n, 768), dtype=np.float32)
    data = Embeddings(embeddings, np.arange(n), lat_lon, list(range(n)), "random")
    settings = resolve("paper", l_max=degree, batch=batch, **SETUPS[setup], **differs)
    return Trainer(infer_data_fields(settings, data), data, device)


def peak_mb(device):
    """Return the most memory that this process has held so far, in MB of 2^20 bytes: on a GPU that of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # there getrusage starts at the peak of the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def device_name(device):
    """Return the GPU's name, or the CPU's and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    cpus = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", cpus.read_text()) if cpus.exists() else []
    return f"{[*models, platform.processor()][0]}, {torch.get_num_threads()} thread(s)"


def key_numbers(result):
    """Return the sizes of the networks; times and memory are the machine's."""
    rows = zip(result["setup"], result["degree"], result["parameters"], strict=True)
    return {f"parameters, {setup}, L = {degree}": (size, 0) for setup, degree, size in rows}


def draw(result, folder):
    """Write table_5.csv; return Markdown and claims."""
    rows, lines, costs = [], [], {}
    times = EPOCH * np.quantile(result["seconds"], [0.5, 0, 1], axis=-1).T  # median, least, most
    columns = (result[key].tolist() for key in ("setup", "degree", "parameters"))
    for setup, degree, size, time_s, memory in zip(*columns, times, result["peak"] - result["before"], strict=True):
        paper = ("", "")
        if setup == "paper":
            costs[degree], paper = (time_s[0], memory, size), PAPER.get(degree, paper)
        lines.append([NAMES[setup], degree, *time_s, memory, *paper])
        median = "{:.0f} ({:.0f} to {:.0f})".format(*time_s)
        sizes = [degree, (degree + 1) ** 2, f"{size / 1e6:.1f} M"]
        rows.append([NAMES[setup], *sizes, median, paper[0], f"{memory:.0f}", paper[1]])
    header = ["training", "L", "dimensions", "parameters", "s / 1,500 steps (range)", "paper", "MB", "paper"]
    names = ["training", "L", "seconds of 1500 steps", "least", "most", "MB", "paper's seconds", "paper's MB"]
    write_csv(folder / "table_5.csv", names, lines)
    text = (
        f"On {result['device'][0]}; {result['seconds'].shape[1]} steps each, in a process of its own. MB: the peak of "
        f"the process beyond the {np.median(result['before']):.0f} MB that Python held with its libraries after a step "
        "of a tiny model; on a GPU, that of the tensors there. The paper's: a GPU of 24 GB."
    )
    return f"{text}\n\n{markdown_table(header, rows)}", claims(costs)


def claims(costs):
    """Return the claim, from {degree: (seconds of 1,500 steps, MB, parameters)} of the paper's set-up, that memory ends
    at L = 31."""
    largest, low, high = max(costs), min(costs), max((degree for degree in costs if degree <= LARGEST), default=0)
    _, memory, parameters = costs[largest]
    papers = np.divide(PAPER[max(PAPER)], PAPER[min(PAPER)])
    ours = f"no degree above {LARGEST} was tried"
    if largest > LARGEST:
        size, own = f"L = {largest} ({(largest + 1) ** 2:,} dimensions)", COPIES * 4 * parameters / 2**20
        ours = (
            f"{size} takes {memory:,.0f} MB, of it {own:,.0f} for {parameters / 1e6:.1f} M parameters with gradients, "
            "Adam's moments and average"
        )
    if low < high:
        time_ratio, ratio, _ = np.divide(costs[high], costs[low])
        ours += f"; from L = {low} to {high} time grows {time_ratio:.1f} times and memory {ratio:.1f} times"
    return [
        Claim(
            f"a GPU of 24 GB cannot hold a degree above L = {LARGEST}",
            f"{PAPER[LARGEST][1]:,} MB at L = {LARGEST}; from L = {min(PAPER)} to {max(PAPER)} time grows "
            f"{papers[0]:.1f} times and memory {papers[1]:.1f} times",
            ours,
            bool(memory > PAPERS_GPU_MB) if largest > LARGEST else None,
        )
    ]


if __name__ == "__main__":
    degree, setup, *rest = sys.argv[1:]
    print(json.dumps(measure(int(degree), setup, *map(int, rest))))
