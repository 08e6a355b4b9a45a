"""One switch for the whole course: lessons load what takes more than a minute to compute, or compute it."""

# `MOCAPFREE_FULL=1 make lab`, or `course.FULL = True` in a cell: the lessons train and measure for real.

import os
import re
import sys

__all__ = ["FULL", "skip_slow_cells"]

FULL = os.environ.get("MOCAPFREE_FULL", "0") not in ("", "0")


def without_slow(lines: list[str], why: str) -> list[str]:
    """The lines of a cell; of one that begins with `#| slow`, unless `FULL`, one that prints `why` in their place."""
    if FULL or not lines or not re.match(r"#\|\s*slow\b", lines[0]):
        return lines
    return [f"print({'not run: ' + why + '; course.FULL = True runs it'!r})\n"]


def skip_slow_cells(why: str) -> None:
    """From the next cell on, a notebook goes past cells that begin with `#| slow`, unless `FULL`, and prints `why`.

    nbdev_test leaves such cells out by itself. Outside a notebook nothing happens.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or "IN_TEST" in os.environ:  # nbdev_test sets IN_TEST, and has flags of its own
        return
    transforms = shell.input_transformers_cleanup
    transforms[:] = [transform for transform in transforms if getattr(transform, "skips_slow", False) is False]

    def transform(lines: list[str]) -> list[str]:
        return without_slow(lines, why)

    transform.skips_slow = True
    transforms.append(transform)
