"""Best of N: what the base model reaches without learning, from as many network calls as an adaptation took."""

from collections.abc import Callable

import torch
from torch import Tensor

from mocapfree_nb.calls import calls_per_sample
from mocapfree_nb.evaluation import make_motion
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.progress import phase_bar
from mocapfree_nb.tasks import EvaluationPrompts

__all__ = ["samples_for", "best_of_n"]


def samples_for(calls: int, policy: DiffusionPolicy, motions: int) -> int:
    """How many samples each of `motions` motions may be the best of for so many network calls; at least 1."""
    return max(1, calls // (calls_per_sample(policy) * motions))


def best_of_n(
    policy: DiffusionPolicy,
    evaluation_prompts: EvaluationPrompts,
    reward: Callable[..., Tensor],
    samples: int,
    repeats: int = 4,
    seed: int = 0,
    progress: str | None = None,  # name of the progress bar, None for none
) -> Tensor:
    """Raw motion (repeats * n, frames, features): of `samples` for each, the one that the reward likes best.

    The first sample is what `evaluate_policy` generates with the same seed.
    """
    prompts = evaluation_prompts.prompts * repeats
    lengths = evaluation_prompts.lengths.repeat(repeats).to(policy.denoiser.feature_mean.device)
    with phase_bar(policy, progress, samples * len(prompts)):
        best = make_motion(policy, prompts, lengths, seed)
        scores = reward(best, lengths, prompts)
        for turn in range(1, samples):
            motion = make_motion(policy, prompts, lengths, seed + 1_000_003 * turn)
            found = reward(motion, lengths, prompts)
            better = found > scores
            best, scores = torch.where(better[:, None, None], motion, best), torch.where(better, found, scores)
    return best
