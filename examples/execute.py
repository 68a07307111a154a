"""Execute the notebooks of this folder from top to bottom and write their outputs back.

python examples/execute.py                  all of them
python examples/execute.py sphere           one of them, by its name or its path

Each notebook runs on a new kernel in an empty temporary folder, which is removed afterwards with all that it made. If a
cell fails, the notebook stays as it was, and the command says which cell it is and ends with code 1. The packages
nbclient, nbformat and ipykernel are needed: pip install -e ".[test]".
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

FOLDER = Path(__file__).parent
CELL_SECONDS = 600  # that a cell may take
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PROGRESS = re.compile(r"\d+%\||\d+it \[")  # a line of a progress bar


class Failed(Exception):
    """What stops a notebook, in words for its reader."""


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in a file with the outputs of a new run. Raises Failed if it cannot be read or a cell fails.

    The outputs hold no progress bars and no times, so that a second run changes only what is computed otherwise.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False,
            resources={"metadata": {"path": folder}},
        )  # fmt: skip
        try:
            client.execute(env=os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder))
        except CellExecutionError as error:
            raise Failed(f"{path}: {_which_cell(notebook)} failed with {error.ename}: {error.evalue}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise Failed(f"{path}: {_which_cell(notebook)} did not end: {error}") from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def read(path: Path) -> nbformat.NotebookNode:
    """Return the notebook in a file. Raises Failed if there is none."""
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (OSError, UnicodeDecodeError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise Failed(f"{path} cannot be read as a notebook: {error}") from None
    return notebook


def tidy(outputs: list) -> list:
    """Return the outputs of a cell with what was written in pieces to one stream joined, and without progress bars."""
    tidied: list = []
    for output in outputs:
        if output.output_type != "stream":
            tidied.append(output)
        elif tidied and tidied[-1].get("name") == output.name:
            tidied[-1].text += output.text
        else:
            tidied.append(output.copy())
    for output in tidied:
        if output.output_type == "stream":
            lines = re.split(r"[\r\n]+", output.text)
            output.text = "".join(f"{line}\n" for line in lines if line.strip() and not PROGRESS.search(line))
    return [output for output in tidied if output.get("text") != ""]


def _which_cell(notebook):
    """Return the last cell that was started, by its number from the top and its first line."""
    started = [i for i, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code" and cell.execution_count]
    if not started:
        return "the kernel before the first cell"
    return f"cell {started[-1]} ({notebook.cells[started[-1] - 1].source.splitlines()[0]!r})"


def find(names: list[str]) -> list[Path]:
    """Return the files of notebooks by names or paths; without any, all of this folder. Raises Failed for others."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.ipynb"))}
    found = [known.get(name, Path(name)) for name in names] or list(known.values())
    for path in found:
        if not path.is_file():
            raise Failed(f"there is no notebook '{path}'; give a path, or one of {', '.join(known)}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a name or a path (default: all)")
    try:
        for path in find(parser.parse_args(argv).notebooks):
            notebook = execute(path)
            nbformat.write(notebook, path)
            print(f"{path}: executed, {path.stat().st_size / 1000:.0f} kB")
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
