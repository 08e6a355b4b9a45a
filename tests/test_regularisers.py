"""What keeps a policy from fooling its reward: each piece against its formula, and in the loop of every algorithm."""

import dataclasses
import math
import sys

import pytest
import torch
from small_policy import height, make_policy
from test_algorithms import (
    QUICK,
    RETAINED,
    TRAINERS,
    TRAINING,
    a_row,
    chain,
    depth,
    errors_of,
    noised_pair,
    small_task,
)

from mocapfree_nb import cli, learning
from mocapfree_nb.algorithms import comparison, loop
from mocapfree_nb.algorithms.reward_gradient import RewardGradientConfig
from mocapfree_nb.algorithms.reward_weighted import RewardWeightedConfig, RewardWeightedTrainer
from mocapfree_nb.cli.settings import read_settings
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer, collect
from mocapfree_nb.distillation import step_divergence
from mocapfree_nb.features import FEATURE_GROUPS
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import LearnConfig
from mocapfree_nb.regularisers import (
    Regularisers,
    gate_most,
    gate_states,
    overrated,
    second_opinion,
    shaped_reward,
    win_rates,
)  # fmt: skip
from mocapfree_nb.rewards import diverse, in_mirror, mirror_consistent, motion_distances, near_motions, worst_case
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

PLACE = FEATURE_GROUPS(HUMANML3D)["positions"]


def wrist(motion, lengths, prompts):
    return motion[:, :, 62].mean(1)


# the worst of some near ones


def test_near_motions_move_all_joints_and_nothing_else_by_slow_waves_of_one_size():
    motion = torch.randn(2, 400, 263, generator=torch.Generator().manual_seed(0))
    waves = torch.stack([near - motion for near in near_motions(motion, 0.03, draws=8)])
    outside = torch.ones(263, dtype=torch.bool)
    outside[PLACE] = False
    assert waves[..., outside].abs().max() == 0 and torch.allclose(waves[:, 0], waves[:, 1], atol=1e-6)
    assert abs(float(waves[..., PLACE].std()) - 0.03) < 0.002
    assert float(waves.diff(dim=2).abs().max()) <= math.sqrt(2) * 0.03 * 2 * math.pi / 20 + 1e-6  # a hertz at 20 frames/s
    shorter = near_motions(motion[:, :50], 0.03, draws=8)
    assert torch.allclose(shorter[3], near_motions(motion, 0.03, draws=8)[3][:, :50])  # whatever else is in the batch
    kit = near_motions(torch.zeros(1, 200, 251), 0.03, draws=8)
    assert abs(float(torch.stack(kit)[..., FEATURE_GROUPS(KIT_ML)["positions"]].std()) - 30) < 3  # millimetres there


def test_the_worst_case_is_the_minimum_over_the_motion_and_those_near_it():
    motion, lengths = torch.randn(5, 24, 263, generator=torch.Generator().manual_seed(1)), torch.full((5,), 24)
    tried = torch.stack([wrist(one, None, None) for one in (motion, *near_motions(motion, 0.1, 2))])
    found = worst_case(wrist, 0.1, 2)(motion, lengths, ["a"] * 5)
    assert torch.equal(found, tried.amin(0)) and bool((found < wrist(motion, None, None)).any())
    assert torch.equal(worst_case(wrist, 0.0)(motion, lengths, ["a"] * 5), wrist(motion, None, None))


def test_a_reward_that_lives_on_a_needle_loses_it():
    def needle(motion, lengths, prompts):
        return (motion[..., PLACE].abs().amax((1, 2)) < 0.005).float()

    still, lengths = torch.zeros(1, 24, 263), torch.tensor([24])
    assert needle(still, lengths, ["a"]) == 1 and worst_case(needle, 0.02)(still, lengths, ["a"]) == 0


# unlike the others


def test_distances_are_of_joints_in_metres_each_motion_on_its_own_clock():
    slow = torch.zeros(3, 31, 263)
    slow[1, :, PLACE] += 0.5  # every coordinate half a metre away
    slow[2, :, PLACE.start] = torch.arange(31) / 30.0
    fast = torch.zeros(1, 31, 263)
    fast[0, :16, PLACE.start] = torch.arange(16) / 15.0  # the same at twice the pace, rows behind its length zero
    found = motion_distances(torch.cat([slow, fast]), torch.tensor([31, 31, 31, 16]))
    assert found[0, 1] == pytest.approx(0.5 * math.sqrt(3)) and found[0, 0] == 0
    assert found[2, 3] == pytest.approx(0, abs=1e-3) and found[0, 2] == pytest.approx(float(found[0, 3]), rel=1e-3)


def groups_of_three():
    """Scores 1, 2, 6 at places 0, 0, 3 (metres): nearest others 0, 0, 3; a fourth motion of another prompt."""
    motion = torch.zeros(4, 24, 263)
    motion[2, :, PLACE.start] = 3 * math.sqrt(21)
    return motion, torch.full((4,), 24), ["a", "a", "a", "b"], torch.tensor([1.0, 2.0, 6.0, 9.0])


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
def test_a_good_motion_counts_the_more_the_further_it_is_from_the_others_of_its_prompt(weight):
    motion, lengths, prompts, scores = groups_of_three()
    found = diverse(lambda m, n, p: scores, weight)(motion, lengths, prompts)
    mean, usual = 3.0, 1.0  # of the scores; of the distances to the nearest
    expected = [1.0, 2.0, mean + (6 - mean) * (1 + weight * (3 / usual - 1)), 9.0]
    assert torch.allclose(found, torch.tensor(expected))


def test_a_bad_motion_earns_nothing_by_being_different_and_equals_nothing_by_being_equal():
    motion, lengths, prompts, _ = groups_of_three()
    odd = torch.tensor([6.0, 5.0, 1.0, 9.0])
    found = diverse(lambda m, n, p: odd)(motion, lengths, prompts)
    assert found[2:].tolist() == [1.0, 9.0] and torch.allclose(found[:2], torch.tensor([4.0, 4.0]))  # twins lose their lead
    same = torch.zeros(4, 24, 263)
    assert torch.equal(diverse(lambda m, n, p: odd)(same, lengths, prompts), odd)


# the gate


def test_win_rates_say_how_much_of_the_batch_is_beaten():
    assert win_rates(torch.tensor([1.0, 3.0, 2.0, 3.0])).tolist() == [0.125, 0.75, 0.375, 0.75]
    assert torch.equal(win_rates(torch.tensor([5.0, 7.0])), win_rates(torch.tensor([-1e3, 1e3])))  # no scale


def test_what_a_reward_overrates_is_its_win_rate_above_the_mean_of_the_others():
    reward, one, two = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 3.0, 2.0, 4.0]), torch.tensor([4.0, 3.0, 2.0, 1.0])
    assert torch.allclose(overrated(reward, one), torch.tensor([0.75, 0, 0, -0.75]))
    assert torch.allclose(overrated(reward, one, two), torch.tensor([0.375, 0, 0, -0.375]))
    assert overrated(reward, reward).abs().max() == 0


def test_the_gate_opens_for_the_most_overrated_and_for_none_that_is_not():
    uncertainty = torch.tensor([0.3, -0.2, 0.1, 0.2, 0.0, -0.4])
    assert gate_most(uncertainty, 1 / 3).tolist() == [1, 0, 0, 1, 0, 0]
    assert gate_most(uncertainty, 1.0).tolist() == [1, 0, 1, 1, 0, 0]
    assert gate_most(uncertainty, 0.0).sum() == 0 and gate_most(torch.zeros(4), 0.5).sum() == 0


def test_the_second_opinion_is_the_mirror_s_unless_another_is_given():
    motion, lengths = torch.randn(3, 24, 263), torch.full((3,), 24)
    prompts = ["raises the left arm", "walks", "waves"]
    held = Regularisers(kl_weight=1.0, kl_gate=0.5)
    seen = in_mirror(wrist)(motion, lengths, prompts)
    assert torch.equal(second_opinion(wrist, held)(motion, lengths, prompts), seen)
    assert torch.equal(second_opinion(wrist, held, height)(motion, lengths, prompts), height(motion, lengths, prompts))
    assert torch.equal(mirror_consistent(wrist)(motion, lengths, prompts), torch.minimum(wrist(motion, None, None), seen))
    for none in (Regularisers(), Regularisers(kl_weight=1.0), Regularisers(kl_gate=0.5)):
        assert second_opinion(wrist, none) is None


@pytest.mark.parametrize("advantage, motions", [("group", 4), ("branching", 3)])
def test_states_are_gated_by_their_motions_and_candidates_by_their_mean(advantage, motions):
    config = DDPOConfig(prompts_per_iteration=2, motions_per_prompt=motions, advantage=advantage)
    policy, generator = make_policy(), torch.Generator().manual_seed(0)
    found = collect(policy, height, TRAINING, torch.tensor([24, 30]), config, None, generator)
    actions, states = len(found.origin), len(found.lengths)
    assert len(found.prompts) == len(found.motion) == actions and found.gate.tolist() == [1] * states
    assert torch.allclose(height(found.motion, None, None), found.rewards, atol=1e-5)
    gated = gate_states(found, depth, 0.5)  # the opposite of height: what is overrated is what is high
    over = overrated(found.rewards, -found.rewards)
    mean = torch.stack([over[found.origin == state].mean() for state in range(states)])
    assert torch.equal(gated.gate, gate_most(mean, 0.5)) and 0 < gated.gate.sum() < states


# the divergence


def test_the_divergence_of_predictions_is_that_of_the_steps():
    policy = make_policy()
    generator = torch.Generator().manual_seed(0)
    x0, lengths = torch.randn(10, 30, 263, generator=generator), torch.randint(20, 31, (10,), generator=generator)
    samples = loop.Samples(policy.encode(["walks"] * 10), lengths, x0, torch.zeros(1, 10))
    for step in range(policy.steps):
        states = loop.draw_states(policy, samples, torch.arange(10), torch.full((10,), step), generator)
        mine, base = loop.predict_x0(policy, states), loop.predict_x0(policy, states) + 0.1
        found = loop.base_divergence(policy, mine, base, states)
        std = policy.stds[step].expand(10).float()
        means = [policy.plan.distribution(torch.full((10,), step), states.x_t, x, ())[0] for x in (mine, base)]
        expected = step_divergence(policy, means[0] - means[1], std, states.lengths) if std[0] > 0 else torch.zeros(10)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-7), step


def test_the_divergence_on_the_chain_has_the_slope_of_its_formula():
    """One weight theta, its base b: k^2 / (2 sigma^2) (theta - b)^2 mean x_t^2, gated; nothing at the last step."""
    policy, base = chain(), chain()
    base.denoiser.theta.data.fill_(0.4)
    states = dataclasses.replace(noised_pair(policy), gate=torch.tensor([1.0, 1.0, 0.0, 1.0]))
    weight = policy.x0_coefficients[0].double() ** 2 / (2 * policy.stds[0].double() ** 2)
    found = loop.base_divergence(policy, loop.predict_x0(policy, states), loop.predict_x0(base, states).detach(), states)
    slope = torch.autograd.grad((states.gate * found).mean(), policy.denoiser.theta)[0]
    expected = weight * 2 * (0.7 - 0.4) * states.x_t[0].square().mean() / 4  # of four states two are at the last step, one gated
    assert torch.allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("name", TRAINERS)
def test_a_divergence_holds_the_policy_and_at_the_start_is_none(name):
    kind, config = TRAINERS[name]
    config = dataclasses.replace(config, iterations=8, distillation_weight=0.0, lora_rank=0, learning_rate=5e-4)
    moved = []
    for weight in (0.0, 100.0):
        policy = make_policy()
        start = [p.detach().clone() for p in policy.denoiser.parameters()]
        before = policy.generate(TRAINING, [24] * 2)
        trainer = kind(policy, height, TRAINING, torch.tensor([24]), dataclasses.replace(config, kl_weight=weight))
        trainer.run(progress=False)
        assert trainer.frozen is None or all(
            torch.equal(a, b) for a, b in zip(start, trainer.frozen.denoiser.parameters(), strict=True)
        )
        moved.append(float((policy.generate(TRAINING, [24] * 2) - before).square().mean()))
    assert moved[1] < 0.2 * moved[0]


def test_a_closed_gate_is_no_divergence_and_an_open_one_the_whole():
    def first_loss(gate, second):
        config = RewardWeightedConfig(**QUICK, kl_weight=50.0, kl_gate=gate)
        policy = make_policy()
        trainer = RewardWeightedTrainer(policy, height, TRAINING, torch.tensor([24]), config, RETAINED, second=second)
        batches, _ = trainer.collect()
        with torch.no_grad():
            for p in trainer.parameters:
                p.add_(0.05)  # away from the base, else all divergences are 0
            return trainer.loss(batches[0])[0], errors_of(policy, batches[0][0]).mean()

    closed, plain = first_loss(0.5, height)  # a second scorer of the same mind: nothing is overrated
    assert torch.allclose(closed, plain)
    opened, plain = first_loss(1.0, None)
    half, _ = first_loss(0.5, depth)  # one of the opposite mind: the best half is overrated
    assert plain < half < opened


def test_ddpo_with_a_closed_gate_learns_as_without_a_divergence():
    def weights(**settings):
        policy = make_policy()
        config = DDPOConfig(
            iterations=2, prompts_per_iteration=2, motions_per_prompt=4, distillation_weight=0.0, learning_rate=1e-2, **settings
        )
        DDPOTrainer(policy, height, TRAINING, torch.tensor([24]), config, second=height).run(progress=False)
        return torch.cat([p.flatten() for p in policy.denoiser.parameters()])

    plain, held = weights(), weights(kl_weight=5.0)
    assert torch.equal(plain, weights(kl_weight=5.0, kl_gate=0.5)) and not torch.equal(plain, held)


# as settings of every algorithm


def test_a_reward_is_shaped_by_the_settings_and_left_alone_without():
    motion, lengths, prompts, _ = groups_of_three()
    assert shaped_reward(wrist, Regularisers()) is wrist
    both = shaped_reward(wrist, LearnConfig(worst_case=0.05, diversity=0.5))
    expected = diverse(worst_case(wrist, 0.05), 0.5)(motion, lengths, prompts)
    assert torch.allclose(both(motion, lengths, prompts), expected)


@pytest.mark.parametrize("name", ["raft", "draft", "dpo", "nft", "ddpo", "grpo"])
def test_every_algorithm_is_taught_by_the_worst_case(name):
    kind = learning.find_algorithm(name)
    config = kind(iterations=1, prompts_per_iteration=2, motions_per_prompt=6, distillation_batch=8, worst_case=0.5)
    log = learning.learn_task(make_policy(), wrist, small_task(), config, progress=False)
    plain = learning.learn_task(make_policy(), wrist, small_task(), dataclasses.replace(config, worst_case=0.0), progress=False)
    assert log[0]["reward"] < plain[0]["reward"] - 0.1


@pytest.mark.parametrize("name", ["raft", "draft", "dpo", "nft"])
def test_a_divergence_of_a_deterministic_sampler_is_refused_in_one_line(name):
    config = learning.find_algorithm(name)(kl_weight=1.0)
    with pytest.raises(UserError, match="no density, so no divergence") as caught:
        learning.check_start(make_policy(eta=0.0), height, small_task(), config)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no divergence"):
        learning.learn_task(make_policy(eta=0.0), height, small_task(), config, progress=False)


@pytest.mark.parametrize("change, words", [
    ({"worst_case": -1}, "worst_case should be"), ({"diversity": 1.5}, "from 0 to 1"), ({"kl_gate": 2}, "from 0 to 1"),
    ({"kl_weight": float("nan")}, "kl_weight should be"), ({"diversity": 1.0}, "draws no groups"),
])  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        RewardGradientConfig(**change)


def test_from_the_command_line_one_setting_each():
    pairs = ["worst_case=0.02", "diversity=1", "kl_weight=2", "kl_gate=0.25"]
    assert read_settings("nft", pairs) == {"worst_case": 0.02, "diversity": 1.0, "kl_weight": 2.0, "kl_gate": 0.25}
    assert read_settings("exploration", pairs[:2]) == {"worst_case": 0.02, "diversity": 1.0}
    with pytest.raises(UserError, match="no setting 'kl_weight'; other algorithms have it: ddpo,") as caught:
        read_settings("exploration", ["kl_weight=2"])
    assert "\n" not in str(caught.value)


def test_a_comparison_has_each_algorithm_with_each_regulariser_that_it_can_have():
    plans = comparison.with_regularisers(["draft", "exploration", "nft"])
    rows = {name: [row.split(": ")[1] for row in plans if row.startswith(name)] for name in ("draft", "exploration", "nft")}
    assert rows["nft"] == list(comparison.REGULARISERS)
    assert rows["draft"] == [title for title in comparison.REGULARISERS if title != "diversity"]
    assert rows["exploration"] == ["self-distillation", "worst case", "diversity"]
    assert plans["draft: gated KL"] == ("draft", comparison.REGULARISERS["gated KL"])
    with pytest.raises(UserError, match="no algorithm"):
        comparison.with_regularisers(["magic"])


def test_the_command_line_compares_regularisers(monkeypatch, tmp_path, capsys):
    asked = []

    def compare(out, names, *_, **__):
        asked.append(names)
        return [a_row("draft: KL")]

    monkeypatch.setattr(comparison, "compare_algorithms", compare)
    words = ["mocapfree", "sweep", "--out", str(tmp_path / "a.json"), "--regularisers"]
    for given, code in ((["--algorithms", "draft"], 0), ([], 1)):
        monkeypatch.setattr(sys, "argv", words + given)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert (stop.value.code or 0) == code
    assert asked == [comparison.with_regularisers(["draft"])]
    said = capsys.readouterr()
    assert "draft: KL" in said.out and "--regularisers wants --algorithms" in said.err + said.out
