"""Table 6: diffusion in the space of every location encoder, decoded by a learned decoder, against SHDD."""

import dataclasses
import math

import numpy as np
import report
import torch
from artefact import Claim
from comparison import within
from data_sets import Experiment, pictures
from measures import SAMPLES
from methods.baseline import train_baseline
from methods.encoding_diffusion import EncodingDiffusion
from methods.location_encoders import ENCODERS
from methods.place_decoder import PlaceDecoder, train_decoder

from locdiff.data.blue_marble import BlueMarble
from locdiff.evaluation.summaries import medoid
from locdiff.sphere import decoder
from locdiff.sphere.coordinates import geographic_center
from locdiff.training.distributed import pick_device
from locdiff.training.settings import PRESETS

TITLE = "location encoders: diffusion in their spaces"
DATA = (
    "Blue Marble views or, with --data, your embeddings. The same multilayer perceptron, squared error, schedule, "
    "batches and number of steps in every space, one seed; encodings by formula, not trained."
)
SHDD = "SHDD"
PAPER = report.PAPER["table_6"]
SUMMARIES = (f"centre of {SAMPLES} (the paper's)", f"medoid of {SAMPLES}")
SCALES = {
    "smoke": Experiment(PRESETS["smoke"] | {"steps": 3}, 20, BlueMarble(400, 40)),
    "cpu": Experiment({"width": 128, "steps": 200}, 300),
    "full": Experiment({"width": 128, "steps": 500}, 500),
    "paper": Experiment({"batch": 512, "steps": 200_000}, 10**9),
}
DECODERS = {  # arguments of train_decoder
    "smoke": {"places_count": 500, "steps": 3, "batch": 64, "hidden": 32},
    "cpu": {"places_count": 100_000, "steps": 400, "batch": 1024},
    "full": {"places_count": 100_000, "steps": 1_000, "batch": 1024},
    "paper": {"places_count": 1_000_000, "steps": 100_000, "batch": 4096},
}


def learned_decoder(context, name):
    """Return the encoder of that name and its PlaceDecoder."""
    encoder, settings = ENCODERS[name](0), DECODERS[context.scale]

    def compute():
        learned, drift = train_decoder(encoder, device=pick_device(), **settings)
        return {"drift": drift} | {f"state.{key}": value.cpu().numpy() for key, value in learned.state_dict().items()}

    piece = context.piece(f"decoder-{name.replace('/', '-')}", [name, settings], compute)
    learned = PlaceDecoder(encoder.dimensions, hidden=settings.get("hidden", 512))
    state = {key.removeprefix("state."): torch.from_numpy(value) for key, value in piece.items() if "state." in key}
    learned.load_state_dict(state)
    return encoder.cpu(), learned


def space(context, name):
    """Return encode, to encodings of mean square one, decode, and the number of dimensions, for EncodingDiffusion."""
    if name == SHDD:
        encoder, scale = ENCODERS[name](0), 1 / math.sqrt(4 * math.pi)
        return lambda places: encoder(places) / scale, lambda x: decoder.exact_mode(x * scale)[0], encoder.dimensions
    encoder, learned = (module.to(pick_device()) for module in learned_decoder(context, name))
    scale = learned.scale.item()
    return lambda places: encoder(places) / scale, lambda x: learned(x * scale), encoder.dimensions


def compute(context):
    """Return the hits (encoders, SUMMARIES, n, thresholds), the encoders' names and dimensions, and what there is."""
    data = pictures(context, SCALES[context.scale])
    settings, pieces = data.settings(), []
    for name in ENCODERS:

        def diffuse(name=name):
            encode, decode, size = space(context, name)

            def make(_, config):
                return EncodingDiffusion(config, encode, decode, size)

            places = train_baseline(make, data.train, settings, data.device).sample(data.embeddings, SAMPLES)
            found = [within(place, data.truth) for place in (geographic_center(places), medoid(places))]
            return {"hits": np.stack(found), "dimensions": size}

        key = [name, dataclasses.asdict(settings), DECODERS[context.scale], str(data.folder), len(data.truth)]
        pieces.append(context.piece(f"diffusion-{name.replace('/', '-')}", key, diffuse))
    result = {key: np.stack([piece[key] for piece in pieces]) for key in ("hits", "dimensions")}
    return result | {"names": list(ENCODERS), "about": data.about(), "title": data.title}


def key_numbers(result):
    """Return accuracies within 2500 km, give or take what another training may."""
    share = 100 * result["hits"][:, 0, :, -1].mean(axis=1)
    return {str(name): (value, 9) for name, value in zip(result["names"], share, strict=True)}


def draw(result, folder):
    """Write table_6.csv; return Markdown and claims."""
    rows, lines = [], []
    for name, size, both in zip(result["names"].tolist(), result["dimensions"], result["hits"], strict=True):
        for summary, right in zip(SUMMARIES, both, strict=True):
            numbers, published = report.percent(right), PAPER.get(name, ()) if summary == SUMMARIES[0] else ()
            rows.append([name, size, summary, *report.cells(numbers), report.slashes(published)])
            lines.append(([name, size, summary], numbers, published))
    report.write_accuracies(folder / "table_6.csv", ["encoder", "dimensions", "summary"], lines)
    table = report.markdown_table(["encoder", "dimensions", "per cent within", *report.KM, "paper, Im2GPS3k"], rows)
    text = f"{result['about']} SHDD is decoded by its exact mode, all others by a learned decoder that was frozen then."
    return f"{text}\n\n{table}", claims(result["names"].tolist(), result["hits"][:, 1], str(result["title"]))


def claims(names, right, data=""):
    """Return the claims that SHDD is ahead, from the hits by the medoid (encoders, n, thresholds) on a data set."""
    far, behind, ahead = right[..., report.FAR].mean(axis=-1), [], []
    for name, other in zip(names, far, strict=True):
        _, low, high = report.estimate(far[names.index(SHDD)] - other)
        if name != SHDD and low > 0:
            behind.append(name)
        if high < 0:
            ahead.append(name)
    level = [name for name in names if name not in (SHDD, *behind, *ahead)]
    rivals = [name for name in PAPER if name != SHDD]
    averaged = ", averaged over 200, 750 and 2500 km, by the medoid"
    return [
        Claim(
            f"SHDD is ahead of {' and '.join(rivals)}{averaged}",
            "; ".join(f"{name} {report.slashes(PAPER[name][report.FAR])} %" for name in PAPER),
            f"ahead of {', '.join(behind) or 'none'}",
            set(rivals) <= set(behind),
            data,
            f"ahead of {len(behind)} of {len(names) - 1} encoders, behind {len(ahead)}",
        ),
        Claim(
            "no location encoder of A.1 is ahead of SHDD",
            "other encoders are not tried",
            f"level with {', '.join(level) or 'none'}; behind {', '.join(ahead) or 'none'}",
            not ahead,
        ),
    ]
