"""What a computation costs: the motions that a network denoises by one step while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mocapfree_nb import parallel
from mocapfree_nb.policy import DiffusionPolicy

__all__ = ["Calls", "count_calls", "calls_per_sample"]


class Calls:
    """How many motions a network has been asked to denoise by one step so far (both guidance branches count)."""

    def __init__(self) -> None:
        self.made = self.taken = 0

    def __call__(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.made += len(arguments[0])

    def __deepcopy__(self, _: dict) -> "Calls":
        return self  # a frozen copy of the network that learning makes costs as much as the network

    def take(self, device: torch.device) -> int:
        """How many since the last `take`, of all processes together (which exchange them on `device`)."""
        new, self.taken = self.made - self.taken, self.made
        return int(parallel.total(torch.tensor(new, device=device)))


@contextmanager
def count_calls(denoiser: nn.Module, calls: Calls | None = None) -> Iterator[Calls]:
    """Count the calls of `denoiser` while the block runs, on top of `calls` where they are given."""
    calls = calls or Calls()
    hook = denoiser.register_forward_pre_hook(calls)
    try:
        yield calls
    finally:
        hook.remove()


def calls_per_sample(policy: DiffusionPolicy) -> int:
    """How many network calls a motion of the policy takes: one each denoising step, two under guidance."""
    return policy.steps * (1 if policy.guidance_scale == 1 else 2)
