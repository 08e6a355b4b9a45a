"""Preference pairs made by the reward, the base model as reference (Diffusion-DPO, arXiv 2311.12908; SoPo, arXiv 2412.05095)."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mocapfree_nb.algorithms.loop import SampleConfig, SampleTrainer, Samples, States, draw_states, predict_x0, prediction_errors
from mocapfree_nb.files import UserError
from mocapfree_nb.setting_checks import check_settings

__all__ = ["preference_pairs", "diffusion_dpo_loss", "PreferenceConfig", "PreferenceTrainer"]


def preference_pairs(rewards: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows (pairs,) of the better and of the worse motions: of each group (groups, size) the best with the worst, the
    second best with the second worst ... `count` pairs. A pair of equal rewards is none. Rows count through the groups."""
    order = rewards.argsort(1, descending=True) + torch.arange(len(rewards), device=rewards.device)[:, None] * rewards.shape[1]
    better, worse = order[:, :count].flatten(), order.flip(1)[:, :count].flatten()
    flat = rewards.flatten()
    differ = flat[better] > flat[worse]
    return better[differ], worse[differ]


def diffusion_dpo_loss(better: Tensor, worse: Tensor, base_better: Tensor, base_worse: Tensor, beta: float) -> Tensor:
    """Diffusion-DPO (equation 14) from denoising errors (batch,) of the policy and of the frozen base: a scalar.

    -log sigmoid(-beta ((better - base_better) - (worse - base_worse))), averaged.
    """
    return -F.logsigmoid(-beta * ((better - base_better) - (worse - base_worse))).mean()


@dataclass(frozen=True)
class PreferenceConfig(SampleConfig):
    """Settings of `PreferenceTrainer`."""

    batch_size: int = 24  # pairs in an update
    pairs: int = 3  # of a group
    beta: float = 100.0  # how dear it is to leave the base: large holds the policy near it

    def __post_init__(self):
        super().__post_init__()
        self.check_group()
        check_settings(self, whole={"pairs": 1}, positive=("beta",))
        if 2 * self.pairs > self.motions_per_prompt:
            most = self.motions_per_prompt // 2
            raise UserError(f"pairs should be at most {most}, half of motions_per_prompt, not {self.pairs}")


class PreferenceTrainer(SampleTrainer):
    """Sample groups, pair the better with the worse, and prefer by the denoising error, compared with the base's."""

    settings_type = PreferenceConfig

    def prepare(self) -> None:
        super().prepare()
        self.frozen = self.policy.with_denoiser(copy.deepcopy(self.policy.denoiser))

    def collect(self) -> tuple[list[tuple[States, States]], dict[str, float]]:
        samples = self.draw_groups()
        better, worse = preference_pairs(samples.rewards, self.config.pairs)
        batches = [self._draw_pairs(samples, better, worse) for _ in range(self.config.updates if len(better) else 0)]
        return batches, {"reward": float(samples.rewards.mean())}

    def _draw_pairs(self, samples: Samples, better: Tensor, worse: Tensor) -> tuple[States, States]:
        """States of both motions of random pairs, at one step and with one noise."""
        chosen, step = self.draw_rows(torch.arange(len(better), device=better.device))
        same_noise = torch.Generator()
        same_noise.set_state(self.generator.get_state())
        return (
            draw_states(self.policy, samples, better[chosen], step, same_noise),
            draw_states(self.policy, samples, worse[chosen], step, self.generator),
        )

    def loss(self, batch: tuple[States, States]) -> tuple[Tensor, dict[str, float]]:
        predicted = [predict_x0(self.policy, states) for states in batch]
        errors = [prediction_errors(self.policy, x0, states) for x0, states in zip(predicted, batch, strict=True)]
        with torch.no_grad():
            base = [prediction_errors(self.frozen, predict_x0(self.frozen, states), states) for states in batch]
            right = (errors[0] - base[0] < errors[1] - base[1]).float().mean()
        held = sum(self.divergence(x0, states) for x0, states in zip(predicted, batch, strict=True)) / 2
        return diffusion_dpo_loss(*errors, *base, self.config.beta) + held, {"pairs_right": float(right)}
