"""Train LocDiffusion: on the embedded Blue Marble views, or on a folder of your own image embeddings.

  python -m locdiff.train                                  quickstart: builds its data, trains, evaluates (CPU, minutes)
  python -m locdiff.train --preset zoom                    with two refinement levels, which refine the location
  python -m locdiff.train --data FOLDER                    the same on embeddings.npy and locations.csv in FOLDER
  python -m locdiff.train --preset paper --data FOLDER     the paper's Table 3 (--l-max 15, 23, 31 or 47)
  python -m locdiff.train --resume runs/quickstart         continue a run that was stopped
  torchrun --nproc_per_node=4 -m locdiff.train ...         the same on four GPUs; the batch is shared out among them

A run is a folder: config.json and model.safetensors (the model, averaged weights), training.json (all settings and
versions), log.csv, state.safetensors (to continue from), and at the end metrics.json, metrics.md, predictions.png.
Ctrl-C and SIGTERM save before it stops. On several nodes every one must see the folders of the data and of the run.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

from locdiff import options
from locdiff.evaluation.report import report
from locdiff.files import only_process
from locdiff.training.distributed import process_group, rank_and_world_size
from locdiff.training.logs import summary_writer
from locdiff.training.loop import fit
from locdiff.training.settings import PRESETS, Settings, infer_data_fields, load_data, read_settings, resolve, start
from locdiff.training.trainer import Trainer
from locdiff.training.validation import split_validation


def parse(argv):
    """Return the settings of the run, new or resumed, and the other arguments."""
    parser = options.Parser(prog="python -m locdiff.train", description=__doc__)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        default="quickstart",
        help="named settings (default quickstart, whose values the help shows)",
    )
    path, text = options.path, options.text
    parser.add_argument("--out", type=path, help="run folder (default runs/PRESET; a number is added if it exists)")
    parser.add_argument("--resume", type=path, metavar="RUN", help="continue the run in this folder, as it was set up")
    parser.add_argument("--device", type=text, help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and stop")
    for name, kind in options.groups(Settings).items():
        options.add_options(parser, name.replace("_", " "), kind)
    arguments = parser.parse_args(argv)
    own = {"preset", "out", "resume", "device", "dry_run"}
    overrides = {name: value for name, value in vars(arguments).items() if value is not None and name not in own}
    if arguments.resume and (overrides or arguments.out):
        parser.error("--resume continues a run as it was set up; it takes no other settings")
    settings = read_settings(arguments.resume) if arguments.resume else resolve(arguments.preset, **overrides)
    return settings, arguments


def main(argv=None):
    """Run the command line; return the run folder."""
    settings, arguments = parse(argv)
    if arguments.dry_run:
        print(json.dumps(dataclasses.asdict(settings), indent=2))
        return None
    if settings.training.tensorboard:
        summary_writer()  # before anything is built
    with contextlib.ExitStack() as held:
        with process_group(arguments.device) as device:
            first = rank_and_world_size()[0] == 0
            train, test = load_data(settings, progress=first)
            known, kept = split_validation(train, settings.training.validation, settings.training.seed)
            settings = infer_data_fields(settings, known)
            trainer = Trainer(settings, known, device, validation=kept)
            try:
                run = _run_folder(arguments, settings, held) if first else arguments.resume
                if arguments.resume:
                    trainer.restore(run)
                if first:
                    _say_plan(run, trainer, kept)
                fit(trainer, run)
            finally:
                trainer.leave()
        if first:
            model = trainer.finished_model()
            model.save_pretrained(run)
            report(run, model, train, test, settings)
    return run


def _run_folder(arguments, settings, held):
    """The run folder, new unless a run is resumed; no other process trains in it until the ExitStack `held` ends."""
    run = arguments.resume or start(settings, arguments.out or Path("runs") / arguments.preset)
    held.enter_context(only_process(run, "training in"))
    return run


def _say_plan(run, trainer, kept):
    shared = f" x {trainer.processes}" if trainer.processes > 1 else ""
    apart = f", {len(kept):,} kept apart" if kept else ""
    plan = f"{len(trainer.train):,} {trainer.train.kind}{apart}, {trainer.steps:,} steps, on {trainer.device}{shared}"
    print(f"{run}: {plan}; whitening with a floor of {trainer.settings.model.network.whiten:g}", file=sys.stderr)


if __name__ == "__main__":
    options.run(main)
