"""Calls of commands within the process of the tests."""

import pytest

from locdiff import options


def outcome(main, argv, capsys):
    """Return the exit code of a command and the lines that it wrote to standard error."""
    with pytest.raises(SystemExit) as stop:
        options.run(lambda: main(argv))
    return stop.value.code, capsys.readouterr().err.strip().splitlines()


def succeed(main, argv, capsys):
    """Return what a command wrote, as (standard output, standard error); it must end with code 0."""
    try:
        options.run(lambda: main(argv))
    except SystemExit as stop:
        assert stop.code in (None, 0), (stop.code, capsys.readouterr().err)
    return tuple(capsys.readouterr())
