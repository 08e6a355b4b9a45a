"""The other algorithms: each loss against its formula on a two-step chain whose gradient is known in closed form."""

import dataclasses
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_policy import above, height, make_policy
from torch import nn

from mocapfree_nb import cli, learning
from mocapfree_nb.algorithms import comparison, loop
from mocapfree_nb.algorithms.likelihood import GroupRelativeConfig, ImportanceConfig, ScoreFunctionConfig
from mocapfree_nb.algorithms.loop import SampleConfig, SampleTrainer
from mocapfree_nb.algorithms.negative_aware import (
    NegativeAwareConfig,
    NegativeAwareTrainer,
    implicit_policies,
    nft_loss,
    optimality,
)
from mocapfree_nb.algorithms.preference import PreferenceConfig, PreferenceTrainer, diffusion_dpo_loss, preference_pairs
from mocapfree_nb.algorithms.reward_gradient import (
    RewardGradientConfig,
    RewardGradientTrainer,
    check_differentiable,
    end_with_gradient,
    reward_gradient_loss,
)
from mocapfree_nb.algorithms.reward_weighted import (
    RewardWeightedConfig,
    RewardWeightedTrainer,
    best_of_groups,
    reward_weighted_loss,
)
from mocapfree_nb.calls import count_calls
from mocapfree_nb.ddpo import DDPOConfig
from mocapfree_nb.denoiser import Denoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy, sample_steps
from mocapfree_nb.tasks import EvaluationPrompts, Task

QUICK = {"iterations": 4, "prompts_per_iteration": 2, "motions_per_prompt": 4, "updates": 2, "batch_size": 8}
QUICK |= {"distillation_batch": 8, "select_every": 2, "learning_rate": 1e-2}
TRAINERS = {
    "raft": (RewardWeightedTrainer, RewardWeightedConfig(**QUICK)),
    "draft": (RewardGradientTrainer, RewardGradientConfig(**QUICK, last_steps=2)),
    "refl": (RewardGradientTrainer, RewardGradientConfig(**QUICK, last_steps=3, shortcut=True)),
    "dpo": (PreferenceTrainer, PreferenceConfig(**QUICK, pairs=2)),
    "nft": (NegativeAwareTrainer, NegativeAwareConfig(**QUICK)),
}
TRAINING, RETAINED = ["raises both arms", "lifts both hands"], ["walks", "runs", "kicks"]


class Scaled(Denoiser):
    """Predicts x0 = theta * x_t: one weight, so every gradient can be written down."""

    def __init__(self, theta: float = 0.7):
        super().__init__(263, "x0", "cosine", 50)
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))
        self.double()

    def forward(self, x_t, t, text, lengths, conditional=None):
        return self.theta * x_t


def chain(**settings) -> DiffusionPolicy:
    "Two denoising steps of `Scaled`, in double precision and without guidance."
    return DiffusionPolicy(Scaled(), steps=2, guidance_scale=1.0, **settings)


def sampled(policy, batch=3, frames=5):
    "Text, lengths and seeds, and the states of the chain: noise, after the first step, at the end."
    text, lengths, seeds = policy.encode(["walks"] * batch), torch.full((batch,), frames), torch.arange(batch)
    with torch.no_grad():
        states = torch.stack([state for state, _, _ in sample_steps(policy, text, lengths, seeds)])
    return text, lengths, seeds, states


@pytest.mark.parametrize("settings", [{}, {"eta": 0.0}])
def test_the_gradient_through_one_and_two_steps_is_that_of_the_chain(settings):
    """Reward w . x at the end. The last step is x_2 = theta x_1; the first x_1 = a theta x_0 + b x_0 + noise.

    Through the last step alone d/d theta = w . x_1; through both w . (x_1 + theta a x_0).
    """
    policy = chain(**settings)
    theta, (text, lengths, seeds, states) = policy.denoiser.theta, sampled(policy)
    weight = torch.randn(states[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for first, slope in ((1, states[1]), (0, states[1] + theta.detach() * policy.x0_coefficients[0] * states[0])):
        end = end_with_gradient(policy, text, lengths, seeds, first)
        assert torch.equal(end, states[-1])
        loss = reward_gradient_loss((weight * end).flatten(1).sum(1))
        found = torch.autograd.grad(loss, theta)[0]
        expected = -(weight * slope).flatten(1).sum(1).mean()
        assert torch.allclose(found, expected, rtol=1e-10), first


def test_the_shortcut_scores_the_x0_predicted_at_a_step():
    policy = chain()
    text, lengths, seeds, states = sampled(policy)
    for first in (0, 1):
        end = end_with_gradient(policy, text, lengths, seeds, first, shortcut=True)
        assert torch.allclose(end, policy.denoiser.theta * states[first])
        assert torch.allclose(torch.autograd.grad(end.sum(), policy.denoiser.theta)[0], states[first].sum())


def noised_pair(policy, batch=4):
    "States at both steps of the chain, and the motions they came from."
    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(batch, 5, 263, generator=generator, dtype=torch.float64)
    lengths, text = torch.full((batch,), 5), policy.encode(["walks"] * batch)
    samples = loop.Samples(text, lengths, x0, torch.zeros(1, batch))
    step = torch.arange(batch) % 2
    return loop.draw_states(policy, samples, torch.arange(batch), step, generator)


def error_slope(states, theta):
    "d/d theta of mean (theta x_t - x0)^2 of each motion."
    return (2 * (theta * states.x_t - states.x0) * states.x_t).flatten(1).mean(1)


def errors_of(policy, states):
    return loop.prediction_errors(policy, loop.predict_x0(policy, states), states)


def test_states_are_noised_as_the_policy_s_steps_begin():
    policy = chain()
    states = noised_pair(policy)
    alpha = policy.alphas[states.step][:, None, None]
    noise = (states.x_t - alpha.sqrt() * states.x0) / (1 - alpha).sqrt()
    assert abs(float(noise.std()) - 1) < 0.05 and abs(float((noise * states.x0).mean())) < 0.05


def test_reward_weighted_loss_and_gradient():
    policy = chain()
    states, weights = noised_pair(policy), torch.tensor([1.0, 0.0, 1.0, 1.0])
    loss = reward_weighted_loss(errors_of(policy, states), weights)
    expected = error_slope(states, policy.denoiser.theta.detach())[[0, 2, 3]].mean()
    assert torch.allclose(torch.autograd.grad(loss, policy.denoiser.theta)[0], expected, rtol=1e-10)


def test_the_best_of_a_group_are_kept_and_none_of_a_group_without_a_best():
    rewards = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.3, 0.3, 0.3, 0.3]])
    assert best_of_groups(rewards, 2).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]


def test_diffusion_dpo_loss_and_gradient():
    """With u = -beta ((e_w - b_w) - (e_l - b_l)): -log sigmoid(u), and its slope beta sigmoid(-u) (e_w' - e_l')."""
    policy, beta = chain(), 3.0
    better, worse = noised_pair(policy), noised_pair(policy)
    worse = dataclasses.replace(worse, x0=worse.x0 + 1)
    base_better, base_worse = torch.tensor([0.2, 0.4, 0.1, 0.3]).double(), torch.tensor([0.5, 0.1, 0.2, 0.6]).double()
    e_w, e_l = errors_of(policy, better), errors_of(policy, worse)
    loss = diffusion_dpo_loss(e_w, e_l, base_better, base_worse, beta)
    u = -beta * ((e_w - base_better) - (e_l - base_worse)).detach()
    assert torch.allclose(loss, torch.log1p(torch.exp(-u)).mean(), rtol=1e-10)
    theta = policy.denoiser.theta.detach()
    slope = beta * torch.sigmoid(-u) * (error_slope(better, theta) - error_slope(worse, theta))
    assert torch.allclose(torch.autograd.grad(loss, policy.denoiser.theta)[0], slope.mean(), rtol=1e-10)


def test_at_the_base_the_preference_loss_is_log_two():
    errors = torch.tensor([0.3, 0.7])
    assert float(diffusion_dpo_loss(errors, errors + 1, errors, errors + 1, 500.0)) == pytest.approx(math.log(2))


def test_pairs_are_the_best_with_the_worst_and_none_of_equals():
    rewards = torch.tensor([[0.1, 0.9, 0.5, 0.7], [0.2, 0.2, 0.2, 0.2]])
    better, worse = preference_pairs(rewards, 2)
    assert (better.tolist(), worse.tolist()) == ([1, 3], [0, 2])


def test_nft_loss_and_gradient():
    """d/d theta = 2 beta mean [r (x+ - x0) - (1 - r) (x- - x0)] x_t with x+- = old -+ beta (old - new)."""
    policy, beta = chain(), 0.4
    states, good = noised_pair(policy), torch.tensor([1.0, 0.0, 0.3, 0.8]).double()
    old = 0.5 * states.x_t
    new = loop.predict_x0(policy, states)
    positive, negative = implicit_policies(new, old, beta)
    assert torch.allclose(positive + negative, 2 * old)  # the old policy lies in the middle
    errors = [loop.prediction_errors(policy, x, states) for x in (positive, negative)]
    found = torch.autograd.grad(nft_loss(*errors, good), policy.denoiser.theta)[0]
    r = good[:, None, None]
    plus, minus = old + beta * (new.detach() - old), old - beta * (new.detach() - old)
    slope = 2 * beta * (r * (plus - states.x0) - (1 - r) * (minus - states.x0)) * states.x_t
    assert torch.allclose(found, slope.flatten(1).mean(1).mean(), rtol=1e-10)


def test_optimality_is_a_share_around_one_half():
    rewards = torch.tensor([[0.0, 1.0], [5.0, 5.0], [1.0, 1.5]])
    centred = torch.tensor([[-0.5, 0.5], [0, 0], [-0.25, 0.25]])
    scale = centred.square().mean().sqrt()
    expected = 0.5 + 0.5 * (centred / scale).clamp(-1, 1)
    assert torch.allclose(optimality(rewards), expected)
    assert optimality(torch.full((2, 3), 4.0)).unique().tolist() == [0.5]


def make_trainer(name, policy=None, **arguments):
    trainer, config = TRAINERS[name]
    return trainer(policy or make_policy(), height, TRAINING, torch.tensor([24, 30]), config, RETAINED, **arguments)


def depth(motion, lengths, prompts):
    return -height(motion, lengths, prompts)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_reward_leads_one_way_and_its_negative_the_other(name):
    trainer, config = TRAINERS[name]
    config = dataclasses.replace(config, iterations=15, distillation_weight=0.0, lora_rank=0, learning_rate=3e-3)
    heights = []
    for reward in (height, depth):
        policy = make_policy(eta=0.0)  # a deterministic sampler: none of these needs a density
        trainer(policy, reward, TRAINING, torch.tensor([24]), config).run(progress=False)
        heights.append(float(height(policy.generate(TRAINING * 8, [24] * 16), None, None).mean()))
    assert heights[0] > heights[1] + 0.1


@pytest.mark.parametrize("name", TRAINERS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, name):
    whole = make_trainer(name)
    whole.run(progress=False)
    stopped = make_trainer(name, folder=tmp_path)
    stopped.iterate()
    stopped.iterate()
    resumed = make_trainer(name, folder=tmp_path)
    assert len(resumed.log) == 2
    resumed.run(progress=False)
    assert [r["reward"] for r in whole.log] == [r["reward"] for r in resumed.log]
    weights = [trainer.policy.denoiser.state_dict().values() for trainer in (whole, resumed)]
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert all(math.isfinite(line[key]) for line in lines for key in ("reward", "loss", "gradient_norm", "distillation"))


def test_the_selector_keeps_the_best_weights():
    scores = iter([0.0, 5.0, 1.0])
    trainer = make_trainer("nft", selector=lambda policy: {"score": next(scores)})
    kept = []
    trainer.run(lambda record: kept.append([p.detach().clone() for p in trainer.parameters]), progress=False)
    assert trainer.best_score == 5.0
    assert all(torch.equal(a, b) for a, b in zip(trainer.best, kept[1], strict=True))


def test_the_frozen_reference_costs_network_calls_too():
    policy = make_policy()
    trainer, config = TRAINERS["dpo"]
    config = dataclasses.replace(config, distillation_weight=0.0)
    with count_calls(policy.denoiser) as calls:
        trainer(policy, height, TRAINING, torch.tensor([24]), config).iterate()
    rollout, pairs = 8 * 6 * 2, 2 * 2 * 8 * 2 * 2  # motions, steps, guidance; updates, both motions, pairs, both nets, guidance
    assert calls.made == rollout + pairs


def in_numpy(motion, lengths, prompts):
    return motion.numpy()[:, :, 3].mean(1)


@pytest.mark.parametrize("reward", [above, in_numpy, lambda motion, lengths, prompts: motion.detach()[:, :, 3].mean(1)])
def test_a_reward_without_a_gradient_is_refused_in_one_line(reward):
    trainer, config = TRAINERS["draft"]
    with pytest.raises(UserError, match="reward (has no gradient|cannot be differentiated)") as caught:
        trainer(make_policy(), reward, TRAINING, torch.tensor([24]), config, RETAINED)
    assert "\n" not in str(caught.value)


def test_the_retrieval_reward_can_be_differentiated_also_mirrored():
    from mocapfree_nb.retrieval import RetrievalModel
    from mocapfree_nb.rewards import RetrievalReward, mirror_consistent

    torch.manual_seed(0)
    reward = RetrievalReward(RetrievalModel(), make_policy().text_encoder)
    motion, lengths, prompts = torch.randn(2, 24, 263), torch.tensor([24, 20]), ["raises the left arm", "walks"]
    for one in (reward, mirror_consistent(reward)):
        check_differentiable(one, motion, lengths, prompts)
        assert not one(motion, lengths, prompts).requires_grad  # no graph where nobody asks for one
    moved = motion.clone().requires_grad_()
    slope = torch.autograd.grad(reward(moved, lengths, prompts).sum(), moved)[0]
    step = 1e-2 * slope / slope.norm()
    up, down = (reward(motion + s * step, lengths, prompts).sum() for s in (1, -1))
    assert float(up - down) == pytest.approx(2 * 1e-2 * float(slope.norm()), rel=0.05)


@pytest.mark.parametrize("name", ["ddpo", "ddpo-sf", "ddpo-is", "grpo"])
def test_an_algorithm_of_densities_refuses_a_deterministic_sampler_in_one_line(name):
    task = SimpleNamespace(training_prompts=TRAINING, retained=SimpleNamespace(lengths=torch.tensor([24])))
    config = learning.find_algorithm(name)()
    with pytest.raises(UserError, match="no density to train") as caught:
        learning.check_start(make_policy(eta=0.0), height, task, config)
    assert "\n" not in str(caught.value)
    for other in ("raft", "draft", "dpo", "nft"):
        learning.check_start(make_policy(eta=0.0), height, task, learning.find_algorithm(other)())


@pytest.mark.parametrize(
    "kind, change, message",
    [
        (RewardWeightedConfig, {"keep": 12}, "keep should be below motions_per_prompt"),
        (RewardWeightedConfig, {"motions_per_prompt": 1}, "at least 2"),
        (PreferenceConfig, {"pairs": 7}, "at most 6"),
        (PreferenceConfig, {"beta": 0}, "beta should be"),
        (NegativeAwareConfig, {"old_share": 1.5}, "from 0 to 1"),
        (NegativeAwareConfig, {"updates": 0}, "updates should be at least 1"),
        (RewardGradientConfig, {"last_steps": 0}, "last_steps should be at least 1"),
        (SampleConfig, {"learning_rate": float("nan")}, "learning_rate should be"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(kind, change, message):
    with pytest.raises(UserError, match=message):
        kind(**change)


def test_more_last_steps_than_there_are_is_refused():
    config = RewardGradientConfig(last_steps=7)
    with pytest.raises(UserError, match="at most the 6 denoising steps"):
        RewardGradientTrainer(make_policy(), height, TRAINING, torch.tensor([24]), config, RETAINED)


def test_the_names_lead_to_settings_and_settings_to_names():
    for name, kind in learning.ALGORITHMS.items():
        assert learning.algorithm_name(kind()) == name
    with pytest.raises(UserError, match="there is no algorithm 'ppo'; choose one of exploration, ddpo"):
        learning.find_algorithm("ppo")
    with pytest.raises(UserError, match="already"):
        learning.register_algorithm("raft", NegativeAwareTrainer)


def test_an_algorithm_of_one_s_own_is_one_class_and_one_line(monkeypatch):
    monkeypatch.setattr(learning, "ALGORITHMS", dict(learning.ALGORITHMS))
    monkeypatch.setattr(learning, "TRAINERS", dict(learning.TRAINERS))

    @dataclasses.dataclass(frozen=True)
    class MineConfig(SampleConfig):
        pass

    class Mine(SampleTrainer):
        settings_type = MineConfig

    learning.register_algorithm("mine", Mine)
    assert learning.find_algorithm("mine") is MineConfig


def test_ddpo_by_name_has_the_settings_of_its_paper():
    from mocapfree_nb.recipes import SETTINGS

    assert asdict(ImportanceConfig()) == asdict(DDPOConfig(**SETTINGS["paper"].ddpo))
    score = asdict(ScoreFunctionConfig())
    assert {key for key in score if score[key] != asdict(ImportanceConfig())[key]} == {
        "objective", "inner_epochs", "timesteps_per_update",  # one update a rollout, however many steps
    }  # fmt: skip
    assert GroupRelativeConfig().advantage == "group" and GroupRelativeConfig().kl_weight > 0


def small_task() -> Task:
    retained = EvaluationPrompts(RETAINED, torch.tensor([24, 30, 26]), ["walk", "run", "kick"])
    return Task(TRAINING, TRAINING, retained, retained, retained, [], [])


@pytest.mark.parametrize("name", ["raft", "draft", "dpo", "nft", "ddpo", "grpo"])
def test_the_stand_in_costs_as_many_calls_as_the_network(name):
    policy, task = make_policy(), small_task()
    config = learning.find_algorithm(name)(iterations=2, prompts_per_iteration=2, motions_per_prompt=6, distillation_batch=8)
    counted = comparison.calls_of(policy, task, config)
    with count_calls(policy.denoiser) as calls:
        learning.learn_task(policy, height, task, config, progress=False)
    assert calls.made == counted


@pytest.mark.parametrize("name", ["raft", "draft"])
def test_a_budget_buys_as_many_iterations_as_fit_and_at_least_one(name):
    policy, task = make_policy(), small_task()
    config = comparison.settings_within(name, 10_000, policy, task)
    longer = dataclasses.replace(config, iterations=config.iterations + 1)
    assert comparison.calls_of(policy, task, config) <= 10_000 < comparison.calls_of(policy, task, longer)
    assert comparison.settings_within(name, 10, policy, task).iterations == 1


def a_row(name, seed=0, verified=0.5, original=True):
    part = {"reward": 0.75, "verified": verified, "r_precision": [0.25, 0.5, 0.5], "fid": 2.0, "foot_skate": 0.0}
    part |= {"bone_deviation": 0.01}
    other = part if original else None
    rest = {"calls": 1234, "seconds": 5.0, "curve": [0.5, 0.75]}
    return {"algorithm": name, "seed": seed, "target": part, "original": other} | rest


def test_a_comparison_that_was_stopped_goes_on_and_its_table_says_all_rows(monkeypatch, tmp_path):
    made = []

    def run_one(name, budget, *rest):
        if len(made) == 3:
            made.append("stop")
            raise KeyboardInterrupt
        made.append(name)
        return a_row(name, rest[-1], original=name != "best of N")

    monkeypatch.setattr(comparison, "run_one", run_one)
    for name in ("load_corpus", "without_others", "make_task", "load_scorers", "load_policy", "PolicyEvaluation"):
        monkeypatch.setattr(comparison, name, lambda *_, **__: SimpleNamespace(reward=height, rigid=True))
    out, names = tmp_path / "a.json", ["raft", "nft"]
    with pytest.raises(KeyboardInterrupt):
        comparison.compare_algorithms(out, names, 5000, say=lambda _: None)
    rows = comparison.compare_algorithms(out, names, 5000, say=lambda _: None)
    assert made == ["base", "best of N", "raft", "stop", "nft"]
    lines = comparison.comparison_table(rows + [a_row("nft", 1, 1.0)]).splitlines()
    assert [line.split()[0] for line in lines] == ["algorithm", "base", "best", "raft", "nft"]
    assert lines[-1].split()[1:5] == ["1,234", "5", "0.750", "0.750"] and lines[2].split()[-1] == "-"
    comparison.comparison_figure(rows, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="no algorithm 'magic'"):
        comparison.compare_algorithms(out, ["magic"])
    for name, given in {"budget": {"budget": 6000}, "action": {"target": "bow"}, "model": {"model": "mine"}}.items():
        with pytest.raises(UserError, match=f"another {name}"):
            comparison.compare_algorithms(out, names, **{"budget": 5000} | given)
    assert {row["model"] for row in rows} == {"denoiser-leave-one-out"}  # wherever the package is installed


@pytest.mark.parametrize("text", ['{"nothing": 1}', '{"rows": [{"a": 1}]}', '{"rows": [3]}', "[]", json.dumps({"rows": [
    {"algorithm": "raft", "seed": 0, "budget": 5000, "action": "raise-both-arms", "calls": 3, "curve": None, "target": {}}]})])
def test_a_file_without_rows_of_a_comparison_is_named(text, tmp_path):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match="mine.json") as caught:
        comparison.compare_algorithms(tmp_path / "mine.json", ["raft"], 5000)
    assert "\n" not in str(caught.value) and (tmp_path / "mine.json").read_text() == text


@pytest.mark.parametrize("name,budget", [("algorithms", 24_000), ("equal-94080", 94_080)])
def test_comparisons_that_ship_are_not_made_again(name, budget, monkeypatch, tmp_path):
    for part in ("load_corpus", "without_others", "make_task", "load_scorers", "load_policy", "PolicyEvaluation"):
        monkeypatch.setattr(comparison, part, lambda *_, **__: SimpleNamespace(reward=height, rigid=True))
    monkeypatch.setattr(comparison, "run_one", lambda *_: pytest.fail("it is made again"))
    out = tmp_path / "a.json"
    out.write_bytes((Path(__file__).parent.parent / "nbs" / "results" / f"{name}.json").read_bytes())
    assert comparison.compare_algorithms(out, ["exploration", "ddpo-is"], budget) == json.loads(out.read_text())["rows"]


def test_the_command_line_compares_algorithms(monkeypatch, tmp_path, capsys):
    asked = []

    def compare(out, names, calls, **rest):
        asked.append((names, calls, list(rest["seeds"])))
        return [a_row("raft")]

    monkeypatch.setattr(comparison, "compare_algorithms", compare)
    words = ["mocapfree", "sweep", "--out", str(tmp_path / "a.json"), "--calls", "5000", "--seeds", "1", "--algorithms"]
    for names in ("raft,nft", "all"):
        monkeypatch.setattr(sys, "argv", [*words, names])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
    assert asked == [(["raft", "nft"], 5000, [0]), (list(learning.ALGORITHMS), 5000, [0])]
    assert "raft" in capsys.readouterr().out and (tmp_path / "a.png").exists()
    monkeypatch.setattr(sys, "argv", [*words, "all", "--set", "seed=1"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
