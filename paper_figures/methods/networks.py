"""Networks whose weights follow from a seed: of linear layers, and of sines."""

import math
from itertools import pairwise

import torch
from torch import nn


def random_of(seed):
    """Return the random generator of a seed, which may be one already."""
    return seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)


def _linear(inputs, outputs, bound, random):
    """Return a linear layer with weights and biases uniform in (-bound, bound)."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer


def feed_forward(widths, activation, random):
    """Return linear layers of these widths, initialized as He et al. (2015) do, with an activation between them."""
    layers = [(_linear(*sizes, math.sqrt(6 / sizes[0]), random), activation()) for sizes in pairwise(widths)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))[:-1]


class Siren(nn.Module):
    """Sinusoidal network (Sitzmann et al. 2020): sin(30 (W x + b)), then sin(W h + b), then a linear layer.

    As in the program of Russwurm et al., the factor 30 is in the first layer only (Sitzmann et al. have it in all), and
    biases start like weights: uniform within 1 / n in the first layer and sqrt(6 / n) in the others, of n inputs.
    """

    def __init__(self, widths, random):
        super().__init__()
        bounds = [1 / widths[0], *(math.sqrt(6 / n) for n in widths[1:-1])]
        sizes = zip(widths[:-1], widths[1:], bounds, strict=True)
        self.layers = nn.ModuleList(_linear(*size, random) for size in sizes)

    def forward(self, x):
        x = torch.sin(30 * self.layers[0](x))
        for layer in self.layers[1:-1]:
            x = torch.sin(layer(x))
        return self.layers[-1](x)
