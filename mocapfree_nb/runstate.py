"""What a run was made of, and what it had come to: hashes of content, random states, checkpoints that are checked."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mocapfree_nb import reading
from mocapfree_nb.files import UserError


def content_hash(parts: Iterable[object]) -> str:
    """16 hexadecimal digits of SHA-256 over numpy arrays and plain values."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            total.update(f"{part.dtype} {part.shape}".encode())
            total.update(np.ascontiguousarray(part).view(np.uint8).data if part.size else b"")
        else:
            total.update(repr(part).encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def network_hash(network: nn.Module) -> str:
    """16 hexadecimal digits that tell this network from one of another class or with another weight anywhere."""
    state = network.state_dict()
    weights = (part for name in sorted(state) for part in (name, str(state[name].dtype), _bytes(state[name])))
    return content_hash([type(network).__name__, *weights])


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()  # numpy knows no bfloat16


def corpus_hash(corpus: Iterable) -> str:
    """16 hexadecimal digits that tell these clips from others: names, splits, captions, labels and motion."""
    return content_hash(part for clip in corpus for part in (clip.name, clip.split, clip.captions, clip.actions, clip.features))


def global_generator(device: torch.device) -> tuple[Callable[[], Tensor], Callable[[Tensor], None]]:
    """How to read and how to set the state of the global generator of `device`."""
    if device.type == "cpu":
        return torch.get_rng_state, torch.set_rng_state
    module = torch.get_device_module(device.type)
    where = () if device.type == "mps" else (device,)  # there is but one of that kind
    return lambda: module.get_rng_state(*where), lambda state: module.set_rng_state(state, *where)


@contextlib.contextmanager
def borrowed_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, the global generators of the CPU and of `device` start from `seed`; afterwards they are as before.

    No other device's is touched.
    """
    places = [torch.device("cpu"), *([device] if device.type != "cpu" else [])]
    before = [global_generator(place)[0]() for place in places]
    try:
        for place in places:
            global_generator(place)[1](torch.Generator(place).manual_seed(seed).get_state())
        yield
    finally:
        for place, state in zip(places, before, strict=True):
            global_generator(place)[1](state)


def load_state(path: str | Path) -> dict:
    """What `save_state` wrote, on the CPU. Raises `UserError` if it cannot be read."""
    try:
        return reading.load_state(path)
    except UserError as error:
        raise UserError(f"cannot resume: {error}; move it away to start anew") from error


def misfit(found: object, wanted: object, name: str = "it") -> str | None:
    """Where `found` has another form than `wanted`, in words; None where it fits.

    Dicts need the same keys, lists the same length, tensors the same shape and type, anything else the same type;
    numbers must be finite.
    """
    if isinstance(wanted, Tensor):
        if not isinstance(found, Tensor) or found.layout != torch.strided:
            return f"{name} is no tensor"
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            return f"{name} is {found.dtype} {tuple(found.shape)}, not {wanted.dtype} {tuple(wanted.shape)}"
        return None if bool(found.isfinite().all()) else f"{name} holds numbers that are not finite"
    kind = dict if isinstance(wanted, dict) else type(wanted)
    if not isinstance(found, kind) or isinstance(found, bool) != isinstance(wanted, bool):
        return f"{name} is of type {type(found).__name__}, not {kind.__name__}"
    if isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{name} has other entries: {', '.join(map(str, sorted(found.keys() ^ wanted.keys(), key=str)[:3]))}"
        pairs = [(found[key], value, f"{name}[{key!r}]") for key, value in wanted.items()]
    elif isinstance(wanted, list | tuple):
        if len(found) != len(wanted):
            return f"{name} has {len(found)} entries, not {len(wanted)}"
        pairs = [(one, other, f"{name}[{i}]") for i, (one, other) in enumerate(zip(found, wanted, strict=True))]
    else:
        return f"{name} is {found}" if isinstance(found, float) and not math.isfinite(found) else None
    return next((problem for pair in pairs if (problem := misfit(*pair))), None)


def optimizer_misfit(found: object, optimizer: torch.optim.AdamW) -> str | None:
    """What keeps `found`, the "state" of an AdamW's `state_dict`, from fitting `optimizer`; None where it fits."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not isinstance(found, dict) or not set(found) <= set(range(len(parameters))):
        return "the optimiser's state is of other parameters"
    moments = {
        i: {"step": torch.tensor(0.0), "exp_avg": p.detach(), "exp_avg_sq": p.detach()}
        for i, p in enumerate(parameters) if i in found
    }
    if problem := misfit(found, moments, "the optimiser's state"):
        return problem
    if any(bool((value < 0).any()) for row in found.values() for value in (row["step"], row["exp_avg_sq"])):
        return "the optimiser's state holds negative squares"
    return None


def generator_misfit(found: object, device: torch.device) -> str | None:
    """What keeps `found` from being the state of a generator on `device`; None where it is one."""
    try:
        torch.Generator(device).set_state(found)
    except (RuntimeError, TypeError):
        return "the state of a random generator is damaged"
    return None


def training_misfit(
    state: dict, run: dict, model: nn.Module, optimizer: torch.optim.AdamW, device: torch.device
) -> str | None:
    """What keeps `state` from being that of the training `run` of `model`, in words; None where it fits.

    A state has step, run, model, average, updates, optimizer, generator, torch_generator, device_generator and history.
    """
    weights = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    plain = {"step": 0, "run": run, "model": weights, "average": weights, "updates": 0}
    others = ("optimizer", "generator", "torch_generator", "device_generator", "history")
    if missing := [key for key in (*plain, *others) if key not in state]:
        return f"it lacks {', '.join(missing)}"
    if problem := misfit({key: state[key] for key in plain}, plain, "it"):
        return problem
    if not 0 <= state["step"] <= run["steps"] or state["updates"] < 0:
        return f"it stands at step {state['step']} of {run['steps']}"
    rows = state["history"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        return "its history is damaged"
    return (
        optimizer_misfit(state["optimizer"], optimizer)
        or generator_misfit(state["generator"], device)
        or generator_misfit(state["torch_generator"], torch.device("cpu"))
        or (None if device.type == "cpu" else generator_misfit(state["device_generator"], device))
    )
