"""Many small files as one that opens at once: the format of a pack."""

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import UserError, cache_folder, open_file, write_atomically
from ..skeleton import Skeleton
from ..sources import Caption, Recording, collector_paused

if TYPE_CHECKING:
    from .folders import DataFolder

@dataclass(eq=False)
class _Rows:
    """The rows of one motion in a pack, with the checksum that they had when it was written."""

    values: np.ndarray
    checksum: int
    where: str
    checked: bool = False


@dataclass(frozen=True, eq=False)
class StoredMotion:
    """Features (frames, F) that stay on disk until `read` is called; its length is known without."""

    rows: _Rows
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def part(self, first: int, last: int) -> "StoredMotion":
        """Frames `first` to `last` of it."""
        return StoredMotion(self.rows, self.first + first, self.first + last)

    def read(self) -> np.ndarray:
        """The numbers. Raises `UserError` where they are not those that were written."""
        if not self.rows.checked:
            if zlib.crc32(self.rows.values) != self.rows.checksum:
                raise UserError(f"{self.rows.where} is damaged on disk; remove that file and open the folder again")
            self.rows.checked = True
        return self.rows.values[self.first : self.last]

_MAGIC = b"mocapnb1"


def write_pack(path: Path, signature: str, skeleton: Skeleton, recordings: Iterable[Recording], faults: list) -> None:
    """Write recordings one after the other; `faults` may grow while they are read."""
    names, frames, checksums, captions = [], [], [], []
    header = {"descr": "<f4", "fortran_order": False}
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (0, skeleton.num_features)})
        for recording in recordings:
            rows = np.ascontiguousarray(recording.features, "<f4")
            file.write(rows)
            names.append(recording.name)
            frames.append(len(rows))
            checksums.append(zlib.crc32(rows))
            captions.append(recording.captions)
        place = file.tell()
        columns = {"names": names, "frames": frames, "checksums": checksums, "captions": captions}
        index = json.dumps({"signature": signature, "faults": faults, **columns}).encode()
        file.write(index + _MAGIC + place.to_bytes(8, "little") + hashlib.sha256(index).digest())
        file.seek(0)  # numpy leaves room in a header for the first axis to grow
        np.lib.format.write_array_header_1_0(file, header | {"shape": (sum(frames), skeleton.num_features)})


def signature_of(files: dict[str, tuple[int, int]], skeleton: Skeleton) -> str:
    """A hash that changes when a file is added, removed, renamed or written."""
    skeleton_and_reader = f"{skeleton.name} 2"  # the number goes up when the same files are read otherwise
    lines = [f"{name}\0{size}\0{changed}" for name, (size, changed) in sorted(files.items())]
    return hashlib.sha256("\n".join([skeleton_and_reader, *lines]).encode("utf-8", "surrogateescape")).hexdigest()


def _read_index(path: Path, width: int) -> tuple[dict, np.ndarray]:
    """The index of a pack, and its array mapped; raises anything for a file that is not a whole pack."""
    with open_file(path, largest=sys.maxsize) as file:
        file.seek(-48, os.SEEK_END)
        end = file.tell()
        footer = file.read()
        place = int.from_bytes(footer[8:16], "little")
        file.seek(place)
        index = file.read(end - place)
        if footer[:8] != _MAGIC or hashlib.sha256(index).digest() != footer[16:]:
            raise ValueError("not a whole pack")
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    columns = json.loads(index)
    if shape != (sum(columns["frames"]), width) or start + 4 * shape[0] * width != place:
        raise ValueError("the array is not of the size that its index says")
    # copy on write: torch wants arrays that may be written, and nothing that is written reaches the file
    return columns, np.memmap(path, kind, "c", start, shape).view(np.ndarray)


@collector_paused()
def open_pack(path: Path, signature: str, skeleton: Skeleton) -> tuple[list[Recording], list] | None:
    """The recordings of a pack, and the faults noted in it; None where it must be written anew."""
    try:
        columns, rows = _read_index(path, skeleton.num_features)
    except Exception:  # missing, damaged or not ours: the remedy is one
        return None
    if columns["signature"] != signature:
        return None
    ends = np.cumsum(columns["frames"]).tolist()
    parts = zip(columns["names"], columns["frames"], ends, columns["checksums"], columns["captions"], strict=True)
    recordings = []
    for name, frames, end, checksum, captions in parts:
        stored = _Rows(rows[end - frames : end], checksum, f"{path} (clip {name})")
        recordings.append(Recording(name, StoredMotion(stored, 0, frames), tuple(map(Caption._make, captions))))
    return recordings, [tuple(fault) for fault in columns["faults"]]


def pack_path(data: "DataFolder", skeleton: Skeleton | None = None) -> Path:
    """Where the pack of a folder, on this skeleton, is kept."""
    key = f"{data.folder.resolve()}\0{(skeleton or data.skeleton).name}".encode("utf-8", "surrogateescape")
    return cache_folder() / f"{data.folder.resolve().name[:60]}-{hashlib.sha256(key).hexdigest()[:12]}.npy"


def sweep(path: Path) -> None:
    """Remove what a build that was killed more than a day ago left behind."""
    for left in path.parent.glob(f".{path.name}.*"):
        if left.stat().st_mtime < time.time() - 86_400:
            left.unlink(missing_ok=True)
