"""The data that the artefacts compare on, and how large the comparison of Tables 1 and 2 is."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from locdiff.data.blue_marble import BlueMarble, blue_marble
from locdiff.data.embeddings import Embeddings, read_embeddings, train_and_test
from locdiff.data.geoclip import GeoClip, embed_places, gallery_places, geoclip_takes
from locdiff.data.place_names import PlaceNames, place_names
from locdiff.data.simulated import Simulation, simulation
from locdiff.errors import InputError
from locdiff.training.distributed import pick_device
from locdiff.training.settings import PRESETS, infer_data_fields, resolve

PAPERS_NETWORK = {  # where the quickstart's differs
    "depth": 6, "whiten": 0.0, "p_pure_noise": 0.0, "lr": 5e-4, "sample_steps": 10,
}  # fmt: skip
STRONG = {"rotation": 45.0, "scale": 1.33, "color": 0.2}
FOLDS = 5  # of photographs, by author
VIEWS, NAMES = "Blue Marble satellite views", "Place names of GeoNames"


@dataclass(frozen=True)
class Experiment:
    """How large a table of trainings is."""

    training: dict  # settings that differ from the quickstart's
    pictures: int  # to test on, at most
    blue_marble: BlueMarble = field(default_factory=BlueMarble)
    seeds: tuple = (0,)


@dataclass(frozen=True)
class Scale:
    """How large the comparison is. Every model is trained for `steps` batches or what `training` says.

    A family of methods is first trained for `search` steps at each of the learning `rates`; it takes the rate that the
    pictures kept apart find best. With one rate there is no search.
    """

    steps: int
    pictures: int  # to test on, at most
    training: dict  # settings that differ from the quickstart's
    blue_marble: BlueMarble
    simulation: Simulation
    gallery: int = 100_000  # places of the simulation's gallery
    grids: tuple = (1_000_000, 500_000, 100_000, 21_000)
    names: PlaceNames | None = None  # without them there are no names
    rates: tuple = (1e-3,)
    search: int = 0
    papers_steps: int = 10  # sampling steps of the paper's recipe
    levels: int = 3  # of LocDiffusion with refinement


SMOKE = {key: value for key, value in PRESETS["smoke"].items() if key not in ("train_views", "test_views")}
SCALES = {
    "smoke": Scale(
        20, 40, SMOKE | {"sample_steps": 1, "validation": 0.1}, BlueMarble(400, 40, **STRONG),
        Simulation(train_places=400, test_places=40, draws=1), 2_000, (4_000, 2_000, 1_000, 200),
        rates=(1e-3, 3e-3), search=5, papers_steps=2, levels=2,
    ),
    "cpu": Scale(300, 1_000, {}, BlueMarble(**STRONG), Simulation()),
    "full": Scale(
        1_000, 1_000, {}, BlueMarble(**STRONG), Simulation(), names=PlaceNames(),
        rates=(3e-4, 1e-3, 3e-3), search=100, papers_steps=100,
    ),
    "paper": Scale(
        200_000, 10**9, {"l_max": 47, "width": 512, "batch": 512}, BlueMarble(1_000_000, 5_000, **STRONG),
        Simulation(draws=50), rates=(3e-4, 1e-3, 3e-3), search=10_000, papers_steps=100,
    ),
}  # fmt: skip


class Pictures:
    """Pictures to train and to test on, in an embeddings folder, under a title; `scale` has the number of `pictures` to
    test on at most, and as `training` the settings that differ from the quickstart's."""

    def __init__(self, title, folder, scale, parts=None):
        self.title, self.folder, self.scale, self.device = title, Path(folder), scale, pick_device()
        self.train, test = parts or train_and_test(folder, 0)
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
            f"{len(self.train):,} {self.train.kind} to train on, {len(self.test):,} to test on, embeddings by "
            f"{self.train.encoder}; {training.steps:,} steps of {training.batch}, learning rate {training.lr:g}; l_max "
            f"{model.network.l_max} where no other is named; {model.sample_steps} sampling steps; seeds {seeds}."
        )


def pictures(context, scale):
    """Return the user's pictures or, without --data, the scale's Blue Marble views."""
    if context.data:
        return Pictures(f"Pictures of {Path(context.data).name}", context.data, scale)
    return Pictures(f"{VIEWS}, mild jitter", blue_marble(scale.blue_marble), scale)


def pictures_and_names(context, scale):
    """Return the data sets of a table of trainings: `pictures` and, without --data, the place names if the context's
    scale has them."""
    found = [pictures(context, scale)]
    if not context.data and has("names", context):
        found.append(Pictures(NAMES, place_names(SCALES[context.scale].names), scale))
    return found


class Data(Pictures):
    """A data set of the comparison, and what retrieval searches in.

    `places` (m, 2) are those of a gallery embedded by GeoCLIP; without them the training pictures are the gallery.
    `fold` tells the parts of one folder apart.
    """

    def __init__(self, title, folder, scale, places=None, parts=None, fold=0):
        super().__init__(title, folder, scale, parts)
        self.places = places
        self.key = [title, str(folder), dataclasses.asdict(scale), fold]

    def settings(self, **differs):
        """Return the Settings of a model that `differs` so from the quickstart; whitening is still to be chosen."""
        return resolve(**self.scale.training | {"steps": self.scale.steps} | differs)

    def search(self, places=None):
        """Return the queries of the test pictures and the gallery (Embeddings) they are searched in: that of `places`
        (m, 2), where given, else the data's own."""
        places = self.places if places is None else places
        if places is None:
            return self.embeddings, self.train
        return self.queries(self.embeddings), embed_places(places, GeoClip().to(self.device))

    def queries(self, embeddings):
        """Return what embeddings (n, d) are searched by: themselves, or what GeoCLIP makes of them."""
        if self.places is None:
            return embeddings
        return GeoClip().to(self.device).queries(embeddings.to(self.device), self.test.encoder)

    def about(self):
        """Return what there is, and what is searched."""
        t, searched = (
            self.settings().training,
            f"the {len(self.train):,} training {self.train.kind} by their embeddings",
        )
        if self.places is not None:
            searched = f"GeoCLIP's embeddings of {len(self.places):,} places"
        rates = " or ".join(f"{rate:g}" for rate in self.scale.rates)
        return (
            f"{len(self.train):,} {self.train.kind} to train on, {len(self.test):,} to test on, embeddings by "
            f"{self.train.encoder}; at most {t.steps:,} steps of {t.batch} at a learning rate of {rates}; "
            f"seed {t.seed}. Retrieval searches {searched}."
        )


def jittered_views(context):
    """Return the Blue Marble views, strongly jittered."""
    scale = SCALES[context.scale]
    return Data(f"{VIEWS}, strong jitter", blue_marble(scale.blue_marble), scale)


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


def named(context):
    """Return the place names of GeoNames."""
    scale = SCALES[context.scale]
    return Data(NAMES, place_names(scale.names), scale)


def photographs(context):
    """Return the FOLDS of the user's embeddings of photographs, by author: every photograph is tested once.

    All folds together take as many steps as another data set. Raises InputError if authors are not known, or too few.
    """
    everything, scale = read_embeddings(context.photos), SCALES[context.scale]
    scale = dataclasses.replace(scale, steps=-(-scale.steps // FOLDS), search=scale.search // 2)
    title = f"Photographs of {Path(context.photos).name}, by author"
    return [
        Data(title, context.photos, scale, parts=parts, fold=fold)
        for fold, parts in enumerate(author_folds(everything, context.photos))
    ]


def author_folds(data: Embeddings, folder):
    """Return FOLDS pairs of the Embeddings to train and to test on. One author after another, the one with the most
    pictures first, goes to the part with the fewest."""
    if data.photographers is None:
        raise InputError(f"{folder}/locations.csv does not name the author of every picture: add a column author")
    names, author = np.unique(data.photographers, return_inverse=True)
    if len(names) < FOLDS:
        raise InputError(f"{folder} has pictures of {len(names)} authors; {FOLDS} folds need at least {FOLDS}")
    count, size, fold_of = np.bincount(author), np.zeros(FOLDS), np.empty(len(names), dtype=int)
    for one in np.argsort(-count, kind="stable"):
        fold_of[one] = size.argmin()
        size[fold_of[one]] += count[one]
    fold = fold_of[author]
    return [(data.subset(np.flatnonzero(fold != k)), data.subset(np.flatnonzero(fold == k))) for k in range(FOLDS)]


SETS = {  # of Table 1: what makes the folds of each
    "names": lambda context: [named(context)],
    "photographs": photographs,
    "views": lambda context: [jittered_views(context)],
    "simulation": lambda context: [simulated(context)],
}


def data_sets(context):
    """Yield the data sets of Table 1, each a list of its folds: the user's data alone or, of SETS, those that the
    context names; without any named, those there are at its scale."""
    if context.data:
        yield [own(context)]
        return
    there = [name for name in SETS if has(name, context)]
    for name in context.sets or there:
        if name not in there:
            needs = "--photos FOLDER" if name == "photographs" else "--scale full"
            raise InputError(f"the data set {name} needs {needs}")
        yield SETS[name](context)


def has(name, context):
    """Return whether a data set of SETS can be made."""
    return {"names": bool(SCALES[context.scale].names), "photographs": bool(context.photos)}.get(name, True)


def truth_and_groups(folds):
    """Return the true locations of the test pictures of all folds (n, 2), and their authors (n,) or None."""
    authors = [data.test.photographers for data in folds]
    groups = None if None in authors else [name for part in authors for name in part]
    return torch.cat([data.truth for data in folds]), groups
