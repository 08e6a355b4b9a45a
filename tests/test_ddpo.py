"""DDPO: the update's parts against the authors' public code, and the trainer's promises."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb import ddpo
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer, PromptTracker
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy

REFERENCE = np.load(Path(__file__).parent / "reference" / "ddpo.npz", allow_pickle=False)


@pytest.mark.parametrize("case", ["buffer16_min16", "buffer16_min4"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-6)])
def test_tracker_gives_the_advantages_of_the_reference(case, dtype, tolerance):
    rewards = REFERENCE[f"tracker/{case}/{dtype}/rewards"]
    tracker = PromptTracker(16, int(REFERENCE[f"tracker/{case}/min_count"]))
    for epoch, prompts in enumerate(REFERENCE[f"tracker/{case}/prompts"]):
        advantages = tracker.update(torch.from_numpy(rewards[epoch]), prompts.tolist())
        expected = REFERENCE[f"tracker/{case}/{dtype}/advantages"][epoch]
        np.testing.assert_allclose(advantages, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", ["clip0.0001", "clip0.2"])
def test_clipped_loss_and_gradient_equal_the_reference(case):
    get = {key: torch.from_numpy(REFERENCE[f"ppo/{case}/{key}"]) for key in
           ("old_log_prob", "new_log_prob", "advantages", "loss", "grad_new_log_prob")}
    new = get["new_log_prob"].requires_grad_()
    clip_range = float(REFERENCE[f"ppo/{case}/clip_range"])
    loss = ddpo.clipped_policy_loss(new, get["old_log_prob"], get["advantages"], clip_range, 5.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), get["loss"], rtol=1e-12)
    np.testing.assert_allclose(new.grad, get["grad_new_log_prob"], rtol=1e-10, atol=1e-14)


def test_group_advantages_are_zero_mean_unit_deviation_within_each_prompt():
    rewards = torch.rand(24, 5, dtype=torch.float64)
    prompts = [f"prompt {i % 3}" for i in range(24)]
    advantages = ddpo.group_advantages(rewards, prompts)
    for start in range(3):
        group = advantages[start::3]
        torch.testing.assert_close(group.mean(0), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
        torch.testing.assert_close(group.std(0, correction=0), torch.ones(5, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_group_of_equal_rewards_has_no_advantage_even_with_rounding():
    rewards = torch.full((7,), 0.1)
    assert (ddpo.group_advantages(rewards, ["same"] * 7) == 0).all()


def test_advantages_need_one_prompt_a_reward():
    with pytest.raises(ValueError, match="3 rewards for 2 prompts"):
        ddpo.group_advantages(torch.zeros(3), ["a", "b"])


def make_policy(prediction="x0", **settings):
    torch.manual_seed(0)
    size = {"width": 32, "layers": 2, "heads": 2, "feedforward": 64, "frames_per_token": 4}
    return DiffusionPolicy(MotionDenoiser(prediction=prediction, **size), **{"steps": 6, **settings})


def height(motion, lengths, prompts):
    return motion[:, :, 3].mean(1)


CONFIG = DDPOConfig(
    rollouts=4, prompts_per_rollout=2, motions_per_prompt=4, replay_batch=8, judge_every=2, learning_rate=1e-2
)
PRACTICE, ANCHORS = ["raises both arms", "lifts both hands"], ["walks", "runs", "kicks"]


def make_trainer(config=CONFIG, reward=height, policy=None, **arguments):
    lengths = torch.tensor([24, 30])
    return DDPOTrainer(policy or make_policy(), reward, PRACTICE, lengths, config, ANCHORS, **arguments)


def test_a_reward_that_can_be_reached_is_reached():
    config = dataclasses.replace(CONFIG, rollouts=40, replay_weight=0.0, lora_rank=0, learning_rate=3e-3)
    log = make_trainer(config).run(progress=False)
    assert log[-1]["reward"] > log[0]["reward"] + 0.1


@pytest.mark.parametrize(
    "change",
    [{}, {"lora_rank": 0, "kl_weight": 0.1}, {"credit": "step"}, {"credit": "end", "advantage": "tracker"}],
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, change):
    config = dataclasses.replace(CONFIG, **change)
    whole = make_trainer(config)
    whole.run(progress=False)
    stopped = make_trainer(config, folder=tmp_path)
    stopped.round()
    stopped.round()
    resumed = make_trainer(config, folder=tmp_path)
    resumed.run(progress=False)
    assert [r["reward"] for r in whole.log] == [r["reward"] for r in resumed.log]
    for one, other in zip(
        whole.policy.denoiser.state_dict().values(), resumed.policy.denoiser.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_the_log_has_one_number_for_every_noisy_timestep(tmp_path):
    make_trainer(folder=tmp_path).round()
    record = json.loads((tmp_path / "log.jsonl").read_text())
    for name in ("gradient_norm", "clip_share", "ratio"):
        assert len(record[name]) == 6 and record[name][-1] is None
        assert all(value is not None for value in record[name][:-1])


@pytest.mark.parametrize("prediction", ["x0", "noise"])
def test_timestep_weights_make_the_gradient_on_x0_equal_at_all_steps(prediction):
    policy = make_policy(prediction)
    weights = ddpo.timestep_weights(policy)
    pull = policy.x0_coefficients.abs() / policy.stds.clamp(min=1e-12) * weights
    torch.testing.assert_close(pull[:-1], pull[0].expand(5))
    assert weights[-1] == 0


def test_the_audit_stops_a_policy_that_trains_differently_from_how_it_samples():
    trainer = make_trainer()
    experience = ddpo.collect(
        trainer.policy, height, PRACTICE, trainer.lengths, CONFIG, trainer.tracker, trainer.generator
    )
    trainer.policy.guidance_scale = 1.0
    with pytest.raises(UserError, match="ratio should be 1"):
        ddpo.update(trainer.policy, experience, trainer.optimizer, trainer.weights, CONFIG, trainer.generator)


@pytest.mark.parametrize("credit", ["fork", "step", "end"])
def test_moves_have_the_log_probability_of_their_state_and_the_ratio_starts_at_one(credit):
    trainer = make_trainer(dataclasses.replace(CONFIG, credit=credit))
    experience = ddpo.collect(
        trainer.policy, height, PRACTICE, trainer.lengths, trainer.config, trainer.tracker, trainer.generator
    )
    assert experience.after.shape[:2] == (5, 8) and experience.advantages.shape == experience.log_probs.shape == (8, 5)
    assert len(experience.text) == len(experience.lengths) == experience.before.shape[1] == (2 if credit == "fork" else 8)
    for step in range(5):
        with torch.no_grad():
            mean, std, _ = trainer.policy.step(experience.before[step], step, experience.text, experience.lengths)
        for move, state in enumerate(experience.origin.tolist()):
            frames = int(experience.lengths[state])
            normal = torch.distributions.Normal(mean[state, :frames], std[state])
            expected = normal.log_prob(experience.after[step, move, :frames]).mean()
            torch.testing.assert_close(experience.log_probs[move, step], expected, atol=1e-5, rtol=1e-5)
        _, ratio = ddpo.step_loss(trainer.policy, experience, step, 1.0, trainer.config)
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-6, rtol=0)


def test_a_fork_goes_on_from_one_of_its_moves_and_praises_the_one_whose_belief_scores_best():
    policy = make_policy()
    experience = ddpo.play_forks(policy, height, PRACTICE, torch.tensor([24, 30]), 4, torch.Generator().manual_seed(3))
    text, lengths = experience.text[experience.origin], experience.lengths[experience.origin]
    for step in range(5):
        belief = policy.step(experience.after[step], step + 1, text, lengths)[2]
        scores = height(policy.to_raw(belief, lengths), lengths, None).view(2, 4)
        torch.testing.assert_close(experience.advantages[:, step].view(2, 4).argmax(1), scores.argmax(1))
        if step < 4:
            moves = experience.after[step].view(2, 4, 30, 263)
            taken = (moves == experience.before[step + 1][:, None]).all((2, 3))
            assert taken.sum(1).tolist() == [1, 1]
    torch.testing.assert_close(experience.rewards, scores.flatten())


def test_siblings_share_one_forward_and_give_the_gradient_of_each_alone():
    trainer = make_trainer()
    experience = ddpo.collect(
        trainer.policy, height, PRACTICE, trainer.lengths, CONFIG, trainer.tracker, trainer.generator
    )
    alone = dataclasses.replace(
        experience,
        text=experience.text[experience.origin],
        lengths=experience.lengths[experience.origin],
        before=experience.before[:, experience.origin],
        origin=torch.arange(8),
    )
    gradients = [
        torch.autograd.grad(ddpo.step_loss(trainer.policy, one, 2, 1.0, CONFIG)[0], trainer.parameters)
        for one in (experience, alone)
    ]
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])
    for together, apart in zip(*gradients, strict=True):
        torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-4)


def test_a_reward_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    calls = []

    def fails_later(motion, lengths, prompts):
        calls.append(1)
        return height(motion, lengths, prompts) * (float("nan") if len(calls) > 12 else 1.0)  # five a round

    trainer = make_trainer(reward=fails_later, folder=tmp_path)
    with pytest.raises(UserError, match="not a finite number"):
        trainer.run(progress=False)
    kept = make_trainer(folder=tmp_path)
    assert 1 <= len(kept.log) < 4 and all(torch.isfinite(p).all() for p in kept.parameters)


def test_a_reward_that_is_no_number_spoils_its_own_advantage_only():
    rewards = torch.tensor([1.0, 3.0, float("nan"), 2.0, 5.0, float("inf")])
    advantages = ddpo.group_advantages(rewards, ["a", "a", "b", "b", "c", "c"])
    assert advantages[:2].tolist() == pytest.approx([-1, 1])
    assert advantages.isnan().nonzero()[:, 0].tolist() == [2, 5]


def test_the_tracker_remembers_all_motions_of_a_prompt():
    trainer = make_trainer(dataclasses.replace(CONFIG, motions_per_prompt=32))
    rewards = torch.cat([torch.randn(32), 5 + torch.randn(32)])
    advantages = trainer.tracker.update(rewards, ["low"] * 32 + ["high"] * 32)
    assert advantages[:32].mean().abs() < 1e-5 and advantages[32:].mean().abs() < 1e-5


def test_other_settings_do_not_continue_a_run(tmp_path):
    make_trainer(folder=tmp_path).round()
    with pytest.raises(UserError, match="other settings.*learning_rate"):
        make_trainer(dataclasses.replace(CONFIG, learning_rate=1e-3), folder=tmp_path)


def test_a_damaged_checkpoint_is_one_clear_line(tmp_path):
    make_trainer(folder=tmp_path).round()
    path = tmp_path / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot read .*last.pt"):
        make_trainer(folder=tmp_path)


@pytest.mark.parametrize("scores, kept", [([0.0, 0.9, 0.5], 1), ([0.0, 0.5, 0.9], 2), ([0.0, -0.1, -0.2], None)])
def test_the_judge_decides_which_weights_are_kept(scores, kept):
    seen = []

    def judge(policy):
        seen.append([p.detach().clone() for p in policy.denoiser.parameters()])
        return {"score": scores[len(seen) - 1]}

    trainer = make_trainer(dataclasses.replace(CONFIG, lora_rank=0), judge=judge)
    trainer.run(progress=False)
    assert len(seen) == 3  # before training, and twice while it goes on
    now = list(trainer.policy.denoiser.parameters())
    if kept is None:  # nothing better than the start was seen: the last weights stay
        kept = 2
        assert trainer.best is None
    assert all(torch.equal(a, b) for a, b in zip(now, seen[kept], strict=True))


def test_lora_starts_as_the_base_model_and_merges_into_an_ordinary_one():
    policy = make_policy()
    before = policy.generate(["walks"], [24])
    names = list(policy.denoiser.state_dict())
    ddpo.add_lora(policy.denoiser, rank=4, alpha=8)
    assert torch.equal(policy.generate(["walks"], [24]), before)
    ddpo.merge_lora(policy.denoiser)
    assert sorted(policy.denoiser.state_dict()) == sorted(names)


def test_replay_keeps_what_was_known_closer():
    drift = {}
    for weight in (0.0, 50.0):
        policy = make_policy()
        before = policy.generate(ANCHORS, [24] * 3)
        make_trainer(dataclasses.replace(CONFIG, replay_weight=weight, replay_batch=32), policy=policy).run(progress=False)
        drift[weight] = (policy.generate(ANCHORS, [24] * 3) - before).square().mean().item()
    assert drift[50.0] < 0.7 * drift[0.0]


@pytest.mark.parametrize(
    "change, message",
    [({"objective": "ppo"}, "objective"), ({"advantage": "none"}, "advantage"), ({"rollouts": 0}, "rollouts")],
)
def test_settings_that_make_no_sense_are_named(change, message):
    with pytest.raises(UserError, match=message):
        DDPOConfig(**change)


def test_nothing_to_practise_and_nothing_to_replay_are_named():
    with pytest.raises(UserError, match="no prompts"):
        DDPOTrainer(make_policy(), height, [], torch.tensor([24]), CONFIG, ANCHORS)
    with pytest.raises(UserError, match="anchor prompts"):
        DDPOTrainer(make_policy(), height, PRACTICE, torch.tensor([24]), CONFIG)
    with pytest.raises(UserError, match="eta 0"):
        DDPOTrainer(make_policy(eta=0.0), height, PRACTICE, torch.tensor([24]), CONFIG, ANCHORS)
