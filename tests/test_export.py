"""What leaves the kit: a BVH that another reader finds the joints in, pictures with left on the left, clear refusals."""

import subprocess
import sys

import bvhio
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from mocapfree_nb import cli
from mocapfree_nb.cli import export
from mocapfree_nb.features import joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.output.bvh import save_bvh
from mocapfree_nb.output.ik import fit_pose, inverse_kinematics, measure_body
from mocapfree_nb.output.takes import export_motion, load_takes, save_motions
from mocapfree_nb.output.video import draw_frames, save_gif, save_mp4
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics
from mocapfree_nb.viewer import COLOURS

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
    assert np.linalg.norm(there - centimetres, axis=-1).max() < (0.5 if slide else 0.01)
    assert ("left_shoulder_base" in (tmp_path / "a.bvh").read_text()) == (slide > 0)


def test_of_motion_whose_bones_tremble_the_file_keeps_the_lengths_and_says_how_far_off_it_is(tmp_path):
    joints = MOTIONS[0] + np.random.default_rng(0).normal(0, 0.01, MOTIONS[0].shape)
    pose, off = fit_pose(joints)
    there = pose.positions()
    bones = (there[:, 1:] - there[:, list(pose.rig.parents[1:])]).norm(dim=-1)
    assert bones.std(0).max() < 1e-9
    names = [pose.rig.joint_names.index(name) for name in HUMANML3D.joint_names]
    distance = np.linalg.norm(there.numpy()[:, names] - joints, axis=-1)
    assert distance.max() <= off + 1e-9 and distance.mean() < 0.016          # the noise itself moves a joint by .016
    assert f"{100 * off:.1f} cm" in save_bvh(tmp_path / "a.bvh", joints)


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
    assert fit_pose(MOTIONS[0][:1])[1] < 1e-6
    long = np.tile(MOTIONS[0], (10_000 // len(MOTIONS[0]) + 1, 1, 1))[:10_000]
    assert fit_pose(long)[1] < 1e-6
    with pytest.raises(UserError, match=r"10000 frames .* choose \.mp4"):
        save_gif(tmp_path / "a.gif", long)
    assert not list(tmp_path.iterdir())


def colour_at(picture: Image.Image, colour: str) -> np.ndarray:
    "Columns of the pixels of one colour above the line of text."
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((np.asarray(picture)[:360] == wanted).all(-1))


@pytest.mark.parametrize("azimuth,side", [(0, 1), (180, -1)])
def test_left_is_left_and_feet_stand_on_the_floor(azimuth, side):
    rotations = torch.eye(3).expand(3, 22, 3, 3)
    joints = forward_kinematics(rotations, torch.zeros(3, 3), HUMANML3D)[0].numpy()
    joints[..., 1] -= joints[..., 1].min()
    picture = list(draw_frames(joints, azimuth=azimuth, elevation=0))[1]
    left, right = (colour_at(picture, COLOURS[name]) for name in ("left", "right"))
    assert side * (left[:, 1].mean() - right[:, 1].mean()) > 20
    floor = 0.86 * 384
    assert abs(left[:, 0].max() - floor) < 6 and abs(right[:, 0].max() - floor) < 6


def test_a_gif_and_a_video_hold_every_frame_at_the_right_speed(tmp_path):
    clips = {"short": MOTIONS[0][:20], "long": MOTIONS[1][:25]}
    assert save_gif(tmp_path / "a.gif", clips, fps=12.5).startswith("25 frames, 768 x ")
    with Image.open(tmp_path / "a.gif") as gif:
        assert (gif.n_frames, gif.info["duration"], gif.size[0]) == (25, 80, 768)
    with_every = save_gif(tmp_path / "fast.gif", MOTIONS[0][:20], fps=100)
    assert with_every.startswith("10 frames")
    save_mp4(tmp_path / "a.mp4", clips, fps=12.5)
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4"))
    assert frames == 25 and seconds == pytest.approx(2.0, abs=0.1)
    assert sum(export._gif_times(300, 29.97)) == pytest.approx(300_000 / 29.97, abs=10)


def test_joints_features_batches_and_runs_are_recognised(tmp_path):
    from mocapfree_nb.features import joints_to_features

    np.save(tmp_path / "features.npy", joints_to_features(MOTIONS[0]).numpy())
    take = load_takes(tmp_path / "features.npy")[0]
    assert take.panels[""].shape == (len(MOTIONS[0]) - 1, 22, 3)
    np.save(tmp_path / "kit.npy", turning(KIT_ML)[None])
    assert load_takes(tmp_path / "kit.npy")[0].skeleton is KIT_ML
    motions = {"target": [{"prompt": "a <b>kick</b>", "before": MOTIONS[0], "full_data": torch.tensor(MOTIONS[1])}],
               "original": []}
    save_motions(tmp_path / "motions.npz", motions)
    take = load_takes(tmp_path)[0]
    assert (take.title, list(take.panels)) == ("a <b>kick</b>", ["before", "full data"])
    assert np.abs(take.panels["before"] - MOTIONS[0]).max() < 1e-6


def command(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["mocapfree", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def places(tmp_path, monkeypatch):
    "A folder with good and bad motion in it."
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", np.stack([MOTIONS[0][:12], MOTIONS[1][:12]]))
    np.save("nan.npy", np.where(np.arange(12)[:, None, None] == 3, np.nan, MOTIONS[0][:12]))
    np.save("empty.npy", np.zeros((0, 22, 3)))
    np.save("seventeen.npy", np.zeros((9, 17, 3)))
    np.save("words.npy", np.array(["a", "b"]))
    np.save("objects.npy", np.array([{}, None]), allow_pickle=True)
    np.save("long.npy", np.tile(MOTIONS[0][:10], (1000, 1, 1)))
    save_motions("motions.npz", {"target": [{"prompt": "<i>kick</i>", "before": MOTIONS[0], "after": MOTIONS[1]}]})
    (tmp_path / "file").write_text("x")
    (tmp_path / "bare").mkdir()
    return tmp_path


MISTAKES = {
    "nothing there": (["view", "nope.npy"], "nope.npy"),
    "no frames": (["view", "empty.npy"], "no frames"),
    "NaN": (["view", "nan.npy"], "first in frame 3"),
    "another skeleton": (["export", "seventeen.npy", "--out", "a.gif"], "(9, 17, 3)"),
    "no numbers": (["view", "words.npy"], "expected joints"),
    "a pickle": (["view", "objects.npy"], "not a plain .npy"),
    "a bare folder": (["view", "bare"], "motions.npz"),
    "a text file": (["view", "file"], "cannot read motion"),
    "no such motion": (["export", "good.npy", "--motion", "3", "--out", "a.gif"], "there are 2"),
    "no such panel": (["export", ".", "--panel", "between", "--out", "a.gif"], "'before', 'after'"),
    "an unknown ending": (["export", "good.npy", "--out", "a.fbx"], ".bvh"),
    "an unwritable page": (["view", "good.npy", "--out", "file/page.html"], "cannot write"),
    "an unwritable gif": (["export", "good.npy", "--out", "file/a.gif"], "cannot write"),
    "an unwritable video": (["export", "good.npy", "--out", "file/a.mp4"], "cannot write"),
    "an unwritable skeleton": (["export", "good.npy", "--out", "file/a.bvh"], "cannot write"),
    "a long gif": (["export", "long.npy", "--out", "a.gif"], "choose .mp4"),
    "a long page": (["export", "long.npy", "--out", "a.html"], "long.npy: joints: 10000 frames; at most 2000"),
    "a long view": (["view", "long.npy"], "long.npy: joints: 10000 frames; at most 2000"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_clear_line(name, capsys, monkeypatch, places):
    arguments, words = MISTAKES[name]
    before = sorted(path.name for path in places.rglob("*"))
    status, _, complaint = command(capsys, monkeypatch, *arguments)
    assert status == 1 and complaint.startswith("mocapfree: ") and complaint.count("\n") == 1
    assert words in complaint
    assert sorted(path.name for path in places.rglob("*")) == before, "something half-made was left behind"


def test_without_ffmpeg_there_is_one_line_and_no_file(capsys, monkeypatch, places):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    status, _, complaint = command(capsys, monkeypatch, "export", "good.npy", "--out", "a.mp4")
    assert status == 1 and "pip install imageio-ffmpeg" in complaint and complaint.count("\n") == 1
    monkeypatch.undo()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(places / "no-ffmpeg-here"))
    with pytest.raises(UserError, match="ffmpeg did not take"):
        save_mp4(places / "a.mp4", MOTIONS[0][:5])
    broken = places / "broken"                                             # takes nothing and stops
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(broken))
    with pytest.raises(UserError, match="ffmpeg"):
        save_mp4(places / "a.mp4", MOTIONS[0][:5])
    assert not list(places.glob("*.mp4"))


def test_view_and_export_say_where_the_file_is(capsys, monkeypatch, places):
    status, said, _ = command(capsys, monkeypatch, "view", "good.npy")
    assert status == 0 and said == f"open {places / 'good.html'}\n"
    status, said, _ = command(capsys, monkeypatch, "view", ".")
    page = (places / "motions.html").read_text()
    assert status == 0 and "<i>kick</i>" not in page and "https://" not in page
    status, said, _ = command(capsys, monkeypatch, "export", ".", "--out", "run.gif")
    assert status == 0 and said.startswith("saved run.gif") and "768 x" in said
    status, said, _ = command(capsys, monkeypatch, "export", "good.npy", "--motion", 2, "--out", "two.npy")
    assert status == 0 and "(motion 2 of 2)" in said
    assert np.abs(np.load("two.npy") - MOTIONS[1][:12]).max() < 1e-6
    status, said, _ = command(capsys, monkeypatch, "export", ".", "--panel", "before", "--out", "run.bvh")
    assert status == 0
    assert np.abs(positions_by_bvhio("run.bvh", HUMANML3D.joint_names) / 100 - MOTIONS[0]).max() < 1e-4


def test_export_motion_refuses_bad_arrays():
    for bad, words in ((np.zeros((0, 22, 3)), "no frames"), (np.zeros((3, 17, 3)), "22"), (np.full((3, 22, 3), np.nan), "NaN")):
        with pytest.raises(ValueError, match=words):
            export_motion(bad, "a.bvh")
    with pytest.raises(ValueError, match="fps"):
        export_motion(MOTIONS[0], "a.gif", fps=-1)


def test_a_run_keeps_its_motions(tmp_path):
    from mocapfree_nb.experiment import Report

    row = {"r_precision": [0.1, 0.2, 0.3]}
    motions = {"target": [{"prompt": "kick", "before": torch.tensor(MOTIONS[0]), "after": torch.tensor(MOTIONS[1])}]}
    Report({"target": {"before": row, "after": row}}, motions).save(tmp_path)
    assert list(load_takes(tmp_path)[0].panels) == ["before", "after"]


def test_no_reader_or_writer_is_imported_before_it_is_needed():
    wanted = "('pybvh', 'imageio_ffmpeg', 'trimesh')"
    code = f"import sys, mocapfree_nb.output.export; print([m for m in {wanted} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


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


def test_arrays_as_mdm_writes_them_are_shown_and_normalised_features_are_not(tmp_path):
    made = generate_clips(2, seed=0)
    clip = np.asarray(made.joints[0, : made.lengths[0]])
    np.save(tmp_path / "one.npy", clip.transpose(1, 2, 0))  # (22, 3, frames)
    np.save(tmp_path / "many.npy", np.stack([clip, clip]).transpose(0, 2, 3, 1))  # (2, 22, 3, frames)
    (one,), many = load_takes(tmp_path / "one.npy"), load_takes(tmp_path / "many.npy")
    assert np.array_equal(one.panels[""], clip) and len(many) == 2 and np.array_equal(many[1].panels[""], clip)
    rows = joints_to_features(clip).numpy()
    np.save(tmp_path / "normal.npy", (rows - rows.mean(0)) / (rows.std(0) + 1e-3))
    with pytest.raises(UserError, match="normal.npy holds normalised features; save them in physical units"):
        load_takes(tmp_path / "normal.npy")
