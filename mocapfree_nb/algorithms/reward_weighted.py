"""Reward-weighted fine-tuning: the best of each group becomes training data (RAFT, arXiv 2304.06767)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mocapfree_nb.algorithms.loop import SampleConfig, SampleTrainer, States, draw_states, predict_x0, prediction_errors
from mocapfree_nb.files import UserError
from mocapfree_nb.setting_checks import check_settings

__all__ = ["best_of_groups", "reward_weighted_loss", "RewardWeightedConfig", "RewardWeightedTrainer"]


def best_of_groups(rewards: Tensor, keep: int) -> Tensor:
    """Weights (groups, size) of motions with `rewards` (groups, size): 1 for the `keep` best of a group, 0 for the others.

    A group whose rewards are all alike has no best: all its weights are 0.
    """
    weights = torch.zeros_like(rewards).scatter(1, rewards.topk(keep, dim=1).indices, 1.0)
    return weights * (rewards.amax(1) > rewards.amin(1))[:, None]


def reward_weighted_loss(errors: Tensor, weights: Tensor) -> Tensor:
    """Denoising errors (batch,) averaged by weights (batch,): sum w e / sum w (reward-weighted regression)."""
    return (weights * errors).sum() / weights.sum()


@dataclass(frozen=True)
class RewardWeightedConfig(SampleConfig):
    """Settings of `RewardWeightedTrainer`."""

    keep: int = 2  # of a group: the best

    def __post_init__(self):
        super().__post_init__()
        self.check_group()
        check_settings(self, whole={"keep": 1})
        if self.keep >= self.motions_per_prompt:
            raise UserError(f"keep should be below motions_per_prompt, {self.motions_per_prompt}: to keep all is to choose none")


class RewardWeightedTrainer(SampleTrainer):
    """Sample groups, keep the best, lower their denoising loss at the policy's own timesteps."""

    settings_type = RewardWeightedConfig

    def collect(self) -> tuple[list[tuple[States, Tensor]], dict[str, float]]:
        samples = self.draw_groups()
        weights = best_of_groups(samples.rewards, self.config.keep).flatten()
        chosen, batches = weights.nonzero()[:, 0], []
        for _ in range(self.config.updates if len(chosen) else 0):
            rows, step = self.draw_rows(chosen)
            batches.append((draw_states(self.policy, samples, rows, step, self.generator), weights[rows]))
        return batches, {"reward": float(samples.rewards.mean())}

    def loss(self, batch: tuple[States, Tensor]) -> tuple[Tensor, dict[str, float]]:
        states, weights = batch
        predicted = predict_x0(self.policy, states)
        errors = prediction_errors(self.policy, predicted, states)
        return reward_weighted_loss(errors, weights) + self.divergence(predicted, states), {}
