"""Motion features against the reference, their properties, and bad input."""

import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb import features
from mocapfree_nb.features import (
    FEATURE_GROUPS,
    features_to_joints,
    joints_to_features,
    length_mask,
    mirror,
    retarget,
    root_path,
    rotations_to_joints,
    to_origin,
)
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics, sum_bones

CARRIED = Path(__file__).parent / "reference" / "features.npz"
SHARED = Path(__file__).parents[2] / "shared"
SKELETON = {"t2m": HUMANML3D, "kit": KIT_ML}
METRES = dict(joints=1e-5, rot6d=1e-4, yaw=1e-5, root=1e-5, velocity=1e-5)
MILLIMETRES = dict(joints=5e-3, rot6d=2e-4, yaw=1e-5, root=1e-3, velocity=5e-3)
TOLERANCE = {"t2m": METRES, "kit": MILLIMETRES}
SYNTHETIC = [("t2m", "synthetic0"), ("t2m", "synthetic1"), ("kit", "synthetic0"), ("kit", "synthetic1")]
REAL = [("t2m", "real0"), ("kit", "remapped0")]
CLIPS = pytest.mark.parametrize(("key", "clip"), SYNTHETIC + REAL, ids=lambda v: v)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def reference(key: str, clip: str) -> dict[str, np.ndarray]:
    """The arrays of one clip; those of real motion are not carried and read from beside the project."""
    path, prefix = CARRIED, f"{key}/{clip}/"
    if (key, clip) in REAL:
        path, prefix = SHARED / "reference" / f"features_{key}.npz", f"{clip}/"
        if not path.exists():
            pytest.skip("the real clips are not part of the project")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    with np.load(CARRIED, allow_pickle=False) as arrays:
        return found | {"tgt_offsets": arrays[f"{key}/tgt_offsets"]}


def close(actual, expected, atol):
    np.testing.assert_allclose(np.asarray(actual), expected, atol=atol, rtol=0)


def wander(frames: int, seed: int = 0, spin: float = 0.0, skeleton=HUMANML3D) -> torch.Tensor:
    """(frames, J, 3) float64 smooth random motion whose heading turns by `spin` radians in all."""
    generator = torch.Generator().manual_seed(seed)
    time_ = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None, None]
    shape = (1, skeleton.num_joints, 3)
    phase, size = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    angles = 0.4 * size * torch.sin(2 * torch.pi * (time_ * (1 + 2 * size) + phase))
    angles[:, 0] = 0
    angles[:, 0, 1] = spin * time_[:, 0, 0]
    unit = 1.0 if skeleton.unit == "m" else 600.0
    root = unit * torch.cat([time_[:, 0], 0.05 * time_[:, 0].sin() + 0.9, 0.5 * time_[:, 0].square()], dim=-1)
    offsets = skeleton.offsets * ([1, 1, 1] if skeleton is HUMANML3D else [-1, 1, 1])
    return forward_kinematics(roma.rotvec_to_rotmat(angles), root, skeleton, offsets)[0]


# ---- against the reference


@CLIPS
@DTYPES
def test_features_equal_the_reference(key, clip, dtype):
    data, skeleton, allowed = reference(key, clip), SKELETON[key], TOLERANCE[key]
    actual = joints_to_features(data["joints"].astype(dtype), skeleton, data["tgt_offsets"]).numpy()
    assert actual.dtype == dtype
    group = FEATURE_GROUPS(skeleton)
    expected = data["features"]
    close(actual[:, group["yaw_velocity"]], expected[:, group["yaw_velocity"]], allowed["yaw"])
    close(actual[:, group["root_velocity"]], expected[:, group["root_velocity"]], allowed["root"])
    close(actual[:, group["root_height"]], expected[:, group["root_height"]], allowed["root"])
    close(actual[:, group["positions"]], expected[:, group["positions"]], allowed["joints"])
    close(actual[:, group["rotations"]], expected[:, group["rotations"]], allowed["rot6d"])
    close(actual[:, group["velocities"]], expected[:, group["velocities"]], allowed["velocity"])
    np.testing.assert_array_equal(actual[:, group["contacts"]], expected[:, group["contacts"]])
    if clip.startswith("synthetic"):  # a comparison that could not fail would be no test
        assert 0 < expected[:, group["contacts"]].mean() < 1


@CLIPS
@DTYPES
def test_retargeting_and_placing_equal_the_reference(key, clip, dtype):
    data, skeleton, allowed = reference(key, clip), SKELETON[key], TOLERANCE[key]
    moved = retarget(data["joints"].astype(dtype), data["tgt_offsets"], skeleton)
    close(moved, data["uniform_joints"], allowed["joints"])
    close(to_origin(moved, skeleton), data["global_positions"], allowed["joints"])


@CLIPS
@DTYPES
def test_recovery_equals_the_reference(key, clip, dtype):
    data, skeleton, allowed = reference(key, clip), SKELETON[key], TOLERANCE[key]
    features = data["features"].astype(dtype)
    heading, path = root_path(features, skeleton)
    close(heading[:, [3, 0, 1, 2]], data["root_quat"], 1e-6)
    close(path, data["root_pos"], allowed["joints"])
    close(features_to_joints(features, skeleton), data["recover_from_ric"], allowed["joints"])
    recovered = rotations_to_joints(features, skeleton, data["tgt_offsets"])
    close(recovered, data["recover_from_rot"], allowed["joints"])


def shared(*parts: str) -> Path:
    path = SHARED.joinpath("data", *parts)
    if not path.exists():
        pytest.skip("real motion is not part of the project")
    return path


def test_the_clip_that_humanml3d_ships():
    """Its joints lack the last frame, and the heading is smoothed over 80 frames on either side: only rows
    nearer than that to the end may differ, by what the reference itself differs there."""
    joints = np.load(shared("humanml3d_sample", "new_joints", "012314.npy"))
    vectors = np.load(shared("humanml3d_sample", "new_joint_vecs", "012314.npy"))
    close(features_to_joints(vectors), joints, 1e-6)
    actual, expected = joints_to_features(joints).numpy(), vectors[:-1]
    close(actual[:-80], expected[:-80], 1e-4)
    group = FEATURE_GROUPS()
    close(actual[:-5, group["rotations"]], expected[:-5, group["rotations"]], 1.1e-2)
    close(actual[:, group["rotations"]], expected[:, group["rotations"]], 1.4e-2)
    close(actual[:, group["positions"]], expected[:, group["positions"]], 7e-3)
    for name in ("yaw_velocity", "root_velocity", "root_height", "velocities"):
        close(actual[:, group[name]], expected[:, group[name]], 5e-4)
    np.testing.assert_array_equal(actual[:, group["contacts"]], expected[:, group["contacts"]])


def test_the_clip_that_humanml3d_ships_with_its_last_frame():
    """The frame that its joints lack stands in the last row of velocities; with it, every row agrees."""
    joints = np.load(shared("humanml3d_sample", "new_joints", "012314.npy"))
    vectors = np.load(shared("humanml3d_sample", "new_joint_vecs", "012314.npy"))
    group, heading = FEATURE_GROUPS(), root_path(vectors)[0][-1]
    velocity = torch.as_tensor(vectors[-1, group["velocities"]]).view(22, 3)
    last = joints[-1] + roma.quat_action(roma.quat_conjugation(heading).expand(22, 4), velocity).numpy()
    close(joints_to_features(np.concatenate([joints, last[None]])), vectors, 1e-5)


@pytest.mark.parametrize("name", ["000000", "000001", "000007", "000019"])
def test_motion_capture_of_another_source(name):
    raw = np.load(shared("bandai_h3d", "raw_joints", f"{name}.npy"))
    joints = np.load(shared("bandai_h3d", "new_joints", f"{name}.npy"))
    vectors = np.load(shared("bandai_h3d", "new_joint_vecs", f"{name}.npy"))
    close(features_to_joints(vectors), joints, 1e-6)
    with np.load(CARRIED, allow_pickle=False) as arrays:
        body = arrays["t2m/tgt_offsets"]
    actual, group = joints_to_features(raw, target_offsets=body).numpy(), FEATURE_GROUPS()
    close(actual[:, group["rotations"]], vectors[:, group["rotations"]], 1e-4)
    rest = np.delete(np.arange(263), np.r_[group["rotations"]])
    close(actual[:, rest], vectors[:, rest], 1e-5)


# ---- batches, lengths, sizes


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda s: s.name)
def test_batch_equals_single(skeleton):
    clips = torch.stack([wander(30, seed, spin=seed, skeleton=skeleton) for seed in range(4)])
    batch = joints_to_features(clips, skeleton, skeleton.offsets)
    for i, clip in enumerate(clips):
        torch.testing.assert_close(batch[i], joints_to_features(clip, skeleton, skeleton.offsets))
        torch.testing.assert_close(features_to_joints(batch, skeleton)[i], features_to_joints(batch[i], skeleton))
    more = joints_to_features(clips.view(2, 2, 30, -1, 3), skeleton, skeleton.offsets)
    torch.testing.assert_close(more.flatten(0, 1), batch)


def test_a_batch_of_several_pieces():
    clips = torch.stack([wander(40, seed) for seed in range(3)]).float().repeat(100, 1, 1, 1)
    batch = joints_to_features(clips)  # 300 clips of 40 frames: two pieces
    torch.testing.assert_close(batch[299], joints_to_features(clips[2]))
    torch.testing.assert_close(batch[:3], batch[297:])
    assert joints_to_features(clips[:0]).shape == (0, 39, 263)


@pytest.mark.parametrize("padding", [0.0, 1e4, float("nan")])
def test_padding_is_not_looked_at(padding):
    lengths = [25, 2, 40, 33]
    padded = torch.full((4, 40, 22, 3), padding, dtype=torch.float64)
    for i, length in enumerate(lengths):
        padded[i, :length] = wander(length, seed=i, spin=1.0)
    batch = joints_to_features(padded, target_offsets=HUMANML3D.offsets, lengths=lengths)
    for i, length in enumerate(lengths):
        alone = joints_to_features(padded[i, :length], target_offsets=HUMANML3D.offsets)
        torch.testing.assert_close(batch[i, : length - 1], alone)
        assert not batch[i, length - 1 :].any()
    same = joints_to_features(padded.numpy(), target_offsets=HUMANML3D.offsets, lengths=torch.tensor(lengths))
    torch.testing.assert_close(same, batch)


def test_recovery_does_not_look_ahead():
    features = joints_to_features(wander(30))
    changed = features.clone()
    changed[20:] = 7.0
    torch.testing.assert_close(features_to_joints(changed)[:20], features_to_joints(features)[:20])


def test_length_mask():
    expected = [[True, True, False], [False, False, False], [True, True, True]]
    assert length_mask([2, 0, 3], 3).tolist() == expected
    assert length_mask(torch.tensor([2, 0, 3]), 3).tolist() == expected


@pytest.mark.parametrize(("skeleton", "joints"), [(HUMANML3D, 22), (KIT_ML, 21)])
def test_groups_tile_the_frame_in_order(skeleton, joints):
    groups = FEATURE_GROUPS(skeleton)
    widths = [group.stop - group.start for group in groups.values()]
    assert widths == [1, 2, 1, 3 * (joints - 1), 6 * (joints - 1), 3 * joints, 4]
    edges = [group.start for group in groups.values()] + [skeleton.num_features]
    assert edges == [0, *np.cumsum(widths)]


# ---- what the numbers mean


@settings(max_examples=20, deadline=None)
@given(st.floats(-3, 3), st.floats(-10, 10), st.floats(-2, 2), st.floats(-10, 10))
def test_the_place_and_direction_of_the_recording_do_not_matter(angle, x, y, z):
    clip = wander(20, seed=1, spin=0.5)
    turn = roma.rotvec_to_rotmat(torch.tensor([0.0, angle, 0.0], dtype=torch.float64))
    moved = clip @ turn.T + torch.tensor([x, y, z], dtype=torch.float64)
    torch.testing.assert_close(joints_to_features(moved), joints_to_features(clip), atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.floats(-9, 9), st.sampled_from([HUMANML3D, KIT_ML]))
def test_round_trip(seed, frames, spin, skeleton):
    clip = wander(frames, seed, spin * frames / 60, skeleton)
    features = joints_to_features(clip, skeleton, sign_continuity=True)
    scale = 1 if skeleton is HUMANML3D else 600
    close(features_to_joints(features, skeleton), to_origin(clip, skeleton)[:-1], 1e-9 * scale)


def test_yaw_velocity_is_half_the_turn():
    """A rigid body that spins at a constant rate: in the middle of a long clip smoothing changes nothing."""
    per_frame = 0.03
    pose, _ = forward_kinematics(torch.eye(3, dtype=torch.float64).repeat(22, 1, 1), torch.zeros(3))
    angles = torch.zeros(240, 3, dtype=torch.float64)
    angles[:, 1] = per_frame * torch.arange(240)
    spinning = pose @ roma.rotvec_to_rotmat(angles).transpose(-1, -2)
    yaw = joints_to_features(spinning, sign_continuity=True)[:, 0]
    close(yaw[85:150], np.full(65, -per_frame / 2), 1e-9)


def test_the_hips_are_swapped_in_the_heading():
    """Shoulders turned against the hips: the heading follows their difference, not their sum."""
    local = torch.zeros(22, 3, dtype=torch.float64)
    local[HUMANML3D.joint_names.index("spine1"), 1] = 0.3
    pose, _ = forward_kinematics(roma.rotvec_to_rotmat(local), torch.zeros(3))
    names = HUMANML3D.joint_names
    across = {
        part: pose[names.index(f"right_{part}")] - pose[names.index(f"left_{part}")] for part in ("hip", "shoulder")
    }

    def heading(line):
        return torch.atan2(line[2], -line[0])  # up x line, from +z towards +x

    first = heading(across["shoulder"] + across["hip"])
    rest = heading(across["shoulder"] - across["hip"])
    assert abs(rest - first) > 0.5
    yaw = joints_to_features(pose.expand(10, 22, 3))[:, 0]
    close(yaw[0], -(rest - first) / 2, 1e-9)
    close(yaw[1:], np.zeros(8), 1e-9)


@pytest.mark.parametrize("key", ["t2m", "kit"])
def test_sign_continuity_changes_one_number_and_mends_the_path(key):
    data, skeleton = reference(key, "synthetic1"), SKELETON[key]
    default = joints_to_features(data["joints"], skeleton, data["tgt_offsets"])
    mended = joints_to_features(data["joints"], skeleton, data["tgt_offsets"], sign_continuity=True)
    changed = (default != mended).nonzero()
    assert len(changed) == 1 and changed[0, 1] == 0
    row = int(changed[0, 0])
    assert default[row, 0] == -mended[row, 0]
    truth = data["global_positions"][:-1]
    assert np.abs(features_to_joints(default, skeleton).numpy() - truth).max() > 1e3 * TOLERANCE[key]["joints"]
    close(features_to_joints(default, skeleton)[: row + 1], truth[: row + 1], TOLERANCE[key]["joints"])
    close(features_to_joints(mended, skeleton), truth, TOLERANCE[key]["joints"])


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda s: s.name)
def test_contacts_threshold_the_squared_step(skeleton):
    pose = wander(2, skeleton=skeleton)[0]
    limit = skeleton.contact_threshold**0.5
    feet = [*skeleton.feet_left, *skeleton.feet_right]
    for column, foot in enumerate(feet):
        clip = pose.repeat(3, 1, 1)
        clip[1:, foot, 1] += 0.99 * limit
        clip[2:, foot, 1] += 1.01 * limit
        contacts = joints_to_features(clip, skeleton)[:, FEATURE_GROUPS(skeleton)["contacts"]]
        expected = np.ones((2, 4))
        expected[1, column] = 0
        np.testing.assert_array_equal(contacts, expected)


def test_retargeting_keeps_directions_and_scales_the_path():
    clip = wander(20)
    body = HUMANML3D.offsets * 1.7
    body[15] *= 2
    moved = retarget(clip, body)
    old, new = (c[:, 1:] - c[:, HUMANML3D.parents[1:]] for c in (clip, moved))
    torch.testing.assert_close(new.norm(dim=-1), torch.as_tensor(body[1:]).norm(dim=-1).expand(20, 21))
    torch.testing.assert_close(torch.nn.functional.normalize(new, dim=-1), torch.nn.functional.normalize(old, dim=-1))
    torch.testing.assert_close(moved[:, 0], 1.7 * clip[:, 0])


def test_float32_where_not_float64():
    clip = wander(10)
    assert joints_to_features(clip.float()).dtype == torch.float32
    assert joints_to_features(clip.half()).dtype == torch.float32
    assert joints_to_features((100 * clip).long()).dtype == torch.float32
    assert features_to_joints(joints_to_features(clip)).dtype == torch.float64


def test_arrays_that_are_read_only_or_reversed():
    clip = wander(10).numpy()
    clip.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = joints_to_features(clip)
        backwards = joints_to_features(clip[::-1])
    torch.testing.assert_close(joints_to_features(clip.tolist()).double(), features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backwards, joints_to_features(np.ascontiguousarray(clip[::-1])))


# ---- gradients and speed


@pytest.mark.parametrize("back", [features_to_joints, rotations_to_joints])
def test_recovery_is_differentiable(back):
    features = joints_to_features(wander(5, spin=0.3)).requires_grad_()
    assert torch.autograd.gradcheck(back, (features,), fast_mode=True)


def test_features_are_differentiable():
    clip = wander(5, spin=0.3).requires_grad_()
    smooth = FEATURE_GROUPS()["contacts"].start
    assert torch.autograd.gradcheck(lambda j: joints_to_features(j)[:, :smooth], (clip,), fast_mode=True)
    still = wander(5)[:1].expand(5, 22, 3).clone().requires_grad_()
    joints_to_features(still).square().sum().backward()
    assert torch.isfinite(still.grad).all()


def test_a_thousand_clips_within_two_seconds_of_two_cores():
    """Processor time, so that a busy machine does not fail it: two cores for two seconds are four."""
    clips = wander(101).float().expand(1000, 101, 22, 3)
    joints_to_features(clips[:64])
    start = time.process_time()
    joints_to_features(clips)
    assert time.process_time() - start < 4


def test_clips_of_many_lengths_do_not_fill_the_memory():
    for frames in range(20, 30):
        joints_to_features(wander(frames))
    assert features._smoothing.cache_info().currsize <= 4


# ---- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda j: j[:, :21], "needs (..., frames, 22, 3)"),
        (lambda j: j[..., :2], "needs (..., frames, 22, 3)"),
        (lambda j: j[0], "needs (..., frames, 22, 3)"),
        (lambda j: j.flatten(1), "needs (..., frames, 22, 3)"),
        (lambda j: j[:1], "1 frame"),
        (lambda j: j[:0], "0 frame"),
        (lambda j: j.index_fill(0, torch.tensor([3]), float("nan")), "NaN"),
        (lambda j: j.index_fill(0, torch.tensor([3]), float("inf")), "NaN or infinite"),
    ],
)
def test_bad_joints(change, words):
    with pytest.raises(ValueError) as caught:
        joints_to_features(change(wander(10)))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [features_to_joints, rotations_to_joints, root_path])
@pytest.mark.parametrize("shape", [(10, 251), (10, 262), (263,), (10, 22, 3)])
def test_bad_features(function, shape):
    with pytest.raises(ValueError, match=r"HumanML3D needs \(\.\.\., frames, 263\)"):
        function(torch.zeros(shape))


def test_a_kit_motion_given_as_humanml3d_is_named():
    with pytest.raises(ValueError, match="KIT-ML needs .* 251"):
        features_to_joints(torch.zeros(10, 263), KIT_ML)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([10, 11], "expected 2 to 10"),
        ([1, 10], "expected 2 to 10"),
        ([10], "one length a clip"),
        (10, "one length a clip"),
    ],
)
def test_bad_lengths(lengths, words):
    with pytest.raises(ValueError, match=words):
        joints_to_features(torch.stack([wander(10)] * 2), lengths=lengths)


def test_bad_body():
    with pytest.raises(ValueError, match=r"\(21, 3\)"):
        joints_to_features(wander(10), target_offsets=KIT_ML.offsets)


def test_nan_in_the_real_frames_of_a_padded_batch():
    clips = torch.stack([wander(10)] * 2)
    clips[1, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        joints_to_features(clips, lengths=[10, 5])
    assert torch.isfinite(joints_to_features(clips, lengths=[10, 4])).all()


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda skeleton: skeleton.name)
def test_features_of_a_mirrored_motion_are_the_mirrored_features(skeleton):
    generator = torch.Generator().manual_seed(0)
    rest = torch.as_tensor(np.array(skeleton.offsets), dtype=torch.float64)
    sway = torch.randn(1, skeleton.num_joints, 3, generator=generator, dtype=torch.float64) * rest.abs().max() / 4
    phase = torch.rand(skeleton.num_joints, 3, generator=generator, dtype=torch.float64) * 6
    time = torch.arange(30, dtype=torch.float64)[:, None, None] / 5
    joints = sum_bones(rest, skeleton) + sway * torch.sin(time + phase)
    twin = list(range(skeleton.num_joints))
    for left, right in zip(skeleton.left_joints, skeleton.right_joints, strict=True):
        twin[left], twin[right] = right, left
    seen = joints[:, twin] * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    features = joints_to_features(joints, skeleton)
    torch.testing.assert_close(mirror(features, skeleton), joints_to_features(seen, skeleton), atol=1e-7, rtol=1e-7)
    assert torch.equal(mirror(mirror(features, skeleton), skeleton), features)
