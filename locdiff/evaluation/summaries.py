"""What a model predicts for many pictures, in all its summaries, and how these and the baselines score."""

import math
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from locdiff.data import blue_marble
from locdiff.data.embeddings import Embeddings
from locdiff.evaluation import density_metrics, metrics
from locdiff.evaluation.retrieval import retrieve
from locdiff.memory import batch_size
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.model.posterior import PixelPosterior
from locdiff.seeding import derive_seed
from locdiff.sphere import decoder, pixels
from locdiff.sphere.coordinates import geographic_center, great_circle_km
from locdiff.sphere.healpix import ang2pix
from locdiff.sphere.pixels import THRESHOLDS_KM

SHOWN = 8  # pictures whose densities are kept, to be drawn
PLAIN_GALLERY = 21_000
PLAIN_GRID_NSIDE = 78  # 73,008 pixels, of which about 21,000 lie on land
MODE = "LocDiffusion, one-pass density, most probable mode"
EACH = "LocDiffusion, one-pass density, best place for each column"
CALIBRATION = ("nats_over_uniform", "in_region_50", "in_region_90", "area_50_km2", "area_90_km2")


def medoid(lat_lon: Tensor) -> Tensor:
    """Return, of n locations, the one with the least sum of distances to the others: (..., n, 2) -> (..., 2)."""
    total = great_circle_km(lat_lon[..., :, None, :], lat_lon[..., None, :, :]).sum(dim=-1)
    return lat_lon.gather(-2, total.argmin(dim=-1)[..., None, None].expand(*lat_lon.shape[:-2], 1, 2)).squeeze(-2)


@torch.no_grad()
def predict_all(
    model: LocDiffusion, embeddings: Tensor, truth: Tensor, samples: int = 16, seed: int = 0, progress: bool = True
) -> dict[str, Tensor]:
    """Return what every summary of the model predicts for embeddings (n, d), and what its posteriors are worth:

    `samples` (n, samples, 2); `mean` and `mode`, the exact mode of the samples' mean density and the most probable mode
    of the one-pass density, (n, 2); `mean, each` and `each`, the best locations of these two within each threshold,
    (n, thresholds, 2); `chance` (n, thresholds), what the latter predict of themselves; `mass` (n, thresholds), what
    the one-pass density gives the caps around the truth (n, 2); `rank` (n,) of the truth in that density;
    `calibration` (n, 5); `localizability` (n,); and `density` (m, N) of the first SHOWN.
    """
    parts, size = [], min(model.posterior_batch_size, batch_size(16 * samples * model.config.network.dimensions))
    description = f"{samples} samples a picture, steps: {model.config.sample_steps}"
    for start in tqdm(range(0, len(embeddings), size), description, disable=not progress, leave=False):
        places = truth[start : start + size]
        posterior = model.posterior(embeddings[start : start + size])
        mean = posterior.sample_coeffs(samples, seed, start).mean(dim=1)
        mean_mode, _ = decoder.exact_mode(mean)
        each, chance = zip(*posterior.best_within().values(), strict=True)
        parts.append({
            "samples": posterior.sample(samples, seed, start),
            "mean": mean_mode,
            "mean, each": decoder.best_within_each(mean, THRESHOLDS_KM, mode=mean_mode)[0],
            "mode": posterior.modes()[0][:, 0],
            "each": torch.stack(each, dim=1),
            "chance": torch.stack(chance, dim=1).float(),
            "rank": posterior.rank(places, seed, start),
            "mass": posterior.mass_within(places),
            "calibration": calibration(posterior, places),
            "localizability": density_metrics.localizability(posterior.pixel_probs),
            "density": posterior.pixel_probs[: max(0, SHOWN - start)].clone(),
        })  # fmt: skip
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def score_model(
    model: LocDiffusion, found: dict[str, Tensor], truth: Tensor, columns: metrics.Columns = metrics.USUAL
) -> dict[str, dict]:
    """Return the scores of the model's summaries, {row: score}, from what `predict_all` found for the truth (n, 2)."""
    score = partial(metrics.score, columns=columns)
    places, steps = found["samples"], model.config.sample_steps
    samples, mass, c = places.shape[1], found["mass"], model.config
    mean = f"LocDiffusion, mean density of {samples}" + " (first level alone)" * bool(model.refinements)
    is_ddpm = c.inference.sampler == "ddim" and steps == c.diffusion.noise_levels
    sampler = "DDPM" if is_ddpm else c.inference.sampler.upper()
    return {
        f"LocDiffusion, one sample ({sampler}, {steps} step{'s' * (steps > 1)})":
            score(places.flatten(0, 1), truth.repeat_interleave(samples, dim=0)),
        "LocDiffusion, one sample: chance the one-pass density gives it":
            {"accuracy": dict(zip(THRESHOLDS_KM, (100 * mass.mean(dim=0)).tolist(), strict=True))},
        f"LocDiffusion, geographic centre of {samples} (the paper's)": score(geographic_center(places), truth),
        f"LocDiffusion, medoid of {samples}": score(medoid(places), truth),
        mean: score(found["mean"], truth),
        f"{mean}, best place for each column": metrics.score_each(found["mean, each"], truth),
        MODE: score(found["mode"], truth),
        EACH: metrics.score_each(found["each"], truth),
    }  # fmt: skip


def score_prior(model: LocDiffusion, truth: Tensor) -> tuple[dict[str, dict], float]:
    """Return the scores of the prior of a model, {row: score}, and the nats that it gives the truth (n, 2)."""
    coeffs = model.calibration.prior[None].cpu()
    probs = pixels.softmax(model.grid.synthesis(coeffs.to(model.device))).cpu()
    posterior = PixelPosterior(model.grid, model.objective, coeffs, probs, None)  # of which only places are used
    places = torch.stack([place for place, _ in posterior.best_within().values()], dim=1).expand(len(truth), -1, -1)
    log_prob = pixels.log_prob(probs.expand(len(truth), -1), truth)
    nats = (log_prob + math.log(4 * math.pi)).double().mean().item()
    return {"Prior alone, best place for each column": metrics.score_each(places, truth)}, nats


def density_scores(found: dict[str, Tensor], truth: Tensor) -> dict[str, float]:
    """Return what the densities that `predict_all` found are worth by the measures of `density_metrics`."""
    log_prob = found["calibration"][:, 0].double() - math.log(4 * math.pi)
    return {
        "bits_per_dimension": density_metrics.bits_per_dimension(log_prob).mean().item(),
        "localizability": found["localizability"].double().mean().item(),
    } | density_metrics.manifold_metrics(found["samples"][:, 0], truth)


def calibration(posterior, truth: Tensor) -> Tensor:
    """Return what each density is worth, (n, 5), by the names of CALIBRATION: the log density at the truth over that of
    the uniform density, whether the truth lies in the 50 % and 90 % regions, and their areas."""
    masks, areas = posterior.credible_regions()
    inside = masks[torch.arange(len(truth)), :, ang2pix(posterior.grid.nside, truth)]
    return torch.cat([posterior.log_prob(truth)[:, None] + math.log(4 * math.pi), inside, areas], dim=-1)


def baseline_places(embeddings: Tensor, train: Embeddings, seed: int = 0, progress: bool = True) -> dict[str, Tensor]:
    """Return the predictions (n, 2) of retrieval by cosine over galleries, of which the training data are the first,
    and of a random training location: {row: locations}."""
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))  # not the places of the training data
    galleries = {f"training {train.kind}": train}
    if train.encoder == blue_marble.THUMBNAIL_ENCODER:
        random_land = blue_marble.random_land(PLAIN_GALLERY, generator)
        galleries["plain views of random land"] = blue_marble.plain_views(random_land, progress)
        galleries["plain views on a HEALPix grid"] = blue_marble.plain_views(
            blue_marble.healpix_land(PLAIN_GRID_NSIDE), progress
        )
    rows = {
        f"Retrieval, gallery of {len(gallery):,} {name}": retrieve(embeddings, gallery, progress)
        for name, gallery in galleries.items()
    }
    chance = torch.randint(len(train), (len(embeddings),), generator=generator)
    rows[f"Chance: the place of a random training {train.kind[:-1]}"] = torch.from_numpy(train.lat_lon)[chance]
    return rows
