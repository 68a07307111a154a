"""Score a run on its held-out pictures, or anybody's predictions.

python -m locdiff.evaluate RUN                                  the table that training ends with, again
python -m locdiff.evaluate RUN --data FOLDER                    on the embeddings and places in FOLDER
python -m locdiff.evaluate RUN --hybrid                         also with retrieval from the training pictures
python -m locdiff.evaluate RUN --hybrid --gallery mp16          also with GeoCLIP; needs locdiffusion[geoclip]
python -m locdiff.evaluate --predictions P.csv --truth T.csv    csv files with id, lat, lon
"""

import dataclasses
import json
import math
import time
from pathlib import Path

import healpy
import numpy as np
import torch
from tqdm import tqdm

from locdiff import cli, datasets, decoder, density, maps, metrics
from locdiff.cli import InputError
from locdiff.coordinates import geographic_center, great_circle_km
from locdiff.gallery import (
    GeoClip,
    embed_places,
    gallery_places,
    retrieve,
    retrieve_by_density,
    retrieve_near,
    weigh_hills,
)
from locdiff.layouts import read_places
from locdiff.model import CHUNK, CHUNK_HELP, LocDiffusion, derive_seed, write_atomically
from locdiff.processes import pick_device
from locdiff.train import load_data, read_settings, versions

SHOWN, ZOOMED = 8, 4  # pictures in predictions.png, and in zooms.png
PIXELS = 2**23  # pictures x pixels at a time
PLAIN_GALLERY = 21_000
RADIUS_KM = 200  # of the retrieval around candidates (paper section 5.2)
HILLS = 16
NEAR_SAMPLES = f"LocDiffusion + retrieval within {RADIUS_KM} km of its {{}} samples (the paper's)"
WEIGHED_HILLS = f"LocDiffusion + retrieval, its {HILLS} most probable hills weighed by the nearest pictures"
WEIGHTED = "LocDiffusion + retrieval, density times retrieval score"
PLAIN_GRID_NSIDE = 78  # 73,008 pixels, of which about 21,000 lie on land


def medoid(lat_lon):
    """Of n places, the one with the least sum of distances to the others: (..., n, 2) -> (..., 2)."""
    total = great_circle_km(lat_lon[..., :, None, :], lat_lon[..., None, :, :]).sum(dim=-1)
    return lat_lon.gather(-2, total.argmin(dim=-1)[..., None, None].expand(*lat_lon.shape[:-2], 1, 2)).squeeze(-2)


def predict_all(model, embeddings, truth, samples=16, seed=0, progress=True):
    """What every summary of the model predicts for embeddings (n, d), and what its densities are worth, as tensors:

    `samples` (n, samples, 2); `mean` and `mode`, the exact mode of the samples' mean density and the top of the most
    probable hill of the one-pass density, (n, 2); `mean, each` and `each`, the best places of these two within each
    threshold, (n, thresholds, 2); `mass` (n, thresholds), what the one-pass density gives the caps around the truth
    (n, 2); `calibration` (n, 5); and `density` (m, N) of the first SHOWN.
    """
    parts, size = [], max(1, min(model.chunk // samples, PIXELS // len(model.anchors), model.answers))
    description = f"{samples} samples a picture, {model.config.sample_steps} steps"
    for start in tqdm(range(0, len(embeddings), size), description, disable=not progress, leave=False):
        chunk, places = embeddings[start : start + size], truth[start : start + size]
        coeffs = model.sample(chunk, samples, seed=seed, first=start)
        answer = model.answer(chunk)
        mean, tops = coeffs.mean(dim=1), answer.modes()[0][:, 0]
        parts.append({
            "samples": model.refine(answer, model.decode(coeffs), seed, start),
            "mean": decoder.exact_mode(mean)[0],
            "mean, each": best_within_each(mean, None),
            "mode": tops,
            "each": torch.stack([place for place, _ in answer.best_within(tops).values()], dim=1),
            "mass": answer.mass_within(places),
            "calibration": calibration(answer.shares, answer.log_likelihood(places), places),
            "density": answer.shares[: max(0, SHOWN - start)].clone(),
        })  # fmt: skip
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def score_model(model, found, truth):
    """Scores of the model's summaries, {row name: score dict}, from what `predict_all` found for the places (n, 2)."""
    places, steps = found["samples"], model.config.sample_steps
    samples, mass = places.shape[1], found["mass"]
    mean = f"LocDiffusion, mean density of {samples}" + " (first level alone)" * bool(model.deeper)
    sampler = (
        "DPM-Solver++" if model.config.solver == "dpm++" else "DDIM" if steps < model.config.noise_levels else "DDPM"
    )
    return {
        f"LocDiffusion, one sample ({sampler}, {steps} step{'s' * (steps > 1)})":
            metrics.score(places.flatten(0, 1), truth.repeat_interleave(samples, dim=0)),
        "LocDiffusion, one sample: chance the one-pass density gives it":
            {"accuracy": dict(zip(metrics.THRESHOLDS_KM, (100 * mass.mean(dim=0)).tolist(), strict=True))},
        f"LocDiffusion, geographic centre of {samples} (the paper's)": metrics.score(geographic_center(places), truth),
        f"LocDiffusion, medoid of {samples}": metrics.score(medoid(places), truth),
        mean: metrics.score(found["mean"], truth),
        f"{mean}, best place for each column": metrics.score_each(found["mean, each"], truth),
        "LocDiffusion, one-pass density, top of its most probable hill": metrics.score(found["mode"], truth),
        "LocDiffusion, one-pass density, best place for each column": metrics.score_each(found["each"], truth),
    }  # fmt: skip


def predict_hybrid(model, embeddings, samples, queries, gallery, truth, seed=0, progress=True):
    """LocDiffusion and retrieval together, {row name: places (n, 2)}.

    embeddings (n, d) and the `samples` (n, S, 2) that the model draws for them; queries (n, d') and the gallery
    (Embeddings) they are searched in. The weight of the retrieval against the density, or of the nearest pictures, is
    chosen on the other half of the pictures, the halves being drawn at random; see `choose_weight`.
    """
    parts = []
    for start in range(0, len(embeddings), model.answers):
        chunk = slice(start, start + model.answers)
        answer = model.answer(embeddings[chunk])
        hills, probability = answer.modes(HILLS)
        search = (queries[chunk], gallery)
        parts.append((
            retrieve_near(*search, samples[chunk], RADIUS_KM, progress),
            torch.cat([weigh_hills(*search, hills, probability, progress=progress), hills[None, :, 0]]).transpose(0, 1),
            retrieve_by_density(*search, answer.log_density, progress=progress).transpose(0, 1),
        ))  # fmt: skip
    near_samples, weighed, weighted = (torch.cat(part) for part in zip(*parts, strict=True))
    return {
        NEAR_SAMPLES.format(samples.shape[1]): near_samples,
        WEIGHED_HILLS: choose_weight(weighed, truth, seed),
        WEIGHTED: choose_weight(weighted, truth, seed),
    }


def choose_weight(weighted, truth, seed=0):
    """Of the predictions by several weights, (n, weights, 2) -> (n, 2), those by the weight best on the other half.

    What counts is the mean accuracy over the thresholds. The last, one part of the hybrid alone, is kept unless another
    is better by more than the standard error of the difference: the other part must have shown that it helps.
    """
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(derive_seed(seed, 2)))
    right = torch.stack([metrics.hits(p, truth).double().mean(dim=-1) for p in weighted.unbind(1)], dim=-1)
    gain, chosen = right - right[:, -1:], torch.empty(len(truth), 2, dtype=torch.float64)  # (n, weights)
    halves = order.tensor_split(2)
    for half, other in (halves, halves[::-1]):
        best, helps = -1, False
        if len(other) > 1:
            mean, error = gain[other].mean(dim=0), gain[other].std(dim=0) / math.sqrt(len(other))
            best = int(mean.argmax())
            helps = mean[best] > error[best]
        chosen[half] = weighted[half, best if helps else -1]
    return chosen


def best_within_each(coeffs, nside):
    """The most probable place within each threshold, (n, thresholds, 2); see `decoder.best_within`."""
    top, _ = decoder.exact_mode(coeffs, nside)
    return torch.stack([decoder.best_within(coeffs, k, nside, top)[0] for k in metrics.THRESHOLDS_KM], dim=1)


CALIBRATION = ("nats_over_uniform", "in_region_50", "in_region_90", "area_50_km2", "area_90_km2")


def calibration(shares, log_likelihood, truth):
    """What each density is worth, (n, 5): its log-likelihood of the truth over that of the uniform density, whether the
    truth lies in its 50 % and 90 % regions, and their areas."""
    pixel = healpy.ang2pix(healpy.npix2nside(shares.shape[1]), *truth.flip(-1).T.numpy(), lonlat=True)
    masks, areas = density.regions(shares)
    inside = masks[torch.arange(len(truth)), :, torch.from_numpy(pixel)]
    return torch.cat([log_likelihood[:, None] + math.log(4 * math.pi), inside, areas], dim=-1)


def score_baselines(embeddings, truth, train, seed=0, progress=True):
    """Scores of retrieval by cosine over galleries, and of a random training place: {row name: score dict}."""
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))  # not the places of the training data
    galleries = {"training pictures": train}
    if train.encoder == datasets.THUMBNAIL_ENCODER:
        random_land = datasets.random_land(PLAIN_GALLERY, generator)
        galleries["plain views of random land"] = datasets.plain_views(random_land, progress)
        galleries["plain views on a HEALPix grid"] = datasets.plain_views(
            datasets.healpix_land(PLAIN_GRID_NSIDE), progress
        )
    rows = {
        f"Retrieval, gallery of {len(gallery):,} {name}": retrieve(embeddings, gallery, progress)
        for name, gallery in galleries.items()
    }
    chance = torch.randint(len(train), (len(truth),), generator=generator)
    rows["Chance: the place of a random training picture"] = torch.from_numpy(train.lat_lon)[chance]
    return {name: metrics.score(lat_lon, truth) for name, lat_lon in rows.items()}


def open_gallery(name, embeddings, train, test, device, progress=True):
    """What the hybrid searches: queries (n, d') for embeddings (n, d), and a gallery (Embeddings).

    The gallery is the training pictures, or, with a `name`, places embedded by GeoCLIP; see `gallery.gallery_places`.
    """
    if not name:
        return embeddings, train
    geoclip = GeoClip().to(device)
    queries = geoclip.queries(embeddings.to(device), test.encoder)
    return queries, embed_places(gallery_places(name), geoclip, progress)


def report(run, model, train, test, settings, source=None, hybrid=False, gallery=None, progress=True):
    """Evaluate, print the table, and write metrics.json, metrics.md and predictions.png into the run folder.

    `source` names an embeddings folder other than the run's own held-out pictures; the file names then carry its name.
    `hybrid` adds rows of LocDiffusion with retrieval, from the training pictures or a `gallery` of places.
    """
    started, t = time.monotonic(), settings.training
    if not len(test):
        raise InputError(f"{source or t.data} holds no pictures to score on")
    embeddings, truth = test.batch(range(len(test)))
    search = hybrid and open_gallery(gallery, embeddings, train, test, model.alpha_bar.device, progress)
    found = predict_all(model, embeddings, truth, t.samples, t.seed, progress)
    rows = score_model(model, found, truth) | score_baselines(embeddings, truth, train, t.seed, progress)
    if hybrid:
        places = predict_hybrid(model, embeddings, found["samples"], *search, truth, t.seed, progress)
        if gallery:
            places[f"Retrieval by GeoCLIP, gallery of {len(search[1]):,} places"] = retrieve(*search, progress)
        rows |= {name: metrics.score(lat_lon, truth) for name, lat_lon in places.items()}
    worth = dict(zip(CALIBRATION, found["calibration"].double().mean(dim=0).tolist(), strict=True))
    data = source or t.data or f"Blue Marble satellite views ({dataclasses.asdict(settings.blue_marble)})"
    record = {
        "rows": rows, "one_pass_density": worth, "data": data, "gallery": gallery,
        "held_out": len(test), "training_pictures": len(train), "seed": t.seed,
        "settings": dataclasses.asdict(settings), "versions": versions(), "device": str(model.alpha_bar.device),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    text = f"Per cent within k km, {len(test):,} held-out pictures. Data: {data}. Seed {t.seed}.\n\n"
    text += metrics.table(rows) + "\n\n"
    text += (
        f"The one-pass density gives the true place {worth['nats_over_uniform']:.2f} nats more than the uniform one. "
        f"Its 50 % and 90 % regions hold the truth of {100 * worth['in_region_50']:.1f} and "
        f"{100 * worth['in_region_90']:.1f} % of the pictures; their mean areas are "
        f"{worth['area_50_km2'] / 1e6:.2f} and {worth['area_90_km2'] / 1e6:.2f} million km^2.\n"
    )
    suffix = f"-{Path(source).resolve().name}" if source else ""
    outputs = [run / f"metrics{suffix}.json", run / f"metrics{suffix}.md", run / f"predictions{suffix}.png"]
    write_atomically(outputs[0], lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    write_atomically(outputs[1], lambda path: path.write_text(text))
    print(text)
    pictures = datasets.thumbnail_pictures(embeddings[:SHOWN]) if test.encoder == datasets.THUMBNAIL_ENCODER else None
    places, samples, density = found["mode"][:SHOWN], found["samples"][:SHOWN], found["density"]
    maps.draw_predictions(outputs[2], model.anchors, places, density, samples, truth[:SHOWN], pictures)
    if model.deeper:
        outputs.append(run / f"zooms{suffix}.png")
        shown = [p[:ZOOMED] for p in (found["mode"], truth)]
        maps.draw_zooms(outputs[-1], model.answer(embeddings[:ZOOMED]), *shown, pictures)
    print("written: " + ", ".join(map(str, outputs)))
    return rows


def score_files(predictions, truth):
    """Score predictions.csv against truth.csv, matched by id; a true place without a usable prediction is a miss."""
    guesses, true = read_places(predictions, missing_is_nan=True), read_places(truth)
    ids, places, true_ids, true_places = guesses.ids, guesses.lat_lon, true.ids, true.lat_lon
    if not true_ids:
        raise InputError(f"{truth} holds no places")
    found = dict(zip(ids, places, strict=True))
    unknown = sorted(set(ids) - set(true_ids))
    if len(unknown) == len(ids):
        raise InputError(f"no id of {predictions} stands in {truth}; the first is {ids[0] if ids else '(none)'}")
    if unknown:
        print(f"{len(unknown)} predictions have no true place and are left out, the first is {unknown[0]}")
    matched = np.stack([found.get(i, np.full(2, np.nan)) for i in true_ids])
    return {Path(predictions).name: metrics.score(torch.from_numpy(matched), torch.from_numpy(true_places))}


def main(argv=None):
    parser = cli.Parser(prog="python -m locdiff.evaluate", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--data", help="embeddings folder to score on (default: what the run held out)")
    parser.add_argument("--samples", type=int, help="samples a picture (default: the run's)")
    parser.add_argument("--chunk", type=int, default=CHUNK, help=f"{CHUNK_HELP} (default {CHUNK})")
    parser.add_argument("--seed", type=int, help="seed of the samples (default: the run's)")
    parser.add_argument("--hybrid", action="store_true", help="also combine the model with retrieval")
    parser.add_argument(
        "--gallery",
        help="places that --hybrid retrieves from by GeoCLIP: mp16 (its own 100,000), grid:N (HEALPix, about N), "
        "latlon:N, or a csv file with id, lat, lon; default: the training pictures, by their embeddings",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="csv of predicted places: id, lat, lon")
    parser.add_argument("--truth", type=Path, metavar="FILE", help="csv of true places: id, lat, lon")
    arguments = parser.parse_args(argv)
    if arguments.predictions or arguments.truth:
        if arguments.run or not (arguments.predictions and arguments.truth):
            parser.error("--predictions and --truth go together, without RUN")
        print(metrics.table(score_files(arguments.predictions, arguments.truth)))
        return
    if not arguments.run:
        parser.error("give the folder of a training run, or --predictions and --truth")
    if arguments.chunk < 1:
        parser.error("--chunk must be at least 1")
    if arguments.gallery and not arguments.hybrid:
        parser.error("--gallery says where --hybrid retrieves from; add --hybrid")
    settings = read_settings(arguments.run)
    changes = {k: v for k, v in vars(arguments).items() if k in ("samples", "seed") and v is not None}
    settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))
    model = LocDiffusion.load(arguments.run, pick_device(arguments.device))
    model.chunk = arguments.chunk
    train, test = load_data(settings)
    if arguments.data:
        test = datasets.read_embeddings(arguments.data)
    model.check_encoder(test.encoder)
    report(arguments.run, model, train, test, settings, arguments.data, arguments.hybrid, arguments.gallery)


if __name__ == "__main__":
    cli.run(main)
