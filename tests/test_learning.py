"""The recipe of two stages, rounds of exploration and DDPO after them: what is kept, what is logged, how it goes on."""

import json
from dataclasses import replace

import pytest
import torch
from small_policy import height, make_policy

from mocapfree_nb import experiment, learning
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import LearnConfig
from mocapfree_nb.tasks import EvaluationPrompts, Task

RETAINED = EvaluationPrompts(["walk", "run", "kick", "stand"], torch.tensor([24, 30, 26, 24]), ["walk", "run", "kick", "stand"])
TASK = Task(["up", "both up"], ["lift"], RETAINED, RETAINED, RETAINED, [], [])
CONFIG = LearnConfig(rounds=1, steps=2, batch_size=4, retained_batch=4, lora_rank=2, ddpo_iterations=20)
LITTLE = ExploreConfig(prompts=2, pool=3, near=3, proposals=8)


def learn(policy, scores=(), config=CONFIG, folder=None, on_iteration=None) -> list[dict]:
    "One round, then DDPO with a look every tenth iteration; the selector says `scores` one after the other, give or take .1."
    given = iter(scores)
    selector = (lambda policy: {"score": next(given), "error": 0.1}) if scores else None
    return learning.learn_task(policy, height, TASK, config, selector, folder, on_iteration, progress=False, search=LITTLE)


def weights(policy) -> torch.Tensor:
    return torch.cat([value.flatten().clone() for _, value in sorted(policy.denoiser.state_dict().items())])


def explored_weights() -> torch.Tensor:
    policy = make_policy()
    learn(policy, config=replace(CONFIG, ddpo_iterations=0))
    return weights(policy)


@pytest.mark.parametrize("scores, kept", [
    ([0.0, 0.5, 0.5, 0.7, 0.6], 11),  # before; after the round; before DDPO, after ten iterations of it and after twenty
    ([0.0, 0.5, 0.5, 0.3, 0.45], 21),  # no better, no worse than the error: the last
    ([0.0, 0.5, 0.5, 0.3, 0.35], 1),  # worse: as exploration left it
])  # fmt: skip
def test_ddpo_keeps_the_best_or_what_cannot_be_told_from_before_or_nothing(scores, kept):
    policy = make_policy()
    log = learn(policy, scores)
    assert [record["iteration"] for record in log] == list(range(1, 22))
    assert [record["iteration"] for record in log[1:] if record["improved"]] == [kept] * (kept > 1) and log[0]["improved"]
    chosen = experiment._chosen(log, 0.0)
    assert (chosen["chosen_iteration"], chosen["last_iteration"]) == (kept, 21)
    assert chosen["score"] == {11: 0.7, 21: 0.45, 1: 0.5}[kept] and chosen["last_score"] == scores[-1]
    if kept == 1:
        torch.testing.assert_close(weights(policy), explored_weights(), atol=0, rtol=0)
    else:
        assert not torch.equal(weights(policy), explored_weights())


def test_without_a_selector_the_last_weights_stay():
    log = learn(make_policy())
    assert experiment._chosen(log) == {"chosen_iteration": 21, "last_iteration": 21}


def test_where_exploration_found_nothing_samples_have_nothing_to_follow():
    policy = make_policy()
    before = weights(policy)
    log = learn(policy, [0.5, 0.4])
    assert len(log) == 1 and torch.allclose(weights(policy), before, atol=1e-6)


def test_a_run_stopped_in_its_second_stage_goes_on_to_the_same_weights(tmp_path):
    config, whole, stopped, again = replace(CONFIG, ddpo_iterations=4), *(make_policy() for _ in range(3))
    expected = learn(whole, config=config, folder=tmp_path / "whole")

    def stop(record):
        if record["iteration"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(stopped, config=config, folder=tmp_path / "parts", on_iteration=stop)
    assert len((tmp_path / "parts" / "log.jsonl").read_text().splitlines()) == 3
    log = learn(again, config=config, folder=tmp_path / "parts")
    assert torch.equal(weights(again), weights(whole))
    lines = (tmp_path / "parts" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4, 5]
    for key in ("reward", "network_calls", "distillation", "improved"):
        assert [record[key] for record in log] == [record[key] for record in expected], key


@pytest.mark.parametrize("processes, prompts", [(1, 6), (2, 6), (4, 8), (8, 8)])
def test_ddpo_after_exploration_has_as_many_prompts_for_each_process(processes, prompts, monkeypatch):
    given = []

    def trainer(policy, reward, prompts, lengths, config, *_):
        given.append(config.prompts_per_iteration)
        raise KeyboardInterrupt

    monkeypatch.setattr(learning, "DDPOTrainer", trainer)
    monkeypatch.setattr(learning.parallel, "world_size", lambda: processes)
    with pytest.raises(KeyboardInterrupt):
        learning.follow_samples(make_policy(), height, TASK, CONFIG, [], progress=False)
    assert given == [prompts]


def test_settings_that_are_of_no_algorithm_are_named():
    with pytest.raises(UserError, match="config is settings of an algorithm .*LearnConfig.* not dict"):
        learning.learn_task(make_policy(), height, TASK, {"rounds": 1})
