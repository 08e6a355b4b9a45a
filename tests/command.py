"""The command line in this process, for tests of what it says."""

import sys

from mocapfree_nb import cli


def command(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    "Type a command: exit status, what it printed, what it complained."
    monkeypatch.setattr(sys, "argv", ["mocapfree", *map(str, arguments)])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    captured = capsys.readouterr()
    return status, captured.out, captured.err
