"""Diffusion in the space of any encoding of locations."""

import math

import torch

from locdiff.model import diffusion
from locdiff.model.cs_unet import sinusoidal_embedding
from locdiff.seeding import PictureNoise
from locdiff.sphere.coordinates import from_unit_vector, geographic_center, to_unit_vector
from methods.baseline import Baseline, trunk


class EncodingDiffusion(Baseline):
    """Diffusion in the space of any encoding of locations, which the samples are decoded from.

    encode(locations (n, 2)) -> (n, D), of mean square one; decode(encodings (n, D)) -> locations (n, 2). By default x
    is sqrt(3) times the unit vector, projected back to the sphere: what the LocDiffusion paper argues against in its
    section 2. A network of (x_t, t, embedding) predicts x_0 with squared error, under the cosine schedule; the
    configuration's geometric one is made for SHDD.
    """

    def __init__(self, config, encode=None, decode=from_unit_vector, dimensions=3):
        super().__init__(config)
        self.encode = encode or (lambda lat_lon: math.sqrt(3) * to_unit_vector(lat_lon))
        self.decode, self.dimensions = decode, dimensions
        self.network = trunk(config, dimensions, extra=dimensions + config.network.time_dim)
        self.register_buffer("alpha_bar", diffusion.cosine_schedule(config.diffusion.noise_levels), persistent=False)

    def forward(self, x_t, t, embeddings):
        """Return the prediction of x_0: x_t (..., D), t (...) in 1..T, embeddings (..., embed_dim) -> (..., D)."""
        time = sinusoidal_embedding(t, self.config.network.time_dim).to(x_t.dtype)
        inputs = [part.expand(*x_t.shape[:-1], -1) for part in (embeddings, x_t, time)]  # whitened is what comes first
        return self.network(torch.cat(inputs, dim=-1))

    def loss(self, embeddings, lat_lon):
        """Return the mean squared error of x_0 of each picture at a random noise level, (n,)."""
        x_0 = self.encode(lat_lon).to(embeddings)
        t = torch.randint(1, self.config.diffusion.noise_levels + 1, (len(x_0),), device=x_0.device)
        x_t = diffusion.q_sample(x_0, self.alpha_bar[t - 1, None].to(x_0.dtype), torch.randn_like(x_0))
        return (self(x_t, t, embeddings) - x_0).square().mean(dim=-1)

    @torch.no_grad()
    def sample(self, embeddings, samples=16, seed=0):
        """Return random locations of each picture, (n, embed_dim) -> (n, samples, 2), by DDIM in `sample_steps` steps.

        A picture's noise follows from the seed and its position. Raises InputError unless samples >= 1 and seed >= 0,
        and as `predict` does.
        """
        places = [torch.empty(0, samples, 2, dtype=torch.float64)]
        for chunk in self.batches(embeddings, max(1, samples)):
            random = PictureNoise(seed, sum(map(len, places)), len(chunk), samples)
            x_0 = self._run(chunk, random)
            places.append(self.decode(x_0.flatten(0, 1)).cpu().double().view(len(chunk), samples, 2))
        return torch.cat(places)

    def _run(self, embeddings, random):
        """Return x_0 (n, S, D) by the reverse process for embeddings (n, embed_dim), from numbers by `random`."""

        def denoise(x_t, t):
            return self(x_t, torch.tensor(t, device=x_t.device), embeddings[:, None])

        def sample_noise():
            return random.normal(self.dimensions).to(embeddings.device)

        return diffusion.sample(denoise, sample_noise, self.alpha_bar, self.config.sample_steps, diffusion.DDIM())

    def predict(self, embeddings):
        """Return the geographic center of 16 samples of each picture, (n, 2); NaN where they cancel."""
        return geographic_center(self.sample(embeddings))
