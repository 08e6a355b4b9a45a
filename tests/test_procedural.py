"""The synthetic human: bodies stay bodies, feet stay put, captions say what happens."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch

from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import captions_for, generate_clips
from mocapfree_nb.skeleton import HUMANML3D
from mocapfree_nb.synthetic.actions import ACTIONS, COMPOSED
from mocapfree_nb.synthetic.captions import conjugate, gerund, third_person
from mocapfree_nb.validity import foot_skate

PARENTS = np.array(HUMANML3D.parents)
LENGTHS = np.linalg.norm(HUMANML3D.offsets, axis=1)
SIDED = sorted({name.removesuffix("-left") for name in ACTIONS if name.endswith("-left")})


@pytest.fixture(scope="module")
def clips():
    return generate_clips(800, seed=31)


def real_frames(clips):
    return np.arange(clips.joints.shape[1])[None] < clips.lengths[:, None]


def test_shapes_and_promised_ranges(clips):
    assert clips.joints.shape == (800, 49, 22, 3) and clips.joints.dtype == np.float32
    assert len(clips) == len(clips.actions) == len(clips.captions) == 800
    assert clips.lengths.min() == 37 and clips.lengths.max() == 49
    assert np.isfinite(clips.joints).all()
    assert (clips.joints[~real_frames(clips)] == 0).all()
    assert all(len(captions) == 3 for captions in clips.captions)


def test_same_seed_same_clips_and_another_seed_others():
    a, b, c = (generate_clips(90, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a.joints, b.joints)
    assert a.captions == b.captions and a.actions == b.actions
    first, second = (generate_clips(8, seed=seed, actions=["kneel"], min_frames=49) for seed in (5, 6))
    assert (first.joints != second.joints).any((1, 2, 3)).all()
    assert a.captions != c.captions


SHIPPED = {  # the shipped weights were trained on exactly these clips and sentences
    "all": "963298974fbd26516189417b12f21d89c1b9df6fb4888e36fb3abffebe042cf0",
    "asked": "51964f9141d4f176cb53d9cb432cd2e940c5473472c1dfe9dfc236247d1886ef",
    "composed": "41e1ee7347a05a9d3b430e48e3f6440b2332d7628cc1f2a624d983c77fb9f232",
    "captions": "78ed288024665bd1497323887474fb596cf1ab18f9a86199e653460c5f89f1df",
}


def test_the_clips_are_those_that_the_shipped_weights_were_trained_on():
    def sha(clips):
        made = hashlib.sha256(clips.joints.tobytes())
        made.update(clips.lengths.tobytes())
        made.update(json.dumps([clips.captions, clips.actions]).encode())
        return made.hexdigest()

    pairs = ["+".join(labels) for labels in COMPOSED]
    said = {action: captions_for(action, 20, seed=3) for action in [*ACTIONS, *pairs]}
    assert SHIPPED == {
        "all": sha(generate_clips(400, seed=31)),
        "asked": sha(generate_clips(130, seed=5, actions=list(ACTIONS), min_frames=49)),
        "composed": sha(generate_clips(90, seed=6, actions=pairs, min_frames=60, max_frames=80)),
        "captions": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
    }


def test_every_bone_keeps_its_length(clips):
    bones = np.linalg.norm(clips.joints[:, :, 1:] - clips.joints[:, :, PARENTS[1:]], axis=-1)
    assert np.abs(bones - LENGTHS[1:])[real_frames(clips)].max() < 1e-5


def test_nothing_sinks_into_the_floor_and_somebody_stands_on_it(clips):
    heights = clips.joints[..., 1]
    assert heights.min() > -1e-4
    lowest_toe = np.where(real_frames(clips)[..., None], heights[:, :, [10, 11]], 9.0).min((1, 2))
    assert lowest_toe.max() < 1e-3


def test_clips_start_at_the_origin_facing_plus_z(clips):
    start = clips.joints[:, 0]
    assert np.abs(start[:, 0, [0, 2]]).max() < 0.12
    left = start[:, 1] - start[:, 2]
    heading = np.degrees(np.arctan2(-left[:, 2], left[:, 0]))
    assert np.abs(heading).max() < 25
    toes_ahead = start[:, [10, 11], 2] - start[:, [7, 8], 2]
    assert (toes_ahead.max(1) > 0.02).all()  # someone who runs may have one toe under the heel


def test_elbows_and_knees_bend_the_human_way():
    clips = generate_clips(42 * 4, seed=8, actions=list(ACTIONS))
    for hip, knee, ankle in ((1, 4, 7), (2, 5, 8)):
        thigh, shin = (
            clips.joints[:, :, knee] - clips.joints[:, :, hip],
            clips.joints[:, :, ankle] - clips.joints[:, :, knee],
        )
        across = clips.joints[:, :, 1] - clips.joints[:, :, 2]
        bend = (np.cross(thigh, shin) * across).sum(-1)[real_frames(clips)]
        assert bend.min() > -2e-3  # the shin never goes in front of the thigh's line


def test_stance_feet_do_not_skate(clips):
    share = foot_skate(torch.from_numpy(clips.joints), torch.from_numpy(clips.lengths)).numpy()
    for name in ("walk-forward", "walk-backward", "run", "circle-left", "sidestep-right", "turn-left"):
        assert share[[name == labels[0] for labels in clips.actions]].mean() < 0.1, name
    still = [labels[0] in ("stand", "bow", "squat", "twist", "sit") for labels in clips.actions]
    assert share[still].max() == 0


def test_a_standing_foot_is_exactly_still():
    clips = generate_clips(60, seed=2, actions=["walk-forward"], min_frames=49)
    toes = clips.joints[:, :, [10, 11]]
    moved = np.linalg.norm(np.diff(toes, axis=1), axis=-1)
    assert (moved < 1e-5).mean() > 0.4


@pytest.mark.parametrize("stem", SIDED)
def test_left_and_right_are_mirror_images_on_average(stem):
    """Mirror the right-sided clips: on average they are the left-sided ones."""
    left = generate_clips(200, seed=9, actions=[f"{stem}-left"], min_frames=49).joints
    right = generate_clips(200, seed=10, actions=[f"{stem}-right"], min_frames=49).joints.copy()
    right[..., 0] *= -1
    twins = [*HUMANML3D.left_joints, *HUMANML3D.right_joints]
    right[:, :, twins] = right[:, :, [*HUMANML3D.right_joints, *HUMANML3D.left_joints]]
    assert np.abs(left.mean(0) - right.mean(0)).max() < 0.12
    unmirrored = generate_clips(200, seed=10, actions=[f"{stem}-right"], min_frames=49).joints
    assert np.abs(left.mean(0) - unmirrored.mean(0)).max() > 0.12  # so the two sides do differ


@pytest.mark.parametrize(
    ("name", "joint", "axis", "sign"),
    [
        ("lean-left", 15, 0, 1),
        ("sidestep-left", 0, 0, 1),
        ("walk-forward", 0, 2, 1),
        ("walk-backward", 0, 2, -1),
    ],
)
def test_directions_are_those_of_the_person(name, joint, axis, sign):
    joints = generate_clips(50, seed=3, actions=[name], min_frames=49).joints
    way = joints[:, 20:30, joint, axis].mean(1) - joints[:, 0, joint, axis]
    assert (sign * way > 0).mean() > 0.95


def test_only_raise_both_arms_has_both_wrists_over_the_head():
    clips = generate_clips(2000, seed=77)
    both = (clips.joints[:, :, [20, 21], 1].min(-1) - clips.joints[:, :, 15, 1]).max(1)
    raised = np.array(["raise-both-arms" in labels for labels in clips.actions])
    assert both[~raised].max() < 0.05
    assert both[raised].min() > 0.15


def test_fast_clips_are_fast_and_say_so():
    clips = generate_clips(600, seed=4, actions=["walk-forward"], min_frames=49)
    speed = np.linalg.norm(clips.joints[:, 30, 0] - clips.joints[:, 15, 0], axis=-1) / 0.75
    fast = [
        any(w in " ".join(c) for w in ("quickly", "fast", "rapidly", "swiftly", "hurry"))
        for c in clips.captions
    ]
    slow = [any(w in " ".join(c) for w in ("slow", "gently", "unhurriedly", "haste")) for c in clips.captions]
    assert not np.any(np.logical_and(fast, slow))
    assert np.median(speed[fast]) > 1.6 * np.median(speed[slow])
    assert speed[fast].min() > speed[slow].max() - 0.35


def test_labels_are_balanced_and_three_in_ten_are_composed(clips):
    single = Counter(labels for labels in clips.actions if len(labels) == 1)
    assert len(single) == len(ACTIONS) >= 26 and max(single.values()) - min(single.values()) <= 1
    pairs = Counter(labels for labels in clips.actions if len(labels) == 2)
    assert sum(pairs.values()) == 240 and set(pairs) == set(COMPOSED)


@pytest.mark.parametrize("action", [*ACTIONS, "march+raise-both-arms"])
def test_captions_are_many_name_the_side_and_repeat_by_seed(action):
    captions = captions_for(action, 60, seed=3)
    assert captions == captions_for(action, 60, seed=3)
    assert captions != captions_for(action, 60, seed=4)
    assert len(set(captions)) == 60 and all(text == text.strip() and "{" not in text for text in captions)
    for side in ("left", "right"):
        if action.endswith("-" + side):
            named = (
                ("left", "right") if action.startswith("hop") else (side,)
            )  # "the right foot off the ground"
            assert all(any(word in text for word in named) for text in captions)


def test_plain_words_are_among_the_captions():
    said = captions_for("walk-forward", 3000)
    for plain in (" walks", " is walking", " walks slowly", " slowly walks"):
        assert any(text.endswith(plain) and len(text.split()) <= 5 for text in said), plain
    assert any(text.startswith("an old man ") for text in said)


def test_captions_of_two_seeds_hardly_overlap():
    a, b = (set(captions_for("raise-both-arms", 40, seed=seed)) for seed in (1, 2))
    assert len(a & b) < 10


def test_captions_of_a_clip_name_its_details():
    clips = generate_clips(300, seed=12, actions=["hop-left"])
    said = [(c, j) for c, j in zip(clips.captions, clips.joints, strict=True) if any("twice" in t for t in c)]
    assert said
    for _, joints in said[:20]:
        up = (joints[:, 7, 1] > 0.1).astype(int)
        assert np.sum(np.diff(up) == 1) == 2


@pytest.mark.parametrize(
    ("plain", "third", "running"),
    [
        ("squat down and stand up", "squats down and stands up", "squatting down and standing up"),
        ("raise both arms", "raises both arms", "raising both arms"),
        ("stretch", "stretches", "stretching"),
        ("do a bow", "does a bow", "doing a bow"),
        ("stay", "stays", "staying"),
        ("throw", "throws", "throwing"),
    ],
)
def test_verbs(plain, third, running):
    assert conjugate(plain, third_person) == third
    assert conjugate(plain, gerund) == running


@pytest.mark.parametrize(
    "actions", [["fly"], ["walk-forward+fly"], ["wave-left+walk-forward"], ["run+clap+jump"]]
)
def test_unknown_labels_are_refused(actions):
    with pytest.raises(UserError):
        generate_clips(2, actions=actions)


@pytest.mark.parametrize(
    "options",
    [
        {"num_clips": 0},
        {"num_clips": 3, "max_frames": 30, "min_frames": 40},
        {"num_clips": 3, "min_frames": 3},
    ],
)
def test_impossible_requests_are_refused(options):
    with pytest.raises(UserError, match="cannot write"):
        generate_clips(**options)


def test_asked_labels_come_in_turn_and_lengths_are_kept():
    clips = generate_clips(5, seed=1, actions=["run", "squat+clap"], min_frames=60, max_frames=64)
    assert clips.actions == [("run",), ("squat", "clap")] * 2 + [("run",)]
    assert clips.joints.shape[1] == 64 and clips.lengths.min() >= 60
