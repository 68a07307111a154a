"""Levels 2, 3, ...: for each cell a linear readout of what level 1 sees, fitted after the training, in closed form.

There are too many cells for a network to have a place for each, and too few training places in one to train it. But
what level 1 sees varies almost linearly with the place over so small a cell. So a cell is conditioned on by the ridge
regression, over the training places y that belong to it (weights r(c | y)), of y's zoomed coordinates u, in the
stereographic plane, on what level 1 sees in the picture. The penalty is the best of PENALTIES by the errors that each
place has when it is left out, which ridge regression gives in closed form; their root mean square is the cell's sigma.
The density is a hill about the place u of the readout, with the natural parameters

    e_lm = a_l(sigma) Y_lm(u),

whose profile a_l(sigma), linear between KNOTS of log sigma, all cells share; it is fitted by the likelihood of the
places that were left out. A cell needs MIN_PLACES distinct training places, so the table is never larger than the data.

The network has been trained on the places that are left out, so where it has learnt them by heart the errors are too
small: then so are the regions of the density, which training reports for held-out pictures.
"""

import math

import healpy
import numpy as np
import torch
from tqdm import tqdm

from locdiff import shdd, zoom
from locdiff.coordinates import from_unit_vector, to_unit_vector
from locdiff.hierarchy import Level, cells_of

MIN_PLACES, MAX_PLACES = 8, 1024  # of a cell that are used; random ones, where there are more
LEAST = 1e-3  # r(c | y) of a place that counts for a cell
# of the ridge regression, times the variance of what is seen, over the number of places
PENALTIES = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 100.0)
KNOTS = torch.tensor([0.01, 0.03, 0.1, 0.3, 1.0]).log()  # of sigma, in the stereographic plane
PROFILE_STEPS, PROFILE_BATCH, PROFILE_LR = 300, 256, 1e-2


def to_plane(lat_lon, center, s):
    """Places (..., 2) in degrees, zoomed by s about the centres (..., 2), in the stereographic plane: (..., 2).

    Its coordinates are s tan(gamma / 2) to the south and to the east, gamma being the distance to the centre.
    """
    xyz = (zoom.frame(center) * to_unit_vector(lat_lon)[..., None, :]).sum(dim=-1)
    return s * xyz[..., :2] / (1 + xyz[..., 2:])


def from_plane(u):
    """Zoomed places (..., 2) in degrees of points (..., 2) of the stereographic plane."""
    square = u.square().sum(dim=-1, keepdim=True)
    return from_unit_vector(torch.cat([2 * u, 1 - square], dim=-1) / (1 + square))


class ReadoutLevel(Level):
    """Level k > 1. Natural parameters of what level 1 sees in pictures (m, width), for cells in rows (m,): (m, D)."""

    def __init__(self, k, count, config):
        super().__init__(k, count, config)
        self.register_buffer("weight", torch.zeros(count, 2, config.zoom_width))
        self.register_buffer("bias", torch.zeros(count, 2))
        self.register_buffer("sigma", torch.ones(count))
        self.register_buffer("profile", torch.ones(len(KNOTS), self.l_max + 1))

    def forward(self, seen, rows):
        u = torch.bmm(self.weight[rows], seen[..., None])[..., 0] + self.bias[rows]
        return self.hill(u, self.sigma[rows])

    def hill(self, u, sigma):
        """Natural parameters (m, D) of the hills of these widths (m,) about points (m, 2) of the plane."""
        knots = KNOTS.to(sigma)
        at = sigma.log().clamp(knots[0], knots[-1])
        step = (torch.searchsorted(knots, at, right=True) - 1).clamp(0, len(knots) - 2)
        part = ((at - knots[step]) / (knots[step + 1] - knots[step]))[:, None]
        amplitude = torch.lerp(self.profile[step], self.profile[step + 1], part)
        degree = torch.arange(self.l_max + 1, device=u.device)
        degree = degree.repeat_interleave(2 * degree + 1)
        return self.cut(amplitude[:, degree] * shdd.encode(from_plane(u), self.l_max).to(u))


@torch.no_grad()
def fit(level, see, train, progress=True):
    """Fill in a ReadoutLevel whose cells are known: `see` is what level 1 sees, of embeddings; `train` Embeddings."""
    distinct, nested = _distinct(train), healpy.ring2nest(level.nside, level.cells.cpu().numpy())
    cells, weights = (part.numpy() for part in cells_of(torch.from_numpy(train.lat_lon[distinct]), level.nside))
    entry = np.flatnonzero(weights > LEAST)
    entry = entry[np.argsort(cells.flat[entry], kind="stable")]
    ends = np.searchsorted(cells.flat[entry], level.cells.cpu().numpy(), side="right")
    starts = np.searchsorted(cells.flat[entry], level.cells.cpu().numpy())
    rng, left_out = np.random.default_rng(0), []
    blocks = nested // 64  # the 64 cells of a block lie together, and share most of their pictures
    order = np.argsort(blocks, kind="stable")
    bar = tqdm(total=len(order), desc=f"readouts of {level.nside}", unit="cell", disable=not progress, leave=False)
    with bar:
        for block in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            chosen = [_at_most(MAX_PLACES, entry[starts[row] : ends[row]], rng) for row in block]
            pictures = np.unique(np.concatenate(chosen) // 4)
            embeddings, lat_lon = train.batch(distinct[pictures])
            seen, centers = see(embeddings).double().cpu(), level.centers(torch.from_numpy(block))
            for row, own, center in zip(block, chosen, centers, strict=True):
                at = torch.from_numpy(np.searchsorted(pictures, own // 4))
                u, r = to_plane(lat_lon[at], center, level.s), torch.from_numpy(weights.flat[own])
                weight, bias, error = ridge(seen[at], u, r)
                level.weight[row], level.bias[row] = weight.T, bias
                level.sigma[row] = ((r[:, None] * error.square()).sum() / r.sum() / 2).sqrt().clamp(min=1e-3)
                some = rng.choice(len(own), 16, p=(r / r.sum()).numpy())
                left_out.append(torch.cat([u[some], (u - error)[some], level.sigma[row].expand(16, 1).cpu()], dim=1))
            bar.update(len(block))
    _fit_profile(level, torch.cat(left_out).float())


def cells_to_read(train, nside):
    """The cells (C,), in order, that have the places which a readout needs."""
    cells, weights = (part.numpy() for part in cells_of(torch.from_numpy(train.lat_lon[_distinct(train)]), nside))
    found, count = np.unique(cells.flat[np.flatnonzero(weights > LEAST)], return_counts=True)
    return torch.from_numpy(found[count >= MIN_PLACES])


def ridge(x, u, r):
    """Weighted ridge regression of u (n, 2) on x (n, d), with weights r (n,) and a constant: the matrix (d, 2), the
    constant (2,), and the error (n, 2) that each has when it alone is left out, the penalty being as it is.

    With rows scaled by sqrt(r), centred, and H the matrix from u to its prediction, that is the error / (1 - H_ii).
    """
    r = r / r.sum()
    mean_x, mean_u, root = r @ x, r @ u, r.sqrt()[:, None]
    x, centred = (x - mean_x) * root, (u - mean_u) * root
    square, basis = torch.linalg.eigh(x @ x.T)
    square, along, best = square.clamp(min=0), basis.T @ centred, None
    for share in PENALTIES:
        penalty = share * square.sum() / len(x) + 1e-12
        kept = square / (square + penalty)
        own = basis.square() @ kept + r
        error = (centred - basis @ (kept[:, None] * along)) / (1 - own).clamp(min=1e-9)[:, None]
        if best is None or error.square().sum() < best[0]:
            best = error.square().sum(), penalty, error / root
    weight = x.T @ (basis @ (along / (square + best[1])[:, None]))
    return weight, mean_u - mean_x @ weight, best[2]


def _distinct(train):
    """Positions of one picture for each place, to 10 m: those of one place would not be left out together."""
    lat, lon = np.round(train.lat_lon, 4).T
    return np.sort(np.unique(lat + 1j * lon, return_index=True)[1])


def _at_most(count, entries, rng):
    return entries if len(entries) <= count else np.sort(rng.choice(entries, count, replace=False))


@torch.enable_grad()
def _fit_profile(level, left_out):
    """Fit level.profile to rows (true u, u of the readout, sigma) by the likelihood, with Adam."""
    generator, device = torch.Generator().manual_seed(0), level.profile.device
    profile = level.profile = level.profile.clone().requires_grad_()
    optimizer = torch.optim.Adam([profile], lr=PROFILE_LR)
    for step in range(PROFILE_STEPS):
        optimizer.param_groups[0]["lr"] = PROFILE_LR * 0.5 * (1 + math.cos(math.pi * step / PROFILE_STEPS))
        some = torch.randint(len(left_out), (PROFILE_BATCH,), generator=generator)
        true, found, sigma = left_out[some].to(device).split([2, 2, 1], dim=1)
        loss = level.log_loss(level.hill(found, sigma[:, 0]), from_plane(true)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    level.profile = profile.detach()
