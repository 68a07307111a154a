"""Samples by the reverse process: from pure noise, over the noise levels, to locations."""

import torch
from torch import Tensor

from locdiff.errors import InputError
from locdiff.memory import batch_size
from locdiff.model import diffusion
from locdiff.seeding import PictureNoise


class ReverseProcess:
    """The reverse process of a model's level 0 for pictures `embeddings` (n, embed_dim).

    `model` is a LocDiffusion. The `sampler`, make() -> an object such as `diffusion.DDIM`, uses `steps` noise levels of
    the schedule. Their defaults are those of the model's configuration.
    """

    def __init__(self, model, embeddings: Tensor, steps: int = 0, sampler=None):
        model.config.check(embeddings)
        self.model, self.embeddings = model, embeddings
        self.steps, most = steps or model.config.sample_steps, model.config.diffusion.noise_levels
        if not 1 <= self.steps <= most:
            raise InputError(f"steps must lie in 1..{most}, the noise levels of the schedule; got {steps}")
        self.make_sampler = sampler or diffusion.SAMPLERS[model.config.inference.sampler]

    @torch.no_grad()
    def __call__(self, count: int, seed: int = 0, first: int = 0) -> tuple[Tensor, Tensor]:
        """Return `count` random locations a picture, (n, count, 2) degrees, and their coefficients (n, count, D).

        Pictures and samples are one batch, as large as the memory budget allows. A picture's noise follows from the
        seed and its position, `first` being that of the first. Raises InputError unless count >= 1 and seed >= 0.
        """
        size = batch_size(4 * len(self.model.grid.anchors) * max(count, 1))
        parts = [
            self._run(chunk, PictureNoise(seed, first + i * size, len(chunk), count))
            for i, chunk in enumerate(torch.as_tensor(self.embeddings).split(size))
        ]
        places, coeffs = zip(*parts, strict=True)
        return torch.cat(places), torch.cat(coeffs)

    def _run(self, embeddings, random):
        model, pictures = self.model, self.model.on_device(embeddings)[:, None]

        def output(x_t, t):
            return model(x_t, torch.tensor(t, device=model.device), pictures)

        def denoise(x_t, t):
            return model.objective.denoise(output(x_t, t))

        def sample_noise():
            return random.normal(model.config.network.dimensions).to(model.device)

        def finish(x_t, t):
            last, one_pass = output(x_t, t), t == len(model.alpha_bar)
            places, coeffs = model.objective.sample(last, random.uniform(), model.grid, model.mode_seek, one_pass)
            return places, coeffs.cpu()

        return diffusion.sample(denoise, sample_noise, model.alpha_bar, self.steps, self.make_sampler(), finish)
