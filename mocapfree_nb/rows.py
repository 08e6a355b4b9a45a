"""The file of a comparison: one row a run, kept as it is made, so that what was stopped goes on; rows of one experiment."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.reading import read_json

__all__ = ["read_rows", "refuse_others", "model_name"]


def read_rows(
    out: str | Path, key: str, names: Mapping[str, type], numbers: Mapping[str, Callable[[Mapping], float | None]]
) -> list[dict]:
    """The rows under `key` of the JSON file `out`, none where there is no file.

    Every row has `names` of these types and all `numbers`, title -> what reads it from a row (None where a row may lack it).
    Raises `UserError` for a file that holds anything else.
    """
    rows = read_json(out).get(key) if os.path.exists(out) else []
    if not isinstance(rows, list):
        raise UserError(f"{out} holds no list {key!r} of rows to go on with; choose another file")
    for number, row in enumerate(rows, start=1):
        for name, kind in names.items():
            if not isinstance(row, dict) or type(row.get(name)) is not kind:
                raise UserError(f"{out}: row {number} of {key!r} names no {name}; mend it, or choose another file")
        for title, read in numbers.items():
            try:
                value = read(row)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError):
                value = "nothing"
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise UserError(f"{out}: row {number} of {key!r} has no number for {title}; mend it, or choose another file")
    return rows


def refuse_others(out: str | Path, rows: Sequence[Mapping], experiment: Mapping[str, object]) -> None:
    """Raise `UserError` where a row says something else of this `experiment`; what a row does not say is no contradiction."""
    for row in rows:
        for name, value in experiment.items():
            if name in row and row[name] != value:
                kept, asked = ("the default" if one is None else one for one in (row[name], value))
                raise UserError(f"{out} holds rows of another {name} ({kept}, not {asked}); choose another file")


def model_name(path: str | Path | None) -> str | None:
    """A network as a row names it: one that ships without the folder it is installed in; None stays None."""
    return None if path is None else Path(path).name if Path(path).parent == WEIGHTS else str(path)
