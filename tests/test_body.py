"""Bodies: skinning against the smplx package, meshes and glTF against their own definition, clear refusals."""

import json
import sys

import numpy as np
import pytest
import roma
import torch
from command import command

from mocapfree_nb.files import UserError
from mocapfree_nb.output.body import blend_skin, capsules, dress, mesh_strip, save_body
from mocapfree_nb.output.ik import Pose, measure_body
from mocapfree_nb.output.smpl import fit_shape, load_smpl
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics, sum_bones

CLIPS = generate_clips(20, seed=11)
MOTION = CLIPS.joints[0][: CLIPS.lengths[0]]


def arrays_of_a_body(joints: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    "The seven arrays of a SMPL file: capsules, joints that a regressor finds, soft weights, random corrections."
    generator = np.random.default_rng(seed)
    rig, _ = measure_body(torch.as_tensor(MOTION).double())
    vertices, faces, hard = capsules(rig)
    at_rest = sum_bones(torch.as_tensor(rig.offsets), rig).numpy()
    parents = [0, *HUMANML3D.parents[1:], *([20, 21] if joints == 24 else [15] * 3 + [20] * 15 + [21] * 15)][:joints]
    at_rest = np.concatenate([at_rest, at_rest[parents[22:]] + generator.normal(0, 0.03, (joints - 22, 3))])
    template = np.concatenate([vertices, at_rest]) + [0.01, -0.2, 0.03]
    regressor = np.zeros((joints, len(template)))
    regressor[:, len(vertices) :] = np.eye(joints)
    weights = np.zeros((len(template), joints))
    weights[: len(vertices), :22] = hard
    weights[len(vertices) :] = np.eye(joints)
    weights = 0.8 * weights + 0.2 * weights[:, np.maximum(parents, 0)]
    weights /= weights.sum(axis=1, keepdims=True)
    return {
        "v_template": template, "J_regressor": regressor, "weights": weights, "f": faces.astype(np.uint32),
        "shapedirs": np.einsum("vc,bc->vcb", template, 0.02 * generator.normal(size=(10, 3))),
        "posedirs": 2e-4 * generator.normal(size=(len(template), 3, 9 * (joints - 1))),
        "kintree_table": np.array([[2**32 - 1, *parents[1:]], np.arange(joints)]),
    }


@pytest.fixture(scope="module")
def smpl_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "SMPL_NEUTRAL.npz"
    np.savez(path, **arrays_of_a_body())
    return path


def test_our_skinning_is_the_one_of_the_smplx_package(smpl_file):
    "Without shape and pose corrections SMPL is linear blend skinning."
    from smplx.lbs import lbs

    model = load_smpl(smpl_file)
    rotations = roma.random_rotmat((5, 24), dtype=torch.float64)
    zeros = torch.zeros_like(model.posedirs)
    vertices, joints = lbs(
        torch.zeros(5, 10).double(), rotations, model.v_template, model.shapedirs, zeros, model.J_regressor,
        model.parents, model.lbs_weights, pose2rot=False,
    )
    at_rest = model.J_regressor @ model.v_template
    parents = tuple(model.parents.tolist())
    offsets = (at_rest - at_rest[[max(p, 0) for p in parents]]).numpy()
    rig = type(HUMANML3D)(**{**HUMANML3D.__dict__, "parents": parents, "offsets": offsets,
                             "joint_names": HUMANML3D.joint_names + ("left_hand", "right_hand")})
    pose = Pose(rig, rotations, at_rest[0].expand(5, 3))
    assert (pose.positions() - joints).abs().max() < 1e-12
    assert (blend_skin(model.v_template - at_rest[0], model.lbs_weights, pose) - vertices).abs().max() < 1e-12


@pytest.mark.parametrize("joints", [24, 55])
def test_the_mesh_follows_the_joints_and_its_class_is_smplx(tmp_path, joints):
    import smplx

    np.savez(tmp_path / "body.npz", **arrays_of_a_body(joints))
    figure = dress(MOTION, body=tmp_path / "body.npz")
    assert isinstance(figure.model, smplx.SMPL) and figure.off.metres < 0.005
    surface = figure.surface([3, 8])
    on_joints = surface[:, -joints:][:, :22]                               # vertices that sit on the joints at rest
    there = figure.pose.positions()[[3, 8], :22].numpy()
    assert np.abs(there - MOTION[[3, 8]]).max() < 0.005
    assert np.linalg.norm(on_joints - there, axis=-1).mean() < 0.05        # soft weights pull them a little
    with torch.no_grad():                                                  # the network's joints are ours
        rest = figure.model.J_regressor @ (
            figure.model.v_template + torch.einsum("vcb,b->vc", figure.model.shapedirs, figure.settings["betas"])
        )
        out = figure.model(
            betas=figure.settings["betas"][None], global_orient=figure.pose.rotations[3:4, :1],
            body_pose=figure.pose.rotations[3:4, 1:], pose2rot=False,
            transl=figure.pose.root[3:4] / figure.settings["size"] - rest[0],
        )
    assert np.abs(out.joints[0, :22].numpy() * figure.settings["size"] - there[0]).max() < 1e-9


def test_the_shape_is_found_again(smpl_file):
    model = load_smpl(smpl_file)
    betas = torch.tensor([1.5, -1.0, 0.5, *[0.0] * 7], dtype=torch.float64)
    joints = model.J_regressor @ (model.v_template + torch.einsum("vcb,b->vc", model.shapedirs, betas))
    bones = (joints[1:22] - joints[list(HUMANML3D.parents[1:])]).norm(dim=-1)
    found, size = fit_shape(model, bones)
    again = model.J_regressor @ (model.v_template + torch.einsum("vcb,b->vc", model.shapedirs, found))
    made = size * (again[1:22] - again[list(HUMANML3D.parents[1:])]).norm(dim=-1)
    assert (made - bones).abs().max() < 0.003                              # the prior pulls a little
    plain = model.J_regressor @ model.v_template
    assert ((plain[1:22] - plain[list(HUMANML3D.parents[1:])]).norm(dim=-1) - bones).abs().max() > 0.01


@pytest.mark.parametrize("with_file", [False, True])
def test_kit_motions_get_a_body_of_their_size(smpl_file, with_file):
    joints, _ = forward_kinematics(torch.eye(3).expand(4, 21, 3, 3).double(), torch.zeros(4, 3).double(), KIT_ML)
    joints = joints.numpy() - [0, joints[..., 1].min().item(), 0]
    figure = dress(joints, KIT_ML, smpl_file if with_file else None)
    height = joints[..., 1].max() / 1000
    surface = figure.surface([0])[0]
    assert 0.95 * height < surface[:, 1].max() < 1.35 * height and abs(surface[:, 1].min()) < 0.1 * height
    assert figure.off.metres < (0.08 if with_file else 1e-6)                      # SMPL's joints are not all KIT's


def test_capsules_are_closed_face_outwards_and_hold_the_bones():
    rig, _ = measure_body(torch.as_tensor(MOTION).double())
    vertices, faces, weights = capsules(rig)
    assert np.allclose(weights.sum(axis=1), 1)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    pairs = {tuple(edge) for edge in edges.tolist()}
    assert len(pairs) == len(edges) and all((b, a) in pairs for a, b in pairs)
    a, b, c = vertices[faces].transpose(1, 0, 2)
    litres = 1000 * (a * np.cross(b, c)).sum() / 6
    assert 40 < litres < 110                                               # capsules overlap; a person has some 70
    figure = dress(MOTION)
    names = figure.pose.rig.joint_names
    left = figure.colours()[figure.weights[:, names.index("left_knee")] == 1][0]
    right = figure.colours()[figure.weights[:, names.index("right_knee")] == 1][0]
    assert left[2] > left[0] and right[0] > right[2]                       # blue, orange


def skin_as_gltf_says(path) -> np.ndarray:
    "Positions (T, V, 3) from a .glb by the formulas of the glTF 2.0 specification alone."
    raw = path.read_bytes()
    assert raw[:4] == b"glTF" and int.from_bytes(raw[8:12], "little") == len(raw)
    size = int.from_bytes(raw[12:16], "little")
    scene, data = json.loads(raw[20 : 20 + size]), raw[28 + size :]
    widths = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}

    def read(number):
        about = scene["accessors"][number]
        view = scene["bufferViews"][about["bufferView"]]
        kind = {5126: "<f4", 5125: "<u4", 5121: "u1"}[about["componentType"]]
        assert view["byteOffset"] % 4 == 0
        return np.frombuffer(data, kind, about["count"] * widths[about["type"]], view["byteOffset"]).reshape(
            about["count"], -1)

    animation, skin = scene["animations"][0], scene["skins"][0]
    moves = {(c["target"]["node"], c["target"]["path"]): read(animation["samplers"][c["sampler"]]["output"])
             for c in animation["channels"]}
    frames = len(read(animation["samplers"][0]["input"]))
    parent = {child: node for node, about in enumerate(scene["nodes"]) for child in about.get("children", [])}
    world = {}
    for node in skin["joints"]:
        local = np.tile(np.eye(4), (frames, 1, 1))
        local[:, :3, :3] = roma.unitquat_to_rotmat(torch.tensor(moves[node, "rotation"]).double())
        local[:, :3, 3] = moves.get((node, "translation"), scene["nodes"][node]["translation"])
        world[node] = world[parent[node]] @ local if node in parent else local
    inverse = read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    matrices = np.stack([world[node] @ inverse[at] for at, node in enumerate(skin["joints"])], axis=1)
    attributes = scene["meshes"][0]["primitives"][0]["attributes"]
    points = np.concatenate([read(attributes["POSITION"]), np.ones((len(read(attributes["POSITION"])), 1))], axis=1)
    joints, weights = read(attributes["JOINTS_0"]), read(attributes["WEIGHTS_0"])
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
    return np.einsum("vk,tvkab,vb->tva", weights, matrices[:, joints], points)[..., :3]


def test_an_animated_glb_moves_as_the_body_does(tmp_path, smpl_file):
    figure = dress(MOTION)
    save_body(tmp_path / "a.glb", figure)
    assert np.abs(skin_as_gltf_says(tmp_path / "a.glb") - figure.surface()).max() < 1e-4
    smpl = dress(MOTION, body=smpl_file)
    save_body(tmp_path / "b.glb", smpl)
    skinned = blend_skin(smpl.vertices, smpl.weights, smpl.pose).numpy()
    assert np.abs(skin_as_gltf_says(tmp_path / "b.glb") - skinned).max() < 1e-4
    import trimesh

    read = trimesh.load(tmp_path / "a.glb")
    assert sum(len(part.faces) for part in read.geometry.values()) == len(figure.faces)


@pytest.mark.parametrize("ending", [".obj", ".ply"])
def test_a_mesh_of_one_frame_reads_back(tmp_path, ending):
    import trimesh

    figure = dress(MOTION)
    assert f"frame 7 of {len(MOTION)}" in save_body(tmp_path / f"a{ending}", figure, frame=7)
    back = trimesh.load(tmp_path / f"a{ending}", process=False)
    assert np.abs(np.asarray(back.vertices) - figure.surface([7])[0]).max() < 1e-5
    assert np.array_equal(np.asarray(back.faces), figure.faces)


def test_the_strip_is_one_mesh_and_keeps_left_on_the_left():
    joints, _ = forward_kinematics(torch.eye(3).expand(2, 22, 3, 3), torch.zeros(2, 3), HUMANML3D)
    plot = mesh_strip(dress(joints), poses=2, title="<b>x</b>")
    mesh = plot.data[0]
    assert [trace.type for trace in plot.data] == ["mesh3d", "mesh3d"] and "<b>" not in plot.layout.title.text
    count = len(mesh.x) // 2
    colours = np.asarray(mesh.vertexcolor)[:count].astype(int)
    across = np.asarray(mesh.y)[:count]                                    # plot's y is the body's x
    assert across[colours[:, 2] > colours[:, 0] + 30].mean() > across[colours[:, 0] > colours[:, 2] + 30].mean() + 0.1
    assert len(plot.to_json()) < 150_000


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("good.npy", MOTION[:9])
    arrays = arrays_of_a_body()
    np.savez("lacking.npz", **{name: array for name, array in arrays.items() if name != "posedirs"})
    np.savez("odd.npz", **arrays | {"weights": arrays["weights"][:, :20]})
    tree = arrays["kintree_table"].copy()
    tree[0, 5] = 0
    np.savez("other.npz", **arrays | {"kintree_table": tree})
    np.savez("objects.npz", **arrays | {"J_regressor": np.array({"a": 1}, dtype=object)})
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    (tmp_path / "two").mkdir()
    for name in ("SMPL_MALE.npz", "SMPL_FEMALE.npz"):
        np.savez(tmp_path / "two" / name, **arrays)
    (tmp_path / "file").write_text("x")
    return tmp_path


MISTAKES = {
    "no model": (["--body", "models", "--out", "a.glb"], "https://smpl.is.tue.mpg.de"),
    "a pickle": (["--body", "SMPL_NEUTRAL.pkl", "--out", "a.obj"], "convert it to .npz"),
    "several models": (["--body", "two", "--out", "a.obj"], "SMPL_FEMALE.npz"),
    "an array lacks": (["--body", "lacking.npz", "--out", "a.obj"], "posedirs"),
    "shapes differ": (["--body", "odd.npz", "--out", "a.obj"], "weights has shape"),
    "another tree": (["--body", "other.npz", "--out", "a.obj"], "first 22 joints"),
    "objects inside": (["--body", "objects.npz", "--out", "a.obj"], "not a plain .npy array"),
    "cut off": (["--body", "broken.npz", "--out", "a.obj"], "cannot read broken.npz"),
    "no model file": (["--body", "file", "--out", "a.obj"], "expected the .npz"),
    "no such frame": (["--frame", "99", "--out", "a.obj"], "the motion has 9"),
    "an unwritable target": (["--out", "file/a.glb"], "cannot write"),
    "a body in a gif": (["--body", "odd.npz", "--out", "a.gif"], "--body and --frame are for"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_clear_line(name, capsys, monkeypatch, places):
    arguments, words = MISTAKES[name]
    status, _, complaint = command(capsys, monkeypatch, "export", "good.npy", *arguments)
    assert status == 1 and complaint.startswith("mocapfree: ") and complaint.count("\n") == 1
    assert words in complaint
    assert not list(places.glob("a.*")) and not (places / "opened").exists()


def test_without_smplx_there_is_one_line(smpl_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx", None)
    with pytest.raises(UserError, match="pip install"):
        load_smpl(smpl_file)


def test_export_writes_bodies(capsys, monkeypatch, places, smpl_file):
    for arguments in (["--out", "a.glb"], ["--out", "a.ply", "--frame", 0], ["--out", "b.obj", "--body", smpl_file]):
        status, said, _ = command(capsys, monkeypatch, "export", "good.npy", *arguments)
        assert status == 0 and said.startswith(f"saved {arguments[1]}: ") and "vertices" in said
