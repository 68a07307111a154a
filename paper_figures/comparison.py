"""The comparison behind Tables 1 and 2 and Figure 5: every family of methods on the same embeddings, trained alike."""

import sys

import numpy as np
import torch
from context import timed, timed_training
from measures import COSTS, SAMPLES, of_posteriors
from methods.baseline import trained
from methods.densities import PixelDensities, densest_place
from methods.density_baseline import prior_probs
from methods.families import FAMILIES
from methods.gallery import GalleryDensities, kernel_density

from locdiff.errors import InputError
from locdiff.evaluation import hybrid, retrieval
from locdiff.evaluation.metrics import hits
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.sphere.coordinates import geographic_center, great_circle_km
from locdiff.training.settings import PRESETS, infer_data_fields, override
from locdiff.training.validation import split_validation

PRIOR = "The density of the training locations"
RETRIEVAL = "Retrieval"
NEAREST = "[L]kNN with kernel density"
CENTER = f"LocDiffusion, geographic centre of {SAMPLES} (the paper's)"
MODE = "LocDiffusion, one pass, most probable mode"
EACH = "LocDiffusion, one pass, best place for each column"
RECIPE = f"LocDiffusion by the paper's recipe, geographic centre of {SAMPLES}"
REFINED = "LocDiffusion with refinement levels, best place for each column"
CHUNK = 64  # pictures at a time, of which the time is taken
PAPERS = {  # the paper's recipe, but for its l_max of 47, its learning rate and its number of steps
    name: PRESETS["paper"][name]
    for name in ("width", "depth", "time_dim", "dropout", "anchors", "whiten", "p_pure_noise", "loss", "temperature",
                 "exact_skip", "schedule", "snr_shift", "weight_decay", "ema")
}  # fmt: skip


def posteriors(model, embeddings):
    """Yield the position of the first picture and the posterior of as many as fit into the memory budget at a time."""
    size = getattr(model, "posterior_batch_size", CHUNK)
    for start in range(0, len(embeddings), size):
        yield start, model.posterior(embeddings[start : start + size])


def parts(data, settings):
    """Return the Embeddings to train on, those kept apart, and the Settings with what follows from the data: what
    `locdiff.train` does."""
    known, kept = split_validation(data.train, settings.training.validation, settings.training.seed)
    return known, kept, infer_data_fields(settings, known)


def locdiffusion_model(context, data, **differs):
    """Return the LocDiffusion model that `locdiff.train` makes of the data with the default settings, but for what
    `differs`, and what that took."""
    known, kept, settings = parts(data, data.settings(**differs))
    return context.trained(settings, data.key, known, kept)


def own_rate(context, data):
    """Return the learning rate at which LocDiffusion is best, see `best_rate`."""
    return best_rate(context, data, "locdiffusion", lambda _, config: LocDiffusion(config), data.settings())


def locdiffusion(context, data):
    """Return the LocDiffusion model trained on the data at its best learning rate, what that took, and its `samples`
    (n, SAMPLES, 2) and places (n, 2) or (n, thresholds, 2) for the test pictures."""
    lr = own_rate(context, data)
    model, cost = locdiffusion_model(context, data, lr=lr)

    def compute():
        mode, took = timed(lambda: predict_modes(model, data.embeddings))
        found = of_model(model, data)
        return found | {MODE: mode, "mode_ms": 1e3 * took / len(data.truth)}

    found = context.piece("locdiffusion-places", [*data.key, lr], compute)
    return model, cost | {"lr": lr}, found


def predict_modes(model, embeddings):
    """Return the most probable mode of each density (n, 2), an array."""
    return torch.cat([posterior.modes()[0][:, 0] for _, posterior in posteriors(model, embeddings)]).numpy()


def of_model(model, data, places=None):
    """Return what the posteriors of a model say of the test pictures; see `of_posteriors`."""
    return of_posteriors(posteriors(model, data.embeddings), data.truth, places)


def side_by_side(context, data):
    """Return what every method predicts for the test pictures, {method: arrays and numbers}; see `measures`.

    The second result tells of each picture whether its place lies within the hybrid's radius of one of LocDiffusion's
    samples, (n,).
    """
    model, cost, own = locdiffusion(context, data)
    found = {PRIOR: prior(context, data)} | searches(context, data)
    found |= {name: family(context, data, name, make) for name, make in FAMILIES.items()}
    found[RECIPE] = recipe(context, data)
    center = geographic_center(torch.from_numpy(own["samples"])).numpy()
    found[CENTER] = {"places": center} | cost
    found[MODE] = {"places": own[MODE], "ms": own["mode_ms"]} | cost
    found[EACH] = {name: own[name] for name in ("each", "log_prob", "rank", "samples", "ms")} | cost
    found[REFINED] = refined(context, data)
    samples = torch.from_numpy(own["samples"])

    def combined():
        rows = hybrid.predict_hybrid(model, data.embeddings, samples, *data.search(), data.truth)
        return {name: rows[name].numpy() for name in rows}

    piece = context.piece("hybrid", [*data.key, float(cost["lr"])], combined)
    found |= {name: {"places": piece[name]} for name in piece}
    distance = great_circle_km(samples.double(), data.truth[:, None])
    return found, (distance <= hybrid.RADIUS_KM).any(dim=1).numpy()


def prior(context, data):
    """Return what the density of the training locations alone says of the test pictures."""

    def compute():
        probs = prior_probs(data.train, data.settings().model.density_l_max)
        densities = PixelDensities(probs.expand(len(data.truth), -1))
        places = densest_place(probs).expand(len(data.truth), 2)
        found = of_posteriors([(0, densities)], data.truth, places)
        return found | {"places": places.numpy(), "ms": np.nan}

    return context.piece("prior", data.key, compute)


def searches(context, data):
    """Return what [L]kNN and retrieval predict: their places, and what the densities say that they make."""
    known, kept, settings = parts(data, data.settings())

    def compute(vo, places):
        probs = prior_probs(known, settings.model.density_l_max)
        queries, gallery = data.search() if not vo else (data.embeddings, data.train)
        if data.places is None or vo:
            gallery = known  # of which the pictures kept apart are no part
        unseen, truth = kept.batch(range(len(kept))) if kept else (None, None)
        if unseen is not None and not vo:
            unseen = data.queries(unseen)
        densities = GalleryDensities(gallery, probs, unseen, truth, vo)
        read_once = [(0, densities.posterior(queries))]
        return of_posteriors(read_once, data.truth, torch.from_numpy(places))

    def piece(name, vo, places):
        def both():
            found, took = timed(lambda: places().numpy())
            return compute(vo, found) | {"places": found, "ms": 1e3 * took / len(data.truth)}

        return context.piece(name, data.key, both)

    return {
        NEAREST: piece("kernel-density", True, lambda: kernel_density(data.embeddings, data.train)),
        RETRIEVAL: piece("retrieval", False, lambda: retrieval.retrieve(*data.search())),
    }


def best_rate(context, data, name, make, settings):
    """Return the learning rate of `scale.rates` at which make(train, config), trained for `scale.search` steps, is best
    by the pictures kept apart. Raises InputError if there are none, and several rates."""
    known, kept, settings = parts(data, settings)
    rates, search = data.scale.rates, data.scale.search
    if len(rates) == 1:
        return rates[0]
    if kept is None:
        raise InputError(f"{data.title}: no pictures can be kept apart to choose a learning rate by: add authors")

    def value(lr):
        short = override(settings, lr=lr, steps=search, warmup=min(settings.training.warmup, search // 4))
        try:
            return {"nats": trained(make, known, short, data.device, validation=kept).validation.nats}
        except InputError as error:  # it diverges
            print(f"{name} at a learning rate of {lr:g}: {error}", file=sys.stderr)
            return {"nats": -np.inf}

    values = [context.piece(f"{name}-{lr:g}", data.key, lambda lr=lr: value(lr))["nats"] for lr in rates]
    return rates[int(np.argmax(np.nan_to_num(values, nan=-np.inf)))]


def family(context, data, name, make):
    """Return what a family of methods predicts, trained at its best learning rate."""
    known, kept, settings = parts(data, data.settings())
    short = name.lower().replace(" ", "-")
    lr = best_rate(context, data, short, make, settings)

    def compute():
        model, cost = timed_training(make, known, override(settings, lr=lr), kept)
        places, took = timed(lambda: model.predict(data.embeddings))
        found = {}
        if hasattr(model, "posterior"):
            found = of_model(model, data, places)
        elif hasattr(model, "sample"):
            found["samples"] = model.sample(data.embeddings, SAMPLES).numpy()
        return found | {"places": places.numpy(), "ms": 1e3 * took / len(data.truth), "lr": lr} | cost

    return context.piece(short, data.key, compute)


def recipe(context, data):
    """Return what the paper's recipe predicts: its loss, schedule, network and number of sampling steps, at its best
    learning rate; the l_max and the number of training steps are those of the scale."""
    differs = PAPERS | {"sample_steps": data.scale.papers_steps}
    lr = best_rate(context, data, "recipe", lambda _, config: LocDiffusion(config), data.settings(**differs))
    model, cost = locdiffusion_model(context, data, **differs, lr=lr)

    def compute():
        found = of_model(model, data)
        places = geographic_center(torch.from_numpy(found["samples"])).numpy()
        return found | {"places": places, "lr": lr, "ms": np.nan}  # the time is of the best places, not of the samples

    return context.piece("recipe", data.key, compute) | cost


def refined(context, data):
    """Return what LocDiffusion with refinement levels predicts, at the learning rate that is best for one level."""
    lr = own_rate(context, data)
    model, cost = locdiffusion_model(context, data, levels=data.scale.levels, lr=lr)
    return context.piece("refined", [*data.key, lr], lambda: of_model(model, data)) | cost | {"lr": lr}


def joined(folds):
    """Return the predictions {method: arrays and numbers} of several folds as one: pictures one after another, costs in
    the mean."""
    found = {}
    for method in folds[0]:
        parts = {name: [fold[method][name] for fold in folds] for name in folds[0][method]}
        found[method] = {name: np.mean(v) if name in COSTS else np.concatenate(v) for name, v in parts.items()}
        if len(set(map(float, parts.get("lr", ())))) > 1:
            found[method]["lr"] = np.nan  # a mean would be a rate that no fold was trained at
    return found


def within(places, truth):
    """Return whether places (n, 2) or (n, thresholds, 2) are within each threshold of the truth (n, 2):
    (n, thresholds)."""
    return hits(torch.as_tensor(places), truth).numpy()
