"""Which clips of a test list count, how long they are taken to be, and what one pass draws: rules of Guo et al."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.captions import read_text
from ..data.folders import DataFolder, read_recordings
from ..files import UserError
from ..sources import Caption, Recording

METRICS = ("r_precision", "fid", "matching_distance", "diversity", "multimodality")


def _row(*numbers: float | None) -> dict[str, list]:
    """Three R-precisions, FID, distance, diversity and multimodality as a row of a table; None is "not reported"."""
    first = list(numbers[:3])
    return dict(zip(METRICS, [first, *([number] for number in numbers[3:])], strict=True))


@dataclass(frozen=True)
class Protocol:
    """The published evaluation on one data set."""

    name: str
    num_features: int
    shortest: int  # frames of a clip
    published: Mapping[str, Mapping[str, list]]  # name of a row -> metric -> its numbers
    too_long: int = 200  # frames: clips of this length or more are left out
    unit: int = 4  # lengths are multiples of this many frames
    batch: int = 32
    span_fps: int = 20  # by which the original code turns seconds into frames, for KIT-ML too

PROTOCOLS = {
    "humanml3d": Protocol(
        "humanml3d",
        263,
        40,
        {
            "real motion (Guo et al. 2022)": _row(0.511, 0.703, 0.797, 0.002, 2.974, 9.503, None),
            "MDM (corrected)": _row(0.418, 0.604, 0.707, 0.489, 3.63, None, None),
            "MDM (as printed)": _row(0.320, 0.498, 0.611, 0.544, 5.566, 9.559, 2.799),
            "MLD": _row(0.481, 0.673, 0.772, 0.473, 3.196, 9.724, 2.413),
        },
    ),
    "kit": Protocol(
        "kit",
        251,
        24,
        {
            "real motion (Guo et al. 2022)": _row(0.424, 0.649, 0.779, 0.031, 2.788, 11.08, None),
            "MDM (as printed)": _row(0.164, 0.291, 0.396, 0.497, 9.191, 10.85, 1.907),
            "MLD": _row(0.390, 0.609, 0.734, 0.404, 3.204, 10.80, 2.192),
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Sample:
    """A clip, or the part of one that some captions describe."""

    recording: Recording
    first: int
    length: int
    captions: tuple[Caption, ...]

    def motion(self, first: int, length: int) -> np.ndarray:
        """Frames `first` to `first + length` of it, raw, (length, F)."""
        start = self.first + first
        return self.recording.features[start : start + length]


def samples_of(recording: Recording, protocol: Protocol) -> list[Sample]:
    """The samples that one recording gives: its parts with a caption each, and itself with all others."""
    if not protocol.shortest <= len(recording) < protocol.too_long:
        return []
    found, whole = [], tuple(caption for caption in recording.captions if caption.start == caption.end == 0)
    for caption in recording.captions:
        if caption not in whole:
            first, last = (int(second * protocol.span_fps) for second in (caption.start, caption.end))
            length = len(range(*slice(first, last).indices(len(recording))))
            if protocol.shortest <= length < protocol.too_long:
                found.append(Sample(recording, first, length, (caption,)))
    return found + ([Sample(recording, 0, len(recording), whole)] if whole else [])


def read_samples(folder: str | Path, protocol: Protocol, split: str = "test") -> list[Sample]:
    """The samples of a list of a data folder, shortest first. Raises `UserError` for too few, or another skeleton."""
    data, listed = DataFolder(folder), Path(folder) / f"{split}.txt"
    if data.skeleton.num_features != protocol.num_features:
        raise UserError(
            f"{folder} is a {data.kind} folder of {data.skeleton.num_features} features; protocol {protocol.name} "
            f"is for {protocol.num_features}"
        )
    if not listed.is_file():
        raise UserError(f"{listed} is missing: the protocol evaluates the clips that it lists")
    names = set(read_text(listed).split()) & set(data.names)
    recordings, _ = read_recordings(data, sorted(names))
    found = [sample for recording in recordings for sample in samples_of(recording, protocol)]
    if len(found) < protocol.batch:
        raise UserError(f"{listed} gives {len(found)} samples; the protocol needs {protocol.batch} at least (one batch)")
    return sorted(found, key=lambda sample: sample.length)


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over the samples: which sample, which caption of it, and which frames, for every row of every batch."""

    samples: list[Sample]
    captions: list[Caption]
    first: np.ndarray  # (N,) frame at which the piece begins
    lengths: np.ndarray  # (N,) multiples of the unit

    def __len__(self) -> int:
        return len(self.samples)

    def motions(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Raw motion (B, longest, F) of some rows, zero-padded, and lengths (B,)."""
        parts = [torch.from_numpy(np.array(self.samples[i].motion(self.first[i], self.lengths[i]))) for i in rows]
        return nn.utils.rnn.pad_sequence(parts, batch_first=True), torch.as_tensor(self.lengths[rows])


def draw_pass(
    samples: Sequence[Sample], protocol: Protocol, generator: np.random.Generator, limit: int | None = None
) -> Pass:
    """Shuffle the samples, draw a caption and a piece of each, and keep whole batches (of at most `limit` rows)."""
    order = generator.permutation(len(samples))
    chosen = [samples[i] for i in order[: len(order) if limit is None else limit]]
    chosen = chosen[: len(chosen) // protocol.batch * protocol.batch]
    captions = [sample.captions[generator.integers(len(sample.captions))] for sample in chosen]
    whole = np.array([sample.length for sample in chosen])
    shorter = generator.random(len(chosen)) < 1 / 3
    lengths = (whole // protocol.unit - shorter) * protocol.unit
    return Pass(chosen, captions, generator.integers(whole - lengths + 1), lengths)
