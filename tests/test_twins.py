"""Every public function and class of the reference has its twin in locdiff, with the same name and parameters.

The modules of `locdiff.sphere` and `locdiff.model` are tested against it by value and gradient.
"""

import inspect
import pkgutil
from importlib import import_module

import pytest

import reference
from locdiff import model, sphere

MODULES = [module.name for module in pkgutil.iter_modules(reference.__path__)]
ONLY_IN_THE_REFERENCE = {
    "explicit_spherical_harmonics",  # the paper's unstable formula, for a figure
    "normalized_legendre",  # a loop over (l, m); locdiff has it vectorised and private
}
BY_VALUE_ONLY = {"hierarchy"}  # one picture at a time; `refined_posterior` is the twin of all of it


def public(module, kind):
    """The public functions or classes that a module defines."""
    found = inspect.getmembers(module, kind)
    return {name: one for name, one in found if one.__module__ == module.__name__ and not name.startswith("_")}


def twin_of(name):
    """The module of locdiff that is the twin of a module of the reference."""
    (package,) = (p for p in (sphere, model) if any(m.name == name for m in pkgutil.iter_modules(p.__path__)))
    return import_module(f"{package.__name__}.{name}")


def share_parameters(ours, theirs, name):
    wanted, given = (list(inspect.signature(f).parameters.values()) for f in (theirs, ours))
    assert [p.name for p in given[: len(wanted)]] == [p.name for p in wanted], name
    assert [p.default for p in given[: len(wanted)]] == [p.default for p in wanted], name
    assert all(p.default is not p.empty for p in given[len(wanted) :]), f"{name}: what locdiff adds is optional"


def test_the_walk_sees_all_modules():
    assert {"coordinates", "spherical_harmonics", "shdd", "decoder", "diffusion", "zoom"} == {*MODULES} - BY_VALUE_ONLY


@pytest.mark.parametrize("name", sorted({*MODULES} - BY_VALUE_ONLY))
def test_twins_share_names_and_parameters(name):
    ours, theirs = twin_of(name), import_module(f"reference.{name}")
    functions, classes = public(theirs, inspect.isfunction), public(theirs, inspect.isclass)
    assert functions
    for function in functions:
        if function in ONLY_IN_THE_REFERENCE:
            assert not hasattr(ours, function)
        else:
            share_parameters(getattr(ours, function), functions[function], function)
    for kind in classes.values():
        twin = getattr(ours, kind.__name__)
        methods = {m for m in vars(kind) if inspect.isfunction(vars(kind)[m])}
        assert methods
        for method in methods:
            share_parameters(getattr(twin, method), getattr(kind, method), f"{kind.__name__}.{method}")


def test_samplers_have_the_same_names():
    ours, theirs = twin_of("diffusion").SAMPLERS, import_module("reference.diffusion").SAMPLERS
    assert {name: make.__name__ for name, make in ours.items()} == {
        name: make.__name__ for name, make in theirs.items()
    }
