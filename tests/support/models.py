"""Tiny models: of one level, of two and of three."""

import copy

import torch

from locdiff import options
from locdiff.model.config import ModelConfig
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.posterior import PixelPosterior
from locdiff.model.ridge import RidgeReadoutLevel
from locdiff.sphere import shdd
from locdiff.sphere.coordinates import great_circle_km
from locdiff.sphere.healpix import healpix_anchors

TINY = {
    "encoder": "test", "embed_dim": 5, "l_max": 7, "prior_l_max": 11, "width": 16, "depth": 2, "time_dim": 8,
    "noise_levels": 40, "sample_steps": 20, "whiten": 0.3, "quadrature_nside": 16, "decoder_nside": 16, "rho_km": 300.0,
}  # fmt: skip
EVERY = 12 * 8**2  # cells of level 1


def tiny_config(**changes):
    """Return the configuration of a tiny model; `changes` are by flat names."""
    values = TINY | changes
    exact_skip = values.get("loss", "likelihood") == "likelihood"
    return options.nest(ModelConfig, {"exact_skip": exact_skip} | values)


def tiny(**changes):
    """Return a tiny model, untrained: all its outputs are zero but for the exact skip."""
    torch.manual_seed(0)
    return LocDiffusion(tiny_config(**changes)).eval()


def seeing(std=0.1, **changes):
    """Return a tiny model whose outputs depend on the picture, and which by likelihood has a prior."""
    model = tiny(**changes)
    torch.nn.init.normal_(model.network.head.weight, std=std)
    if model.calibration:
        model.calibration.set_prior(0.3 * torch.randn(len(model.calibration.prior)))
    return model


def with_prior(coeffs, **changes):
    """Return a model whose network ignores everything and gives the natural parameters `coeffs`."""
    model = tiny(**changes)
    with torch.no_grad():
        for block in [*model.network.down, *model.network.up]:
            block.out.weight.zero_()
            block.out.bias.zero_()
        model.network.head.bias.copy_(coeffs)
    return model


def zoomed(cells=range(EVERY), noise=0.0, **changes):
    """Return a tiny model with a refinement level for these cells, whose heads are noise."""
    small = {"whiten": 0.3, "levels": 2, "zoom": 8.0, "zoom_l_max": 4, "zoom_width": 8, "zoom_rank": 2}
    model = tiny(**small | {"cells": (len(cells),)} | changes)
    with torch.no_grad():
        model.refinements[0].cell_id.copy_(torch.tensor(list(cells)))
        model.network.head.bias.normal_(std=2.0)  # densities of level 0 that are not even
        model.refinements[0].head.bias.normal_(std=noise)
        model.refinements[0].cell_out.normal_(std=noise)
    return model


def three_levels(near, count=400, spread=0.2, **changes):
    """Return a tiny model whose level 2 has the `count` cells next to the place `near`, whose readouts are noise."""
    cells = great_circle_km(near, healpix_anchors(64)).argsort()[:count].sort().values
    model = zoomed(noise=0.3, levels=3, **changes)
    level = RidgeReadoutLevel(2, count, model.config)
    level.cell_id.copy_(cells)
    level.bias.normal_(std=spread)
    level.sigma.fill_(0.1)
    level.profile.fill_(0.5)
    model.add_level(level)
    return model


def peaked_at(place, sharpness=8.0, **changes):
    """Return a model that puts the picture at this place (2,) in the zoomed coordinates of every cell."""
    model = zoomed(**changes)
    with torch.no_grad():
        model.refinements[0].head.bias.copy_(sharpness * shdd.encode(place, model.config.refinement.zoom_l_max))
    return model


def sure_of(place, *count, **changes):
    """Return a model with three levels, the first two of which are sure of the place (2,), the center of a cell."""
    model = three_levels(place, *count, **changes)
    with torch.no_grad():
        model.refinements[0].head.bias.copy_(3 * shdd.encode(torch.tensor([90.0, 0.0]), 4))
    torch.nn.init.zeros_(model.network.head.weight)
    model.network.head.bias.data = 30 * shdd.encode(place, model.config.network.l_max).float()
    return model


def repeated(posterior, n):
    """Return the RefinedPosterior of one picture as if there were n of it, for `log_prob` at n locations."""
    many, base = copy.copy(posterior), posterior.base
    coeffs, probs = base.coeffs.expand(n, -1), base.pixel_probs.expand(n, -1)
    many.base, many.components = PixelPosterior(base.grid, base.objective, coeffs, probs, None), []
    for component in posterior.components:
        tensors = {name: value for name, value in vars(component).items() if isinstance(value, torch.Tensor)}
        tensors["exact_log_z"] = component.log_z(torch.arange(1), torch.zeros_like(component.log_sum[:1]))
        many.components.append(copy.copy(component))
        vars(many.components[-1]).update({name: value.expand(n, *value.shape[1:]) for name, value in tensors.items()})
    return many


def cell_points(component):
    """Return the places of the points of the cells of a MixtureComponent, (n, K M, 2)."""
    points = component.geometry.points
    return torch.stack([torch.cat([points(index) for index in own]) for own in component.cell_index.tolist()])


def points_and_masses(posterior):
    """Return the places (P, 2) and masses (P,) of all parts of a RefinedPosterior for its first picture."""
    points = [posterior.anchors, *(cell_points(component)[0].double() for component in posterior.components)]
    masses = [posterior.remaining[0], *(component.masses[0].flatten() for component in posterior.components)]
    return torch.cat(points), torch.cat(masses)


CENTER = healpix_anchors(8)[300]  # 14.5 N, 45 W
KINDS = {  # of posteriors: what makes a model of each
    "one pass": lambda: seeing(sample_steps=1),
    "chain": lambda: seeing(sample_steps=3),
    "regression": lambda: seeing(loss="l2", sample_steps=2),
    "two levels": lambda: zoomed(range(0, 768, 2), noise=0.5, zoom_into=3, sample_steps=1),
    "three levels": lambda: sure_of(CENTER, 40, zoom_into=2),
}
