"""Publish a run on the Hugging Face Hub, with a card that says what the model is, and how good.

python -m locdiff.publish RUN OWNER/NAME                   upload the model; `predict OWNER/NAME ...` then takes it
python -m locdiff.publish RUN OWNER/NAME --private         the same, for you alone
python -m locdiff.publish RUN OWNER/NAME --dry-run DIR     upload nothing: write what would be into a folder

It uploads config.json, model.safetensors, calibration.png and README.md, the card, which is written from the run: data
with licence and credit, encoder, settings, scores, use, misuse and limits. What the program does not know is "not
stated, fill in". No other file is uploaded. A token of the Hub is taken from HF_TOKEN, or from hf auth login.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from locdiff import options
from locdiff.errors import InputError
from locdiff.evaluation.run_card import facts_of
from locdiff.files import read_json
from locdiff.model.card import NOT_STATED, model_card
from locdiff.model.hub import check_name, check_token, upload
from locdiff.model.locdiffusion import LocDiffusion
from locdiff.training.loop import check_finished
from locdiff.training.settings import read_settings


def make_parser():
    """Return the parser of the command line."""
    parser = options.Parser(prog="python -m locdiff.publish", description=__doc__)
    parser.add_argument("run", type=options.path, metavar="RUN", help="folder of a training run that has ended")
    parser.add_argument("name", type=options.text, metavar="OWNER/NAME", help="of the model on the Hub; made if new")
    parser.add_argument("--private", action="store_true", help="make a new model that only you can see")
    parser.add_argument("--dry-run", type=options.path, metavar="DIR", help="write the folder, and upload nothing")
    return parser


def main(argv=None):
    """Run the command line; return the address of the model, or the folder of a dry run."""
    arguments = make_parser().parse_args(argv)
    check_name(arguments.name)
    if arguments.dry_run:
        if arguments.dry_run.exists():
            raise InputError(f"{arguments.dry_run} exists already; choose another folder")
        card = write_folder(arguments.run, arguments.name, arguments.dry_run)
        print(f"written: {', '.join(str(path) for path in sorted(arguments.dry_run.iterdir()))}; nothing was uploaded")
        _say_what_is_open(card)
        return arguments.dry_run
    check_token()
    with tempfile.TemporaryDirectory() as folder:
        card = write_folder(arguments.run, arguments.name, Path(folder))
        address = upload(Path(folder), arguments.name, f"Add {arguments.name}", private=arguments.private or None)
    print(f"published: {address}")
    _say_what_is_open(card)
    return address


def write_folder(run: Path, name: str, folder: Path) -> str:
    """Write what is published of a run into a folder: the model, its card and calibration.png; return the card.

    Raises InputError if there is no such run, if it has not ended, or if its files cannot be read.
    """
    if not run.is_dir():
        raise InputError(f"there is no folder {run}: give the folder of a training run")
    settings = read_settings(run)
    check_finished(run)
    model, metrics = LocDiffusion.from_pretrained(run, "cpu"), run / "metrics.json"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        facts = facts_of(settings, model.config, parameters, read_json(metrics) if metrics.exists() else None)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        remedy = f"python -m locdiff.evaluate {run} writes it anew"
        raise InputError(f"{metrics} is no report of this version ({error!r}): {remedy}") from None
    model.save_pretrained(folder)
    if facts.results:
        _copy(run / "calibration.png", folder)
    card = model_card(name, model.config, facts)
    card.save(folder / "README.md")
    return card.content


def _copy(path, folder):
    if not path.exists():
        raise InputError(f"{path} is missing: python -m locdiff.evaluate {path.parent} draws it")
    shutil.copyfile(path, folder / path.name)


def _say_what_is_open(card):
    """Say how much of the card is still to be filled in."""
    if count := card.count(NOT_STATED):
        print(f"README.md has '{NOT_STATED}' {count} times; edit the card", file=sys.stderr)


if __name__ == "__main__":
    options.run(main)
