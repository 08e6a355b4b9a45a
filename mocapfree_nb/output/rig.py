"""One body for every clip that leaves: standard bones, names that other programs know, a rest pose on the floor."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..files import UserError
from ..skeleton import HUMANML3D, Skeleton, sum_bones
from ..viewer import check_joints
from .ik import Deviation, Pose, children_of, deviation, fit_pose, inverse_kinematics, measure_body, t_pose_directions

JOINT_NAMES = ("humanml3d", "mixamo", "unreal")
_CENTRE = {
    "pelvis": ("Hips", "pelvis"), "root": ("Hips", "pelvis"), "spine1": ("Spine", "spine_01"), "spine2": ("Spine1", "spine_02"),
    "spine3": ("Spine2", "spine_03"), "neck": ("Neck", "neck_01"), "head": ("Head", "head"),
}
_SIDED = {
    "hip": ("UpLeg", "thigh"), "knee": ("Leg", "calf"), "ankle": ("Foot", "foot"), "collar": ("Shoulder", "clavicle"),
    "shoulder": ("Arm", "upperarm"), "elbow": ("ForeArm", "lowerarm"), "wrist": ("Hand", "hand"),
}
# Bones that leave a joint together keep one shape: metres, as `measure_body` finds it in clips of the default body.
_BRANCHES = {
    "left_hip": (0.05680, -0.08448, -0.01631), "right_hip": (-0.06770, -0.08521, -0.01530), "spine1": (0.00497, 0.13151, 0.0),
    "left_collar": (0.07771, 0.11343, -0.00074), "right_collar": (-0.08548, 0.11513, -0.00071), "neck": (-0.00416, 0.21936, 0.0),
}


def name_joints(skeleton: Skeleton, names: str = "humanml3d") -> tuple[str, ...]:
    """The joint names of `skeleton` as HumanML3D, Mixamo (`mixamorig:LeftArm`) or Unreal (`upperarm_l`) has them."""
    if names not in JOINT_NAMES:
        raise UserError(f"joint names {names!r}; choose from {', '.join(JOINT_NAMES)}")
    if names == "humanml3d":
        return skeleton.joint_names
    table = _SIDED | ({"midfoot": ("ToeBase", "ball"), "foot": ("Toe_End", "toe")}
                      if any("midfoot" in name for name in skeleton.joint_names) else {"foot": ("ToeBase", "ball")})
    found = []
    for name in skeleton.joint_names:
        side, _, part = name.partition("_")
        if part in table and names == "mixamo":
            found.append(f"mixamorig:{side.title()}{table[part][0]}")
        elif part in table:
            found.append(f"{table[part][1]}_{side[0]}")
        else:
            found.append(f"mixamorig:{_CENTRE[name][0]}" if names == "mixamo" else _CENTRE[name][1])
    return tuple(found)


def standard_body(skeleton: Skeleton = HUMANML3D) -> Skeleton:
    """The skeleton's default body in a T-pose that faces +z: the bones of every exported clip that fits it."""
    directions = t_pose_directions(skeleton).numpy()
    for joint, name in enumerate(skeleton.joint_names):
        if name in _BRANCHES and skeleton.num_joints == HUMANML3D.num_joints:
            directions[joint] = np.array(_BRANCHES[name]) / np.linalg.norm(_BRANCHES[name])
    return replace(skeleton, offsets=directions * np.linalg.norm(skeleton.offsets, axis=-1, keepdims=True))


def export_body(joints: Tensor, skeleton: Skeleton = HUMANML3D, tolerance: float = 0.15) -> Skeleton:
    """The body that a motion (T, J, 3) leaves with: the standard one, so that all clips of a model share their bones.

    A motion of another body keeps its own: one that a body of constant bones, with other lengths or hips, fits within
    5 mm (captured motion), or one whose limbs differ by more than `tolerance` of their length on average. Joints are
    always those of the skeleton.
    """
    standard = standard_body(skeleton)
    own = measure_body(joints, skeleton, tolerance=float("inf"))[0]
    misses = [fit_pose(joints, skeleton, rig)[1].metres for rig in (standard, own)]
    if misses[0] >= 5e-4 and misses[1] < 5e-3:
        return own
    lengths = (joints[:, 1:] - joints[:, list(skeleton.parents[1:])]).norm(dim=-1).median(0).values
    usual = torch.as_tensor(skeleton.offsets).to(joints).norm(dim=-1)[1:]
    limbs = [name.endswith(("knee", "ankle", "elbow", "wrist")) for name in skeleton.joint_names[1:]]
    return standard if float((lengths / usual - 1)[limbs].abs().mean()) <= tolerance else own


def fix_bone_lengths(joints: Tensor, rig: Skeleton, rounds: int = 40) -> Tensor:
    """Move joints (T, J, 3) as little as it takes until every bone has the length that it has in `rig`.

    Each round shares the error of a bone between its two ends (position-based dynamics), also across the bones that
    leave one joint together, so that an error in one place is spread and not handed down the limb.
    """
    rest = sum_bones(torch.as_tensor(rig.offsets), rig).to(joints)
    pairs = [*rig.bones, *((a, b) for own in children_of(rig) for i, a in enumerate(own) for b in own[i + 1 :])]
    fixed = joints.clone()
    for _ in range(rounds):
        for a, b in pairs:
            along = fixed[:, b] - fixed[:, a]
            length = along.norm(dim=-1, keepdim=True).clamp_min(1e-9)
            push = along * (0.5 * (1 - (rest[b] - rest[a]).norm() / length))
            fixed[:, a] += push
            fixed[:, b] -= push
    return fixed


def fit_export(joints, skeleton: Skeleton = HUMANML3D) -> tuple[Pose, Deviation]:
    """Rotations of the body that all clips share for a motion (T, J, 3), and where a joint ends farthest from where it was.

    Raises `ValueError` as `fit_pose` does.
    """
    wanted = torch.as_tensor(check_joints(joints, skeleton))
    rig = export_body(wanted, skeleton)
    exact, miss = fit_pose(wanted, skeleton, rig)
    if miss.metres < 5e-4:
        return exact, miss
    pose = inverse_kinematics(fix_bone_lengths(wanted, rig), rig)
    return pose, deviation(pose, wanted)


def rest_height(rig: Skeleton) -> float:
    """How high the root of the rest pose stands when its lowest joint is on the floor, in the skeleton's unit."""
    return -float(sum_bones(torch.as_tensor(rig.offsets), rig)[:, 1].min())


def with_t_pose(pose: Pose) -> Pose:
    """The motion with one frame more at its beginning: the rest pose, on the floor, where the motion starts."""
    still = torch.eye(3).to(pose.rotations).expand(1, pose.rig.num_joints, 3, 3)
    place = pose.root[:1].clone()
    place[:, 1] = rest_height(pose.rig)
    return replace(pose, rotations=torch.cat([still, pose.rotations]), root=torch.cat([place, pose.root]))
