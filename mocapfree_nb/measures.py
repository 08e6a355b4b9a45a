"""What can be measured on a body of joints: headings, ways over ground, limbs; smoothed, over a measured floor."""

# The machinery of lesson 03: `verify` reads these quantities and nothing else.

from functools import cached_property

import torch
from torch import Tensor

from mocapfree_nb.skeleton import HUMANML3D

__all__ = ["FPS", "LEFT", "RIGHT", "Body", "heading", "inner_angle"]

FPS = 20.0
LEFT, RIGHT = 0, 1
_LIMB_BONES = [4, 5, 7, 8, 18, 19, 20, 21]  # end joints of thighs, shins, upper arms and forearms
_LIMB_PARENTS = [HUMANML3D.parents[joint] for joint in _LIMB_BONES]
_LIMB_LENGTHS = [float((HUMANML3D.offsets[joint] ** 2).sum() ** 0.5) for joint in _LIMB_BONES]


def heading(left: Tensor, window: int = 7) -> Tensor:
    "Unwrapped heading (B, T) of a body whose left is `left` (B, T, 3), averaged over `window` frames."
    flat = left[..., [0, 2]].transpose(1, 2)
    pad = window // 2
    flat = torch.nn.functional.avg_pool1d(
        torch.nn.functional.pad(flat, (pad, pad), mode="replicate"), window, 1
    )
    yaw = torch.atan2(-flat[:, 1], flat[:, 0])
    step = torch.remainder(yaw[:, 1:] - yaw[:, :-1] + torch.pi, 2 * torch.pi) - torch.pi
    return torch.cat([yaw[:, :1], yaw[:, :1] + step.cumsum(1)], 1)


def inner_angle(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    "Angle at b in degrees."
    return torch.rad2deg(torch.acos(torch.nn.functional.cosine_similarity(a - b, c - b, dim=-1).clamp(-1, 1)))


class Body:
    """Quantities that the checks read, for a batch of clips: metres, degrees, seconds.

    joints (B, T, 22, 3), y up, and lengths (B,). `joints` become smoothed positions over the measured floor, `real`
    (B, T) says which frames count. Of wrists and elbows there are two, left first: (B, T, 2).
    """

    def __init__(self, joints: Tensor, lengths: Tensor):
        self.last = (lengths - 1)[:, None]
        self.real = torch.arange(joints.shape[1], device=joints.device)[None] <= self.last
        rows = torch.arange(len(joints), device=joints.device)[:, None]
        filled = torch.where(self.real[..., None, None], joints, joints[rows, self.last])
        self.finite = torch.isfinite(filled).flatten(1).all(1)
        if not self.finite.all():
            filled = torch.nan_to_num(filled, posinf=0.0, neginf=0.0)
        padded = torch.cat([filled[:, :1], filled, filled[:, -1:]], 1)
        smooth = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * filled
        self.joints = torch.where(self.real[..., None, None], smooth, smooth[rows, self.last])
        toes = self.joints[:, :, 10:12, 1].masked_fill(~self.real[..., None], torch.inf).flatten(1)
        floor = toes.sort(1).values.gather(1, (0.16 * lengths[:, None]).long())
        self.joints[..., 1] -= floor[..., None]

    @cached_property
    def whole(self) -> Tensor:
        """Are thighs, shins, upper arms and forearms in proportion? (B,)

        Each one's mean length, by that of the skeleton, within a third of the median of the eight, so that small and tall
        bodies pass and one with a shrunken arm does not.
        """
        size = (self.joints[:, :, _LIMB_BONES] - self.joints[:, :, _LIMB_PARENTS]).norm(dim=-1)
        size = (size * self.real[..., None]).sum(1) / self.real.sum(1)[:, None] / size.new_tensor(_LIMB_LENGTHS)
        middle = size.median(1, keepdim=True).values
        return ((size < middle * 4 / 3) & (size > middle * 3 / 4)).all(1)

    @cached_property
    def valid(self) -> Tensor:
        "Is it a body at all: finite numbers, limbs in proportion? (B,)"
        return self.finite & self.whole

    def at(self, joint: int, side: int = 0) -> Tensor:
        "Positions (B, T, 3) of a joint; `side` 1 gives its right twin."
        return self.joints[:, :, joint + side]

    def height(self, joint: int, side: int = 0) -> Tensor:
        return self.joints[:, :, joint + side, 1]

    def some(self, mask: Tensor, frames: int) -> Tensor:
        "Do at least `frames` real frames hold? (B,)"
        return (mask & self.real).sum(1) >= frames

    def held(self, mask: Tensor) -> Tensor:
        "Longest run of real frames that hold (B,)."
        mask = (mask & self.real).long()
        count = mask.cumsum(1)
        return (count - (count * (1 - mask)).cummax(1).values).amax(1)

    def first(self, value: Tensor) -> Tensor:
        "Mean of the first three frames (B,)."
        return value[:, :3].mean(1)

    def final(self, value: Tensor) -> Tensor:
        "Median of the last four real frames (B,)."
        index = (self.last - torch.arange(4, device=value.device)).clamp_min(0)
        return value.gather(1, index).median(1).values

    # Headings and ways over ground

    @cached_property
    def hip_yaw(self) -> Tensor:
        "Heading of the hips (B, T), unwrapped, averaged over seven frames."
        return heading(self.at(1) - self.at(2))

    @cached_property
    def turned(self) -> Tensor:
        "Heading at the end less heading at the start, in degrees (B,); to the left is positive."
        return torch.rad2deg(self.hip_yaw.gather(1, self.last)[:, 0] - self.hip_yaw[:, 0])

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        "Unit vectors (B, T, 3) to the front and to the left of the hips."
        cos, sin, zero = torch.cos(self.hip_yaw), torch.sin(self.hip_yaw), torch.zeros_like(self.hip_yaw)
        return torch.stack([sin, zero, cos], -1), torch.stack([cos, zero, -sin], -1)

    def ahead(self, a: Tensor, b: Tensor) -> Tensor:
        "How far a is in front of b, seen by the body (B, T)."
        return ((a - b) * self.axes[0]).sum(-1)

    def leftward(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a - b) * self.axes[1]).sum(-1)

    @cached_property
    def went(self) -> tuple[Tensor, Tensor]:
        "Way of the pelvis from first to last frame, to the first frame's front and to its left, (B,) each."
        path = self.at(0) - self.at(0)[:, :1]
        end = path.gather(1, self.last[..., None].expand(-1, -1, 3))[:, 0]
        return (end * self.axes[0][:, 0]).sum(-1), (end * self.axes[1][:, 0]).sum(-1)

    @cached_property
    def roamed(self) -> Tensor:
        "Largest distance over ground between the pelvis and where it started (B,)."
        return (self.at(0) - self.at(0)[:, :1])[..., [0, 2]].norm(dim=-1).amax(1)

    @cached_property
    def speed(self) -> Tensor:
        "Mean speed of the pelvis over ground (B,), between frames five apart so that jitter does not count."
        step = (self.at(0)[:, 5:] - self.at(0)[:, :-5])[..., [0, 2]].norm(dim=-1) * FPS / 5
        real = self.real[:, 5:]
        return (step * real).sum(1) / real.sum(1).clamp_min(1)

    # What the limbs do

    @cached_property
    def flight(self) -> Tensor:
        "Frames with both feet off the floor (B, T)."
        ankles, toes = self.joints[:, :, [7, 8], 1].amin(-1), self.joints[:, :, [10, 11], 1].amin(-1)
        return (ankles > 0.11) & (toes > 0.05) & self.real

    @cached_property
    def elbow(self) -> Tensor:
        "Inner angle of each elbow: 180 is straight."
        return inner_angle(self.joints[:, :, [16, 17]], self.joints[:, :, [18, 19]], self.joints[:, :, [20, 21]])

    @cached_property
    def over_head(self) -> Tensor:
        "Height of each wrist over the head joint."
        return self.joints[:, :, [20, 21], 1] - self.height(15)[..., None]

    @cached_property
    def over_shoulder(self) -> Tensor:
        return self.joints[:, :, [20, 21], 1] - self.joints[:, :, [16, 17], 1]

    @cached_property
    def reach(self) -> Tensor:
        "How far each wrist is in front of its shoulder."
        return ((self.joints[:, :, [20, 21]] - self.joints[:, :, [16, 17]]) * self.axes[0][:, :, None]).sum(
            -1
        )

    @cached_property
    def outward(self) -> Tensor:
        "How far each wrist is outside its shoulder."
        side = self.axes[1][:, :, None] * self.joints.new_tensor([[1.0], [-1.0]])
        return ((self.joints[:, :, [20, 21]] - self.joints[:, :, [16, 17]]) * side).sum(-1)

    @cached_property
    def stoop(self) -> Tensor:
        "Angle of the trunk against the vertical, to the front (B, T)."
        trunk = self.ahead(self.at(12), self.at(0)), self.height(12) - self.height(0)
        return torch.rad2deg(torch.atan2(*trunk))

    @cached_property
    def tilt(self) -> Tensor:
        "Angle of the trunk against the vertical, to the left (B, T)."
        trunk = self.leftward(self.at(12), self.at(0)), self.height(12) - self.height(0)
        return torch.rad2deg(torch.atan2(*trunk))
