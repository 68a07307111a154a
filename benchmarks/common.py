"""What the benchmarks share: timing side by side, a table, and a JSON record of what was measured where."""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch

from locdiff.files import versions
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.settings import infer_data_fields
from locdiff.training.trainer import Trainer
from locdiff.training.validation import split_validation

sys.path.append(str(Path(__file__).parents[1]))  # reference/ is not installed


def options(description, add=lambda parser: None):
    """Parse the command line that every benchmark has, and what `add` adds to the parser."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: torch's choice)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder of the JSON record")
    add(parser)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def seconds(contenders, device="cpu", rounds=5):
    """Return the best time of each function of {name: function}, all called in turn, `rounds` times after a first."""
    best = dict.fromkeys(contenders, float("inf"))
    for round in range(rounds + 1):
        for name, function in contenders.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if round:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def prepared(settings, data):
    """Return the Embeddings to train on, those kept apart, and the settings with what follows from the data."""
    known, kept = split_validation(data, settings.training.validation, settings.training.seed)
    return known, kept, infer_data_fields(settings, known)


def trained(settings, data, device, make_model=LocDiffusion):
    """Return the model as `locdiff.train` makes it, with validation and calibration, and the step it stopped at."""
    known, kept, settings = prepared(settings, data)
    trainer = Trainer(settings, known, device, make_model, kept)
    trainer.validate()
    while not trainer.has_ended:
        trainer.training_step()
        trainer.validate()
    return trainer.finished_model(progress=False), trainer.step


def report(name, rows, arguments, note=""):
    """Print the rows (dicts with the same keys) as a Markdown table and write NAME.json."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
    print("\n".join(lines) + (f"\n\n{note}" if note else ""))
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else _processor()
    record = {
        "rows": rows, "note": note, "versions": versions(), "device": device, "threads": torch.get_num_threads(),
        "processors": os.cpu_count(), "system": platform.platform(terse=True),
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{name}-{arguments.device}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}")


def _cell(value):
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else str(value)


def _processor():
    try:
        text = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
