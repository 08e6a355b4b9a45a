"""Stop and resume reinforcement learning: everything that changes during a run, written whole or not at all, read with care."""

import json
import math
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mocapfree_nb import parallel
from mocapfree_nb.files import UserError, write_atomically
from mocapfree_nb.reading import save_state
from mocapfree_nb.pretrain import load_state
from mocapfree_nb.runstate import generator_misfit, misfit, optimizer_misfit
from mocapfree_nb.run_settings import reward_probe, same_reward

if TYPE_CHECKING:
    from mocapfree_nb.ddpo import DDPOTrainer

__all__ = ["write_checkpoint", "write_log", "note_threads", "save_checkpoint", "load_checkpoint", "checkpoint_misfit",
           "moments_misfit", "log_misfit"]


def write_checkpoint(folder: Path, state: dict, log: list[dict]) -> None:
    """Write `state` and `log` to `folder`/checkpoints/last.pt, and the log, a line a record, to `folder`/log.jsonl."""
    save_state(folder / "checkpoints" / "last.pt", state | {"log": json.dumps(log), "threads": torch.get_num_threads()})
    write_log(folder, log)


def write_log(folder: Path, log: list[dict]) -> None:
    """Write `log`, a line a record, to `folder`/log.jsonl."""
    with write_atomically(folder / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in log), encoding="utf-8")


def note_threads(state: dict, device: torch.device) -> None:
    """Warn where a run on the CPU goes on with another number of threads than it was made with: sums round differently."""
    before, now = state.get("threads"), torch.get_num_threads()
    if device.type == "cpu" and isinstance(before, int) and before != now:
        warnings.warn(
            f"this run was made with {before} threads and goes on with {now}, so last digits will differ from those of a run "
            f"that never stopped; OMP_NUM_THREADS={before} keeps them",
            stacklevel=3,
        )


def save_checkpoint(trainer: "DDPOTrainer") -> None:
    """Write the log and everything that changes during a run to `trainer.folder` (nothing if that is None).

    Of several processes only the main one writes: they hold the same weights, generator and memory.
    """
    if trainer.folder is None or not parallel.is_main():
        return
    state = {
        "settings": trainer.settings,
        "reward": trainer.probe,
        "parameters": [p.detach() for p in trainer.parameters],
        "optimizer": trainer.optimizer.state_dict()["state"],
        "generator": trainer.generator.get_state(),
        "tracker": {prompt: list(rewards) for prompt, rewards in trainer.tracker.rewards.items()},
        "best": trainer.best,
        "best_score": trainer.best_score,
        "old": trainer.old,
    }
    write_checkpoint(trainer.folder, state, trainer.log)


def load_checkpoint(trainer: "DDPOTrainer") -> None:
    """Go on from the checkpoint in `trainer.folder`, if there is one. Several processes must see one folder.

    Raises `UserError` if it cannot be read, does not fit, or belongs to a run with other settings or another reward.
    """
    path = trainer.folder / "checkpoints" / "last.pt" if trainer.folder else None
    if path is None or not path.exists():
        return
    state = load_state(path)
    if problem := checkpoint_misfit(state):
        raise UserError(f"cannot resume: {path} is damaged ({problem}); move it away to start anew")
    if changed := _changed(state, trainer):
        raise UserError(f"{path} belongs to a run with other settings ({', '.join(changed)}); choose another folder")
    if problem := moments_misfit(state, trainer):
        raise UserError(f"cannot resume: {path} is damaged ({problem}); move it away to start anew")
    note_threads(state, trainer.parameters[0].device)
    _restore(state, trainer)


def _changed(state: dict, trainer: "DDPOTrainer") -> list[str]:
    """Names of the settings in which a checkpoint differs from this run, "reward" among them."""
    old, new = state["settings"], trainer.settings
    changed = [str(key) for key in {**old, **new} if repr(old.get(key)) != repr(new.get(key))]  # a tensor has no truth
    if not same_reward(state["reward"], trainer.probe):
        again = reward_probe(trainer.policy, trainer.reward, trainer.prompts, trainer.lengths)
        if same_reward(trainer.probe, again):  # else it is random, and agrees with nothing, not even itself
            changed.append("reward")
    return changed


def _restore(state: dict, trainer: "DDPOTrainer") -> None:
    device = trainer.parameters[0].device
    with torch.no_grad():
        torch._foreach_copy_(trainer.parameters, [p.to(device) for p in state["parameters"]])
    trainer.optimizer.load_state_dict(trainer.optimizer.state_dict() | {"state": state["optimizer"]})
    trainer.generator.set_state(state["generator"])
    for prompt, rewards in state["tracker"].items():
        trainer.tracker.rewards[prompt] = deque(rewards, maxlen=trainer.tracker.buffer_size)
    trainer.log, trainer.best_score = json.loads(state["log"]), state["best_score"]
    trainer.best, trainer.old = (
        None if state.get(name) is None else [p.to(device) for p in state[name]] for name in ("best", "old")
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checkpoint_misfit(state: dict) -> str | None:
    """What keeps `state` from being a checkpoint of any run; None where it is one."""
    plain = {"settings": dict, "reward": dict, "log": str, "tracker": dict, "best_score": float, "parameters": list}
    missing = [key for key in (*plain, "optimizer", "generator", "best") if key not in state]
    if missing:
        return f"it lacks {', '.join(missing)}"
    for key, kind in plain.items():
        if not isinstance(state[key], kind):
            return f"its {key} is of type {type(state[key]).__name__}, not {kind.__name__}"
    probe = state["reward"]
    scores = probe.get("scores", ())
    if probe.keys() != {"name", "scores"} or not (scores is None or isinstance(scores, list) and all(map(_is_number, scores))):
        return "it does not say under which reward it was made"
    return None


def moments_misfit(state: dict, trainer: "DDPOTrainer") -> str | None:
    """What keeps weights, optimiser, log and the rest of a checkpoint from fitting this run; None where all fit."""
    weights = [p.detach() for p in trainer.parameters]
    if problem := misfit(state["parameters"], weights, "parameters"):
        return problem
    for name in ("best", "old"):
        if problem := state.get(name) is not None and misfit(state[name], weights, name):
            return problem
    if problem := optimizer_misfit(state["optimizer"], trainer.optimizer):
        return problem
    if problem := generator_misfit(state["generator"], torch.device("cpu")):
        return problem
    if math.isnan(state["best_score"]):
        return "best_score is not a number"
    known = set(trainer.prompts)
    for prompt, rewards in state["tracker"].items():
        if prompt not in known or not isinstance(rewards, list) or not all(map(_is_number, rewards)):
            return "the tracker's memory is not of rewards"
    return log_misfit(state["log"], trainer.policy.steps, trainer.per_step)


def log_misfit(text: str, steps: int, per_step: Sequence[str]) -> str | None:
    """What keeps `text` from being the log of a run of `steps` denoising steps, as JSON; None where it is one.

    `per_step` names what has a number for each denoising step.
    """
    try:
        log = json.loads(text)
    except (ValueError, RecursionError):
        return "the log is not JSON"
    for index, record in enumerate(log if isinstance(log, list) else [None], 1):
        rows = [record.get(name) for name in per_step] if isinstance(record, dict) else [None]
        fits = all(isinstance(row, list) and len(row) == steps for row in rows)
        fits = fits and all(value is None or _is_number(value) for row in [*rows, [record.get("distillation")]] for value in row)
        fits = fits and record.get("iteration") == index
        fits = fits and all(_is_number(record.get(name)) for name in ("reward", "network_calls"))
        chosen = record.get("selection") if fits else None
        if not isinstance(chosen, dict) or not all(isinstance(value, float) for value in chosen.values()):
            return f"record {index} of the log is not as a run writes it"
    return None
