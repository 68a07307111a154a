"""Nested settings by flat names, and as records."""

import dataclasses
import json
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locdiff import options
from locdiff.errors import InputError
from locdiff.model.config import ModelConfig
from locdiff.training.settings import PRESETS, Settings, override, resolve


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    rate: float = 0.5


@dataclass(frozen=True)
class Middle:
    inner: Inner = field(default_factory=Inner)
    name: str = "a"


@dataclass(frozen=True)
class Outer:
    middle: Middle
    flag: bool = True


KINDS = {
    "depth": st.integers(-(2**63) + 1, 2**63 - 1),
    "rate": st.floats(allow_nan=False, allow_infinity=False),
    "name": st.text(),
    "flag": st.booleans(),
}


@given(st.fixed_dictionaries({}, optional=KINDS))
def test_nest_and_flatten_are_inverses_and_records_come_back_through_json(values):
    nested = options.nest(Outer, values)
    assert options.flatten(nested) == options.flatten(Outer(Middle())) | values
    assert options.nest(Outer, options.flatten(nested)) == nested
    assert nested.middle.inner.depth == values.get("depth", 1) and nested.middle.name == values.get("name", "a")
    assert options.from_record(Outer, json.loads(json.dumps(dataclasses.asdict(nested)))) == nested
    assert options.names(Outer) == set(KINDS)


def count_fields(cls):
    inner = options.groups(cls)
    return len(dataclasses.fields(cls)) - len(inner) + sum(count_fields(kind) for kind in inner.values())


@pytest.mark.parametrize("cls", [ModelConfig, Settings])
def test_no_two_settings_share_a_flat_name(cls):
    assert count_fields(cls) == len(options.names(cls))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_flat_values_of_settings(preset):
    settings = resolve(preset)
    flat = options.flatten(settings)
    assert options.nest(Settings, flat) == settings and PRESETS[preset].items() <= flat.items()
    record = json.loads(json.dumps(dataclasses.asdict(settings)))
    assert options.from_record(Settings, record) == settings


def test_values_are_changed_wherever_they_are():
    changed = override(resolve("smoke"), l_max=5, batch=32, color=0.5)
    assert (changed.model.network.l_max, changed.training.batch, changed.blue_marble.color) == (5, 32, 0.5)
    assert override(changed, l_max=7, batch=64, color=0.1) == resolve("smoke")


def test_unknown_names_are_refused():
    for make in (lambda v: options.nest(ModelConfig, v), lambda v: options.from_record(ModelConfig, v)):
        with pytest.raises(TypeError, match="colour"):
            make({"colour": 1})
    with pytest.raises(TypeError, match="colour"):
        options.from_record(ModelConfig, {"network": {"colour": 1}})
    with pytest.raises(TypeError, match="ModelConfig has no network"):
        options.nest(ModelConfig, {"network": {"l_max": 3}})  # a group is no flat name
    with pytest.raises(TypeError, match="colour"):
        override(resolve("smoke"), colour=1)
    with pytest.raises(InputError, match="colour"):
        resolve("smoke", colour=1)


@dataclass(frozen=True)
class Mixed:
    count: int = 1
    rate: float = 0.5
    flag: bool = True
    name: str = "a"
    widths: tuple[float, ...] = (1.0,)
    most: int | None = None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 7.5}, "count must be a whole number, got 7.5"), ({"count": True}, "count must be a whole number"),
        ({"count": "7"}, "count must be a whole number, got '7'"), ({"count": None}, "count must be a whole number"),
        ({"count": 2**63}, "count must be a whole number of at most 64 bits"), ({"rate": "1"}, "rate must be a finite"),
        ({"rate": math.inf}, "rate must be a finite number, got inf"), ({"rate": math.nan}, "rate must be a finite"),
        ({"rate": 10**400}, "rate must be a finite number"), ({"flag": 1}, "flag must be true or false, got 1"),
        ({"name": ["a"]}, "name must be text, got"), ({"widths": 5}, "widths must be a list, got 5"),
        ({"widths": [1.0, "a"]}, "each of widths must be a finite number, got 'a'"),
        ({"widths": "ab"}, "widths must be a list, got 'ab'"),
        ({"most": 1.5}, "most must be a whole number, got 1.5"),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_another_kind_are_refused_by_name(wrong, message):
    for make in (options.nest, options.from_record):
        with pytest.raises(InputError, match=message):
            make(Mixed, wrong)


def test_values_of_their_kind_are_taken():
    right = {"count": -3, "rate": 2, "flag": False, "name": "", "widths": [1, 2.5], "most": None}
    assert options.from_record(Mixed, right) == options.nest(Mixed, right) == Mixed(**right)
    assert options.nest(Mixed, {"most": 3}).most == 3


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (options.whole(1), "0", "must be at least 1, got 0"), (options.whole(0), "-1", "must be at least 0, got -1"),
        (options.whole(1, 9), "10", "must be at most 9, got 10"), (options.whole(0), str(2**63), "must be at most"),
        (options.whole(1), "7.5", "invalid int value: '7.5'"), (options.text, "", "it is empty"),
        (options.path, "", "it is empty"),
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(kind, given, message, capsys):
    parser = options.Parser()
    parser.add_argument("--it", type=kind)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--it={given}"])
    assert f"argument --it: {message}" in capsys.readouterr().err
