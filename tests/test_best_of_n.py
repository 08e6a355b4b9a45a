"""Best of N at the adaptation's own cost: calls are counted, and the reward's favourite is kept."""

import pytest
import torch

from mocapfree_nb.best_of_n import best_of_n, samples_for
from mocapfree_nb.calls import count_calls
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.tasks import EvaluationPrompts

PROMPTS = EvaluationPrompts(["a person walks", "a person waves"], torch.tensor([24, 16]), ["walk", "wave"])


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return MotionDenoiser(width=16, layers=1, heads=2, feedforward=16, frames_per_token=4).eval()


@pytest.mark.parametrize("guidance, calls", [(1.0, 12), (2.5, 24)])
def test_calls_are_motions_times_steps_times_branches(denoiser, guidance, calls):
    policy = DiffusionPolicy(denoiser, steps=3, guidance_scale=guidance)
    with count_calls(denoiser) as counted:
        policy.generate(["walks"] * 4, [16] * 4)
    policy.generate(["walks"], [16])  # outside: not counted
    assert counted.made == calls
    assert samples_for(calls * 5, policy, 4) == 5 and samples_for(calls * 5 + calls - 1, policy, 4) == 5
    assert samples_for(0, policy, 4) == 1


def test_the_first_is_the_usual_sample_and_more_only_helps_each_motion(denoiser):
    policy, seen = DiffusionPolicy(denoiser, steps=3), []

    def reward(motion, lengths, prompts):
        assert motion.shape == (4, 24, 263) and lengths.tolist() == [24, 16, 24, 16] and prompts == PROMPTS.prompts * 2
        seen.append(motion[:, :10, 3].mean(1))
        return seen[-1]

    one = best_of_n(policy, PROMPTS, reward, 1, repeats=2, seed=5)
    assert torch.equal(one, policy.generate(PROMPTS.prompts * 2, PROMPTS.lengths.repeat(2), seed=5))
    seen.clear()
    best = best_of_n(policy, PROMPTS, reward, 6, repeats=2, seed=5)
    scores = torch.stack(seen)
    assert scores.shape == (6, 4) and torch.equal(best[:, :10, 3].mean(1), scores.amax(0))
    assert bool((scores.argmax(0) > 0).any())
