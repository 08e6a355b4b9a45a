"""Watching a run: one protocol for what wants to know how training goes; accelerate's trackers as one use."""

import logging
import math
import os
from collections.abc import Callable, Iterable

from mocapfree_nb.files import UserError

__all__ = ["Callback", "as_callbacks", "notify", "TrackerCallback", "flat_record"]

logger = logging.getLogger(__name__)


class Callback:
    """What a trainer tells, and when; override what you need. All values are plain numbers, strings, lists and dicts."""

    def on_start(self, settings: dict) -> None:
        """Before the first iteration: all settings of the run."""

    def on_iteration(self, record: dict) -> None:
        """After each iteration, its checkpoint written: its line of the log."""

    def on_end(self, log: list[dict]) -> None:
        """After the last iteration: all records."""

    def on_report(self, report: dict) -> None:
        """After the evaluation that follows an adaptation: what `report.json` holds."""


class _Function(Callback):
    "A plain function as a callback: it is told of each iteration."

    def __init__(self, function: Callable[[dict], None]):
        self.on_iteration, self.name = function, getattr(function, "__qualname__", type(function).__qualname__)


def as_callbacks(given: object) -> list:
    """A callback, several, or none, as a list; a function is told of each iteration. Raises `UserError` for anything else."""
    several = list(given) if isinstance(given, Iterable) else [] if given is None else [given]
    found = []
    for one in several:
        if any(callable(getattr(one, event, None)) for event in vars(Callback) if event.startswith("on_")):
            found.append(one)
        elif callable(one):
            found.append(_Function(one))
        else:
            raise UserError(f"a callback is a function of a record, or has a method on_iteration(record); {one!r} is neither")
    return found


def notify(callbacks: list, event: str, value: object) -> None:
    """Tell each of `callbacks` that has a method `event`. One that raises is reported in one line and told nothing more."""
    for callback in list(callbacks):
        try:
            getattr(callback, event, lambda value: None)(value)
        except Exception as error:  # whatever a user's code may raise: training is worth more than its spectators
            callbacks.remove(callback)
            name = getattr(callback, "name", type(callback).__qualname__)
            said = " ".join(str(error).split()) or "no reason given"
            said = f"{type(error).__name__}: {said}"
            logger.warning("callback %s failed in %s (%s); training goes on without it", name, event, said)


def flat_record(record: dict) -> dict[str, float]:
    """The numbers of a log record under flat names: `selection/score`, and `ratio/step 3` for lists over denoising steps."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": number for key, number in value.items()}
        elif isinstance(value, list):
            flat |= {f"{name}/step {step}": number for step, number in enumerate(value, 1)}
        else:
            flat[name] = value
    numbers = {key: x for key, x in flat.items() if isinstance(x, int | float) and key != "iteration"}
    return {key: float(x) for key, x in numbers.items() if math.isfinite(x)}


class TrackerCallback(Callback):
    """Log a run with one of accelerate's trackers: "tensorboard", "wandb", or any other that it knows, or one of your own.

    `folder` is where a tracker that writes files does so. Raises `UserError` if accelerate or the tracker's own package is
    missing.
    """

    def __init__(self, tracker: object = "tensorboard", folder: str | os.PathLike = "runs", project: str = "mocapfree"):
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise UserError("logging to a tracker needs accelerate: pip install accelerate") from error
        self.name, self.project = f"tracker {tracker}", project
        try:
            self.accelerator = Accelerator(log_with=tracker, project_dir=os.fspath(folder))
        except (ImportError, ValueError) as error:
            raise UserError(f"cannot log with {tracker!r}: {' '.join(str(error).split())}") from error
        if not self.accelerator.log_with:
            raise UserError(f"cannot log with {tracker!r}: its package is not installed; pip install {tracker}")

    def on_start(self, settings: dict) -> None:
        plain = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        self.accelerator.init_trackers(self.project, plain)

    def on_iteration(self, record: dict) -> None:
        self.accelerator.log(flat_record(record), step=record["iteration"])

    def on_end(self, log: list[dict]) -> None:
        self.accelerator.end_training()
