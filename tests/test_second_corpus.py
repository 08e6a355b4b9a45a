"""The second built-in corpus, the two together, and the experiment from one to the other."""

import functools
import json
import re

import numpy as np
import pytest
import torch

from mocapfree_nb import experiment, selection, tasks
from mocapfree_nb.built_in import built_in, join
from mocapfree_nb.cli import adapting
from mocapfree_nb.corpus import load_corpus, more_training_clips
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError
from mocapfree_nb.learning import make_config
from mocapfree_nb.models import shipped
from mocapfree_nb.off_policy import MANY_ACTIONS, LearnConfig
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML
from mocapfree_nb.synthetic.actions import ACTIONS
from mocapfree_nb.synthetic.kinematics import BONE_LENGTHS
from mocapfree_nb.synthetic.second import ACTIONS_B, MISSING, NEW, SECOND, generate_second_clips
from mocapfree_nb.synthetic.terse_captions import past, write_terse_caption
from mocapfree_nb.verify import CHECKS, verify

BROKEN = re.compile(r"\b(runing|joging|claping|goed|maked|standed|doing not|bended|heldd|squating)\b")
A = load_corpus("procedural", num_clips=300)
B = load_corpus("procedural-b", num_clips=300)
JOINTS, LABELS, _ = generate_second_clips(500, seed=2)


def bones(joints: np.ndarray) -> np.ndarray:
    "Mean lengths (21,) of the bones of joints (T, 22, 3)."
    parents = list(HUMANML3D.parents[1:])
    return np.linalg.norm(joints[:, 1:] - joints[:, parents], axis=-1).mean(0)


def test_the_same_seed_gives_the_same_clips_and_another_seed_others():
    one, labels, captions = generate_second_clips(40, seed=3)
    again, same, said = generate_second_clips(40, seed=3)
    assert labels == same and captions == said
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert generate_second_clips(40, seed=4)[1] != labels


def test_it_is_another_body_with_the_same_joints_and_features():
    joints = JOINTS[:60]
    ratio = np.mean([bones(one) for one in joints], 0) / BONE_LENGTHS[1:]
    legs, arms, shoulders = ratio[[3, 4, 6, 7]], ratio[[17, 18, 19, 20]], ratio[[12, 13, 15, 16]]
    assert np.allclose(legs, 1.07, atol=0.01) and np.allclose(arms, 0.92, atol=0.015) and np.allclose(shoulders, 0.8, atol=0.01)
    assert {one.shape[1:] for one in joints} == {(22, 3)} and {clip.features.shape[1] for clip in B} == {263}
    back = features_to_joints(torch.as_tensor(B[0].features)).numpy()
    assert np.allclose(bones(back)[[3, 4, 6, 7]] / BONE_LENGTHS[[4, 5, 7, 8]], 1.07, atol=0.02)


def test_it_is_written_at_12_5_frames_a_second_and_kept_at_20():
    joints = JOINTS[:60]
    assert SECOND.fps == 12.5 and {len(one) for one in joints} <= {int(n / 12.5 * 20 + 1e-6) + 1 for n in range(20, 32)}
    assert all(35 <= len(one) <= 49 for one in joints)
    apart = np.mean([np.abs(np.diff(one, n=3, axis=0)).mean() for one in joints])
    made = generate_clips(60, seed=1)
    rough = np.mean([np.abs(np.diff(made.joints[i, :n], n=3, axis=0)).mean() for i, n in enumerate(made.lengths)])
    assert apart < rough  # a slower person, smoothed between frames


def test_partly_other_actions():
    assert len(set(ACTIONS_B) - set(ACTIONS)) == len(NEW) >= 4 and not set(ACTIONS_B) & set(MISSING)
    assert set(MISSING) < set(ACTIONS) and len(set(ACTIONS_B) & set(ACTIONS)) > 25
    assert set(B.actions) == set(ACTIONS_B)


def test_the_checks_of_the_first_corpus_hold_for_its_clips():
    passed = []
    for own in sorted(set(LABELS)):
        if all(label in CHECKS for label in own):
            rows = [one for one, found in zip(JOINTS, LABELS, strict=True) if found == own]
            lengths = torch.tensor([len(one) for one in rows])
            padded = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(one) for one in rows], batch_first=True)
            passed += verify(padded, "+".join(own), lengths).tolist()
    assert np.mean(passed) > 0.98 and len(passed) > 350


def test_new_actions_do_what_they_are_called():
    of = {name: [one for one, own in zip(JOINTS, LABELS, strict=True) if own == (name,)] for name in NEW}
    for one in of["jog-in-place"]:
        assert np.linalg.norm(one[-1, 0, ::2] - one[0, 0, ::2]) < 0.4 and (one[:, [7, 8], 1].max(0) > 0.15).all()
    for one in of["overhead-clap"]:
        assert (one[:, [20, 21], 1].max(0) > one[:, 15, 1].mean()).all()
        apart = np.linalg.norm(one[:, 20] - one[:, 21], axis=-1)
        assert apart.min() < 0.6 * apart.max()  # the wrists; there are no hands in 22 joints
    for one in of["push"]:
        reach = one[:, [20, 21]] - one[:, [16, 17]]
        assert (np.linalg.norm(reach[..., ::2], axis=-1).max(0) > 0.33).all()
    for side, name in enumerate(("balance-left", "balance-right")):
        for one in of[name]:
            assert one[:, 7 + side, 1].max() > 0.3 and one[:, 8 - side, 1].max() < 0.15
            assert np.linalg.norm(one[:, 20] - one[:, 21], axis=-1).max() > 1.0
    for one in of["stretch"]:
        assert one[:, 0, 1].min() < 0.8 and one[:, [20, 21], 1].max() > one[0, 15, 1]
    for one in of["box"]:
        ahead = (one[:, [20, 21]] - one[:, [16, 17]])[..., 2]
        assert (ahead.max(0) > 0.3).all()


def test_captions_are_in_another_manner():
    first, second = set(A.captions), set(B.captions)
    assert not first & second and sum(caption.endswith(".") for caption in second) > 0.7 * len(second)
    assert any(" performs " in caption for caption in second) and not any(" performs " in caption for caption in first)
    assert np.mean([len(caption.split()) for caption in second]) < 12
    assert all("{" not in caption and "|" not in caption and "  " not in caption for caption in second)


@pytest.mark.parametrize("verb, wanted", [("go", "went"), ("clap", "clapped"), ("jog", "jogged"), ("walk", "walked"),
                                          ("raise", "raised"), ("stand", "stood"), ("carry", "carried"), ("run", "ran")])
def test_past_tense(verb, wanted):
    assert past(verb) == wanted


def test_every_label_has_captions_without_broken_verbs():
    rng = np.random.default_rng(0)
    for label in ACTIONS_B:
        for _ in range(30):
            caption = write_terse_caption(rng, (label,), int(rng.integers(-1, 2)))
            assert not BROKEN.search(caption), caption


def test_no_sentence_of_a_split_is_in_another_even_over_both():
    both = join([A, B])
    said = {part: [c for clip in both.split(part) for c in clip.captions] for part in ("train", "val", "test")}
    plain = {part: {caption.lower().rstrip(".") for caption in captions} for part, captions in said.items()}
    assert not plain["train"] & (plain["test"] | plain["val"])
    assert {clip.name for clip in both} <= {clip.name for clip in [*A, *B]} and len(both) > 590
    frames = np.concatenate([clip.features for clip in both.split("train")]).astype(np.float64)
    assert np.allclose(both.mean, frames.mean(0), atol=1e-4)  # normalised together
    assert not np.allclose(both.mean, A.mean, atol=1e-3) and not np.allclose(both.mean, B.mean, atol=1e-3)


def test_a_name_with_a_plus_loads_both():
    both = load_corpus("procedural+procedural-b", num_clips=60)
    assert len(both) > 110 and set(both.actions) == set(ACTIONS) | set(ACTIONS_B) and "second" in both.source
    assert built_in("procedural-b") and built_in("procedural-b+procedural") and not built_in("procedural+kit")


def test_corpora_of_different_skeletons_are_not_joined():
    import dataclasses

    with pytest.raises(UserError, match="HumanML3D and KIT-ML"):
        join([A, dataclasses.replace(B, skeleton=KIT_ML)])


def test_more_training_clips_of_the_second_corpus():
    more = more_training_clips(B, 120, source="procedural-b")
    extra = list(more)[len(B) :]
    held = {caption for clip in B if clip.split != "train" for caption in clip.captions}
    assert len(extra) > 60 and {clip.name.startswith("procedural_b_1_") for clip in extra} == {True}
    assert not held & {caption for clip in extra for caption in clip.captions}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    "Small untrained networks in place of those that ship, small corpora, a short run."
    torch.manual_seed(0)
    for name, clips in (("denoiser", A), ("denoiser-b", B), ("retrieval-both", join([A, B])), ("evaluator-both", join([A, B]))):
        kinds = {"retrieval-both": RetrievalModel, "evaluator-both": EvaluatorModel}
        small = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32, "frames_per_token": 4}
        network = kinds[name]() if name in kinds else MotionDenoiser(**small)
        network.set_statistics(clips.mean, clips.std)
        network.save_pretrained(tmp_path / "weights" / name)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(experiment, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(shipped, "load_corpus", {"procedural": A, "procedural-b": B}.__getitem__)
    monkeypatch.setattr(experiment, "make_task", lambda *rest: tasks.make_task(*rest[:5], evaluation_prompts=8, retained=16))
    monkeypatch.setattr(experiment, "fit_scorer", functools.partial(selection.fit_scorer, most=100))
    monkeypatch.setattr(experiment, "HeldOutSelector", functools.partial(selection.HeldOutSelector, count=8, others=8))
    monkeypatch.setattr("mocapfree_nb.learning.MANY_SENTENCES", ExploreConfig(prompts=3, pool=3, near=3, proposals=7, keep=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("direction", ["a-to-b", "b-to-a"])
def test_the_recipe_of_a_direction(stand_ins, direction):
    recipe = shipped.cross_dataset_recipe(direction)
    first, second = ("denoiser", "denoiser-b") if direction == "a-to-b" else ("denoiser-b", "denoiser")
    assert recipe["model"].name == first and recipe["full_model"].name == second
    assert recipe["retrieval"].name == "retrieval-both" and recipe["evaluator"].name == "evaluator-both"
    assert (recipe["source"], recipe["corpus"]) == ((A, B) if direction == "a-to-b" else (B, A))
    assert isinstance(recipe["config"], LearnConfig)
    assert recipe["config"] == LearnConfig(rounds=1, **MANY_ACTIONS)


def test_a_task_between_corpora_learns_without_guidance_however_it_is_asked_for():
    assert not make_config("exploration", crossing=True).guided and make_config("exploration").guided
    given = {"guided": 1.0, "steps": 7}
    assert make_config("exploration", crossing=True, **given) == LearnConfig(**MANY_ACTIONS | given)
    assert make_config("ddpo", crossing=True) == make_config("ddpo")


def test_a_direction_or_network_that_is_not_there(stand_ins):
    with pytest.raises(UserError, match="a-to-b or b-to-a"):
        shipped.cross_dataset_recipe("b-to-c")
    with pytest.raises(UserError, match="mocapfree pretrain latent --corpus procedural-b --out .*latent-b"):
        shipped.cross_dataset_recipe("a-to-b", "latent")


def quick(direction: str, folder) -> dict:
    adapting.demo(
        experiment=adapting.Experiment.cross_dataset, direction=adapting.Direction(direction), algorithm="exploration", seed=0,
        iterations=1, settings=["steps=2", "batch_size=2", "retained_batch=2"], config=None, track=None, name=folder,
        model="transformer",
    )
    return json.loads((experiment.Path("runs") / folder / "report.json").read_text())


@pytest.mark.parametrize("direction", ["a-to-b", "b-to-a"])
def test_the_demo_reports_before_after_and_a_model_of_its_own(stand_ins, capsys, direction):
    values = quick(direction, "cross")
    assert values["experiment"] == "cross-dataset" and {"before", "after", "full_data"} <= set(values["target"])
    assert {"before", "after"} <= set(values["original"]) and values["held_out"]
    assert values["curves"][0]["proposals"] == 3 * 7 and values["config"]["guided"] == 0  # many sentences, many actions
    new, old = (B, A) if direction == "a-to-b" else (A, B)
    assert set(values["prompts"]["training"]) <= set(new.split("train").captions)  # captions of the target, no others
    assert set(values["prompts"]["evaluation"]) <= set(new.split("test").captions)
    said = capsys.readouterr().out
    assert "another data set" in said and "FID" in said and (experiment.Path("runs") / "cross" / "report.html").exists()
    with pytest.raises(UserError, match="is finished"):
        quick(direction, "cross")


def test_a_motion_of_another_data_set_is_sought_among_its_other_prompts():
    assert tasks.make_task(B, source=A, evaluation_prompts=8).among_itself
    assert not tasks.make_task(A, tasks.LEFT_OUT, evaluation_prompts=8).among_itself


@pytest.mark.parametrize("before, after, full, wanted", [(4.0, 3.0, 2.0, 0.5), (4.0, 5.0, 2.0, -0.5), (2.0, 1.0, 3.0, None)])
def test_share_of_the_fid_gap(before, after, full, wanted):
    rows = {"before": before, "after": after, "full_data": full}
    found = experiment.fid_gap_closed({"target": {key: {"fid": fid} for key, fid in rows.items()}})
    assert found == wanted
    assert experiment.fid_gap_closed({"target": {"before": {"fid": 1.0}}}) is None
