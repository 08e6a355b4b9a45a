"""The reward card: a perfect scorer gets 1, a blind one a half, a known ladder is read as it is."""

import json
import math
from dataclasses import replace

import pytest
import torch
from command import command

from mocapfree_nb import reward_card as card
from mocapfree_nb.corpus import Corpus, load_corpus
from mocapfree_nb.edits import arm_joints, bend_knees, lower_arms, shift_time
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError
from mocapfree_nb.output.card import card_text
from mocapfree_nb.output.card import verdict as words_of
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

LABELS = ("raise-both-arms", "raise-arm-left", "raise-arm-right", "walk-forward", "punch-left", "kick-right", "squat")


@pytest.fixture(scope="module")
def batch() -> card.Batch:
    corpus = load_corpus(num_clips=300, seed=5)
    clips = [replace(clip, split="train") for clip in corpus if len(clip.actions) == 1 and clip.actions[0] in LABELS]
    return card.choose_clips(Corpus(tuple(clips), corpus.mean, corpus.std), 100)


def knows(batch: card.Batch):
    "1 for a motion of the batch with its own caption, else 0."
    clips = zip(batch.motion, batch.lengths, batch.captions, strict=True)
    key = {motion[: int(n)].numpy().tobytes(): caption for motion, n, caption in clips}

    def reward(motion, lengths, prompts):
        found = [key.get(m[: int(n)].numpy().tobytes()) for m, n in zip(motion, lengths, strict=True)]
        return [float(caption == prompt) for caption, prompt in zip(found, prompts, strict=True)]

    return reward


def blind(motion, lengths, prompts):
    return torch.ones(len(motion))


ASKED = ["action_accuracy", "side_accuracy", "mirror_accuracy", "count_accuracy"]


@pytest.mark.parametrize("name", ASKED)
def test_a_perfect_scorer_gets_one_and_a_blind_one_a_half(batch, name):
    measure = getattr(card, name)
    counted = [f"{caption} {('once', 'twice')[i % 2]}" for i, caption in enumerate(batch.captions)]
    whole = replace(batch, captions=counted)
    perfect, guess = measure(knows(whole), whole), measure(blind, whole)
    assert perfect["value"] == 1 and guess["value"] == 0.5 and perfect["n"] == guess["n"] > 3
    assert perfect["interval"][1] == 1 and guess["interval"][0] < 0.5 < guess["interval"][1]
    assert measure(lambda *given: -torch.tensor(knows(whole)(*given)), whole)["value"] == 0


def test_recall_of_a_perfect_and_a_blind_scorer(batch):
    perfect, guess = card.recall_by_action(knows(batch), batch, 8), card.recall_by_action(blind, batch, 8)
    assert {share["value"] for share in perfect.values()} == {1.0}
    assert set(perfect) == {"all", *LABELS}
    assert guess["all"]["value"] < 0.4
    only = perfect["squat"]["n"]
    assert only == sum("squat" in labels for labels in batch.actions[: perfect["all"]["n"]])


def walks_first(motion, lengths, prompts):
    "Right about walking before or after raising an arm: does the body move more in the first half of the time?"
    scores = []
    for m, n, prompt in zip(motion, lengths, prompts, strict=True):
        root = features_to_joints(m[: int(n)])[:, 0, [0, 2]]
        way = (root[1:] - root[:-1]).norm(dim=-1)
        early = float(way[: len(way) // 2].sum() - way[len(way) // 2 :].sum())
        scores.append(early if prompt.startswith("WALK") else -early)
    return scores


def test_order_is_told_by_a_scorer_that_sees_when_a_body_moves(batch):
    rows = [i for i, (label, *_) in enumerate(batch.actions) if label in ("walk-forward", "raise-both-arms")]
    few = batch[torch.tensor(rows)]
    captions = ["WALK" if labels == ("walk-forward",) else "raise" for labels in few.actions]
    few = card.Batch(few.motion, few.lengths, captions, few.actions)
    assert card.order_accuracy(walks_first, few)["value"] == 1
    assert card.order_accuracy(blind, few)["value"] == 0.5
    assert card.order_accuracy(lambda *given: [-s for s in walks_first(*given)], few)["value"] == 0


def height(motion, lengths, prompts):
    "The highest point of the lower wrist over its shoulder."
    joints = features_to_joints(motion)
    over = (joints[..., [20, 21], 1] - joints[..., [16, 17], 1]).amin(-1)
    return over.masked_fill(torch.arange(over.shape[1]) >= lengths[:, None], -9).amax(1)


def test_a_scorer_that_measures_height_climbs_the_ladder_and_its_score_is_the_height(batch):
    both = batch[torch.tensor([i for i, labels in enumerate(batch.actions) if labels == ("raise-both-arms",)])]
    found, guess = card.ladder(height, both), card.ladder(blind, both)
    assert found["n"] == len(both) and found["accuracy"]["value"] == 1 and set(found["above"]) == {1.0}
    assert torch.allclose(torch.tensor(found["score"]), torch.tensor(found["height"]), atol=1e-4)
    assert found["height"] == sorted(found["height"], reverse=True) and found["height"][0] > 0.3 > -0.5 > found["height"][-1]
    assert guess["accuracy"]["value"] == 0.5 and guess["near_top"] is None
    assert card.ladder(height, both[torch.tensor([], dtype=torch.long)]) is None


def test_near_the_top_is_a_fifth_on_a_straight_line(batch):
    both = batch[torch.tensor([i for i, labels in enumerate(batch.actions) if labels == ("raise-both-arms",)])]
    scores = iter([1 - rung for rung in card.RUNGS])
    line = card.ladder(lambda motion, lengths, prompts: torch.full((len(motion),), next(scores)), both)
    assert line["near_top"] == pytest.approx(0.2)
    scores = iter([1 - rung**2 for rung in card.RUNGS])
    flat = card.ladder(lambda motion, lengths, prompts: torch.full((len(motion),), next(scores)), both)
    assert flat["near_top"] == pytest.approx(0.04)


def test_what_cannot_be_measured_is_none_and_said_in_words(batch):
    plain = card.Batch(batch.motion[:9], batch.lengths[:9], ["a person moves"] * 9, [()] * 9)
    found = card.reward_card(blind, plain)
    assert [found[key] for key in card.QUESTIONS] == [None] * 5
    text = card_text("blind", found)
    assert "captions name no counts" in text and "no caption names a side" in text and "no labels" in text
    json.dumps(found, allow_nan=False)


def test_verdicts_follow_the_intervals():
    def verdict(hits: int, n: int) -> str:
        return words_of(card._share(torch.tensor([1.0] * hits + [0.0] * (n - hits))), "")

    assert verdict(99, 100) == "tells them apart"
    assert verdict(85, 100) == "tells them apart mostly"
    assert verdict(65, 100) == "tells them apart more often than not"
    assert verdict(52, 100) == "cannot tell them apart: no better than a guess"
    assert verdict(20, 100) == "prefers the wrong one"
    assert verdict(9, 9) == "too few clips to say"


def test_counts_are_exchanged_for_another_number():
    assert card.swap_count("a man hops twice", ["once", "twice", "two times"]) == "a man hops once"
    assert card.swap_count("hops Three Times slowly", ["three times", "twice"]) == "hops twice slowly"
    assert card.swap_count("a man hops twice", ["two times", "twice"]) is None
    assert card.swap_count("a man hops", ["once", "twice"]) is None


def test_too_few_clips_are_refused(batch):
    corpus = load_corpus(num_clips=1, seed=5)
    with pytest.raises(UserError, match="1 clips to measure with"):
        card.choose_clips(corpus)


def test_the_mean_of_two_rewards_is_their_mean(batch):
    mean = card.mean_reward([blind, height])
    scores = mean(batch.motion, batch.lengths, batch.captions)
    assert torch.allclose(scores, (1 + height(batch.motion, batch.lengths, None)) / 2)


def test_the_command_writes_table_numbers_and_figure(capsys, monkeypatch, tmp_path):
    arguments = ("reward-card", "--clips", 24, "--out", tmp_path / "card", "--reward", "test_reward_card:blind")
    monkeypatch.setattr("mocapfree_nb.corpus.load_corpus", lambda *a, **k: load_corpus(num_clips=200, seed=3))
    status, out, err = command(capsys, monkeypatch, *arguments, "--device", "cpu")
    assert status == 0, err
    assert "reward card of test_reward_card:blind: 24 clips" in out and "no better than a guess" in out
    kept = json.loads((tmp_path / "card" / "reward_card.json").read_text())
    assert kept["cards"]["test_reward_card:blind"]["action_accuracy"]["value"] == 0.5
    assert (tmp_path / "card" / "reward_card.png").read_bytes().startswith(b"\x89PNG")


# The edits that the ladder and the explorer are made of


def bones(joints, skeleton=HUMANML3D):
    return (joints[..., 1:, :] - joints[..., skeleton.parents[1:], :]).norm(dim=-1)


def test_arms_come_down_by_a_share_of_their_angle_on_bones_that_keep_their_lengths(batch):
    joints = batch.joints[:, : int(batch.lengths.min())]
    for share in (0.3, 1.0):
        lowered = lower_arms(joints, share)
        assert torch.allclose(bones(lowered), bones(joints), atol=1e-5)
        for shoulder, elbow, wrist in arm_joints():
            for a, b in ((shoulder, elbow), (elbow, wrist)):
                before, after = joints[..., b, :] - joints[..., a, :], lowered[..., b, :] - lowered[..., a, :]
                angle = [torch.atan2(v[..., [0, 2]].norm(dim=-1), -v[..., 1]) for v in (before, after)]
                assert torch.allclose(angle[1], (1 - share) * angle[0], atol=1e-3)
    assert torch.allclose(lower_arms(joints, 0.0), joints, atol=1e-6)
    left = lower_arms(joints, 0.5, ("left",))
    assert torch.equal(left[..., [17, 19, 21], :], joints[..., [17, 19, 21], :])
    assert not torch.allclose(left[..., 20, :], joints[..., 20, :], atol=0.05)


def test_arms_of_the_other_skeleton_are_found_by_name():
    names = [[KIT_ML.joint_names[j] for j in arm] for arm in arm_joints(KIT_ML)]
    assert all(name.startswith("left_") for name in names[0]) and all(name.startswith("right_") for name in names[1])


def test_knees_bend_and_feet_stay(batch):
    joints = batch.joints
    bent = bend_knees(joints, 0.2)
    assert torch.allclose(bones(bent), bones(joints), atol=1e-4)
    assert torch.equal(bent[..., [7, 8, 10, 11], :], joints[..., [7, 8, 10, 11], :])
    sunk = joints[..., 0, 1] - bent[..., 0, 1]
    assert sunk.max() == pytest.approx(0.2, abs=1e-5) and sunk.min() >= 0
    assert torch.equal(bend_knees(joints, 0.0), joints)


def test_time_is_shifted_and_the_ends_are_held():
    clip = torch.arange(5.0)[:, None, None].expand(5, 22, 3)
    assert shift_time(clip, 2)[:, 0, 0].tolist() == [0, 0, 0, 1, 2]
    assert shift_time(clip, -1)[:, 0, 0].tolist() == [1, 2, 3, 4, 4]
    assert math.isclose(float(shift_time(clip, 9).sum()), 0)
