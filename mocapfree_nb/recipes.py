"""The paper's experiments, one command each, its settings beside ours, and a look before hours are spent."""

__all__ = ['RECIPES', 'SETTINGS', 'Recipe', 'Settings', 'Plan', 'load_data', 'run', 'DryRun', 'dry_run']

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mocapfree_nb.calls import calls_per_sample, count_calls
from mocapfree_nb.corpus import Corpus, load_corpus
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.run_settings import check_trainable
from mocapfree_nb.experiment import Report, adapt
from mocapfree_nb.models.registry import check_fit, load_scorers, load_policy
from mocapfree_nb.tasks import Task, make_task
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.skeleton import HUMANML3D


LOOK = 48 + 96  # motions that checkpoint selection generates at each look


@dataclass(frozen=True)
class Recipe:
    """One experiment: which data set is the target, which the original, and what it is about."""

    about: str
    target: str  # "humanml3d" or "kit"
    source: str | None = None  # None: the target is a part of the same data set, found by words


RECIPES = {
    "humanml3d-to-kit": Recipe("a model of HumanML3D learns KIT-ML from its sentences", "kit", "humanml3d"),
    "kit-to-humanml3d": Recipe("a model of KIT-ML learns HumanML3D from its sentences", "humanml3d", "kit"),
    "leave-one-out": Recipe("a model of HumanML3D learns an action left out of its training", "humanml3d"),
}


@dataclass(frozen=True)
class Settings:
    """How an adaptation is done, and where each setting comes from."""

    ddpo: Mapping[str, object]  # what differs from the defaults of `DDPOConfig`
    sampling: Mapping[str, object]  # steps, guidance_scale, solver
    public: tuple[str, ...] = ()  # settings taken from the authors' public configuration
    chosen: Mapping[str, str] = field(default_factory=dict)  # what is not public, or differs here, and why so


SETTINGS = {
    "paper": Settings(
        ddpo={
            "prompts_per_iteration": 64,
            "motions_per_prompt": 4,
            "inner_epochs": 4,
            "learning_rate": 1e-5,
            "weight_decay": 1e-4,
            "clip_range": 1e-4,
            "gradient_clip": 1.0,
            "lora_rank": 4,
            "lora_alpha": 16.0,
            "advantage": "batch",
            "weigh_timesteps": False,
            "kl_weight": 0.0,
            "distillation_weight": 0.0,
        },
        sampling={"steps": 10, "guidance_scale": 1.0, "solver": "sde-dpmsolver++"},
        public=(
            "prompts_per_iteration", "motions_per_prompt", "inner_epochs", "learning_rate", "weight_decay", "clip_range",
            "gradient_clip", "lora_rank", "lora_alpha", "advantage", "kl_weight", "guidance_scale",
        ),
        chosen={
            "iterations": "not public; the 100 of our own recipe",
            "steps": "not public; 10, with the family of solvers that the paper names (DPM-Solver++)",
            "advantage_clip": "not public; the 5 of the common DDPO code",
            "timesteps_per_update": "not public; 10",
            "lora_dropout": "theirs is 0.1; left out, for dropout makes the ratio differ from 1 before the first update",
            "reward_scale": "theirs is 10 (cos + 1) / 2; any scale cancels in the normalised advantage",
            "min_std": "theirs is 0.1; here the solver's own standard deviations",
            "learning_rate_decay": "not public; a straight line to zero",
        },
    ),
    "ours": Settings(
        ddpo={},
        sampling={"steps": 10, "guidance_scale": 2.5, "solver": "ddim"},
        chosen={"all": "the recipe of `mocapfree demo` (lesson 17): branching rollouts, timestep weights, self-distillation"},
    ),
}


@dataclass(frozen=True)
class Plan:
    """Everything one run needs. `data` maps "humanml3d" and "kit" to folders; networks are folders or checkpoints."""

    recipe: str
    data: Mapping[str, str | Path]
    model: str | Path
    retrieval: str | Path
    evaluator: str | Path
    settings: str = "paper"
    space: str = "joint"  # or "latent": what kind of model is expected
    words: tuple[str, ...] = ("kick", "kicks", "kicking", "kicked")  # of leave-one-out
    iterations: int | None = None
    evaluation_prompts: int = 32
    max_frames: int = 196
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self):
        for given, known, what in (
            (self.recipe, RECIPES, "recipe"),
            (self.settings, SETTINGS, "settings"),
            (self.space, ("joint", "latent"), "space"),
        ):
            if given not in known:
                raise UserError(f"no {what} {given!r}; there are {', '.join(known)}")
        roles = RECIPES[self.recipe]
        missing = [role for role in (roles.target, roles.source) if role and role not in self.data]
        if missing:
            raise UserError(f"{self.recipe} needs {' and '.join(f'--{role} FOLDER' for role in missing)}")

    @property
    def config(self) -> DDPOConfig:
        """The settings of the adaptation."""
        config = DDPOConfig(seed=self.seed, **SETTINGS[self.settings].ddpo)
        return replace(config, iterations=self.iterations) if self.iterations else config

    @property
    def sampling(self) -> dict:
        """How the policy samples."""
        return dict(SETTINGS[self.settings].sampling)


def load_data(plan: Plan) -> dict[str, Corpus]:
    """The data sets of a plan on the shared skeleton (22 joints, 263 features, 20 frames a second)."""
    roles = RECIPES[plan.recipe]
    wanted = [role for role in (roles.target, roles.source) if role]
    return {role: load_corpus(plan.data[role], max_frames=plan.max_frames, skeleton=HUMANML3D) for role in wanted}


def _task(plan: Plan, data: Mapping[str, Corpus]) -> dict:
    """What `make_task` and `adapt` are told of the data."""
    roles = RECIPES[plan.recipe]
    if roles.source:
        return {"corpus": data[roles.target], "source": data[roles.source]}
    return {"corpus": data[roles.target], "leave_out_words": plan.words}


def run(plan: Plan, folder: str | Path | None = None, progress: bool = True) -> Report:
    """Do the experiment; `folder` keeps it, and one that was interrupted goes on. Raises `UserError`."""
    networks = {"model": plan.model, "retrieval": plan.retrieval, "evaluator": plan.evaluator, "full_model": None}
    rest = {"evaluation_prompts": plan.evaluation_prompts, "device": plan.device, "folder": folder, "progress": progress}
    return adapt(target=None, **_task(plan, load_data(plan)), config=plan.config, **plan.sampling, **networks, **rest)


@dataclass
class DryRun:
    """What was found: lines that are fine, lines to think about, and lines that would make the run fail."""

    lines: list[tuple[str, str]] = field(default_factory=list)  # ("ok" | "note" | "problem", text)
    seconds: float | None = None  # estimated, of the whole run
    memory: float | None = None  # bytes, estimated peak

    @property
    def ok(self) -> bool:
        """True where nothing would make the run fail."""
        return not any(kind == "problem" for kind, _ in self.lines)

    def add(self, kind: str, text: str) -> None:
        """One more line."""
        self.lines.append((kind, text))

    def __str__(self) -> str:
        return "\n".join(f"{kind:>7}  {text}" for kind, text in self.lines)


def _look_at_data(plan: Plan, found: DryRun) -> Task | None:
    """Read the data and lay out the task."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            data = load_data(plan)
            task = make_task(target=None, **_task(plan, data), evaluation_prompts=plan.evaluation_prompts)
        except UserError as error:
            found.add("problem", str(error))
            return None
    for role, corpus in data.items():
        kind = {"kit": "KIT-ML", "humanml3d": "HumanML3D"}[role]
        found.add("ok" if corpus.source.startswith(kind) else "note", f"--{role}: {corpus!r}")
    for warning in caught:
        found.add("note", str(warning.message))
    found.add("ok", f"{len(task.training_prompts)} training prompts, such as {task.training_prompts[0]!r}")
    counts = {"target": len(task.target), "original": len(task.original)}
    few = [part for part, count in counts.items() if count < plan.evaluation_prompts]
    text = f"held-out prompts to evaluate: {counts['target']} of the target, {counts['original']} of the original"
    found.add("note" if few else "ok", text + (" (few: the numbers will be rough)" if few else ""))
    rivals, needed = len(task.original_clips), min(32, 4 * len(task.target)) - 1
    if rivals < needed:
        found.add("problem", f"R-precision needs {needed} held-out motions of the original to choose among; there are {rivals}")
    return task


def _millions(network: torch.nn.Module) -> str:
    return f"{type(network).__name__}, {sum(p.numel() for p in network.parameters()) / 1e6:.1f} million weights"


def _look_at_weights(plan: Plan, found: DryRun) -> tuple[DiffusionPolicy, RetrievalReward] | None:
    """Load every network, and let the scorers look at what the model makes."""
    if Path(plan.retrieval).resolve() == Path(plan.evaluator).resolve():
        found.add("problem", f"{plan.evaluator} is both the reward and the evaluator; what evaluates must not be the reward")
    try:
        policy = load_policy(plan.model, device=plan.device, **plan.sampling)
        check_trainable(policy)
        scorers = load_scorers(plan.retrieval, plan.evaluator, device=plan.device)
        check_fit(policy, scorers)
        motion = policy.generate(["a person walks"], torch.tensor([40]), seed=0)
        score = float(scorers.reward(motion, torch.tensor([40], device=motion.device), ["a person walks"]))
        scorers.evaluator.encode_motion(motion, torch.tensor([40], device=motion.device))
    except UserError as error:
        found.add("problem", str(error))
        return None
    latent = policy.denoiser.state_width != policy.denoiser.num_features
    text = f"model: {_millions(policy.denoiser)}, {'latent' if latent else 'joint'} space"
    found.add("ok" if latent == (plan.space == "latent") else "problem", text + f" ({plan.space} space asked for)")
    found.add("ok", f"reward: {_millions(scorers.reward.model)}; evaluator: {_millions(scorers.evaluator)}")
    if not 0 <= score <= 1:
        found.add("problem", f"the reward of a generated motion is {score}; it should lie between 0 and 1")
    return policy, scorers.reward


def _forget_peak(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from what is used now
    except OSError:
        pass


def _peak_memory(device: str) -> tuple[float, float] | None:
    """Bytes used at the peak, and bytes there are; None where the system does not say."""
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return float(torch.cuda.max_memory_allocated(device)), float(free + torch.cuda.memory_allocated(device))
    try:
        status, machine = (Path(path).read_text().splitlines() for path in ("/proc/self/status", "/proc/meminfo"))
        peak = next(line for line in status if line.startswith("VmHWM:"))
        used = next(line for line in status if line.startswith("VmRSS:"))
        free = next(line for line in machine if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return tuple(1024.0 * int(kilobytes) for kilobytes in (peak.split()[1], int(free.split()[1]) + int(used.split()[1])))


def _measure(job: Callable[[], object], device: str) -> tuple[float, tuple[float, float] | None]:
    """Seconds and peak memory of a job."""
    _forget_peak(device)
    started = time.perf_counter()
    job()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, _peak_memory(device)


def _from_two(one: float, three: float, count: int) -> float:
    """What `count` prompts take, from what one and three take."""
    return max(one, three * count / 3 * 0.5, one + (count - 1) / 2 * max(three - one, 0.0))


def _small_iterations(plan: Plan, task: Task, policy: DiffusionPolicy, reward: RetrievalReward) -> tuple[dict, float]:
    """Seconds and memory of an iteration of one prompt and of three, and how many motions a prompt costs to sample."""
    config, measured = plan.config, {}
    given = {"prompts": task.training_prompts, "lengths": task.retained.lengths, "retained_prompts": task.retained.prompts[:8]}
    trainer = DDPOTrainer(policy, reward, config=replace(config, prompts_per_iteration=1), **given)
    with count_calls(policy.denoiser) as calls:
        trainer.iterate()  # first calls are slow
    for prompts in (1, 3):
        trainer.config = replace(config, prompts_per_iteration=prompts)
        measured[prompts] = _measure(trainer.iterate, plan.device)
    return measured, calls.made / calls_per_sample(policy)


def _reckon(plan: Plan, task: Task, policy: DiffusionPolicy, reward: RetrievalReward, found: DryRun) -> None:
    """Run small iterations, and estimate time and memory of the whole run."""
    config, count = plan.config, plan.config.prompts_per_iteration
    lengths = task.retained.lengths[:16]
    generate, _ = _measure(lambda: policy.generate(task.retained.prompts[:16], lengths, seed=0), plan.device)
    measured, sampled = _small_iterations(plan, task, policy, reward)
    # motions beside the training: the evaluations before and after, selection, the retained prompts' own, best of N
    motions = 2 * 4 * (len(task.target) + len(task.original)) + LOOK * (1 + config.iterations // config.select_every)
    motions += len(task.retained) if config.distillation_weight else 0
    motions += round(config.iterations * count * sampled)
    seconds = _from_two(measured[1][0], measured[3][0], count)
    found.seconds = config.iterations * seconds + motions * generate / len(lengths)
    text = f"about {found.seconds / 3600:.1f} hours" if found.seconds > 5400 else f"about {found.seconds / 60:.1f} minutes"
    found.add("ok", f"time: {text} on {plan.device} ({config.iterations} iterations of {seconds:.1f} s, {motions} motions more)")
    if measured[1][1] is None:
        found.add("note", "memory: this system does not say how much was used")
        return
    (one, _), (three, there) = measured[1][1], measured[3][1]
    found.memory = one + (count - 1) / 2 * max(three - one, 0.0)
    text = f"memory: about {found.memory / 1e9:.1f} GB of {there / 1e9:.1f} GB"
    found.add("ok" if found.memory < 0.9 * there else "problem", text)


def dry_run(plan: Plan, folder: str | Path | None = None) -> DryRun:
    """Check data, weights, memory and time of a plan without doing it; `folder` is where the run would be kept."""
    found = DryRun()
    if folder and (Path(folder) / "report.json").exists():
        found.add("problem", f"{folder} holds a finished run; choose another --name")
    parent = Path(folder or ".").absolute()
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        found.add("problem", f"{parent} cannot be written to")
    task = _look_at_data(plan, found)
    networks = _look_at_weights(plan, found)
    if task and networks and found.ok:
        try:
            _reckon(plan, task, *networks, found)
        except UserError as error:
            found.add("problem", str(error))
    for key, why in SETTINGS[plan.settings].chosen.items():
        found.add("note", f"{key}: {why}")
    return found
