"""Score a run on its held-out pictures, or anybody's predictions.

python -m locdiff.evaluate RUN                                  the table that training ends with, again
python -m locdiff.evaluate RUN --data FOLDER                    on the embeddings and places in FOLDER
python -m locdiff.evaluate RUN --hybrid                         also with retrieval from the training pictures
python -m locdiff.evaluate RUN --hybrid --gallery mp16          also with GeoCLIP; needs locdiffusion[geoclip]
python -m locdiff.evaluate --predictions P.csv --truth T.csv    csv files with id, lat, lon
"""

from pathlib import Path

from locdiff import memory, options
from locdiff.data.embeddings import read_embeddings
from locdiff.evaluation import metrics
from locdiff.evaluation.report import report, score_files
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.distributed import pick_device
from locdiff.training.settings import load_data, override, read_settings


def main(argv=None):
    """Run the command line."""
    parser = options.Parser(prog="python -m locdiff.evaluate", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument("--data", help="embeddings folder to score on (default: what the run held out)")
    parser.add_argument("--samples", type=int, help="samples a picture (default: the run's)")
    parser.add_argument(
        "--memory", type=int, default=memory.DEFAULT_MB, help=f"{memory.HELP} (default {memory.DEFAULT_MB})"
    )
    parser.add_argument("--seed", type=int, help="seed of the samples (default: the run's)")
    parser.add_argument("--hybrid", action="store_true", help="also score the model combined with retrieval")
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
    if arguments.gallery and not arguments.hybrid:
        parser.error("--gallery says where --hybrid retrieves from; add --hybrid")
    memory.set_budget(arguments.memory)
    settings = read_settings(arguments.run)
    changes = {k: v for k, v in vars(arguments).items() if k in ("samples", "seed") and v is not None}
    settings = override(settings, **changes)
    model = LocDiffusion.load(arguments.run, pick_device(arguments.device))
    train, test = load_data(settings)
    if arguments.data:
        test = read_embeddings(arguments.data)
    model.config.check_encoder(test.encoder)
    report(arguments.run, model, train, test, settings, arguments.data, arguments.hybrid, arguments.gallery)


if __name__ == "__main__":
    options.run(main)
