"""Everything that `predict` gives of a picture, from its embedding, against retrieval over 100,000 vectors.

  python benchmarks/predict.py runs/quickstart [RUN ...]

Places, probabilities, the best place within each distance, radii and areas; no samples. The embeddings are those that
the run held out.
"""

from pathlib import Path

import numpy as np
import torch
from common import options, report, seconds
from torch.nn.functional import normalize

from locdiff.model.locdiffusion import LocDiffusion
from locdiff.pipeline import summarize
from locdiff.training.settings import load_data, read_settings

GALLERY, WIDTH, TOP_K = 100_000, 512, 5


def main():
    def more(parser):
        parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of training runs")

    arguments, rows = options(__doc__, more), []
    gallery = normalize(torch.randn(GALLERY, WIDTH), dim=-1).to(arguments.device)
    for run in arguments.runs:
        model = LocDiffusion.from_pretrained(run, arguments.device)
        held_out = load_data(read_settings(run))[1]
        for batch in (1, 256):
            embeddings, _ = held_out.batch(np.arange(batch))
            queries = normalize(torch.randn(batch, WIDTH), dim=-1).to(arguments.device)
            chunks = embeddings.split(model.posterior_batch_size)

            @torch.no_grad()
            def predict(chunks=chunks, model=model):
                return [summarize(model.posterior(chunk), 0, TOP_K) for chunk in chunks]

            contenders = {
                "predict": predict,
                "density": lambda chunks=chunks, model=model: [model.posterior(chunk) for chunk in chunks],
                "retrieval": lambda queries=queries: (queries @ gallery.T).argmax(dim=-1),
            }
            times = seconds(contenders, arguments.device, rounds=3)
            each = {name: 1e3 * best / batch for name, best in times.items()}
            rows.append({
                "levels": 1 + len(model.refinements), "pictures at a time": batch,
                "density, ms a picture": each["density"],
                "predict, ms a picture": each["predict"], "retrieval, ms a picture": each["retrieval"],
                "predict / retrieval": each["predict"] / each["retrieval"],
            })  # fmt: skip
    report("predict", rows, arguments)


if __name__ == "__main__":
    main()
