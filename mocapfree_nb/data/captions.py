"""What people say of a motion: text files of HumanML3D and KIT-ML, and tables."""

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

from .. import reading
from ..files import UserError, printable
from ..sources import Caption

def _span(start: str, end: str) -> tuple[float, float]:
    """Two numbers of seconds; nan or nothing is 0."""
    try:
        times = tuple(float(time or 0) for time in (start, end))
    except ValueError:
        raise UserError(f"start and end should be seconds, not {f'{start}#{end}'[:40]!r}") from None
    first, last = (0.0 if math.isnan(time) else time for time in times)
    if not (first == last == 0 or 0 <= first < last < math.inf):
        raise UserError(f"the span from {first:g} to {last:g} s holds nothing")
    return first, last


def make_caption(text: str, tokens: str = "", start: str = "", end: str = "") -> Caption:
    span = _span(start, end)
    if not (text := " ".join(text.split())):
        raise UserError("empty caption")
    return Caption(text, tokens.strip(), *span)

_TOKEN = re.compile(r"#?[^\s#]*/[^\s#/]+")  # word/TAG


def _fields(line: str) -> tuple[str, ...]:
    """The parts of a line `caption#tokens#start#end`, split from the right: a caption may hold "#" itself.

    A line that does not end so is a caption; word/TAG tokens after its last "#" are left out.
    """
    text, *rest = line.rsplit("#", 3)
    if len(rest) == 3 and ("/" in rest[0] or len(rest[0].split()) < 2 and rest[0] == rest[0].strip()):
        tokens, start, end = rest
        while "#" in text and all(map(_TOKEN.fullmatch, (more := text.rpartition("#")[2] + "#" + tokens).split())):
            text, tokens = text.rpartition("#")[0], more  # a token of "#" itself
        return text, tokens, start, end
    text, _, tokens = line.rpartition("#")
    return (text,) if text and all(map(_TOKEN.fullmatch, tokens.split())) else (line,)


def parse_captions(text: str) -> tuple[list[Caption], list[str]]:
    """The captions of a text file and the faults found: lines `caption#tokens#start#end`, or a caption alone.

    A faulty line is left out. Raises `UserError` where no caption is left.
    """
    captions, faults = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                captions.append(make_caption(*_fields(line)))
            except UserError as error:
                faults.append(f"line {number}: {error}")
    if not captions:
        raise UserError("no caption" + (f" ({faults[0]})" if faults else ""))
    return captions, faults


def read_text(path: Path, folder: Path | None = None) -> str:
    """UTF-8 text of a file that lies in `folder` (default: its own), with or without a byte-order mark, with any line ending.

    Raises `UserError` for other text, for more than 16 MiB, for what is no file, and for a link out of the folder.
    """
    return reading.read_text(path, within=folder or Path(path).parent)


def read_table(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a comma-separated file by column (lower case). Raises `UserError` without the `needed` columns."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        if len(columns) > 100:
            raise UserError(f"{printable(path)} has {len(columns)} columns; at most 100 are read")
        reader.fieldnames = columns
        rows = []
        for row in reader:
            rows.append({key: (value or "").strip() for key, value in row.items() if key in columns})
            if len(rows) * len(columns) > 4_000_000:
                raise UserError(f"{printable(path)} has more than 4,000,000 cells; divide the folder")
    except csv.Error as error:
        raise UserError(f"{printable(path)} is not a table of comma-separated values ({error})") from error
    if missing := [name for name in needed if name not in columns]:
        there = printable(", ".join(columns) or "none")
        raise UserError(f"{printable(path)} has no column {' and no '.join(missing)}; its columns are {there}")
    return rows
