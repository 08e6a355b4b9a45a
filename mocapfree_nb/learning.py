"""How a policy learns a task: the algorithms by name, and each one's trainer by the type of its settings."""

import copy
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from mocapfree_nb import parallel
from mocapfree_nb.algorithms.likelihood import GroupRelativeConfig, ImportanceConfig, ScoreFunctionConfig
from mocapfree_nb.algorithms.loop import SampleTrainer
from mocapfree_nb.algorithms.negative_aware import NegativeAwareTrainer
from mocapfree_nb.algorithms.preference import PreferenceTrainer
from mocapfree_nb.algorithms.reward_gradient import RewardGradientTrainer
from mocapfree_nb.algorithms.reward_weighted import RewardWeightedTrainer
from mocapfree_nb.checkpointing import write_log
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.exploration import MANY_SENTENCES, ExploreConfig, near_lengths
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import MANY_ACTIONS, LearnConfig, explore_and_learn
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.regularisers import check_divergence
from mocapfree_nb.run_settings import check_trainable
from mocapfree_nb.tasks import Task

__all__ = ["ALGORITHMS", "TRAINERS", "register_algorithm", "find_algorithm", "make_config", "algorithm_name", "check_start",
           "follow_samples", "default_search", "learn_task"]

ALGORITHMS: dict[str, type] = {  # name -> its settings; the first by default
    "exploration": LearnConfig,
    "ddpo": DDPOConfig,  # with branching rollouts
    "ddpo-sf": ScoreFunctionConfig,
    "ddpo-is": ImportanceConfig,
    "grpo": GroupRelativeConfig,
}
HELD = 128  # retained prompts (in random order already) of the DDPO after exploration, whose trajectories stay in memory
TRAINERS: dict[type, type[DDPOTrainer]] = {DDPOConfig: DDPOTrainer}  # by the type of the settings


def register_algorithm(name: str, trainer: type[SampleTrainer]) -> None:
    """Make the algorithm of a trainer known under `name`; `UserError` for a name that is taken."""
    if ALGORITHMS.get(name, trainer.settings_type) is not trainer.settings_type:
        raise UserError(f"there is an algorithm {name!r} already; choose another name")
    ALGORITHMS[name], TRAINERS[trainer.settings_type] = trainer.settings_type, trainer


register_algorithm("raft", RewardWeightedTrainer)
register_algorithm("draft", RewardGradientTrainer)
register_algorithm("dpo", PreferenceTrainer)
register_algorithm("nft", NegativeAwareTrainer)


def find_algorithm(name: str) -> type:
    """The settings' class of an algorithm. Raises `UserError` for an unknown name."""
    if name not in ALGORITHMS:
        raise UserError(f"there is no algorithm {name!r}; choose one of {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def make_config(algorithm: str, crossing: bool = False, **given) -> object:
    """Settings of an algorithm, `given` over its defaults; of exploration `MANY_ACTIONS` where a task is `crossing` corpora."""
    return find_algorithm(algorithm)(**(MANY_ACTIONS if crossing and algorithm == "exploration" else {}) | given)


def algorithm_name(config: object) -> str:
    """The name of the algorithm that these settings are of; that of their class where none has it."""
    return next((name for name, kind in ALGORITHMS.items() if kind is type(config)), type(config).__name__)


def _trainer(config: object) -> type[DDPOTrainer]:
    found = next((trainer for kind, trainer in TRAINERS.items() if isinstance(config, kind)), None)
    if found is None:
        kinds = ", ".join(kind.__name__ for kind in dict.fromkeys(ALGORITHMS.values()))
        raise UserError(f"config is settings of an algorithm ({kinds}), not {type(config).__name__}")
    return found


def check_start(policy: DiffusionPolicy, reward: Callable[..., Tensor], task: Task, config: object) -> None:
    """Raise `UserError` for a policy or a reward that the algorithm of these settings cannot learn with."""
    trainer = DDPOTrainer if isinstance(config, LearnConfig) else _trainer(config)
    if trainer.densities:
        check_trainable(policy)
    else:
        check_divergence(policy, config)
        trainer.check_reward(policy, reward, task.training_prompts, task.retained.lengths)


def follow_samples(
    policy: DiffusionPolicy,
    reward: Callable,
    task: Task,
    config: LearnConfig,
    rounds: list[dict],
    selector: Callable[[DiffusionPolicy], dict] | None = None,
    folder: str | Path | None = None,
    on_iteration: Callable[[dict], None] | None = None,
    progress: bool = True,
) -> list[dict]:
    """DDPO from samples of a policy that exploration has taught, in place: `config.ddpo_iterations` of lesson 17's.

    Returns their records, which go on from those of the `rounds`; "improved" says of one that its weights were kept: the best
    by the selector, or the last ones where it cannot tell them from those before. Where it scores the last ones lower than
    those by more than its error, the policy stays as it was. Checkpoints go to `folder`/ddpo.
    """
    shared = {name: getattr(config, name) for name in ("seed", "bfloat16", "worst_case", "diversity")}
    known = list(zip(task.retained.prompts, task.retained.lengths.tolist(), strict=True))
    lengths = near_lengths(task.training_prompts, known, policy.text_encoder)
    before = copy.deepcopy(policy.denoiser.state_dict())
    processes = parallel.world_size()
    shared["prompts_per_iteration"] = -(-DDPOConfig.prompts_per_iteration // processes) * processes  # as many for each
    trainer = DDPOTrainer(
        policy, reward, task.training_prompts, lengths, DDPOConfig(iterations=config.ddpo_iterations, select_every=10, **shared),
        task.retained.prompts[:HELD], selector, Path(folder) / "ddpo" if folder else None,
    )  # fmt: skip

    def numbered(record: dict) -> dict:
        return record | {"iteration": len(rounds) + record["iteration"]}

    def seen(record: dict) -> None:
        if folder:
            write_log(Path(folder), rounds + list(map(numbered, trainer.log)))
        if on_iteration:
            on_iteration(numbered(record))

    log = trainer.run(seen, progress)
    scored = [record for record in log if record["selection"]]
    kept = log[-1]
    if trainer.best is not None:
        kept = max(scored, key=lambda record: record["selection"]["score"])
    elif scored and kept["selection"]["score"] < trainer.best_score - kept["selection"].get("error", 0.0):
        kept = None
        policy.denoiser.load_state_dict(before)
    return [numbered(record) | {"improved": record is kept} for record in log]


def default_search(task: Task) -> ExploreConfig:
    """Settings of exploration's search for a task: of a cross-dataset one those for many sentences."""
    return MANY_SENTENCES if task.among_itself else ExploreConfig()


def learn_task(
    policy: DiffusionPolicy,
    reward: Callable,
    task: Task,
    config: object,
    selector: Callable[[DiffusionPolicy], dict] | None = None,
    folder: str | Path | None = None,
    on_iteration: Callable[[dict], None] | None = None,
    progress: bool = True,
    second: Callable | None = None,
    search: ExploreConfig | None = None,
) -> list[dict]:
    """Teach `policy`, in place, the training prompts of `task`; the log, one record an iteration.

    `config`, of a type in `ALGORITHMS`, says which algorithm, and its settings. `selector` and `folder` as in `DDPOTrainer`:
    a run that is already in `folder` goes on where it stopped. `second` is what a gate compares the reward with;
    `search` has settings of exploration's search (of a cross-dataset task by default those for many sentences).
    """
    retained = task.retained
    known = list(zip(retained.prompts, retained.lengths.tolist(), strict=True))
    if isinstance(config, LearnConfig):
        search = search or default_search(task)
        seen = None if on_iteration is None else lambda finished: on_iteration(finished.record())
        log = explore_and_learn(
            policy, reward, task.training_prompts, known, known, config, search,
            selector=selector, folder=folder, on_round=seen, progress=progress,
        )  # fmt: skip
        if config.ddpo_iterations and any(record["improved"] for record in log):  # else samples have nothing to follow
            log += follow_samples(policy, reward, task, config, log, selector, folder, on_iteration, progress)
        return log
    lengths = near_lengths(task.training_prompts, known, policy.text_encoder)
    trainer = _trainer(config)(policy, reward, task.training_prompts, lengths, config, retained.prompts, selector, folder, second)
    return trainer.run(on_iteration, progress)
