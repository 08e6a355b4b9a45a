"""Files the safe way: regular ones only, written whole or not at all, and errors a user can act on."""

# Every reader takes regular files only (no pipe, no device), of a size that is checked before memory is spent, and gives
# finite numbers; every one raises `UserError`, in one line, for anything else. What is read how: `reading`.

import json
import os
import re
import stat
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "UserError", "printable", "reason", "where_it_failed", "in_bytes", "name_within", "user_path", "is_folder", "is_file",
    "check_file", "open_file", "write_atomically", "remove_leftovers", "write_json", "cache_folder", "WEIGHTS",
]  # fmt: skip

WEIGHTS = Path(__file__).parent / "weights"  # the small networks that ship with the package
MEBIBYTE = 2**20
LARGEST_TEXT = 16 * MEBIBYTE  # a JSON text of this size takes some 400 MB of memory
LARGEST_ARRAYS = 512 * MEBIBYTE
LARGEST_WEIGHTS = 4096 * MEBIBYTE  # published checkpoints have 0.01 to 1.7 GiB


class UserError(Exception):
    """A mistake that the user can mend: the message says what, where, and what to do.

    The command line prints it as one line and exits with status 1, without a traceback.
    """


def printable(text: object, longest: int = 300) -> str:
    """`text` on one line for a message: control characters and broken Unicode as escapes, the middle left out if long."""
    line = str(text)
    if len(line) > longest:
        line = f"{line[: longest // 2]}...{line[-longest // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


def reason(error: BaseException) -> str:
    """What an error says, in a few words on one line."""
    return printable(getattr(error, "strerror", None) or error or type(error).__name__, 200) or type(error).__name__


def where_it_failed(error: Exception) -> str:
    """An error in somebody else's code on one line: its type, what it says, and the last line of that code it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" ({printable(Path(own[-1].filename).name, 120)}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {reason(error)}{place}"


def user_path(path: str | os.PathLike) -> Path:
    """The path, with "~" as the user's home folder where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def is_folder(path: str | os.PathLike) -> bool:
    """Is it a folder, or a link to one? False also for a name that no file system takes."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: str | os.PathLike) -> bool:
    """Is it a regular file, or a link to one? False also for a name that no file system takes."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def check_file(path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, within: str | os.PathLike | None = None) -> Path:
    """The path, if it is a regular file (or a link to one) of at most `largest` bytes; else raise `UserError`.

    For libraries that open a file themselves. With `within`, a file outside that folder is refused, whatever link or
    ".." leads to it, and messages name the file as seen from there.
    """
    with open_file(path, largest, within):
        return Path(path)


@contextmanager
def open_file(
    path: str | os.PathLike, largest: int = LARGEST_WEIGHTS, within: str | os.PathLike | None = None
) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes, as `check_file` allows it; never waits for a pipe or a device."""
    name = name_within(path, within)
    try:
        if within is not None:
            folder = os.path.realpath(within)
            if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
                raise UserError(f"{name} leads out of the folder, so it is not read; put the file itself there")
        # looked at before it is opened: opening alone can set off a device; and after: it may have been exchanged
        _check_regular(os.stat(path), name, largest)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name, or what no file system can spell
        raise UserError(f"cannot read {name}: {reason(error)}") from error
    with os.fdopen(handle, "rb") as file:
        _check_regular(os.fstat(handle), name, largest)
        yield file


def name_within(path: str | os.PathLike, within: str | os.PathLike | None) -> str:
    """What a message calls a file: its path, seen from the folder `within`."""
    return printable(path if within is None else os.path.relpath(path, within)) or "''"


def _check_regular(status: os.stat_result, name: str, largest: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"cannot read {name}: it is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((word for test, word in kinds if test(status.st_mode)), "a device")
        raise UserError(f"cannot read {name}: it is {kind}, not a regular file; copy its content to one")
    if status.st_size > largest:
        raise UserError(f"{name} has {in_bytes(status.st_size)}; at most {in_bytes(largest)} are read")


def in_bytes(count: int) -> str:
    return f"{count / MEBIBYTE:,.0f} MiB" if count >= MEBIBYTE else f"{count:,} bytes"


def _target(path: str | os.PathLike) -> Path:
    """Where writing to `path` ends: a link is followed, and stays. Raises `UserError` for what is no regular file."""
    name = printable(path)
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise UserError(f"cannot write {name}: it is a link that leads to itself; choose another place")
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {name}: {reason(error)}; choose another place") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UserError(f"cannot write {name}: it is {kind}; name a file")
    return target


@contextmanager
def write_atomically(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds.

    A full disk or Ctrl-C in the middle leaves whatever was at `path` before, untouched. A link is followed: the file
    that it leads to is replaced, and the link stays. Raises `UserError` where the folder cannot be written, or where
    there is something else than a regular file.
    """
    target, name = _target(path), printable(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{target.name[:60]}.{os.getpid()}-"
        handle, made = tempfile.mkstemp(dir=target.parent, prefix=prefix, suffix=target.suffix[:20])
        os.close(handle)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {name}: {reason(error)}; choose another place") from error
    temporary = Path(made)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {name}: {reason(error)}; what was there before is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove temporary files of `write_atomically` in a folder whose process is gone (it was killed while writing)."""
    for left in Path(folder).glob(".*-*"):
        match = re.fullmatch(r"\..*\.(\d+)-[a-z0-9_]{8}(\..*)?", left.name, re.DOTALL)
        if match and not _is_running(int(match[1])):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it runs, but is not ours; or, on Windows, nobody knows
        return True
    return True


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically. Raises `UserError` for NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{printable(path)} is not written: a number in it is NaN or infinite") from error
    with write_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def cache_folder() -> Path:
    """Where packs and embeddings are kept: `$MOCAPFREE_CACHE`, else the user's cache folder. Safe to delete at any time."""
    if given := os.environ.get("MOCAPFREE_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "mocapfree_nb"
