"""The explorer: what it computes, and that a moved slider asks again; no browser is needed."""

import pytest
import torch

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import WEIGHTS
from mocapfree_nb.output.explorer import SLIDERS, RewardExplorer, RewardQuestion

PROMPT = "a person <raises> both arms"


@pytest.fixture(scope="module")
def motion():
    return next(clip for clip in load_corpus(num_clips=200, seed=9) if clip.actions == ("raise-both-arms",)).features


def height(motion, lengths, prompts):
    return features_to_joints(motion)[..., [20, 21], 1].amin(-1).amax(1)


def test_an_unedited_motion_is_the_motion_and_a_lowered_arm_costs_height_and_check(motion):
    ask = RewardQuestion(motion, PROMPT, height, "raise-both-arms")
    whole, lowered = ask(), ask(right=0.5)
    assert torch.allclose(whole.joints, features_to_joints(torch.from_numpy(motion)))
    assert whole.reward == pytest.approx(float(ask.joints[:, [20, 21], 1].amin(-1).amax()), abs=1e-4)
    assert whole.passes is True and lowered.passes is False and lowered.reward < whole.reward - 0.3
    assert whole.distance is None and "evaluator" not in str(whole) and str(lowered).endswith("check: fails")
    assert torch.allclose(lowered.joints[:, 20], whole.joints[:, 20]) and ask(knees=0.2).joints[0, 0, 1] < 0.8
    assert torch.equal(ask(shift=5).joints[5:], whole.joints[:-5])


def test_the_evaluator_finds_a_motion_with_its_arms_down_further_from_the_prompt(motion):
    evaluator = EvaluatorModel.from_folder(WEIGHTS / "evaluator")
    ask = RewardQuestion(motion, PROMPT.replace("<", "").replace(">", ""), height, evaluator=evaluator)
    assert ask(left=1.0, right=1.0).distance > ask().distance > 0 and ask().passes is None


def test_a_moved_slider_asks_again(motion):
    explorer = RewardExplorer(motion, PROMPT, height, "raise-both-arms")
    before = explorer.player.scene
    explorer.sliders["left"].value = 0.6
    assert explorer.answer.reward == explorer.question(left=0.6).reward
    assert explorer.answer.passes is False and len(explorer.rewards) == 2 and explorer.player.scene is not before
    assert "check: fails" in str(explorer.player.scene) and set(explorer.sliders) == set(SLIDERS)
    explorer.sliders["left"].value = 0.0
    assert explorer.answer.reward == pytest.approx(explorer.first.reward, abs=1e-5)
    page = explorer.to_html()
    assert "<raises>" not in page and "check: passes" in page
