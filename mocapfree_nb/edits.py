"""Small edits of a motion: arms lowered or shortened, knees bent, time shifted. Each takes away what a caption asks for."""

# The machinery of lesson 14: what a reward says of motions that are nearly right.

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mocapfree_nb.files import UserError
from mocapfree_nb.skeleton import HUMANML3D, Skeleton

__all__ = ["SIDES", "arm_joints", "leg_joints", "least_over_ankle", "shrink_arms", "lower_arms", "bend_knees", "shift_time"]

SIDES = ("left", "right")


@lru_cache
def arm_joints(skeleton: Skeleton = HUMANML3D) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(shoulder, elbow, wrist) of the left arm and of the right. Raises `UserError` for a skeleton without named arms."""
    feet = {*skeleton.feet_left, *skeleton.feet_right}
    arms = [chain[-3:] for chain in skeleton.chains if not feet & set(chain)]
    found = [tuple(arm for arm in arms if arm[-1] in own) for own in (skeleton.left_joints, skeleton.right_joints)]
    if not all(found):
        raise UserError(f"the skeleton {skeleton.name} names no arms (left_..., right_...): there is nothing to lower")
    return found[0][0], found[1][0]


@lru_cache
def leg_joints(skeleton: Skeleton = HUMANML3D) -> tuple[tuple[int, int, int, int], ...]:
    """(hip, knee, ankle, toe) of each leg."""
    legs = [chain for chain in skeleton.chains if {*skeleton.feet_left, *skeleton.feet_right} & set(chain)]
    return tuple(tuple(joint for joint in chain if joint)[:4] for chain in legs)


def least_over_ankle(skeleton: Skeleton = HUMANML3D) -> float:
    """How high a hip stays over its ankle when knees are bent, in the skeleton's unit: a third of the leg."""
    return -sum(float(skeleton.offsets[joint][1]) for joint in leg_joints(skeleton)[0][1:3]) / 3


def shrink_arms(
    joints: Tensor,  # (..., J, 3)
    share: Tensor | float,  # of a bone's length that is taken away; negative: arms grow
    sides: Sequence[str] = SIDES,
    skeleton: Skeleton = HUMANML3D,
) -> Tensor:
    """Shorten the bones of the arms and keep their directions: what no body can, and a model that writes positions may."""
    placed = joints.clone()
    share = torch.as_tensor(share, dtype=joints.dtype, device=joints.device)[..., None]
    for side, arm in zip(SIDES, arm_joints(skeleton), strict=True):
        for parent, joint in zip(arm, arm[1:], strict=False):
            if side in sides:
                placed[..., joint, :] = placed[..., parent, :] + (1 - share) * (joints[..., joint, :] - joints[..., parent, :])
    return placed


def _across(joints: Tensor, skeleton: Skeleton) -> Tensor:
    """Unit vectors (..., 3), level with the floor, from the right shoulder to the left one."""
    _, _, right, left = skeleton.face_joints
    return F.normalize((joints[..., left, :] - joints[..., right, :]) * joints.new_tensor([1.0, 0.0, 1.0]), dim=-1)


def lower_arms(
    joints: Tensor,  # (..., J, 3) y up
    share: Tensor | float,  # of the way to rest, 0 to 1; a tensor has the dimensions before J
    sides: Sequence[str] = SIDES,
    skeleton: Skeleton = HUMANML3D,
) -> Tensor:
    """Lower arms towards hanging straight down: each bone turns by `share` of its angle to the vertical, lengths kept.

    A bone keeps its compass direction; one that points straight up comes down at the body's side.
    """
    share = torch.as_tensor(share, dtype=joints.dtype, device=joints.device)
    placed, across = joints.clone(), _across(joints, skeleton)
    for side, arm in zip(SIDES, arm_joints(skeleton), strict=True):
        if side not in sides:
            continue
        outward = across if side == "left" else -across
        for parent, joint in zip(arm, arm[1:], strict=False):
            bone = joints[..., joint, :] - joints[..., parent, :]
            length = bone.norm(dim=-1)
            level = bone * bone.new_tensor([1.0, 0.0, 1.0])
            compass = F.normalize(level + 0.1 * length[..., None] * outward, dim=-1)  # never without a direction
            angle = (1 - share) * torch.atan2(level.norm(dim=-1), -bone[..., 1])
            turned = angle.sin()[..., None] * compass
            turned[..., 1] = -angle.cos()
            turned = torch.where((share > 0)[..., None], length[..., None] * turned, bone)
            placed[..., joint, :] = placed[..., parent, :] + turned
    return placed


def bend_knees(joints: Tensor, depth: Tensor | float, skeleton: Skeleton = HUMANML3D) -> Tensor:
    """Sink the body (..., J, 3) by `depth` (skeleton's unit), feet where they are: thighs and shins keep their lengths.

    Nobody sinks further than to a third of the leg's length over an ankle.
    """
    limit = None
    legs, least = leg_joints(skeleton), least_over_ankle(skeleton)
    for hip, _, ankle, _ in legs:
        room = (joints[..., hip, 1] - joints[..., ankle, 1] - least).clamp_min(0)
        limit = room if limit is None else torch.minimum(limit, room)
    sunk = torch.minimum(torch.as_tensor(depth, dtype=joints.dtype, device=joints.device), limit)
    placed = joints - sunk[..., None, None] * joints.new_tensor([0.0, 1.0, 0.0])
    forward = torch.linalg.cross(_across(joints, skeleton), joints.new_tensor([0.0, 1.0, 0.0]).expand(joints.shape[:-2] + (3,)))
    for hip, knee, ankle, toe in legs:
        placed[..., [ankle, toe], :] = joints[..., [ankle, toe], :]
        thigh, shin = ((joints[..., a, :] - joints[..., b, :]).norm(dim=-1) for a, b in ((knee, hip), (ankle, knee)))
        way = placed[..., ankle, :] - placed[..., hip, :]
        span = way.norm(dim=-1).clamp_min(1e-6)
        along = (thigh**2 - shin**2 + span**2) / (2 * span)
        way = way / span[..., None]
        bulge = joints[..., knee, :] - joints[..., hip, :] + 0.1 * thigh[..., None] * forward
        bulge = F.normalize(bulge - (bulge * way).sum(-1, keepdim=True) * way, dim=-1)
        bent = placed[..., hip, :] + along[..., None] * way + (thigh**2 - along**2).clamp_min(0).sqrt()[..., None] * bulge
        placed[..., knee, :] = torch.where((sunk > 0)[..., None], bent, joints[..., knee, :])
    return placed


def shift_time(joints: Tensor, frames: int) -> Tensor:
    """Joints (T, J, 3) that do the same `frames` later (sooner, if negative), the first (last) pose held meanwhile."""
    return joints[(torch.arange(len(joints), device=joints.device) - frames).clamp(0, len(joints) - 1)]
