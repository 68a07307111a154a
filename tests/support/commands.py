"""Calls of commands within the process of the tests."""

import pytest

from locdiff import options


def outcome(main, argv, capsys):
    """Return the exit code of a command and the lines that it wrote to standard error."""
    with pytest.raises(SystemExit) as stop:
        options.run(lambda: main(argv))
    return stop.value.code, capsys.readouterr().err.strip().splitlines()
