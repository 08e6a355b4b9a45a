"""How a policy learns a task: exploration with off-policy learning, or DDPO from samples; chosen by the type of the settings."""

from collections.abc import Callable
from pathlib import Path

from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import LearnConfig, explore_and_learn
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.tasks import Task

__all__ = ["ALGORITHMS", "find_algorithm", "learn_task"]

ALGORITHMS: dict[str, type] = {"exploration": LearnConfig, "ddpo": DDPOConfig}  # name -> its settings; the first by default


def find_algorithm(name: str) -> type:
    """The settings' class of an algorithm. Raises `UserError` for an unknown name."""
    if name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name!r}; choose one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def learn_task(
    policy: DiffusionPolicy,
    reward: Callable,
    task: Task,
    config: LearnConfig | DDPOConfig,
    selector: Callable[[DiffusionPolicy], dict] | None = None,
    folder: str | Path | None = None,
    on_iteration: Callable[[dict], None] | None = None,
    progress: bool = True,
) -> list[dict]:
    """Teach `policy`, in place, the training prompts of `task`; the log, one record an iteration.

    `config` says which algorithm, and its settings. `selector` and `folder` as in `DDPOTrainer`: a run that is already in
    `folder` goes on where it stopped.
    """
    retained = task.retained
    if isinstance(config, LearnConfig):
        known = list(zip(retained.prompts, retained.lengths.tolist(), strict=True))
        seen = None if on_iteration is None else lambda finished: on_iteration(finished.record())
        return explore_and_learn(
            policy, reward, task.training_prompts, known, known, config,
            selector=selector, folder=folder, on_round=seen, progress=progress,
        )  # fmt: skip
    trainer = DDPOTrainer(
        policy, reward, task.training_prompts, retained.lengths, config, retained.prompts, selector, folder
    )
    return trainer.run(on_iteration, progress)
