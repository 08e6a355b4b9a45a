"""The files of SMPL, SMPL-H and SMPL-X: read without a pickle, checked, and shaped to the bones of a motion."""

import contextlib
import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import UserError
from ..reading import read_arrays
from ..skeleton import HUMANML3D

_SITES = "SMPL https://smpl.is.tue.mpg.de, SMPL-H https://mano.is.tue.mpg.de, SMPL-X https://smpl-x.is.tue.mpg.de"
_NAMES = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")


def _model_file(path: Path) -> Path:
    "The .npz that `path` names or holds; a `UserError` says where to get one, or how to make one of a .pkl."
    if path.is_dir():
        found = sorted(path.rglob("*.npz")) or sorted(path.rglob("*.pkl"))
        neutral = [file for file in found if "NEUTRAL" in file.stem.upper()]
        if len(neutral or found) > 1:
            names = ", ".join(str(file.relative_to(path)) for file in (neutral or found)[:6])
            raise UserError(f"{path} holds several models: name one of {names}")
        path = (neutral or found or [path / "SMPL_NEUTRAL.npz"])[0]
    if path.suffix == ".pkl" and path.exists():
        raise UserError(
            f"{path} is a pickle, which can run any code when it is opened: convert it to .npz once, as lesson "
            "nbs/9_output/37_body.ipynb shows (pickle.load, then numpy.savez of " + " ".join(_NAMES) + ")"
        )
    if not path.exists():
        raise UserError(
            f"no body model at {path}: register and download one ({_SITES}) and give its .npz file; without a model "
            "a body of capsules is drawn"
        )
    if path.suffix != ".npz":
        raise UserError(f"{path} is no body model: expected the .npz of SMPL, SMPL-H or SMPL-X ({_SITES})")
    return path


def _check_model(arrays: dict[str, np.ndarray], path: Path) -> None:
    "Shapes that fit each other, or a `UserError`."
    if any(array.dtype.kind not in "fiu" or array.ndim < 2 for array in arrays.values()):
        raise UserError(f"{path} is no body model: {', '.join(_NAMES)} should be tables of numbers")
    if any(array.size == 0 for array in arrays.values()):
        raise UserError(f"{path} is no body model: it has an empty array")
    count, joints = len(arrays["v_template"]), arrays["kintree_table"].shape[-1]
    shapes = {
        "v_template": (count, 3), "shapedirs": (count, 3, None), "posedirs": (count, 3, 9 * (joints - 1)),
        "J_regressor": (joints, count), "weights": (count, joints), "kintree_table": (2, joints), "f": (None, 3),
    }
    for name, shape in shapes.items():
        got = arrays[name].shape
        if len(got) != len(shape) or any(want not in (None, have) for want, have in zip(shape, got, strict=True)):
            raise UserError(f"{path} is no body model: {name} has shape {got}, expected {shape} (None: any)")
    if largest := [name for name, array in arrays.items() if name not in ("kintree_table", "f") and np.abs(array).max() > 1e4]:
        raise UserError(f"{path} is no body model in metres: {largest[0]} holds {np.abs(arrays[largest[0]]).max():.3g}")
    parents, faces = arrays["kintree_table"][0].astype(np.int64).tolist(), arrays["f"]
    if joints < 24 or tuple(parents[1:22]) != HUMANML3D.parents[1:]:
        raise UserError(f"{path}: its first 22 joints are not those of SMPL, SMPL-H and SMPL-X")
    if any(not 0 <= parent < joint for joint, parent in enumerate(parents) if joint):
        raise UserError(f"{path} is no body model: its joints are no tree, or not in order")
    if arrays["shapedirs"].shape[2] < 10:
        raise UserError(f"{path} has {arrays['shapedirs'].shape[2]} shapes; at least 10 are needed")
    if faces.dtype.kind == "f" or faces.size == 0 or not (0 <= faces.min() and faces.max() < count):
        raise UserError(f"{path} is no body model: its faces do not fit its {count} vertices")


def load_smpl(path: str | Path):
    """A `smplx.SMPL` from the `.npz` of SMPL, SMPL-H or SMPL-X, or from the folder it lies in; float64.

    No pickle is loaded. Raises `UserError` where `smplx` is not installed, the file is missing, a pickle, damaged or
    of another kind; the message says what to do.
    """
    path = _model_file(Path(path))
    try:
        import smplx
    except ImportError as error:
        raise UserError("a SMPL body needs the package smplx: pip install 'mocapfree_nb[body]'") from error
    from smplx.utils import Struct
    from smplx.vertex_ids import vertex_ids

    arrays = read_arrays(path, _NAMES)
    if missing := [name for name in _NAMES if name not in arrays]:
        raise UserError(f"{path} is no body model: it lacks an array ({missing[0]})")
    _check_model(arrays, path)
    nowhere = dict.fromkeys(vertex_ids["smplh"], 0)                      # we ask for no points on nose or fingertips
    parts = {f"create_{part}": False for part in ("betas", "global_orient", "body_pose", "transl")}
    with contextlib.redirect_stdout(io.StringIO()):                     # it warns of ten shape numbers, which we want
        return smplx.SMPL(str(path), data_struct=Struct(**arrays), vertex_ids=nowhere, dtype=torch.float64, **parts)


def rest_joints(model, betas: Tensor) -> Tensor:
    "Joints at rest (J, 3) for shape numbers (10,)."
    shape = model.v_template + torch.einsum("vcb,b->vc", model.shapedirs, betas)
    return model.J_regressor @ shape


def fit_shape(model, lengths: Tensor, steps: int = 5, prior: float = 1e-5) -> tuple[Tensor, float]:
    """Shape numbers and a size for which the bones of a SMPL body are as long as `lengths` (21,) in metres.

    Gauss-Newton on the differences, with `prior` times the squared shape numbers (square metres).
    """
    parents = list(HUMANML3D.parents[1:])

    def bones(betas):
        joints = rest_joints(model, betas)[:22]
        return joints[1:] - joints[parents]

    betas = torch.zeros(model.num_betas, dtype=torch.float64)
    size = float(lengths.sum() / bones(betas).norm(dim=-1).sum())
    changes = torch.stack([bones(unit) for unit in torch.eye(len(betas)).double()], -1) - bones(betas)[..., None]
    for _ in range(steps):
        here = bones(betas)
        length = here.norm(dim=-1)
        slope = torch.einsum("ic,icb->ib", here / length[:, None], changes)
        normal = slope.T @ slope + prior * torch.eye(len(betas)).double()
        betas = betas + torch.linalg.solve(normal, slope.T @ (lengths / size - length) - prior * betas)
    return betas, size
