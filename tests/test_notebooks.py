"""The notebooks of examples/: they run from top to bottom, and what they print is what their text claims."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from examples import execute

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NAMES = ("quickstart", "sphere")
SHORT = {"quickstart": "NAMES, HELD_OUT, STEPS = 2_500, 200, 40", "sphere": "PLACES = 100"}
MACHINE = re.compile(r"/(?:work|tmp|home|root|Users|var|usr|opt|mnt)/|[A-Z]:\\|site-packages|ipykernel_\d")
LARGEST_KB = 700


def run(*notebooks):
    """Run the command on notebooks, with this checkout's locdiff; return what subprocess.run returns."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(EXAMPLES / "execute.py"), *map(str, notebooks)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def committed(name):
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Both notebooks with a shorter training and fewer places, after the command has run them."""
    folder, paths = tmp_path_factory.mktemp("notebooks"), []
    for name in NAMES:
        notebook = committed(name)
        [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
        cell.source = SHORT[name]
        for code in notebook.cells:
            if code.cell_type == "code":
                code.outputs, code.execution_count = [], None
        paths.append(folder / f"{name}.ipynb")
        nbformat.write(notebook, paths[-1])
    done = run(*paths)
    assert done.returncode == 0, done.stderr
    return {path.stem: nbformat.read(path, as_version=4) for path in paths}


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook):
    """Return all that the cells printed."""
    return "".join(one.text for one in outputs(notebook) if one.output_type == "stream" and one.name == "stdout")


def numbers(pattern, text):
    """Return the groups of all matches of a pattern as numbers, a list of tuples; there must be some."""
    found = re.findall(pattern, text)
    assert found, pattern
    return [tuple(float(part.replace(",", "")) for part in (m if isinstance(m, tuple) else (m,))) for m in found]


def check_coverage(text, times):
    """Regions of 50 and 90 % hold so many truths, give or take `times` what chance does in 95 % of cases."""
    found = numbers(r"regions of (\d+)% hold the truth of ([\d.]+) %.*\(chance: \+-([\d.]+)\)", text)
    assert [share for share, *_ in found] == [50, 90]
    assert all(abs(held - share) <= times * chance for share, held, chance in found), found


def check_quickstart(text, gain, times, area_ratio):
    """The name gains nats over the prior; regions hold the truth as often as they say; a strange word has a large one.

    The bounds depend on how long the training was.
    """
    [(prior,)], [(model,)] = numbers(r"prior ([\d.]+) nats", text), numbers(r"model ([\d.]+) nats", text)
    [(printed_gain,)] = numbers(r"gains ([\d.-]+) nats", text)
    assert model - prior > gain and printed_gain == pytest.approx(model - prior, abs=0.011)
    check_coverage(text, times)
    areas = dict(re.findall(r"(\S.*): 50 % in ([\d.]+) million", text))
    assert list(areas) == ["San José", "Springfield", "Oberkirchen", "Abc"]
    assert float(areas["Oberkirchen"]) == min(map(float, areas.values()))
    assert float(areas["Abc"]) > area_ratio * float(areas["Oberkirchen"])


def check_sphere(text, error):
    """The errors of decoding are the bound's, give or take a share `error`; all else is exact, or nearly so."""
    [(*lengths, expected)] = numbers(r"squared lengths: \[([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)\].*= ([\d.]+)", text)
    assert lengths == pytest.approx([expected] * 4)
    widths = dict(numbers(r"l_max +(\d+):.*width +([\d,]+) km", text))
    assert (widths[15], widths[23], widths[31]) == (419, 185, 104)  # docs/reproduction.md
    assert widths[15] / widths[47] == pytest.approx(9, rel=0.02)  # as 1 / (L + 1)^2
    halves = [share for (share,) in numbers(r"within 2,000 km of \w+: ([\d.]+)", text)]
    assert halves == pytest.approx([0.5, 0.5], abs=0.01)
    [(anchor,)], [(mode,)] = numbers(r"anchors: ([\d.]+) km", text), numbers(r"exact mode: ([\d.]+) mm", text)
    assert mode < 1 and 1 < anchor < 200
    [(measured, root)] = numbers(r"each radian: ([\d.]+); sqrt\(K2\) = ([\d.]+)", text)
    assert measured == pytest.approx(root, rel=1e-4)
    found = numbers(r"l_max +(\d+): mean error +([\d.]+) km, bound +([\d.]+) km", text)
    assert len(found) == 6 and all(measured == pytest.approx(bound, rel=error) for _, measured, bound in found), found
    check_coverage(text, 1.5)
    [(moved, formula)] = numbers(r"becomes ([\d.]+) degrees; by the formula ([\d.]+)", text)
    assert moved == formula and 7.9 < moved < 8
    assert numbers(r"there and back: off by at most ([\d.]+) mm", text)[0][0] < 1
    assert numbers(r"integral of the factor / 4 pi: ([\d.]+)", text)[0][0] == pytest.approx(1, abs=1e-3)
    plain, zoomed = (width for _, width in numbers(r"zoom (\d): width ([\d.]+) km", text))
    assert plain == pytest.approx(widths[23], abs=0.5) and zoomed == pytest.approx(plain / 8, rel=0.01)


def test_the_quickstart_runs_and_prints_what_it_claims(executed):
    check_quickstart(printed(executed["quickstart"]), gain=0.3, times=2.0, area_ratio=2)


def test_the_sphere_runs_and_prints_what_it_claims(executed):
    check_sphere(printed(executed["sphere"]), error=0.16)  # three standard errors of 100 places


def test_the_committed_quickstart_prints_what_it_claims():
    check_quickstart(printed(committed("quickstart")), gain=1.2, times=1.5, area_ratio=5)


def test_the_committed_sphere_prints_what_it_claims():
    check_sphere(printed(committed("sphere")), error=0.08)  # of 400 places


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_has_the_outputs_of_one_run_from_top_to_bottom(name):
    notebook = committed(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert any("image/jpeg" in one.get("data", {}) for one in outputs(notebook))
    assert notebook.metadata == execute.METADATA and not [cell for cell in code if "execution" in cell.metadata]


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_has_no_error_and_nothing_of_the_machine(name):
    notebook, path = committed(name), EXAMPLES / f"{name}.ipynb"
    assert path.stat().st_size < 1000 * LARGEST_KB
    for output in outputs(notebook):
        data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
        words = output.get("text", "") + json.dumps(data)
        assert output.output_type != "error" and "Warning" not in words
        assert not MACHINE.search(words) and not execute.PROGRESS.search(words), words


@pytest.mark.parametrize("name", NAMES)
def test_the_links_of_a_notebook_lead_to_files(name):
    text = "\n".join(cell.source for cell in committed(name).cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links and [link for link in links if not (EXAMPLES / link).exists()] == []


def test_a_cell_that_fails_is_named_and_the_notebook_stays_as_it_was(tmp_path):
    path = tmp_path / "broken.ipynb"
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x / 0", "x")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_bytes()
    done = run(path)
    assert done.returncode == 1 and path.read_bytes() == before
    assert done.stderr.splitlines()[-1] == f"{path}: cell 2 ('x / 0') failed with ZeroDivisionError: division by zero"


def test_what_is_no_notebook_is_refused(tmp_path, capsys):
    (tmp_path / "words.ipynb").write_text("words")
    assert execute.main(["absent"]) == 1
    assert "no notebook 'absent'; give a path, or one of quickstart, sphere" in capsys.readouterr().err
    assert execute.main([str(tmp_path / "words.ipynb")]) == 1
    assert "words.ipynb cannot be read as a notebook" in capsys.readouterr().err


def test_outputs_are_joined_and_lose_progress_bars():
    pieces = [
        ("stderr", "\rtraining:  50%|###   | 1/2 [00:01<00:01]"),
        ("stderr", "\rtraining: 100%|######| 2/2\nthe "),
        ("stderr", "end\n"),
        ("stdout", "50 %\n"),
        ("stderr", "\r  0%|   | 0/2"),
    ]
    streams = [nbformat.v4.new_output("stream", name=name, text=text) for name, text in pieces]
    tidied = execute.tidy(streams)
    assert [(one.name, one.text) for one in tidied] == [("stderr", "the end\n"), ("stdout", "50 %\n")]
