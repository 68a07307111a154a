"""Where were these pictures taken? Where are the places of these names?

python -m locdiff.predict RUN picture.jpg ...              picture files; a run on Blue Marble takes satellite views
python -m locdiff.predict RUN FOLDER                       all pictures in it and in its zip and tar archives
python -m locdiff.predict RUN DATA                         an embeddings folder: embeddings.npy and locations.csv
python -m locdiff.predict RUN FOLDER --out places.geojson  or .csv, .jsonl (default: csv to the terminal)
python -m locdiff.predict RUN FOLDER --html places.html    a page to look at: pictures, densities on the map, places
python -m locdiff.predict RUN --text "San José"            words, for a run on texts; on CLIP's embeddings: experimental
python -m locdiff.predict RUN TEXTS.csv                    all words in a table, of its column text
python -m locdiff.predict RUN FOLDER --within region.geojson --on-land     given that they lie there; or in a box,
                                                           --within lat,lon,lat,lon: south-west, north-east
python -m locdiff.predict RUN FOLDER --prior land          by another prior than the density of the training places

RUN is the folder of a training run, or a model on the Hugging Face Hub (OWNER/NAME). The predictions of a picture are

  place 1, 2, ...     the most probable modes of its density, and the probability of the whole basin of each;
                      radius_50_km and radius_90_km around the first hold so much of the whole density
  within K km         the place with the most probability within K km of it: the best guess where K km count as right
  centre of 16        the paper's prediction, the geographic centre of 16 samples (--samples; 0 is faster)

A csv file has one line a picture, with place 1, 2, ...; --long has one line a prediction. GeoJSON also has the regions
that hold 50 and 90 % of the density. --exiftool FILE is for exiftool -r -csv=FILE PICTURES, which writes the places
into the pictures.

Pictures that cannot be read, or that have no probability in the region, are named, and the others go on; the exit code
is then 2.
"""

import contextlib
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from locdiff import given, memory, options
from locdiff.data.decoding import add_max_pixels
from locdiff.data.encoders import is_text_encoder
from locdiff.data.prediction_files import FORMATS, open_exiftool, open_output
from locdiff.data.prediction_sources import read_sources
from locdiff.data.tally import Tally
from locdiff.devices import pick_device
from locdiff.errors import InputError
from locdiff.files import check_ending, replaced_file
from locdiff.pipeline import Pipeline
from locdiff.viz import page, sheets

MAP_LIMIT, MOST_PLACES = 32, 1000
OUTPUTS = {"out": FORMATS, "exiftool": (".csv",), "html": (".html", ".htm"), "map": (".png",)}


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.predict", description=__doc__)
    text, whole = options.text, options.whole
    parser.add_argument(
        "run", type=text, metavar="RUN", help="folder of a training run, or OWNER/NAME on the Hugging Face Hub"
    )
    parser.add_argument(
        "source", type=text, nargs="*", metavar="PICTURE", help="pictures, folders, archives; or embeddings folder"
    )
    add_outputs(parser)
    given.add_options(parser)
    parser.add_argument(
        "--text", type=text, action="append", default=[], metavar="WORDS", help="locate words (repeatable)"
    )
    parser.add_argument("--top-k", type=whole(1, MOST_PLACES), default=1, help="places a picture (default 1)")
    parser.add_argument("--samples", type=whole(0), default=16, help="samples a picture (default 16)")
    parser.add_argument("--seed", type=whole(0), default=0, help="seed of the samples (default 0)")
    parser.add_argument(
        "--weights", type=text, metavar="FILE", help="the encoder's weights, if the embeddings were made from a file"
    )
    parser.add_argument("--batch", type=whole(1), default=64, help="pictures at a time (default 64)")
    parser.add_argument(
        "--memory", type=int, default=memory.DEFAULT_MB, help=f"{memory.HELP} (default {memory.DEFAULT_MB})"
    )
    add_max_pixels(parser)
    parser.add_argument(
        "--workers", type=whole(0, 1024), help="processes that read pictures (default: the processors, at most 8)"
    )
    parser.add_argument("--device", type=text, help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--local-files-only", action="store_true", help="ask the Hugging Face Hub for nothing")
    return parser


def add_outputs(parser):
    """Add the options that say what is written."""
    path = options.path
    parser.add_argument("--out", type=path, metavar="FILE", help="write to .csv, .jsonl or .geojson, by the ending")
    parser.add_argument("--long", action="store_true", help="csv with a line for each prediction, not each picture")
    parser.add_argument("--exiftool", type=path, metavar="FILE.csv", help="write a csv that exiftool -csv imports")
    parser.add_argument(
        "--min-probability", type=float, default=0.5, metavar="P",
        help="--exiftool has the pictures whose place 1 has more (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--html", type=path, metavar="FILE.html", help=f"write a page (at most {page.LIMIT} pictures)")
    parser.add_argument(
        "--map", type=path, metavar="FILE.png", help=f"draw the densities (at most {MAP_LIMIT} pictures)"
    )


def parse(argv):
    """Return the arguments, checked as far as they can be without the model."""
    parser = make_parser()
    arguments = parser.parse_intermixed_args(given.joined(sys.argv[1:] if argv is None else argv))
    if not arguments.source and not arguments.text:
        parser.error("give pictures, folders, archives, an embeddings folder or --text")
    if arguments.long and arguments.out and arguments.out.suffix.lower() != ".csv":
        parser.error(f"--long is a form of csv; {arguments.out} has all predictions anyway")
    if not 0 <= arguments.min_probability <= 1:
        parser.error("--min-probability is a probability, from 0 to 1")
    check_outputs(arguments)
    return arguments


def check_outputs(arguments):
    """Raise InputError unless every file to write has its ending, can be written, and is no source or other output."""
    taken = {os.path.realpath(source): source for source in arguments.source}
    for name, endings in OUTPUTS.items():
        if path := getattr(arguments, name):
            check_ending(path, endings)
            replaced_file(path)
            if os.path.realpath(path) in taken:
                raise InputError(f"--{name} would overwrite {taken[os.path.realpath(path)]}; choose another file")
            taken[os.path.realpath(path)] = path


def main(argv=None):
    """Run the command line."""
    arguments = parse(argv)
    memory.set_budget(arguments.memory)
    known = given.Given.of(arguments)
    device = pick_device(arguments.device)
    pipeline = Pipeline.from_pretrained(
        arguments.run, device, arguments.weights, local_files_only=arguments.local_files_only
    )
    known, tally = known.for_model(pipeline.model), Tally()
    batch, workers, pixels = arguments.batch, arguments.workers, arguments.max_pixels
    total, batches = read_sources(arguments.source, arguments.text, pipeline, batch, workers, tally, pixels)
    for path, option, limit in ((arguments.html, "--html", page.LIMIT), (arguments.map, "--map", MAP_LIMIT)):
        if path and total > limit:
            raise InputError(f"{option} shows at most {limit} pictures, got {total}; --out takes any number")
    shown, failed = predict_all(arguments, pipeline, known, total, batches, tally)
    if shown["names"]:
        draw(arguments, pipeline.model, known, shown | {"density": torch.cat(shown["density"])})
    tell(tally, failed, total, known)


def tell(tally, failed, total, known):
    """Print what became of the pictures. Raises InputError if any of `total` failed: [(name, reason), ...]."""
    if tally.found:
        tally.used = tally.found - len(failed)
        for name, reason in failed:
            tally.failed.add(f"{name} ({reason})")
        print(tally, file=sys.stderr)
    verbs = ["locate" if reason == known.reason else "read" for _, reason in failed]
    for verb, (name, reason) in zip(verbs, failed, strict=True):
        print(f"cannot {verb} the {tally.noun[:-1]} {name}: {reason}", file=sys.stderr)
    if failed:
        what = " or ".join(done for verb, done in (("read", "read"), ("locate", "located")) if verb in verbs)
        raise InputError(f"{len(failed)} of {total} {tally.noun} could not be {what}; the first: {failed[0][0]}")


def predict_all(arguments, pipeline, known, total, batches, tally):
    """Write the predictions of all batches; return what is to be drawn and [(name, reason), ...] of the failures.

    Raises InputError if all failed: then no old file is replaced.
    """
    shown, failed, done = {"names": [], "pictures": [], "predictions": [], "density": []}, [], 0
    quiet = total < 2 or (arguments.out is None and sys.stdout.isatty())
    with (
        open_all(arguments) as write,
        tqdm(total=total, unit=tally.noun[:-1], disable=quiet, delay=1, leave=False) as bar,
    ):
        for names, embeddings, openers, failures in batches:
            failed += failures
            seen = set()
            for rows, posterior, predictions in known.stream(
                pipeline, embeddings, arguments.samples, arguments.top_k, arguments.seed, done
            ):
                for row, prediction in zip(rows, predictions, strict=True):
                    write(names[row], prediction)
                done, seen = done + len(rows), seen | set(rows)
                if arguments.html or arguments.map:
                    shown["predictions"] += predictions
                    shown["density"].append(posterior.pixel_probs)
                    shown["names"] += [names[row] for row in rows]
                    shown["pictures"] += [to_show(openers[row]) for row in rows]
            failed += [(name, known.reason) for row, name in enumerate(names) if row not in seen]
            bar.update(len(names) + len(failures))
        if not done:
            tell(tally, failed, total, known)
    return shown, failed


@contextlib.contextmanager
def open_all(arguments):
    """Yield a function write(name, prediction) into all tables that the arguments ask for."""
    with contextlib.ExitStack() as files:
        outputs = [files.enter_context(open_output(arguments.out, arguments.top_k, arguments.long))]
        if arguments.exiftool:
            outputs.append(files.enter_context(open_exiftool(arguments.exiftool, arguments.min_probability)))
        yield lambda name, prediction: [write(name, prediction) for write in outputs]


def to_show(opener):
    """Return words as they are, or the picture that a function gives, no larger than the page shows it."""
    if not callable(opener):
        return opener
    picture = opener()
    picture.thumbnail((page.PICTURE_SIDE, page.PICTURE_SIDE))
    return picture


def draw(arguments, model, known, shown):
    """Write the page and the map that the arguments ask for."""
    if arguments.html:
        n, folder = len(shown["names"]), Path(arguments.run).resolve().name
        title = "Where was this picture taken?" if n == 1 else f"Where were these {n} pictures taken?"
        kind, has_words = "pictures", any(isinstance(picture, str) for picture in shown["pictures"])
        if is_text_encoder(model.config.encoder):
            title = "Which place does this text mean?" if n == 1 else f"Which places do these {n} texts mean?"
            kind, has_words = "texts", False
        note = f"Model {folder}: l_max {model.config.network.l_max}, {kind} as embeddings by {model.config.encoder}."
        if has_words:
            note += " Words are embedded by CLIP's text tower: experimental."
        note += known.note
        page.write_page(arguments.html, title, note, **shown)
    if arguments.map:
        predictions = shown["predictions"]
        pictures = shown["pictures"] if any(shown["pictures"]) else None
        places = torch.tensor([p.places[0] for p in predictions], dtype=torch.float64)
        samples = torch.tensor([p.samples for p in predictions], dtype=torch.float64) if arguments.samples else None
        names = [Path(name).name for name in shown["names"]]
        sheets.draw_predictions(
            arguments.map, model.grid.anchors, places, shown["density"], samples, pictures=pictures, names=names
        )


if __name__ == "__main__":
    options.run(main)
