"""AMASS archives: joints of an SMPL body from its pose parameters, without its skin."""

import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from .. import reading
from ..features import retarget
from ..files import UserError, printable
from ..skeleton import HUMANML3D
from .convert import resample

def body_files(body_models: str | Path | None) -> list[Path]:
    """Every file of the folder of body models. Raises `UserError` where there is none."""
    given = body_models or os.environ.get("MOCAPFREE_BODY_MODELS")
    if not given or not Path(given).expanduser().is_dir():
        raise UserError(
            "AMASS needs a body model: download SMPL-H, SMPL-X or SMPL as .npz, and give their folder (body_models=..., "
            "or MOCAPFREE_BODY_MODELS)" + (f"; there is no folder {given}" if given else "")
        )
    return sorted(path for path in Path(given).expanduser().rglob("*") if path.suffix.lower() in (".npz", ".pkl"))


def find_body_model(body_models: str | Path | None, gender: str, family: str = "") -> Path:
    """The `.npz` body model for "male", "female" or "neutral" in a folder; the neutral one where that is missing.

    Knows `SMPLH_MALE.npz` and the like, and `male/model.npz`. `family`, "SMPL-X" or "SMPL-H", passes the other one over:
    `betas` of one mean another body in the other. Raises `UserError` where there is none.
    """
    files, others = body_files(body_models), []
    for wanted in (gender, "neutral"):
        for path in files:
            words = re.split(r"[^a-z]+", f"{path.parent.name} {path.stem}".lower())
            if path.suffix.lower() == ".npz" and wanted in words:
                if not family or family == _family_of_body(path):
                    return path
                others.append(path.name)
    pickles = [path.name for path in files if path.suffix.lower() == ".pkl"]
    reason = "it has no such .npz"
    if others:
        reason = f"{others[0]} is of another family, whose shapes differ; download {family} for this file"
    elif pickles:
        reason = f"{pickles[0]} is a pickle, which is never loaded; get the .npz version"
    kind = f"{gender} or neutral {family} body model" if family else f"{gender} or neutral body model"
    raise UserError(f"no {kind} in {body_models or os.environ['MOCAPFREE_BODY_MODELS']}: {reason}")


@lru_cache(maxsize=32)
def _family_of_body(path: Path) -> str:
    """SMPL-X has 55 joints; SMPL-H has 52 and SMPL 24, with the same shapes."""
    regressor = _arrays(path, {"J_regressor": "joint regressor"})["J_regressor"]
    return "SMPL-X" if regressor.ndim == 2 and len(regressor) >= 54 else "SMPL-H"


def _arrays(path: Path, names: Mapping[str, str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Some arrays of an .npz, up to 1 GiB. Raises `UserError`; `names` says what each is for."""
    try:
        found = reading.read_arrays(path, {*names, *optional}, 2**30, path.parent, finite=False)
    except UserError as error:
        raise UserError(f"{path.name} cannot be read ({error})") from error
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{path.name} has no {', '.join(names[name] for name in missing)} ({', '.join(missing)})")
    return found


@lru_cache(maxsize=8)
def _body(path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Resting joints (22, 3) of the mean shape, their change by shape (22, 3, B), and parents (22,), of a body model."""
    wanted = {"v_template": "mean body", "shapedirs": "shapes", "J_regressor": "joint regressor", "kintree_table": "joint tree"}
    arrays = _arrays(path, wanted)
    template, shapes, regressor = (arrays[name] for name in ("v_template", "shapedirs", "J_regressor"))
    vertices = len(template)
    sound = template.shape == (vertices, 3) and shapes.shape[:2] == (vertices, 3) and arrays["kintree_table"].shape[1:] >= (22,)
    if not sound or regressor.shape[0] < 22 or regressor.shape[1] != vertices:
        raise UserError(f"{path.name} is no SMPL body model: the shapes of its arrays do not fit together")
    regressor = torch.as_tensor(regressor[:22].astype(np.float64))
    rest = regressor @ torch.as_tensor(template.astype(np.float64))
    change = torch.einsum("jv,vcb->jcb", regressor, torch.as_tensor(shapes.astype(np.float64)))
    return rest, change, torch.as_tensor(arrays["kintree_table"][0, :22].astype(np.int64))


def read_amass(path: str | Path, body_models: str | Path | None = None) -> np.ndarray:
    """Joints (T, 22, 3) of an AMASS `.npz`: metres, y up, 20 frames a second, on the body of HumanML3D.

    `body_models` is the folder of your body models (or `MOCAPFREE_BODY_MODELS`). Raises `UserError`.
    """
    try:
        from smplx.lbs import batch_rigid_transform, batch_rodrigues  # SMPL: Loper et al. 2015
    except ImportError as error:
        raise UserError("AMASS needs smplx, whose licence allows research: pip install smplx") from error
    path = Path(path)
    poses, trans, betas, family = _amass_arrays(path)
    fps, gender = _rate_and_gender(path)
    rest, change, parents = _body(find_body_model(body_models, gender, family))
    count = min(len(betas), change.shape[2])
    rest = rest + change[..., :count] @ torch.as_tensor(betas[:count].astype(np.float64))
    rotations = batch_rodrigues(torch.as_tensor(poses[:, :66].reshape(-1, 3).astype(np.float64))).view(-1, 22, 3, 3)
    joints, _ = batch_rigid_transform(rotations, rest.expand(len(poses), 22, 3), parents, dtype=torch.float64)
    joints = joints.numpy() + trans[:, None]
    if not np.isfinite(joints).all():
        raise UserError(f"{path.name} and its body model give NaN or infinite joints")
    joints = resample(joints @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), fps, HUMANML3D.fps)  # z up to y up
    if len(joints) < 2:
        raise UserError(f"{path.name} lasts {len(poses) / fps:.2f} s; at least 2 frames at 20 a second are needed")
    joints = retarget(joints, HUMANML3D.offsets).numpy().astype(np.float32)
    if not np.isfinite(joints).all():  # legs without length, a path longer than single precision reaches
        raise UserError(f"{path.name} and its body model give a body that cannot be put on that of HumanML3D")
    return joints


def _amass_arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """poses (T, 66 or more), trans (T, 3), betas (B,) and the family of body that they were made with."""
    needed = {"poses": "poses", "trans": "path of the body", "betas": "shape of the person"}
    arrays = _arrays(path, needed, ["surface_model_type"])
    poses, trans, betas = (np.asarray(arrays[name]) for name in needed)
    if poses.ndim != 2 or poses.shape[1] < 66 or trans.shape != (len(poses), 3) or len(poses) < 2:
        raise UserError(f"{path.name} has poses {poses.shape} and trans {trans.shape}; (frames, 66 or more) and (frames, 3)")
    betas = betas[0] if betas.ndim == 2 and len(betas) == 1 else betas
    if betas.ndim != 1:
        raise UserError(f"{path.name} has betas {betas.shape}, the shape of the person; (10,) or (16,) is usual")
    for name, array in (("poses", poses), ("trans", trans), ("betas", betas)):
        if array.dtype.kind not in "fiu":
            raise UserError(f"{path.name}: {name} holds {array.dtype}, not numbers")
        if not np.isfinite(array).all():
            raise UserError(f"{path.name}: {name} has NaN or infinite values")
    stated = _word(arrays.get("surface_model_type", ""))
    x = "smplx" in stated or (not stated and poses.shape[1] >= 165)  # 55 joints; SMPL-H has 52
    return poses, trans, betas, "SMPL-X" if x else "SMPL-H"


def _word(value: object) -> str:
    """A text of an archive, which may be stored as bytes or as an array of one, in lower case."""
    first = np.asarray(value).reshape(-1)[0]
    return (first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)).strip("\0 ").lower()


def _rate_and_gender(path: Path) -> tuple[float, str]:
    """Frames a second and gender that an AMASS file states."""
    rates = ("mocap_framerate", "mocap_frame_rate")
    found = _arrays(path, {}, [*rates, "gender"])
    name = next((name for name in rates if name in found), None)
    if name is None:
        raise UserError(f"{path.name} has no frame rate (mocap_framerate)")
    try:
        fps = float(np.asarray(found[name]).reshape(-1)[0])
        gender = _word(found["gender"]) if "gender" in found else "neutral"
    except Exception as error:
        raise UserError(f"{path.name} has a damaged frame rate or gender ({printable(error)})") from error
    gender = {"f": "female", "m": "male", "n": "neutral"}.get(gender, gender)
    if gender not in ("female", "male", "neutral"):
        raise UserError(f"{path.name} states the gender '{printable(gender, 30)}'; female, male or neutral is expected")
    if not 0.5 <= fps <= 2000:
        raise UserError(f"{path.name} states {fps:g} frames a second")
    return fps, gender
