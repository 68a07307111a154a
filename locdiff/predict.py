"""Where were these pictures taken?

python -m locdiff.predict RUN picture.jpg ...              picture files; a run on Blue Marble takes satellite views
python -m locdiff.predict RUN FOLDER                       all pictures in it and in its zip and tar archives
python -m locdiff.predict RUN DATA                         an embeddings folder: embeddings.npy and locations.csv
python -m locdiff.predict RUN FOLDER --out places.geojson  or .csv, .jsonl (default: csv to the terminal)
python -m locdiff.predict RUN FOLDER --html places.html    a page to look at: pictures, densities on the map, places
python -m locdiff.predict RUN --text "a street in Lisbon"  what CLIP thinks of words; experimental

RUN is the folder of a training run, or a model on the Hugging Face Hub (OWNER/NAME). The predictions of a picture are

  place 1, 2, ...     the most probable modes of its density, and the probability of the whole basin of each;
                      radius_50_km and radius_90_km around the first hold so much of the whole density
  within K km         the place with the most probability within K km of it: the best guess where K km count as right
  centre of 16        the paper's prediction, the geographic centre of 16 samples (--samples; 0 is faster)

A csv file has one line a picture, with place 1, 2, ...; --long has one line a prediction. GeoJSON also has the regions
that hold 50 and 90 % of the density. --exiftool FILE is for exiftool -csv=FILE, which writes places into the pictures.

Pictures that cannot be read are named, and the others go on; the exit code is then 2.
"""

import contextlib
import itertools
import sys
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from locdiff import memory, options
from locdiff.data import blue_marble
from locdiff.data.decoding import MAX_PIXELS
from locdiff.data.embeddings import read_embeddings
from locdiff.data.encoding import encode_pictures
from locdiff.data.pictures import find_pictures, read_picture
from locdiff.data.prediction_files import open_exiftool, open_output
from locdiff.data.tally import Tally
from locdiff.errors import InputError
from locdiff.pipeline import Pipeline
from locdiff.training.distributed import pick_device
from locdiff.viz import maps, page

MAP_LIMIT = 32


def read_sources(sources, texts, pipeline, batch, workers, tally=None, max_pixels=MAX_PIXELS):
    """Return how many there are, and an iterator over batches of them: (names, embeddings, pictures, failures).

    pictures are functions that give a PIL image, or None; failures are [(name, reason), ...]. `tally` receives what is
    found and ignored.
    """
    if len(sources) == 1 and (Path(sources[0]) / "embeddings.npy").exists():
        if texts:
            raise InputError("--text does not go with an embeddings folder")
        data = read_embeddings(sources[0], with_places=False)
        pipeline.model.config.check_encoder(data.encoder)
        return len(data), read_folder(data, batch)
    named = {}
    for source in sources:
        folder = not Path(source).is_file() or Path(source).suffix.lower() in (".zip", ".tar")
        found, _ = find_pictures(source, tally)
        named |= {f"{source}/{name}" if folder else source: picture for name, picture in found.items()}
    embedded = pipeline.embed_text(texts) if texts else torch.empty(0)
    batches = read_pictures(list(named), list(named.values()), pipeline.encoder, batch, workers, max_pixels)
    return len(texts) + len(named), itertools.chain([(texts, embedded, [None] * len(texts), [])] * bool(texts), batches)


def read_folder(data, batch):
    """Yield the batches of `read_sources` for Embeddings; thumbnails can be shown."""
    for start in range(0, len(data), batch):
        chosen = range(start, min(start + batch, len(data)))
        embeddings, _ = data.batch(chosen)
        pictures = [None] * len(chosen)
        if data.encoder == blue_marble.THUMBNAIL_ENCODER:
            pixels = (255 * blue_marble.thumbnail_pictures(embeddings)).round().to(torch.uint8).numpy()
            pictures = [lambda x=x: Image.fromarray(x) for x in pixels]
        yield [data.ids[i] for i in chosen], embeddings, pictures, []


def read_pictures(names, pictures, encoder, batch, workers, max_pixels):
    """Yield the batches of `read_sources` for pictures (a list of `pictures.Picture`) of these names."""
    for index, embeddings, failures in encode_pictures(pictures, encoder, batch, workers, max_pixels=max_pixels):
        openers = [lambda i=i: read_picture(pictures[i], max_pixels) for i in index]
        yield [names[i] for i in index], embeddings, openers, [(names[i], reason) for i, reason in failures]


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.predict", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a training run, or OWNER/NAME on the Hugging Face Hub")
    parser.add_argument(
        "source", nargs="*", metavar="PICTURE", help="pictures, folders, archives; or embeddings folder"
    )
    add_outputs(parser)
    parser.add_argument("--text", action="append", default=[], metavar="WORDS", help="locate words; experimental")
    parser.add_argument("--top-k", type=int, default=1, help="places a picture (default 1)")
    parser.add_argument("--samples", type=int, default=16, help="samples a picture (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--weights", metavar="FILE", help="the encoder's weights, if the embeddings were made from a file"
    )
    parser.add_argument("--batch", type=int, default=64, help="pictures at a time (default 64)")
    parser.add_argument(
        "--memory", type=int, default=memory.DEFAULT_MB, help=f"{memory.HELP} (default {memory.DEFAULT_MB})"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N",
        help=f"read larger JPEGs at reduced size and refuse other pictures that are larger (default {MAX_PIXELS})",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes that read pictures (default: the processors, at most 8)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--local-files-only", action="store_true", help="ask the Hugging Face Hub for nothing")
    return parser


def add_outputs(parser):
    """Add the options that say what is written."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to .csv, .jsonl or .geojson, by the ending")
    parser.add_argument("--long", action="store_true", help="csv with a line for each prediction, not each picture")
    parser.add_argument("--exiftool", type=Path, metavar="FILE.csv", help="write a csv that exiftool -csv imports")
    parser.add_argument(
        "--min-probability", type=float, default=0.5, metavar="P",
        help="--exiftool has the pictures whose place 1 has more (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help=f"write a page (at most {page.LIMIT} pictures)")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help=f"draw the densities (at most {MAP_LIMIT} pictures)"
    )


def parse(argv):
    """Return the arguments, checked as far as they can be without the model."""
    parser = make_parser()
    arguments = parser.parse_intermixed_args(argv)
    if min(arguments.top_k, arguments.batch) < 1 or min(arguments.samples, arguments.seed) < 0:
        parser.error("--top-k and --batch must be at least 1, --samples and --seed at least 0")
    if not arguments.source and not arguments.text:
        parser.error("give pictures, folders, archives, an embeddings folder or --text")
    if arguments.long and arguments.out and arguments.out.suffix.lower() != ".csv":
        parser.error(f"--long is a form of csv; {arguments.out} has all predictions anyway")
    if not 0 <= arguments.min_probability <= 1:
        parser.error("--min-probability is a probability, from 0 to 1")
    for path in (arguments.html, arguments.map):
        if path and not path.resolve().parent.is_dir():
            raise InputError(f"cannot write {path}: {path.parent} is no folder")
    return arguments


def main(argv=None):
    """Run the command line."""
    arguments = parse(argv)
    memory.set_budget(arguments.memory)
    device = pick_device(arguments.device)
    pipeline = Pipeline.load(arguments.run, device, arguments.weights, arguments.local_files_only)
    tally = Tally()
    batch, workers, pixels = arguments.batch, arguments.workers, arguments.max_pixels
    total, batches = read_sources(arguments.source, arguments.text, pipeline, batch, workers, tally, pixels)
    for path, option, limit in ((arguments.html, "--html", page.LIMIT), (arguments.map, "--map", MAP_LIMIT)):
        if path and total > limit:
            raise InputError(f"{option} shows at most {limit} pictures, got {total}; --out takes any number")
    if arguments.text:
        print("--text is experimental: the model has learnt from pictures, not from words", file=sys.stderr)
    shown, failed = predict_all(arguments, pipeline, total, batches)
    if shown["names"]:
        draw(arguments, pipeline.model, shown | {"density": torch.cat(shown["density"])})
    if tally.found:
        tally.used = tally.found - len(failed)
        for name, reason in failed:
            tally.failed.add(f"{name} ({reason})")
        print(tally, file=sys.stderr)
    for name, reason in failed:
        print(f"cannot read the picture {name}: {reason}", file=sys.stderr)
    if failed:
        raise InputError(f"{len(failed)} of {total} pictures could not be read; the first: {failed[0][0]}")


def predict_all(arguments, pipeline, total, batches):
    """Write the predictions of all batches; return what is to be drawn and [(name, reason), ...] of the failures."""
    shown, failed, done = {"names": [], "pictures": [], "predictions": [], "density": []}, [], 0
    quiet = total < 2 or (arguments.out is None and sys.stdout.isatty())
    with (
        open_all(arguments) as write,
        tqdm(total=total, unit="picture", disable=quiet, delay=1, leave=False) as bar,
    ):
        for names, embeddings, openers, failures in batches:
            failed += failures
            start = done
            for posterior, predictions in pipeline.stream(
                embeddings, arguments.samples, arguments.top_k, arguments.seed, done
            ):
                for prediction in predictions:
                    write(names[done - start], prediction)
                    done += 1
                if arguments.html or arguments.map:
                    shown["predictions"] += predictions
                    shown["density"].append(posterior.pixel_probs)
            if arguments.html or arguments.map:
                shown["names"] += names
                shown["pictures"] += [opener and smaller(opener()) for opener in openers]
            bar.update(len(names) + len(failures))
    return shown, failed


@contextlib.contextmanager
def open_all(arguments):
    """Yield a function write(name, prediction) into all tables that the arguments ask for."""
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(open_output(arguments.out, arguments.top_k, arguments.long))]
        if arguments.exiftool:
            outputs.append(files.enter_context(open_exiftool(arguments.exiftool, arguments.min_probability)))
        yield lambda name, prediction: [write(name, prediction) for write in outputs]


def smaller(picture):
    """Return the picture, no larger than the page shows it."""
    picture.thumbnail((page.PICTURE_SIDE, page.PICTURE_SIDE))
    return picture


def draw(arguments, model, shown):
    """Write the page and the map that the arguments ask for."""
    if arguments.html:
        n, folder = len(shown["names"]), Path(arguments.run).resolve().name
        title = "Where was this picture taken?" if n == 1 else f"Where were these {n} pictures taken?"
        note = f"Model {folder}: l_max {model.config.network.l_max}, pictures as embeddings by {model.config.encoder}."
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
            arguments.map, model.grid.anchors, places, shown["density"], samples, pictures=pictures, names=names
        )


if __name__ == "__main__":
    options.run(main)
