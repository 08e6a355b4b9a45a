"""Clips that leave: one skeleton for all, names that other programs know, and files that remember; read by others' libraries."""

import json

import numpy as np
import pybvh
import pytest
import torch
import trimesh
from command import command
from test_ik import MOTIONS

from mocapfree_nb.output.bvh import save_bvh
from mocapfree_nb.output.rig import JOINT_NAMES, fit_export, fix_bone_lengths, name_joints, standard_body
from mocapfree_nb.output.takes import load_takes, save_motions
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

ROUGH = [clip + np.random.default_rng(i).normal(0, 0.01, clip.shape) for i, clip in enumerate(MOTIONS[:3])]


def test_all_clips_leave_with_the_same_bones(tmp_path):
    trees = []
    for number, clip in enumerate([*ROUGH, MOTIONS[4]]):
        save_bvh(tmp_path / "a.bvh", clip)
        read = pybvh.read_bvh_file(tmp_path / "a.bvh", world_up="+y")
        trees.append([(node.name, *np.round(node.offset, 4)) for node in read.nodes])
        assert trees[number] == trees[0]
    assert {name for name, *_ in trees[0] if not name.startswith("End")} == set(HUMANML3D.joint_names)


def test_bones_are_made_constant_with_less_movement_than_by_aiming():
    rig = standard_body()
    fixed = fix_bone_lengths(torch.as_tensor(ROUGH[0]), rig)
    bones = (fixed[:, 1:] - fixed[:, list(rig.parents[1:])]).norm(dim=-1)
    assert (bones - torch.as_tensor(rig.offsets).norm(dim=-1)[1:]).abs().max() < 0.004
    assert (fixed - torch.as_tensor(ROUGH[0])).norm(dim=-1).mean() < 0.016  # the noise itself moves a joint by .016
    assert fit_export(MOTIONS[0])[1].metres < 1e-5


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML])
def test_names_are_unique_and_those_of_the_programs(skeleton):
    for names in JOINT_NAMES:
        found = name_joints(skeleton, names)
        assert len(set(found)) == skeleton.num_joints
    assert {"mixamorig:Hips", "mixamorig:LeftForeArm", "mixamorig:RightToeBase"} <= set(name_joints(skeleton, "mixamo"))
    assert {"pelvis", "lowerarm_l", "ball_r", "spine_01", "head"} <= set(name_joints(skeleton, "unreal"))


def test_a_t_pose_comes_first_and_the_rest_pose_stands_on_the_floor(tmp_path):
    save_bvh(tmp_path / "a.bvh", MOTIONS[0], t_pose=True, joint_names="mixamo")
    read = pybvh.read_bvh_file(tmp_path / "a.bvh", world_up="+y")
    there = read.node_positions()
    assert len(there) == len(MOTIONS[0]) + 1
    at = {name: there[0, index] for name, index in read.node_index.items() if name.startswith("mixamorig:")}
    assert min(place[1] for place in at.values()) == pytest.approx(0, abs=1e-3)
    assert at["mixamorig:LeftHand"][1] == pytest.approx(at["mixamorig:LeftArm"][1], abs=1e-3)
    assert at["mixamorig:LeftHand"][0] > at["mixamorig:LeftArm"][0] + 40
    assert load_takes(tmp_path / "a.bvh")[0].panels[""].shape[1:] == (22, 3)


def test_a_glb_remembers_its_sentence_and_rests_on_the_floor(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = [{"prompt": "a person kicks", "generated": MOTIONS[0]}]
    save_motions("a.npz", {"motion": shown}, {"seed": 7, "model": "denoiser", "fps": 25})
    status, _, complaint = command(
        capsys, monkeypatch, "export", "a.npz", "--out", "a.glb", "--joint-names", "unreal", "--t-pose"
    )
    assert status == 0, complaint
    raw = (tmp_path / "a.glb").read_bytes()
    tree = json.loads(raw[20 : 20 + int.from_bytes(raw[12:16], "little")])
    assert tree["asset"]["extras"] == {"prompt": "a person kicks", "seed": 7, "model": "denoiser", "fps": 25.0}
    assert tree["animations"][0]["name"] == "a person kicks"
    assert {"pelvis", "hand_l", "ball_r"} <= {node["name"] for node in tree["nodes"]}
    assert tree["accessors"][tree["animations"][0]["samplers"][0]["input"]]["count"] == len(MOTIONS[0]) + 1
    low, high = trimesh.load(tmp_path / "a.glb").bounds[:, 1]
    assert -0.1 < low < 0.02 and 1.4 < high < 2.0


def test_what_a_file_says_of_itself_is_checked(tmp_path):
    from mocapfree_nb.files import UserError

    for about in ("[1", "[]", '{"fps": 0}', '{"fps": "x"}', '{"seed": []}'):
        np.savez(tmp_path / "a.npz", **{"motion/0/generated": MOTIONS[0].astype(np.float32), "about": np.array(about)})
        with pytest.raises(UserError, match="a.npz"):
            load_takes(tmp_path / "a.npz")
