"""Joint trees, rotations and forward kinematics."""

from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mocapfree_nb.files import UserError
from mocapfree_nb.skeleton import (
    HUMANML3D,
    KIT_ML,
    forward_kinematics,
    rotation_between,
    rotation_from_6d,
    rotation_to_6d,
    skeleton_of,
    sum_bones,
)

REFERENCE = np.load(Path(__file__).parent / "reference" / "features.npz", allow_pickle=False)
SKELETONS = [("t2m", HUMANML3D), ("kit", KIT_ML)]
BOTH = pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda s: s.name)


def random_rotations(*shape: int, seed: int = 0) -> torch.Tensor:
    count = int(np.prod(shape))
    matrices = Rotation.random(count, random_state=seed).as_matrix()
    return torch.as_tensor(matrices).view(*shape, 3, 3)


@pytest.mark.parametrize(("key", "skeleton"), SKELETONS, ids=["t2m", "kit"])
def test_constants_are_those_of_the_reference(key, skeleton):
    np.testing.assert_array_equal(skeleton.raw_offsets, REFERENCE[f"{key}/raw_offsets"])
    np.testing.assert_array_equal(skeleton.parents, REFERENCE[f"{key}/parents"])
    chains = tuple(tuple(int(j) for j in chain if j >= 0) for chain in REFERENCE[f"{key}/chains"])
    assert skeleton.chains == chains
    for name in ("face_joints", "feet_left", "feet_right", "leg_joints"):
        assert getattr(skeleton, name) == tuple(REFERENCE[f"{key}/{name}"]), name
    assert skeleton.contact_threshold == REFERENCE[f"{key}/feet_threshold"]
    assert skeleton.fps == REFERENCE[f"{key}/fps"]


@pytest.mark.parametrize(("key", "skeleton", "rounding"), [("t2m", HUMANML3D, 6e-5), ("kit", KIT_ML, 6e-2)])
def test_default_body_is_the_rounded_reference_body(key, skeleton, rounding):
    np.testing.assert_allclose(skeleton.offsets, REFERENCE[f"{key}/tgt_offsets"], atol=rounding)


@pytest.mark.parametrize(("skeleton", "joints", "features"), [(HUMANML3D, 22, 263), (KIT_ML, 21, 251)])
def test_sizes_and_order(skeleton, joints, features):
    assert skeleton.num_joints == len(skeleton.joint_names) == len(set(skeleton.joint_names)) == joints
    assert skeleton.num_features == features
    assert len(skeleton.bones) == joints - 1
    assert all(parent < child for parent, child in skeleton.bones)


@BOTH
def test_left_and_right_mirror_each_other(skeleton):
    partner = dict(zip(skeleton.left_joints, skeleton.right_joints, strict=True))
    partner |= {right: left for left, right in partner.items()}
    for parent, child in skeleton.bones:
        mirrored = partner.get(child, child)
        assert skeleton.parents[mirrored] == partner.get(parent, parent)
    right_hip, left_hip, right_shoulder, left_shoulder = (skeleton.joint_names[j] for j in skeleton.face_joints)
    assert (right_hip, left_hip) == ("right_hip", "left_hip")
    assert (right_shoulder, left_shoulder) == ("right_shoulder", "left_shoulder")
    for side, feet in (("left", skeleton.feet_left), ("right", skeleton.feet_right)):
        assert [skeleton.joint_names[j] for j in feet] == [f"{side}_ankle", f"{side}_foot"] or (
            skeleton is KIT_ML and [skeleton.joint_names[j] for j in feet] == [f"{side}_midfoot", f"{side}_foot"]
        )


@pytest.mark.parametrize(("key", "skeleton"), SKELETONS, ids=["t2m", "kit"])
def test_names_agree_with_where_the_joints_are(key, skeleton):
    """A body that faces +z has its left side at +x, and the walking clips do face +z at first."""
    first = REFERENCE[f"{key}/synthetic0/global_positions"][0]
    for left, right in zip(skeleton.left_joints, skeleton.right_joints, strict=True):
        assert first[left, 0] > first[right, 0], skeleton.joint_names[left]


@BOTH
def test_forward_kinematics_against_scipy(skeleton):
    """An independent walk down the tree with scipy's rotations, one pose at a time."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(3, skeleton.num_joints, 3))
    root = rng.normal(size=(3, 3))
    local = roma.rotvec_to_rotmat(torch.as_tensor(vectors))
    positions, turned = forward_kinematics(local, torch.as_tensor(root), skeleton)
    for pose in range(3):
        places, whole = [root[pose]], [Rotation.from_rotvec(vectors[pose, 0])]
        for parent, child in skeleton.bones:
            places.append(places[parent] + whole[parent].apply(skeleton.offsets[child]))
            whole.append(whole[parent] * Rotation.from_rotvec(vectors[pose, child]))
        scale = np.abs(places).max()
        np.testing.assert_allclose(positions[pose], np.array(places), atol=1e-12 * scale)
        np.testing.assert_allclose(turned[pose], [w.as_matrix() for w in whole], atol=1e-12)


@BOTH
def test_a_rotation_moves_only_what_hangs_below(skeleton):
    still = torch.eye(3, dtype=torch.float64).repeat(skeleton.num_joints, 1, 1)
    origin = torch.zeros(3)
    before, _ = forward_kinematics(still, origin, skeleton)
    below = {j: set() for j in range(skeleton.num_joints)}
    for parent, child in reversed(skeleton.bones):
        below[parent] |= {child} | below[child]
    for joint in range(skeleton.num_joints):
        turned = still.clone()
        turned[joint] = roma.rotvec_to_rotmat(torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64))
        after, _ = forward_kinematics(turned, origin, skeleton)
        moved = (after - before).abs().amax(-1) > 1e-6
        assert set(moved.nonzero().flatten().tolist()) == below[joint], skeleton.joint_names[joint]


def test_bones_keep_their_length_and_the_root_turns_all():
    local, root = random_rotations(4, 5, 22), torch.randn(4, 5, 3, dtype=torch.float64)
    positions, turned = forward_kinematics(local, root)
    bones = positions[..., 1:, :] - positions[..., HUMANML3D.parents[1:], :]
    lengths = torch.as_tensor(HUMANML3D.offsets[1:]).norm(dim=-1)
    torch.testing.assert_close(bones.norm(dim=-1), lengths.expand(4, 5, 21))
    spin = random_rotations(1, seed=9)[0]
    local[..., 0, :, :] = spin @ local[..., 0, :, :]
    again, again_turned = forward_kinematics(local, root @ spin.T)
    torch.testing.assert_close(again, positions @ spin.T)
    torch.testing.assert_close(again_turned, spin @ turned)


def test_batch_equals_single_and_shapes_broadcast():
    local, root = random_rotations(6, 22), torch.randn(6, 3, dtype=torch.float64)
    bodies = torch.as_tensor(HUMANML3D.offsets) * torch.linspace(0.8, 1.2, 6)[:, None, None]
    whole, _ = forward_kinematics(local, root, offsets=bodies)
    for i in range(6):
        single, _ = forward_kinematics(local[i], root[i], offsets=bodies[i])
        torch.testing.assert_close(whole[i], single)
    one_pose, _ = forward_kinematics(local[0], root)
    assert one_pose.shape == (6, 22, 3)
    torch.testing.assert_close(one_pose[4], forward_kinematics(local[0], root[4])[0])


def test_numpy_in_same_numbers_out():
    local, root = random_rotations(2, 22), np.ones((2, 3))
    from_numpy, _ = forward_kinematics(local.numpy(), root)
    assert from_numpy.dtype == torch.float64
    torch.testing.assert_close(from_numpy, forward_kinematics(local, torch.ones(2, 3))[0])
    assert forward_kinematics(local.float(), root)[0].dtype == torch.float32


def test_forward_kinematics_gradient():
    vectors = torch.randn(2, 22, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    root = torch.zeros(2, 3, dtype=torch.float64)
    inputs = (vectors.requires_grad_(), root.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda v, r: forward_kinematics(roma.rotvec_to_rotmat(v), r)[0], inputs, fast_mode=True
    )


@pytest.mark.parametrize(
    ("local", "root", "offsets", "words"),
    [
        (torch.eye(3).expand(4, 21, 3, 3), torch.zeros(4, 3), None, "(4, 21, 3, 3)"),
        (torch.zeros(4, 22, 3), torch.zeros(4, 3), None, "(..., 22, 3, 3)"),
        (torch.eye(3).expand(4, 22, 3, 3), torch.zeros(4, 2), None, "(4, 2)"),
        (torch.eye(3).expand(4, 22, 3, 3), torch.zeros(4, 3), torch.zeros(21, 3), "(21, 3)"),
    ],
)
def test_wrong_shapes_are_named(local, root, offsets, words):
    with pytest.raises(ValueError) as caught:
        forward_kinematics(local, root, offsets=offsets)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_width_of_features_names_the_skeleton():
    for skeleton in (HUMANML3D, KIT_ML):
        assert skeleton_of(skeleton.num_features) is skeleton
    for width in (0, 262, 264, 66, 22):
        with pytest.raises(UserError, match=rf"no skeleton has {width} motion features: expected 263 .* or 251"):
            skeleton_of(width)


def test_sum_bones_walks_to_the_root():
    bones = torch.randn(3, 22, 3, dtype=torch.float64)
    positions = sum_bones(bones, HUMANML3D)
    joint, total = 21, torch.zeros(3, 3, dtype=torch.float64)
    while joint >= 0:
        total, joint = total + bones[:, joint], HUMANML3D.parents[joint]
    torch.testing.assert_close(positions[:, 21], total)


unit = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 1e-3)


@settings(max_examples=100, deadline=None)
@given(unit, unit)
def test_rotation_between_turns_one_into_the_other(a, b):
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (a, b))
    a, b = a / a.norm(), b / b.norm()
    q = rotation_between(a, b)
    torch.testing.assert_close(q.norm(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(roma.quat_action(q, a), b, atol=1e-6, rtol=0)
    angle = 2 * torch.atan2(q[:3].norm(), q[3])
    shortest = torch.atan2(torch.linalg.cross(a, b).norm(), a @ b)
    torch.testing.assert_close(angle, shortest, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotation_between_opposite_and_zero(dtype):
    axes = torch.cat([torch.eye(3), torch.tensor([[0.6, -0.8, 0.0], [2.0, 3.0, -1.0]])]).to(dtype)
    q = rotation_between(axes, -axes)
    torch.testing.assert_close(roma.quat_action(q, axes), -axes, atol=1e-5, rtol=0)
    nothing = rotation_between(axes, torch.zeros(3, dtype=dtype))
    torch.testing.assert_close(nothing, torch.tensor([0.0, 0, 0, 1], dtype=dtype).expand(5, 4))


def test_rotation_between_nearly_opposite_in_float32():
    a = torch.tensor([0.0, -1.0, 0.0])
    b = torch.nn.functional.normalize(torch.tensor([[1e-2, 1, 0], [1e-3, 1, 0], [1e-5, 1, 0], [1e-7, 1, 0]]), dim=-1)
    turned = roma.quat_action(rotation_between(a, b), a.expand(4, 3))
    torch.testing.assert_close(turned, b, atol=3e-4, rtol=0)


def test_six_numbers_are_the_first_two_columns():
    matrix = random_rotations(7)
    six = rotation_to_6d(matrix)
    np.testing.assert_array_equal(six[:, :3], matrix[:, :, 0])
    np.testing.assert_array_equal(six[:, 3:], matrix[:, :, 1])
    torch.testing.assert_close(rotation_from_6d(six), matrix)
    stretched = rotation_from_6d(six * 3 + torch.cat([torch.zeros(7, 3), 0.5 * six[:, :3]], dim=-1))
    torch.testing.assert_close(stretched, matrix)  # length, and what points along the first column, do not matter
