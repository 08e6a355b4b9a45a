"""Advantages against the authors' public code, against autograd, and as promised."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small_policy import height, make_policy

from mocapfree_nb.advantages import (
    PromptTracker,
    branching_advantages,
    collect_branches,
    group_advantages,
    per_step_advantages,
    temporal_differences,
    timestep_weights,
)  # fmt: skip
from mocapfree_nb.denoiser import Denoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy

REFERENCE = np.load(Path(__file__).parent / "reference" / "ddpo.npz", allow_pickle=False)
TRAINING = ["raises both arms", "lifts both hands"]


@pytest.mark.parametrize("case", ["buffer16_min16", "buffer16_min4"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
def test_tracker_gives_the_advantages_of_the_reference(case, dtype, tolerance):
    rewards = REFERENCE[f"tracker/{case}/{dtype}/rewards"]
    tracker = PromptTracker(16, int(REFERENCE[f"tracker/{case}/min_count"]))
    for epoch, prompts in enumerate(REFERENCE[f"tracker/{case}/prompts"]):
        advantages = tracker.update(torch.from_numpy(rewards[epoch]), prompts.tolist())
        expected = REFERENCE[f"tracker/{case}/{dtype}/advantages"][epoch]
        np.testing.assert_allclose(advantages, expected, rtol=0, atol=tolerance)


def test_group_advantages_are_zero_mean_unit_deviation_within_each_prompt():
    rewards = torch.rand(24, 5, dtype=torch.float64)
    prompts = [f"prompt {i % 3}" for i in range(24)]
    advantages = group_advantages(rewards, prompts)
    for start in range(3):
        group = advantages[start::3]
        torch.testing.assert_close(group.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(group.std(0, correction=0), torch.ones(5, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_group_of_equal_rewards_has_no_advantage_even_with_rounding():
    rewards = torch.full((7,), 0.1)
    assert (group_advantages(rewards, ["same"] * 7) == 0).all()


def test_advantages_need_one_prompt_a_reward():
    with pytest.raises(ValueError, match="3 rewards for 2 prompts"):
        group_advantages(torch.zeros(3), ["a", "b"])


def test_temporal_differences_telescope_and_with_exact_values_are_the_true_advantages():
    # two steps of two equally likely actions each: the value of a state is the mean reward of what it can end in
    ends = torch.tensor([[0.2, 0.6], [0.5, 0.9]])  # (first action, second action)
    first, second = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])  # all four trajectories
    values = torch.stack([ends.mean().expand(4), ends.mean(1)[first], ends[first, second]], dim=1)
    differences = temporal_differences(values)
    torch.testing.assert_close(differences, torch.tensor([[-0.15, -0.2], [-0.15, 0.2], [0.15, -0.2], [0.15, 0.2]]))
    torch.testing.assert_close(differences.sum(1), ends[first, second] - ends.mean())
    shared, own = torch.tensor([0.0, 3.0, -2.0]), torch.tensor([[0.0, -0.4, 0.0]] * 2 + [[0.0, 0.0, 0.0]] * 2)
    same, prompts = per_step_advantages(values, ["a"] * 4, PromptTracker()), ["a"] * 4
    torch.testing.assert_close(per_step_advantages(values + shared, prompts, PromptTracker()), same, atol=1e-5, rtol=0)
    biased = per_step_advantages(values + own, prompts, PromptTracker())  # an error that tells states apart does not drop out
    assert (biased[:, 1] - same[:, 1]).abs().min() > 0.1


def test_every_step_is_lifted_to_one_size_and_keeps_its_order():
    shape = torch.tensor([-1.0, 0.5, 1.5, -1.0], dtype=torch.float64)
    scores = 0.7 + shape[:, None] * torch.tensor([0.01, 0.0004])
    found = branching_advantages(scores, [0] * 4, PromptTracker())
    expected = (shape / shape.square().mean().sqrt())[:, None].expand(4, 2)
    torch.testing.assert_close(found, expected, atol=4e-3, rtol=0)  # but for the eps that keeps rounding from counting


class Speaks(Denoiser):
    """A denoiser whose output is a tensor of ours, so that autograd can say how a log-probability depends on it."""

    def __init__(self, prediction, schedule="cosine", num_timesteps=50):
        super().__init__(4, prediction, schedule, num_timesteps)
        self.double()
        self.output = torch.randn(1, 8, 4, dtype=torch.float64, requires_grad=True)

    def forward(self, x_t, t, text, lengths, conditional=None):
        return self.output


SAMPLERS = {
    "ddim": {}, "half eta": {"eta": 0.5}, "floor": {"eta": 0.5, "min_std": 0.2}, "second order": {"solver": "sde-dpmsolver++2m"},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", ["cosine", "scaled_linear"])
@pytest.mark.parametrize("prediction", ["x0", "noise", "v"])
def test_weighted_steps_pull_equally_on_the_output_as_autograd_measures_it(prediction, schedule, sampler):
    denoiser = Speaks(prediction, schedule, 50 if schedule == "cosine" else 1000)
    policy = DiffusionPolicy(denoiser, steps=6, guidance_scale=1.0, **SAMPLERS[sampler])
    weights, text, lengths = timestep_weights(policy), policy.encode(["walks"]), torch.tensor([8])
    x_t, z, before = torch.randn(3, 1, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pull = []
    for step in range(5):
        mean, std, _ = policy.step(x_t, step, text, lengths, before)
        move = (mean + std * z).detach()
        (gradient,) = torch.autograd.grad(weights[step] * policy.step_log_prob(move, mean, std, lengths), denoiser.output)
        pull.append(gradient.norm())
    torch.testing.assert_close(torch.stack(pull), pull[0].expand(5), rtol=1e-6, atol=0)
    assert weights[5] == 0 and weights[:5].mean() == pytest.approx(1)


def test_weights_of_x0_prediction_are_sigma_over_what_the_mean_takes_of_x0_to_the_bit():
    policy = make_policy()
    plain = policy.stds / policy.x0_coefficients.abs()
    expected = torch.where(policy.stds > 0, plain / plain[policy.stds > 0].mean(), torch.zeros_like(plain))
    assert torch.equal(timestep_weights(policy), expected)


def test_branching_goes_on_from_one_candidate_and_prefers_the_one_whose_prediction_scores_best():
    policy = make_policy()
    experience = collect_branches(
        policy, height, TRAINING, torch.tensor([24, 30]), "branching", 4, torch.Generator().manual_seed(3), PromptTracker()
    )
    text, lengths = experience.text[experience.origin], experience.lengths[experience.origin]
    for step in range(5):
        x0 = policy.step(experience.after[step], step + 1, text, lengths)[2]
        scores = height(policy.to_raw(x0, lengths), lengths, None).view(2, 4)
        torch.testing.assert_close(experience.advantages[:, step].view(2, 4).argmax(1), scores.argmax(1))
        if step < 4:
            moves = experience.after[step].view(2, 4, 30, 263)
            taken = (moves == experience.before[step + 1][:, None]).all((2, 3))
            assert taken.sum(1).tolist() == [1, 1]
    torch.testing.assert_close(experience.rewards, scores.flatten())


def test_a_reward_that_is_no_number_takes_its_own_advantage_only():
    rewards = torch.tensor([1.0, 3.0, float("nan"), 2.0, 5.0, float("inf")])
    advantages = group_advantages(rewards, ["a", "a", "b", "b", "c", "c"])
    assert advantages[:2].tolist() == pytest.approx([-1, 1])
    assert advantages.isnan().nonzero()[:, 0].tolist() == [2, 5]


def test_a_refused_reward_leaves_the_memory_of_the_tracker_as_it_was():
    tracker = PromptTracker()
    tracker.update(torch.tensor([1.0, 2.0]), ["a", "b"])
    before = {prompt: list(rewards) for prompt, rewards in tracker.rewards.items()}
    for bad in (float("nan"), float("inf"), 3e38):
        with pytest.raises(UserError, match="remembers none"):
            tracker.update(torch.tensor([3.0, bad]), ["a", "c"])
        assert {prompt: list(rewards) for prompt, rewards in tracker.rewards.items()} == before
