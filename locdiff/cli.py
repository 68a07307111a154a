"""What the commands share: errors a user can mend, on one line; options made from dataclasses; the way out."""

import argparse
import dataclasses
import os
import signal
import sys
import types
import typing


class InputError(ValueError):
    """Something the user gave cannot be used; the message names the file, the value and the remedy."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a wrong option on one line, and spells no option by its beginning."""

    def __init__(self, **options):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **options)

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def option(default, help, choices=None):
    """A dataclass field that becomes a command-line option."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def add_options(parser, title, settings):
    """Add an option for every field of the dataclass `settings`: its metadata hold help and choices."""
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if "help" not in field.metadata:
            continue
        kind = hints[field.name]
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


def run(main):
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
