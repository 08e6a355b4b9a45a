"""Motions that belong side by side: read from files and runs, written in the form that an ending asks for."""

import html
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from .. import files, reading
from ..data.capture import read_bvh
from ..data.checks import is_normalised
from ..features import features_to_joints
from ..files import UserError, printable, write_atomically
from ..player import page_html, player_code, player_html, player_scene
from ..reading import check_finite, load_array
from ..skeleton import HUMANML3D, KIT_ML, Skeleton
from ..viewer import check_joints, check_motions
from .bvh import save_bvh
from .page import COLUMNS
from .video import save_gif, save_mp4

@dataclass(frozen=True)
class Take:
    """Motions that belong side by side: `panels` maps a name to joints (T, J, 3) in the skeleton's unit."""

    title: str
    panels: dict[str, np.ndarray]
    skeleton: Skeleton = HUMANML3D
    about: dict = field(default_factory=dict)  # what its file says of it: prompt, fps, seed, model


def save_motions(path: str | Path, motions: Mapping[str, Sequence[Mapping]], about: Mapping | None = None) -> None:
    """Keep the motions of a report as one .npz: `part/number/column` (T, J, 3) float32, and `part/number/prompt`.

    `motions` is what a report shows: part -> dicts with `prompt` and joints under other names. `about` (seed, model, frames
    a second as `fps`) is kept as JSON in the field `about`.
    """
    arrays = {
        f"{part}/{number}/{key}": np.asarray(value) if key == "prompt" else np.asarray(value, dtype=np.float32)
        for part, shown in motions.items()
        for number, motion in enumerate(shown)
        for key, value in motion.items()
    }
    check_finite(arrays, printable(path))
    if about:
        arrays["about"] = np.array(json.dumps(dict(about)))
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)

_FARTHEST = 1e7  # from the origin; farther off, single precision does not tell two poses apart


def _recognise(array: np.ndarray, path: Path) -> tuple[np.ndarray, Skeleton]:
    "Joints (..., T, J, 3) from joints or motion features, and whose they are; a `UserError` that says what is wrong."
    wanted = "joints (frames, 22 or 21, 3), a batch of those, or motion features (frames, 263 or 251)"
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path} holds {array.dtype} values; expected {wanted}")
    if array.size == 0:
        raise UserError(f"{path} holds no frames: its shape is {array.shape}")
    if array.ndim in (3, 4) and array.shape[-3:-1] in ((22, 3), (21, 3)):  # as MDM writes them, frames last
        array = np.moveaxis(array, -1, -3)
    for skeleton in (HUMANML3D, KIT_ML):
        if array.ndim == 2 and array.shape[1] == skeleton.num_features:
            if np.isfinite(array).all() and is_normalised(array, skeleton):
                raise UserError(f"{path} holds normalised features; save them in physical units: features * Std.npy + Mean.npy")
            array = features_to_joints(torch.as_tensor(array, dtype=torch.float32), skeleton).numpy()
        if array.ndim in (3, 4) and array.shape[-2:] == (skeleton.num_joints, 3):
            if not np.isfinite(array).all():
                frame = int(np.argwhere(~np.isfinite(array))[0][-3])
                raise UserError(f"{path} holds NaN or infinite positions, first in frame {frame}; repair or leave it out")
            if (largest := np.abs(array).max()) > _FARTHEST:
                raise UserError(f"{path} holds positions of {largest:.3g} {skeleton.unit}, which no motion reaches")
            return array, skeleton
    raise UserError(f"{path} has shape {array.shape}; expected {wanted}")


def _read_about(text: object, path: Path) -> dict:
    "What a file says of its motions: a seed, a model, a frame rate that can be played; a `UserError` for anything else."
    try:
        found = json.loads(str(text))
        about = {key: printable(found[key], 200) for key in ("model",) if key in found}
        about |= {"seed": int(found["seed"])} if found.get("seed") is not None else {}
        about |= {"fps": float(found["fps"])} if found.get("fps") is not None else {}
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: what it says about its motions is damaged; expected JSON with seed, fps, model") from error
    if not 0.1 <= about.get("fps", 20) < 1000:
        raise UserError(f"{path}: fps is {about['fps']}; expected frames a second from 0.1 to 1000")
    return about


def _read_run(path: Path) -> list[Take]:
    "The motions that `save_motions` kept."
    groups: dict[str, dict[str, np.ndarray]] = {}
    stored = reading.read_arrays(path, finite=False)
    about = _read_about(stored.pop("about"), path) if "about" in stored else {}
    for key, array in stored.items():
        group, _, column = key.rpartition("/")
        groups.setdefault(group, {})[column] = array
    if not groups:
        raise UserError(f"{printable(path)} holds no motions")
    takes = []
    for group, arrays in groups.items():
        group = printable(group, 80)
        prompt = printable(arrays.pop("prompt", ""))
        title = prompt or group
        known = {name: _recognise(array, Path(printable(f"{path}: {group}/{name}"))) for name, array in arrays.items()}
        if any(joints.ndim != 3 for joints, _ in known.values()) or not known:
            raise UserError(f"{path} does not hold the motions of a run: {group!r} is not joints (frames, joints, 3)")
        if len({skeleton.name for _, skeleton in known.values()}) > 1:
            raise UserError(f"{path} does not hold the motions of a run: {group!r} has joints of two skeletons")
        known = {key: known[key] for key in (*(key for key in COLUMNS if key in known), *known)}  # in the order of reports
        panels = {printable(name.replace("_", " "), 80): joints for name, (joints, _) in known.items()}
        takes.append(Take(title, panels, next(iter(known.values()))[1], {"prompt": prompt} | about))
    return takes


def load_takes(path: str | Path) -> list[Take]:
    """The motions of a file or of a run folder, each with what it is to be compared with.

    Reads `.npy` (joints, a batch of joints, or motion features of HumanML3D or KIT-ML), `.bvh` of any rig (lesson 29)
    and a run's `motions.npz`.
    Raises `UserError` for anything else, no frames, NaN, or joints of another skeleton. No pickle is loaded.
    """
    path = Path(path)
    if files.is_folder(path):
        if not os.path.lexists(path / "motions.npz"):
            raise UserError(f"{path} keeps no motions.npz: give a finished run, or a .npy file of joints")
        return _read_run(path / "motions.npz")
    if path.suffix == ".npz":
        return _read_run(path)
    files.check_file(path)
    if path.suffix.lower() == ".bvh":
        return [Take(path.stem, {"": read_bvh(files.check_file(path, files.LARGEST_ARRAYS))})]
    if path.suffix != ".npy":
        raise UserError(f"{path}: cannot read motion from {path.suffix or 'a file without ending'}; give .npy, .bvh or a run")
    joints, skeleton = _recognise(load_array(path, finite=False), path)
    if joints.ndim == 3:
        return [Take(path.stem, {"": joints}, skeleton)]
    return [Take(f"{path.stem} {number}", {"": clip}, skeleton) for number, clip in enumerate(joints, start=1)]


def save_npy(path: str | Path, joints, skeleton: Skeleton = HUMANML3D, fps: float | None = None) -> str:
    """Write joints (T, J, 3) as float32 `.npy`; returns a line that says what was written. `fps` is not kept."""
    with np.errstate(over="ignore"):
        array = check_joints(joints, skeleton).astype(np.float32)
    check_finite({"joints": array}, printable(path))                    # too large for single precision
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)
    return f"joints {array.shape} in {skeleton.unit}"


def save_html(path: str | Path, motions, skeleton: Skeleton = HUMANML3D, fps: float | None = None, title: str = "") -> str:
    """Write a page that plays up to four motions side by side; returns a line that says what was written."""
    takes = [Take(title or "Motion", check_motions(motions, skeleton), skeleton)]
    with write_atomically(path) as temporary:
        temporary.write_text(takes_html(takes, takes[0].title, fps), encoding="utf-8")
    return "a page that plays without a network"


def takes_html(takes: Sequence[Take], title: str, fps: float | None = None) -> str:
    """A self-contained page with one player a take. Titles and names are escaped."""
    players = [
        f"<h2>{html.escape(take.title)}</h2>" * (len(takes) > 1)
        + player_html(player_scene(take.panels, take.skeleton, fps=fps), code=False)
        for take in takes
    ]
    return page_html(title, f"<h1>{html.escape(title)}</h1>{''.join(players)}{player_code()}")

_ONE = (".npy", ".bvh")  # these hold one motion
_SEVERAL = {".gif": save_gif, ".mp4": save_mp4, ".html": save_html}  # these show some side by side
ENDINGS = (*_SEVERAL, *_ONE)


def export_motion(
    motions,  # joints (T, J, 3), or a dict name -> joints
    path: str | Path,  # ends in .gif, .mp4, .html, .bvh or .npy
    skeleton: Skeleton = HUMANML3D,
    fps: float | None = None,  # frames a second (default: the skeleton's)
    title: str = "",
    joint_names: str = "humanml3d",  # of .bvh, see `name_joints`
    t_pose: bool = False,  # of .bvh: the rest pose before the first frame
) -> str:
    """Write a motion in the form that the ending of `path` asks for; returns a line that says what was written.

    Raises `UserError` for an unknown ending, several motions where one belongs, or an unwritable `path`;
    `ValueError` for no frame, NaN, or joints that do not fit the skeleton.
    """
    path, clips = Path(path), check_motions(motions, skeleton)
    if fps is not None and not 0.1 <= fps < 1000:
        raise ValueError(f"fps is {fps}; expected frames a second from 0.1 to 1000")
    if path.suffix in _SEVERAL:
        return _SEVERAL[path.suffix](path, clips, skeleton, fps, title)
    if path.suffix not in _ONE:
        raise UserError(f"{path}: choose a name that ends in {', '.join(ENDINGS)}")
    if len(clips) > 1:
        raise UserError(f"{path}: {path.suffix} holds one motion, not {len(clips)} ({', '.join(clips)}); choose one")
    if path.suffix == ".bvh":
        return save_bvh(path, *clips.values(), skeleton, fps, joint_names, t_pose)
    return save_npy(path, *clips.values(), skeleton, fps)


def choose(takes: Sequence[Take], number: int = 1, panel: str | None = None, ending: str = ".html") -> Take:
    """Take `number` (from 1), with the panels that a file with this `ending` can hold.

    That is all of them, only `panel` if it is given, or where there is room for one, the one after adaptation.
    Raises `UserError` if there is no such take or panel.
    """
    if not 1 <= number <= len(takes):
        raise UserError(f"no motion {number}: there are {len(takes)}, counted from 1")
    take = takes[number - 1]
    if panel is None and (ending in _SEVERAL or len(take.panels) == 1):
        return take
    panel = "after" if panel is None else panel.replace("_", " ")
    if panel not in take.panels:
        raise UserError(f"no panel {panel!r} in motion {number}: choose from {', '.join(map(repr, take.panels))}")
    return replace(take, panels={panel: take.panels[panel]})
