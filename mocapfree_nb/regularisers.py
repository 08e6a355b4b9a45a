"""What keeps a policy from fooling its reward: settings that the algorithms share, and the gate of the KL term."""

# Two of the four change the reward (`rewards.worst_case`, `rewards.diverse`), so any algorithm can have them. The other two
# hold the policy near the base: a divergence, and which motions it counts for. Lesson 38 shows what each does.

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mocapfree_nb.advantages import Experience
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.rewards import Reward, checked_scores, diverse, in_mirror, worst_case
from mocapfree_nb.setting_checks import check_settings

__all__ = ["RewardShaping", "Regularisers", "shaped_reward", "second_opinion", "win_rates", "overrated", "gate_most",
           "gate_states", "check_divergence"]


@dataclass(frozen=True)
class RewardShaping:
    """Settings that change what a motion earns while it is learnt from; evaluation is by the reward as it is."""

    worst_case: float = 0.0  # metres: the lowest reward of a motion and of some whose joints are moved so far
    diversity: float = 0.0  # 0 to 1: how much of a motion's lead over its group depends on its distance to the others

    def __post_init__(self):
        check_settings(self, whole={}, not_negative=("worst_case",), shares=("diversity",))


@dataclass(frozen=True)
class Regularisers(RewardShaping):
    """The same and, for algorithms that sample with the policy they train, a divergence from the policy before training."""

    kl_weight: float = 0.0
    kl_gate: float = 1.0  # share of the motions it counts for: those that the reward overrates most (GARDO); 1 for all

    def __post_init__(self):
        super().__post_init__()
        check_settings(self, whole={}, not_negative=("kl_weight",), shares=("kl_gate",))


def shaped_reward(reward: Reward, config: RewardShaping) -> Reward:
    """The reward as `config` has it: its worst case, spread within a prompt, or as it is."""
    if config.worst_case:
        reward = worst_case(partial(checked_scores, reward), config.worst_case)
    return diverse(partial(checked_scores, reward), config.diversity) if config.diversity else reward


def second_opinion(reward: Reward, config: Regularisers, second: Reward | None = None) -> Reward | None:
    """What the gate compares the reward with: `second`, else the reward's view of the mirror image; None without a gate."""
    if not config.kl_weight or config.kl_gate == 1:
        return None
    return partial(checked_scores, second or in_mirror(reward))


def win_rates(scores: Tensor) -> Tensor:
    """Share of the batch that each of `scores` (batch,) beats, a tie counting half: (batch,)."""
    ahead = scores[:, None] - scores
    return ((ahead > 0).float() + (ahead == 0).float() / 2).mean(1)


def overrated(scores: Tensor, *opinions: Tensor) -> Tensor:
    """How much better a reward thinks of each motion than others do, (batch,) in [-1, 1].

    The win rate by `scores` (batch,) minus the mean of those by `opinions` (GARDO, arXiv 2512.24138): no scale is compared.
    """
    return win_rates(scores) - torch.stack([win_rates(opinion) for opinion in opinions]).mean(0)


def gate_most(uncertainty: Tensor, share: float) -> Tensor:
    """1 for the `share` of the batch with the highest `uncertainty` (batch,) as far as it is above 0; else 0."""
    chosen = uncertainty.topk(round(share * len(uncertainty))).indices
    return torch.zeros_like(uncertainty).scatter(0, chosen, 1.0) * (uncertainty > 0)


def gate_states(experience: Experience, opinion: Callable[..., Tensor], share: float) -> Experience:
    """The same with a gate for each state: the `share` whose motions (of candidates their mean) the reward overrates most."""
    origin = experience.origin
    found = opinion(experience.motion, experience.lengths[origin], experience.prompts)
    over, whole = overrated(experience.rewards, found), torch.zeros_like(experience.gate)
    mean = whole.index_add(0, origin, over) / whole.index_add(0, origin, torch.ones_like(over))
    return replace(experience, gate=gate_most(mean, share))


def check_divergence(policy: DiffusionPolicy, config: Regularisers) -> None:
    """Raise `UserError` where a divergence is wanted of a policy none of whose steps has a density."""
    if config.kl_weight and not bool((policy.stds > 0).any()):
        raise UserError(
            f"kl_weight needs random steps, and {policy.solver} with eta 0 has none: no density, so no divergence; choose "
            "eta > 0, or hold the policy by distillation_weight"
        )
