"""The denoising network: C-Siren blocks in the shape of a U (paper section 4.5 and Figure 2)."""

import math
from itertools import pairwise

import torch
from torch import nn

from locdiff.model.whitening import Whitening


class CSiren(nn.Module):
    """Conditional SirenNet module (Figure 2a): x (..., d_in), t (..., d_time), image (..., d_image) -> (..., d_out).

    h_x = W_x x and h_I = W_I e_I; a feed-forward of the time embedding gives the scale alpha and the shift epsilon; the
    output is sin(W_o((1 + alpha) * h_x + epsilon + h_I)).
    """

    def __init__(self, d_in, d_out, d_time, d_image, dropout):
        super().__init__()
        self.from_x = nn.Linear(d_in, d_out)
        self.from_image = nn.Linear(d_image, d_out)
        self.from_time = nn.Sequential(nn.Linear(d_time, d_time), nn.SiLU(), nn.Linear(d_time, 2 * d_out))
        self.out = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / d_out)  # keeps the variance of the argument of the sine near one (Sitzmann et al. 2020)
        nn.init.uniform_(self.out.weight, -bound, bound)

    def forward(self, x, time, image):
        scale, shift = self.from_time(time).chunk(2, dim=-1)
        h = (1 + scale) * self.from_x(x) + shift + self.from_image(image)
        return self.dropout(torch.sin(self.out(h)))


class CSUNet(nn.Module):
    """CS-UNet (Figure 2b): `depth` C-Siren blocks that narrow from d to the bottleneck width w and widen back to d.

    To the output of a block on the way up is added what came into its mirror image on the way down. A linear head, zero
    at the start, takes this to the range of the coefficients. With `whiten` the embeddings are whitened before.

    x (..., d), t (...) and image (..., d_image) broadcast over their leading axes, so that one picture's projections
    serve all its samples: x (pictures, samples, d), t a number, image (pictures, 1, d_image).
    """

    def __init__(self, d, d_image, width, depth, d_time, dropout, whiten=False):
        super().__init__()
        if depth < 2 or depth % 2:
            raise ValueError(f"depth must be an even number of blocks, at least 2, got {depth}")
        self.d_time = d_time
        self.whiten = Whitening(d_image) if whiten else nn.Identity()
        down = [round(d * (width / d) ** (i / (depth // 2))) for i in range(depth // 2 + 1)]  # d, ..., w
        self.down = nn.ModuleList(CSiren(a, b, d_time, d_image, dropout) for a, b in pairwise(down))
        self.up = nn.ModuleList(CSiren(a, b, d_time, d_image, dropout) for a, b in pairwise(down[::-1]))
        self.head = nn.Linear(d, d)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x, t, image):
        time = sinusoidal_embedding(t, self.d_time).to(x.dtype)
        image = self.whiten(image)
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(x, time, image)
        for block in self.up:
            x = block(x, time, image) + skips.pop()
        return self.head(x)


def sinusoidal_embedding(t, dim):
    """Return dim / 2 sines and cosines of t (...), of geometric frequencies 1 to 1e-4: (..., dim)."""
    frequencies = torch.logspace(0, -4, dim // 2, device=t.device)
    angles = t[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
