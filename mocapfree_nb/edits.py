"""Small edits of a motion on its own bones: arms lowered, knees bent, time shifted. Each takes away what a caption asks for."""

# The machinery of lesson 14: what a reward says of motions that are nearly right.

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mocapfree_nb.files import UserError
from mocapfree_nb.skeleton import HUMANML3D, Skeleton

__all__ = ["SIDES", "arm_joints", "lower_arms", "bend_knees", "shift_time"]

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
    legs = [chain for chain in skeleton.chains if {*skeleton.feet_left, *skeleton.feet_right} & set(chain)]
    legs = [tuple(joint for joint in chain if joint)[:4] for chain in legs]  # hip, knee, ankle, toe
    for hip, _, ankle, _ in legs:
        least = sum(skeleton.offsets[j][1] for j in (legs[0][1], legs[0][2])) / -3
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
