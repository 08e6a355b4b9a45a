"""What all groups of commands share: options, what is said and how, folders of runs, errors of the user."""

import hashlib
import importlib
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from mocapfree_nb.files import UserError, printable, where_it_failed


def launched() -> bool:
    """Whether torchrun or `accelerate launch` started this program several times."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def process() -> int:
    """The number of this process among those of a launch; 0 is the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def say(text: object, file=None) -> None:
    """Print lines: all that this program prints goes through here, so that no name or caption controls a terminal.

    Of several processes the main one prints.
    """
    if process():
        return
    for line in str(text).split("\n"):
        print(printable(line, sys.maxsize), file=file, flush=True)


def say_line(text: object) -> None:
    """One line to the person at the terminal, apart from what the command prints (of several processes by the main one)."""
    say(re.sub(r"\s*\n\s*", " ", str(text).strip()), sys.stderr)


def note(message: Warning | str, *_, **__) -> None:
    """A warning as one line."""
    say_line(f"note: {message}")


def check_finite(value: float | None) -> float | None:
    """A number option that is NaN or infinite passes its bounds: refused here, by name of what it is."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def check_ending(out: Path | None, ending: str, what: str) -> None:
    """`UserError` where `--out`, if given, has another ending than that of `what` is written there."""
    if out is not None and out.suffix.lower() != ending:
        raise UserError(f"--out {out}: {what} is written there; give a name that ends in {ending}")


def check_seed(value: int) -> int:
    """A seed that a generator takes."""
    if not 0 <= value < 2**63:
        raise UserError(f"--seed {value}: a seed is a whole number from 0 to 2**63 - 1")
    return value


Corpus = Annotated[str, typer.Option(help="'procedural', 'procedural-b', or a folder: HumanML3D, KIT-ML, BVH, AMASS.")]
MaxFrames = Annotated[int, typer.Option(help="Of longer clips, the middle of this many frames is used.", min=16)]
Device = Annotated[str, typer.Option(help="'cpu', 'cuda', 'cuda:1', 'mps', or 'auto' for the fastest there is.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.", callback=check_seed)]
DenoisingSteps = Annotated[int, typer.Option(help="Denoising steps of a motion.", min=2)]
Solver = Annotated[str, typer.Option(help="Sampler: ddim, ddpm, sde-dpmsolver++, sde-dpmsolver++2m ...")]
Eta = Annotated[
    float | None,
    typer.Option(help="Share of fresh noise of solver ddim, 0 to 1 (default 1).", min=0, max=1, callback=check_finite),
]
MinStd = Annotated[
    float,
    typer.Option(help="Floor under the standard deviation of a noisy denoising step; 0 is none.", min=0, callback=check_finite),
]
FramesPerSecond = Annotated[
    float | None, typer.Option(help="Frames a second (default: the skeleton's).", min=0.1, max=999, callback=check_finite)
]
Iterations = Annotated[
    int | None, typer.Option(help="Iterations of training, or rounds of exploration (default: the settings').", min=1)
]
Track = Annotated[
    str | None, typer.Option("--track", help="Log to a tracker of accelerate too: tensorboard, wandb ... (in the run's folder).")
]
Algorithm = Annotated[
    str, typer.Option(help="How to learn: exploration, ddpo, ddpo-sf, ddpo-is, grpo, raft, draft, dpo or nft (lesson 38).")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the algorithm, as KEY=VALUE; a wrong KEY names those there are; repeat for more."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="File of settings, .json or .toml.")]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.", callback=check_finite)]


def pick_device(name: str) -> str:
    """The device of this name if it is there and computes; "auto" takes the fastest.

    Of several processes, which join here, each gets its own of that kind.
    """
    import torch

    if launched():
        from mocapfree_nb import parallel

        own = parallel.start(cpu=name == "cpu")
        if name in ("auto", own.type):
            return str(own)
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, ImportError) as error:  # what torch says of it runs to a page
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(f"no device {name[:40]!r} here; there is {', '.join(there)}; or use --device auto") from error
    return name


def refuse_finished(folder: Path) -> None:
    """Raise `UserError` where a run is over."""
    if (folder / "report.json").exists():
        raise UserError(f"{folder} is finished: see {folder / 'report.html'}; choose another --name for a new run")


class Stopped(Exception):
    """Ctrl-C, with what can be said of going on."""


def _take_back(folder: Path) -> None:
    """Remove the settings and the empty folders of a run that has kept nothing; whatever else is there stays."""
    (folder / "config.json").unlink(missing_ok=True)
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True) + [folder]:
        with suppress(OSError):
            path.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes to `folder` meanwhile: raises `UserError` where a program that still runs does.

    Of several processes the main one holds the lock. It lies in the machine's folder for temporary files, so that a run leaves
    nothing beside what it made, and goes with the process, however that ends.
    """
    from filelock import FileLock, Timeout

    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"mocapfree-{name}.lock")
    if not process():
        try:
            lock.acquire(timeout=0)
        except Timeout as held:
            raise UserError(f"another program is writing to {folder}: wait for it, or choose another place") from held
        except (OSError, NotImplementedError):  # somebody else's file, or a place without locks: as it was before
            pass
    try:
        yield
    finally:
        lock.release()


@contextmanager
def going_on(folder: Path, checkpoint: str, how: str) -> Iterator[None]:
    """`_alone` in `folder`, and `_leaving_word`."""
    with _alone(folder), _leaving_word(folder, checkpoint, how):
        yield


@contextmanager
def _leaving_word(folder: Path, checkpoint: str, how: str) -> Iterator[None]:
    """Ctrl-C says how work goes on, or that nothing was kept. Whatever stops it before a checkpoint, a new folder goes."""
    fresh = not folder.exists()
    try:
        yield
    except BaseException as stop:
        kept = (folder / checkpoint).exists()
        if fresh and not kept and not process():
            _take_back(folder)  # it may have been a mistake in the command, which is free to use the name again
        if not isinstance(stop, KeyboardInterrupt):
            raise
        if kept:
            raise Stopped(f"stopped; {folder} goes on with {how}") from stop
        raise Stopped("stopped before there was anything to keep; the same command starts again") from stop


def by_main(work: Callable[[], Path]) -> Path:
    """What `work()` gives: of several processes, the main one looks before another has made anything."""
    if not launched():
        return work()
    from mocapfree_nb import parallel

    return parallel.from_main(work)


def leave() -> None:
    """Part from the other processes, where there are any."""
    if launched():
        from mocapfree_nb import parallel

        parallel.stop()


def run_folder(name: str, resume: bool) -> Path:
    """The folder of a run, new or to go on with; `UserError` where it is not what was asked for."""
    return by_main(lambda: _run_folder(name, resume))


def _run_folder(name: str, resume: bool) -> Path:
    if Path(name).name != name or name in ("", ".."):
        raise UserError(f"--name is the name of a folder in runs/, without / or \\, not {name!r}")
    folder = Path("runs") / name
    if resume:
        refuse_finished(folder)
    if folder.exists() and not resume:
        raise UserError(f"{folder} exists: go on with --resume, or choose another --name")
    if resume and not folder.exists():
        raise UserError(f"nothing to resume: {folder} does not exist")
    return folder


def import_module(option: str, name: str) -> ModuleType:
    """The module `name`, also from the folder one is in; `option` is what named it."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError, ValueError) as error:
        raise UserError(f"{option} {name}: {error}") from error
    except Exception as error:  # whatever the code in it does
        raise UserError(f"{option} {name}: {where_it_failed(error)}") from error


def find_function(option: str, name: str) -> Callable:
    """The function named MODULE:FUNCTION, the module also from the folder one is in; `option` is what named it."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise UserError(f"{option} wants MODULE:FUNCTION, not {name!r}")
    try:
        found = getattr(import_module(option, module), function)
    except AttributeError as error:
        raise UserError(f"{option} {name}: {error}") from error
    if not callable(found):
        raise UserError(f"{option} {name}: {function} is not a function but a {type(found).__name__}")
    return found


def read_checks(pairs: list[str]) -> dict:
    """"label=known-label" or "label=module:function" to what `experiment.adapt` takes."""
    checks = {}
    for pair in pairs:
        label, _, check = pair.partition("=")
        if not label or not check:
            raise UserError(f"--check wants LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION, not {pair!r}")
        checks[label] = find_function("--check", check) if ":" in check else check
    return checks


def tracker(name: str | None, folder: Path):
    """The callback that logs a run to a tracker of accelerate, into `folder`/tracking; None for none."""
    if name is None or process():
        return None
    from mocapfree_nb.callbacks import TrackerCallback

    return TrackerCallback(name, folder / "tracking")


def announce(report, folder: Path) -> None:
    """The outcome in a few lines, and where the page is."""
    from mocapfree_nb.output.comparison import summary

    say(summary(report.values))
    say(f"report: {folder / 'report.html'}")


def read_prompts(path: Path) -> list[str]:
    """The lines of a file of prompts that are not empty."""
    from mocapfree_nb.reading import read_text

    prompts = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompts: write one a line")
    return prompts
