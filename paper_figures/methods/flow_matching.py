"""Riemannian flow matching on the sphere."""

import math

import torch
from torch import nn
from torch.nn.functional import linear, normalize

from locdiff.model.cs_unet import sinusoidal_embedding
from locdiff.model.whitening import Whitening
from locdiff.seeding import PictureNoise
from locdiff.sphere.coordinates import EARTH_RADIUS_KM, from_unit_vector, tangents, to_unit_vector
from methods.baseline import trunk
from methods.densities import Densities
from methods.density_baseline import DensityBaseline
from methods.place_decoder import fibonacci_places

STEPS = 4  # of Runge and Kutta's method, over times 0 to 1
POINTS, NEAR_KM = 64, 200  # samples among which the best place is looked for, by a Gaussian of this width
TIMES = 10.0  # that a time of one counts in the embedding of times, whose waves a step must resolve


class FlowMatching(DensityBaseline):
    """Riemannian flow matching on the sphere (Chen and Lipman 2024), as PLONK does it (Dufour et al. 2025).

    A point x_0, uniform on the sphere, and the true location x_1 are joined by a geodesic, x_t at time t in [0, 1]. A
    network of (x_t, t, picture) learns the velocity along it by squared error, in radians. The solution of
    dx/dt = v(x, t) takes uniform points to samples of the density, and its divergence gives the density itself. Unlike
    PLONK's, the network is the trunk of all families, times are uniform and there is no guidance.
    """

    sharpnesses = (1.0,)  # a flow has no sharpness

    def __init__(self, config):
        super().__init__(config)
        network = trunk(config, 3, extra=3 + config.network.time_dim)
        whitens = isinstance(network[0], Whitening)
        self.whiten, self.network = (network[0], network[1:]) if whitens else (nn.Identity(), network)

    def forward(self, x, t, whitened):
        """Return tangent velocities (..., 3) at unit vectors x (..., 3) and times t (...) for `whitened` embeddings.

        The first layer takes all three. Each has a part of its weights, so that many points of a picture share the work
        on its embedding.
        """
        time = sinusoidal_embedding(TIMES * t, self.config.network.time_dim).to(x.dtype)
        first, inputs = self.network[0], (whitened, x, time)
        weights = first.weight.split([part.shape[-1] for part in inputs], dim=-1)
        hidden = sum(linear(part, weight) for part, weight in zip(inputs, weights, strict=True))
        velocity = self.network[1:](hidden + first.bias)
        return velocity - (velocity * x).sum(dim=-1, keepdim=True) * x

    def loss(self, embeddings, lat_lon):
        """Return the squared error of the velocity of each picture at a random time, (n,)."""
        x_1 = to_unit_vector(lat_lon)
        x_0 = normalize(torch.randn_like(x_1), dim=-1)
        t = torch.rand(len(x_1), dtype=x_1.dtype, device=x_1.device)
        x_t, velocity = (part.to(embeddings) for part in geodesic(x_0, x_1, t[:, None]))
        return (self(x_t, t.to(embeddings), self.whiten(embeddings)) - velocity).square().sum(dim=-1)

    def densities(self, embeddings, sharpness):
        return FlowDensities(self, embeddings)

    def place(self, embeddings):
        """Return of POINTS samples, which start spread evenly, those with the most others near by, (n, 2)."""
        start = to_unit_vector(fibonacci_places(POINTS)).to(embeddings).expand(len(embeddings), -1, -1)
        x = FlowDensities(self, embeddings).solve(start)[0].cpu().double()
        apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") * EARTH_RADIUS_KM
        best = torch.exp(-((apart / NEAR_KM) ** 2) / 2).sum(dim=-1).argmax(dim=-1)
        return from_unit_vector(x[torch.arange(len(x)), best])


def geodesic(x_0, x_1, t):
    """Return the points at times t (n, 1) of the geodesics from x_0 to x_1, unit vectors (n, 3), and the velocities.

    Between antipodes, which have no shortest path, the velocity is that of a straight line's projection: finite.
    """
    angle = 2 * torch.asin(((x_1 - x_0).norm(dim=-1, keepdim=True) / 2).clamp(max=1))
    sine = torch.sin(angle).clamp(min=1e-6)
    first, second = torch.sin((1 - t) * angle) / sine, torch.sin(t * angle) / sine
    short = angle < 1e-4
    first, second = torch.where(short, 1 - t, first), torch.where(short, t, second)
    x_t = normalize(first * x_0 + second * x_1, dim=-1)
    toward = x_1 - (x_1 * x_0).sum(dim=-1, keepdim=True) * x_0  # at t = 0; turned with x_t around their common axis
    axis = torch.linalg.cross(x_0, toward, dim=-1)
    return x_t, angle * normalize(torch.linalg.cross(axis, x_t, dim=-1), dim=-1)


class FlowDensities(Densities):
    """The densities of a FlowMatching model for embeddings (n, embed_dim) on its device."""

    ranked = 16  # each costs as much as the true location
    voting = 64

    def __init__(self, model, embeddings):
        self.model, self.embeddings = model, model.whiten(embeddings)

    def __len__(self):
        return len(self.embeddings)

    @torch.no_grad()
    def log_prob(self, lat_lon):
        """Return log (1 / 4 pi) minus the integral of the divergence along the path that ends there, see Densities."""
        x = to_unit_vector(lat_lon.reshape(len(self), -1, 2).double()).to(self.embeddings)
        change = self.solve(x, backward=True)[1].cpu().double()
        return (change - math.log(4 * math.pi)).view(lat_lon.shape[:-1])

    @torch.no_grad()
    def sample(self, count, seed=0, first=0):
        x = normalize(PictureNoise(seed, first, len(self), count).normal(3), dim=-1).to(self.embeddings)
        return from_unit_vector(self.solve(x)[0].cpu().double())

    def solve(self, x, backward=False):
        """Solve dx/dt = v from x (n, m, 3) at time 0, or backward from time 1, where it also gives minus the integral
        of the divergence, (n, m): by Runge and Kutta's method of fourth order, projected to the sphere."""
        h, total = (-1 if backward else 1) / STEPS, x.new_zeros(x.shape[:-1])
        embeddings = self.embeddings[:, None]

        def slope(x, t):
            x, t = normalize(x, dim=-1), x.new_tensor(t)
            if backward:
                return divergence(lambda x: self.model(x, t, embeddings), x)
            return self.model(x, t, embeddings), 0

        for i in range(STEPS):
            t = (1 if backward else 0) + i * h
            one, a = slope(x, t)
            two, b = slope(x + h / 2 * one, t + h / 2)
            three, c = slope(x + h / 2 * two, t + h / 2)
            four, d = slope(x + h * three, t + h)
            x = normalize(x + h / 6 * (one + 2 * two + 2 * three + four), dim=-1)
            total = total + h / 6 * (a + 2 * b + 2 * c + d)
        return x, total


def divergence(field, x):
    """Return a tangent vector field at unit vectors x (..., 3), and its divergence on the sphere (...)."""
    total = x.new_zeros(x.shape[:-1])
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        for tangent in tangents(x.detach()):
            (change,) = torch.autograd.grad((value * tangent).sum(), x, retain_graph=True)
            total = total + (change * tangent).sum(dim=-1)
    return value.detach(), total
