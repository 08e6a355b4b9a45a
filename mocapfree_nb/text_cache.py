"""Token states on disk: one SQLite file, shared by any number of processes, that never stands in the way."""

import os
import sqlite3
import warnings
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

__all__ = ["EmbeddingCache"]


def _pack(array: np.ndarray) -> bytes:
    """Checksum (4 bytes), number of tokens (2), then the float16 values."""
    body = len(array).to_bytes(2, "little") + np.ascontiguousarray(array, dtype="<f2").tobytes()
    return zlib.crc32(body).to_bytes(4, "little") + body


def _unpack(blob: object) -> np.ndarray | None:
    """The inverse of `_pack`; None for anything damaged."""
    if not isinstance(blob, bytes) or len(blob) < 8:
        return None
    count = int.from_bytes(blob[4:6], "little")
    if zlib.crc32(blob[4:]) != int.from_bytes(blob[:4], "little") or count == 0:
        return None
    return np.frombuffer(blob, dtype="<f2", offset=6).reshape(count, -1)


def _sqlite(path: Path, statement: str, values: list, many: bool) -> list:
    """One statement in one transaction on a fresh connection (so threads and forks are safe)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as connection, connection:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'text'").fetchone() is None:
            connection.execute("CREATE TABLE IF NOT EXISTS text (key TEXT PRIMARY KEY, blob BLOB)")
        run = connection.executemany if many else connection.execute
        return run(statement, values).fetchall()


def _set_aside_if_damaged(path: Path, error: Exception) -> bool:
    """Move a file that is no sound database out of the way; False where that is not the trouble."""
    sound = isinstance(error, OSError) or getattr(error, "sqlite_errorname", "") not in (
        "SQLITE_NOTADB",
        "SQLITE_CORRUPT",
        "SQLITE_ERROR",  # a table of another shape
    )
    try:
        return not sound and bool(os.replace(path, path.with_suffix(".damaged")) or True)
    except OSError:
        return False


class EmbeddingCache:
    """Token states by key in one SQLite file, shared by any number of processes. It never raises."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.enabled = True

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The stored (L, W) float16 arrays among `keys`; damaged entries count as absent."""
        found = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            for key, blob in self._run(f"SELECT key, blob FROM text WHERE key IN ({marks})", part):
                if (array := _unpack(blob)) is not None:
                    found[key] = array
        return found

    def put(self, items: dict[str, np.ndarray]) -> None:
        """Store arrays, all in one transaction."""
        rows = [(key, _pack(array)) for key, array in items.items()]
        self._run("INSERT OR REPLACE INTO text VALUES (?, ?)", rows, many=True)

    def _run(self, statement: str, values: list, many: bool = False) -> list:
        """Do it; after damage once more on a new file; after any other failure switch off, with a warning."""
        for _ in range(2):
            if not self.enabled:
                break
            try:
                return _sqlite(self.path, statement, values, many)
            except (OSError, sqlite3.Error, UnicodeError) as error:
                if not _set_aside_if_damaged(self.path, error):
                    self._switch_off(error)
        return []

    def _switch_off(self, error: Exception) -> None:
        self.enabled = False
        warnings.warn(
            f"text embeddings are kept in memory only: {self.path} cannot be used ({error}); "
            "set MOCAPFREE_CACHE to a folder that can be written",
            stacklevel=2,
        )
