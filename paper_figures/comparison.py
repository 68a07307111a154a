"""The comparison behind Tables 1 and 2 and Figure 5: every family of methods on the same embeddings, trained alike."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from context import timed_training
from methods.families import FAMILIES
from methods.knn import kernel_density
from scipy.spatial import cKDTree

from locdiff.data.blue_marble import BlueMarble, blue_marble
from locdiff.data.embeddings import train_and_test
from locdiff.data.geoclip import GeoClip, embed_places, gallery_places, geoclip_takes
from locdiff.data.simulated import Simulation, simulation
from locdiff.evaluation import hybrid, retrieval, summaries
from locdiff.evaluation.metrics import hits
from locdiff.memory import batch_size
from locdiff.sphere.coordinates import geographic_center, great_circle_km, to_unit_vector
from locdiff.sphere.decoder import synthesis_at
from locdiff.training.distributed import pick_device
from locdiff.training.settings import PRESETS, infer_data_fields, resolve

SAMPLES = 16
RETRIEVAL = "Retrieval"
NEAREST = "[L]kNN with kernel density"
CENTER = f"LocDiffusion, geographic centre of {SAMPLES} (the paper's)"
MODE = "LocDiffusion, one pass, most probable mode"
EACH = "LocDiffusion, one pass, best place for each column"
PAPERS_NETWORK = {  # where the quickstart's differs
    "depth": 6, "whiten": 0.0, "p_pure_noise": 0.0, "lr": 5e-4, "sample_steps": 10,
}  # fmt: skip
STRONG = {"rotation": 45.0, "scale": 1.33, "color": 0.2}


@dataclass(frozen=True)
class Experiment:
    """How large a table of trainings is."""

    training: dict  # settings that differ from the quickstart's
    pictures: int  # to test on, at most
    blue_marble: BlueMarble = field(default_factory=BlueMarble)
    seeds: tuple = (0,)


@dataclass(frozen=True)
class Scale:
    """How large the comparison is. Every model is trained for `steps` batches of 256 or what `training` says."""

    steps: int
    pictures: int  # to test on, at most
    training: dict  # settings that differ from the quickstart's
    blue_marble: BlueMarble
    simulation: Simulation
    gallery: int = 100_000  # places of the simulation's gallery
    grids: tuple = (1_000_000, 500_000, 100_000, 21_000)


SCALES = {
    "smoke": Scale(
        20, 40, {**PRESETS["smoke"], "sample_steps": 2}, BlueMarble(400, 40, **STRONG),
        Simulation(train_places=400, test_places=40, draws=1), 2_000, (4_000, 2_000, 1_000, 200),
    ),
    "cpu": Scale(300, 1_000, {}, BlueMarble(**STRONG), Simulation()),
    "paper": Scale(
        200_000, 10**9, {"l_max": 47, "width": 512, "batch": 512}, BlueMarble(1_000_000, 5_000, **STRONG),
        Simulation(draws=50),
    ),
}  # fmt: skip


class Pictures:
    """Pictures to train and to test on, in an embeddings folder; `scale` has the number of `pictures` to test on at
    most, and as `training` the settings that differ from the quickstart's."""

    def __init__(self, folder, scale):
        self.folder, self.scale, self.device = Path(folder), scale, pick_device()
        self.train, test = train_and_test(folder, 0)
        self.test = test.subset(np.linspace(0, len(test) - 1, min(len(test), scale.pictures)).astype(int))
        self.embeddings, self.truth = self.test.batch(range(len(self.test)))

    def settings(self, **differs):
        """Return the Settings of a model that `differs` so."""
        return infer_data_fields(resolve(**PAPERS_NETWORK | self.scale.training | differs), self.train)

    def about(self):
        """Return what there is, in a sentence."""
        settings = self.settings()
        training, model = settings.training, settings.model
        seeds = ", ".join(map(str, getattr(self.scale, "seeds", (0,))))
        return (
            f"{len(self.train):,} pictures to train on, {len(self.test):,} to test on, embeddings by "
            f"{self.train.encoder}; {training.steps:,} steps of {training.batch}, learning rate {training.lr:g}; l_max "
            f"{model.network.l_max} where no other is named; {model.sample_steps} sampling steps; seeds {seeds}."
        )


def pictures(context, scale):
    """Return the user's pictures or, without --data, the scale's Blue Marble views."""
    return Pictures(context.data or blue_marble(scale.blue_marble), scale)


class Data(Pictures):
    """A data set of the comparison, and what retrieval searches in.

    `places` (m, 2) are those of a gallery embedded by GeoCLIP; without them the training pictures are the gallery.
    """

    def __init__(self, title, folder, scale, places=None):
        super().__init__(folder, scale)
        self.title, self.places = title, places
        self.key = [title, str(folder), dataclasses.asdict(scale)]

    def settings(self):
        """Return the Settings of every model."""
        return super().settings(steps=self.scale.steps)

    def search(self, places=None):
        """Return the queries of the test pictures and the gallery (Embeddings) they are searched in: that of `places`
        (m, 2), where given, else the data's own."""
        places = self.places if places is None else places
        if places is None:
            return self.embeddings, self.train
        geoclip = GeoClip().to(self.device)
        queries = geoclip.queries(self.embeddings.to(self.device), self.test.encoder)
        return queries, embed_places(places, geoclip)

    def about(self):
        """Return what there is, and what is searched."""
        if self.places is None:
            searched = f"the {len(self.train):,} training pictures by their embeddings"
        else:
            searched = f"GeoCLIP's embeddings of {len(self.places):,} places"
        return f"{super().about()} Retrieval searches {searched}."


def jittered_views(context):
    """Return the Blue Marble views, strongly jittered."""
    scale = SCALES[context.scale]
    return Data("Blue Marble satellite views, strong jitter", blue_marble(scale.blue_marble), scale)


def simulated(context, scale=None):
    """Return the simulation; its test places are those of Im2GPS3k where the user has the file."""
    scale = scale or SCALES[context.scale]
    folder = simulation(dataclasses.replace(scale.simulation, truth=context.im2gps3k))
    places = "the places of Im2GPS3k" if context.im2gps3k else "held-out places of GeoCLIP's gallery"
    title = f"Simulation: location embeddings of {places} with noise instead of pictures"
    return Data(title, folder, scale, gallery_places(folder / "gallery.csv")[: scale.gallery])


def own(context, scale=None):
    """Return the user's embeddings folder; embeddings that GeoCLIP takes are searched for in its gallery."""
    data = Data(f"Pictures of {Path(context.data).name}", context.data, scale or SCALES[context.scale])
    if geoclip_takes(data.test.encoder):
        data.places = gallery_places("mp16")
    return data


def data_sets(context):
    """Return the data sets of Table 1: the embedded two, or the user's."""
    return [own(context)] if context.data else [jittered_views(context), simulated(context)]


def posteriors(model, embeddings):
    """Yield the position of the first picture and the posterior of as many as fit into the memory budget at a time."""
    for start in range(0, len(embeddings), model.posterior_batch_size):
        yield start, model.posterior(embeddings[start : start + model.posterior_batch_size])


def locdiffusion(context, data):
    """Return the LocDiffusion model trained on the data, what that took, and its `samples` (n, SAMPLES, 2) and places
    (n, 2) or (n, thresholds, 2) for the test pictures."""
    model, cost = context.trained(data.settings(), data.folder)

    def compute():
        found = summaries.predict_all(model, data.embeddings, data.truth, SAMPLES)
        center = geographic_center(found["samples"])
        places = {"samples": found["samples"], CENTER: center, MODE: found["mode"], EACH: found["each"]}
        return {name: place.numpy() for name, place in places.items()}

    return model, cost, context.piece("locdiffusion-places", data.key, compute)


def predictions(context, data):
    """Return what every method predicts for the test pictures: {method: {"places": (n, 2) or (n, thresholds, 2), ...}}.

    Trained methods also say how long that took ("seconds") and how large they are ("parameters"). The second result
    tells of each picture whether its place lies within the hybrid's radius of one of LocDiffusion's samples, (n,).
    """

    def kept(name, places):
        return context.piece(name, data.key, lambda: {"places": places().numpy()})

    found = {NEAREST: kept("kernel-density", lambda: kernel_density(data.embeddings, data.train))}
    for name, make in FAMILIES.items():

        def family(make=make):
            model, cost = timed_training(make, data.train, data.settings())
            return {"places": model.predict(data.embeddings).numpy()} | cost

        found[name] = context.piece(name.split()[0].lower(), data.key, family)
    found[RETRIEVAL] = kept("retrieval", lambda: retrieval.retrieve(*data.search()))
    model, cost, places = locdiffusion(context, data)
    found |= {name: {"places": places[name]} | cost for name in (CENTER, MODE, EACH)}
    samples = torch.from_numpy(places["samples"])

    def combined():
        rows = hybrid.predict_hybrid(model, data.embeddings, samples, *data.search(), data.truth)
        return {name: rows[name].numpy() for name in rows}

    piece = context.piece("hybrid", data.key, combined)
    found |= {name: {"places": piece[name]} for name in piece if name.startswith("LocDiffusion")}
    distance = great_circle_km(samples.double(), data.truth[:, None])
    return found, (distance <= hybrid.RADIUS_KM).any(dim=1).numpy()


def within(places, truth):
    """Return whether places (n, 2) or (n, thresholds, 2) are within each threshold of the truth (n, 2):
    (n, thresholds)."""
    return hits(torch.as_tensor(places), truth).numpy()


def densest_anchor(coeffs, anchors, device):
    """Return of the anchors (N, 2) the one where each density (n, D), given by natural parameters, is largest: (n, 2).

    Many anchors take several turns.
    """
    chunks = anchors.double().split(batch_size(16 * len(coeffs)))
    found = [synthesis_at(coeffs.to(device), chunk.to(device)).max(dim=-1) for chunk in chunks]
    best = torch.stack([value for value, _ in found]).argmax(dim=0).cpu()
    places = torch.stack([chunk[index.cpu()] for chunk, (_, index) in zip(chunks, found, strict=True)])
    return places[best, torch.arange(len(best))]


def center_at_anchors(samples, anchors):
    """Return the paper's prediction with these anchors (N, 2): the geographic center of the samples (n, S, 2), each
    decoded to the nearest anchor, which is where the density of a single place is largest; (n, 2)."""
    tree = cKDTree(to_unit_vector(anchors).numpy())
    return geographic_center(anchors[tree.query(to_unit_vector(samples.double()).numpy())[1]])
