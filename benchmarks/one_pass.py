"""From the embedding of a picture to a place: the one-pass density, and retrieval over a gallery of 100,000.

  python benchmarks/one_pass.py                half a minute on 2 cores; --device cuda for a GPU

The density is that of the quickstart's model (random weights: the time does not depend on them): the network at pure
noise, F on the pixels of nside 64, softmax, argmax. The retrieval is GeoCLIP's: a projection of the embedding to 512
numbers, the cosine with every vector of the gallery, softmax, argmax.
"""

import torch
from common import options, report, seconds
from torch.nn.functional import normalize

from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.options import nest

GALLERY, WIDTH = 100_000, 512


def main():
    arguments = options(__doc__)
    torch.manual_seed(0)
    rows = []
    gallery = normalize(torch.randn(GALLERY, WIDTH), dim=-1).to(arguments.device)
    head = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.ReLU(), torch.nn.Linear(768, WIDTH))
    head = head.to(arguments.device)
    for l_max in (23, 47):
        model = (
            LocDiffusion(nest(ModelConfig, {"l_max": l_max, "decoder_nside": 64, "whiten": 0.3}))
            .to(arguments.device)
            .eval()
        )
        noise = torch.randn(model.config.network.dimensions, device=arguments.device)
        t = torch.tensor(model.config.diffusion.noise_levels, device=arguments.device)

        @torch.no_grad()
        def one_pass(e, model=model, noise=noise, t=t):
            return torch.softmax(model.grid.synthesis(model(noise, t, e)), dim=-1).argmax(dim=-1)

        @torch.no_grad()
        def retrieval(e):
            return torch.softmax(100 * normalize(head(e), dim=-1) @ gallery.T, dim=-1).argmax(dim=-1)

        for batch in (1, 16, 256):
            embeddings = torch.randn(batch, 768, device=arguments.device)
            times = seconds(
                {"one pass": lambda e=embeddings, f=one_pass: f(e), "retrieval": lambda e=embeddings: retrieval(e)},
                arguments.device,
                rounds=10,
            )
            rows.append({
                "l_max": l_max, "pictures at a time": batch,
                "one-pass density, ms a picture": 1e3 * times["one pass"] / batch,
                "retrieval, ms a picture": 1e3 * times["retrieval"] / batch,
                "one-pass / retrieval": times["one pass"] / times["retrieval"],
            })  # fmt: skip
    report("one_pass", rows, arguments)


if __name__ == "__main__":
    main()
