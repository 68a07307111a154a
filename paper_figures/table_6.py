"""Table 6: diffusion in the space of every location encoder, decoded by a learned decoder, against SHDD."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch
from comparison import SAMPLES, intervals
from report import markdown_table, with_interval, write_csv

from locdiff import baselines, datasets, decoder, train
from locdiff.coordinates import geographic_center
from locdiff.evaluate import medoid
from locdiff.location_encoders import ENCODERS, PlaceDecoder, train_decoder
from locdiff.metrics import THRESHOLDS_KM, hits

TITLE = "location encoders: diffusion in their spaces"
DATA = (
    "Blue Marble views or, with --data, your embeddings. The same multilayer perceptron, squared error, schedule, "
    "batches and number of steps in every space, one seed; encodings by formula, not trained."
)
SHDD = "SHDD"
PAPER = {
    "rbf": (0.0, 0.0, 18.2, 44.1, 60.2), "Sphere2Vec-sphereM": (0.0, 0.0, 22.1, 58.4, 72.3),
    SHDD: (10.9, 34.0, 53.3, 72.5, 85.2),
}  # fmt: skip
SUMMARIES = (f"centre of {SAMPLES} (the paper's)", f"medoid of {SAMPLES}")


@dataclasses.dataclass(frozen=True)
class Scale:
    """How long the decoders and the diffusions are trained, and on how many pictures they are tested."""

    decoder: dict  # of train_decoder
    training: dict  # what differs from the quickstart
    pictures: int
    blue_marble: datasets.BlueMarble = dataclasses.field(default_factory=datasets.BlueMarble)


SCALES = {
    "smoke": Scale(
        {"places_count": 500, "steps": 3, "batch": 64, "hidden": 32}, train.PRESETS["smoke"] | {"steps": 3}, 20,
        datasets.BlueMarble(400, 40),
    ),
    "cpu": Scale({"places_count": 100_000, "steps": 400, "batch": 1024}, {"width": 128, "steps": 200}, 300),
    "paper": Scale(
        {"places_count": 1_000_000, "steps": 100_000, "batch": 4096}, {"batch": 512, "steps": 200_000}, 10**9
    ),
}  # fmt: skip


def learned_decoder(context, name):
    """The encoder of that name, its PlaceDecoder, and the decoder's mean drift in km without noise."""
    encoder, settings = ENCODERS[name](0), SCALES[context.scale].decoder

    def compute():
        learned, drift = train_decoder(encoder, device=train.pick_device(), **settings)
        return {"drift": drift} | {f"state.{key}": value.cpu().numpy() for key, value in learned.state_dict().items()}

    piece = context.piece(f"decoder-{name.replace('/', '-')}", [name, settings], compute)
    learned = PlaceDecoder(encoder.dimensions, hidden=settings.get("hidden", 512))
    state = {key.removeprefix("state."): torch.from_numpy(value) for key, value in piece.items() if "state." in key}
    learned.load_state_dict(state)
    return encoder.cpu(), learned, float(piece["drift"])


def space(context, name):
    """encode, to encodings of mean square one, decode, and the number of dimensions, for EncodingDiffusion."""
    if name == SHDD:
        encoder, scale = ENCODERS[name](0), 1 / math.sqrt(4 * math.pi)
        return lambda places: encoder(places) / scale, lambda x: decoder.exact_mode(x * scale)[0], encoder.dimensions
    encoder, learned, _ = learned_decoder(context, name)
    scale, device = learned.scale.item(), train.pick_device()
    encoder, learned = encoder.to(device), learned.to(device)
    return lambda places: encoder(places) / scale, lambda x: learned(x * scale), encoder.dimensions


def compute(context):
    """The hits (encoders, SUMMARIES, n, thresholds), the encoders' names and dimensions, and what there is."""
    scale = SCALES[context.scale]
    folder = Path(context.data) if context.data else datasets.blue_marble(scale.blue_marble)
    pictures, test = datasets.train_and_test(folder, 0)
    chosen = np.linspace(0, len(test) - 1, min(len(test), scale.pictures)).astype(int)
    embeddings, truth = test.batch(chosen)
    settings, found, dimensions = train.fitted(train.resolve(**scale.training), pictures), [], []
    for name in ENCODERS:

        def diffuse(name=name):
            encode, decode, size = space(context, name)
            model = baselines.train_baseline(
                lambda _, config: baselines.EncodingDiffusion(config, encode, decode, size),
                pictures, settings, train.pick_device(),
            )  # fmt: skip
            places = model.sample(embeddings, SAMPLES)
            right = [hits(place, truth).numpy() for place in (geographic_center(places), medoid(places))]
            return {"hits": np.stack(right), "dimensions": size}

        key = [name, dataclasses.asdict(settings), scale.decoder, str(folder), len(truth)]
        piece = context.piece(f"diffusion-{name.replace('/', '-')}", key, diffuse)
        found.append(piece["hits"])
        dimensions.append(int(piece["dimensions"]))
    about = f"{len(pictures):,} pictures to train on, {len(truth):,} to test on, {settings.training.steps:,} steps."
    return {"hits": np.stack(found), "names": list(ENCODERS), "dimensions": dimensions, "about": about}


def key_numbers(result):
    """Accuracies within 2500 km, give or take what another training may."""
    percent = 100 * result["hits"][:, 0, :, -1].mean(axis=1)
    return {str(name): (share, 9) for name, share in zip(result["names"], percent, strict=True)}


def draw(result, folder):
    """Write table_6.csv; Markdown and verdict."""
    rows, lines = [], []
    for name, size, both in zip(result["names"].tolist(), result["dimensions"], result["hits"], strict=True):
        for summary, right in zip(SUMMARIES, both, strict=True):
            published = PAPER.get(name, ()) if summary == SUMMARIES[0] else ()
            estimates = np.stack(intervals(right), axis=-1)
            rows.append(
                [name, size, summary, *(with_interval(*row) for row in estimates), "/".join(map(str, published))]
            )
            lines += [[name, size, summary, k, *row] for k, row in zip(THRESHOLDS_KM, estimates, strict=True)]
    write_csv(
        folder / "table_6.csv", ["encoder", "dimensions", "summary", "within km", "per cent", "low", "high"], lines
    )
    header = ["encoder", "dimensions", "per cent within", *(f"{k} km" for k in THRESHOLDS_KM), "paper, Im2GPS3k"]
    text = f"{result['about']} SHDD is decoded by its exact mode, all others by a learned decoder that was frozen then."
    return f"{text}\n\n{markdown_table(header, rows)}", verdict(result["names"].tolist(), result["hits"][:, 1])


def verdict(names, right):
    """From the hits by the medoid (encoders, n, thresholds): is SHDD ahead of all others from 200 km on?"""
    own, far = right[names.index(SHDD)].astype(float), slice(THRESHOLDS_KM.index(200), None)
    behind, ahead = [], []
    for name, other in zip(names, right, strict=True):
        _, low, high = intervals(own[:, far].mean(axis=1) - other[:, far].mean(axis=1))
        if name != SHDD and low > 0:
            behind.append(name)
        if high < 0:
            ahead.append(name)
    level = [name for name in names if name not in (SHDD, *behind, *ahead)]
    said = "reproduced" if not ahead and {"rbf", "Sphere2Vec-sphereM"} <= set(behind) else "differs"
    return (
        f"{said}: averaged over 200, 750 and 2500 km, by the medoid, SHDD is ahead of {', '.join(behind) or 'none'}; "
        f"level with {', '.join(level) or 'none'}; behind {', '.join(ahead) or 'none'}."
    )
