"""Command lines from dataclasses: a group of settings may nest others, its options stay flat."""

import argparse
import dataclasses
import os
import signal
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from locdiff.errors import InputError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a wrong option on one line, and spells no option by its beginning."""

    def __init__(self, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def option(default, help: str, choices=None) -> Any:
    """Return a dataclass field that becomes a command-line option."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def groups(cls) -> dict[str, type]:
    """Return the dataclasses nested in a dataclass, {field name: type}."""
    return {name: kind for name, kind in typing.get_type_hints(cls).items() if dataclasses.is_dataclass(kind)}


def add_options(parser: Parser, title: str, cls) -> None:
    """Add an option for every field of a dataclass, and of those nested in it, that `option` made."""
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "help" in field.metadata:
            _add_option(group, field, hints[field.name])
    for name, kind in groups(cls).items():
        add_options(parser, name.replace("_", " "), kind)


def _add_option(group, field, kind):
    if isinstance(kind, types.UnionType):  # `int | None`
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    options = {"default": None, "help": f"{field.metadata['help']} (default {field.default})", "dest": field.name}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options |= {"type": kind, "choices": field.metadata.get("choices")}
        if not options["choices"]:
            options["metavar"] = kind.__name__.upper()
    group.add_argument("--" + field.name.replace("_", "-"), **options)


def names(cls) -> set[str]:
    """Return the names of all values that a dataclass, and those nested in it, hold."""
    own = {field.name for field in dataclasses.fields(cls)} - set(groups(cls))
    return own.union(*(names(kind) for kind in groups(cls).values()))


def nest(cls, values: dict[str, Any]):
    """Return the dataclass whose values, at whatever depth, have these flat names; the others keep their defaults.

    Raises TypeError for names that it does not hold.
    """
    unknown = set(values) - names(cls)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    inner = groups(cls)
    made = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values and f.name not in inner}
    for name, kind in inner.items():
        made[name] = nest(kind, {flat: values[flat] for flat in names(kind) & set(values)})
    return cls(**made)


def flatten(settings) -> dict[str, Any]:
    """Return the values of a dataclass by their flat names: the inverse of `nest`."""
    inner, flat = groups(type(settings)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        flat |= flatten(value) if field.name in inner else {field.name: value}
    return flat


def from_record(cls, record: dict[str, Any]):
    """Return the dataclass that `dataclasses.asdict` made `record` of. Raises TypeError where they do not fit."""
    if not isinstance(record, dict):
        raise TypeError(f"{cls.__name__} needs names and values, got {record!r}")
    inner = groups(cls)
    return cls(**{name: from_record(inner[name], v) if name in inner else v for name, v in record.items()})


def run(main: Callable[[], Any]) -> None:
    """Call main() as a command: an InputError ends it with one line and code 2, Ctrl-C or SIGTERM with code 130."""

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        main()
    except InputError as error:
        sys.exit(_fail(f"error: {error}", 2))
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt as interruption:
        sys.exit(_fail(str(interruption) or "interrupted", 130))


def _fail(message, code):
    print(" ".join(message.split()), file=sys.stderr)
    return code
