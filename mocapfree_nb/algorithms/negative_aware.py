"""DiffusionNFT (arXiv 2509.16117): towards good motions and away from bad ones, around an old policy, without likelihoods."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mocapfree_nb.algorithms.loop import (
    SampleConfig, SampleTrainer, States, draw_states, predict_x0, prediction_errors, weights_of,
)  # fmt: skip
from mocapfree_nb.setting_checks import check_settings

__all__ = ["optimality", "implicit_policies", "nft_loss", "NegativeAwareConfig", "NegativeAwareTrainer"]


def optimality(rewards: Tensor) -> Tensor:
    """How probably a motion is a good one, in [0, 1], from rewards (groups, size): 1/2 + 1/2 clip((R - mean) / Z, -1, 1).

    The mean is that of its group, Z the deviation over all groups together.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    scale = centred.square().mean().sqrt()
    return 0.5 + 0.5 * (centred / scale.clamp_min(1e-6)).clamp(-1, 1)


def implicit_policies(predicted: Tensor, old: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The positive and the negative policy, as the paper makes them of the new and the old prediction:

    (1 - beta) old + beta new, and (1 + beta) old - beta new.
    """
    return (1 - beta) * old + beta * predicted, (1 + beta) * old - beta * predicted


def nft_loss(positive: Tensor, negative: Tensor, good: Tensor) -> Tensor:
    """Denoising errors (batch,) of both implicit policies, weighted by `optimality` (batch,): r e+ + (1 - r) e-, averaged."""
    return (good * positive + (1 - good) * negative).mean()


@dataclass(frozen=True)
class NegativeAwareConfig(SampleConfig):
    """Settings of `NegativeAwareTrainer`."""

    beta: float = 1.0  # how far the implicit policies lie from the old one
    old_share: float = 0.5  # of the old policy that stays in it after an iteration; 0 samples with the newest

    def __post_init__(self):
        super().__post_init__()
        self.check_group()
        check_settings(self, whole={}, positive=("beta",), shares=("old_share",))


@dataclass(frozen=True)
class _Batch:
    states: States
    good: Tensor  # (batch,)
    old: Tensor  # (batch, rows, width) what the old policy predicts there


class NegativeAwareTrainer(SampleTrainer):
    """Sample groups with the old policy; train the new one on all of them, the bad ones by what they are not."""

    settings_type = NegativeAwareConfig

    def collect(self) -> tuple[list[_Batch], dict[str, float]]:
        if self.old is None:
            self.old = [p.detach().clone() for p in self.parameters]
        batches = []
        with weights_of(self.parameters, self.old):
            samples = self.draw_groups()
            good = optimality(samples.rewards).flatten()
            every = torch.arange(len(good), device=good.device)
            for _ in range(self.config.updates):
                rows, step = self.draw_rows(every)
                states = draw_states(self.policy, samples, rows, step, self.generator)
                batches.append(_Batch(states, good[rows], predict_x0(self.policy, states)))
        return batches, {"reward": float(samples.rewards.mean())}

    def loss(self, batch: _Batch) -> tuple[Tensor, dict[str, float]]:
        predicted = predict_x0(self.policy, batch.states)
        both = implicit_policies(predicted, batch.old, self.config.beta)
        errors = [prediction_errors(self.policy, x0, batch.states) for x0 in both]
        return nft_loss(*errors, batch.good) + self.divergence(predicted, batch.states), {}

    def learn(self) -> dict:
        record = super().learn()
        with torch.no_grad():
            torch._foreach_lerp_(self.old, [p.detach() for p in self.parameters], 1 - self.config.old_share)
        return record
