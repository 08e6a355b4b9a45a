"""What a run is stands in its folder and its report, and it goes on only as that."""

import dataclasses
import json

import pytest
import torch

import mocapfree_nb
from mocapfree_nb import experiment, files, runs, tasks
from mocapfree_nb.corpus import Clip, load_corpus
from mocapfree_nb.ddpo import DDPOConfig
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.files import UserError
from mocapfree_nb.models import registry, shipped
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.runstate import corpus_hash, network_hash

CORPUS = load_corpus("procedural", num_clips=1200)
QUICK = DDPOConfig(iterations=1, prompts_per_iteration=2, motions_per_prompt=2, distillation_batch=4, select_every=1)
TARGET = "raise-both-arms"
RETRIEVAL, EVALUATOR = files.WEIGHTS / "retrieval", files.WEIGHTS / "evaluator"


def policy_and_scorers(checks=None):
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=16, layers=1, heads=2, feedforward=16, frames_per_token=4)
    return registry.load_policy(denoiser, steps=3), registry.load_scorers(RETRIEVAL, EVALUATOR, checks)


def record(corpus=CORPUS, checks=None, evaluation_prompts=4, change=None, **task):
    policy, scorers = policy_and_scorers(checks)
    if change:
        change(policy, scorers)
    task = tasks.make_task(corpus, TARGET, evaluation_prompts=evaluation_prompts, retained=task.pop("retained", 20), **task)
    return runs.content_settings(policy, scorers, task)


def nudge(network):
    with torch.no_grad():
        next(network.parameters()).flatten()[0].add_(1e-3)


PROMPTS = ["a person raises both arms", "someone lifts both hands"]
CHANGES = {
    "version": {},
    "model_hash": {"change": lambda policy, scorers: nudge(policy.denoiser)},
    "retrieval_hash": {"change": lambda policy, scorers: nudge(scorers.reward.model)},
    "evaluator_hash": {"change": lambda policy, scorers: nudge(scorers.evaluator)},
    "min_std": {"change": lambda policy, scorers: setattr(policy, "min_std", 0.1)},
    "checks": {"checks": {TARGET: "wave-left"}},
    "prompts": {"prompts": PROMPTS},
    "retained_prompts": {"retained": 19},
    "evaluation_prompts": {"evaluation_prompts": 5},
    "corpus_hash": {"corpus": CORPUS.subset(dataclasses.replace(c, motion=c.features + 1e-6) for c in CORPUS)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_part_of_a_run_is_told_from_another(tmp_path, name, monkeypatch):
    path = tmp_path / "config.json"
    runs.keep_settings(path, record())
    before = path.read_bytes()
    runs.keep_settings(path, record())
    if name == "version":
        monkeypatch.setattr(mocapfree_nb, "__version__", "99.0")
    with pytest.raises(UserError, match=rf"other settings \(.*{name}"):
        runs.keep_settings(path, record(**CHANGES[name]))
    assert path.read_bytes() == before


def test_a_run_of_before_or_with_a_setting_more_does_not_go_on(tmp_path):
    settings, path = record(), tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "corpus_hash"}))
    with pytest.raises(UserError, match="other settings.*corpus_hash"):
        runs.keep_settings(path, settings)
    path.write_text(json.dumps(settings | {"reward_scale": 2}))
    with pytest.raises(UserError, match="other settings.*reward_scale"):
        runs.keep_settings(path, settings)


def test_the_record_of_a_run_stands_in_its_folder_and_its_report(tmp_path):
    torch.manual_seed(0)
    base = MotionDenoiser(width=16, layers=1, heads=2, feedforward=16, frames_per_token=4)
    base.set_statistics(CORPUS.mean, CORPUS.std)
    base.save_pretrained(tmp_path / "base")
    folder, few = tmp_path / "run", load_corpus("procedural", num_clips=150)
    usual = {"target": None, "prompts": PROMPTS, "corpus": few, "full_model": None, "steps": 2, "evaluation_prompts": 4}
    usual |= {"config": QUICK, "progress": False, "model": tmp_path / "base"}
    report = experiment.adapt(**usual, folder=folder)
    kept = json.loads((folder / "config.json").read_text())
    assert json.loads(json.dumps(report.values["config"])) == kept == json.loads((folder / "report.json").read_text())["config"]
    expected = {"solver": "ddim", "denoising_steps": 2, "guidance_scale": 2.5, "version": mocapfree_nb.__version__}
    expected |= {"model_hash": network_hash(base), "retrieval_hash": network_hash(RetrievalModel.from_folder(RETRIEVAL))}
    expected |= {"evaluator_hash": network_hash(EvaluatorModel.from_folder(EVALUATOR)), **dataclasses.asdict(QUICK)}
    assert {key: kept[key] for key in expected} == expected
    assert kept["prompts"]["count"] > 0 and kept["corpus_hash"] in (folder / "report.html").read_text()

    (folder / "report.json").unlink()
    (tmp_path / "base").rename(tmp_path / "moved")  # the same network elsewhere is the same network
    with pytest.raises(UserError, match=r"other settings \(evaluation_prompts\)"):
        experiment.adapt(**usual | {"model": tmp_path / "moved", "evaluation_prompts": 5}, folder=folder)


def test_hashes_change_with_the_content_and_not_with_the_place():
    torch.manual_seed(0)
    one = MotionDenoiser(width=16, layers=1, heads=2, feedforward=16)
    same = MotionDenoiser(width=16, layers=1, heads=2, feedforward=16)
    assert network_hash(one) != network_hash(same)
    same.load_state_dict(one.state_dict())
    assert network_hash(one) == network_hash(same) != network_hash(same.double())
    network_hash(one.to(torch.bfloat16))  # which numpy does not know
    clip = CORPUS[0]
    copies = [
        dataclasses.replace(clip, name="other"), dataclasses.replace(clip, captions=("other",)),
        dataclasses.replace(clip, actions=()), dataclasses.replace(clip, split="val"),
        dataclasses.replace(clip, motion=clip.features + 1e-3), dataclasses.replace(clip, motion=clip.features[:-1]),
    ]
    assert corpus_hash([clip]) == corpus_hash([Clip(**vars(clip))])
    assert len({corpus_hash([c]) for c in [clip, *copies]}) == 7


def test_training_a_network_leaves_the_users_random_numbers_alone(tmp_path, monkeypatch):
    small = ("MotionDenoiser", {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}, {"batch_size": 4})
    monkeypatch.setitem(shipped.SHIPPED, "denoiser", small)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    seeded = []
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    shipped.train("denoiser", tmp_path, corpus=CORPUS.subset(list(CORPUS)[:40]), steps=1)
    assert torch.equal(torch.rand(3), expected) and not seeded
