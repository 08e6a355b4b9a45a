"""Rows of numbers: intervals over captions, R-precision row by row, the floor of FID."""

import numpy as np
import pytest
import torch

from mocapfree_nb import metrics
from mocapfree_nb.evaluation import bootstrap_interval, fresh_clips


def test_the_mean_of_the_marks_is_r_precision():
    draw = torch.Generator().manual_seed(0)
    text, motion = torch.randn(70, 6, generator=draw), torch.randn(70, 6, generator=draw)
    marks = metrics.precision_marks(text, motion)
    assert marks.shape == (64, 3) and torch.equal(marks.mean(0), metrics.r_precision(text, motion))
    rivals, draws = torch.randn(40, 6, generator=draw), [torch.Generator().manual_seed(1) for _ in range(2)]
    marks = metrics.precision_marks(text, motion, distractors=rivals, generator=draws[0])
    assert marks.shape == (70, 3)
    assert torch.equal(marks.mean(0), metrics.r_precision(text, motion, distractors=rivals, generator=draws[1]))


def test_an_interval_over_captions_is_that_of_their_means():
    rng = np.random.default_rng(0)
    shares = rng.random(26)
    values = torch.from_numpy((rng.random((4, 26)) < shares).astype(np.float64)).flatten()
    low, high = bootstrap_interval(values, torch.arange(104) % 26)
    means = values.view(4, 26).mean(0).numpy()
    expected = 1.96 * means.std() / np.sqrt(26)  # the normal approximation, captions as the sample
    assert (high - low) / 2 == pytest.approx(expected, rel=0.1) and (high + low) / 2 == pytest.approx(means.mean(), abs=0.02)
    alone = bootstrap_interval(values, torch.arange(104))
    assert high - low > 1.15 * (alone[1] - alone[0])  # motions of one caption are alike


def test_an_interval_without_spread_has_no_width_and_without_values_is_none():
    groups = torch.arange(8) % 4
    assert bootstrap_interval(torch.ones(8), groups) == [1, 1]
    assert bootstrap_interval(torch.full((8,), torch.nan), groups) is None
    some = torch.tensor([1.0, 1, torch.nan, 1, 1, 1, torch.nan, 1])
    assert bootstrap_interval(some, groups) == [1, 1]  # a caption that nobody can check does not count


def test_fresh_clips_show_the_labels_asked_for_and_are_in_no_corpus():
    from mocapfree_nb.corpus import load_corpus

    clips = fresh_clips(["kick-left", "bow", "kick-left"], 6)
    assert len(clips) == 6 and {clip.actions for clip in clips} == {("kick-left",), ("bow",)}
    built_in = {clip.features.tobytes() for clip in load_corpus(num_clips=200) if clip.actions in (("kick-left",), ("bow",))}
    assert not {clip.features.tobytes() for clip in clips} & built_in
