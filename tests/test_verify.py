"""Checks by geometry: right on clips no threshold was looked at with, blind to padding, room and batch."""

import numpy as np
import pytest
import torch

from mocapfree_nb.features import features_to_joints, joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D
from mocapfree_nb.synthetic.actions import ACTIONS
from mocapfree_nb.verify import CHECKS, confusion, swaps, verify


@pytest.fixture(scope="module")
def clips():
    return generate_clips(1500, seed=424242)


def turn(joints, degrees):
    angle = np.radians(degrees)
    matrix = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    return joints @ matrix.T.to(joints.dtype)


def mirror(joints):
    joints = joints * torch.tensor([-1.0, 1.0, 1.0])
    twins = [*HUMANML3D.left_joints, *HUMANML3D.right_joints]
    joints = joints.clone()
    joints[..., twins, :] = joints[..., [*HUMANML3D.right_joints, *HUMANML3D.left_joints], :]
    return joints


def all_answers(joints, lengths):
    return {name: verify(joints, name, lengths) for name in ACTIONS}


@pytest.mark.parametrize("noise", [0.0, 0.015])
def test_accepts_its_own_and_rejects_the_others(clips, noise):
    joints = torch.from_numpy(clips.joints)
    joints = joints + noise * torch.randn(joints.shape, generator=torch.Generator().manual_seed(3))
    table = confusion(joints, clips.actions, clips.lengths)
    assert set(table) == set(ACTIONS)
    assert np.mean([accepts for accepts, _ in table.values()]) > 0.99
    assert np.mean([rejects for _, rejects in table.values()]) > 0.99
    for name, (accepts, rejects) in table.items():
        assert accepts >= 0.92 and rejects >= 0.95, (
            name,
            accepts,
            rejects,
        )  # some 50 clips a label: 0.95 less chance


def test_accepts_motion_recovered_from_features():
    clips = generate_clips(420, seed=99, min_frames=49)
    back = features_to_joints(joints_to_features(clips.joints))
    table = confusion(back, clips.actions)
    assert np.mean([accepts for accepts, _ in table.values()]) > 0.98
    assert np.mean([rejects for _, rejects in table.values()]) > 0.99


def test_a_body_that_never_raises_both_arms_is_never_taken_for_one(clips):
    passed = verify(clips.joints, "raise-both-arms", clips.lengths)
    truth = torch.tensor(["raise-both-arms" in labels for labels in clips.actions])
    assert torch.equal(passed, truth)


def test_padding_is_not_read(clips):
    few = torch.from_numpy(clips.joints[:80]) + torch.tensor(
        [0.0, 0.3, 0.0]
    )  # floating, as generated motion may
    lengths = torch.from_numpy(clips.lengths[:80])
    before = all_answers(few, lengths)
    longer = torch.full((80, 70, 22, 3), float("nan"))
    longer[:, :49] = few
    longer[torch.arange(70)[None] >= lengths[:, None]] = float("nan")
    longer[0, lengths[0] :] = 1e6
    after = all_answers(longer, lengths)
    for name in ACTIONS:
        assert torch.equal(before[name], after[name]), name


def test_neither_room_nor_batch_order_matters(clips):
    few = torch.from_numpy(clips.joints[:150])
    lengths = torch.from_numpy(clips.lengths[:150])
    before = all_answers(few, lengths)
    moved = turn(few, 113.0) + torch.tensor([2.0, 0.3, -5.0])
    after = all_answers(moved, lengths)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    shuffled = all_answers(few[order], lengths[order])
    for name in ACTIONS:
        assert torch.equal(before[name], after[name]), name
        assert torch.equal(before[name][order], shuffled[name]), name


def test_a_mirrored_body_does_the_other_side(clips):
    few = torch.from_numpy(clips.joints[:200])
    lengths = torch.from_numpy(clips.lengths[:200])
    for name in ACTIONS:
        twin = name.replace("-left", "-right") if name.endswith("left") else name.replace("-right", "-left")
        assert torch.equal(verify(few, name, lengths), verify(mirror(few), twin, lengths)), name


def test_two_labels_need_both():
    clips = generate_clips(30, seed=1, actions=["walk-forward+wave-left", "walk-forward", "wave-left"])
    passed = verify(clips.joints, "walk-forward+wave-left", clips.lengths).reshape(10, 3)
    assert passed[:, 0].all() and not passed[:, 1:].any()


def test_a_check_of_your_own_sees_the_real_frames_of_each_clip():
    clips = generate_clips(6, seed=1)
    seen = []

    def check(joints):
        seen.append(joints.shape)
        return joints[:, 15, 1].max() > 0

    answer = verify(clips.joints, check, clips.lengths)
    assert answer.dtype == torch.bool and answer.all()
    assert seen == [(length, 22, 3) for length in clips.lengths]


def test_one_clip_without_a_batch_and_checks_by_name():
    clips = generate_clips(1, seed=1, actions=["kneel"])
    one = clips.joints[0, : clips.lengths[0]]
    assert verify(one, "kneel").tolist() == [True] and CHECKS["kneel"](one).tolist() == [True]
    assert CHECKS["sit"](clips.joints, clips.lengths).tolist() == [False]


def test_thresholds_of_raise_both_arms():
    """A standing body, wrists put by hand: 12 cm over the head passes, 8 cm does not, nor does one arm."""
    stand = generate_clips(1, seed=1, actions=["stand"], min_frames=40, max_frames=40).joints[0]
    for left, right, expected in ((0.12, 0.12, True), (0.08, 0.12, False), (0.12, -0.3, False)):
        assert verify(hands_at(stand, (left, right)), "raise-both-arms").item() is expected
    brief = stand.copy()
    brief[10:13] = hands_at(stand, (0.12, 0.12))[10:13]
    assert not verify(brief, "raise-both-arms").item()


def hands_at(joints, over_head):
    """The body with each wrist above or below its shoulder, so high over the head joint; elbows bent outward, bones rigid."""
    pose = joints.copy()
    for side, height in enumerate(over_head):
        shoulder, wrist = joints[:, 16 + side], joints[:, 16 + side].copy()
        wrist[:, 1] = joints[:, 15, 1] + height
        upper, fore = (np.linalg.norm(HUMANML3D.offsets[joint + side]) for joint in (18, 20))
        way = (wrist - shoulder)[:, 1]
        along = (upper**2 - fore**2 + way**2) / (2 * np.abs(way)) * np.sign(way)
        outward = (joints[:, 16] - joints[:, 17]) * (1 if side == 0 else -1)
        outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
        pose[:, 18 + side] = shoulder + along[:, None] * np.array([0, 1, 0]) + np.sqrt(upper**2 - along**2)[:, None] * outward
        pose[:, 20 + side] = wrist
    return pose


def test_a_body_whose_arms_shrink_is_none():
    """Rigid arms pass; forearms at .7 of their length do not, though the hands be as high; a child's body does."""
    stand = generate_clips(1, seed=1, actions=["stand"], min_frames=40, max_frames=40).joints[0]
    pose = hands_at(stand, (0.2, 0.2))
    assert verify(pose, "raise-both-arms").item()
    short = pose.copy()
    short[:, [18, 19]] = pose[:, [20, 21]] + 0.7 * (pose[:, [18, 19]] - pose[:, [20, 21]])  # elbows nearer to the wrists
    assert not verify(short, "raise-both-arms").item()
    assert verify(0.9 * stand, "stand").item() and verify(1.2 * pose, "raise-both-arms").item()
    assert not verify(short, "stand+raise-both-arms").item()


def test_a_gliding_statue_does_not_walk():
    stand = generate_clips(1, seed=1, actions=["stand"], min_frames=40, max_frames=40).joints[0].copy()
    stand[..., 2] += np.linspace(0, 2, 40)[:, None]
    assert not verify(stand, "walk-forward").item() and not verify(stand, "run").item()


def test_numbers_that_are_not_numbers_pass_nothing():
    clips = generate_clips(2, seed=1, actions=["stand"], min_frames=40, max_frames=40)
    clips.joints[0, 5, 3, 1] = np.nan
    assert verify(clips.joints, "stand").tolist() == [False, True]


def test_swaps_counts_crossings_of_the_band():
    use = torch.ones(1, 9, dtype=torch.bool)
    value = torch.tensor([[0.0, 1.0, 0.2, -0.2, 0.3, -1.0, 0.1, 1.0, -1.0]])
    assert swaps(value, -0.5, 0.5, use).tolist() == [3]
    use[0, 7] = False
    assert swaps(value, -0.5, 0.5, use).tolist() == [1]


@pytest.mark.parametrize("action", ["fly", "walk-forward+fly", ""])
def test_an_unknown_label_is_named(action):
    with pytest.raises(UserError, match="no check for"):
        verify(np.zeros((10, 22, 3), np.float32), action)


@pytest.mark.parametrize(
    ("shape", "lengths"),
    [
        ((10, 21, 3), None),
        ((22, 3), None),
        ((2, 10, 22, 3), [10]),
        ((1, 10, 22, 3), [11]),
        ((1, 10, 22, 3), [0]),
    ],
)
def test_wrong_shapes_are_refused(shape, lengths):
    with pytest.raises(ValueError, match="should be"):
        verify(np.zeros(shape, np.float32), "stand", lengths)
