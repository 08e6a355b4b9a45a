"""DDPO: the update's parts against the authors' public code, and the trainer's promises."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from small_policy import height, make_policy

from mocapfree_nb import ddpo, run_settings
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.pretrain import load_state
from mocapfree_nb.reading import save_state

REFERENCE = np.load(Path(__file__).parent / "reference" / "ddpo.npz", allow_pickle=False)


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


CONFIG = DDPOConfig(
    iterations=4, prompts_per_iteration=2, motions_per_prompt=4, distillation_batch=8, select_every=2, learning_rate=1e-2
)
TRAINING, RETAINED = ["raises both arms", "lifts both hands"], ["walks", "runs", "kicks"]


def make_trainer(config=CONFIG, reward=height, policy=None, **arguments):
    lengths = torch.tensor([24, 30])
    return DDPOTrainer(policy or make_policy(), reward, TRAINING, lengths, config, RETAINED, **arguments)


def test_a_reward_that_can_be_reached_is_reached():
    config = dataclasses.replace(CONFIG, iterations=40, distillation_weight=0.0, lora_rank=0, learning_rate=3e-3)
    log = make_trainer(config).run(progress=False)
    assert log[-1]["reward"] > log[0]["reward"] + 0.1


@pytest.mark.parametrize(
    "change",
    [{}, {"lora_rank": 0, "kl_weight": 0.1}, {"advantage": "per_step"}, {"advantage": "tracker"}],
)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, change):
    config = dataclasses.replace(CONFIG, **change)
    whole = make_trainer(config)
    whole.run(progress=False)
    stopped = make_trainer(config, folder=tmp_path)
    stopped.iterate()
    stopped.iterate()
    resumed = make_trainer(config, folder=tmp_path)
    resumed.run(progress=False)
    assert whole.log == resumed.log  # what it cost in calls of the network too
    for one, other in zip(
        whole.policy.denoiser.state_dict().values(), resumed.policy.denoiser.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_another_number_of_threads_is_noted(tmp_path, monkeypatch):
    make_trainer(folder=tmp_path).iterate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(folder=tmp_path)
    now = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: now + 6)
    with pytest.warns(UserWarning, match=f"made with {now} threads and goes on with {now + 6}.*OMP_NUM_THREADS={now} keeps them"):
        make_trainer(folder=tmp_path)


@pytest.mark.parametrize("advantage", ["branching", "per_step", "batch"])
def test_in_bfloat16_rollout_and_update_agree_and_all_but_the_network_stays_float32(advantage, monkeypatch, tmp_path):
    monkeypatch.setattr("mocapfree_nb.pretrain._has_bfloat16", lambda device: True)  # a processor may imitate it, slowly
    config = dataclasses.replace(CONFIG, bfloat16=True, advantage=advantage, iterations=2, micro_batch=5)
    given, seen = make_policy(), set()
    for layer in filter(lambda module: isinstance(module, torch.nn.Linear), given.denoiser.network.modules()):
        layer.register_forward_hook(lambda module, _, out: seen.add(out.dtype))
    trainer = DDPOTrainer(given, height, TRAINING, (24, 30), config, RETAINED, None, tmp_path)
    record = trainer.iterate()  # audits the ratio before the first update: 1 within 1e-5
    assert seen == {torch.bfloat16} and not given.bfloat16, "the policy of the caller computes as before"
    assert math.isfinite(record["reward"]) and all(value == 0 for value in record["clip_share"][:-1])
    with torch.no_grad():
        played = trainer.policy.rollout(["walks"], [24])
        assert {x.dtype for x in (played.states, played.log_probs, played.predicted_x0, played.motion)} == {torch.float32}
        fine = given.rollout(["walks"], [24], torch.Generator().manual_seed(0))
        coarse = trainer.policy.rollout(["walks"], [24], torch.Generator().manual_seed(0))
    assert 0 < (fine.motion - coarse.motion).abs().max() < 0.2 * fine.motion.abs().max()
    assert {p.dtype for p in trainer.parameters} == {torch.float32}
    again = DDPOTrainer(make_policy(), height, TRAINING, (24, 30), config, RETAINED, None, tmp_path)
    assert again.log == trainer.log
    with pytest.raises(UserError, match=r"other settings \(bfloat16\)"):
        plain = dataclasses.replace(config, bfloat16=False)
        DDPOTrainer(make_policy(), height, TRAINING, (24, 30), plain, RETAINED, None, tmp_path)
    with pytest.raises(UserError, match="bfloat16 should be True or False"):
        dataclasses.replace(config, bfloat16="yes")


def test_a_run_in_bfloat16_that_is_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("mocapfree_nb.pretrain._has_bfloat16", lambda device: True)
    test_a_stopped_run_goes_on_bit_for_bit(tmp_path, {"bfloat16": True})


def test_the_log_has_one_number_for_every_noisy_timestep(tmp_path):
    make_trainer(folder=tmp_path).iterate()
    record = json.loads((tmp_path / "log.jsonl").read_text())
    for name in ("gradient_norm", "clip_share", "ratio"):
        assert len(record[name]) == 6 and record[name][-1] is None
        assert all(value is not None for value in record[name][:-1])


def test_the_audit_stops_a_policy_that_trains_differently_from_how_it_samples():
    trainer = make_trainer()
    experience = ddpo.collect(
        trainer.policy, height, TRAINING, trainer.lengths, CONFIG, trainer.tracker, trainer.generator
    )
    trainer.policy.guidance_scale = 1.0
    with pytest.raises(UserError, match="ratio should be 1"):
        ddpo.update(trainer.policy, experience, trainer.optimizer, trainer.weights, CONFIG, trainer.generator)


@pytest.mark.parametrize("advantage", ["branching", "per_step", "group"])
def test_actions_have_the_log_probability_of_their_state_and_the_ratio_starts_at_one(advantage):
    trainer = make_trainer(dataclasses.replace(CONFIG, advantage=advantage))
    experience = ddpo.collect(
        trainer.policy, height, TRAINING, trainer.lengths, trainer.config, trainer.tracker, trainer.generator
    )
    assert experience.after.shape[:2] == (5, 8) and experience.advantages.shape == experience.log_probs.shape == (8, 5)
    states = 2 if advantage == "branching" else 8
    assert len(experience.text) == len(experience.lengths) == experience.before.shape[1] == states
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


def test_candidates_share_one_forward_and_give_the_gradient_of_each_alone():
    trainer = make_trainer()
    experience = ddpo.collect(
        trainer.policy, height, TRAINING, trainer.lengths, CONFIG, trainer.tracker, trainer.generator
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
        return height(motion, lengths, prompts) * (float("nan") if len(calls) > 12 else 1.0)  # five an iteration

    trainer = make_trainer(reward=fails_later, folder=tmp_path)
    with pytest.raises(UserError, match="not a finite number"):
        trainer.run(progress=False)
    kept = make_trainer(folder=tmp_path)
    assert 1 <= len(kept.log) < 4 and all(torch.isfinite(p).all() for p in kept.parameters)


def test_the_tracker_remembers_all_motions_of_a_prompt():
    trainer = make_trainer(dataclasses.replace(CONFIG, motions_per_prompt=32))
    rewards = torch.cat([torch.randn(32), 5 + torch.randn(32)])
    advantages = trainer.tracker.update(rewards, ["low"] * 32 + ["high"] * 32)
    assert advantages[:32].mean().abs() < 1e-5 and advantages[32:].mean().abs() < 1e-5


def test_other_settings_do_not_continue_a_run(tmp_path):
    make_trainer(folder=tmp_path).iterate()
    with pytest.raises(UserError, match="other settings.*learning_rate"):
        make_trainer(dataclasses.replace(CONFIG, learning_rate=1e-3), folder=tmp_path)


def test_a_damaged_checkpoint_is_one_clear_line_and_leaves_the_network_as_it_came(tmp_path):
    make_trainer(folder=tmp_path).iterate()
    path = tmp_path / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    policy = make_policy()
    before = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    with pytest.raises(UserError, match="cannot read .*last.pt"):
        make_trainer(policy=policy, folder=tmp_path)
    after = policy.denoiser.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in policy.denoiser.parameters())


def test_a_network_in_the_middle_of_a_training_is_not_saved(tmp_path):
    trainer = make_trainer()
    with pytest.raises(UserError, match="is being trained"):
        trainer.policy.denoiser.save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()
    trainer.run(progress=False)
    trainer.policy.denoiser.save_pretrained(tmp_path / "whole")


@pytest.mark.parametrize("scores, kept", [([0.0, 0.9, 0.5], 1), ([0.0, 0.5, 0.9], 2), ([0.0, -0.1, -0.2], None)])
def test_the_selector_decides_which_weights_are_kept(scores, kept):
    seen = []

    def selector(policy):
        seen.append([p.detach().clone() for p in policy.denoiser.parameters()])
        return {"score": scores[len(seen) - 1]}

    trainer = make_trainer(dataclasses.replace(CONFIG, lora_rank=0), selector=selector)
    trainer.run(progress=False)
    assert len(seen) == 3  # before training, and twice while it goes on
    now = list(trainer.policy.denoiser.parameters())
    if kept is None:  # nothing better than the start was seen: the last weights stay
        kept = 2
        assert trainer.best is None
    assert all(torch.equal(a, b) for a, b in zip(now, seen[kept], strict=True))


def test_self_distillation_keeps_what_was_known_closer():
    drift = {}
    for weight in (0.0, 50.0):
        policy = make_policy()
        before = policy.generate(RETAINED, [24] * 3)
        config = dataclasses.replace(CONFIG, distillation_weight=weight, distillation_batch=32)
        make_trainer(config, policy=policy).run(progress=False)
        drift[weight] = (policy.generate(RETAINED, [24] * 3) - before).square().mean().item()
    assert drift[50.0] < 0.7 * drift[0.0]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objective": "ppo"}, "objective"),
        ({"advantage": "none"}, "advantage"),
        ({"iterations": 0}, "iterations"),
        ({"iterations": True}, "iterations"),
        ({"iterations": "10"}, "iterations"),
        ({"prompts_per_iteration": 2.0}, "prompts_per_iteration.*whole number"),
        ({"inner_epochs": 0}, "inner_epochs"),
        ({"timesteps_per_update": 0}, "timesteps_per_update"),
        ({"timestep_share": 0.0}, "timestep_share"),
        ({"timestep_share": 1.5}, "timestep_share"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": "1e-3"}, "learning_rate"),
        ({"learning_rate": None}, "learning_rate"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"gradient_clip": -1.0}, "gradient_clip"),
        ({"gradient_clip": 0.0}, "gradient_clip"),
        ({"gradient_clip": float("nan")}, "gradient_clip"),
        ({"gradient_clip": float("inf")}, "gradient_clip"),
        ({"clip_range": 0.0}, "clip_range"),
        ({"advantage_clip": -5.0}, "advantage_clip"),
        ({"weigh_timesteps": "no"}, "weigh_timesteps"),
        ({"lora_rank": -1}, "lora_rank"),
        ({"lora_alpha": 0.0}, "lora_alpha"),
        ({"kl_weight": -0.1}, "kl_weight"),
        ({"distillation_weight": float("inf")}, "distillation_weight"),
        ({"distillation_batch": 0}, "distillation_batch"),
        ({"select_every": 0}, "select_every"),
        ({"seed": 2**70}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": -1}, "seed"),
        ({"motions_per_prompt": 1}, "motions_per_prompt.*at least 2"),
        ({"motions_per_prompt": 1, "advantage": "per_step"}, "motions_per_prompt.*at least 2"),
        ({"motions_per_prompt": 1, "advantage": "group"}, "motions_per_prompt.*at least 2"),
        (
            {"motions_per_prompt": 1, "prompts_per_iteration": 1, "advantage": "batch"},
            "prompts_per_iteration times motions_per_prompt",
        ),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    with pytest.raises(UserError, match=message):
        DDPOConfig(**change)


def test_no_prompts_and_no_retained_prompts_are_named():
    with pytest.raises(UserError, match="no prompts"):
        DDPOTrainer(make_policy(), height, [], torch.tensor([24]), CONFIG, RETAINED)
    with pytest.raises(UserError, match="retained_prompts"):
        DDPOTrainer(make_policy(), height, TRAINING, torch.tensor([24]), CONFIG)
    with pytest.raises(UserError, match="eta 0"):
        DDPOTrainer(make_policy(eta=0.0), height, TRAINING, torch.tensor([24]), CONFIG, RETAINED)
    for prompts, message in (("a person walks", "not one string"), ([3], "not 3"), ([" "], "sentences")):
        with pytest.raises(UserError, match=message):
            DDPOTrainer(make_policy(), height, prompts, torch.tensor([24]), CONFIG, RETAINED)
        with pytest.raises(UserError, match="retained_prompts.*" + message):
            DDPOTrainer(make_policy(), height, TRAINING, torch.tensor([24]), CONFIG, prompts)


def test_numbers_of_numpy_become_plain_ones():
    config = DDPOConfig(iterations=np.int64(3), learning_rate=np.float32(0.5), weigh_timesteps=np.bool_(False))
    assert [type(v) for v in (config.iterations, config.learning_rate, config.weigh_timesteps)] == [int, float, bool]
    assert json.loads(json.dumps(dataclasses.asdict(config)))["learning_rate"] == 0.5
    DDPOConfig(motions_per_prompt=1, advantage="tracker")
    DDPOConfig(motions_per_prompt=1, advantage="batch")


@pytest.mark.parametrize("lengths", [[24, 30], np.array([24, 30]), torch.tensor([24.0, 30.0])])
def test_lengths_of_other_types_are_converted(lengths):
    trainer = DDPOTrainer(make_policy(), height, TRAINING, lengths, CONFIG, RETAINED)
    assert trainer.lengths.dtype == torch.int64 and trainer.lengths.tolist() == [24, 30]


@pytest.mark.parametrize("lengths", [[], 24, [0], [24.5], ["long"], None, [[24]], [float("nan")], [True]])
def test_lengths_that_are_no_numbers_of_frames_are_named(lengths):
    with pytest.raises(UserError, match="lengths should be numbers of frames"):
        DDPOTrainer(make_policy(), height, TRAINING, lengths, CONFIG, RETAINED)


REWARDS = {
    "int": lambda m, n, p: (height(m, n, p) * 1000).round().int(),
    "double": lambda m, n, p: height(m, n, p).double(),
    "half": lambda m, n, p: height(m, n, p).half(),
    "bool": lambda m, n, p: height(m, n, p) > 0,
    "numpy": lambda m, n, p: height(m, n, p).numpy(),
    "list": lambda m, n, p: height(m, n, p).tolist(),
    "tensors in a list": lambda m, n, p: list(height(m, n, p)),
    "(B, 1)": lambda m, n, p: height(m, n, p)[:, None],
    "with a gradient": lambda m, n, p: height(m, n, p).requires_grad_(),
}


@pytest.mark.parametrize("advantage", ["branching", "per_step", "group"])
@pytest.mark.parametrize("name", REWARDS)
def test_rewards_of_other_types_are_converted(name, advantage):
    config = dataclasses.replace(CONFIG, iterations=1, advantage=advantage)
    trainer = make_trainer(config, reward=REWARDS[name])
    experience = ddpo.collect(
        trainer.policy, trainer.reward, TRAINING, trainer.lengths, config, trainer.tracker, trainer.generator
    )
    again = make_trainer(config, reward=lambda m, n, p: torch.as_tensor(np.array(REWARDS[name](m, n, p).tolist()
                         if isinstance(REWARDS[name](m, n, p), torch.Tensor) else REWARDS[name](m, n, p))).float().reshape(-1))
    expected = ddpo.collect(again.policy, again.reward, TRAINING, again.lengths, config, again.tracker, again.generator)
    assert experience.rewards.dtype == torch.float32 and experience.rewards.shape == (8,)
    assert torch.equal(experience.rewards, expected.rewards) and torch.equal(experience.advantages, expected.advantages)
    assert not experience.rewards.requires_grad


@pytest.mark.parametrize(
    "returned, given",
    [
        (lambda m: height(m, None, None).mean(), "the same for all"),
        (lambda m: 0.5, "not float"),
        (lambda m: None, "not NoneType"),
        (lambda m: {"score": height(m, None, None)}, "not dict"),
        (lambda m: "good", "not str"),
        (lambda m: height(m, None, None)[:-1], r"not Tensor of shape \(\d+,\)"),
        (lambda m: m[:, :, 3], r"not Tensor of shape \(\d+, \d+\)"),
        (lambda m: height(m, None, None).to(torch.complex64), "not Tensor"),
        (lambda m: height(m, None, None).numpy() * 1j, "not ndarray"),
        (lambda m: [[1.0], [2.0, 3.0]], "not list"),
    ],
)
def test_rewards_that_are_not_one_number_a_motion_are_named(returned, given):
    with pytest.raises(UserError, match="a reward returns one number for each motion.*" + given):
        make_trainer(reward=lambda motion, lengths, prompts: returned(motion)).iterate()


@pytest.mark.parametrize("advantage", ["branching", "per_step", "group"])
def test_a_reward_that_writes_on_what_it_is_given_changes_nothing_else(advantage):
    def writes(motion, lengths, prompts):
        scores = height(motion, lengths, prompts)
        motion.zero_(), lengths.fill_(1), prompts.clear()
        return scores

    config = dataclasses.replace(CONFIG, iterations=2, advantage=advantage)
    logs = [make_trainer(config, reward=reward).run(progress=False) for reward in (height, writes)]
    assert logs[0] == logs[1]


def test_a_prompt_seen_fewer_than_sixteen_times_is_compared_over_the_batch():
    config = dataclasses.replace(CONFIG, advantage="tracker", motions_per_prompt=12)
    tracker = make_trainer(config).tracker
    rewards = torch.cat([torch.rand(12), 5 + torch.rand(12)])
    prompts = ["low"] * 12 + ["high"] * 12
    first = tracker.update(rewards, prompts)
    torch.testing.assert_close(first, (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6))
    assert tracker.update(rewards, prompts)[:12].mean().abs() < 1  # now with their own sixteen


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reward": lambda m, n, p: -height(m, n, p)}, "reward"),
        ({"reward": lambda m, n, p: 2 * height(m, n, p)}, "reward"),
        ({"lengths": torch.tensor([24, 31])}, "lengths"),
        ({"retained_prompts": ["walks", "runs"]}, "retained_prompts"),
        ({"prompts": TRAINING[:1]}, "prompts"),
        ({"policy": {"steps": 5}}, "steps"),
        ({"policy": {"solver": "ddpm"}}, "solver"),
        ({"policy": {"eta": 0.5}}, "eta"),
        ({"policy": {"guidance_scale": 1.0}}, "guidance_scale"),
        ({"policy": {"min_std": 0.1}}, "min_std"),
        ({"policy": {"spacing": "leading"}}, "timesteps"),
        ({"policy": {"prediction": "v"}}, "solver|denoiser"),
        ({"selector": lambda policy: {"score": 0.0}}, "selector"),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(tmp_path, change, message):
    def start(policy=None, reward=height, prompts=TRAINING, lengths=(24, 30), retained_prompts=RETAINED, selector=None):
        policy = make_policy(**(policy or {}))
        if change.get("policy") == {"prediction": "v"} and policy.denoiser.prediction == "v":
            with torch.no_grad():  # another network of the same form
                policy.denoiser.norm.bias.add_(1e-3)
        return DDPOTrainer(policy, reward, prompts, lengths, CONFIG, retained_prompts, selector, tmp_path)

    start().iterate()
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(UserError, match=f"other settings.*({message})"):
        start(**change)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    assert len(start().log) == 1


def test_a_run_does_not_go_on_under_another_version_or_an_edited_network(tmp_path, monkeypatch):
    make_trainer(folder=tmp_path).iterate()
    monkeypatch.setattr(run_settings, "__version__", "99.0")
    with pytest.raises(UserError, match="other settings.*version"):
        make_trainer(folder=tmp_path)
    monkeypatch.undo()
    policy = make_policy()
    with torch.no_grad():
        policy.denoiser.norm.bias[0] += 1e-4
    with pytest.raises(UserError, match="other settings.*denoiser"):
        make_trainer(policy=policy, folder=tmp_path)


def test_a_reward_of_chance_may_go_on_and_one_that_is_the_same_everywhere_goes_by_its_name(tmp_path):
    state = np.random.default_rng(0)

    def chance(motion, lengths, prompts):
        return state.random(len(motion))

    def nothing(motion, lengths, prompts):
        return torch.zeros(len(motion))

    make_trainer(reward=chance, folder=tmp_path / "chance").iterate()
    assert len(make_trainer(reward=chance, folder=tmp_path / "chance").log) == 1
    make_trainer(reward=nothing, folder=tmp_path / "nothing").iterate()
    assert len(make_trainer(reward=nothing, folder=tmp_path / "nothing").log) == 1
    with pytest.raises(UserError, match="other settings.*reward"):
        make_trainer(reward=lambda m, n, p: torch.zeros(len(m)), folder=tmp_path / "nothing")


TAMPERED = {
    "no entry": lambda s: s.pop("tracker"),
    "no generator": lambda s: s.pop("generator"),
    "a list": lambda s: s.update(parameters={}),
    "a shape": lambda s: s["parameters"].__setitem__(0, torch.zeros(3)),
    "a type": lambda s: s["parameters"].__setitem__(0, s["parameters"][0].double()),
    "not a number": lambda s: s["parameters"][0].fill_(float("nan")),
    "too few": lambda s: s["parameters"].pop(),
    "best": lambda s: s.update(best=[torch.zeros(1)]),
    "best of another kind": lambda s: s.update(best=3),
    "score": lambda s: s.update(best_score="high"),
    "score that is none": lambda s: s.update(best_score=float("nan")),
    "settings": lambda s: s.update(settings=[1]),
    "reward": lambda s: s.update(reward={"name": "height", "scores": ["a"]}),
    "log": lambda s: s.update(log="{"),
    "deep log": lambda s: s.update(log="[" * 100_000),
    "log of another kind": lambda s: s.update(log="{}"),
    "record": lambda s: s.update(log='[{"iteration": 1}]'),
    "iteration": lambda s: s.update(log=s["log"].replace('"iteration": 1', '"iteration": 7')),
    "selection": lambda s: s.update(log=s["log"].replace('"selection": {}', '"selection": {"score": "<b>"}')),
    "optimiser": lambda s: s["optimizer"][0].update(exp_avg=torch.zeros(1)),
    "moments": lambda s: s["optimizer"][0]["exp_avg_sq"].fill_(-1.0),
    "infinite moments": lambda s: s["optimizer"][0]["exp_avg"].fill_(float("inf")),
    "optimiser of others": lambda s: s["optimizer"].update({999: {}}),
    "generator": lambda s: s.update(generator=torch.zeros(3, dtype=torch.uint8)),
    "generator of another kind": lambda s: s.update(generator="x"),
    "memory": lambda s: s.update(tracker={TRAINING[0]: ["x"]}),
    "memory of others": lambda s: s.update(tracker={3: [1.0]}),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder=folder).iterate()
    return folder / "checkpoints" / "last.pt"


@pytest.mark.parametrize("name", TAMPERED)
def test_a_checkpoint_that_was_tampered_with_is_named_and_the_run_untouched(checkpoint, tmp_path, name):
    state = load_state(checkpoint)
    TAMPERED[name](state)
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    torch.save(state, path)  # `save_state` would refuse what is not finite
    (tmp_path / "log.jsonl").write_text("as it was")
    before = path.read_bytes()
    with pytest.raises(UserError, match="last.pt( is damaged|: .* (holds|is) NaN).*move it away to start anew") as caught:
        make_trainer(folder=tmp_path)
    assert "\n" not in str(caught.value) and path.read_bytes() == before and (tmp_path / "log.jsonl").read_text() == "as it was"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", None, [1, 2]])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "checkpoints" / "last.pt"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_state(path, content)
    with pytest.raises(UserError, match="cannot resume: .*last.pt.*move it away to start anew") as caught:
        make_trainer(folder=tmp_path)
    assert "weights_only" not in str(caught.value)


def test_what_was_frozen_stays_as_it_was():
    for rank in (0, 4):
        policy = make_policy()
        policy.denoiser.time_in.requires_grad_(False)
        before = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
        make_trainer(dataclasses.replace(CONFIG, lora_rank=rank), policy=policy).run(progress=False)
        moved = {name for name, value in policy.denoiser.state_dict().items() if not torch.equal(value, before[name])}
        assert moved and not any(name.startswith("time_in") for name in moved)
        frozen = {name for name, p in policy.denoiser.named_parameters() if not p.requires_grad}
        assert frozen == {name for name in before if name.startswith("time_in")}, "as the user left it"


def test_a_network_frozen_as_a_whole_is_trained_as_a_whole():
    policy = make_policy()
    policy.denoiser.requires_grad_(False)
    trainer = make_trainer(dataclasses.replace(CONFIG, lora_rank=0), policy=policy)
    assert len(trainer.parameters) == len(list(policy.denoiser.parameters()))


def test_a_parameter_without_a_part_is_left_alone_and_one_alone_is_named():
    policy = make_policy()
    policy.denoiser.spare = torch.nn.Parameter(torch.ones(3))
    make_trainer(dataclasses.replace(CONFIG, lora_rank=0), policy=policy).run(progress=False)
    torch.testing.assert_close(policy.denoiser.spare.detach(), torch.ones(3), atol=1e-4, rtol=0)
    policy.denoiser.requires_grad_(False)
    policy.denoiser.spare.requires_grad_(True)
    with pytest.raises(UserError, match="none of the parameters to train has a part"):
        make_trainer(dataclasses.replace(CONFIG, lora_rank=0), policy=policy).iterate()


def test_a_run_that_is_over_stays_over():
    trainer = make_trainer(selector=lambda policy: {"score": 0.0})
    log = trainer.run(progress=False)
    before = {name: value.clone() for name, value in trainer.policy.denoiser.state_dict().items()}
    assert trainer.run(progress=False) is log and len(log) == 4
    assert all(torch.equal(value, before[name]) for name, value in trainer.policy.denoiser.state_dict().items())
    with pytest.raises(UserError, match="this run of 4 iterations is over"):
        trainer.iterate()


def test_a_policy_in_double_precision_learns_and_one_in_half_is_named():
    policy = make_policy()
    policy.denoiser.double()
    log = make_trainer(dataclasses.replace(CONFIG, kl_weight=0.1), policy=policy).run(progress=False)
    assert all(np.isfinite(record["reward"]) for record in log)
    assert {p.dtype for p in policy.denoiser.parameters()} == {torch.float64}
    for kind in (torch.float16, torch.bfloat16):
        policy.denoiser.to(kind)
        with pytest.raises(UserError, match=str(kind).removeprefix("torch.") + r".*policy.denoiser.float\(\)"):
            make_trainer(policy=policy)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"policy": MotionDenoiser(width=16, layers=1, heads=2)}, "policy should be a DiffusionPolicy, not a MotionDenoiser"),
        ({"reward": 3}, "reward should be a function, not a int"),
        ({"selector": "strict"}, "selector should be a function, not a str"),
        ({"selector": lambda policy: 0.5}, 'a selector returns a dict of numbers with a finite "score"'),
        ({"selector": lambda policy: {"target": 0.5}}, 'finite "score"'),
        ({"selector": lambda policy: {"score": float("nan")}}, 'finite "score"'),
        ({"selector": lambda policy: {"score": "good"}}, 'finite "score"'),
        ({"config": {"iterations": 3}}, "config should be a DDPOConfig, not a dict"),
    ],
)
def test_arguments_of_another_kind_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make_trainer(**arguments)
