"""The share that passes the geometric check, action by action."""

import json

import pytest
from command import command

from mocapfree_nb.by_action import FRESH, by_action_text, clips_to_ask_for, evaluate_by_action
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.files import WEIGHTS, UserError


@pytest.fixture(scope="module")
def asked():
    clips = load_corpus(num_clips=400, seed=5)
    labels = [("kick-left",), ("walk-forward",), ("stand",)]
    return [clip for label in labels for clip in clips if clip.actions == label][:12] + [
        clip for clip in clips if len(clip.actions) == 2
    ][:4]


def test_shares_are_those_of_each_label_and_clips_pass_their_own_check(asked):
    rows = evaluate_by_action(WEIGHTS / "denoiser-leave-one-out", asked, progress=False)
    model, clips = rows["model"], rows["clips"]
    assert clips["verified"] == 1 and clips["bone_deviation"] < 1e-3 and clips["composed"] == (1, 4)
    assert set(model["actions"]) == {"+".join(clip.actions) for clip in asked if len(clip.actions) == 1}
    assert model["n"] == 16 and sum(n for _, n in model["actions"].values()) == 12
    total = sum(share * n for share, n in [*model["actions"].values(), model["composed"]])
    assert model["verified"] == pytest.approx(total / 16)
    shares = [share for share, _ in model["actions"].values()]
    assert shares == sorted(shares) and model["actions"]["kick-left"][0] == 0  # it was left out of this model's training
    assert 0.02 > model["bone_deviation"] > clips["bone_deviation"] and model["interval"][0] <= model["verified"]
    text = by_action_text(rows)
    assert "kick-left" in text.splitlines()[3] and text.count("\n") == 2 + len(shares) + 3


def test_clips_that_no_check_knows_are_refused(asked):
    strange = [type(asked[0])(clip.name, clip.features, clip.captions, ("juggle",)) for clip in asked[:2]]
    with pytest.raises(UserError, match="no label of these clips has a check"):
        evaluate_by_action(WEIGHTS / "denoiser", strange, progress=False)


def test_what_is_asked_for_is_new_and_the_same_every_time():
    fresh, known = clips_to_ask_for("procedural"), load_corpus()
    assert len(fresh) == FRESH["num_clips"] and FRESH["seed"] not in (0, 1)
    features = {clip.features.tobytes() for clip in known}
    assert not any(clip.features.tobytes() in features for clip in fresh)
    assert [clip.captions[0] for clip in fresh[:50]] == [clip.captions[0] for clip in clips_to_ask_for("procedural")[:50]]


def test_the_command_prints_a_table_and_writes_it(asked, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("mocapfree_nb.by_action.clips_to_ask_for", lambda *_: asked)
    out = tmp_path / "row.json"
    words = ["--by-action", "--denoising-steps", "2", "--device", "cpu", "--out", out]
    status, said, _ = command(capsys, monkeypatch, "evaluate", *words)
    assert status == 0 and "walk-forward" in said and "composed of two" in said
    assert json.loads(out.read_text())["clips"]["verified"] == 1
