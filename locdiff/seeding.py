"""Random numbers that follow from a seed and a position, whatever the batches are."""

import numpy as np
import torch

from locdiff.errors import InputError


def derive_seed(*numbers: int) -> int:
    """Return one 32-bit seed for several non-negative numbers; torch's CPU generator looks at no more bits."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class PictureNoise:
    """Random numbers (pictures, samples, ...), from one generator for each picture, sampled on the CPU.

    A picture's numbers follow from the seed and from its position alone, `first` being the position of the first.
    Raises InputError unless samples >= 1 and seed >= 0.
    """

    def __init__(self, seed: int, first: int, pictures: int, samples: int, stream: tuple = ()):
        if samples < 1 or seed < 0:
            raise InputError(f"need at least one sample and seed >= 0, got {samples} and {seed}")
        seeds = [derive_seed(seed, first + i, *stream) for i in range(pictures)]
        self.generators = [torch.Generator().manual_seed(own) for own in seeds]
        self.samples = samples

    def normal(self, dimensions: int) -> torch.Tensor:
        """Return standard normal numbers, (pictures, samples, dimensions)."""
        return self._stack(lambda g: torch.randn(self.samples, dimensions, generator=g), dimensions)

    def uniform(self, dimensions: int = 1) -> torch.Tensor:
        """Return numbers uniform in [0, 1), (pictures, samples, dimensions)."""
        return self._stack(lambda g: torch.rand(self.samples, dimensions, generator=g), dimensions)

    def skip(self, dimensions: int) -> None:
        """Pass over the numbers that `normal` would return."""
        for generator in self.generators:
            torch.randn(self.samples, dimensions, generator=generator)

    def _stack(self, sample, dimensions):
        numbers = [sample(generator) for generator in self.generators]
        return torch.stack(numbers) if numbers else torch.empty(0, self.samples, dimensions)
