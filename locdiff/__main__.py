"""The command `locdiff`: its first argument names one of the commands, and the rest goes to it.

  locdiff train      train a model                          locdiff embed       turn pictures into embeddings
  locdiff predict    where were these pictures taken?       locdiff simulation  make a simulation of photographs
  locdiff evaluate   score a run or anybody's predictions   locdiff publish     put a run on the Hugging Face Hub
  locdiff export     a model as one file for other programs

`locdiff train --help` says more, as does `python -m locdiff.train --help`, which is the same command.
"""

import importlib
import sys

from locdiff import options
from locdiff.errors import InputError

COMMANDS = ("train", "evaluate", "predict", "embed", "simulation", "publish", "export")


def main() -> None:
    """Run the command that the first argument names; without one, print what there is."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print((__doc__ or "").strip())
        return
    if name not in COMMANDS:
        raise InputError(f"'{name}' is no command; there are {', '.join(COMMANDS)}")
    importlib.import_module(f"locdiff.{name}").main(rest)


def run() -> None:
    """Run `main` as a command; see `options.run`."""
    options.run(main)


if __name__ == "__main__":
    run()
