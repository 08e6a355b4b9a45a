"""Whole bodies, recombination, the search and the learning: against geometry, algebra and networks that cannot be fooled."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from mocapfree_nb import experiment, exploration, off_policy
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.exploration import ExploreConfig, breed, choose, explore, near_captions, near_lengths, unserved
from mocapfree_nb.features import FEATURE_GROUPS, features_to_joints, joints_to_features, mirror
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.unet import MotionUNet
from mocapfree_nb.off_policy import Kept, LearnConfig, explore_and_learn
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.recombination import (
    CHANCE,
    CROSSFADE,
    KINDS,
    Recipes,
    _two_bones,
    body_parts,
    draw_recipes,
    kinds_of,
    mirror_joints,
    put_together,
    take_apart,
)
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, Skeleton, forward_kinematics, rotation_from_6d
from mocapfree_nb.solvers import ddim_distribution
from mocapfree_nb.tasks import draw_prompts
from mocapfree_nb.text import TextEmbedding
from mocapfree_nb.validity import body_validity, bone_lengths, on_rigid_bones, rebuild, rigid, rigid_joints

SKELETONS = pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda skeleton: skeleton.name)


def some_motion(skeleton: Skeleton, batch: int = 3, frames: int = 20, seed: int = 0) -> torch.Tensor:
    "Smooth motion by forward kinematics: (batch, frames, J, 3), standing upright, turning and walking a little."
    generator = torch.Generator().manual_seed(seed)
    ends = 0.4 * torch.randn(2, batch, skeleton.num_joints, 6, generator=generator)
    ends = ends + torch.tensor([1.0, 0, 0, 0, 1, 0])
    share = torch.linspace(0, 1, frames)[None, :, None, None]
    local = rotation_from_6d(torch.lerp(ends[0][:, None], ends[1][:, None], share))
    height = float(bone_lengths(skeleton)[[joint - 1 for joint in skeleton.leg_joints]].sum()) * 1.1
    root = torch.zeros(batch, frames, 3)
    root[..., 1], root[..., 2] = height, height * torch.linspace(0, 1, frames)
    joints, _ = forward_kinematics(local, root, skeleton)
    return joints - torch.tensor([0.0, 1.0, 0.0]) * joints[..., 1].amin(dim=(1, 2))[:, None, None, None]


def bones_of(joints: torch.Tensor, skeleton: Skeleton) -> torch.Tensor:
    return (joints[..., 1:, :] - joints[..., skeleton.parents[1:], :]).norm(dim=-1)


def whole(bank_rows: list[int], lengths: torch.Tensor) -> Recipes:
    rows = torch.tensor(bank_rows)[:, None].expand(-1, 4)
    return Recipes(rows, rows, lengths, lengths)


# --- whole bodies


@SKELETONS
def test_stretched_bones_come_back_to_their_length_and_the_body_with_them(skeleton):
    joints = some_motion(skeleton)
    assert torch.allclose(bones_of(joints, skeleton), bone_lengths(skeleton).float(), rtol=1e-4)
    parents, stretched = skeleton.parents, joints.clone()
    scale = 0.7 + 0.6 * torch.rand(skeleton.num_joints, generator=torch.Generator().manual_seed(1))
    scale[[*body_parts(skeleton)[0]]] = 1  # the legs stay, so that the feet say where the body stands
    for joint in range(1, skeleton.num_joints):
        bone = joints[..., joint, :] - joints[..., parents[joint], :]
        stretched[..., joint, :] = stretched[..., parents[joint], :] + scale[joint] * bone
    mended = rigid_joints(stretched, skeleton)
    assert torch.allclose(mended, joints, atol=1e-3 * float(joints.abs().max()))


def test_a_body_with_short_legs_stays_on_its_feet():
    joints = some_motion(HUMANML3D)
    short, feet = joints.clone(), [7, 8, 10, 11]
    for joint in (4, 5):
        knee = joints[..., HUMANML3D.parents[joint], :]
        for below in (joint, joint + 3, joint + 6):
            short[..., below, :] += 0.1 * (knee - joints[..., joint, :])
    lowest = short[..., feet, 1].argmin(-1)
    away = (rigid_joints(short) - short)[..., feet, :].norm(dim=-1)
    assert away.gather(2, lowest[..., None]).median() < 0.01


@SKELETONS
def test_features_of_a_rigid_body_are_rebuilt_as_they_were(skeleton):
    joints, lengths = some_motion(skeleton, frames=25), torch.tensor([24, 20, 9])
    features = joints_to_features(joints, skeleton, sign_continuity=True, lengths=lengths + 1)
    again = rigid(features, lengths)
    real = torch.arange(24) < lengths[:, None]
    away = features_to_joints(again, skeleton) - features_to_joints(features, skeleton)
    away = away - away[:, :1, :1]  # the one frame more of the original may have been the lowest
    assert away[real].abs().max() < 1e-4 * float(joints.abs().max())
    rows = FEATURE_GROUPS(skeleton)["velocities"]
    inner = torch.arange(24) < lengths[:, None] - 1  # the last row's velocities cannot be known from its positions
    sizes = [value[..., rows].unflatten(-1, (-1, 3)).norm(dim=-1)[inner] for value in (again, features)]
    torch.testing.assert_close(*sizes, atol=1e-4 * float(joints.abs().max()), rtol=1e-3)
    assert (again[torch.arange(24) >= lengths[:, None]] == 0).all()


def test_on_rigid_bones_a_shrunken_arm_gains_nothing():
    joints = some_motion(HUMANML3D, frames=21)
    shrunk = joints.clone()
    for joint in (18, 20):
        parent = HUMANML3D.parents[joint]
        shrunk[:, :, joint] = shrunk[:, :, parent] + 0.6 * (joints[:, :, joint] - joints[:, :, parent])
    lengths = torch.full((3,), 20)

    def wrist_up(motion, lengths, prompts):
        return features_to_joints(motion)[:, :, 20, 1].mean(1)

    good, bad = rebuild(joints[:, :20], lengths), rebuild(shrunk[:, :20], lengths)
    bare = wrist_up(bad, lengths, [""] * 3) - wrist_up(good, lengths, [""] * 3)
    held = on_rigid_bones(wrist_up)(bad, lengths, [""] * 3) - on_rigid_bones(wrist_up)(good, lengths, [""] * 3)
    assert bare.abs().min() > 0.01 and held.abs().max() < 1e-4


def test_body_validity_measures_what_it_says():
    joints, lengths = some_motion(HUMANML3D, frames=30), torch.tensor([30, 20, 30])
    row = body_validity(joints, lengths)
    assert row["bone_deviation"].max() < 1e-4
    assert row["floor_penetration"].max() < 1e-5
    tall = body_validity(1.2 * joints, lengths)["bone_deviation"]
    torch.testing.assert_close(tall, torch.full((3,), 0.2), atol=1e-4, rtol=0)
    sunk = body_validity(joints - torch.tensor([0.0, 3.0, 0.0]), lengths)["floor_penetration"]
    lowest = joints[..., 1].amin(-1)
    torch.testing.assert_close(sunk[1], 3 - lowest[1, :20].mean(), atol=1e-5, rtol=0)
    seconds = torch.arange(30) / HUMANML3D.fps
    cubic = torch.zeros(1, 30, 22, 3, dtype=torch.float64)
    cubic[..., 0] = (0.5 * seconds**3).double()[None, :, None]
    assert float(body_validity(cubic)["jitter"]) == pytest.approx(3.0, rel=0.02)  # the third derivative of t^3 / 2
    padded = torch.cat([joints, torch.full((3, 5, 22, 3), 7.0)], 1)
    for key, value in body_validity(padded, lengths).items():
        torch.testing.assert_close(value, row[key], atol=1e-5, rtol=1e-4)
    millimetres = body_validity(some_motion(KIT_ML), None, KIT_ML)
    assert millimetres["bone_deviation"].max() < 1e-4


# --- recombination


@SKELETONS
def test_parts_share_out_all_joints_but_the_root(skeleton):
    parts = body_parts(skeleton)
    assert sorted(joint for part in parts for joint in part) == list(range(1, skeleton.num_joints))
    names = [{skeleton.joint_names[joint] for joint in part} for part in parts]
    assert {"left_knee", "right_hip"} <= names[0] and "head" in names[1]
    assert "left_wrist" in names[2] and "right_elbow" in names[3]


def test_a_skeleton_without_named_limbs_is_refused_in_one_line():
    names = tuple(f"joint{i}" for i in range(HUMANML3D.num_joints))
    nameless = Skeleton(**{**vars(HUMANML3D), "name": "stick", "joint_names": names})
    with pytest.raises(UserError, match="stick names no arms and legs.*nothing|stick names no arms and legs"):
        body_parts(nameless)


@SKELETONS
def test_mirrored_joints_are_the_joints_of_mirrored_features(skeleton):
    features = joints_to_features(some_motion(skeleton), skeleton)
    joints = mirror_joints(features_to_joints(features, skeleton), skeleton)
    torch.testing.assert_close(joints, features_to_joints(mirror(features, skeleton), skeleton), atol=1e-3, rtol=1e-5)


@SKELETONS
def test_a_motion_taken_apart_and_put_together_is_itself_and_so_is_its_mirror_image(skeleton):
    joints, lengths = some_motion(skeleton), torch.tensor([20, 15, 20])
    made = put_together(take_apart(joints, lengths, skeleton), whole([0, 1, 2, 3, 4, 5], lengths.repeat(2)))
    wanted = torch.cat([joints, mirror_joints(joints, skeleton)])
    wanted = rigid_joints(wanted, skeleton)
    rows = [rebuild(motion, lengths.repeat(2), skeleton) for motion in (made, wanted)]  # both over the origin, facing +z
    torch.testing.assert_close(features_to_joints(rows[0], skeleton), features_to_joints(rows[1], skeleton), atol=2e-3, rtol=1e-4)


def test_an_arm_from_elsewhere_leaves_the_body_alone_and_keeps_its_own_bends():
    joints, lengths = some_motion(HUMANML3D), torch.tensor([20, 20, 20])
    bank = take_apart(joints, lengths)
    recipe = whole([0], lengths[:1])
    mixed = Recipes(torch.tensor([[0, 0, 1, 2 + 3]]), recipe.second, recipe.switch, recipe.lengths)
    made, alone = put_together(bank, mixed)[0], put_together(bank, recipe)[0]
    legs, trunk, left, right = body_parts(HUMANML3D)
    torch.testing.assert_close(made[:, [0, *legs, *trunk]], alone[:, [0, *legs, *trunk]], atol=1e-5, rtol=0)

    def elbow(pose, shoulder, joint, wrist):
        a, b = pose[:, shoulder] - pose[:, joint], pose[:, wrist] - pose[:, joint]
        return torch.cosine_similarity(a, b, dim=-1)

    torch.testing.assert_close(elbow(made, 16, 18, 20), elbow(joints[1], 16, 18, 20), atol=1e-4, rtol=0)
    torch.testing.assert_close(elbow(made, 17, 19, 21), elbow(joints[2], 16, 18, 20), atol=1e-4, rtol=0)  # a mirrored left


def test_parts_do_not_depend_on_where_their_own_body_stood_and_faced():
    joints = some_motion(HUMANML3D, batch=1)
    quarter = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # a quarter turn about the vertical
    elsewhere = joints @ quarter.T + torch.tensor([3.0, 0.0, -2.0])
    bank = take_apart(torch.cat([joints, elsewhere]), torch.tensor([20, 20]))
    alone = whole([0], torch.tensor([20]))
    for row in ([0, 0, 1, 1], [0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]):
        made = put_together(bank, replace(alone, first=torch.tensor([row])))
        torch.testing.assert_close(made, put_together(bank, alone), atol=1e-4, rtol=0)


def test_another_pace_ends_where_the_motion_ends_and_feet_keep_their_steps():
    clips = generate_clips(1, seed=2, actions=["walk-forward"])
    joints, length = torch.from_numpy(clips.joints), torch.from_numpy(clips.lengths)
    bank = take_apart(joints, length)
    same, slow = (put_together(bank, whole([0], torch.tensor([n])))[0] for n in (int(length), 2 * int(length) - 1))
    torch.testing.assert_close(slow[::2], same, atol=0.03, rtol=0)
    skate = [float(body_validity(motion[None])["foot_skate"]) for motion in (same, slow)]
    assert skate[1] <= skate[0] + 0.02


def test_joined_motions_begin_as_one_and_end_as_the_other():
    joints, lengths = some_motion(HUMANML3D, frames=40), torch.tensor([40, 40, 40])
    bank = take_apart(joints, lengths)
    rows = torch.tensor([[0] * 4]), torch.tensor([[1] * 4])
    made = put_together(bank, Recipes(*rows, torch.tensor([20]), torch.tensor([40])))
    assert torch.allclose(bones_of(made, HUMANML3D), bone_lengths().float(), atol=1e-5)

    def pose(motion):
        return torch.cdist(motion, motion)  # joint to joint, wherever the body stands and faces

    torch.testing.assert_close(pose(made[0, 0]), pose(joints[0, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(pose(made[0, 39]), pose(joints[1, 39]), atol=1e-3, rtol=0)
    steps = made.diff(dim=1).norm(dim=-1).amax()
    assert steps < 3 * max(float(joints[i].diff(dim=0).norm(dim=-1).amax()) for i in (0, 1)) + 0.2  # nobody jumps


def test_recipes_take_parts_from_the_prompts_own_motions_and_mirror_what_they_say():
    lengths, chance = torch.tensor([40, 41, 42]), {"bent": 0.0, "stepping": 0.0, "leaping": 0.0}
    recipes = draw_recipes(3, 500, 10, lengths, torch.Generator().manual_seed(0), **chance)
    prompt, kinds = torch.arange(1500) // 500, kinds_of(recipes, 30)
    assert not any(getattr(recipes, name).any() for name in CHANCE)
    for rows in (recipes.first, recipes.second):
        assert ((rows % 30) // 10 == prompt[:, None]).all()
    assert (recipes.lengths == torch.tensor([40, 41, 42])[prompt]).all()
    assert (recipes.first[::500] == torch.tensor([0, 10, 20])[:, None]).all() and (kinds[::500] == 0).all()
    kind = {name: recipes.first[kinds == i] for i, name in enumerate(KINDS)}
    assert all(len(rows) > 50 for name, rows in kind.items() if name not in KINDS[8:])
    left, right = kind["arms in the mirror"][:, 2:].unbind(1)
    assert ((left - right).abs() == 30).all()
    assert (kind["upper body"][:, 1:] == kind["upper body"][:, 1:2]).all()
    changed = (kind["one arm"][:, 2:] != kind["one arm"][:, :1]).sum(1)
    assert changed.max() == 1
    both = recipes.switch < recipes.lengths
    joined, twice = (kinds == KINDS.index(name) for name in ("joined", "twice"))
    assert (joined | twice).equal(both) and joined.float().mean() == pytest.approx(0.1, abs=0.03)
    assert twice.float().mean() == pytest.approx(0.1, abs=0.03) and (recipes.first == recipes.second)[twice].all()
    assert (recipes.switch[twice] == 20 + (recipes.lengths[twice] == 42)).all()


@pytest.mark.parametrize("share, kind, fields", [
    ("bent", "bent", ("turns", "bend")),
    ("stepping", "stepping", ("root", "feet", "step")),
    ("leaping", "leaping", ("leap",)),
    ("springing", "springing", ("spring",)),
])  # fmt: skip
def test_chance_adds_to_a_share_of_the_recipes_which_are_otherwise_as_they_were(share, kind, fields):
    lengths, none = torch.tensor([40, 41, 42]), {"bent": 0.0, "stepping": 0.0, "leaping": 0.0}
    plain, changed = (
        draw_recipes(3, 500, 10, lengths, torch.Generator().manual_seed(0), **none | {share: value}) for value in (0.0, 0.25)
    )
    for name in {*Recipes.__dataclass_fields__} - {*fields}:
        assert torch.equal(getattr(plain, name), getattr(changed, name)), name
    added = getattr(changed, fields[-1]).flatten(1).any(1)
    assert added.float().mean() == pytest.approx(0.25, abs=0.03) and not added[::500].any()
    assert added.equal(kinds_of(changed, 30) == KINDS.index(kind))
    assert torch.equal(kinds_of(plain, 30)[~added], kinds_of(changed, 30)[~added])
    assert not any(getattr(changed, name)[~added].any() for name in fields)


def test_the_kind_of_a_recipe_is_read_off_what_it_is():
    first = torch.tensor([[1, 1, 1, 1], [1, 1, 2, 1], [1, 1, 2, 3], [1, 1, 2, 7], [1, 2, 2, 2], [1, 2, 3, 4], [1] * 4, [1] * 4])
    second, length = first.clone(), torch.full((8,), 40)
    second[6] = 2
    switch = torch.tensor([40] * 6 + [20] * 2)
    assert [KINDS[i] for i in kinds_of(Recipes(first, second, switch, length), 5).tolist()] == list(KINDS[:8])


@SKELETONS
def test_a_step_keeps_bones_and_puts_the_feet_where_it_says(skeleton):
    joints, frames = some_motion(skeleton, batch=2), torch.tensor([20, 20])
    bank, leg = take_apart(joints, frames, skeleton), 2 * float(bone_lengths(skeleton)[skeleton.leg_joints[1] - 1])
    recipe = whole([0, 1], frames)
    feet = torch.tensor([[0.1, 0.2, 0.0], [0.0, -0.1, 0.8]]).expand(2, 2, 3)
    root, held = torch.tensor([[0.0, -0.3, 0.1]]).expand(2, 3), torch.tensor([[-1.0, 2.0, 0.2]]).expand(2, 3)  # all the time
    still, moved = (put_together(bank, each) for each in (recipe, replace(recipe, root=root, feet=feet, step=held)))
    torch.testing.assert_close(bones_of(moved, skeleton), bones_of(still, skeleton), atol=1e-4 * leg, rtol=0)
    torch.testing.assert_close(moved[:, :, 0], still[:, :, 0] + leg * root[:, None], atol=1e-5 * leg, rtol=0)
    for toe, way in ((skeleton.feet_left[-1], [0.1, 0.0, 0.2]), (skeleton.feet_right[-1], [0.0, 0.0, -0.1])):
        expected = still[:, :, toe] + leg * torch.tensor(way)
        reached = (moved[:, :, toe] - expected).norm(dim=-1) < 1e-3 * leg  # or the leg is stretched
        chain = next(chain for chain in skeleton.chains if toe in chain)
        reach = (moved[:, :, chain[3]] - moved[:, :, chain[1]]).norm(dim=-1)
        stretched = reach > 0.998 * bones_of(moved, skeleton)[..., [joint - 1 for joint in chain[2:4]]].sum(-1)
        assert (reached | stretched).all() and reached.float().mean() > 0.5
    upper = [joint for part in body_parts(skeleton)[1:] for joint in part]
    torch.testing.assert_close(moved[:, :, upper], still[:, :, upper] + leg * root[:, None, None], atol=1e-5 * leg, rtol=0)


def test_knees_bend_as_the_law_of_cosines_says():
    hip, ankle = torch.tensor([[0.1, 0.9, 0.0]]), torch.tensor([[0.1, 0.25, 0.2]])
    knee, reached = _two_bones(hip, ankle, torch.tensor([[0.0, 0.0, 1.0]]), 0.41, 0.37)
    a, b, c = ((hip - knee).norm(), (reached - knee).norm(), (hip - ankle).norm())
    angle = torch.acos(((hip - knee) * (reached - knee)).sum() / (a * b))
    assert float(angle) == pytest.approx(math.acos((0.41**2 + 0.37**2 - float(c) ** 2) / (2 * 0.41 * 0.37)), abs=1e-4)
    torch.testing.assert_close(reached, ankle)
    assert float(a) == pytest.approx(0.41, abs=1e-5) and float(b) == pytest.approx(0.37, abs=1e-5) and knee[0, 2] > 0.2


def test_a_bend_turns_the_trunk_and_what_it_carries_as_scipy_does_and_nothing_else():
    clips = generate_clips(1, seed=3, actions=["stand"])
    joints, lengths = torch.from_numpy(clips.joints), torch.from_numpy(clips.lengths)
    bank, rows, turn = take_apart(joints, lengths), torch.zeros(1, 4, dtype=torch.long), torch.tensor([[0.3, 0.9, -0.5]])
    whole = Recipes(rows, rows, lengths, lengths)
    bent = replace(whole, turns=turn, bend=torch.tensor([[-1.0, 2.0, 0.2]]))  # from the beginning to the end
    straight, made = (put_together(bank, recipe)[0] for recipe in (whole, bent))
    moved, still = [3, 6, 9, *range(12, 22)], [0, 1, 2, 4, 5, 7, 8, 10, 11]
    torch.testing.assert_close(made[:, still], straight[:, still])
    bones = [motion[:, moved] - motion[:, [HUMANML3D.parents[joint] for joint in moved]] for motion in (straight, made)]
    yaw = torch.atan2(-(straight[:, 1, 2] - straight[:, 2, 2]), straight[:, 1, 0] - straight[:, 2, 0])
    ahead = Rotation.from_euler("y", -yaw.numpy()[:, None])  # a bend is seen from the hips, as if they faced ahead
    for bone in map(moved.index, (3, 6, 9, 12, 15)):
        expected = ahead.inv().apply(Rotation.from_rotvec(turn[0].numpy()).apply(ahead.apply(bones[0][:, bone].numpy())))
        np.testing.assert_allclose(bones[1][:, bone].numpy(), expected, atol=1e-4)
    torch.testing.assert_close(bones[0].norm(dim=-1), bones[1].norm(dim=-1), atol=1e-5, rtol=0)  # bones keep their lengths

    def arm_from_chest(motion):  # cosines of the upper arm with the spine and with the shoulders
        spine, across, arm = (motion[:, b] - motion[:, a] for a, b in ((0, 9), (17, 16), (16, 18)))
        return torch.stack([torch.cosine_similarity(arm, axis, dim=-1) for axis in (spine, across)])

    torch.testing.assert_close(arm_from_chest(made), arm_from_chest(straight), atol=0.05, rtol=0)  # carried along


def test_a_motion_played_twice_goes_the_same_way_at_twice_the_pace():
    clips = generate_clips(1, seed=3, actions=["walk-forward"])
    joints, lengths = torch.from_numpy(clips.joints), torch.from_numpy(clips.lengths)
    bank, rows = take_apart(joints, lengths), torch.zeros(1, 4, dtype=torch.long)
    frames = int(lengths) // 2 * 2
    length = torch.tensor([frames])
    once, again = (put_together(bank, Recipes(rows, rows, switch, length))[0] for switch in (length, length // 2))

    def way(motion):
        return float((motion[-1, 0] - motion[0, 0])[[0, 2]].norm())

    overlap = frames / (frames + CROSSFADE)  # for so many frames both passes are there, and the way is that of one
    assert way(again) == pytest.approx(2 * overlap * way(once), rel=0.05)


# --- the search


class Words:
    "A text encoder whose sentence vectors are counts of letters."

    def __call__(self, prompts):
        counts = torch.tensor([[float(p.lower().count(c)) for c in "abcdefghijklmnopqrstuvwxyz"] for p in prompts])
        pooled = torch.nn.functional.normalize(counts, dim=1)
        return TextEmbedding(pooled[:, None], torch.ones(len(prompts), 1, dtype=torch.bool), pooled)


def one_arm_policy():
    "A policy that raises the left arm, or the right one, or none: never both."
    moves = {"left": "raise-arm-left", "right": "raise-arm-right"}

    def generate(prompts, lengths, seed=0):
        actions = [next((a for word, a in moves.items() if word in p), "stand") for p in prompts]
        clips = [generate_clips(1, seed=seed + i, actions=[a], max_frames=49, min_frames=49) for i, a in enumerate(actions)]
        joints = torch.from_numpy(np.concatenate([clip.joints for clip in clips]))
        return joints_to_features(joints, lengths=lengths + 1)[:, : int(lengths.max())]

    return SimpleNamespace(generate=generate, text_encoder=Words())


def lower_wrist(motion, lengths, prompts):
    "A plain reward: how high the lower wrist gets."
    wrists = features_to_joints(motion)[:, :, [20, 21], 1].amin(-1)
    return wrists.masked_fill(torch.arange(wrists.shape[1]) >= lengths[:, None], -1).amax(1)


KNOWN = [("raise the left arm", 40), ("raise the right arm", 40), ("lift your left arm", 44), ("stand", 40)]
SMALL = ExploreConfig(prompts=2, pool=6, near=4, proposals=64, generations=4, paces=(1.0,))


def test_the_reward_finds_in_parts_what_no_whole_motion_shows():
    found = explore(one_arm_policy(), lower_wrist, ["raise both arms", "arms up"], KNOWN, SMALL)
    assert float(found.all_scores[:, 0].max()) < 1.2  # as the policy makes it: a wrist stays down
    assert float(found.scores.min()) > 1.4  # both over the shoulders
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert float(lower_wrist(found.motion, found.lengths, found.prompts).sub(found.scores).abs().max()) < 1e-5
    assert found.motion.shape[2] == 263 and len(found) == len(found.prompts) == len(found.sources) == round(0.85 * 4)
    arms = [set(row[2:4]) for row in found.sources if len(row) == 4]
    assert arms and all(any("arm" in caption for caption in row) for row in arms)
    assert (found.advantages > 0.5).all()


def test_scores_do_not_depend_on_how_many_are_scored_at_once():
    few = ExploreConfig(prompts=1, pool=4, near=4, proposals=24)
    one, other = (explore(one_arm_policy(), lower_wrist, ["up"], KNOWN, replace(few, chunk=n)) for n in (7, 1000))
    torch.testing.assert_close(one.all_scores, other.all_scores, atol=1e-6, rtol=0)


def test_proposals_are_on_rigid_bones_already_so_no_reward_puts_them_there_again(monkeypatch):
    asked = {"prompts": ["up"], "known": KNOWN, "config": SMALL}
    plain, put = explore(one_arm_policy(), lower_wrist, **asked), []
    monkeypatch.setattr("mocapfree_nb.validity.rigid", lambda motion, lengths: put.append(len(motion)) or rigid(motion, lengths))
    found = explore(one_arm_policy(), on_rigid_bones(lower_wrist), **asked)
    assert torch.equal(found.all_scores, plain.all_scores)
    assert sum(put) <= SMALL.pool  # of the policy's own motions, not of the proposals


@SKELETONS
def test_feet_that_slide_are_seen_in_any_unit(skeleton):
    joints = some_motion(skeleton, batch=6, frames=24)
    joints[3:] += 0.4 * joints[3:, :, :1] * torch.tensor([0.0, 0.0, 1.0])  # gets along faster than its feet
    lengths = torch.full((6,), 24)
    pool = SimpleNamespace(bank=take_apart(joints, lengths, skeleton))
    recipes = draw_recipes(2, 8, 3, lengths[:2], torch.Generator().manual_seed(0))
    flat = lambda motion, lengths, prompts: torch.full((len(motion),), 0.5)  # noqa: E731
    rewards, slid = exploration.score_recipes(flat, pool, recipes, ["a", "b"], 5)
    made = put_together(pool.bank, recipes)
    expected = body_validity(made, recipes.lengths, skeleton)["foot_skate"].view(2, 8)
    assert (rewards == 0.5).all() and expected.max() > 0.2 and expected.unique().numel() > 2
    assert torch.equal(slid, expected)


def test_expectations_and_proposals_pay_for_sliding_alike():
    def glide(prompts, lengths, seed=0):
        motion = one_arm_policy().generate(prompts, lengths, seed)
        joints = features_to_joints(motion)
        joints = joints + torch.arange(joints.shape[1])[:, None, None] / 20 * torch.tensor([0.0, 0.0, 1.0])
        joints = torch.cat([joints, joints[:, -1:]], 1)
        return joints_to_features(joints, lengths=lengths + 1)[:, : int(lengths.max())]

    gliding = SimpleNamespace(generate=glide, text_encoder=Words())
    one = replace(SMALL, prompts=1, springing=0.0)
    free, dear = (explore(gliding, lower_wrist, ["a"], KNOWN, replace(one, sliding=weight)) for weight in (0.0, 0.2))
    assert float(free.reference.mean() - dear.reference.mean()) > 0.15  # nearly all frames slide
    assert float(free.all_scores[0, 0] - dear.all_scores[0, 0]) > 0.15


def test_a_flat_reward_is_told_in_one_line():
    with pytest.raises(UserError, match="ranks all 128 recombinations alike"):
        explore(one_arm_policy(), lambda motion, lengths, prompts: torch.full((len(motion),), 0.5), ["a", "b"], KNOWN, SMALL)


def test_one_known_caption_leaves_nothing_to_recombine():
    with pytest.raises(UserError, match="nothing to recombine"):
        explore(one_arm_policy(), lower_wrist, ["both arms"], KNOWN[:1] * 3, SMALL)


def test_prompts_that_nothing_serves_are_named_with_what_is_near():
    def strict(motion, lengths, prompts):
        height = lower_wrist(motion, lengths, prompts)
        return torch.where(torch.tensor(["fly" in p for p in prompts]), height - 5, height)

    found = explore(one_arm_policy(), strict, ["fly", "both arms"], KNOWN, SMALL)
    lines = unserved(found)
    assert len(lines) == 1 and "'fly'" in lines[0] and "nearest known captions" in lines[0]
    assert any(caption in lines[0] for caption, _ in KNOWN)


def test_near_captions_come_nearest_first():
    rows = near_captions(["raise the left arm"], KNOWN, Words(), 3)
    assert rows.shape == (1, 3) and rows[0, 0] == 0 and 3 not in rows[0]
    assert near_captions(["x"], KNOWN, Words(), 99).shape == (1, 4)
    lengths = near_lengths(["raise the left arm"], KNOWN, Words(), 3)
    assert lengths.tolist() == [[KNOWN[row][1] for row in rows[0].tolist()]]


def test_each_prompt_draws_from_its_own_lengths():
    own = torch.tensor([[10, 11], [20, 21], [30, 31]])
    drawn, lengths = draw_prompts(["a", "b", "c"], own, 60, torch.Generator().manual_seed(0))
    assert sorted(drawn) == ["a"] * 20 + ["b"] * 20 + ["c"] * 20
    assert all(length // 10 == " abc".index(prompt) for prompt, length in zip(drawn, lengths.tolist(), strict=True))
    assert set(lengths.tolist()) == {10, 11, 20, 21, 30, 31}
    same = draw_prompts(["a", "b"], torch.tensor([5, 6]), 40, torch.Generator().manual_seed(0))
    assert set(same[1].tolist()) == {5, 6} and same[0][:2] != same[0][1:3]


def test_choose_takes_the_best_and_then_the_best_that_is_not_nearly_the_same():
    scores = torch.tensor([[0.1, 0.9, 0.8, 0.7]])
    sources = torch.tensor([[[1, 1, 1, 1], [2, 2, 3, 4], [2, 2, 3, 5], [2, 2, 6, 7]]])
    assert choose(scores, sources, 2).tolist() == [[1, 3]]


def test_children_have_the_genes_of_the_best_of_their_own_prompt():
    lengths, generator = torch.tensor([40, 50]), torch.Generator().manual_seed(0)
    parents = draw_recipes(2, 30, 10, lengths, generator, bent=1.0, stepping=1.0, leaping=1.0)
    fresh = draw_recipes(2, 200, 10, lengths, generator, bent=0.0, stepping=0.0, leaping=0.0)
    scores = torch.zeros(2, 30)
    scores[:, [3, 8, 15, 21]] = torch.tensor([4.0, 3, 2, 1])
    children = breed(parents, scores, fresh, generator)
    assert torch.equal(children.lengths, fresh.lengths)
    best = torch.tensor([3, 8, 15, 21])
    for prompt in range(2):
        own, good = slice(200 * prompt, 200 * (prompt + 1)), parents[30 * prompt + best]
        for part in range(4):
            inherited = (children.first[own, None, part] == good.first[:, part]).any(1)
            assert inherited.float().mean() > 0.82 and ((children.first[own, part] % 20) // 10 == prompt).all()
        bent = children.turns[own].any(1)
        assert bent.float().mean() == pytest.approx(0.9, abs=0.07)  # a tenth is fresh, and nothing fresh is bent here
        axes = torch.nn.functional.normalize(good.turns, dim=1)
        near = (torch.nn.functional.normalize(children.turns[own][bent], dim=1) @ axes.T).amax(1)
        assert near.median() > 0.9  # varied, but mostly the bends of those four
    assert not torch.isin(children.turns[children.turns != 0], parents.turns).any()  # none exactly as it was
    assert torch.equal(children.step.any(1), children.root.any(1))  # a gene goes as a whole


def test_a_search_in_generations_climbs_higher_than_chance_at_the_same_cost():
    asked = ["raise both arms", "arms up"] * 4
    config = ExploreConfig(prompts=8, pool=6, near=4, proposals=128, paces=(1.0,))
    by_chance, bred = (
        explore(one_arm_policy(), lower_wrist, asked, KNOWN, replace(config, generations=n)) for n in (1, 4)
    )
    assert bred.all_scores.shape == by_chance.all_scores.shape == (8, 128)
    assert torch.equal(bred.all_scores[:, 0], by_chance.all_scores[:, 0])  # as the policy made it
    assert bred.all_scores[:, 32:].mean() > bred.all_scores[:, :32].mean() + 0.02  # children of the best are better
    assert bred.all_scores.amax(1).mean() > by_chance.all_scores.amax(1).mean()
    few = explore(one_arm_policy(), lower_wrist, asked[:2], KNOWN, replace(SMALL, proposals=3, generations=9))
    assert few.all_scores.shape == (2, 3) and few.advantages.isfinite().all()


def test_a_prompt_on_which_chance_earns_nothing_does_not_outweigh_all_others(monkeypatch):
    put = exploration.score_recipes
    generation = iter(range(4))

    def silent_at_first(reward, pool, recipes, asked, chunk):
        scores, slid = put(reward, pool, recipes, asked, chunk)
        scores[0] = 0.0
        scores[0, 5] = float(next(generation) > 0)  # the first prompt: one success in each generation but the first
        return scores, 0 * slid

    monkeypatch.setattr(exploration, "score_recipes", silent_at_first)
    found = explore(one_arm_policy(), lower_wrist, ["raise both arms", "arms up"], KNOWN, replace(SMALL, share=1.0))
    assert 10 < found.advantages.max() < 4 * math.sqrt(64)  # that of one success among 64, a quarter of the deviation at least


def test_springs_are_tried_where_the_rest_finds_nothing_good_and_only_there():
    def lower_foot(motion, lengths, prompts):
        "How high the lower foot is on average; of known captions nothing is asked, and much is said of them."
        feet = features_to_joints(motion)[:, :, [10, 11], 1].amin(-1)
        high = feet.masked_fill(torch.arange(feet.shape[1]) >= lengths[:, None], 0).sum(1) / lengths
        return torch.where(torch.tensor(["fly" in prompt for prompt in prompts]), high, 1.0 + 0 * high)

    asked = ["fly", "fly away"]
    found = explore(one_arm_policy(), lower_foot, asked, KNOWN, SMALL)
    assert found.all_scores.shape == found.all_kinds.shape == (2, 128)
    assert set(found.kinds) == {"springing"} and (found.all_kinds[:, :64] != KINDS.index("springing")).all()
    assert float(found.scores.min()) > 0.1 > 0.05 > float(found.all_scores[:, :64].max())
    assert torch.allclose(lower_foot(found.motion, found.lengths, found.prompts), found.scores, atol=1e-5)
    assert body_validity(features_to_joints(found.motion), found.lengths)["bone_deviation"].max() < 1e-3
    plain = explore(one_arm_policy(), lower_foot, asked, KNOWN, replace(SMALL, springing=0.0))
    assert torch.equal(plain.all_scores, found.all_scores[:, :64])  # what is tried first is as without them
    served = explore(one_arm_policy(), lower_wrist, ["both arms"], KNOWN, SMALL)
    assert served.all_scores.shape == (1, 64) and "springing" not in served.kinds


def test_each_part_of_the_search_can_be_taken_away():
    prompts = ["raise both arms", "arms up"]
    nothing = dict.fromkeys(("joined", "twice", "mirror", "bent", "stepping", "leaping", "springing"), 0.0)
    plain = replace(SMALL, kinds=(1, 0, 0, 0, 0, 0), generations=1, **nothing)
    found = explore(one_arm_policy(), lower_wrist, prompts, KNOWN, plain)
    assert set(found.kinds) == {"whole"} and (found.all_kinds == 0).all() and float(found.scores.max()) < 1.2
    known = [(caption, length if caption != "stand" else 30) for caption, length in KNOWN]
    near, any_length = (
        explore(one_arm_policy(), lower_wrist, prompts * 20, known, replace(SMALL, prompts=40, near=3, near_lengths=near))
        for near in (True, False)
    )
    assert 30 not in near.lengths.tolist() and 30 in any_length.lengths.tolist()

    def favourite(motion, lengths, prompts):
        return lower_wrist(motion, lengths, prompts) + torch.tensor([10.0 * (p == "arms up") for p in prompts])

    every = replace(SMALL, share=1.0)
    each, best = (
        explore(one_arm_policy(), favourite, prompts, KNOWN, replace(every, each_prompt=each)) for each in (True, False)
    )
    assert sorted(each.prompts) == ["arms up"] * 2 + ["raise both arms"] * 2 and set(best.prompts) == {"arms up"}


# --- learning


@pytest.fixture
def policy():
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=32, layers=1, heads=2, feedforward=32, text_width=26)
    return DiffusionPolicy(denoiser, Words(), steps=5)


def test_log_probability_of_a_posterior_step_is_the_weighted_denoising_loss(policy):
    x0, lengths = torch.randn(6, 12, 263), torch.tensor([12, 12, 9, 5, 12, 7])
    x0 = policy.denoiser.encode(policy.denoiser.denormalise(x0), lengths)
    text, generator = policy.encode(["a walk"] * 6), torch.Generator().manual_seed(0)
    for i in range(4):
        step = torch.full((6,), i)
        x_t = off_policy.posterior_states(policy, x0, step, generator)
        noise = policy.denoiser.noise_schedule.noise_from_x0(x_t, x0, policy.timesteps[step])
        target, std = ddim_distribution(x0, noise, policy.alphas[step], policy.alphas_next[step])
        mean, _, predicted = policy.step(x_t, i, text, lengths)
        short = policy.step_log_prob(target, target, std, lengths) - policy.step_log_prob(target, mean, std, lengths)
        error = off_policy.motion_errors(policy, predicted, x0, lengths)
        torch.testing.assert_close(short, off_policy.step_weights(policy)[i].float() * error, rtol=2e-3, atol=1e-5)
    assert off_policy.step_weights(policy)[4] == math.inf


def test_the_base_policy_is_at_no_distance_from_itself_and_a_changed_one_is(policy):
    generator = torch.Generator().manual_seed(0)
    base = off_policy.base_predictions(policy, KNOWN, generator, count=2, batch_size=3)
    assert base.states.shape == (2, 4, 44, 263)
    assert off_policy.distillation_loss(policy, base, 16, generator).item() < 1e-10
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter.add_(0.1)
    assert off_policy.distillation_loss(policy, base, 16, generator).item() > 1e-4


class Found(SimpleNamespace):
    "What learning reads of an `Exploration`."

    def __len__(self) -> int:
        return len(self.prompts)


def test_a_better_motion_weighs_more_and_learning_comes_nearer(policy):
    generator = torch.Generator().manual_seed(0)
    motion = joints_to_features(torch.from_numpy(generate_clips(2, actions=["raise-both-arms"]).joints))[:, :36]
    found = Found(prompts=["up", "up"], motion=motion, lengths=torch.tensor([36, 36]), advantages=torch.tensor([3.0, 1.0]))
    base = off_policy.base_predictions(policy, KNOWN, generator)
    parameters = list(policy.denoiser.requires_grad_(True).parameters())
    losses = off_policy.learn(policy, found, base, parameters, LearnConfig(steps=30, distillation=0.0), generator)
    assert len(losses) == 30 and losses[-1][0] < 0.8 * losses[0][0]


def test_the_lengths_of_bones_weigh_in_what_is_learnt_unless_the_model_is_rigid(policy):
    motion = joints_to_features(torch.from_numpy(generate_clips(4, actions=["raise-both-arms"]).joints))[:, :36]
    found = Found(prompts=["up"] * 4, motion=motion, lengths=torch.full((4,), 36), advantages=torch.ones(4))
    start = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}

    def learnt(bones: float, rigid: bool) -> tuple[list, float]:
        """The losses, and how far bones are off in what is then predicted at the last noisy step."""
        policy.denoiser.load_state_dict(start)
        policy.denoiser.rigid, generator = rigid, torch.Generator().manual_seed(0)
        base = off_policy.base_predictions(policy, KNOWN, generator)
        parameters = list(policy.denoiser.requires_grad_(True).parameters())
        config = LearnConfig(steps=40, batch_size=4, distillation=0.0, bones=bones, learning_rate=3e-3)
        losses = off_policy.learn(policy, found, base, parameters, config, generator)
        with torch.no_grad():
            x0, at = policy.denoiser.encode(motion, found.lengths), torch.full((4,), policy.steps - 1)
            x_t = off_policy.posterior_states(policy, x0, at, torch.Generator().manual_seed(1))
            predicted, _ = policy.predict(x_t, policy.timesteps[at], policy.encode(found.prompts), found.lengths)
        bones_now = bones_of(features_to_joints(policy.denoiser.decode(predicted, found.lengths)), HUMANML3D)
        return losses, float((bones_now / bone_lengths(HUMANML3D).float() - 1).abs().mean())

    (losses, off), (weighed, less), (unchanged, _) = learnt(0.0, False), learnt(2000.0, False), learnt(2000.0, True)
    assert losses == unchanged  # bones of a rigid model are right whatever it says
    assert losses[0] == weighed[0] and losses[1] != weighed[1]  # the log says what it said, the gradient is another
    assert less < 0.8 * off


@pytest.mark.parametrize("share, scales", [(1.0, [2.5] * 4), (0.0, [1.0] * 4), (0.5, [1.0, 2.5] * 2), (0.25, [1.0] * 3 + [2.5])])
def test_what_is_found_is_learnt_with_and_without_guidance_and_what_must_stay_with_it(policy, share, scales, monkeypatch):
    asked = []
    ask = type(policy.denoiser).guided

    def listen(denoiser, x, t, text, lengths, scale):
        asked.append((torch.is_grad_enabled(), len(x), scale))
        return ask(denoiser, x, t, text, lengths, scale)

    monkeypatch.setattr(type(policy.denoiser), "guided", listen)
    config = LearnConfig(rounds=1, steps=4, batch_size=3, retained_batch=5, guided=share)
    explore_and_learn(policy.with_guidance(2.5), lower_wrist, ["up"], KNOWN, KNOWN, config, LITTLE, progress=False)
    assert [call[1:] for call in asked if call[0]] == [call for scale in scales for call in ((3, scale), (5, 2.5))]
    assert {scale for trains, _, scale in asked if not trains} == {2.5}


def test_the_parameters_with_the_best_score_are_kept():
    parameters, kept = [torch.nn.Parameter(torch.zeros(1))], Kept()
    better = []
    for value, score in ((0.0, 0.2), (1.0, 0.6), (2.0, 0.1)):
        with torch.no_grad():
            parameters[0].fill_(value)
        better.append(kept.offer({"score": score}, parameters))
    assert better == [True, True, False] and float(kept.parameters[0]) == 1.0
    assert not Kept().offer({}, parameters)  # nothing scores: nothing is kept, the last ones stay
    for value, score, as_good in ((3.0, 0.55, True), (4.0, 0.52, True), (5.0, 0.45, False)):  # of the best, not of the last
        with torch.no_grad():
            parameters[0].fill_(value)
        assert kept.offer({"score": score}, parameters, 0.1) == as_good
    assert float(kept.parameters[0]) == 4.0 and kept.score == 0.6


@pytest.mark.parametrize("prompts, retained, word", [([], KNOWN, "prompts to learn"), (["up"], [], "retained prompts")])
def test_a_run_without_prompts_or_without_what_must_stay_does_not_begin(policy, prompts, retained, word):
    with pytest.raises(UserError, match=word):
        explore_and_learn(policy, lower_wrist, prompts, KNOWN, retained)


SHORT = [(caption, 24) for caption, _ in KNOWN]
QUICK = {"config": LearnConfig(rounds=3, steps=2, batch_size=4, lora_rank=2), "progress": False}
LITTLE = ExploreConfig(prompts=2, pool=3, near=3, proposals=8)


def test_what_is_kept_first_must_be_better_and_a_later_round_as_good_as_any_within_its_error(policy):
    def learn(*scores):
        given = iter(scores)
        arguments = lower_wrist, ["up", "both up"], SHORT, SHORT
        look = lambda policy: {"score": next(given), "error": 0.1}  # noqa: E731
        return explore_and_learn(policy, *arguments, search=LITTLE, selector=look, **QUICK)

    log = learn(0.5, 0.8, 0.75, 0.6)
    assert [record["improved"] for record in log] == [True, True, False]
    chosen = experiment._chosen(log, 0.5)
    assert chosen == {"chosen_iteration": 2, "last_iteration": 3, "score_before": 0.5, "score": 0.75, "last_score": 0.6}
    log = learn(0.5, 0.45, 0.4)
    assert [record["improved"] for record in log] == [False, False] and experiment._chosen(log, 0.5)["chosen_iteration"] == 0
    log = learn(0.5, 0.45, 0.49, 0.5)  # it rises, but what is kept first must be better, not as good within an error
    assert [record["improved"] for record in log] == [False] * 3 and experiment._chosen(log, 0.5)["chosen_iteration"] == 0
    log = learn(0.5, 0.1, 0.51, 0.45)  # a start that cost much and was worth it
    assert [record["improved"] for record in log] == [False, True, True] and experiment._chosen(log, 0.5)["score"] == 0.45


def test_a_run_ends_when_the_selector_sees_no_gain_and_leaves_an_ordinary_network(policy):
    before = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    seen = []
    log = explore_and_learn(
        policy, lower_wrist, ["up", "both up"], SHORT, SHORT, search=LITTLE,
        selector=lambda policy: {"score": 0.5}, on_round=seen.append, **QUICK,
    )  # fmt: skip
    assert len(log) == len(seen) == 2 and not log[0]["improved"] and not log[1]["improved"]
    after = policy.denoiser.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():  # nothing was better than the base, so the base is kept
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    assert log[0]["proposals"] == 16 and set(log[0]["seconds"]) == {"search", "learn", "select"}
    assert math.isfinite(log[0]["reward"]) and log[0]["chosen_reward"] >= log[0]["reward"]


class Stop(Exception):
    pass


@pytest.mark.parametrize("bfloat16", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_weights(bfloat16, policy, tmp_path, monkeypatch):
    monkeypatch.setattr("mocapfree_nb.pretrain._has_bfloat16", lambda device: True)  # a processor may imitate it, slowly
    config = replace(QUICK["config"], bfloat16=bfloat16)
    state = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    scores = {"whole": iter([0.1, 0.2, 0.3, 0.4]), "parts": iter([0.1, 0.2, 0.3, 0.4])}

    def run(name, folder, on_round=None):
        return explore_and_learn(
            policy, lower_wrist, ["up", "both up"], SHORT, SHORT, search=LITTLE, folder=folder, on_round=on_round,
            selector=lambda policy: {"score": next(scores[name])}, **QUICK | {"config": config},
        )  # fmt: skip

    whole = run("whole", tmp_path / "whole")
    expected = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    policy.denoiser.load_state_dict(state)

    def stop(finished):
        if finished.number == 1:
            raise Stop

    with pytest.raises(Stop):
        run("parts", tmp_path / "parts", stop)
    policy.denoiser.load_state_dict(state)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.warns(UserWarning, match=f"made with {threads} threads and goes on with {threads + 1}"):
        parts = run("parts", tmp_path / "parts")
    assert [record["iteration"] for record in parts] == [1, 2, 3] and len(whole) == 3
    for key in ("reward", "chosen_reward", "loss", "distillation", "network_calls"):
        assert [r[key] for r in parts] == [r[key] for r in whole], key
    assert all(torch.equal(value, expected[name]) for name, value in policy.denoiser.state_dict().items())
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 3


def test_a_checkpoint_of_something_else_is_named(policy, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    torch.save({"parameters": [torch.zeros(3)], "log": "[]"}, tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="no checkpoint of this run"):
        explore_and_learn(policy, lower_wrist, ["up"], SHORT, SHORT, search=LITTLE, folder=tmp_path, **QUICK)


@pytest.mark.parametrize("changed", ["reward", "prompts", "learning_rate", "steps", "search", "known", "denoiser"])
def test_a_run_goes_on_only_as_what_it_was(changed, policy, tmp_path):
    settings, reward, known = dict(QUICK), lower_wrist, SHORT
    prompts, search = ["up", "both up"], LITTLE
    state = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}

    def run(rounds):
        config = replace(settings["config"], rounds=rounds)
        explore_and_learn(policy, reward, prompts, known, SHORT, search=search, folder=tmp_path, **settings | {"config": config})

    run(1)
    policy.denoiser.load_state_dict(state)
    run(2)  # a longer run may go on
    policy.denoiser.load_state_dict(state)
    if changed == "reward":
        reward = lambda *given: -lower_wrist(*given)  # noqa: E731
    elif changed == "prompts":
        prompts = ["both up", "up"]
    elif changed == "learning_rate":
        settings["config"] = replace(settings["config"], learning_rate=0.5)
    elif changed == "steps":
        settings["config"] = replace(settings["config"], steps=settings["config"].steps + 1)
    elif changed == "search":
        search = replace(LITTLE, bent=0.5)
    elif changed == "known":
        known = SHORT[::-1]
    else:
        with torch.no_grad():
            next(policy.denoiser.parameters()).add_(0.1)
    with pytest.raises(UserError, match=rf"other settings \(.*{changed}.*\): move it away"):
        run(3)


def test_settings_that_cannot_be_meant_are_refused():
    for wrong in ({"rounds": 0}, {"learning_rate": -1.0}, {"distillation": float("nan")}, {"lora_rank": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            LearnConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"pool": 1}, {"keep": 0}, {"share": 5.0}, {"bent": -0.1}, {"kinds": (1,)},
                                   {"sliding": -0.1}, {"springing": 2.0}, {"kinds": (0,) * 6}, {"paces": (1.0, 0.0)},
                                   {"each_prompt": 1}])  # fmt: skip
def test_settings_of_a_search_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        ExploreConfig(**wrong)


def test_a_gradient_that_is_not_finite_stops_the_run_and_is_named(policy):
    wild = {"config": replace(QUICK["config"], steps=4, learning_rate=1e30), "progress": False}
    with pytest.raises(UserError, match="the gradient is (nan|inf) in step [234] of learning: choose a smaller learning_rate"):
        explore_and_learn(policy, lower_wrist, ["up", "both up"], SHORT, SHORT, search=LITTLE, **wild)


def test_the_same_seed_gives_the_same_run(policy):
    state = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    results = []
    for _ in range(2):
        policy.denoiser.load_state_dict(state)
        explore_and_learn(policy, lower_wrist, ["up", "both up"], SHORT, SHORT, search=LITTLE, **QUICK)
        results.append({name: value.clone() for name, value in policy.denoiser.state_dict().items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in state)
    assert any(not torch.equal(results[0][name], state[name]) for name in state)


@pytest.mark.parametrize("kind", ["unet", "latent"])
def test_other_architectures_learn_too_and_an_autoencoder_stays_as_it_is(kind):
    torch.manual_seed(0)
    if kind == "unet":
        denoiser = MotionUNet(channels=(8, 8, 8), text_latent=8, text_width=26)
        for parameter in denoiser.parameters():  # it begins by saying nothing at all
            torch.nn.init.normal_(parameter, std=0.1)
    else:
        denoiser = LatentDenoiser(width=16, layers=1, heads=2, feedforward=16, vae_layers=1, text_width=26)
    policy = DiffusionPolicy(denoiser, Words(), steps=3)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    config = LearnConfig(rounds=1, steps=2, batch_size=2, lora_rank=2)
    log = explore_and_learn(policy, lower_wrist, ["up"], SHORT, SHORT, config, LITTLE, progress=False)
    assert len(log) == 1 and math.isfinite(log[0]["loss"]) and math.isfinite(log[0]["distillation"])
    changed = {name for name, value in denoiser.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith("vae.") for name in changed)


def test_in_bfloat16_the_network_alone_computes_coarsely(policy, monkeypatch):
    monkeypatch.setattr("mocapfree_nb.pretrain._has_bfloat16", lambda device: True)
    seen = set()
    for layer in filter(lambda module: isinstance(module, torch.nn.Linear), policy.denoiser.network.modules()):
        layer.register_forward_hook(lambda module, _, out: seen.add(out.dtype))
    config = LearnConfig(rounds=1, steps=2, batch_size=2, lora_rank=2, bfloat16=True)
    log = explore_and_learn(policy, lower_wrist, ["up", "both up"], SHORT, SHORT, config, LITTLE, progress=False)
    assert seen == {torch.bfloat16} and not policy.bfloat16
    assert math.isfinite(log[0]["loss"]) and {p.dtype for p in policy.denoiser.parameters()} == {torch.float32}
    with pytest.raises(UserError, match="bfloat16"):
        LearnConfig(bfloat16=1)


def test_a_failing_reward_leaves_the_network_whole(policy):
    def broken(motion, lengths, prompts):
        raise UserError("no score today")

    names = set(policy.denoiser.state_dict())
    with pytest.raises(UserError, match="no score today"):
        explore_and_learn(policy, broken, ["up"], SHORT, SHORT, search=LITTLE, **QUICK)
    assert set(policy.denoiser.state_dict()) == names


def test_the_figure_shows_all_kinds():
    found = explore(one_arm_policy(), lower_wrist, ["both arms"], KNOWN, SMALL)
    figure = exploration.exploration_figure(found)
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == list(KINDS)
    shares = exploration.explored_kinds(found)
    assert sum(tried for tried, _ in shares.values()) == pytest.approx(1)
    assert sum(chosen for _, chosen in shares.values()) == pytest.approx(1)
