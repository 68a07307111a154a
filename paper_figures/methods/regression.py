"""Regression of the location."""

from torch import nn

from locdiff.sphere.coordinates import from_unit_vector, to_unit_vector
from methods.baseline import Baseline, trunk


class UnitVectorRegression(Baseline):
    """Regression of the location as a unit vector, by half the squared error of the normalized output, 1 - cosine."""

    def __init__(self, config):
        super().__init__(config)
        self.network = trunk(config, 3)

    def loss(self, embeddings, lat_lon):
        """Return 1 - cosine of the angle between prediction and location of each picture, (n,)."""
        xyz = to_unit_vector(lat_lon).to(embeddings.dtype)
        return 1 - nn.functional.cosine_similarity(self.network(embeddings), xyz, dim=-1)

    def place(self, embeddings):
        return from_unit_vector(self.network(embeddings).cpu().double())
