"""Command lines from dataclasses: a group of settings may nest others, its options stay flat."""

import argparse
import contextlib
import dataclasses
import errno
import gc
import os
import signal
import sys
import types
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locdiff.errors import InputError

LARGEST = 2**63 - 1  # whole number
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk
NO_MEMORY = ("out of memory", "allocate memory")  # in what torch says
KINDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", tuple: "a list"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a wrong option on one line, and spells no option by its beginning.

    `prog` is "python -m locdiff.NAME"; the help says `locdiff NAME` if the command was called by that name.
    """

    def __init__(self, prog: str | None = None, **options):
        if prog and Path(sys.argv[0]).stem == "locdiff":
            prog = prog.replace("python -m locdiff.", "locdiff ")
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def text(value: str) -> str:
    """Return an argument as it is. Raises ArgumentTypeError if it is empty, as a shell's unset variable is."""
    if not value:
        raise argparse.ArgumentTypeError("it is empty")
    return value


def path(value: str) -> Path:
    """Return an argument as a Path. Raises ArgumentTypeError if it is empty."""
    return Path(text(value))


def whole(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """Return the type of an argument that is a whole number from `least` to `most`."""

    def number(value):
        if not least <= int(value) <= most:
            limit = f"at least {least}" if int(value) < least else f"at most {most}"
            raise argparse.ArgumentTypeError(f"must be {limit}, got {value}")
        return int(value)

    number.__name__ = "int"  # as argparse names it where int(value) fails
    return number


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
    kind = _plain(kind)
    options = {"default": None, "help": f"{field.metadata['help']} (default {field.default})", "dest": field.name}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options |= {"type": text if kind is str else kind, "choices": field.metadata.get("choices")}
        if not options["choices"]:
            options["metavar"] = kind.__name__.upper()
    group.add_argument("--" + field.name.replace("_", "-"), **options)


def names(cls) -> set[str]:
    """Return the names of all values that a dataclass, and those nested in it, hold."""
    own = {field.name for field in dataclasses.fields(cls)} - set(groups(cls))
    return own.union(*(names(kind) for kind in groups(cls).values()))


def _plain(kind):
    """The kind of a field that may also be None: `int | None`."""
    if isinstance(kind, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    return kind


def check_kinds(cls, values: dict[str, Any]) -> None:
    """Raise InputError unless values are of the kinds of the fields, {name: value}; floats must be finite."""
    for name, hint in typing.get_type_hints(cls).items():
        if name in values and not (values[name] is None and isinstance(hint, types.UnionType)):
            _check_kind(name, values[name], _plain(hint))


def _check_kind(name, value, kind):
    number = isinstance(value, int | float) and not isinstance(value, bool)
    elements, kind = typing.get_args(kind), typing.get_origin(kind) or kind
    fits = {
        int: number and isinstance(value, int) and abs(value) <= LARGEST,
        float: number and abs(value) <= sys.float_info.max,
        tuple: isinstance(value, list | tuple),
    }
    if kind in KINDS and not fits.get(kind, isinstance(value, kind)):
        large = " of at most 64 bits" * (kind is int and isinstance(value, int) and number)
        raise InputError(f"{name} must be {KINDS[kind]}{large}, got {value!r:.80}")
    for element in value if elements else ():
        _check_kind(f"each of {name}", element, elements[0])


def nest(cls, values: dict[str, Any]):
    """Return the dataclass whose values, at whatever depth, have these flat names; the others keep their defaults.

    Raises TypeError for names that it does not hold, and InputError for values of another kind.
    """
    unknown = set(values) - names(cls)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    inner = groups(cls)
    made = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values and f.name not in inner}
    check_kinds(cls, made)
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
    """Return the dataclass that `dataclasses.asdict` made `record` of.

    Raises TypeError for other names, and InputError for values of another kind.
    """
    if not isinstance(record, dict):
        raise TypeError(f"{cls.__name__} needs names and values, got {record!r}")
    inner = groups(cls)
    check_kinds(cls, {name: value for name, value in record.items() if name not in inner})
    return cls(**{name: from_record(inner[name], v) if name in inner else v for name, v in record.items()})


def run(main: Callable[[], Any]) -> None:
    """Call main() as a command: an InputError, a full disk or too little memory ends it with one line and code 2,
    Ctrl-C or SIGTERM with code 130."""

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    gc.freeze()  # what was imported is never freed: the collector, at the exit too, need not look at it
    try:
        _call(main)
    except InputError as error:
        sys.exit(_fail(f"error: {error}", 2))
    except BrokenPipeError:  # `| head` has read enough
        _drop_output()
        sys.exit(141)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _drop_output()
        sys.exit(_fail(f"error: cannot write {error.filename or 'the standard output'}: {error}; make room there", 2))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        reason = (str(error).splitlines() or ["nothing is left"])[0]
        sys.exit(_fail(f"error: not enough memory: {reason}; lower --memory, --batch or the size of the model", 2))
    except KeyboardInterrupt as interruption:
        sys.exit(_fail(str(interruption) or "interrupted", 130))


def _call(main):
    """Call main(), with warnings on one line each, and write out what it printed, however it ends."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # kept open: else the next file would be what errors are written to
    if sys.stdout is None:
        raise InputError("the standard output is closed; send it to a file, or to /dev/null")
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _fail(f"warning: {message}", 0)
        try:
            main()
        finally:
            sys.stdout.flush()


def _drop_output():
    """Send what is still to be written to the standard output nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message, code):
    print(" ".join(message.split()), file=sys.stderr)
    return code
