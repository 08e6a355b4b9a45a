"""What a run is: its arguments checked, its settings in plain values, its reward told from another, and whether it goes on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from mocapfree_nb import __version__
from mocapfree_nb.files import UserError
from mocapfree_nb.lora import add_lora
from mocapfree_nb.policy import DiffusionPolicy, stepwise_noise
from mocapfree_nb.pretrain import trainable
from mocapfree_nb.runstate import borrowed_generators, network_hash
from mocapfree_nb.rewards import Reward, as_scores

__all__ = ["check_trainable", "check_policy", "check_prompts", "check_lengths", "check_arguments", "parameters_to_train",
           "ask_selector", "run_settings", "reward_probe", "same_reward", "goes_on"]


def check_trainable(policy: DiffusionPolicy) -> None:
    """Raise `UserError` if no step of the policy is random: what has no probabilities cannot be trained by them."""
    if not bool((policy.stds > 0).any()):
        raise UserError(
            f"{policy.solver} with eta 0 makes every step deterministic: there is no density to train; choose eta > 0, "
            "or a solver that draws fresh noise (sde-dpmsolver++, ddpm)"
        )


def check_policy(policy: object, densities: bool = True) -> None:
    """Raise `UserError` unless `policy` is a `DiffusionPolicy` with weights fine enough for small updates, and random steps
    where the algorithm needs `densities`."""
    if not isinstance(policy, DiffusionPolicy):
        raise UserError(f"policy should be a DiffusionPolicy, not a {type(policy).__name__}: DiffusionPolicy(denoiser) makes one")
    if densities:
        check_trainable(policy)
    kinds = {p.dtype for p in policy.denoiser.parameters()} | {policy.denoiser.feature_mean.dtype}
    if kinds not in ({torch.float32}, {torch.float64}):
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise UserError(f"the policy's weights are {names}, too coarse for small updates: policy.denoiser.float() first")


def check_prompts(prompts: Sequence[str], name: str) -> list[str]:
    """`prompts` as a list; `UserError` for one string, or anything but words."""
    if isinstance(prompts, str):
        raise UserError(f"{name} should be a list of sentences, not one string: write [{prompts!r}]")
    prompts = list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{name} should be sentences, none of them empty, not {prompt!r}")
    return prompts


def check_lengths(lengths: Tensor | Sequence[int], prompts: int) -> Tensor:
    """`lengths` as a long tensor (n,) or (prompts, n) on the CPU; `UserError` for anything but numbers of frames."""
    wanted = "lengths should be numbers of frames to draw from, such as torch.tensor([40, 60]), not"
    try:
        given = torch.as_tensor(lengths).detach().cpu()
        found = given.long()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{wanted} {lengths!r}") from error
    fits = given.ndim > 0 and given.shape[:-1] in ((), (prompts,)) and given.numel() > 0 and given.dtype != torch.bool
    if not fits or bool((found != given).any() | (found < 1).any()):
        raise UserError(f"{wanted} {given.tolist()}")
    return found


def check_arguments(policy, reward, prompts, retained_prompts, config, selector, densities=True) -> None:
    """Raise `UserError` unless a trainer can start with these; see `DDPOTrainer`."""
    if len(prompts) == 0:
        raise UserError("no prompts to learn from: give at least one")
    if config.distillation_weight and not len(retained_prompts):
        raise UserError("self-distillation needs retained_prompts, what should not be forgotten; or set distillation_weight to 0")
    check_policy(policy, densities)
    for name, given in (("reward", reward), ("selector", selector)):
        if not callable(given) and not (name == "selector" and given is None):
            raise UserError(f"{name} should be a function, not a {type(given).__name__}")


def parameters_to_train(network: nn.Module, config: object) -> list[nn.Parameter]:
    """The low-rank updates of `config.lora_rank` put on `network`, or with rank 0 all its weights that are not frozen."""
    if not config.lora_rank:
        return trainable(network)
    if parameters := add_lora(network, config.lora_rank, config.lora_alpha, config.seed):
        return parameters
    raise UserError(f"LoRA finds no linear layer and no convolution in a {type(network).__name__}; set lora_rank to 0")


def ask_selector(selector: Callable, policy: DiffusionPolicy) -> dict[str, float]:
    """What a selector says of a policy, as plain numbers; `UserError` unless there is a finite "score" among them."""
    found = selector(policy)
    try:
        found = {str(name): float(value) for name, value in found.items()}
        if math.isfinite(found["score"]):
            return found
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
        pass
    raise UserError(f'a selector returns a dict of numbers with a finite "score" among them, not {found!r}')


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def run_settings(policy, prompts, lengths, config, retained_prompts, selector) -> dict:
    """What a run is, apart from its reward, in plain values; a run that goes on must have the same. See `DDPOTrainer`.

    The number of iterations is left open: a longer run may go on. So is the size of micro-batches, which changes rounding only.
    """
    return {
        **asdict(config),
        "iterations": None,
        "micro_batch": None,
        "prompts": prompts,
        "lengths": lengths.tolist(),
        "retained_prompts": retained_prompts,
        "solver": policy.solver,
        "steps": policy.steps,
        "timesteps": policy.timesteps.tolist(),
        "eta": float(policy.eta),
        "guidance_scale": float(policy.guidance_scale),
        "min_std": float(policy.min_std),
        "denoiser": network_hash(policy.denoiser),
        "text_encoder": _name(policy.text_encoder),
        "selector": None if selector is None else _name(selector),
        "version": __version__,
    }


def reward_probe(policy: DiffusionPolicy, reward: Reward, prompts: list[str], lengths: Tensor, count: int = 4) -> dict:
    """A reward's name and its scores of `count` motions made of noise, the same at every call (None: not finite)."""
    prompts, lengths = (prompts * count)[:count], lengths.flatten().repeat(count)[:count]
    rows = policy.denoiser.state_lengths(lengths)
    noise = next(stepwise_noise(torch.arange(count), rows, 1, policy.denoiser.state_width)).to(policy.denoiser.feature_mean)
    lengths = lengths.to(policy.device)
    with torch.no_grad(), borrowed_generators(policy.device, 0):
        motion = policy.to_raw(noise, lengths)
        scores = as_scores(reward(motion.clone(), lengths, prompts), motion)
    return {"name": _name(reward), "scores": scores.tolist() if bool(scores.isfinite().all()) else None}


def same_reward(one: dict, other: dict, tolerance: float = 1e-4) -> bool:
    """Do two of `reward_probe` agree? Scores that do not differ among themselves say little: then the name must be the same."""
    if one["scores"] is None or other["scores"] is None or len(set(one["scores"])) == 1:
        return one == other
    a, b = torch.tensor(one["scores"]), torch.tensor(other["scores"])
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * a.abs().max())


def goes_on(log: Sequence[Mapping]) -> bool:
    """Whether another round of search and learning is worth its time, by the records of those before.

    It is after a round that was kept ("improved"), or that scores higher than the one before it; and after the first, whatever
    that scores: what is far from everything known costs much elsewhere at first.
    """
    if len(log) < 2 or log[-1]["improved"]:
        return True
    earlier, last = (record["selection"].get("score", -math.inf) for record in log[-2:])
    return last > earlier
