"""The command of the course: progress."""

import typer

from mocapfree_nb.cli.common import say

app = typer.Typer()


@app.command()
def progress() -> None:
    """List the exercises of the course, with difficulty and minutes, and which of them are solved."""
    from mocapfree_nb.exercises import progress_file, summary

    say("\n".join(summary()))
    say(f"kept in {progress_file()}")
