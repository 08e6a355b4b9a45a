"""The gradient of the reward itself, through the last denoising steps (DRaFT, arXiv 2309.17400; ReFL, arXiv 2304.05977)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mocapfree_nb.algorithms.loop import SampleConfig, SampleTrainer, Samples, draw_states, predict_x0
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy, draw_seeds, sample_steps
from mocapfree_nb.setting_checks import check_settings
from mocapfree_nb.rewards import Reward, checked_scores
from mocapfree_nb.tasks import draw_prompts
from mocapfree_nb.text import TextEmbedding

__all__ = ["end_with_gradient", "reward_gradient_loss", "check_differentiable", "RewardGradientConfig", "RewardGradientTrainer"]


def end_with_gradient(
    policy: DiffusionPolicy, text: TextEmbedding, lengths: Tensor, seeds: Tensor, first: int, shortcut: bool = False
) -> Tensor:
    """Clean states (batch, rows, width) at the end of trajectories whose steps from `first` on carry a gradient.

    The state before step `first` is a constant. With `shortcut` the trajectory ends there: what is returned is the x0
    predicted at that step.
    """
    steps = sample_steps(policy, text, lengths, seeds)
    with torch.no_grad():
        for _ in range(first + 1):  # the noise, then `first` steps
            next(steps)
    if shortcut:
        return next(steps)[2]
    return [state for state, _, _ in steps][-1]


def reward_gradient_loss(scores: Tensor) -> Tensor:
    """The mean score (batch,), turned round: its gradient is that of the reward through the sampler."""
    return -scores.mean()


def check_differentiable(reward: Reward, motion: Tensor, lengths: Tensor, prompts: Sequence[str]) -> None:
    """Raise `UserError` unless the reward of raw motion (batch, frames, features) has a gradient in the motion."""
    motion = motion.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            scores = checked_scores(reward, motion, lengths, prompts)
            found = torch.autograd.grad(scores.sum(), motion, allow_unused=True)[0] if scores.requires_grad else None
    except (RuntimeError, UserError) as error:  # it turns the motion into numpy, or changes it in place
        cause = error.__cause__ or error
        if not isinstance(cause, RuntimeError):
            raise
        raise UserError(f"the reward cannot be differentiated ({cause}); give one in torch, or use another algorithm") from error
    if found is None or not bool(found.isfinite().all()):
        what = "no gradient" if found is None else "a gradient that is not finite"
        raise UserError(
            f"the reward has {what} with respect to the motion, which this algorithm follows: compute it from the motion "
            "with torch throughout, or use another algorithm (ddpo, nft)"
        )


@dataclass(frozen=True)
class RewardGradientConfig(SampleConfig):
    """Settings of `RewardGradientTrainer`."""

    updates: int = 1  # each with new motions
    batch_size: int = 48  # motions in an update
    last_steps: int = 1  # of a trajectory: those that the gradient passes through
    shortcut: bool = False  # ReFL: the x0 predicted at one of the last steps, drawn at random, is what is scored

    def __post_init__(self):
        super().__post_init__()
        check_settings(self, whole={"last_steps": 1}, flags=("shortcut",))
        if self.diversity:
            raise UserError("diversity compares a motion with others of its prompt; this algorithm draws no groups: set it to 0")


@dataclass(frozen=True)
class _Start:
    prompts: list[str]
    lengths: Tensor
    seeds: Tensor


class RewardGradientTrainer(SampleTrainer):
    """Sample, score, and follow the gradient of the score through the last steps."""

    settings_type = RewardGradientConfig

    @classmethod
    def check_reward(cls, policy: DiffusionPolicy, reward: Callable, prompts: list[str], lengths: Tensor) -> None:
        with torch.no_grad():
            motion = policy.generate(prompts[:1], lengths[:1])
        check_differentiable(reward, motion, lengths[:1].to(motion.device), prompts[:1])

    def prepare(self) -> None:
        super().prepare()
        if self.config.last_steps > self.policy.steps:
            raise UserError(f"last_steps should be at most the {self.policy.steps} denoising steps, not {self.config.last_steps}")

    def collect(self) -> tuple[list[_Start], dict[str, float]]:
        batches, count = [], self.config.batch_size
        for _ in range(self.config.updates):
            prompts, lengths = draw_prompts(self.prompts, self.lengths, count, self.generator)
            batches.append(_Start(prompts, lengths.to(self.policy.device), draw_seeds(count, self.generator)))
        return batches, {}

    def loss(self, batch: _Start) -> tuple[Tensor, dict[str, float]]:
        policy, config = self.policy, self.config
        first = policy.steps - config.last_steps
        if config.shortcut:
            first += int(torch.randint(config.last_steps, (1,), generator=self.generator))
        text, seeds = policy.encode(batch.prompts), batch.seeds.to(policy.device)
        x0 = end_with_gradient(policy, text, batch.lengths, seeds, first, config.shortcut)
        motion = policy.to_raw(x0, batch.lengths)
        scores = checked_scores(self.reward, motion, batch.lengths, batch.prompts)
        loss, scores = reward_gradient_loss(scores), scores.detach()
        if config.kl_weight:
            gate = self.gate(scores, motion.detach(), batch.lengths, batch.prompts)
            loss = loss + self.hold(Samples(text, batch.lengths, x0.detach(), scores[None], gate))
        return loss, {"reward": float(scores.mean())}

    def hold(self, samples: Samples) -> Tensor:
        """The divergence from the base at these motions noised to random steps: the step that made them has no noise."""
        x0 = samples.x0
        step = torch.randint(self.policy.steps, (len(x0),), generator=self.generator)
        states = draw_states(self.policy, samples, torch.arange(len(x0), device=x0.device), step, self.generator)
        return self.divergence(predict_x0(self.policy, states), states)
