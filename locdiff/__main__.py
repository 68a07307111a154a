"""The command `locdiff`: its first argument names one of the commands, and the rest goes to it.

A command is a file beside this one with a function `main`. The help shows the first line of its docstring.
"""

import ast
import importlib
import sys
from pathlib import Path

from locdiff import options
from locdiff.errors import InputError


def find_commands(folder: Path) -> dict[str, str]:
    """Return the commands in a folder, {name: first line of the docstring}, in the order of their names.

    The files are read, not imported.
    """
    found = {}
    for path in sorted(folder.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


COMMANDS = find_commands(Path(__file__).parent)


def usage() -> str:
    """Return the help: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  locdiff {name:{width}}  {line}" for name, line in COMMANDS.items()]
    more = "`locdiff train --help` says more, as does `python -m locdiff.train --help`, which is the same command."
    return "\n".join(["usage: locdiff COMMAND ...", "", *lines, "", more])


def main() -> None:
    """Run the command that the first argument names; without one, print what there is."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        raise InputError(f"'{name}' is no command; there are {', '.join(COMMANDS)}")
    importlib.import_module(f"locdiff.{name}").main(rest)


def run() -> None:
    """Run `main` as a command; see `options.run`."""
    options.run(main)


if __name__ == "__main__":
    run()
