"""The command line, a module for each group of commands. `mocapfree --help` is the place to start."""

# Nothing heavy is imported before a command needs it.

import sys
import warnings
from typing import Annotated

import typer

import mocapfree_nb
from mocapfree_nb.cli import adapting, course, measuring, motion, study, training
from mocapfree_nb.cli.common import Stopped, import_module, launched, leave, note, say, say_line
from mocapfree_nb.files import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Teach a text-to-motion diffusion model a new action from sentences alone.

    Start with `mocapfree demo`: it adapts the shipped model to an action it never saw and writes a report.
    Then try your own: `mocapfree adapt --prompt "a person salutes with the right hand" --name salute`.
    """,
)
for group in (adapting, training, measuring, motion, course):
    app.registered_commands += group.app.registered_commands
app.add_typer(study.app, name="study")


def _version(wanted: bool) -> None:
    if wanted:
        say(f"mocapfree_nb {mocapfree_nb.__version__}")
        raise typer.Exit


TOGETHER = ("adapt", "demo", "pretrain")  # commands that several processes share


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
    modules: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Import a module that registers parts of your own.")
    ] = None,
) -> None:
    if launched() and context.invoked_subcommand not in TOGETHER:
        raise UserError(
            f"mocapfree {context.invoked_subcommand} is the work of one process: start it without torchrun or accelerate launch"
        )
    for module in modules or []:
        import_module("--import", module)


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 1, Ctrl-C is 130; warnings are notes of one line."""
    warnings.showwarning = note
    try:
        app()
    except UserError as error:
        say_line(f"mocapfree: {error}")
        sys.exit(1)
    except OSError as error:  # a name that no file can have, a folder that may not be read, a disk that is gone
        say_line(f"mocapfree: cannot use {error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit, Stopped) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer makes this of Ctrl-C, without a word
            raise
        say_line(f"mocapfree: {stop if isinstance(stop, Stopped) else 'stopped'}")
        sys.exit(130)
    finally:
        leave()
