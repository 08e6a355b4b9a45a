"""Motions that are nearly right: arms lowered in the features that a retrieval network reads, and what InfoNCE makes of them."""

import math

import pytest
import torch

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.edits import lower_arms
from mocapfree_nb.features import features_to_joints, mirror
from mocapfree_nb.nearly_right import lower_some_arms, names_a_side, nearly_right
from mocapfree_nb.retrieval import info_nce, train_retrieval


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(num_clips=200, seed=4)


def clips(corpus, *labels):
    return torch.stack([torch.from_numpy(next(c for c in corpus if c.actions == (name,)).features[:30]) for name in labels])


def test_arms_lowered_in_the_features_are_arms_lowered_in_the_world(corpus):
    motion = clips(corpus, "circle-left", "raise-both-arms", "wave-left")
    share, arms = torch.tensor([0.3, 0.6, 1.0]), torch.tensor([0, 1, 2])
    lowered = lower_some_arms(motion, share, arms)
    for row, sides in enumerate((("left", "right"), ("left",), ("right",))):
        wanted = lower_arms(features_to_joints(motion[row]), float(share[row]), sides)
        assert torch.allclose(features_to_joints(lowered[row]), wanted, atol=1e-4)
    assert torch.equal(lowered[..., 67:], motion[..., 67:]) and torch.equal(lowered[..., :4], motion[..., :4])


def test_what_moves_no_arm_or_names_no_side_does_not_count(corpus):
    motion = clips(corpus, "stand", "raise-both-arms")
    wrong, counts = nearly_right(motion, torch.tensor([False, True]), torch.Generator().manual_seed(0))
    assert counts.tolist() == [[False, False], [True, True]]
    assert torch.equal(wrong[2:], mirror(motion)) and not torch.allclose(wrong[1], motion[1], atol=0.05)
    padded = torch.nn.functional.pad(motion, (0, 0, 0, 9))
    again, _ = nearly_right(padded, torch.tensor([False, True]), torch.Generator().manual_seed(0))
    assert torch.allclose(again[:, :30], wrong, atol=1e-6)
    assert names_a_side(["waves with the left hand", "stands upright"]).tolist() == [True, False]


def test_a_hard_negative_stands_in_the_denominator_of_its_own_text_alone():
    text, motion = torch.eye(2), torch.eye(2)
    hard = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    counts = torch.tensor([[True, False], [False, False]])
    e = math.exp(10)  # cosine 1 at temperature .1; cosine 0 gives 1
    of_text = (math.log(2 * e + 1) - 10 + math.log(e + 1) - 10) / 2  # the first text meets its motion's double
    of_motion = math.log(e + 1) - 10
    assert float(info_nce(text, motion, hard=(hard, counts))) == pytest.approx((of_text + of_motion) / 2, abs=1e-5)
    none = info_nce(text, motion, hard=(hard, torch.zeros_like(counts)))
    assert torch.equal(none, info_nce(text, motion))


def test_training_takes_the_option(corpus):
    options = {"steps": 2, "batch_size": 8, "progress": False, "width": 16, "feedforward": 16, "motion_layers": 1}
    few = corpus.subset(corpus[i] for i in range(12))
    plain, hard = (train_retrieval(few, hard_negatives=wanted, **options)[1][-1] for wanted in (False, True))
    assert hard["contrastive"] > 0 and hard["contrastive"] != plain["contrastive"]
