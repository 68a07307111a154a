"""LocDiffusion without diffusion."""

import torch

from locdiff import options
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from methods.baseline import trunk


class DensityHead(LocDiffusion):
    """LocDiffusion without diffusion: an MLP gives the natural parameters of q_e (paper Eq. 11) from the picture alone.

    It is trained by the likelihood and calibrated like LocDiffusion, and tells what the diffusion adds. Its posterior
    is that of LocDiffusion; samples take one evaluation of the network, which sees no x_t.
    """

    def __init__(self, config):
        super().__init__(options.nest(ModelConfig, options.flatten(config) | {"loss": "likelihood", "sample_steps": 1}))
        self.network = trunk(config, config.network.dimensions)
        torch.nn.init.zeros_(self.network[-1].weight)  # it starts at the prior, as LocDiffusion does
        torch.nn.init.zeros_(self.network[-1].bias)

    def forward(self, x_t, t, embeddings):
        """Return natural parameters, whatever x_t (..., D) and t are: embeddings (..., embed_dim) -> (..., D)."""
        return self.objective.calibrated(self.network(embeddings) + torch.zeros_like(x_t))

    def predict(self, embeddings):
        """Return the most probable mode of each density: (n, embed_dim) -> (n, 2)."""
        chunks = torch.as_tensor(embeddings).split(self.posterior_batch_size)
        return torch.cat([self.posterior(chunk).modes()[0][:, 0] for chunk in chunks])
