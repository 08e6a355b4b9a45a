"""The folder of a run: where one can be kept, what identifies it, and that it goes on only as what it was."""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import mocapfree_nb
from mocapfree_nb import parallel
from mocapfree_nb.callbacks import Callback
from mocapfree_nb.evaluation import Scorers
from mocapfree_nb.files import UserError, remove_leftovers, write_json
from mocapfree_nb.reading import read_json
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.runstate import content_hash, corpus_hash, network_hash
from mocapfree_nb.tasks import Task

__all__ = ["next_run", "prepare_folder", "RunClock", "content_settings", "keep_settings"]

MAY_CHANGE = ("iterations", "device", "model")  # of a run that goes on


def next_run(root: str | Path, name: str) -> Path:
    """`root/name` if it is free or holds an unfinished run; else `root/name-2`, and so on. No run is overwritten."""
    number = 1
    while True:
        folder = Path(root) / (name if number == 1 else f"{name}-{number}")
        if not (folder / "report.json").exists():
            return folder
        number += 1


def prepare_folder(folder: str | Path) -> None:
    """Before hours are spent: raise `UserError` where a run or a model cannot be kept, and delete what a killed one left.

    That is what was being written when its program was killed. A folder that is not there yet is not made.
    """
    folder = Path(folder)
    missing = [path for path in (folder, *folder.parents) if not os.path.isdir(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"nothing can be kept in {folder}: {error.strerror or error}; choose another place") from error
    finally:
        for path in missing:
            if os.path.isdir(path):
                path.rmdir()
    for part in ("", "checkpoints", "model", "model-last", "ddpo", "ddpo/checkpoints"):
        remove_leftovers(folder / part)


class RunClock(Callback):
    """How long a run takes, in all its sessions together: after each iteration, `folder`/clock.json says so.

    What a session did after its last iteration is done again by the next, and counted there.
    """

    def __init__(self, folder: str | Path | None):
        self.path, self.started = Path(folder) / "clock.json" if folder else None, time.perf_counter()
        before = read_json(self.path).get("seconds") if self.path and self.path.exists() else None
        self.before = float(before) if isinstance(before, int | float) else 0.0

    def seconds(self) -> float:
        """Seconds until now, those of earlier sessions among them."""
        return self.before + time.perf_counter() - self.started

    def on_iteration(self, record: dict) -> None:
        if self.path and parallel.is_main():
            write_json(self.path, {"seconds": round(self.seconds(), 1)})


def content_settings(policy: DiffusionPolicy, scorers: Scorers, task: Task) -> dict:
    """What names and paths do not tell of a run: hashes of its networks, clips and sentences, checks, and the version."""

    def listed(first: Sequence, *more: Sequence) -> dict:
        return {"count": len(first), "hash": content_hash((list(first), *more))}

    target, original = ((q.prompts, q.lengths.tolist(), q.labels) for q in (task.target, task.original))
    return {
        "architecture": type(policy.denoiser).__name__,
        "min_std": policy.min_std,
        "timesteps": policy.timesteps.tolist(),
        "text_encoder": type(policy.text_encoder).__name__,
        "prompts": listed(task.training_prompts),
        "selection_prompts": listed(task.selection_prompts),
        "lengths": listed(task.retained.lengths.tolist()),
        "retained_prompts": listed(task.retained.prompts),
        "evaluation_prompts": listed(target[0], target, original),
        "checks": {label: getattr(check, "__qualname__", str(check)) for label, check in scorers.checks.items()},
        "model_hash": network_hash(policy.denoiser),
        "retrieval_hash": network_hash(scorers.reward.model),
        "evaluator_hash": network_hash(scorers.evaluator),
        "rigid_bones": scorers.rigid,
        "corpus_hash": corpus_hash([*task.target_clips, *task.original_clips]),
        "version": mocapfree_nb.__version__,
    }


def keep_settings(path: Path, settings: Mapping) -> None:
    """Write a run's settings; raise `UserError` where a run with others was begun.

    `iterations` (not an exploration's rounds), the device, and where the model lies may differ: what it is tells its hash.
    """
    now = json.loads(json.dumps(settings))
    kept = read_json(path) if path.exists() else now
    changed = [k for k in {**now, **kept} if k not in MAY_CHANGE and (k not in now or kept.get(k) != now[k])]
    if changed:
        raise UserError(f"{path.parent} holds a run with other settings ({', '.join(changed)}); choose another folder")
    write_json(path, settings)
