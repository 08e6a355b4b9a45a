"""Several processes on one training: each has prompts of its own, the gradient is everyone's."""

# With one process, every function here gives back what it is given. Started by `accelerate launch` or `torchrun`, a program
# calls `start` once; from then on torch.distributed carries the messages (nccl between GPUs, gloo between CPUs).

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from mocapfree_nb.files import UserError

T = TypeVar("T")
__all__ = ["start", "stop", "is_parallel", "world_size", "rank", "is_main", "own_share", "gather", "total", "mean",
           "average_", "broadcast", "from_main", "check_agreement"]


def start(cpu: bool = False) -> torch.device | None:
    """Join the other processes of a launch and return this one's device; None where nothing was launched.

    `cpu` keeps to the CPU where there are GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    device = torch.device("cpu")
    if torch.cuda.is_available() and not cpu:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not is_parallel():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop() -> None:
    """Leave the other processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_parallel() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if is_parallel() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if is_parallel() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def own_share(count: int, what: str = "rows") -> slice:
    """The part of `count` things that is this process's; `UserError` if the processes cannot share them evenly."""
    if count % world_size():
        raise UserError(f"{count} {what} cannot be shared evenly by {world_size()} processes: take a multiple of {world_size()}")
    size = count // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def gather(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes in order of rank, (processes * n, ...)."""
    if not is_parallel():
        return rows
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def total(values: Tensor) -> Tensor:
    """Sum over the processes of a tensor of one shape."""
    if is_parallel():
        values = values.clone()
        dist.all_reduce(values)
    return values


def mean(value: Tensor) -> Tensor:
    """Mean over the processes of a tensor of one shape; alone, the very tensor."""
    return total(value) / world_size() if is_parallel() else value


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place and in one message."""
    if not is_parallel() or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast(value: object) -> object:
    """What the main process holds."""
    if not is_parallel():
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def from_main(work: Callable[[], T]) -> T:
    """What `work()` gives on the main process, which alone does it; a `UserError` there is raised on all."""
    found = failure = None
    if is_main():
        try:
            found = work()
        except UserError as error:
            failure = error
    found, failure = broadcast((found, failure))
    if failure is not None:
        raise failure
    return found


def check_agreement(settings: dict) -> None:
    """Raise `UserError`, naming the first process that differs, unless all hold the same `settings`."""
    theirs = broadcast(settings)
    changed = [str(key) for key in {**theirs, **settings} if repr(theirs.get(key)) != repr(settings.get(key))]
    everyone = [changed]
    if is_parallel():
        everyone = [None] * world_size()
        dist.all_gather_object(everyone, changed)
    for number, names in enumerate(everyone):
        if names:
            raise UserError(
                f"process {number} was not started like process 0 ({', '.join(names)}): give all processes the same settings"
            )
