"""BVH and AMASS against other readers and other arithmetic."""

import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb.bvh import load_bvh
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.data import folders, packs
from mocapfree_nb.data.amass import _arrays, _rate_and_gender, find_body_model, read_amass
from mocapfree_nb.data.capture import RigsOfFolder, read_bvh
from mocapfree_nb.data.checks import toes_forward
from mocapfree_nb.data.joint_names import find_joints
from mocapfree_nb.features import joints_to_features, retarget
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D

RIG = {  # name: (parent, offset in centimetres)
    "Hips": (None, (0, 0, 0)),
    "Spine": ("Hips", (0, 11, -1)),
    "Chest": ("Spine", (0, 21, 0)),
    "Neck": ("Chest", (0, 22, 1)),
    "Head": ("Neck", (0, 9, 2)),
}
for _side, _x in (("Left", 1), ("Right", -1)):
    RIG |= {
        f"{_side}Shoulder": ("Chest", (5 * _x, 16, 0)),
        f"{_side}Arm": (f"{_side}Shoulder", (13 * _x, 0, 0)),
        f"{_side}ForeArm": (f"{_side}Arm", (28 * _x, 0, 0)),
        f"{_side}Hand": (f"{_side}ForeArm", (25 * _x, 0, 1)),
        f"{_side}UpLeg": ("Hips", (9 * _x, -4, 0)),
        f"{_side}Leg": (f"{_side}UpLeg", (0, -42, 1)),
        f"{_side}Foot": (f"{_side}Leg", (0, -43, -2)),
        f"{_side}Toe": (f"{_side}Foot", (0, -6, 14)),
    }
PAIRS = {"left_knee": ("LeftUpLeg", "LeftLeg"), "right_ankle": ("RightLeg", "RightFoot"), "left_foot": ("LeftFoot", "LeftToe")}
PAIRS |= {"left_elbow": ("LeftArm", "LeftForeArm"), "right_wrist": ("RightForeArm", "RightHand"), "head": ("Neck", "Head")}
PAIRS |= {"right_shoulder": ("RightShoulder", "RightArm")}


def tree(name: str, rig: dict, depth: int = 0) -> str:
    kind = "JOINT" if rig[name][0] else "ROOT"
    turns = "Zrotation Xrotation Yrotation"
    channels = f"3 {turns}" if rig[name][0] else f"6 Xposition Yposition Zposition {turns}"
    inner = "".join(tree(child, rig, depth + 1) for child in rig if rig[child][0] == name)
    inner = inner or "End Site\n{\nOFFSET 0 1 0\n}\n"
    offset = " ".join(f"{number:g}" for number in rig[name][1])
    return f"{kind} {name}\n{{\nOFFSET {offset}\nCHANNELS {channels}\n{inner}}}\n"


def bvh(frames: int = 60, seconds: float = 1 / 60, scale: float = 1.0, rig: dict = RIG, seed: int = 0) -> str:
    """A file in which everything turns a little, slowly, and the body walks."""
    generator = np.random.default_rng(seed)
    speed, size = generator.uniform(0.5, 2, 3 * len(rig)), generator.uniform(5, 25, 3 * len(rig))
    time = np.arange(frames)[:, None] * seconds
    angles = size * np.sin(2 * np.pi * speed * time + generator.uniform(0, 6, 3 * len(rig)))
    root = scale * np.concatenate([20 * time, 95 + 0 * time, 60 * time], 1)
    rows = "\n".join(" ".join(f"{number:.6f}" for number in row) for row in np.concatenate([root, angles], 1))
    rig = {name: (parent, tuple(scale * number for number in offset)) for name, (parent, offset) in rig.items()}
    return f"HIERARCHY\n{tree('Hips', rig)}MOTION\nFrames: {frames}\nFrame Time: {seconds:.6f}\n{rows}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# --- BVH -----------------------------------------------------------------------------------------------


def test_bone_directions_are_those_that_another_reader_finds(tmp_path):
    bvhio = pytest.importorskip("bvhio")
    path = write(tmp_path / "a.bvh", bvh(frames=31, seconds=0.05))
    joints = read_bvh(path)
    root = bvhio.readAsHierarchy(str(path))
    for frame in (0, 7, 30):
        root.loadPose(frame)
        at = {joint.Name: np.array(joint.PositionWorld) for joint, *_ in root.layout()}
        for name, (start, end) in PAIRS.items():
            child = HUMANML3D.joint_names.index(name)
            bone = joints[frame, child] - joints[frame, HUMANML3D.parents[child]]
            assert np.abs(unit(bone) - unit(at[end] - at[start])).max() < 1e-3, (frame, name)
        across = unit(joints[frame, 1] - joints[frame, 2])  # the pelvis turns as the rig's; its size is our own
        assert np.abs(across - unit(at["LeftUpLeg"] - at["RightUpLeg"])).max() < 1e-3, frame


def test_bones_have_the_lengths_of_humanml3d_and_toes_point_forward(tmp_path):
    joints = read_bvh(write(tmp_path / "a.bvh", bvh()))
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, HUMANML3D.parents[1:]], axis=-1)
    assert np.allclose(lengths, np.linalg.norm(HUMANML3D.offsets, axis=1)[1:], atol=1e-5)
    assert toes_forward(joints_to_features(joints).numpy()) > 0.08


def test_the_frame_rate_of_the_file_is_honoured(tmp_path):
    fast, slow = (read_bvh(write(tmp_path / "a.bvh", bvh(frames, s))) for frames, s in ((241, 1 / 120), (41, 1 / 20)))
    assert len(fast) == len(slow) == 41 and np.abs(fast - slow).max() < 2e-3


def test_the_unit_does_not_matter(tmp_path):
    centimetres, inches = (read_bvh(write(tmp_path / "a.bvh", bvh(scale=scale))) for scale in (1, 1 / 2.54))
    assert np.abs(centimetres - inches).max() < 1e-3


def test_a_file_with_z_up_is_turned_and_not_mirrored(tmp_path):
    y_up = read_bvh(write(tmp_path / "a.bvh", bvh()))
    turned = {name: (parent, (x, -z, y)) for name, (parent, (x, y, z)) in RIG.items()}
    text = bvh(rig=turned).replace("\n95", "\n95")
    head, rows = text.split("Frame Time: 0.016667\n")
    still = np.zeros((60, 3 + 3 * len(RIG)))
    rows = "\n".join(" ".join(map(str, row)) for row in still)
    z_up = read_bvh(write(tmp_path / "b.bvh", f"{head}Frame Time: 0.016667\n{rows}\n"))
    assert toes_forward(joints_to_features(z_up).numpy()) > 0.1
    left = HUMANML3D.joint_names.index("left_hip")
    facing = np.cross(z_up[0, left] - z_up[0, 0], [0, 1.0, 0])
    toes = z_up[0, HUMANML3D.joint_names.index("left_foot")] - z_up[0, HUMANML3D.joint_names.index("left_ankle")]
    assert (z_up[0, :, 1].argmax() == 15) and facing @ toes > 0 and y_up.shape == z_up.shape


INPUTS = Path(__file__).parent / "inputs"
PELVIS, L_HIP, R_HIP, L_ANKLE, R_ANKLE, HEAD = (
    HUMANML3D.joint_names.index(n) for n in ("pelvis", "left_hip", "right_hip", "left_ankle", "right_ankle", "head")
)


@pytest.mark.parametrize("name", ["six_channels.bvh", "frames_without_blank.bvh", "UPPER_CASE.BVH", "mixamo_underscore.bvh"])
def test_other_ways_to_write_the_same_motion(name):
    assert np.abs(read_bvh(INPUTS / name) - read_bvh(INPUTS / "plain.bvh")).max() < 1e-6


def test_the_rest_pose_says_which_way_is_up():
    plank, touch = (read_bvh(INPUTS / name) for name in ("plank.bvh", "toe_touch.bvh"))
    assert np.abs(plank[:, HEAD, 1] - plank[:, PELVIS, 1]).max() < 0.05
    assert np.abs(plank[:, HEAD, 2] - plank[:, PELVIS, 2]).min() > 0.6
    drop = touch[:, PELVIS, 1] - touch[:, [L_ANKLE, R_ANKLE], 1].mean(1)
    assert np.median(drop) == pytest.approx(0.85, abs=0.05) and touch[:, HEAD, 1].min() < touch[:, PELVIS, 1].min()


def test_a_helper_before_the_hip_is_not_the_hip():
    rig = load_bvh(INPUTS / "lhipjoint.bvh")
    at = find_joints(rig.names, rig.parents)
    assert [rig.names[at[name]] for name in ("pelvis", "left_hip", "right_hip")] == ["Hips", "LeftHip", "RightHip"]
    found, plain = read_bvh(INPUTS / "lhipjoint.bvh"), read_bvh(INPUTS / "plain.bvh")
    assert np.abs(found[:, PELVIS] - plain[:, PELVIS]).max() < 1e-3


@pytest.mark.parametrize("name", sorted(path.name for path in INPUTS.iterdir() if path.suffix.lower() == ".bvh"))
def test_the_pelvis_is_the_target_s_whatever_the_rig(name):
    joints = read_bvh(INPUTS / name)
    assert np.linalg.norm(joints[:, L_HIP] - joints[:, R_HIP], axis=-1) == pytest.approx(0.121, abs=1e-3)
    lengths = np.linalg.norm(joints[:, 1:] - joints[:, HUMANML3D.parents[1:]], axis=-1)
    assert np.allclose(lengths, np.linalg.norm(HUMANML3D.offsets, axis=1)[1:], atol=1e-5)


def test_feet_stay_where_the_rig_has_them():
    """The pelvis is another, the middle between the hips the same: ankles are those of the rig, to scale."""
    rig = load_bvh(INPUTS / "plain.bvh")
    places, scale = rig.positions(), np.linalg.norm(HUMANML3D.offsets[[4, 7]], axis=1).sum() / 83
    found = read_bvh(INPUTS / "plain.bvh")[0]
    for ankle, name in ((L_ANKLE, "LeftFoot"), (R_ANKLE, "RightFoot")):
        assert np.abs(found[ankle] - scale * places[0, rig.names.index(name)])[1:].max() < 0.015


def still(rig: dict, root: tuple = (0, 95, 0), frames: int = 30) -> str:
    """A file in which the rig keeps its rest pose."""
    row = " ".join(map(str, (*root, *[0] * 3 * len(rig))))
    head = f"HIERARCHY\n{tree(next(iter(rig)), rig)}MOTION\nFrames: {frames}\nFrame Time: 0.05\n"
    return head + f"{row}\n" * frames


@pytest.mark.parametrize("missing", ["Neck", "Head", "Neck Head"])
def test_a_missing_neck_or_head_is_placed(tmp_path, missing):
    rig = {name: (parent, offset) for name, (parent, offset) in RIG.items() if name not in missing}
    if missing == "Neck":
        rig["Head"] = ("Chest", (0, 31, 3))
    joints = read_bvh(write(tmp_path / "a.bvh", still(rig)))
    neck = HUMANML3D.joint_names.index("neck")
    assert (joints[:, HEAD, 1] > joints[:, neck, 1] + 0.09).all() and (joints[:, neck, 1] > joints[:, PELVIS, 1] + 0.4).all()
    assert np.abs(joints[:, [neck, HEAD], 0] - joints[:, [PELVIS], 0]).max() < 0.01


def test_a_no_neck_rig_and_a_root_that_only_turns():
    """With its head on the chest, and with an end site in place of a head."""
    for name in ("no_neck_joint.bvh", "rotation_only_root.bvh"):
        joints = read_bvh(INPUTS / name)
        assert (joints[0, HEAD, 1] - joints[0, PELVIS, 1]) == pytest.approx(0.65, abs=0.02)
    assert np.abs(joints[:, PELVIS] - joints[0, PELVIS]).max() < 0.05


def collapsed(frames: int = 30) -> str:
    """A rig with all bones along x in its rest pose, turned into a standing body by the motion."""
    parents = {name: parent for name, (parent, _) in RIG.items()}
    along = {name: (parent, (float(np.linalg.norm(offset)), 0, 0)) for name, (parent, offset) in RIG.items()}
    along |= {name: (parent, (0, 0, RIG[name][1][0])) for name, parent in parents.items() if name.endswith("UpLeg")}
    head, _ = bvh(frames=frames, rig=along).split("MOTION")
    turn = {"Hips": 90, "LeftUpLeg": 180, "RightUpLeg": 180, "LeftShoulder": -90, "RightShoulder": 90}
    row = [0.0, 95.0, 0.0] + [float(number) for name in along for number in (turn.get(name, 0), 0, 0)]
    text = head + f"MOTION\nFrames: {frames}\nFrame Time: 0.05\n"
    return text + "\n".join(" ".join(map(str, row)) for _ in range(frames)) + "\n"


def test_where_the_rest_pose_is_no_pose_the_folder_decides(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.bvh", collapsed())
    lines = collapsed().split("\n")
    first = lines.index("Frame Time: 0.05") + 1
    lying = [re.sub(r"^(\S+ \S+ \S+) 90.0 0.0 0.0", r"\1 0.0 0.0 0.0", line) for line in lines[first:]]
    write(tmp_path / "lying.bvh", "\n".join(lines[:first] + lying))
    assert (read_bvh(tmp_path / "0.bvh")[:, HEAD, 1] > 1.4).all()
    folder = RigsOfFolder(tmp_path.glob("*.bvh"))
    lies, stands = (read_bvh(tmp_path / name, folder) for name in ("lying.bvh", "1.bvh"))
    assert np.abs(lies[:, HEAD, 1] - lies[:, PELVIS, 1]).max() < 0.1 and (stands[:, HEAD, 1] > 1.4).all()
    alone = read_bvh(tmp_path / "lying.bvh")
    assert (alone[:, HEAD, 1] - alone[:, PELVIS, 1] > 0.5).all()


def test_what_stands_above_the_pelvis_turns_the_rest_pose(tmp_path):
    """A stage ("Armature") that turns a body drawn with z up."""
    rig = {"Armature": (None, (0, 0, 0))} | {n: (p or "Armature", (x, -z, y)) for n, (p, (x, y, z)) in RIG.items()}
    text = bvh(rig=RIG).split("MOTION")[1]
    head = "HIERARCHY\n" + tree("Armature", rig) + "MOTION" + text.split("Frame Time")[0]
    row = "0 0 0 0 -90 0 " + " ".join(["0"] * 3 * len(RIG))  # about x: z up to y up
    joints = read_bvh(write(tmp_path / "a.bvh", head + "Frame Time: 0.016667\n" + (row + "\n") * 60))
    assert (joints[:, HEAD, 1] > joints[:, PELVIS, 1] + 0.5).all()
    assert toes_forward(joints_to_features(joints).numpy()) > 0.08


def test_position_channels_of_zeros_do_not_fold_the_body_up(tmp_path):
    text = (INPUTS / "six_channels.bvh").read_text()
    head, rows = text.split("Frame Time: 0.033333\n")
    columns = np.loadtxt(rows.splitlines())
    zeroed = columns.reshape(len(columns), -1, 6)
    zeroed[:, 1:, :3] = 0
    rows = "\n".join(" ".join(f"{v:.5f}" for v in row) for row in columns)
    found = read_bvh(write(tmp_path / "a.bvh", f"{head}Frame Time: 0.033333\n{rows}\n"))
    assert np.abs(found - read_bvh(INPUTS / "plain.bvh")).max() < 1e-6


def test_names_with_blanks_braces_on_the_line_and_windows_lines(tmp_path):
    text = (INPUTS / "plain.bvh").read_text()
    blank = re.sub(r"(JOINT|ROOT) (Left|Right)?(\w+)", lambda m: f"{m[1]} Bip 001 {(m[2] or '')} {m[3]}", text)
    joined = re.sub(r"\n\s*\{", " {", blank).replace("\n", "\r\n")
    assert "JOINT Bip 001 Left UpLeg {" in joined
    (tmp_path / "a.bvh").write_bytes(b"\xef\xbb\xbf" + joined.encode())
    assert np.abs(read_bvh(tmp_path / "a.bvh") - read_bvh(INPUTS / "plain.bvh")).max() < 1e-6


def test_positions_are_those_of_two_other_readers():
    bvhio, pybvh = pytest.importorskip("bvhio"), pytest.importorskip("pybvh")
    rig = load_bvh(INPUTS / "plain.bvh")
    found = rig.positions()[:, [i for i, name in enumerate(rig.names) if name]]
    other = pybvh.read_bvh_file(INPUTS / "plain.bvh", world_up="+y", warn_on_world_up_disagreement=False)
    assert np.abs(found - other.joint_positions()).max() < 1e-9
    root = bvhio.readAsHierarchy(str(INPUTS / "plain.bvh"))
    root.loadPose(5)
    at = np.array([joint.PositionWorld for joint, *_ in root.layout()])
    assert np.abs(found[5] - at[: len(found[5])]).max() < 1e-3


@pytest.mark.parametrize(("text", "fps"), [("0.033333", 30), ("0.0333", 30), ("0.008333", 120), ("0.033366", 29.9706)])
def test_the_frame_rate_is_read_as_it_was_rounded(tmp_path, text, fps):
    path = write(tmp_path / "a.bvh", bvh().replace("0.016667", text))
    assert load_bvh(path).fps == pytest.approx(fps, rel=1e-5)


RIGS = {
    "mixamo": "mixamorig:Hips mixamorig:Spine mixamorig:Neck mixamorig:Head mixamorig:LeftShoulder mixamorig:LeftArm "
    "mixamorig:LeftForeArm mixamorig:LeftHand mixamorig:LeftUpLeg mixamorig:LeftLeg mixamorig:LeftFoot mixamorig:LeftToeBase",
    "unreal": "pelvis spine_01 neck_01 head clavicle_l upperarm_l lowerarm_l hand_l thigh_l calf_l foot_l ball_l",
    "biped": "Bip01 Bip01_Spine Bip01_Neck Bip01_Head Bip01_L_Clavicle Bip01_L_UpperArm Bip01_L_Forearm Bip01_L_Hand "
    "Bip01_L_Thigh Bip01_L_Calf Bip01_L_Foot Bip01_L_Toe0",
    "cmu": "Hips LowerBack Neck Head LeftShoulder LeftArm LeftForeArm LeftHand LeftUpLeg LeftLeg LeftFoot LeftToeBase LHipJoint",
    "smpl": "Pelvis Spine1 Neck Head L_Collar L_Shoulder L_Elbow L_Wrist L_Hip L_Knee L_Ankle L_Foot",
    "humanml3d": "pelvis spine1 neck head left_collar left_shoulder left_elbow left_wrist left_hip left_knee left_ankle "
    "left_foot",
    "bandai": "Hips Spine Neck Head Shoulder_L UpperArm_L LowerArm_L Hand_L UpperLeg_L LowerLeg_L Foot_L Toes_L",
}
ORDER = "pelvis - neck head left_collar left_shoulder left_elbow left_wrist left_hip left_knee left_ankle left_foot".split()


@pytest.mark.parametrize("rig", RIGS)
def test_rigs_of_many_programs(rig):
    names = RIGS[rig].split()
    swap = {"left": "right", "Left": "Right", "_l": "_r", "_L": "_R"}
    other = [re.sub("left|Left|_l$|_L$|_L(?=_)|^L(?=_|H)", lambda m: swap.get(m[0], "R"), name) for name in names]
    both = names + [name for name in other if name not in names]
    found = find_joints(both)
    for joint, name in zip(ORDER, names, strict=False):
        if joint != "-":
            assert both[found[joint]] == name
    assert all(found[joint.replace("left", "right")] != found[joint] for joint in ORDER if joint.startswith("left"))
    assert sum(joint.startswith("right") for joint in found) == 8


# one side of a rig as its program writes it: pelvis, spine joints, neck, head | collar, shoulder, elbow, wrist | hip, knee,
# ankle, toes. "*" is a joint that is none of ours, "-" one that the rig does not have, "{}" the side.
TREES = {
    "mixamo": "mixamorig:Hips *mixamorig:Spine *mixamorig:Spine1 mixamorig:Neck mixamorig:Head *mixamorig:HeadTop_End "
    "| mixamorig:{Left}Shoulder mixamorig:{Left}Arm mixamorig:{Left}ForeArm mixamorig:{Left}Hand *mixamorig:{Left}HandIndex1 "
    "| mixamorig:{Left}UpLeg mixamorig:{Left}Leg mixamorig:{Left}Foot mixamorig:{Left}ToeBase *mixamorig:{Left}Toe_End",
    "mixamo numbered": "mixamorig1_Hips *mixamorig1_Spine mixamorig1_Neck mixamorig1_Head "
    "| mixamorig1_{Left}Shoulder mixamorig1_{Left}Arm mixamorig1_{Left}ForeArm mixamorig1_{Left}Hand "
    "| mixamorig1_{Left}UpLeg mixamorig1_{Left}Leg mixamorig1_{Left}Foot mixamorig1_{Left}ToeBase",
    "cmu": "Hips *LowerBack *Spine *Spine1 Neck *Neck1 Head | {Left}Shoulder {Left}Arm {Left}ForeArm {Left}Hand "
    "*{Left}FingerBase "
    "| *{L}HipJoint {Left}UpLeg {Left}Leg {Left}Foot {Left}ToeBase",
    "asf": "root *lowerback *upperback *thorax lowerneck head | {l}clavicle {l}humerus {l}radius {l}wrist *{l}hand *{l}fingers "
    "| *{l}hipjoint {l}femur {l}tibia {l}foot {l}toes",
    "lafan": "Hips *Spine *Spine1 *Spine2 Neck Head | {Left}Shoulder {Left}Arm {Left}ForeArm {Left}Hand "
    "| {Left}UpLeg {Left}Leg {Left}Foot {Left}Toe",
    "bandai": "*joint_Root Hips *Spine *Chest Neck Head | Shoulder_{L} UpperArm_{L} LowerArm_{L} Hand_{L} "
    "| UpperLeg_{L} LowerLeg_{L} Foot_{L} Toes_{L}",
    "biped": "*Bip001 Bip001_Pelvis *Bip001_Spine *Bip001_Spine1 Bip001_Neck Bip001_Head *Bip001_HeadNub "
    "| Bip001_{L}_Clavicle Bip001_{L}_UpperArm Bip001_{L}_Forearm Bip001_{L}_Hand *Bip001_{L}_Finger0 "
    "| Bip001_{L}_Thigh Bip001_{L}_Calf Bip001_{L}_Foot Bip001_{L}_Toe0 *Bip001_{L}_Toe0Nub",
    "unreal": "*root pelvis *spine_01 *spine_02 *spine_03 neck_01 head | clavicle_{l} upperarm_{l} lowerarm_{l} hand_{l} "
    "*thumb_01_{l} "
    "| thigh_{l} calf_{l} foot_{l} ball_{l}",
    "character creator": "*RL_BoneRoot CC_Base_Hip *CC_Base_Waist *CC_Base_Spine01 CC_Base_NeckTwist01 *CC_Base_NeckTwist02 "
    "CC_Base_Head "
    "| CC_Base_{L}_Clavicle CC_Base_{L}_Upperarm CC_Base_{L}_Forearm CC_Base_{L}_Hand *CC_Base_{L}_Mid1 "
    "| *CC_Base_Pelvis CC_Base_{L}_Thigh CC_Base_{L}_Calf CC_Base_{L}_Foot CC_Base_{L}_ToeBase",
    "vrm": "*Root J_Bip_C_Hips *J_Bip_C_Spine *J_Bip_C_Chest J_Bip_C_Neck J_Bip_C_Head *J_Sec_Hair1_01 "
    "| J_Bip_{L}_Shoulder J_Bip_{L}_UpperArm J_Bip_{L}_LowerArm J_Bip_{L}_Hand | J_Bip_{L}_UpperLeg J_Bip_{L}_LowerLeg "
    "J_Bip_{L}_Foot J_Bip_{L}_ToeBase",
    "motionbuilder": "*Character1_Reference Character1_Hips *Character1_Spine Character1_Neck Character1_Head "
    "| Character1_{Left}Shoulder Character1_{Left}Arm *Character1_{Left}ArmRoll Character1_{Left}ForeArm Character1_{Left}Hand "
    "| Character1_{Left}UpLeg *Character1_{Left}UpLegRoll Character1_{Left}Leg Character1_{Left}Foot Character1_{Left}ToeBase",
    "xsens": "Hips *Chest *Chest2 *Chest3 *Chest4 Neck Head | {Left}Collar {Left}Shoulder {Left}Elbow {Left}Wrist "
    "| {Left}Hip {Left}Knee {Left}Ankle {Left}Toe",
    "rokoko": "Hips *Spine1 *Spine2 *Spine3 *Spine4 Neck Head | {Left}Shoulder {Left}Arm {Left}ForeArm {Left}Hand "
    "| {Left}Thigh {Left}Shin {Left}Foot {Left}Toe",
    "optitrack": "Hip *Ab *Chest Neck Head | {L}Shoulder {L}UArm {L}FArm {L}Hand | {L}Thigh {L}Shin {L}Foot {L}Toe",
    "smpl": "*f_avg_root f_avg_Pelvis *f_avg_Spine1 f_avg_Neck f_avg_Head | f_avg_{L}_Collar f_avg_{L}_Shoulder f_avg_{L}_Elbow "
    "f_avg_{L}_Wrist *f_avg_{L}_Hand | f_avg_{L}_Hip f_avg_{L}_Knee f_avg_{L}_Ankle f_avg_{L}_Foot",
    "poser": "hip *abdomen *chest neck head | {l}Collar {l}Shldr {l}ForeArm {l}Hand | *{l}Buttock {l}Thigh {l}Shin {l}Foot -",
    "daz": "hip *abdomenLower *chestUpper neckLower *neckUpper head | {l}Collar {l}ShldrBend *{l}ShldrTwist {l}ForearmBend "
    "*{l}ForearmTwist {l}Hand | *pelvis {l}ThighBend *{l}ThighTwist {l}Shin {l}Foot *{l}Metatarsals {l}Toe",
    "rigify": "*DEF-spine *DEF-spine.001 *DEF-spine.002 - - | DEF-shoulder.{L} DEF-upper_arm.{L} *DEF-upper_arm.{L}.001 "
    "DEF-forearm.{L} "
    "*DEF-forearm.{L}.001 DEF-hand.{L} | DEF-thigh.{L} *DEF-thigh.{L}.001 DEF-shin.{L} *DEF-shin.{L}.001 DEF-foot.{L} "
    "DEF-toe.{L}",
    "kinect": "SpineBase *SpineMid Neck Head | - Shoulder{Left} Elbow{Left} Wrist{Left} *Hand{Left} "
    "| Hip{Left} Knee{Left} Ankle{Left} Foot{Left}",
    "studio": "*Armature Hips_jnt *Spine_jnt Neck_jnt Head_jnt | {l}_clavicle_jnt {l}_upperarm_jnt {l}_lowerarm_jnt {l}_hand_jnt "
    "| {l}_upleg_jnt {l}_leg_jnt {l}_foot_jnt {l}_toe_jnt",
}


def one_rig(text: str) -> tuple[list[str], list[int], dict[str, str]]:
    """Names, parents and what should be found, of a line of `TREES`."""
    middle, arm, leg = (part.split() for part in text.split("|"))
    sides = {"left": {"Left": "Left", "L": "L", "l": "l"}, "right": {"Left": "Right", "L": "R", "l": "r"}}
    names, parents, wanted = [], [], {}

    def add(chain: list[str], parts: list[str], parent: int, prefix: str = "") -> None:
        parts = iter(parts)
        for word in chain:
            part = "" if word[0] == "*" else prefix + next(parts)
            if word == "-":
                continue
            names.append(word.lstrip("*"))
            parents.append(parent)
            parent = len(names) - 1
            if part:
                wanted[part] = names[-1]

    add(middle, ["pelvis", "neck", "head"] if middle[0] != "*DEF-spine" else ["neck", "head"], -1)
    pelvis = names.index(wanted["pelvis"]) if "pelvis" in wanted else 0
    wanted.setdefault("pelvis", names[pelvis])
    chest = names.index(wanted["neck"]) - 1 if "neck" in wanted else len(names) - 1
    for side, letters in sides.items():
        add([w.format(**letters) for w in arm], ["collar", "shoulder", "elbow", "wrist"], chest, f"{side}_")
        add([w.format(**letters) for w in leg], ["hip", "knee", "ankle", "foot"], pelvis, f"{side}_")
    return names, parents, wanted


@pytest.mark.parametrize("rig", TREES)
@pytest.mark.parametrize("form", ["{0}", "{1}", "Skel01:{0}"])
def test_rigs_of_many_programs_with_helpers(rig, form):
    names, parents, wanted = one_rig(TREES[rig])
    found = find_joints([form.format(name, name.replace("_", " ")) for name in names], parents)
    assert {part: names[joint] for part, joint in found.items()} == wanted


BAD = {
    "empty": (b"", "cannot be read as BVH"),
    "binary": (bytes(range(256)), "cannot be read as BVH"),
    "no motion": (bvh().split("MOTION")[0].encode(), "cannot be read as BVH"),
    "cut": (bvh().encode()[:-300], "cannot be read as BVH"),
    "one frame": (bvh(frames=1).encode(), "1 frame"),
    "no leg": (bvh().replace("LeftLeg", "Tentacle").encode(), "no joint found for left_knee"),
    "no time": (bvh().replace("0.016667", "0").encode(), ""),
    "years": (bvh().replace("0.016667", "1000000").encode(), ""),
    "not a number": (bvh().replace("95.0", "nan", 1).encode(), ""),
}


@pytest.mark.parametrize("case", BAD)
def test_files_that_are_no_good_are_named(tmp_path, case):
    (tmp_path / "a.bvh").write_bytes(BAD[case][0])
    with pytest.raises(UserError, match="a.bvh|no joint") as caught:
        read_bvh(tmp_path / "a.bvh")
    assert BAD[case][1] in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_bvh_files_with_a_table_of_captions(tmp_path):
    (tmp_path / "walks").mkdir()
    for i in range(4):
        write(tmp_path / f"walks/{i}.bvh", bvh(frames=120, seed=i))
    write(tmp_path / "broken.bvh", "HIERARCHY")
    write(tmp_path / "short.bvh", bvh(frames=4, seconds=1 / 120))
    rows = ["Name,Caption,action,split,start,end", "walks/0.bvh,a person walks,walk,train,,", "walks\\1,she walks,walk,test,,"]
    rows += ["walks/2,he sways,walk+sway,train,,", "walks/2,he begins,,,0,1", "walks/3,,walk,train,,", "broken,x,walk,train,,"]
    rows += ["short,x,walk,train,,"]
    (tmp_path / "captions.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    with pytest.warns(UserWarning, match="3 skipped"):
        corpus = load_corpus(tmp_path)
    assert "BVH folder" in repr(corpus) and corpus.actions == ["sway", "walk"]
    assert [(clip.name, len(clip), clip.split) for clip in corpus] == [
        ("walks/0", 39, "train"),
        ("walks/1", 39, "test"),
        ("walks/2", 39, "train"),
        ("walks/2_0_1", 20, "train"),
    ]
    skipped = dict(corpus.skipped)
    assert "empty caption" in skipped["walks/3"] and "cannot be read as BVH" in skipped["broken"]
    assert skipped["short"] == "too short: at least 2 frames at 20 a second are needed"
    write(tmp_path / "captions.csv", "file,text\n0,x\n")
    with pytest.raises(UserError, match="no column name and no caption; its columns are file, text"):
        load_corpus(tmp_path)


# --- AMASS ---------------------------------------------------------------------------------------------


def body_model(path: Path, joints: int = 52, vertices: int = 80) -> dict[str, np.ndarray]:
    """A synthetic SMPL-H: the tree of a person, any number of vertices, weights and shapes at random."""
    generator = np.random.default_rng(1)
    rest = np.asarray(generate_clips(1, seed=0).joints[0, 0], dtype=np.float64)
    parents = np.array(list(HUMANML3D.parents) + [20] * 15 + [21] * 15 + [15] * 3)[:joints]
    rest = np.concatenate([rest, rest[parents[22:]] + 0.02 * generator.normal(size=(joints - 22, 3))])
    regressor = generator.dirichlet(np.ones(vertices), joints)
    template = np.linalg.lstsq(regressor, rest, rcond=None)[0]  # vertices whose regressed joints are a person's
    arrays = {
        "v_template": template,
        "shapedirs": 0.05 * generator.normal(size=(vertices, 3, 16)),
        "posedirs": 0.01 * generator.normal(size=(vertices, 3, 9 * (joints - 1))),
        "J_regressor": regressor,
        "weights": generator.dirichlet(np.ones(joints), vertices),
        "kintree_table": np.stack([parents, np.arange(joints)]),
        "f": np.zeros((4, 3), np.int64),
        "hands_componentsl": np.eye(45),
        "hands_componentsr": np.eye(45),
        "hands_meanl": np.zeros(45),
        "hands_meanr": np.zeros(45),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def amass(path: Path, frames: int = 121, fps: float = 60.0, **changes) -> dict[str, np.ndarray]:
    """A file as AMASS ships: z up."""
    generator = np.random.default_rng(3)
    time = np.arange(frames)[:, None] / fps
    poses = 0.3 * np.sin(2 * np.pi * generator.uniform(0.3, 1, 156) * time + generator.uniform(0, 6, 156))
    poses[:, :3] = [np.pi / 2, 0, 0]
    arrays = {"poses": poses, "trans": np.concatenate([time, 0 * time, 0.9 + 0 * time], 1), "betas": generator.normal(size=16)}
    arrays |= {"gender": np.array("female"), "mocap_framerate": np.array(fps), "dmpls": np.zeros((frames, 8))}
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def test_joints_are_those_of_the_whole_body_model(tmp_path):
    """smplx's own class, skin and all, on the same arrays."""
    smplx = pytest.importorskip("smplx")
    model = body_model(tmp_path / "bodies/smplh/female/model.npz")
    arrays = amass(tmp_path / "a.npz", frames=41, fps=20.0)
    shape = {"use_pca": False, "num_betas": 10, "batch_size": 41, "dtype": torch.float64}
    somewhere = dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0)  # extra joints on the skin: not looked at
    body = smplx.SMPLH("", data_struct=smplx.utils.Struct(**model), vertex_ids=somewhere, **shape)
    body.betas.data.zero_()
    poses = torch.as_tensor(arrays["poses"])
    ten = torch.as_tensor(arrays["betas"])[None, :10].expand(41, -1)
    whole = body(betas=ten, global_orient=poses[:, :3], body_pose=poses[:, 3:66], transl=torch.as_tensor(arrays["trans"]))
    expected = whole.joints[:, :22].detach().numpy() @ np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    np.savez(tmp_path / "a.npz", **(arrays | {"betas": arrays["betas"][:10]}))
    found = read_amass(tmp_path / "a.npz", tmp_path / "bodies")
    assert np.abs(found - retarget(expected, HUMANML3D.offsets).numpy()).max() < 1e-5


def test_amass_stands_up_and_comes_at_20_frames(tmp_path):
    body_model(tmp_path / "bodies/SMPLH_NEUTRAL.npz")
    amass(tmp_path / "a.npz")
    amass(tmp_path / "b.npz", frames=41, fps=20.0)
    one, other = (read_amass(tmp_path / name, tmp_path / "bodies") for name in ("a.npz", "b.npz"))
    assert one.shape == other.shape == (41, 22, 3) and np.abs(one - other).max() < 2e-3
    assert (one[:, 15, 1] > one[:, 0, 1] + 0.4).all()  # head above pelvis


def test_a_folder_of_amass_archives(tmp_path, monkeypatch):
    body_model(tmp_path / "bodies/neutral/model.npz")
    data = tmp_path / "AMASS"
    for name in ("CMU/01/01_01_poses", "KIT/3/kick"):
        amass(data / f"{name}.npz")
    amass(data / "CMU/01/no_rate.npz", mocap_framerate=None)
    names = ["CMU/01/01_01_poses", "KIT/3/kick", "CMU/01/no_rate", "gone"]
    write(data / "captions.csv", "name,caption\n" + "".join(f'{name},"a person moves, slowly"\n' for name in names))
    with pytest.warns(UserWarning, match="no frame rate"):
        corpus = load_corpus(data, body_models=tmp_path / "bodies")
    assert "AMASS folder" in repr(corpus) and [len(clip) for clip in corpus] == [40, 40]
    assert corpus[0].captions == ("a person moves, slowly",)
    monkeypatch.setenv("MOCAPFREE_BODY_MODELS", str(tmp_path / "bodies"))
    with pytest.warns(UserWarning):
        assert len(load_corpus(data)) == 2


def test_a_pack_made_without_body_models_does_not_outlive_their_arrival(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PACK_FROM", 2)
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOCAPFREE_BODY_MODELS", raising=False)
    for name, gender in (("a", "female"), ("b", "male")):
        amass(tmp_path / f"AMASS/{name}.npz", gender=np.array(gender))
    write(tmp_path / "AMASS/captions.csv", "name,caption\na,she moves\nb,he moves\n")

    def read() -> tuple[list[str], list[str]]:
        data = folders.DataFolder(tmp_path / "AMASS")
        recordings, faults = folders.read_recordings(data)
        assert packs.pack_path(data).exists() == bool(recordings)
        return [recording.name for recording in recordings], [name for name, _ in faults]

    assert read() == ([], ["a", "b"])
    monkeypatch.setenv("MOCAPFREE_BODY_MODELS", str(tmp_path / "bodies"))
    assert read() == ([], ["a", "b"])
    body_model(tmp_path / "bodies/female/model.npz")
    assert read() == (["a"], ["b"])
    body_model(tmp_path / "bodies/male/model.npz")
    assert read() == read() == (["a", "b"], [])


def test_pickled_body_models_are_never_loaded(tmp_path):
    marker = tmp_path / "executed"
    (tmp_path / "SMPL_MALE.pkl").write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(marker) + b"'\ntR.")
    with pytest.raises(UserError, match="SMPL_MALE.pkl is a pickle, which is never loaded; get the .npz version"):
        find_body_model(tmp_path, "male")
    np.savez(tmp_path / "SMPLH_MALE.npz", v_template=np.array([{}], dtype=object))
    amass(tmp_path / "a.npz", gender=np.array("male"))
    with pytest.raises(UserError, match="SMPLH_MALE.npz has no"):
        read_amass(tmp_path / "a.npz", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poses": None}, "has no poses"),
        ({"poses": np.zeros((121, 30))}, "66 or more"),
        ({"poses": np.array([{}], dtype=object)}, "cannot be read"),
        ({"trans": np.zeros((5, 3))}, "has poses"),
        ({"poses": np.full((121, 156), np.nan)}, "NaN"),
        ({"betas": np.full(16, np.inf)}, "betas has NaN or infinite"),
        ({"betas": np.zeros((121, 10))}, r"has betas \(121, 10\)"),
        ({"betas": np.array(["a"] * 10)}, "betas holds <U1, not numbers"),
        ({"trans": np.full((121, 3), np.nan)}, "trans has NaN"),
        ({"trans": np.full((121, 3), 1e60)}, "cannot be put on that of HumanML3D"),  # more than single precision holds
        ({"gender": np.array("robot")}, "gender 'robot'"),
        ({"mocap_framerate": np.array(0.0)}, "0 frames a second"),
        ({"mocap_framerate": np.array("fast")}, "damaged frame rate"),
        ({"mocap_framerate": None}, "no frame rate"),
        ({"mocap_framerate": np.array(2000.0), "poses": np.zeros((9, 156)), "trans": np.zeros((9, 3))}, "at least 2 frames"),
    ],
)
def test_archives_that_are_no_good_are_named(tmp_path, changes, words):
    body_model(tmp_path / "bodies/neutral/model.npz")
    amass(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=words):
        read_amass(tmp_path / "a.npz", tmp_path / "bodies")


def test_gender_is_read_however_it_is_stored(tmp_path):
    for name in ("SMPLH_FEMALE", "SMPLH_NEUTRAL"):
        body_model(tmp_path / f"bodies/{name}.npz")
    forms = (np.array("female"), np.array(b"female"), np.array(["Female"]), np.array([b"female"]), np.array("f"))
    for gender in forms:
        amass(tmp_path / "a.npz", gender=gender)
        assert _rate_and_gender(tmp_path / "a.npz") == (60, "female"), gender
        assert find_body_model(tmp_path / "bodies", "female").name == "SMPLH_FEMALE.npz"
    (tmp_path / "bodies/SMPLH_NEUTRAL.npz").unlink()
    amass(tmp_path / "a.npz", gender=np.array(b"female"))
    assert read_amass(tmp_path / "a.npz", tmp_path / "bodies").shape == (41, 22, 3)
    amass(tmp_path / "a.npz", gender=np.array("\x1b[31munknown"))
    with pytest.raises(UserError, match=r"gender '\\x1b\[31munknown'"):
        read_amass(tmp_path / "a.npz", tmp_path / "bodies")


@pytest.mark.parametrize("stated", [None, np.array("smplx"), np.array(b"smplx_locked_head")])
def test_a_file_of_smplx_needs_a_body_of_smplx(tmp_path, stated):
    body_model(tmp_path / "bodies/SMPLH_FEMALE.npz")
    amass(tmp_path / "a.npz", poses=np.zeros((121, 165)), surface_model_type=stated)
    with pytest.raises(UserError, match="SMPL-X body model.*SMPLH_FEMALE.npz is of another family.*download SMPL-X"):
        read_amass(tmp_path / "a.npz", tmp_path / "bodies")
    body_model(tmp_path / "bodies/SMPLX_NEUTRAL.npz", joints=55)
    assert find_body_model(tmp_path / "bodies", "female", "SMPL-X").name == "SMPLX_NEUTRAL.npz"
    assert read_amass(tmp_path / "a.npz", tmp_path / "bodies").shape == (41, 22, 3)
    amass(tmp_path / "b.npz")
    assert find_body_model(tmp_path / "bodies", "female", "SMPL-H").name == "SMPLH_FEMALE.npz"
    assert read_amass(tmp_path / "b.npz", tmp_path / "bodies").shape == (41, 22, 3)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    amass(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.npy", bytes(2**20))
    names = {"big": "a big one"}
    data = (tmp_path / "a.npz").read_bytes()
    at = data.rindex(b"PK\x01\x02")  # the directory states 3 GB
    (tmp_path / "a.npz").write_bytes(data[: at + 24] + (3 * 2**30).to_bytes(4, "little") + data[at + 28 :])
    with pytest.raises(UserError, match="unpacks to 3,072 MiB"):
        _arrays(tmp_path / "a.npz", names)


def test_without_body_models_amass_says_what_to_get(tmp_path, monkeypatch):
    monkeypatch.delenv("MOCAPFREE_BODY_MODELS", raising=False)
    amass(tmp_path / "a.npz")
    for given in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="AMASS needs a body model: download SMPL-H, SMPL-X or SMPL as .npz"):
            read_amass(tmp_path / "a.npz", given)


def test_without_smplx_amass_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx.lbs", None)
    amass(tmp_path / "a.npz")
    with pytest.raises(UserError, match="pip install smplx"):
        read_amass(tmp_path / "a.npz", tmp_path)
