"""Files and runs as motion, and motion in every form that leaves the kit: clear refusals, nothing half-made."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from command import command
from test_ik import MOTIONS, positions_by_bvhio, turning

from mocapfree_nb.features import joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.output.takes import export_motion, load_takes, save_motions
from mocapfree_nb.output.video import save_mp4
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML


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
    code = f"import sys, mocapfree_nb.output.takes; print([m for m in {wanted} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


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


def test_the_motions_of_a_run_stand_in_the_order_of_its_report(tmp_path):
    joints = np.repeat(HUMANML3D.offsets[None].cumsum(1), 4, axis=0).astype(np.float32)
    kept = {"prompt": "p"} | dict.fromkeys(("full_data", "mine", "best_of_n", "after", "before"), joints)
    save_motions(tmp_path / "motions.npz", {"target": [kept]})
    assert list(load_takes(tmp_path)[0].panels) == ["before", "after", "best of n", "full data", "mine"]


@pytest.mark.parametrize("shape", [(0, 263), (0, 251), (0, 22, 3), (2, 0, 22, 3)])
def test_an_array_without_frames_says_so(tmp_path, shape):
    np.save(tmp_path / "none.npy", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match="holds no frames"):
        load_takes(tmp_path / "none.npy")
