"""A simulation of photographs: places, seen through GeoCLIP's location encoder and noise."""

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
import torch

from locdiff.data.embeddings import write_embeddings, write_locations
from locdiff.data.geoclip import SIMULATION, GeoClip, embed_places, gallery_places
from locdiff.data.places import read_places
from locdiff.errors import InputError
from locdiff.files import build_once, cached
from locdiff.options import option


@dataclass(frozen=True)
class Simulation:
    """Where and how noisy."""

    truth: str = option("", "csv file of the test places; none: held-out places of GeoCLIP's gallery")
    train_places: int = option(90_000, "places of GeoCLIP's gallery to train on")
    test_places: int = option(5_000, "other places of it to test on, where `truth` is not given")
    draws: int = option(4, "pictures of each training place")
    noise: float = option(5.5, "standard deviation of the noise, times sqrt(512)")
    data_seed: int = option(0, "seed of the choice of places and of the noise")


def simulated_pictures(gallery, draws, noise, generator):
    """Return embeddings (n * draws, 512) of mean square one for the places of a gallery (Embeddings), `draws` for each.

    The location embedding, a unit vector, plus independent normal noise of standard deviation noise / sqrt(512).
    """
    places = torch.from_numpy(np.array(gallery.embeddings[gallery.rows])).repeat_interleave(draws, dim=0)
    noisy = places + noise / math.sqrt(places.shape[1]) * torch.randn(places.shape, generator=generator)
    return math.sqrt(places.shape[1]) * torch.nn.functional.normalize(noisy, dim=-1)


def simulation(settings, folder=None, progress=True):
    """Return the folder of the simulated data, with train/, test/ and gallery.csv; built on first use and kept.

    All training pictures of a place have one author, so that validation keeps apart whole places.

    gallery.csv holds GeoCLIP's gallery, without the places that are held out of it to test on. No place is both for
    training and for testing. InputError for settings that ask for more places than there are.
    """
    if min(settings.train_places, settings.test_places, settings.draws) < 1 or not 0 <= settings.noise < math.inf:
        raise InputError("train_places, test_places and draws must be at least 1, and noise finite and at least 0")
    truth = read_places(settings.truth).lat_lon if settings.truth else np.empty((0, 2))
    if settings.truth and not len(truth):
        raise InputError(f"{settings.truth} holds no places")
    folder = folder or cached("simulation", settings, truth.tobytes())
    if folder.exists():
        return folder
    places = gallery_places("mp16")
    generator = torch.Generator().manual_seed(settings.data_seed)
    places = places[torch.randperm(len(places), generator=generator)]
    test = torch.from_numpy(truth) if settings.truth else places[: settings.test_places]
    held_out = set(map(tuple, test.tolist()))  # some places are in it several times
    others = places[[place not in held_out for place in map(tuple, places.tolist())]]
    if settings.train_places > len(others):
        raise InputError(
            f"GeoCLIP's gallery has {len(others):,} places other than those to test on, asked for were "
            f"{settings.train_places:,} to train on: lower --train-places"
        )
    train, gallery, geoclip = others[: settings.train_places], places if settings.truth else others, GeoClip()

    def build(unfinished):
        pictures = simulated_pictures(embed_places(train, geoclip, progress), settings.draws, settings.noise, generator)
        _, place = torch.unique(train, dim=0, return_inverse=True)
        authors = [f"place {i}" for i in place.repeat_interleave(settings.draws).tolist()]
        lat_lon = train.repeat_interleave(settings.draws, dim=0)
        write_embeddings(unfinished / "train", pictures, lat_lon, SIMULATION, authors)
        pictures = simulated_pictures(embed_places(test, geoclip, progress), 1, settings.noise, generator)
        write_embeddings(unfinished / "test", pictures, test, SIMULATION)
        write_locations(unfinished / "gallery.csv", gallery)
        (unfinished / "settings.json").write_text(json.dumps(dataclasses.asdict(settings), indent=2) + "\n")

    return build_once(folder, build)
