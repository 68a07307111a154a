"""Where were these pictures taken?

python -m locdiff.predict RUN picture.jpg ...              picture files; a run on Blue Marble takes satellite views
python -m locdiff.predict RUN FOLDER                       all pictures in it and in its zip and tar archives
python -m locdiff.predict RUN DATA                         an embeddings folder: embeddings.npy and locations.csv
python -m locdiff.predict RUN FOLDER --out places.geojson  or .csv, .jsonl (default: csv to the terminal)
python -m locdiff.predict RUN FOLDER --html places.html    a page to look at: pictures, densities on the map, places
python -m locdiff.predict RUN --text "a street in Lisbon"  what CLIP thinks of words; experimental

RUN is the folder of a training run, or a model on the Hugging Face Hub (OWNER/NAME). The predictions of a picture are

  place 1, 2, ...     the tops of the most probable hills of its density, and the probability of the whole hill;
                      radius_50_km and radius_90_km around the first hold so much of the whole density
  within K km         the place with the most probability within K km of it: the best guess where K km count as right
  centre of 16        the paper's prediction, the geographic centre of 16 samples (--samples; 0 is faster)

Pictures that cannot be read are named, and the others go on; the exit code is then 2.
"""

import contextlib
import csv
import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from locdiff import cli, datasets, maps, page
from locdiff.cli import InputError
from locdiff.embed import encode_pictures, encoder_of
from locdiff.layouts import find_pictures, read_picture
from locdiff.model import CHUNK, CHUNK_HELP, LocDiffusion
from locdiff.processes import pick_device

MAP_LIMIT = 32
COLUMNS = ("id", "prediction", "lat", "lon", "probability", "radius_50_km", "radius_90_km")


def predictions_of(name, prediction):
    """The lines of a picture, as COLUMNS; what a line has not is None."""
    for i, (place, probability) in enumerate(zip(prediction.places, prediction.probabilities, strict=True), 1):
        radii = (prediction.radius_50_km, prediction.radius_90_km) if i == 1 else (None, None)
        yield name, f"place {i}", *place, probability, *radii
    for k, (lat, lon, probability) in prediction.within.items():
        yield name, f"within {k} km", lat, lon, probability, None, None
    if np.isfinite(prediction.center).all():
        yield name, f"centre of {len(prediction.samples)}", *prediction.center, None, None, None


def as_csv(name, prediction):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    formats = (".4f", ".4f", ".3g", ".0f", ".0f")
    for _, kind, *values in predictions_of(name, prediction):
        cells = ("" if value is None else format(value, f) for value, f in zip(values, formats, strict=True))
        writer.writerow([name, kind, *cells])
    return buffer.getvalue()


def as_json_line(name, prediction):
    record = {"id": name} | dataclasses.asdict(prediction)
    if not np.isfinite(prediction.center).all():
        record["center"] = None
    return json.dumps(record, allow_nan=False) + "\n"


def as_features(name, prediction):
    return ",\n".join(
        json.dumps({
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [round(lon, 5), round(lat, 5)]},
            "properties": {"id": name, "prediction": kind} | dict(zip(COLUMNS[4:], values, strict=True)),
        })
        for _, kind, lat, lon, *values in predictions_of(name, prediction)
    )  # fmt: skip


FORMATS = {  # by the file's ending: how a picture is written, and what stands before, between and after
    ".csv": (as_csv, ",".join(COLUMNS) + "\n", "", ""),
    ".jsonl": (as_json_line, "", "", ""),
    ".geojson": (as_features, '{"type": "FeatureCollection", "features": [\n', ",\n", "\n]}\n"),
}


@contextlib.contextmanager
def open_output(path):
    """A function write(name, prediction) into the file, in the format of its ending; into the terminal if it is None.

    Each picture is written as it is predicted, and the file is whole whenever the block is left.
    """
    ending = Path(path).suffix.lower() if path else ".csv"
    if ending not in FORMATS:
        raise InputError(f"cannot write {path}: the file's ending must be one of {', '.join(FORMATS)}")
    turn, before, between, after = FORMATS[ending]
    written = 0

    def put(text):
        nonlocal written
        try:
            file.write(text.encode() if path else text)
            file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise InputError(f"cannot write {path}: {error}; make room there, or choose another file") from None
        written += 1

    try:
        file = open(path, "wb", buffering=0) if path else sys.stdout
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; choose another file") from None
    with file if path else contextlib.nullcontext():
        put(before)
        try:
            yield lambda name, prediction: put((between if written > 1 else "") + turn(name, prediction))
        finally:
            put(after)


def read_sources(sources, texts, model, weights, batch, workers):
    """How many there are, and an iterator over batches of them: (names, embeddings, pictures, failures).

    pictures are functions that give a PIL image, or None; failures are [(name, reason), ...].
    """
    if len(sources) == 1 and (Path(sources[0]) / "embeddings.npy").exists():
        if texts:
            raise InputError("--text does not go with an embeddings folder")
        data = datasets.read_embeddings(sources[0], with_places=False)
        model.check_encoder(data.encoder)
        return len(data), read_folder(data, batch)
    named = {}
    for source in sources:
        folder = not Path(source).is_file() or Path(source).suffix.lower() in (".zip", ".tar")
        found, _ = find_pictures(source)
        named |= {f"{source}/{name}" if folder else source: picture for name, picture in found.items()}
    encoder = encoder_of(model.config.encoder, weights, model.alpha_bar.device)
    if texts and not hasattr(encoder, "encode_text"):
        raise InputError(f"--text needs a model trained on CLIP embeddings; this one was trained on '{encoder.name}'")
    return len(texts) + len(named), read_pictures(texts, list(named), list(named.values()), encoder, batch, workers)


def read_folder(data, batch):
    for start in range(0, len(data), batch):
        chosen = range(start, min(start + batch, len(data)))
        embeddings, _ = data.batch(chosen)
        pictures = [None] * len(chosen)
        if data.encoder == datasets.THUMBNAIL_ENCODER:
            pixels = (255 * datasets.thumbnail_pictures(embeddings)).round().to(torch.uint8).numpy()
            pictures = [lambda x=x: Image.fromarray(x) for x in pixels]
        yield [data.ids[i] for i in chosen], embeddings, pictures, []


def read_pictures(texts, names, pictures, encoder, batch, workers):
    if texts:
        yield texts, encoder.encode_text(texts), [None] * len(texts), []
    for index, embeddings, failures in encode_pictures(pictures, encoder, batch, workers):
        openers = [lambda i=i: read_picture(pictures[i]) for i in index]
        yield [names[i] for i in index], embeddings, openers, [(names[i], reason) for i, reason in failures]


def main(argv=None):
    parser = cli.Parser(prog="python -m locdiff.predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a training run, or OWNER/NAME on the Hugging Face Hub")
    parser.add_argument(
        "source", nargs="*", metavar="PICTURE", help="pictures, folders, archives; or embeddings folder"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to .csv, .jsonl or .geojson, by the ending")
    parser.add_argument("--html", type=Path, metavar="FILE", help=f"write a page (at most {page.LIMIT} pictures)")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help=f"draw the densities (at most {MAP_LIMIT} pictures)"
    )
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="locate words; experimental")
    parser.add_argument("--top-k", type=int, default=1, help="places a picture (default 1)")
    parser.add_argument("--samples", type=int, default=16, help="samples a picture (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--weights", metavar="FILE", help="the encoder's weights, if the embeddings were made from a file"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time (default 64)")
    parser.add_argument("--chunk", type=int, default=CHUNK, help=f"{CHUNK_HELP} (default {CHUNK})")
    parser.add_argument("--workers", type=int, help="processes that read pictures (default: the processors, at most 8)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--local-files-only", action="store_true", help="ask the Hugging Face Hub for nothing")
    arguments = parser.parse_intermixed_args(argv)
    if min(arguments.top_k, arguments.batch, arguments.chunk) < 1 or min(arguments.samples, arguments.seed) < 0:
        parser.error("--top-k, --batch and --chunk must be at least 1, --samples and --seed at least 0")
    if not arguments.source and not arguments.text:
        parser.error("give pictures, folders, archives, an embeddings folder or --text")
    for path in (arguments.html, arguments.map):
        if path and not path.resolve().parent.is_dir():
            raise InputError(f"cannot write {path}: {path.parent} is no folder")
    model = LocDiffusion.load(arguments.run, pick_device(arguments.device), arguments.local_files_only)
    model.chunk = arguments.chunk
    total, batches = read_sources(
        arguments.source, arguments.text, model, arguments.weights, arguments.batch, arguments.workers
    )
    for path, option, limit in ((arguments.html, "--html", page.LIMIT), (arguments.map, "--map", MAP_LIMIT)):
        if path and total > limit:
            raise InputError(f"{option} shows at most {limit} pictures, got {total}; --out takes any number")
    if arguments.text:
        print("--text is experimental: the model has learnt from pictures, not from words", file=sys.stderr)
    shown, failed = {"names": [], "pictures": [], "predictions": [], "density": []}, []
    quiet = total < 2 or (arguments.out is None and sys.stdout.isatty())
    with (
        open_output(arguments.out) as write,
        tqdm(total=total, unit="picture", disable=quiet, delay=1, leave=False) as bar,
    ):
        done = 0
        for names, embeddings, openers, failures in batches:
            failed += failures
            predictions = model.predict(embeddings, arguments.samples, arguments.top_k, arguments.seed, first=done)
            for name, prediction in zip(names, predictions, strict=True):
                write(name, prediction)
            done += len(names)
            bar.update(len(names) + len(failures))
            if (arguments.html or arguments.map) and names:
                shown["names"] += names
                shown["pictures"] += [opener and smaller(opener()) for opener in openers]
                shown["predictions"] += predictions
                shown["density"].append(model.density(embeddings))
    if done and (arguments.html or arguments.map):
        draw(arguments, model, shown | {"density": torch.cat(shown["density"])})
    for name, reason in failed:
        print(f"cannot read the picture {name}: {reason}", file=sys.stderr)
    if failed:
        raise InputError(f"{len(failed)} of {total} pictures could not be read; the first: {failed[0][0]}")


def smaller(picture):
    picture.thumbnail((page.PICTURE_SIDE, page.PICTURE_SIDE))
    return picture


def draw(arguments, model, shown):
    if arguments.html:
        n, folder = len(shown["names"]), Path(arguments.run).resolve().name
        title = "Where was this picture taken?" if n == 1 else f"Where were these {n} pictures taken?"
        note = f"Model {folder}: l_max {model.config.l_max}, pictures as embeddings by {model.config.encoder}."
        if arguments.text:
            note += " Words are embedded by CLIP's text tower: experimental."
        page.write_page(arguments.html, title, note, **shown)
    if arguments.map:
        predictions = shown["predictions"]
        pictures = shown["pictures"] if any(shown["pictures"]) else None
        places = torch.tensor([p.places[0] for p in predictions], dtype=torch.float64)
        samples = torch.tensor([p.samples for p in predictions], dtype=torch.float64) if arguments.samples else None
        names = [Path(name).name for name in shown["names"]]
        maps.draw_predictions(
            arguments.map, model.anchors, places, shown["density"], samples, pictures=pictures, names=names
        )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main)
