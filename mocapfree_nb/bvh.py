"""Biovision hierarchies (BVH): the text parsed, forward kinematics on whole arrays of frames."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .files import UserError

__all__ = ["Bvh", "load_bvh"]

MAX_BYTES, MAX_JOINTS, MAX_FRAMES = 256 * 2**20, 4096, 1_000_000
_CHUNK = 4096  # frames whose rotations are in memory at once


@dataclass(frozen=True, eq=False)
class Bvh:
    """A rig and its motion. End sites are joints without a name; parents come before their children."""

    names: list[str]
    parents: list[int]  # -1 for the root
    offsets: np.ndarray  # (J, 3)
    channels: list[list[str]]  # of each joint, in the file's order: "xposition", "zrotation", ...
    motion: np.ndarray  # (T, C): the channels of all joints, angles in degrees
    fps: float

    def pose(self, motion: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Positions (T, J, 3) and, by joint, rotations (T, 3, 3) in the world, of rows (T, C) of channels.

        Rotations apply in the order of the channels; a position channel replaces its part of OFFSET.
        """
        places = np.empty((len(motion), len(self.parents), 3))
        turns: list[np.ndarray] = []
        column, positions_used = 0, self._positions_used()
        for joint, (parent, channels) in enumerate(zip(self.parents, self.channels, strict=True)):
            place = np.tile(self.offsets[joint], (len(motion), 1))
            turn = np.eye(3)[None]
            for name in channels:
                axis, values = "xyz".index(name[0]), motion[:, column]
                column += 1
                if name.endswith("rotation"):
                    turn = turn @ _rotation(axis, np.radians(values))
                elif parent < 0 or positions_used:
                    place[:, axis] = values
            if parent >= 0:
                place = places[:, parent] + (turns[parent] @ place[..., None])[..., 0]
                turn = turns[parent] @ turn
            places[:, joint] = place
            turns.append(turn)
        return places, turns

    def _positions_used(self) -> bool:
        """False where all position channels after the root's are zero: some programs write them so and mean OFFSET."""
        flat = [(parent, name) for parent, names in zip(self.parents, self.channels, strict=True) for name in names]
        columns = [i for i, (parent, name) in enumerate(flat) if parent >= 0 and name.endswith("position")]
        return bool(self.motion[:, columns].any())

    def positions(self) -> np.ndarray:
        """Joints (T, J, 3) in the file's unit."""
        parts = range(0, len(self.motion), _CHUNK)
        return np.concatenate([self.pose(self.motion[first : first + _CHUNK])[0] for first in parts])

    def rest(self) -> np.ndarray:
        """Joints (J, 3) with no rotation, the root at the origin."""
        places = np.zeros_like(self.offsets)
        for joint, parent in enumerate(self.parents):
            if parent >= 0:
                places[joint] = places[parent] + self.offsets[joint]
        return places


def _rotation(axis: int, angle: np.ndarray) -> np.ndarray:
    """(T, 3, 3) about an axis, angles (T,) in radians."""
    matrix = np.zeros((len(angle), 3, 3))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, axis, axis] = 1
    matrix[:, a, a] = matrix[:, b, b] = np.cos(angle)
    matrix[:, b, a] = np.sin(angle)
    matrix[:, a, b] = -matrix[:, b, a]
    return matrix


def _hierarchy(text: str) -> tuple[list[str], list[int], np.ndarray, list[list[str]]]:
    """Names, parents, offsets and channels of the part before MOTION; raises `ValueError`."""
    names, parents, offsets, channels = [], [], [], []
    open_joints: list[int] = []
    text = re.sub(r"([{}])|\b(?=(?:OFFSET|CHANNELS)\s)", r"\n\1\n", text)
    for line in filter(None, map(str.strip, text.split("\n"))):
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        key, rest = word.upper(), rest.strip()
        if key in ("ROOT", "JOINT", "END", "ENDSITE"):
            if key == "ROOT" and names:
                raise ValueError("it holds several skeletons; one is expected")
            if (key == "ROOT") == bool(open_joints) or len(names) >= MAX_JOINTS:
                raise ValueError(f"more than {MAX_JOINTS} joints" if len(names) >= MAX_JOINTS else f"{word} out of place")
            names.append(rest if key in ("ROOT", "JOINT") else "")
            parents.append(open_joints[-1] if open_joints else -1)
            offsets.append([0.0, 0.0, 0.0])
            channels.append([])
        elif key == "{":
            open_joints.append(len(names) - 1)
        elif key == "}":
            if not open_joints:
                raise ValueError("more } than {")
            open_joints.pop()
        elif key == "OFFSET" and open_joints:
            offsets[open_joints[-1]] = [float(number) for number in rest.split()]
            if len(offsets[open_joints[-1]]) != 3:
                raise ValueError(f"OFFSET of {names[open_joints[-1]]} should be three numbers")
        elif key == "CHANNELS" and open_joints:
            count, *kinds = rest.lower().split() or [""]
            if count != str(len(kinds)) or any(not re.fullmatch("[xyz](position|rotation)", kind) for kind in kinds):
                raise ValueError(f"CHANNELS of {names[open_joints[-1]]} cannot be understood")
            channels[open_joints[-1]] = kinds
        else:
            raise ValueError(f"{line[:30]!r} is out of place")
    if not names or open_joints:
        raise ValueError("its hierarchy has no end" if names else "no joints")
    return names, parents, np.array(offsets), channels


def _parse(text: str) -> Bvh:
    head, *rest = re.split(r"^[ \t]*MOTION\b", text, maxsplit=1, flags=re.MULTILINE | re.IGNORECASE)
    if not (start := re.match(r"\s*HIERARCHY\b", head, re.IGNORECASE)):
        raise ValueError("it does not begin with HIERARCHY")
    names, parents, offsets, channels = _hierarchy(head[start.end() :])
    stated = re.match(r"\s*Frames\s*:\s*(\d{1,9})\s+Frame\s+Time\s*:\s*(\S+)", rest[0], re.IGNORECASE) if rest else None
    if not stated:
        raise ValueError("MOTION should say Frames: and Frame Time:")
    frames, seconds, width = int(stated[1]), float(stated[2]), sum(map(len, channels))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers = np.fromstring(rest[0][stated.end() :], sep=" ")
        except (DeprecationWarning, ValueError):
            raise ValueError("something after Frame Time is not a number") from None
    if frames > MAX_FRAMES or len(numbers) != frames * width:
        raise ValueError(f"{frames} frames of {width} numbers are stated, {len(numbers)} numbers found")
    if not seconds > 0:
        raise ValueError(f"Frame Time is {seconds:g}")
    fps = 1 / seconds
    rounding = 0.5001 * 10.0 ** -len(stated[2].partition(".")[2])  # "0.033333" is 30 frames a second, not 30.0003
    if rounding < 0.02 * seconds and fps < 1e6 and round(fps) and abs(1 / round(fps) - seconds) <= rounding:
        fps = float(round(fps))
    return Bvh(names, parents, offsets, channels, numbers.reshape(frames, width), fps)


def load_bvh(path: str | Path) -> Bvh:
    """Read a BVH file of up to 256 MB; joint names may hold blanks. Raises `UserError`."""
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{path.name} is no file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path.name} is larger than {MAX_BYTES // 2**20} MB, the most that is read: cut it into parts")
        text = path.read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise UserError(f"{path.name} cannot be read as BVH ({error.strerror or error})") from error
    try:
        return _parse(text.replace("\r\n", "\n").replace("\r", "\n"))
    except (ValueError, OverflowError) as error:
        said = "".join(c for c in " ".join(str(error).split()) if c.isprintable())
        raise UserError(f"{path.name} cannot be read as BVH ({said[:200]})") from error
