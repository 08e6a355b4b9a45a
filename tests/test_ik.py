"""Joint rotations of one body: a BVH that another reader finds the joints in, bones that keep their length."""


import bvhio
import numpy as np
import pytest
import torch

from mocapfree_nb.files import UserError
from mocapfree_nb.output.bvh import save_bvh
from mocapfree_nb.output.ik import fit_pose, inverse_kinematics, measure_body
from mocapfree_nb.output.rig import fit_export
from mocapfree_nb.output.takes import load_takes
from mocapfree_nb.output.video import save_gif
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics

CLIPS = generate_clips(60, seed=11)
MOTIONS = [CLIPS.joints[i][: CLIPS.lengths[i]] for i in range(60)]


def turning(skeleton, frames=30, slide=0.0) -> np.ndarray:
    "A body whose every joint turns smoothly by up to a radian; its shoulders slide by `slide` of a bone's length."
    generator = torch.Generator().manual_seed(4)
    size = (1, skeleton.num_joints, 3)
    time = torch.linspace(0, 6, frames, dtype=torch.float64)[:, None, None]
    phase, height = (torch.rand(size, generator=generator, dtype=torch.float64) for _ in range(2))
    vectors = height * torch.sin(time + 6 * phase)
    rotations = torch.linalg.matrix_exp(torch.stack([
        torch.stack([0 * vectors[..., 0], -vectors[..., 2], vectors[..., 1]], -1),
        torch.stack([vectors[..., 2], 0 * vectors[..., 0], -vectors[..., 0]], -1),
        torch.stack([-vectors[..., 1], vectors[..., 0], 0 * vectors[..., 0]], -1),
    ], -2))
    offsets = torch.as_tensor(skeleton.offsets).expand(frames, -1, 3).clone()
    for name, sign in (("left_shoulder", 1), ("right_shoulder", -1)):      # a shrug turns the bone, its length stays
        joint = skeleton.joint_names.index(name)
        angle = slide * sign * torch.sin(2 * time[:, 0, 0])
        x, y = offsets[:, joint, 0].clone(), offsets[:, joint, 1].clone()
        offsets[:, joint, 0], offsets[:, joint, 1] = (
            angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
        )
    root = torch.cat([time[:, 0] / 3, 0 * time[:, 0] + 1, time[:, 0] / 5], -1) * (1000 if skeleton.unit == "mm" else 1)
    return forward_kinematics(rotations, root, skeleton, offsets)[0].numpy()


def positions_by_bvhio(path, names) -> np.ndarray:
    "World positions (T, J, 3) in centimetres of the named joints, by a reader that had no part in the writing."
    root = bvhio.readAsHierarchy(str(path))
    frames = root.getKeyframeRange()[1] + 1
    found = {joint.Name: joint for joint, _, _ in root.layout()}
    rows = []
    for frame in range(frames):
        root.loadPose(frame)
        rows.append([[*found[name].PositionWorld] for name in names])
    return np.array(rows)


@pytest.mark.parametrize("index", range(0, 60, 15))
def test_another_reader_finds_the_joints_of_the_corpus_where_they_were(tmp_path, index):
    save_bvh(tmp_path / "a.bvh", MOTIONS[index])
    there = positions_by_bvhio(tmp_path / "a.bvh", HUMANML3D.joint_names)
    assert there.shape == MOTIONS[index].shape
    assert np.abs(there / 100 - MOTIONS[index]).max() < 1e-4                # metres


@pytest.mark.parametrize("skeleton,slide", [(HUMANML3D, 0.0), (KIT_ML, 0.0), (KIT_ML, 0.5)])
def test_any_motion_of_constant_bones_comes_back(tmp_path, skeleton, slide):
    joints = turning(skeleton, slide=slide)
    save_bvh(tmp_path / "a.bvh", joints, skeleton)
    centimetres = joints * (0.1 if skeleton.unit == "mm" else 100)
    there = positions_by_bvhio(tmp_path / "a.bvh", skeleton.joint_names)
    if not slide:                                                          # a shrug has no place in a tree without helpers
        assert np.linalg.norm(there - centimetres, axis=-1).max() < 0.01
    pose, off = fit_pose(joints, skeleton)                                 # with helpers it has
    assert off.metres < (0.005 if slide else 0.0001)
    assert ("left_shoulder_base" in pose.rig.joint_names) == (slide > 0)
    assert "_base" not in (tmp_path / "a.bvh").read_text()


def test_of_motion_whose_bones_tremble_the_file_keeps_the_lengths_and_says_how_far_off_it_is(tmp_path):
    joints = MOTIONS[0] + np.random.default_rng(0).normal(0, 0.01, MOTIONS[0].shape)
    pose, off = fit_pose(joints)
    there = pose.positions()
    bones = (there[:, 1:] - there[:, list(pose.rig.parents[1:])]).norm(dim=-1)
    assert bones.std(0).max() < 1e-9
    names = [pose.rig.joint_names.index(name) for name in HUMANML3D.joint_names]
    distance = np.linalg.norm(there.numpy()[:, names] - joints, axis=-1)
    assert distance.max() == pytest.approx(off.metres)
    assert distance.mean() < 0.016  # the noise itself moves a joint by .016
    frame, joint = np.unravel_index(distance.argmax(), distance.shape)
    assert (off.joint, off.frame) == (HUMANML3D.joint_names[joint], frame)
    _, least = fit_export(joints)
    assert least.metres < off.metres                                       # lengths fixed first: the error is shared
    said = f"{100 * least.metres:.1f} cm ({least.joint}, frame {least.frame})"
    assert said in save_bvh(tmp_path / "a.bvh", joints)


def test_the_body_at_rest_is_a_t_pose_and_left_is_left(tmp_path):
    for skeleton, joints in ((HUMANML3D, MOTIONS[3]), (KIT_ML, turning(KIT_ML))):
        rig, _ = measure_body(torch.as_tensor(joints).double(), skeleton)
        still = torch.eye(3).expand(1, rig.num_joints, 3, 3)
        pose = forward_kinematics(still, torch.zeros(1, 3), rig)[0][0]
        at = dict(zip(rig.joint_names, pose.tolist(), strict=True))
        size = max(at["head"])
        assert at["left_wrist"][0] > 0.4 * size and at["right_wrist"][0] < -0.4 * size
        assert abs(at["left_wrist"][1] - at["left_shoulder"][1]) < 1e-6
        assert at["left_ankle"][1] < -0.5 * size and at["head"][1] > 0 and at["left_foot"][2] > at["left_ankle"][2]


def test_elbows_and_knees_bend_about_their_hinges():
    angles = np.linspace(0.5, 2.0, 25)
    rotations = torch.eye(3, dtype=torch.float64).repeat(25, 22, 1, 1)
    rig, _ = measure_body(torch.as_tensor(MOTIONS[0]).double())
    for name, axis in (("left_knee", 0), ("right_elbow", 1)):
        c, s = torch.as_tensor(np.cos(angles)), torch.as_tensor(np.sin(angles))
        turn = torch.eye(3, dtype=torch.float64).repeat(25, 1, 1)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[:, a, a], turn[:, a, b], turn[:, b, a], turn[:, b, b] = c, -s, s, c
        rotations[:, rig.joint_names.index(name)] = turn
    hip = rig.joint_names.index("left_hip")                                # a twist that no direction shows
    rotations[:, hip] = torch.tensor([[0.6, 0, 0.8], [0, 1, 0], [-0.8, 0, 0.6]], dtype=torch.float64)
    joints = forward_kinematics(rotations, torch.zeros(25, 3, dtype=torch.float64), rig)[0]
    found = inverse_kinematics(joints, rig).rotations
    for name in ("left_knee", "right_elbow", "left_hip"):
        joint = rig.joint_names.index(name)
        assert (found[:, joint] - rotations[:, joint]).abs().max() < 0.01, name


def test_a_frame_by_itself_is_enough_and_ten_thousand_are_no_trouble(tmp_path):
    assert fit_pose(MOTIONS[0][:1])[1].metres < 1e-6
    long = np.tile(MOTIONS[0], (10_000 // len(MOTIONS[0]) + 1, 1, 1))[:10_000]
    assert fit_pose(long)[1].metres < 1e-6
    with pytest.raises(UserError, match=r"10000 frames .* choose \.mp4"):
        save_gif(tmp_path / "a.gif", long)
    assert not list(tmp_path.iterdir())


def test_a_body_that_spins_turns_on_in_the_file(tmp_path):
    "Two turns are 720 degrees, not a jump from 180 to -180: an animation program draws a line between frames."
    angle = torch.linspace(0, 4 * np.pi, 60, dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64).repeat(60, 1, 1)
    turn[:, 0, 0], turn[:, 0, 2], turn[:, 2, 0], turn[:, 2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    save_bvh(tmp_path / "a.bvh", torch.as_tensor(MOTIONS[0][:1]).double() @ turn.transpose(-1, -2))
    lines = (tmp_path / "a.bvh").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Frame Time"))
    values = np.array([line.split() for line in lines[first + 1 :]], dtype=float)
    assert np.abs(np.diff(values[:, 3:], axis=0)).max() < 15
    assert abs(values[-1, 5] - values[0, 5]) == pytest.approx(720, abs=1)


def test_a_bvh_file_comes_back_as_motion(tmp_path):
    save_bvh(tmp_path / "walk.bvh", MOTIONS[0])
    (take,) = load_takes(tmp_path / "walk.bvh")
    (back,) = take.panels.values()
    assert back.shape == MOTIONS[0].shape
    place = MOTIONS[0][:, :1] - back[:, :1]
    assert np.abs(back + place - MOTIONS[0]).max() < 0.01
