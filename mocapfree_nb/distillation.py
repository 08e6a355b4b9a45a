"""Gradients, and what holds a policy to its former self: self-distillation on retained prompts, divergence on its own."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mocapfree_nb import parallel
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy, Trajectory
from mocapfree_nb.pretrain import masked_mean_square

__all__ = ["gradient_of", "gradient_norm", "apply_gradients", "step_divergence", "self_distillation_loss",
           "distillation_gradient"]


def gradient_of(loss: Tensor, parameters: list[nn.Parameter]) -> Sequence[Tensor]:
    """Gradient of `loss`, 0 for a parameter that it does not depend on; `UserError` if it depends on none."""
    if not loss.requires_grad:
        raise UserError("none of the parameters to train has a part in denoising: unfreeze some that do, or use LoRA")
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)


def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """Euclidean norm of all of them together."""
    return float(torch.stack(torch._foreach_norm(gradients)).norm())


def apply_gradients(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], gradients: list[Tensor], largest: float, where: str
) -> None:
    """One step of the optimiser along gradients cut to norm `largest`; `UserError`, weights untouched, if one is not finite."""
    if not math.isfinite(norm := gradient_norm(gradients)):
        raise UserError(f"the gradient is {norm} {where}; the weights were not touched")
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, largest)
    optimizer.step()


def step_divergence(policy: DiffusionPolicy, shift: Tensor, std: Tensor, lengths: Tensor) -> Tensor:
    """KL divergence (batch,) of Gaussian steps whose means differ by `shift`, averaged as log-probabilities are."""
    at_mean, shifted = (policy.step_log_prob(x, torch.zeros_like(x), std, lengths) for x in (torch.zeros_like(shift), shift))
    return at_mean - shifted


def self_distillation_loss(policy: DiffusionPolicy, retained: Trajectory, at: Tensor, rows: Tensor) -> Tensor:
    """Mean squared change of the predicted x_0 at steps `at` (n,) of the frozen model's trajectories `rows` (n,)."""
    lengths = retained.lengths[rows]
    x0, _ = policy.predict(retained.states[at, rows], retained.timesteps[at], retained.text[rows], lengths)
    return masked_mean_square(x0 - retained.predicted_x0[at, rows], policy.denoiser.state_lengths(lengths))


def distillation_gradient(
    policy: DiffusionPolicy,
    retained: Trajectory,
    parameters: list[nn.Parameter],
    generator: torch.Generator,
    count: int,
    weight: float,
    micro_batch: int,
) -> tuple[list[Tensor], float]:
    """Gradient of `weight` times the `self_distillation_loss` at `count` random states, and the loss.

    Several processes share the states; gradient and loss are those of all of them.
    """
    device, (steps, batch) = retained.lengths.device, retained.predicted_x0.shape[:2]
    rows = torch.randint(batch, (count,), generator=generator).to(device)
    at = torch.randint(steps, (count,), generator=generator).to(device)
    frames = policy.denoiser.state_lengths(retained.lengths[rows])
    gradients, loss = [torch.zeros_like(p) for p in parameters], torch.zeros((), device=device)
    own = torch.arange(parallel.rank(), len(rows), parallel.world_size(), device=device)
    for part in own.split(micro_batch):
        share = frames[part].sum() / frames.sum() * parallel.world_size()
        found = self_distillation_loss(policy, retained, at[part], rows[part]) * share
        torch._foreach_add_(gradients, gradient_of(weight * found, parameters))
        loss += found.detach()
    parallel.average_([*gradients, loss])
    return gradients, loss.item()
