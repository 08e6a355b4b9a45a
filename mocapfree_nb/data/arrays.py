"""Motion in `.npy` files, as the field writes it: joints or features, which of them, and what is wrong with them."""

import os
from pathlib import Path

import numpy as np

from ..files import UserError, open_file
from ..reading import load_array
from ..skeleton import HUMANML3D, KIT_ML
from .checks import is_normalised

LAYOUT = ("new_joint_vecs", "new_joints", "texts")


def array_width(path: str | Path) -> int:
    """The number of joints or features by the header of a .npy file; 0 where there is no such thing."""
    try:
        with open_file(path) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape = read(file)[0]
        return int(shape[0] if tuple(shape[1:2]) == (3,) else shape[1]) if len(shape) > 1 else 0
    except Exception:  # a damaged header can bring up anything; such a clip is named when it is read
        return 0


def _frames_first(array: np.ndarray, joints: bool) -> np.ndarray:
    """(frames, J, 3) of joints as MDM writes them, (J, 3, frames), and of a batch of one."""
    if len(array) == 1 and array.ndim == (4 if joints else 3):
        array = array[0]
    if joints and array.ndim == 3 and array.shape[:2] in ((22, 3), (21, 3)):
        array = array.transpose(2, 0, 1)
    return array


def array_fault(array: np.ndarray, joints: bool) -> str:
    """What is wrong with an array of joints or features; empty where nothing is."""
    shapes = [(22, 3), (21, 3)] if joints else [(263,), (251,)]
    if array.dtype.kind not in "fiu":
        return f"holds {array.dtype}, not numbers"
    if array.shape[1:] not in shapes:
        wanted = " or ".join(f"(frames, {', '.join(map(str, shape))})" for shape in shapes)
        several = ""
        if array.ndim == (4 if joints else 3):
            one = "array[i].transpose(2, 0, 1)" if array.shape[2] == 3 else "array[i]"
            several = f": {len(array)} motions; save each by itself, np.save(f'{{i:06d}}.npy', {one}[:length])"
        return f"has shape {array.shape}; {wanted} is expected{several}"
    if len(array) < 2:
        return f"has {len(array)} frame(s); at least 2 are needed"
    with np.errstate(over="ignore"):
        return "" if np.isfinite(array.astype(np.float32)).all() else "has NaN or infinite values"


def read_motion_array(folder: Path, name: str) -> np.ndarray:
    """The features (T, F) or, where those cannot be used, the joints (T, J, 3) of one clip."""
    reason = "no motion file"
    for part in LAYOUT[:2]:
        path = folder / part / f"{name}.npy"
        if not os.path.lexists(path):
            continue
        try:
            array = load_array(path, within=folder, finite=False)
            array = _frames_first(array, part == "new_joints") if array.ndim else array
            reason = array_fault(array, part == "new_joints")
            if not reason and part == "new_joint_vecs":
                array, reason = raw_features(array, folder)
        except UserError as error:
            reason = f"is unreadable ({error})"
        if not reason:
            return array.astype(np.float32, copy=False)
        reason = f"{part}/{path.name} {reason}"
    raise UserError(reason)


def raw_features(features: np.ndarray, folder: Path) -> tuple[np.ndarray, str]:
    """Features (T, F) in physical units, and what is wrong: normalised ones are taken back with the folder's statistics."""
    skeleton = KIT_ML if features.shape[1] == KIT_ML.num_features else HUMANML3D
    if not is_normalised(features, skeleton):
        return features, ""
    try:
        mean, std = (load_array(folder / f"{name}.npy", within=folder) for name in ("Mean", "Std"))
        raw = features * std + mean
        if raw.shape == features.shape and not is_normalised(raw, skeleton):
            return raw, ""
    except (UserError, ValueError):
        pass
    return features, "holds normalised features; the raw ones are wanted, or Mean.npy and Std.npy that they were made with"
