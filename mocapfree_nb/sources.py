"""Where clips come from: what a reader of folders gives, and the readers, found by name."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from .features import joints_to_features
from .files import UserError, user_path
from .skeleton import HUMANML3D, Skeleton

SPLITS = ("train", "val", "test")


class Caption(NamedTuple):
    """One sentence about a motion, or about the part of it from `start` to `end` seconds (both 0: all of it)."""

    text: str
    tokens: str = ""  # as shipped: word/PART-OF-SPEECH, separated by blanks
    start: float = 0.0
    end: float = 0.0


class Stored(Protocol):
    """Features (frames, F) that stay on disk until they are read; their number is known without."""

    def __len__(self) -> int: ...

    def part(self, first: int, last: int) -> "Stored":
        """Frames `first` to `last`."""

    def read(self) -> np.ndarray:
        """The numbers, float32 in physical units."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One motion of a folder, whole, with all that is said of it."""

    name: str
    motion: np.ndarray | Stored
    captions: tuple[Caption, ...]

    def __len__(self) -> int:
        return len(self.motion)

    @property
    def features(self) -> np.ndarray:
        """(frames, F) float32 in physical units."""
        return self.motion if isinstance(self.motion, np.ndarray) else self.motion.read()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cyclic garbage collector off inside the block; also a decorator."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def features_in_batches(joints: Sequence[np.ndarray], skeleton: Skeleton) -> list[np.ndarray]:
    """Features of clips of many lengths, (T, J, 3) each -> (T - 1, F) each; clips of like length together.

    The sign of the yaw velocity is mended (`sign_continuity`), so that paths stay whole.
    """
    features: list[np.ndarray] = [None] * len(joints)
    order = sorted(range(len(joints)), key=lambda i: len(joints[i]))
    while order:
        shortest = len(joints[order[0]])
        part = [i for i in order[: max(1, 4_000 // shortest)] if len(joints[i]) <= shortest + 16]
        order = order[len(part) :]
        lengths = [len(joints[i]) for i in part]
        batch = np.zeros((len(part), max(lengths), skeleton.num_joints, 3), np.float32)
        for row, i in enumerate(part):
            batch[row, : lengths[row]] = joints[i]
        computed = joints_to_features(batch, skeleton, sign_continuity=True, lengths=lengths).numpy()
        for row, i in enumerate(part):
            features[i] = computed[row, : lengths[row] - 1].copy()
    return features


class Source:
    """A folder of motion with captions. A reader of another format is a subclass that sets `names` and defines `read`.

    `kind` is what reports call the format; `skeleton` is the one of its motion; `names` are its motions, sorted.
    """

    kind = "folder"
    skeleton: Skeleton = HUMANML3D

    def __init__(self, folder: str | Path):
        self.folder = user_path(folder)
        self.names: list[str] = []

    def read(self, name: str) -> Recording:
        """One motion, whole: features (T, F) in physical units or joints (T, J, 3), with its captions.

        Raises `UserError` for what cannot be used: it is left out, by name.
        """
        raise NotImplementedError

    def splits(self) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Motion -> "train", "val" or "test" where the folder says so (else empty), and (name, what is wrong)."""
        return {}, []

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Motion -> its actions, where the folder says so."""
        return {}

    def statistics(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and deviation (F,) that the folder brings, if it does."""
        return None

    def recordings(
        self, names: Sequence[str], skeleton: Skeleton
    ) -> tuple[list[Recording], list[tuple[str, str]]]:
        """Those motions as features on `skeleton`, in the order of the names, and (name, reason) of what cannot be used."""
        if skeleton is not self.skeleton:
            raise UserError(f"a {self.kind} folder is read on the skeleton of {self.skeleton.name} only, not {skeleton.name}")
        found, faults = [], []
        for name in names:
            try:
                found.append(self.read(name))
            except UserError as error:
                faults.append((name, str(error)))
        todo = [i for i, recording in enumerate(found) if np.ndim(recording.motion) == 3]
        for i, features in zip(todo, features_in_batches([found[i].motion for i in todo], skeleton), strict=True):
            found[i] = replace(found[i], motion=features)
        return found, faults


Reader = Callable[..., Source | None]  # (folder, body_models=...) -> the folder opened, None where it is of another format
READERS: dict[str, Reader | str] = {"published": "mocapfree_nb.data.folders:DataFolder"}  # a string: imported when asked


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Decorator: add a reader of folders. The newest is asked first. Raises `UserError` for a name that is taken."""

    def add(reader: Reader) -> Reader:
        if name in READERS:
            raise UserError(f"a reader {name!r} is registered already; there are {', '.join(READERS)}: choose another name")
        READERS[name] = reader
        return reader

    return add


def open_source(folder: str | Path, **options) -> Source:
    """The folder, opened by the newest reader that knows its format; the built-in one explains what is missing."""
    for reader in reversed(list(READERS.values())):
        if isinstance(reader, str):
            module, _, attribute = reader.partition(":")
            reader = getattr(import_module(module), attribute)
        if (source := reader(folder, **options)) is not None:
            return source
    raise UserError(f"no reader knows the format of {folder}; there are {', '.join(READERS)}")
