"""Motions that are nearly right, as hard negatives for the training of a retrieval network: arms lowered, sides exchanged."""

# The machinery of lesson 13: the option `hard_negatives` of `train_retrieval`.

from collections.abc import Sequence

import torch
from torch import Tensor

from mocapfree_nb.edits import SIDES, lower_arms
from mocapfree_nb.features import FEATURE_GROUPS, mirror
from mocapfree_nb.skeleton import skeleton_of

__all__ = ["names_a_side", "lower_some_arms", "nearly_right"]


def names_a_side(captions: Sequence[str]) -> Tensor:
    """Which captions say left or right: (N,) bool."""
    from mocapfree_nb.rewards import swap_sides  # the next lesson

    return torch.tensor([swap_sides(caption) != caption for caption in captions])


def lower_some_arms(motion: Tensor, share: Tensor, arms: Tensor) -> Tensor:
    """Raw motion (B, T, F) with arms lowered by `share` (B,) of their way to rest; `arms` (B,): 0 both, 1 left, 2 right.

    Only the positions of joints change, which are what a retrieval network reads.
    """
    skeleton = skeleton_of(motion.shape[-1])
    place, height = (FEATURE_GROUPS(skeleton)[name] for name in ("positions", "root_height"))
    positions = motion[..., place].unflatten(-1, (-1, 3))
    root = torch.zeros_like(positions[..., :1, :])
    root[..., 0, 1] = motion[..., height.start]
    joints = torch.cat([root, positions], dim=-2)
    for side, other in zip(SIDES, (2, 1), strict=True):
        own = share.masked_fill(arms == other, 0.0)[:, None].expand(joints.shape[:2])
        joints = lower_arms(joints, own, (side,), skeleton)
    return torch.cat([motion[..., : place.start], joints[..., 1:, :].flatten(-2), motion[..., place.stop :]], dim=-1)


def nearly_right(
    motion: Tensor,  # (B, T, F) raw
    sided: Tensor,  # (B,) does the caption name a side?
    generator: torch.Generator,
    least: float = 0.1,  # metres that the furthest joint must move
) -> tuple[Tensor, Tensor]:
    """Two motions for each that its caption does not fit: (2 B, T, F), and which of them count (B, 2).

    First all with arms lowered by .15 to .6 of their way to rest, then all mirror images.
    """
    skeleton = skeleton_of(motion.shape[-1])
    share = 0.15 + 0.45 * torch.rand(len(motion), generator=generator, device=motion.device)
    arms = torch.randint(3, (len(motion),), generator=generator, device=motion.device)
    lowered, place = lower_some_arms(motion, share, arms), FEATURE_GROUPS(skeleton)["positions"]
    way = (lowered - motion)[..., place].unflatten(-1, (-1, 3)).norm(dim=-1).amax((1, 2))
    moved = way > least * (1000 if skeleton.unit == "mm" else 1)
    return torch.cat([lowered, mirror(motion, skeleton)]), torch.stack([moved, sided], dim=1)
