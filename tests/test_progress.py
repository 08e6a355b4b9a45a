"""Bars of phases that only generate: they say which phase, count its motions, and are silent when asked to be."""

import sys

import pytest
import torch

from mocapfree_nb.best_of_n import best_of_n
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.progress import phase_bar
from mocapfree_nb.tasks import EvaluationPrompts

PROMPTS = EvaluationPrompts(["a person walks", "a person waves"], torch.tensor([24, 16]), ["walk", "wave"])


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return MotionDenoiser(width=16, layers=1, heads=2, feedforward=16, frames_per_token=4).eval()


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_bar_stands_there_at_once_and_ends_with_every_motion(denoiser, guidance, capsys):
    policy = DiffusionPolicy(denoiser, steps=3, guidance_scale=guidance)
    with phase_bar(policy, "full data", 5):
        said = capsys.readouterr()
        assert said.out == "" and "full data:   0%" in said.err and "0/5 motions" in said.err
        policy.generate(["walks"] * 5, [16] * 5)
    said = capsys.readouterr().err
    assert "full data: 100%" in said and "5/5 motions" in said
    assert said.count("\n") == 1 and "note" not in said and said.count("\r") < 4  # one line, not one for each of the steps
    policy.generate(["walks"], [16])  # outside: counted no more
    assert not denoiser._forward_hooks and capsys.readouterr().err == ""


def test_many_fractions_end_at_the_whole(denoiser, capsys):
    policy = DiffusionPolicy(denoiser, steps=7, guidance_scale=1.0)
    with phase_bar(policy, "after", 40):
        for _ in range(40):
            policy.generate(["walks"], [16])
    said = capsys.readouterr().err
    assert "40/40 motions" in said and "clamping" not in said and "<-" not in said


def test_without_a_name_and_beside_the_main_process_there_is_no_bar(denoiser, capsys, monkeypatch):
    policy = DiffusionPolicy(denoiser, steps=2)
    with phase_bar(policy, None, 1):
        policy.generate(["walks"], [16])
    monkeypatch.setattr("mocapfree_nb.parallel.is_main", lambda: False)
    with phase_bar(policy, "before", 1):
        policy.generate(["walks"], [16])
    assert capsys.readouterr() == ("", "")


def test_best_of_n_counts_every_sample(denoiser, capsys):
    policy = DiffusionPolicy(denoiser, steps=2)
    arguments = (policy, PROMPTS, lambda motion, *_: motion[:, 0, 3], 3, 2)
    silent = best_of_n(*arguments)
    assert capsys.readouterr().err == ""
    assert torch.equal(best_of_n(*arguments, progress="best of N"), silent)
    assert "best of N: 100%" in (said := capsys.readouterr().err) and "12/12 motions" in said


def test_a_terminal_is_told_more_often_than_a_file(denoiser, monkeypatch):
    seen = {}
    monkeypatch.setattr("mocapfree_nb.progress.tqdm", lambda **options: seen.update(options) or _Bar())
    for terminal, seconds in ((True, 0.1), (False, 2)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda said=terminal: said, raising=False)
        with phase_bar(DiffusionPolicy(denoiser, steps=2), "after", 1):
            assert seen["mininterval"] == seconds and seen["file"] is sys.stderr


class _Bar:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass
