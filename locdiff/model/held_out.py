"""What pictures that training has not seen say of a model: the likelihood of their locations, and its calibration."""

import copy
import math

import torch
from torch import Tensor

from locdiff.model.calibration import fit_broad
from locdiff.model.refinement import calibrate_level
from locdiff.sphere import shdd
from locdiff.sphere.healpix import healpix_transform


@torch.no_grad()
def validation_nats(model, embeddings: Tensor, lat_lon: Tensor) -> Tensor:
    """Return the log density at true locations over that of the uniform density, (n, d) and (n, 2) -> (n,), CPU.

    That is of the one-pass density, calibrated by these very pictures with tau <= 1, since too much trust can be mended
    afterwards. With refinement levels, that of level 1 in zoomed coordinates is added.
    """
    coeffs = model.one_pass(embeddings)
    if model.calibration:
        nside = model.objective.quadrature.nside
        nats = copy.deepcopy(model.calibration).fit(coeffs, lat_lon, nside, most=1.0)
    else:
        size = model.posterior_batch_size
        pairs = zip(coeffs.split(size), lat_lon.split(size), strict=True)
        nats = torch.cat([_log_prob(model, chunk, own) for chunk, own in pairs])
    for level in model.refinements[:1]:
        nats = nats + level.validation_nats(model.image_features(embeddings), lat_lon)
    return nats + math.log(4 * math.pi)


def _log_prob(model, coeffs, lat_lon):
    probs = model.objective.pixel_probs(model.grid.synthesis(coeffs.to(model.device))).cpu()
    return model.objective.log_prob(coeffs, probs, lat_lon)


@torch.no_grad()
def calibrate(model, embeddings: Tensor, lat_lon: Tensor) -> None:
    """Calibrate levels 0 and 1 by pictures (n, d) at locations (n, 2), where the outputs are natural parameters."""
    if not model.calibration:
        return
    grid = model.grid
    model.calibration.fit(model.one_pass(embeddings), lat_lon, grid.nside)
    coeffs = shdd.encode(lat_lon, grid.l_max).float()
    fine = healpix_transform(grid.l_max, 2 * grid.nside, device=model.device)
    sharp, *broad = fit_broad(model.one_pass(embeddings), coeffs, fine)
    model.calibration.scale *= sharp
    model.objective.broad.copy_(torch.tensor(broad))
    for level in model.refinements:
        calibrate_level(level, model.image_features(embeddings), lat_lon)
