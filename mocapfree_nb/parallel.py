"""Several processes on one training: each has prompts of its own, the gradient is everyone's."""

# With one process, every function here gives back what it is given. Started by `accelerate launch` or `torchrun`, a program
# calls `start` once; from then on torch.distributed carries the messages (nccl between GPUs, gloo between CPUs).

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mocapfree_nb.files import UserError

__all__ = ["start", "is_parallel", "world_size", "rank", "is_main", "own_share", "gather", "total", "average_", "broadcast",
           "check_agreement"]


def start() -> torch.device | None:
    """Join the other processes of a launch and return this one's device; None where nothing was launched."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if not is_parallel():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


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


def check_agreement(settings: dict) -> None:
    """Raise `UserError`, naming the first difference, unless all processes hold the same `settings`."""
    theirs = broadcast(settings)
    changed = [str(key) for key in {**theirs, **settings} if repr(theirs.get(key)) != repr(settings.get(key))]
    everyone = total(torch.tensor(len(changed), device=_device()))
    if int(everyone):
        names = ", ".join(changed) or "see the other processes"
        raise UserError(f"process {rank()} was not started like process 0 ({names}): give all processes the same settings")


def _device() -> torch.device:
    return torch.device("cuda" if is_parallel() and dist.get_backend() == "nccl" else "cpu")
