"""Learning from the policy's own samples, iteration after iteration: what the algorithms of this package share."""

# The machinery of lesson 38. An algorithm is a `SampleTrainer` with settings of its own and two methods: `collect` makes what an
# iteration learns from, `loss` is what an update makes small. Optimiser, low-rank updates, self-distillation, the log,
# checkpoints and selection are those of DDPO's trainer.

import copy
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mocapfree_nb import parallel
from mocapfree_nb.advantages import rollout_in_batches
from mocapfree_nb.ddpo import DDPOTrainer
from mocapfree_nb.distillation import apply_gradients, distillation_gradient, gradient_norm, gradient_of
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import motion_errors, posterior_states, step_weights
from mocapfree_nb.policy import DiffusionPolicy, draw_seeds
from mocapfree_nb.regularisers import Regularisers, check_divergence, gate_most, overrated
from mocapfree_nb.setting_checks import check_settings
from mocapfree_nb.rewards import checked_scores
from mocapfree_nb.tasks import draw_prompts
from mocapfree_nb.text import TextEmbedding

__all__ = ["SampleConfig", "Samples", "States", "draw_states", "predict_x0", "prediction_errors", "base_divergence",
           "weights_of", "SampleTrainer"]


@dataclass(frozen=True)
class SampleConfig(Regularisers):
    """Settings that every algorithm of this package has."""

    iterations: int = 100
    prompts_per_iteration: int = 6
    motions_per_prompt: int = 12  # the group that a motion is compared with
    updates: int = 4  # steps of the optimiser in an iteration
    batch_size: int = 48  # states in an update
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    lora_rank: int = 8  # 0 trains all weights
    lora_alpha: float = 16.0
    distillation_weight: float = 1.0
    distillation_batch: int = 48
    select_every: int = 20  # iterations between two evaluations for checkpoint selection
    micro_batch: int = 256  # motions sampled at once at most
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_settings(
            self,
            whole={
                **dict.fromkeys(("iterations", "prompts_per_iteration", "motions_per_prompt", "updates", "batch_size"), 1),
                **dict.fromkeys(("distillation_batch", "select_every", "micro_batch"), 1),
                **dict.fromkeys(("lora_rank", "seed"), 0),
            },
            positive=("learning_rate", "gradient_clip", "lora_alpha"),
            not_negative=("weight_decay", "distillation_weight"),
        )

    def check_group(self) -> None:
        """Raise `UserError` where a motion has no other to be compared with."""
        if self.motions_per_prompt < 2:
            raise UserError("motions_per_prompt should be at least 2: a motion is compared with others of its prompt")


@dataclass(frozen=True)
class Samples:
    """Motions of the policy, a group for each prompt drawn, with their rewards."""

    text: TextEmbedding  # of each motion
    lengths: Tensor  # (groups * size,) frames
    x0: Tensor  # (groups * size, rows, width) clean states
    rewards: Tensor  # (groups, size)
    gate: Tensor | None = None  # (groups * size,) how much the divergence counts for a motion; None: as for all


@dataclass(frozen=True)
class States:
    """Noised motions at denoising steps of the policy: what a denoising loss is taken at."""

    text: TextEmbedding
    lengths: Tensor  # (batch,) frames
    step: Tensor  # (batch,) long
    x_t: Tensor  # (batch, rows, width)
    x0: Tensor  # (batch, rows, width) the motion that was noised
    gate: Tensor | None = None  # (batch,) see `Samples`


def draw_states(policy: DiffusionPolicy, samples: Samples, rows: Tensor, step: Tensor, generator: torch.Generator) -> States:
    """The motions `rows` (batch,) noised to where the denoising steps `step` (batch,) begin."""
    lengths = samples.lengths[rows]
    x0 = samples.x0[rows, : int(policy.denoiser.state_lengths(lengths).max())]
    gate = None if samples.gate is None else samples.gate[rows]
    return States(samples.text[rows], lengths, step, posterior_states(policy, x0, step, generator), x0, gate)


def predict_x0(policy: DiffusionPolicy, states: States) -> Tensor:
    """The guided prediction of the clean states, (batch, rows, width)."""
    t = policy.timesteps[states.step.cpu()].to(policy.device)
    return policy.predict(states.x_t, t, states.text, states.lengths)[0]


def prediction_errors(policy: DiffusionPolicy, predicted: Tensor, states: States) -> Tensor:
    """Mean square of what a prediction (batch, rows, width) is off the motion that was noised: (batch,)."""
    return motion_errors(policy, predicted, states.x0, states.lengths)


def base_divergence(policy: DiffusionPolicy, predicted: Tensor, base: Tensor, states: States) -> Tensor:
    """KL divergence (batch,) of each state's denoising step from that of the base, from what the two predict as x0.

    Both steps are Gaussians of one deviation, so it is the squared distance of their means, k^2 / (2 sigma^2) times that of
    the predictions (of a multistep sampler: as far as this prediction moves the mean). A step without noise counts nothing.
    """
    weights = step_weights(policy)[states.step.cpu()].to(predicted)
    return weights.where(weights.isfinite(), 0) * motion_errors(policy, predicted, base, states.lengths)


@contextmanager
def weights_of(parameters: list[nn.Parameter], values: list[Tensor]) -> Iterator[None]:
    """Inside, `parameters` hold `values`, and nothing has a gradient; afterwards they are as before."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        torch._foreach_copy_(parameters, values)
        try:
            yield
        finally:
            torch._foreach_copy_(parameters, kept)


class SampleTrainer(DDPOTrainer):
    """The loop: collect, and for each batch loss, gradient, self-distillation, a step of the optimiser.

    Arguments, log, checkpoints and selection as in `DDPOTrainer`. No step needs a density: any sampler will do.
    """

    settings_type, densities, per_step = SampleConfig, False, ()

    @classmethod
    def check_reward(cls, policy: DiffusionPolicy, reward, prompts: list[str], lengths: Tensor) -> None:
        """Raise `UserError` for a reward that the algorithm cannot follow."""

    def collect(self) -> tuple[list, dict[str, float]]:
        """What the updates of an iteration learn from, one thing each, and numbers for the log."""
        raise NotImplementedError

    def loss(self, batch) -> tuple[Tensor, dict[str, float]]:
        """What an update makes small, a scalar, and numbers for the log; "reward" is in one of the two."""
        raise NotImplementedError

    def prepare(self) -> None:
        if parallel.is_parallel():
            raise UserError(f"{type(self).__name__} runs in one process; of several only ddpo makes use")
        check_divergence(self.policy, self.config)
        self.frozen = self.policy.with_denoiser(copy.deepcopy(self.policy.denoiser)) if self.config.kl_weight else None
        self.check_reward(self.policy, self.reward, self.prompts, self.lengths.flatten())

    def draw_groups(self) -> Samples:
        """Motions for `prompts_per_iteration` prompts, `motions_per_prompt` each, and what the reward says of them."""
        config = self.config
        drawn, lengths = draw_prompts(self.prompts, self.lengths, config.prompts_per_iteration, self.generator)
        prompts, size = [prompt for prompt in drawn for _ in range(config.motions_per_prompt)], config.motions_per_prompt
        seeds = draw_seeds(len(prompts), self.generator)
        made = rollout_in_batches(self.policy, prompts, lengths.repeat_interleave(size), seeds, config.micro_batch)
        rewards = checked_scores(self.reward, made.motion, made.lengths, prompts)
        gate = self.gate(rewards, made.motion, made.lengths, prompts)
        return Samples(made.text, made.lengths, made.states[-1], rewards.view(-1, size), gate)

    def gate(self, rewards: Tensor, motion: Tensor, lengths: Tensor, prompts: list[str]) -> Tensor | None:
        """Of motions with `rewards` (batch,): 1 for those whose divergence counts, else 0; None where it counts for all."""
        if self.opinion is None:
            return None
        return gate_most(overrated(rewards, self.opinion(motion, lengths, prompts)), self.config.kl_gate)

    def divergence(self, predicted: Tensor, states: States) -> Tensor:
        """`kl_weight` times the mean `base_divergence` over the batch, gated: what a loss adds to itself. 0 without a weight."""
        if not self.config.kl_weight:
            return predicted.new_zeros(())
        with torch.no_grad():
            base = predict_x0(self.frozen, states)
        found = base_divergence(self.policy, predicted, base, states)
        return self.config.kl_weight * (found if states.gate is None else states.gate * found).mean()

    def draw_rows(self, among: Tensor) -> tuple[Tensor, Tensor]:
        """`batch_size` of the rows `among` (n,), and a random denoising step for each."""
        count, device = self.config.batch_size, among.device
        rows = among[torch.randint(len(among), (count,), generator=self.generator).to(device)]
        return rows, torch.randint(self.policy.steps, (count,), generator=self.generator)

    def learn(self) -> dict:
        config, found = self.config, []
        strength = config.distillation_batch, config.distillation_weight, config.micro_batch
        batches, notes = self.collect()
        for number, batch in enumerate(batches, start=1):
            loss, more = self.loss(batch)
            gradients = [g.clone() for g in gradient_of(loss, self.parameters)]
            row = {"loss": loss.item(), "gradient_norm": gradient_norm(gradients), **more}
            if self.retained is not None:
                added, row["distillation"] = distillation_gradient(
                    self.policy, self.retained, self.parameters, self.generator, *strength
                )
                torch._foreach_add_(gradients, added)
            apply_gradients(self.optimizer, self.parameters, gradients, config.gradient_clip, f"in update {number}")
            found.append(row)
        means = {name: statistics.fmean(row[name] for row in found) for name in (found[0] if found else ())}
        return {"loss": None, "gradient_norm": None, "distillation": None} | notes | means
