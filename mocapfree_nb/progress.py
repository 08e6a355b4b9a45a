"""A bar for what generates and does not learn: it names its phase and counts motions, on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from tqdm.auto import tqdm

from mocapfree_nb import parallel
from mocapfree_nb.calls import calls_per_sample
from mocapfree_nb.policy import DiffusionPolicy

__all__ = ["phase_bar"]


@contextmanager
def phase_bar(policy: DiffusionPolicy, name: str | None, motions: int) -> Iterator[None]:
    """While the block makes `motions` motions with `policy`, a bar called `name` moves with every denoising step.

    It stands there from the first moment on. Without a name, and in a process that is not the main one, there is none.
    Where standard error is no terminal the one line is written anew every two seconds, not ten times in one.
    """
    if name is None or not parallel.is_main():
        yield
        return
    rows, per_motion = 0, calls_per_sample(policy)
    with tqdm(
        total=motions, desc=name, file=sys.stderr,
        mininterval=0.1 if sys.stderr.isatty() else 2,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total} motions [{elapsed}<{remaining}]",
    ) as bar:  # fmt: skip

        def move(_: nn.Module, arguments: tuple, __: Tensor) -> None:
            nonlocal rows
            rows += len(arguments[0])
            bar.n = min(motions, rows / per_motion)  # a sum of fractions would end a little off, which tqdm complains of
            bar.update(0)

        hook = policy.denoiser.register_forward_hook(move)
        try:
            yield
        finally:
            hook.remove()
