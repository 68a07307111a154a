"""Who may import whom: reference and locdiff never each other, and within a package only what comes before."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MATHEMATICS = ["coordinates", "spherical_harmonics", "shdd", "decoder"]
PIPELINE = [*MATHEMATICS, "location_encoders", "datasets", "model", "train", "evaluate"]


def imported(path):
    """The names of all modules that a file imports, wherever in it: `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package):
    found = sorted((ROOT / package).glob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", files("reference"), ids=lambda path: path.stem)
def test_the_reference_needs_only_numpy_scipy_and_healpy(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert roots <= {"numpy", "scipy", "healpy", "reference", "fractions", "math"}


@pytest.mark.parametrize("path", files("locdiff"), ids=lambda path: path.stem)
def test_locdiff_never_imports_the_reference_nor_the_figures(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"reference", "paper_figures", "tests"}


@pytest.mark.parametrize(("package", "order"), [("reference", MATHEMATICS), ("locdiff", PIPELINE)])
def test_imports_go_one_way(package, order):
    for i, module in enumerate(order):
        later = {f"{package}.{name}" for name in order[i + 1 :]}
        top_level = {name for name in imported(ROOT / package / f"{module}.py")}
        if module == "train":
            later.discard(f"{package}.evaluate")  # main() ends with the evaluation
        assert not top_level & later, module
