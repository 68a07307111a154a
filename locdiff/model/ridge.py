"""Refinement levels 2, 3, ...: for each cell a linear readout of level 1's features, fitted in closed form at the end.

A level has too many cells for a network to hold parameters for each, and each cell too few training locations to train
them. But over so small a cell the features vary almost linearly with the location. So for each cell a ridge regression
predicts, from the features of a picture, the zoomed coordinates u of its location in the stereographic plane; it weighs
the training locations y by r(c | y). The penalty is the best of PENALTIES by the errors that each location has when it
is left out, which ridge regression gives in closed form. Their root mean square is the cell's sigma. The density has
one mode, about the predicted u, with the natural parameters

    e_lm = a_l(sigma) Y_lm(u).

All cells share the profile a_l(sigma), which is linear in log sigma between knots; it is fitted by the likelihood of
the locations that were left out. A cell needs MIN_PLACES distinct training locations, so the table is never larger than
the data.

The network was trained on the locations that are left out. Where it has learnt them by heart the errors are too small,
and then so are the regions of the density. Calibration, by pictures that training has not seen, mends that on average.
"""

import math
import sys

import healpy
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from locdiff.model.refinement import RefinementLevel
from locdiff.sphere import shdd, zoom
from locdiff.sphere.coordinates import from_unit_vector, to_unit_vector
from locdiff.sphere.healpix import interpolation

MIN_PLACES, MAX_PLACES = 8, 1024  # of a cell that are used; random ones, where there are more
LEAST = 1e-3  # r(c | y) of a location that counts for a cell
# of the ridge regression, times the variance of the features, over the number of locations
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 100.0)
PROFILE_STEPS, PROFILE_BATCH, PROFILE_LR = 300, 256, 1e-2
BLOCK = 64  # cells that lie together, and share most of their pictures
LEFT_OUT = 16  # left-out locations of a cell that the profile is fitted to


def to_plane(lat_lon: Tensor, center: Tensor, s: float) -> Tensor:
    """Return locations (..., 2), zoomed by s about the centers (..., 2), in the stereographic plane: (..., 2).

    The coordinates are s tan(gamma / 2) to the south and to the east, gamma being the distance to the center.
    """
    xyz = (zoom.frame(center) * to_unit_vector(lat_lon)[..., None, :]).sum(dim=-1)
    return s * xyz[..., :2] / (1 + xyz[..., 2:])


def from_plane(u: Tensor) -> Tensor:
    """Return the zoomed locations (..., 2) in degrees of points (..., 2) of the stereographic plane."""
    square = u.square().sum(dim=-1, keepdim=True)
    return from_unit_vector(torch.cat([2 * u, 1 - square], dim=-1) / (1 + square))


class RidgeReadoutLevel(RefinementLevel):
    """Level k > 1: linear readouts of level 1's features."""

    weight: Tensor
    bias: Tensor
    sigma: Tensor
    mean: Tensor
    spread: Tensor
    profile: Tensor
    knots: Tensor

    def __init__(self, k, count, config):
        super().__init__(k, count, config)
        c = config.refinement
        self.register_buffer("weight", torch.zeros(count, 2, c.zoom_width))
        self.register_buffer("bias", torch.zeros(count, 2))
        self.register_buffer("sigma", torch.ones(count))
        self.register_buffer("mean", torch.zeros(count, 2))
        self.register_buffer("spread", torch.ones(count))
        self.scale = torch.tensor([1.0, 0.0])
        self.register_buffer("profile", torch.ones(len(c.knots), self.l_max + 1))
        self.register_buffer("knots", torch.tensor(c.knots).log(), persistent=False)

    def parts(self, features: Tensor, cell_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the natural parameters of the readouts and of the priors of the cells, (m, D) each.

        The prior of a cell has one mode about the mean of its training locations, as wide as they are spread.
        """
        u = torch.bmm(self.weight[cell_index], features[..., None])[..., 0] + self.bias[cell_index]
        prior = self.peak(self.mean[cell_index], self.spread[cell_index])
        return self.peak(u, self.sigma[cell_index]), prior

    def peak(self, u: Tensor, sigma: Tensor) -> Tensor:
        """Return natural parameters (m, D) of densities of these widths (m,) about points (m, 2) of the plane."""
        knots = self.knots
        at = sigma.log().clamp(knots[0], knots[-1])
        step = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
        part = ((at - knots[step]) / (knots[step + 1] - knots[step]))[:, None]
        amplitude = torch.lerp(self.profile[step], self.profile[step + 1], part)
        degree = torch.arange(self.l_max + 1, device=u.device)
        degree = degree.repeat_interleave(2 * degree + 1)
        return self.clip_norm(amplitude[:, degree] * shdd.encode(from_plane(u), self.l_max).to(u))


def ridge_levels(config, features, train, progress: bool = True):
    """Yield the levels 2, 3, ... that the configuration asks for, fitted, as long as there are cells to fit.

    `features` makes level 1's features of embeddings; `train` are the training Embeddings.
    """
    for k in range(2, config.refinement.levels):
        nside = config.refinement.subdivision**k
        cell_id = cells_to_fit(train, nside)
        if not len(cell_id):
            tqdm.write(
                f"no level {k}: no cell of nside {nside} has {MIN_PLACES} distinct training locations", sys.stderr
            )
            return
        level = RidgeReadoutLevel(k, len(cell_id), config)
        level.cell_id.copy_(cell_id)
        fit(level, features, train, progress)
        yield level


@torch.no_grad()
def fit(level: RidgeReadoutLevel, features, train, progress: bool = True) -> None:
    """Fit the readouts of a level whose cells are known, and then its profile; see `ridge_levels`."""
    distinct, members, weights = _members(level, train)
    rng, left_out, blocks = np.random.default_rng(0), [], healpy.ring2nest(level.nside, level.cell_id.numpy()) // BLOCK
    order = np.argsort(blocks, kind="stable")
    bar = tqdm(total=len(order), desc=f"readouts of {level.nside}", unit="cell", disable=not progress, leave=False)
    with bar:
        for block in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            chosen = [_at_most(MAX_PLACES, members[index], rng) for index in block]
            pictures = np.unique(np.concatenate(chosen) // 4)
            embeddings, lat_lon = train.batch(distinct[pictures])
            seen, centers = features(embeddings).double().cpu(), level.centers(torch.from_numpy(block))
            for index, own, center in zip(block, chosen, centers, strict=True):
                at = torch.from_numpy(np.searchsorted(pictures, own // 4))
                u, r = to_plane(lat_lon[at], center, level.s), torch.from_numpy(weights.flat[own])
                left_out.append(_fit_cell(level, index, seen[at], u, r, rng))
            bar.update(len(block))
    _fit_profile(level, torch.cat(left_out).float())


def _members(level, train):
    """Positions in `train` of distinct locations; for each cell of the level, positions among their 4 n neighboring
    cells; the weights (n, 4) of these."""
    distinct = _distinct(train)
    cell_id, weights = (part.numpy() for part in interpolation(level.nside, torch.from_numpy(train.lat_lon[distinct])))
    entry = np.flatnonzero(weights > LEAST)
    entry = entry[np.argsort(cell_id.flat[entry], kind="stable")]
    ends = np.searchsorted(cell_id.flat[entry], level.cell_id.numpy(), side="right")
    starts = np.searchsorted(cell_id.flat[entry], level.cell_id.numpy())
    return distinct, [entry[start:end] for start, end in zip(starts, ends, strict=True)], weights


def _fit_cell(level, index, x, u, r, rng):
    """Fit the readout of one cell; rows (true u, u of the readout when left out, sigma) of some of its locations."""
    weight, bias, error = ridge(x, u, r)
    level.weight[index], level.bias[index] = weight.T, bias
    level.sigma[index] = ((r[:, None] * error.square()).sum() / r.sum() / 2).sqrt().clamp(min=1e-3)
    share = (r / r.sum())[:, None]
    level.mean[index] = mean = (share * u).sum(dim=0)
    level.spread[index] = ((share * (u - mean).square()).sum() / 2).sqrt().clamp(min=1e-3)
    some = rng.choice(len(u), LEFT_OUT, p=(r / r.sum()).numpy())
    return torch.cat([u[some], (u - error)[some], level.sigma[index].expand(LEFT_OUT, 1)], dim=1)


def cells_to_fit(train, nside: int) -> Tensor:
    """Return the ids (C,), in order, of the cells that have the locations which a readout needs."""
    cell_id, weights = interpolation(nside, torch.from_numpy(train.lat_lon[_distinct(train)]))
    found, count = np.unique(cell_id[weights > LEAST].numpy(), return_counts=True)
    return torch.from_numpy(found[count >= MIN_PLACES])


def ridge(x: Tensor, u: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted ridge regression of u (n, 2) on x (n, d), with weights r (n,) and a constant.

    That is the matrix (d, 2), the constant (2,), and the error (n, 2) that each location has when it alone is left out,
    the penalty being as it is. With rows scaled by sqrt(r), centered, and H the matrix from u to its prediction, that
    is the error / (1 - H_ii).
    """
    r = r / r.sum()
    mean_x, mean_u, root = r @ x, r @ u, r.sqrt()[:, None]
    x, centered = (x - mean_x) * root, (u - mean_u) * root
    square, basis = torch.linalg.eigh(x @ x.T)
    square, along, best = square.clamp(min=0), basis.T @ centered, None
    for share in PENALTIES:
        penalty = share * square.sum() / len(x) + 1e-12
        kept = square / (square + penalty)
        own = basis.square() @ kept + r
        error = (centered - basis @ (kept[:, None] * along)) / (1 - own).clamp(min=1e-9)[:, None]
        if best is None or error.square().sum() < best[0]:
            best = error.square().sum(), penalty, error / root
    assert best is not None  # there are penalties
    weight = x.T @ (basis @ (along / (square + best[1])[:, None]))
    return weight, mean_u - mean_x @ weight, best[2]


def _distinct(train):
    """Positions of one picture for each location, to 10 m: those of one location would not be left out together."""
    lat, lon = np.round(train.lat_lon, 4).T
    return np.sort(np.unique(lat + 1j * lon, return_index=True)[1])


def _at_most(count, entries, rng):
    return entries if len(entries) <= count else np.sort(rng.choice(entries, count, replace=False))


@torch.enable_grad()
def _fit_profile(level, left_out):
    """Fit level.profile to rows (true u, u of the readout, sigma) by the likelihood, with Adam."""
    generator = torch.Generator().manual_seed(0)
    profile = level.profile = level.profile.clone().requires_grad_()
    optimizer = torch.optim.Adam([profile], lr=PROFILE_LR)
    for step in range(PROFILE_STEPS):
        optimizer.param_groups[0]["lr"] = PROFILE_LR * 0.5 * (1 + math.cos(math.pi * step / PROFILE_STEPS))
        some = torch.randint(len(left_out), (PROFILE_BATCH,), generator=generator)
        true, found, sigma = left_out[some].split([2, 2, 1], dim=1)
        loss = level.negative_log_likelihood(level.peak(found, sigma[:, 0]), from_plane(true)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    level.profile = profile.detach()
