"""The command `locdiff` and what it leads to: help, options and exit codes."""

import argparse
import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
import torch
from support.commands import outcome

from locdiff import __main__, options
from locdiff.errors import InputError
from locdiff.training.settings import Settings

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
MODULES = [f"locdiff.{name}" for name in __main__.COMMANDS]


@pytest.fixture
def locdiff(monkeypatch):
    """Run the command `locdiff` with some arguments."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["locdiff", *arguments])
        __main__.main()

    return run


def test_the_console_script_is_there():
    module, name = tomllib.loads(PYPROJECT.read_text())["project"]["scripts"]["locdiff"].split(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_locdiff_says_what_there_is(locdiff, capsys, arguments):
    locdiff(*arguments)
    out = capsys.readouterr().out
    assert set(__main__.COMMANDS) == {"train", "evaluate", "predict", "embed", "simulation", "publish", "export"}
    assert all(f"locdiff {name}" in out for name in __main__.COMMANDS)


def test_locdiff_hands_its_arguments_on(locdiff, capsys):
    locdiff("train", "--preset", "smoke", "--l-max", "9", "--dry-run")
    assert json.loads(capsys.readouterr().out)["model"]["network"]["l_max"] == 9


def test_the_help_names_the_command_that_was_called(locdiff, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        locdiff("train", "--help")
    assert capsys.readouterr().out.startswith("usage: locdiff train ")
    monkeypatch.setattr(sys, "argv", ["/there/locdiff/train.py"])
    assert options.Parser(prog="python -m locdiff.train").prog == "python -m locdiff.train"


def test_a_command_that_there_is_not_gets_one_line_and_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["locdiff", "trian", "--preset", "smoke"])
    code, lines = outcome(lambda argv: __main__.main(), None, capsys)
    assert code == 2 and len(lines) == 1
    assert "'trian' is no command; there are train, evaluate, predict, embed, simulation, publish, export" in lines[0]


def test_modules_run_as_commands():
    """In one process: each prints its help, says nothing else, and ends with code 0."""
    script = """
import runpy, sys

for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        assert not stop.code, name
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, "locdiff", *MODULES], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert all(f"python -m {module}" in done.stdout for module in MODULES) and "locdiff train" in done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_help_teaches(module, monkeypatch, capsys):
    """Every option says what it is for, and no command explains itself without an example."""
    parsers = []
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(options.Parser, name)
        monkeypatch.setattr(options.Parser, name, lambda self, *a, f=original: (parsers.append(self), f(self, *a))[1])
    command = importlib.import_module(module)
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code in (0, None) and f"python -m {module}" in command.__doc__ and command.__doc__.strip() in out
    for action in parsers[0]._actions:
        assert action.help or not action.option_strings, action
        assert not action.option_strings or any(name in out for name in action.option_strings)


def options_of(cls):
    parser = options.Parser()
    options.add_options(parser, "settings", cls)
    return parser, {action.dest: action for action in parser._actions if action.dest != "help"}


def test_nested_settings_make_flat_options():
    parser, actions = options_of(Settings)
    assert {"l_max", "levels", "batch", "train_views", "sampler"} <= actions.keys() <= options.names(Settings)
    assert not {"encoder", "embed_dim", "cells", "input_gate_snr", "knots"} & actions.keys()  # inferred, or fixed
    for name, action in actions.items():
        assert action.option_strings[0] == "--" + name.replace("_", "-") and "(default " in action.help
        assert action.default is None  # what is not given is not overridden
    assert isinstance(actions["decay"], argparse.BooleanOptionalAction)
    given = "--l-max 9 --levels 3 --no-decay --loss shdd_kl --no-exact-skip --lr 0.5 --color 0.2 --data there"
    values = {name: value for name, value in vars(parser.parse_args(given.split())).items() if value is not None}
    assert values == {
        "l_max": 9, "levels": 3, "decay": False, "loss": "shdd_kl", "exact_skip": False, "lr": 0.5, "color": 0.2,
        "data": "there",
    }  # fmt: skip


@pytest.mark.parametrize("given", ["--l-ma 9", "--l_max 9", "--l-max nine", "--loss l3", "--network 1", "--cells 3"])
def test_options_that_there_are_not_are_refused_on_one_line(given, capsys):
    code, lines = outcome(options_of(Settings)[0].parse_args, given.split(), capsys)
    assert code == 2 and len(lines) == 1 and "(see --help)" in lines[0]


@pytest.fixture
def handlers():
    """The handler of SIGTERM as it was, after a test in which a command sets it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def stop_by(error):
    raise error


ENDS = [
    (lambda: stop_by(InputError("two\n  lines")), 2, ["error: two lines"]),
    (lambda: stop_by(KeyboardInterrupt()), 130, ["interrupted"]),
    (lambda: stop_by(KeyboardInterrupt("stopped at step 7")), 130, ["stopped at step 7"]),
    (lambda: os.kill(os.getpid(), signal.SIGTERM), 130, ["interrupted"]),
    (lambda: stop_by(SystemExit(3)), 3, []),
]


@pytest.mark.parametrize(("main", "code", "said"), ENDS, ids=["input", "ctrl-c", "with a message", "sigterm", "exit"])
def test_a_command_ends_with_a_line_and_a_code(main, code, said, capsys, handlers):
    assert outcome(lambda argv: main(), None, capsys) == (code, said)


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device", "log.csv")


def too_large():
    torch.empty(2**60)


@pytest.mark.parametrize(
    ("main", "message"),
    [
        (full_disk, r"error: cannot write log.csv: .*No space left on device.*; make room there"),
        (lambda: stop_by(OSError(errno.ENOSPC, "No space left")), r"error: cannot write the standard output: "),
        (too_large, r"error: not enough memory: .*; lower --memory, --batch or the size of the model"),
        (lambda: stop_by(MemoryError()), r"error: not enough memory: nothing is left; lower --memory"),
    ],
    ids=["disk", "output", "torch", "python"],
)
def test_a_full_disk_or_memory_is_one_line(main, message, capsys, handlers):
    code, lines = outcome(lambda argv: main(), None, capsys)
    assert code == 2 and len(lines) == 1 and re.match(message, lines[0]), lines


def test_other_errors_of_the_system_are_not_hidden(handlers):
    for error in (OSError(errno.EBADF, "Bad file descriptor"), RuntimeError("a mistake")):
        with pytest.raises(type(error)):
            options.run(lambda error=error: stop_by(error))


def test_a_warning_is_one_line(capsys, handlers):
    def warn():
        warnings.simplefilter("default")
        warnings.warn("two\n  lines", stacklevel=1)

    options.run(warn)
    assert capsys.readouterr().err == "warning: two lines\n"


def test_a_closed_output_is_named(monkeypatch, capsys, handlers):
    monkeypatch.setattr(sys, "stdout", None)
    code, lines = outcome(lambda argv: print("more"), None, capsys)
    assert code == 2 and lines == ["error: the standard output is closed; send it to a file, or to /dev/null"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_what_is_printed_is_written_out_before_the_end(monkeypatch, capsys, handlers):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, lines = outcome(lambda argv: print("more"), None, capsys)
        monkeypatch.undo()
    assert code == 2 and len(lines) == 1 and "cannot write the standard output: " in lines[0]


def test_a_reader_that_has_had_enough_is_no_error(tmp_path, monkeypatch, capsys, handlers):
    """As `| head` is; what is still to be written goes nowhere."""
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stop:
            options.run(lambda: stop_by(BrokenPipeError()))
        print("more", file=out, flush=True)
        monkeypatch.undo()
    assert stop.value.code == 141 and (tmp_path / "out").read_text() == "" and capsys.readouterr().err == ""


def test_an_error_of_the_program_is_not_hidden(handlers):
    with pytest.raises(ZeroDivisionError):
        options.run(lambda: stop_by(ZeroDivisionError()))
