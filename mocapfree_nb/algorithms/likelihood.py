"""DDPO and its kin by name: settings of the one trainer that make it each of them."""

from dataclasses import dataclass

from mocapfree_nb.ddpo import DDPOConfig

__all__ = ["ImportanceConfig", "ScoreFunctionConfig", "GroupRelativeConfig"]


@dataclass(frozen=True)
class ImportanceConfig(DDPOConfig):
    """DDPO-IS with the public settings of the paper behind this kit (arXiv 2510.06988): final rewards compared over the
    batch, a clipped ratio, four passes over a rollout of 256 motions."""

    prompts_per_iteration: int = 64
    motions_per_prompt: int = 4
    inner_epochs: int = 4
    learning_rate: float = 1e-5
    clip_range: float = 1e-4
    advantage: str = "batch"
    weigh_timesteps: bool = False
    lora_rank: int = 4
    distillation_weight: float = 0.0


@dataclass(frozen=True)
class ScoreFunctionConfig(ImportanceConfig):
    """DDPO-SF (arXiv 2305.13301): the same without a ratio, so with a single pass, all steps in one update."""

    objective: str = "score"
    inner_epochs: int = 1
    timesteps_per_update: int = 1000  # more than there are: a second update would meet a policy that has moved


@dataclass(frozen=True)
class GroupRelativeConfig(DDPOConfig):
    """GRPO-like (arXiv 2402.03300; for flows 2505.05470): final rewards compared within the group of a prompt, and a KL term."""

    advantage: str = "group"
    weigh_timesteps: bool = False
    inner_epochs: int = 2
    kl_weight: float = 0.02
