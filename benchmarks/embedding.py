"""Pictures a second of `locdiff.embed`, against the bare encoder in a loop over a batch in memory.

  python benchmarks/embedding.py               a minute on 2 cores; --device cuda for a GPU
  python benchmarks/embedding.py --model ViT-L-14 --pictures 200

The pictures are made up, 640 x 480 jpeg files; the weights are random: the time depends on neither.
"""

import contextlib
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from common import options, report
from PIL import Image
from safetensors.torch import save_file

from locdiff.data.encoders import OpenClipEncoder
from locdiff.data.encoding import embed

BATCH, ROUNDS = 32, 3


def make(folder, n):
    """Write n jpeg files of 640 x 480, smooth with some noise, as photographs are."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        rough = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        noisy = np.asarray(rough, np.int16) + rng.integers(-12, 12, (480, 640, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)


def main():
    def more(parser):
        parser.add_argument("--model", default="ViT-B-32", help="model of open_clip (default ViT-B-32)")
        parser.add_argument("--pictures", type=int, default=640, help="pictures (default 640)")

    arguments = options(__doc__, more)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make(folder / "pictures", arguments.pictures)
        save_file(open_clip.create_model(arguments.model).state_dict(), folder / "random.safetensors")
        encoder = OpenClipEncoder(arguments.model, str(folder / "random.safetensors"), arguments.device)
        with Image.open(folder / "pictures" / "0.jpg") as picture:
            batch = torch.stack([encoder.prepare(picture)] * BATCH)
        encoder.encode(batch)
        rates = {"bare": [], "embed": []}
        for i in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(arguments.pictures // BATCH):
                encoder.encode(batch)
            rates["bare"].append(arguments.pictures // BATCH * BATCH / (time.perf_counter() - start))
            start = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):  # the progress bar
                embed(folder / "pictures", folder / f"out{i}", encoder, batch=BATCH)
            rates["embed"].append(arguments.pictures / (time.perf_counter() - start))
        bare, ours = max(rates["bare"]), max(rates["embed"])
        row = {
            "encoder": arguments.model, "pictures": arguments.pictures, "bare encoder, pictures/s": bare,
            "locdiff.embed, pictures/s": ours, "embed / bare": ours / bare,
        }  # fmt: skip
        report("embedding", [row], arguments, f"{os.cpu_count()} processors; the time of `embed` is all of it.")


if __name__ == "__main__":
    main()
