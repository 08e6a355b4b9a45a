"""The experiment: what is evaluated, what is reported, and the commands a user types."""

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command import command

from mocapfree_nb import (
    by_action,
    evaluation,
    experiment,
    files,
    generation,
    runs,
    selection,
    tasks,
    validity,
    vocabulary,
)
from mocapfree_nb.cli import common
from mocapfree_nb.corpus import Clip, Corpus, collate, load_corpus, statistics
from mocapfree_nb.ddpo import DDPOConfig
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.features import features_to_joints, joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.learning import find_algorithm
from mocapfree_nb.models import registry, shipped
from mocapfree_nb.output import comparison
from mocapfree_nb.procedural import captions_for
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.skeleton import KIT_ML
from mocapfree_nb.validity import body_validity

TARGET = tasks.LEFT_OUT
CORPUS = load_corpus("procedural", num_clips=500)
QUICK = DDPOConfig(iterations=2, prompts_per_iteration=2, motions_per_prompt=2, distillation_batch=4, select_every=1)
ROW = {
    "r_precision", "fid", "matching_distance", "diversity", "multimodality", "retrieval_score", "verified",
    "foot_skate", "n", "interval", "fid_floor", "bone_deviation", "jitter", "floor_penetration", "reward",
}


@functools.cache
def scorer():
    return selection.fit_scorer(list(CORPUS.split("train")), most=100)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What takes a whole adaptation its time: the motions it retains, and checkpoint selection. And the corpus."""
    monkeypatch.setattr(experiment, "make_task", functools.partial(tasks.make_task, retained=16))
    monkeypatch.setattr(experiment, "fit_scorer", lambda clips: scorer() if clips[0].features.shape[1] == 263 else None)
    monkeypatch.setattr(experiment, "HeldOutSelector", functools.partial(selection.HeldOutSelector, count=8, others=8))

    def load(name="procedural", *arguments, **settings):
        return CORPUS if name == "procedural" else load_corpus(name, *arguments, **settings)

    monkeypatch.setattr(experiment, "load_corpus", load)
    monkeypatch.setattr("mocapfree_nb.corpus.load_corpus", load)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untrained denoiser: enough for everything but the numbers."""
    torch.manual_seed(0)
    model = MotionDenoiser(width=32, layers=1, heads=2, feedforward=32, frames_per_token=4)
    model.set_statistics(CORPUS.mean, CORPUS.std)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    return folder


def quick(base, **arguments):
    return experiment.adapt(
        **{"corpus": CORPUS, "model": base, "full_model": None, "config": QUICK, "steps": 3, "evaluation_prompts": 4,
           "progress": False, **arguments}
    )


@functools.cache
def free(base):
    "The report of a run of one free prompt, with HTML in it."
    return quick(base, target=None, prompts=["<script>alert(1)</script> salutes"], full_model=files.WEIGHTS / "denoiser")


def test_no_sentence_is_both_trained_on_and_evaluated():
    task = tasks.make_task(CORPUS, TARGET)
    evaluated = set(task.target.prompts) | set(task.original.prompts)
    assert not evaluated & (set(task.training_prompts) | set(task.retained.prompts) | set(task.selection_prompts))
    assert task.selection_prompts and not set(task.selection_prompts) & set(task.training_prompts)
    assert set(task.target.labels) == {TARGET} and TARGET not in "+".join(task.retained.labels + task.original.labels)
    assert not {clip.name for clip in task.target_clips} & {clip.name for clip in task.original_clips}


def test_words_choose_a_target_where_there_are_no_labels():
    bare = CORPUS.subset(dataclasses.replace(clip, actions=()) for clip in CORPUS)
    task = tasks.make_task(bare, leave_out_words=["both arms", "both hands"])
    assert sum("both" in prompt for prompt in task.training_prompts) > len(task.training_prompts) / 3
    assert not any("both arms" in prompt for prompt in task.retained.prompts)


def test_an_algorithm_without_densities_adapts_under_a_deterministic_sampler(base, tmp_path):
    size = {"prompts_per_iteration": 2, "motions_per_prompt": 2, "updates": 1, "batch_size": 4, "distillation_batch": 4}
    config, folder = find_algorithm("nft")(iterations=2, select_every=1, **size), tmp_path / "run"
    values = quick(base, target=TARGET, config=config, eta=0.0, folder=folder).values
    assert values["config"]["algorithm"] == "nft" and values["config"]["eta"] == 0.0
    assert [record["iteration"] for record in values["curves"]] == [1, 2] and values["network_calls"] > 0
    assert "nft" in (folder / "report.html").read_text() and (folder / "checkpoints" / "last.pt").exists()


def test_a_run_leaves_everything_behind_and_is_not_lost(base, tmp_path, capsys):
    folder = tmp_path / "run"
    report = quick(base, target=TARGET, full_model=base, folder=folder)
    assert "%|" not in capsys.readouterr().err  # progress=False: no bar of any phase, the trainer's included
    values = json.loads((folder / "report.json").read_text())
    for row in (values["target"][k] for k in ("before", "after", "best_of_n", "full_data")):
        assert set(row) >= ROW and len(row["r_precision"]) == 3
    assert set(values["original"]["after"]) >= ROW
    assert {"experiment", "seed", "device", "wall_clock_s", "reward", "config"} <= set(values)
    assert values["target"]["full_data"] == values["target"]["before"]  # the same model, prompts and noise
    assert report.before == values["target"]["before"] and report.after == values["target"]["after"]
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    for name in ("config.json", "log.jsonl", "checkpoints/last.pt", "model/model.safetensors",
                 "model-last/model.safetensors"):  # fmt: skip
        assert (folder / name).exists()
    adapted = registry.load_policy(folder / "model", steps=3)
    assert adapted.generate(["walks"], [20]).shape == (1, 20, 263)


def test_the_time_of_a_run_is_that_of_all_its_sessions(base, tmp_path):
    def stop(record):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        quick(base, target=TARGET, folder=folder, on_iteration=stop)
    first = json.loads((folder / "clock.json").read_text())["seconds"]
    assert 0 < first < 600
    (folder / "clock.json").write_text(json.dumps({"seconds": first + 5000}))
    values = quick(base, target=TARGET, folder=folder).values
    assert 5000 + first < values["wall_clock_s"] < 5600 + first
    assert [record["iteration"] for record in values["curves"]] == [1, 2]
    (folder / "clock.json").write_text('{"seconds": "many"}')
    assert runs.RunClock(folder).seconds() < 600 and runs.RunClock(None).seconds() < 600


def test_a_prompt_with_html_shows_as_text(base):
    page = free(base).to_html()
    assert "<script>alert(1)</script>" not in page and "&lt;script&gt;" in page


def test_cross_dataset_trains_on_the_new_corpus_and_keeps_the_old(base):
    new = CORPUS.only("wave-left")
    report = quick(base, target=None, corpus=new, source=CORPUS.leave_out("wave-left"))
    assert report.values["experiment"] == "cross-dataset"
    assert all("wav" in prompt or "left" in prompt for prompt in report.values["prompts"]["training"])


def test_a_check_of_ones_own_is_for_an_unknown_label():
    clips = [Clip(f"c{i}", clip.features, clip.captions, ("sway",), clip.split) for i, clip in enumerate(CORPUS)]
    joints, lengths = torch.zeros(3, 20, 22, 3), torch.tensor([20, 20, 20])
    joints[1, :, :, 1] = 1.0
    labels = [clip.actions[0] for clip in clips[:3]]
    assert evaluation.check_motion(joints, lengths, labels).isnan().all()
    passed = evaluation.check_motion(joints, lengths, labels, {"sway": lambda clip: bool(clip[..., 1].mean() > 0.5)})
    assert passed.tolist() == [0.0, 1.0, 0.0]


def test_gap_closed_is_a_share_of_the_way_to_the_model_that_saw_the_action():
    def row(value):
        return {"r_precision": [value, 1.0, 1.0]}

    values = {"target": {"before": row(0.2), "after": row(0.6), "full_data": row(0.8)}}
    assert experiment.gap_closed(values) == pytest.approx(2 / 3)
    values["target"]["full_data"] = row(0.1)
    assert experiment.gap_closed(values) is None


def test_a_misspelt_check_is_named_and_does_not_pass_for_none():
    with pytest.raises(UserError, match="jmup"):
        evaluation.check_motion(torch.zeros(1, 20, 22, 3), torch.tensor([20]), ["sway"], {"sway": "jmup"})


def test_one_real_clip_gives_no_fid_and_a_corpus_is_embedded_in_parts(base):
    scorers = registry.load_scorers(files.WEIGHTS / "retrieval", files.WEIGHTS / "evaluator")
    clips = list(CORPUS)[:300]
    rows = scorers.embed(clips)
    assert len(rows) == 300 and torch.allclose(rows[290:], scorers.embed(clips[290:]), atol=1e-4)
    evaluation_prompts = tasks.draw_evaluation_prompts(clips[:8], 4)
    found, _ = evaluation.evaluate_policy(registry.load_policy(base, 3), evaluation_prompts, scorers, rows[:1], repeats=2)
    assert found["fid"] is None


def test_a_run_goes_on_only_with_its_own_settings(base, tmp_path):
    whole = quick(base, target=TARGET, folder=tmp_path).values
    (tmp_path / "report.json").unlink()
    for change in ({"steps": 4}, {"guidance_scale": 1.5}, {"solver": "ddpm"}, {"model": files.WEIGHTS / "denoiser"}):
        with pytest.raises(UserError, match="other settings.*" + next(iter(change)).split("_")[0]):
            quick(base, target=TARGET, folder=tmp_path, **change)
    again = quick(base, target=TARGET, folder=tmp_path).values  # as if it was killed when all iterations were done
    assert (tmp_path / "report.json").exists()
    for key in ("network_calls", "target", "original", "selection", "curves"):  # best of N at the cost of the whole run too
        assert again[key] == whole[key], key


def test_a_report_that_could_not_be_written_whole_does_not_count_as_finished(base, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment.Report, "to_html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        free(base).save(tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("a person walks slowly", "walk-forward"),
        ("an old man walks", "walk-forward"),
        ("a person walks forward while waving the left hand", "walk-forward+wave-left"),
        ("she twists her upper body", "twist"),
        ("a boy hops on the right foot", "hop-right"),
        ("a man steps sideways to the left", "sidestep-left"),
    ],
)
def test_the_shipped_model_does_what_plain_words_say(said, label):
    policy, lengths = experiment.load_policy(experiment.WEIGHTS / "denoiser"), torch.full((32,), 48)
    joints = features_to_joints(policy.generate([said] * 32, lengths))
    least = 0.65 if label == "twist" else 0.9  # of 128 motions 77% twist far enough; all others come near 100%
    assert evaluation.check_motion(joints, lengths, [label] * 32).mean() > least


def test_the_shipped_base_model_never_does_what_it_lacks():
    clips = list(load_corpus(num_clips=600, seed=5))
    lacking = [clip for clip in clips if "+".join(clip.actions) in set(experiment.LEFT_OUT_ACTIONS[1:])]
    policy, lengths = experiment.load_policy(experiment.WEIGHTS / "denoiser-leave-one-out"), torch.tensor([*map(len, lacking)])
    joints = features_to_joints(policy.generate([clip.captions[0] for clip in lacking], lengths))
    assert len(lacking) > 40
    assert evaluation.check_motion(joints, lengths, ["+".join(clip.actions) for clip in lacking]).mean() < 0.1


def test_what_the_base_model_lacks_is_neither_retained_nor_evaluated():
    task = experiment.make_task(tasks.without_others(CORPUS, TARGET), TARGET)
    assert set(task.target.labels) == {TARGET}
    said = {part for label in task.retained.labels + task.original.labels for part in label.split("+")}
    assert not said & {"raise-both-arms", "kick-left", "bow", "jump-forward", "kneel"} and {"squat", "kick-right"} <= said


def test_several_labels_are_left_out_at_once_and_saved_weights_go_on(tmp_path, monkeypatch):
    seen = []

    def pretrain(denoiser, clips, config, checkpoint):
        seen.append((denoiser, clips, config))
        return denoiser

    small = ("MotionDenoiser", {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}, {"batch_size": 4})
    monkeypatch.setitem(shipped.SHIPPED, "denoiser", small)
    monkeypatch.setattr(shipped, "pretrain", pretrain)
    corpus = load_corpus(num_clips=1000)
    shipped.train("denoiser", tmp_path / "base", corpus, ",".join(experiment.LEFT_OUT_ACTIONS))
    shipped.train("denoiser", tmp_path / "full", corpus, start=tmp_path / "base", seed=1)
    (base, without, first), (full, clips, later) = seen
    shown = {"+".join(clip.actions) for clip in clips}
    for label in experiment.LEFT_OUT_ACTIONS:
        assert label in shown and not any(set(label.split("+")) <= set(clip.actions) for clip in without)
    assert any("squat" in clip.actions for clip in without) and any("punch-left" in clip.actions for clip in without)
    assert first.steps == 8000 and later.steps == shipped.CONTINUED["steps"]
    weights = zip(base.state_dict().values(), full.state_dict().values(), strict=True)
    assert all(torch.equal(one.float(), other) for one, other in weights)
    lacks = [MotionDenoiser.from_folder(tmp_path / name).left_out for name in ("base", "full")]
    assert lacks == [tuple(experiment.LEFT_OUT_ACTIONS), ()]


def test_what_a_model_of_the_users_own_lacks_is_not_asked_of_it_either(base, tmp_path):
    "It was: a base without three actions, adapted to one, had to keep the other two, which it cannot do."
    folder, lacks = tmp_path / "base", ("clap", TARGET, "bow+clap", "cartwheel")  # the corpus has no cartwheel
    model = MotionDenoiser.from_folder(base)
    model.left_out = lacks
    model.save_pretrained(folder)
    report = quick(folder, target=TARGET, folder=tmp_path / "run")
    assert report.values["target"]["before"]["n"] > 0
    adapted = MotionDenoiser.from_folder(tmp_path / "run" / "model")
    assert adapted.left_out == ("clap", "bow+clap", "cartwheel")
    corpus, source = tasks.known_to(lacks, CORPUS, None, TARGET)
    assert source is None and "clap" in CORPUS.actions
    assert "clap" not in corpus.actions and TARGET in corpus.actions and "bow" in corpus.actions
    corpus, source = tasks.known_to(lacks, CORPUS, CORPUS, None)
    assert corpus is CORPUS and not {"clap", TARGET} & set(source.actions)
    assert tasks.known_to(lacks, CORPUS, None, None, ["clap"])[0] is CORPUS
    with pytest.warns(UserWarning, match="trained without clap, .*, not without bow: it may do that already"):
        tasks.known_to(lacks, CORPUS, None, "bow")


def test_the_checkpoint_outlives_a_model_that_could_not_be_saved(tmp_path, monkeypatch):
    small = ("MotionDenoiser", {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}, {"batch_size": 4})
    monkeypatch.setitem(shipped.SHIPPED, "denoiser", small)

    def full_disk(*_):
        raise UserError("no space left")

    monkeypatch.setattr(MotionDenoiser, "save_pretrained", full_disk)
    (tmp_path / "checkpoint.pt").touch()
    monkeypatch.setattr(shipped, "pretrain", lambda denoiser, *_, **__: denoiser)
    with pytest.raises(UserError, match="no space"):
        shipped.train("denoiser", tmp_path, CORPUS, steps=1)
    assert (tmp_path / "checkpoint.pt").exists()


def test_next_run_overwrites_no_report(tmp_path):
    assert runs.next_run(tmp_path, "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    assert runs.next_run(tmp_path, "demo") == tmp_path / "demo"  # unfinished: goes on
    (tmp_path / "demo" / "report.json").write_text("{}")
    assert runs.next_run(tmp_path, "demo") == tmp_path / "demo-2"


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", "from mocapfree_nb.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


MISTAKES = {
    "an unknown action": (["adapt", "--leave-out", "backflip"], "backflip"),
    "no target": (["adapt"], "say what to learn"),
    "a missing prompts file": (["adapt", "--prompts-file", "none.txt"], "none.txt"),
    "an empty prompt": (["adapt", "--prompt", " "], "empty"),
    "a missing corpus": (["pretrain", "--corpus", "nowhere"], "nowhere"),
    "a missing model": (["evaluate", "--model", "nowhere"], "nowhere"),
    "a foreign corpus without networks": (["adapt", "--corpus", ".", "--leave-out", "x"], "--retrieval"),
    "an unknown device": (["generate", "walks", "--device", "abacus"], "abacus"),
    "another file type": (["generate", "walks", "--out", "walk.fbx"], ".npy"),
    "nothing to generate": (["generate"], "say what to generate"),
    "an empty caption": (["generate", " "], "empty prompt"),
    "nothing to resume": (["adapt", "--prompt", "bows", "--resume"], "nothing to resume"),
    "a check that is none": (["adapt", "--prompt", "bows", "--check", "x"], "--check"),
    "a check of a label that nothing has": (["adapt", "--prompt", "bows", "--check", "fre=bow"], "labels are free"),
    "a check that there is not": (["adapt", "--prompt", "bows", "--check", "free=bwo"], "there are bow"),
    "a name that is a path": (["adapt", "--prompt", "bows", "--name", "../bows"], "a folder in runs/"),
    "a name that is none": (["adapt", "--prompt", "bows", "--name", ""], "a folder in runs/"),
    "a misspelt solver": (["generate", "walks", "--solver", "sde-dpmsolver"], "did you mean 'sde-dpmsolver++'"),
    "more steps than timesteps": (["generate", "walks", "--denoising-steps", "51"], "50 timesteps"),
    "training without noise": (["adapt", "--prompt", "bows", "--solver", "dpmsolver++2m"], "no density to train"),
    "a reward without a gradient": (
        ["adapt", "--prompt", "bows", "--algorithm", "draft", "--reward", "small_policy:above"], "no gradient",
    ),
    "eta 0 for an algorithm of densities": (["adapt", "--prompt", "bows", "--algorithm", "grpo", "--eta", "0"], "no density"),
    "eta 0 for training": (["adapt", "--prompt", "bows", "--eta", "0"], "no density to train"),
    "an unknown architecture": (["demo", "--model", "gan"], "transformer, unet, latent"),
    "a model that knows the action": (["adapt", "--leave-out", "kick-right"], "--model"),
    "longer than the model counts": (
        ["generate", "walks", "--model", files.WEIGHTS / "latent-leave-one-out", "--seconds", "30"], "positions",
    ),
    "a run that is none": (["compare", "nowhere"], "nowhere"),
    "a page with another ending": (["view", "walk.npy", "--out", "walk.txt"], ".html"),
    "an absent device that torch writes a page about": (["generate", "walks", "--device", "mps"], "--device auto"),
    "a device that computes nothing": (["generate", "walks", "--device", "meta"], "--device auto"),
    "a huge seed": (["generate", "walks", "--seed", str(2**70)], "--seed"),
    "a seed below zero": (["demo", "--seed", "-1"], "--seed"),
    "a name that no folder can have": (["adapt", "--prompt", "bows", "--name", "x" * 300], "too long"),
    "a name that no file can have": (["sweep", "--out", "x" * 300 + ".json"], "too long"),
    "guidance without bounds": (["generate", "walks", "--guidance", "1e30", "--out", "walk.npy"], "guidance"),
    "an unknown variant": (["sweep", "--out", "a.json", "--variant", "magic"], "magic"),
    "a sweep into its own figure": (["sweep", "--out", "a.png"], "ends in .json"),
    "a table into a figure": (["compare", "nowhere", "--out", "a.png"], "ends in .html"),
    "calls of nothing": (["sweep", "--out", "a.json", "--calls", "5000"], "--algorithms"),
    "a setting twice": (["sweep", "--out", "a.json", "--set", "kl_weight=0", "--set", "kl_weight=1"], "given twice"),
    "a value twice": (["sweep", "--out", "a.json", "--set", "kl_weight=0,0.0"], "the value 0.0 twice"),
    "iterations twice": (["sweep", "--out", "a.json", "--set", "iterations=1,2", "--iterations", "5"], "iterations is a setting"),
    "a later value that is none": (["sweep", "--out", "a.json", "--set", "learning_rate=1e-3,-1"], "learning_rate should be"),
    "by action of one action": (
        ["evaluate", "--by-action", "--target", "bow", "--evaluation-prompts", "8"], "--target, --evaluation-prompts: they are",
    ),
    "a protocol's options alone": (
        ["evaluate", "--replications", "3", "--samples", "40", "--glove", "x"],
        "--replications, --samples, --glove: they are of --protocol",
    ),
    "a protocol by action": (["evaluate", "--protocol", "kit", "--by-action"], "--protocol heeds no --by-action: it is of --by"),
    "a protocol of one's own": (
        ["evaluate", "--protocol", "kit", "--corpus", "a", "--target", "b", "--check", "a=b"],
        "--corpus, --target, --check: they are of held-out prompts",
    ),
    "retrieval of a model": (
        ["evaluate", "--protocol", "retrieval", "--model", "a", "--samples", "40"], "--model, --samples: they are of --protocol",
    ),
    "a reward of a protocol": (["evaluate", "--protocol", "kit", "--retrieval", "a"], "heeds no --retrieval"),
    "models on a corpus of one's own": (["sweep", "--out", "a.json", "--models", "unet", "--corpus", "mine"], "leave --corpus"),
    "algorithms with a check": (["sweep", "--out", "a.json", "--algorithms", "all", "--check", "a=bow"], "leave --corpus"),
    "models by another algorithm": (["sweep", "--out", "a.json", "--models", "unet", "--algorithm", "nft"], "recipe of the demo"),
    "an unknown model": (["sweep", "--out", "a.json", "--models", "resnet"], "neither one of transformer"),
    "a sweep on a corpus without networks": (["sweep", "--out", "a.json", "--corpus", "mine"], "--retrieval and --evaluator"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_clear_line(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, word = MISTAKES[name]
    status, _, complaint = command(capsys, monkeypatch, *arguments)
    line = complaint.strip().splitlines()[-1]
    assert status == 1 and line.startswith("mocapfree: ") and word in line and "Traceback" not in complaint
    assert len(line) < 500 and not list(tmp_path.glob("*.*"))  # and nothing was written


def test_a_reward_may_take_gradients_inside(base):
    def slope(motion, lengths, prompts):
        with torch.enable_grad():
            free = motion.clone().requires_grad_()
            return torch.autograd.grad(free.square().sum(), free)[0].mean((1, 2)) / 2

    report = quick(base, prompts=["a person waves"], reward=slope)
    row = report.values["target"]["before"]
    assert math.isfinite(row["reward"])


def test_a_check_of_a_label_that_nothing_has_is_refused_wherever_checks_are_given(base):
    for ask in (
        lambda: experiment.evaluate(base, CORPUS, checks={"wvae": "wave-left"}),
        lambda: by_action.evaluate_by_action(base, list(CORPUS)[:4], {"wvae": "wave-left"}, progress=False),
        lambda: quick(base, target=TARGET, checks={"wvae": "wave-left"}),
    ):
        with pytest.raises(UserError, match="'wvae', which nothing here is labelled"):
            ask()


def test_a_mistake_leaves_the_name_of_the_run_free_and_files_of_others_alone(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rewards_of_a_test.py").write_text("def fails(motion, lengths, prompts):\n    return {}[3]\n")
    given = ["adapt", "--prompt", "bows", "--model", base, "--name", "mine", "--set", "rounds=1", "--set", "steps=1"]
    status, _, complaint = command(capsys, monkeypatch, *given, "--reward", "rewards_of_a_test:fails")
    line = complaint.strip().splitlines()[-1]
    assert status == 1 and "the reward failed: KeyError: 3" in line and "rewards_of_a_test.py, line 2" in line
    assert not (tmp_path / "runs" / "mine").exists()
    work = common.going_on(tmp_path / "runs" / "yours", "checkpoints/last.pt", "--resume")
    with pytest.raises(ZeroDivisionError), work:
        (tmp_path / "runs" / "yours" / "model").mkdir(parents=True)
        (tmp_path / "runs" / "yours" / "config.json").write_text("{}")
        (tmp_path / "runs" / "yours" / "notes.txt").write_text("not ours")
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "runs" / "yours").iterdir()] == ["notes.txt"]


def test_one_program_at_a_time_writes_to_a_folder(tmp_path):
    folder, hold = tmp_path / "runs" / "mine", "from mocapfree_nb.cli import common\nfrom pathlib import Path\nimport sys\n"
    hold += "with common.going_on(Path(sys.argv[1]), 'a', 'b'):\n    print('in', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"in\n"
        with pytest.raises(UserError, match="another program is writing to .*mine"), common.going_on(folder, "a", "b"):
            pytest.fail("both are in")
        with common.going_on(folder.with_name("other"), "a", "b"):
            pass
        first.kill()
        first.wait()
        with common.going_on(folder, "a", "b"):  # a killed one holds nothing
            pass
    assert not list(tmp_path.iterdir())


def test_the_command_line_as_a_process_exits_with_status_1_and_no_traceback(tmp_path):
    status, _, complaint = run("generate", "walks", "--model", "nowhere", cwd=tmp_path)
    assert status == 1 and "Traceback" not in complaint and "nowhere" in complaint


@pytest.mark.parametrize("iterations", [0, -5])
def test_training_takes_an_iteration_at_least(iterations, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "train", lambda *_: pytest.fail("it trains"))
    status, _, complaint = command(capsys, monkeypatch, "pretrain", "--iterations", iterations, "--out", tmp_path / "model")
    assert status == 2 and "--iterations" in complaint and not (tmp_path / "model").exists()


def test_a_latent_model_composes_no_arms_that_show_what_is_left_out(capsys, monkeypatch, tmp_path):
    from mocapfree_nb.models import latent

    asked, learnt = [], latent.vae_batch_loss
    corpus = load_corpus("procedural", num_clips=60)
    monkeypatch.setattr(shipped, "load_corpus", lambda *_, **__: corpus)
    size = {"width": 16, "layers": 1, "vae_layers": 1, "heads": 2, "feedforward": 16}
    monkeypatch.setitem(shipped.SHIPPED, "latent", ("LatentDenoiser", size, {"batch_size": 64}))

    def watched(*args, refuse, **rest):
        asked.append(refuse)
        return learnt(*args, refuse=refuse, **rest)

    monkeypatch.setattr(latent, "vae_batch_loss", watched)
    for check in ([], ["--check", "raise-both-arms=walk-forward"]):
        options = ["--leave-out", "raise-both-arms", "--iterations", "1", "--device", "cpu"]
        options += ["--out", tmp_path / f"model{len(check)}"]
        assert command(capsys, monkeypatch, "pretrain", "latent", *options, *check)[0] == 0
    clips = collate([clip for clip in corpus if clip.actions in (("raise-both-arms",), ("walk-forward",))])
    shown = torch.tensor([actions == ("raise-both-arms",) for actions in clips.actions])
    assert shown.any() and not shown.all()
    assert torch.equal(asked[0](clips.motion, clips.lengths), shown)
    assert torch.equal(asked[1](clips.motion, clips.lengths), ~shown)


@pytest.mark.parametrize("iterations", [0, 1])
def test_ctrl_c_promises_a_resume_only_where_something_was_kept(iterations, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupted(*_, folder=None, **__):
        if folder is not None:
            (folder / "checkpoints").mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            if iterations:
                (folder / "checkpoints" / "last.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "generate", interrupted)
    monkeypatch.setattr(experiment, "adapt", interrupted)
    monkeypatch.setattr("mocapfree_nb.corpus.load_corpus", lambda *_, **__: CORPUS)
    assert command(capsys, monkeypatch, "generate", "walks", "--device", "cpu")[::2] == (130, "mocapfree: stopped\n")
    status, _, complaint = command(capsys, monkeypatch, "adapt", "--prompt", "bows", "--name", "bow")
    assert status == 130 and complaint.count("\n") == 1 and ("--resume" in complaint) == bool(iterations)
    assert (tmp_path / "runs" / "bow").exists() == bool(iterations)  # without an iteration the same command starts again
    status, said, complaint = command(capsys, monkeypatch, "demo", "--name", "mine")
    assert status == 130 and ("goes on with the same command" in complaint) == bool(iterations)


def test_generate_writes_joints_and_a_page(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    common = ["--model", base, "--denoising-steps", "3", "--seconds", "1"]
    assert command(capsys, monkeypatch, "generate", "walks", "runs", "--out", "two.npy", *common)[0] == 0
    joints = np.load("two.npy", allow_pickle=False)
    assert joints.shape == (2, 20, 22, 3) and np.isfinite(joints).all()
    assert command(capsys, monkeypatch, "generate", "<b>walks</b>", "--out", "one.html", *common)[0] == 0
    assert "<b>walks</b>" not in (tmp_path / "one.html").read_text()
    assert command(capsys, monkeypatch, "generate", "waves", "waves", "--out", "same.html", *common)[0] == 0
    assert (tmp_path / "same.html").read_text().count("“waves”") == 2


def test_generate_knows_the_skeleton_of_the_model(tmp_path):
    MotionDenoiser(num_features=251, width=16, layers=1, heads=2, feedforward=16).save_pretrained(tmp_path / "kit")
    out = generation.generate(["walks"], tmp_path / "walk.npy", tmp_path / "kit", seconds=2, steps=3)
    assert np.load(out, allow_pickle=False).shape == (1, 25, 21, 3)
    assert generation.generate(["walks"], tmp_path / "walk.html", tmp_path / "kit", seconds=2, steps=3).exists()


def test_a_finished_demo_is_not_run_over(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "report.json").write_text("{}")
    status, _, complaint = command(capsys, monkeypatch, "demo", "--name", "mine")
    assert status == 1 and "is finished" in complaint


def test_a_run_is_not_started_over_another(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "bow").mkdir(parents=True)
    status, _, complaint = command(capsys, monkeypatch, "adapt", "--prompt", "bows", "--name", "bow", "--model", base)
    assert status == 1 and "--resume" in complaint


def test_prompts_files_may_come_from_windows(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa person bows\r\n\r\nsomeone waves\r\n".encode())
    assert common.read_prompts(path) == ["a person bows", "someone waves"]
    path.write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        common.read_prompts(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        common.read_prompts(path)
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: to read it is to wait for ever
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=path.name):
            common.read_prompts(path)


def test_a_corpus_without_held_out_captions_is_named():
    with pytest.raises(UserError, match="held-out"):
        tasks.draw_evaluation_prompts(Corpus((), CORPUS.mean, CORPUS.std), 5)


def test_a_folder_with_a_handful_of_held_out_clips_will_do(base):
    held_out = [clip for clip in CORPUS if clip.split == "test"]
    others = [clip for clip in held_out if TARGET not in clip.actions][:4]
    target = [clip for clip in held_out if clip.actions == (TARGET,)][:2]
    names = {clip.name for clip in others + target}
    small = CORPUS.subset(clip for clip in CORPUS if clip.split != "test" or clip.name in names)
    report = quick(base, target=TARGET, corpus=small)
    assert report.after["n"] > 0 and all(0 <= share <= 1 for share in report.after["r_precision"])


def test_a_score_mirror_consistent_is_what_the_unet_and_latent_recipes_follow(base, monkeypatch):
    followed, plain = [], experiment.learn_task

    def learn_task(policy, reward, *rest):
        followed.append(reward.args[0])  # inside what checks its scores
        return plain(policy, reward, *rest)

    monkeypatch.setattr(experiment, "learn_task", learn_task)
    monkeypatch.setattr(experiment, "on_rigid_bones", lambda reward: reward)
    given = {name: shipped.shipped_recipe(name, 3, "ddpo") for name in shipped.ARCHITECTURES}
    assert [recipe["mirrored"] for recipe in given.values()] == [False, True, True]
    assert all(recipe["config"].seed == 3 and recipe["model"].is_dir() for recipe in given.values())
    looked = []
    monkeypatch.setattr(experiment, "mirror_consistent", lambda reward: looked.append(reward) or reward)
    for mirrored in (False, True):
        values = experiment.adapt(
            TARGET, CORPUS, model=base, full_model=None, config=dataclasses.replace(QUICK, iterations=1), steps=3,
            evaluation_prompts=4, mirrored=mirrored, progress=False,
        ).values
        assert values["config"]["mirrored"] is mirrored and len(looked) == mirrored
    assert followed[1] is looked[0]


def test_only_networks_of_ours_see_motion_on_rigid_bones_and_a_reward_of_ones_own_sees_it_bare(base, monkeypatch):
    """By default samples are scored as whole bodies; a reward of one's own gets what was generated."""
    scored = []

    def bones(motion, lengths, prompts):
        scored.append(body_validity(features_to_joints(motion), lengths)["bone_deviation"].max().item())
        return motion[:, 0, 3]

    given = {"target": TARGET, "corpus": CORPUS, "model": base, "full_model": None, "steps": 3, "evaluation_prompts": 4}
    given |= {"config": dataclasses.replace(QUICK, iterations=1), "progress": False}
    experiment.adapt(**given, reward=bones)
    assert min(scored) > 0.05  # a network that learnt nothing makes no body
    monkeypatch.setattr(experiment, "_choose_reward", lambda *_: bones)
    scored.clear()
    experiment.adapt(**given)
    assert max(scored) < 0.01


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A corpus on KIT-ML's skeleton (251 features, millimetres, 12.5 frames a second) and small networks that read it."""
    draw = np.random.default_rng(0)
    still = np.repeat(KIT_ML.offsets[None], 24, axis=0).astype(np.float32)
    for joint in range(1, KIT_ML.num_joints):
        still[:, joint] += still[:, KIT_ML.parents[joint]]
    clips = []
    for i in range(80):
        joints = torch.from_numpy(still + draw.normal(0, 20, (24, 21, 3)).cumsum(0).astype(np.float32))
        action, split = ("sway", "bow")[i % 2], ("train", "train", "val", "test")[i // 2 % 4]
        clips.append(Clip(f"k{i}", joints_to_features(joints, KIT_ML).numpy(), (f"{action} number {i}",), (action,), split))
    corpus = Corpus(tuple(clips), *statistics(clips, KIT_ML), KIT_ML)
    folder, models = tmp_path_factory.mktemp("kit"), {}
    models["model"] = MotionDenoiser(num_features=251, width=16, layers=1, heads=2, feedforward=16)
    few = {"motion_layers": 1, "text_layers": 1, "heads": 2, "feedforward": 16}
    models["retrieval"] = RetrievalModel(num_features=251, width=16, **few)
    models["evaluator"] = EvaluatorModel(num_features=251, channels=16, hidden=16, embedding=8)
    for name, model in models.items():
        mean, std = torch.as_tensor(corpus.mean), torch.as_tensor(corpus.std)
        model.feature_mean.copy_(mean)
        model.feature_std.copy_(std)
        model.save_pretrained(folder / name)
    return corpus, {name: folder / name for name in models}


def test_kit_ml_is_evaluated_from_end_to_end(kit, tmp_path):
    corpus, models = kit
    passed = []
    checks = {"sway": lambda clip: passed.append(clip.shape) or True}
    given = {"corpus": corpus, "target": "sway", **models, "folder": tmp_path / "run"}
    report = quick(None, **given, checks=checks)
    assert report.after["verified"] == 1 and passed[0][1:] == (21, 3)  # a checker of one's own sees KIT-ML's joints
    assert report.values["original"]["after"]["verified"] is None  # no check of ours speaks of these joints
    assert report.motions["target"][0]["after"].shape[1:] == (21, 3)
    assert "<canvas" in report.to_html() or "mocapfree-player" in report.to_html()
    experiment.motion_player(report)
    networks = models["model"], corpus, "bow", models["retrieval"], models["evaluator"]
    row = experiment.evaluate(*networks, evaluation_prompts=8, steps=3)
    assert row["verified"] is None and 0 <= row["foot_skate"] <= 1


def test_feet_of_kit_ml_are_measured_in_millimetres(kit):
    corpus, _ = kit
    joints = features_to_joints(torch.as_tensor(corpus[0].features), KIT_ML)[None]
    lengths = torch.tensor([joints.shape[1]])
    in_metres = validity.foot_skate(joints / 1000, lengths, dataclasses.replace(KIT_ML, unit="m"))
    assert validity.foot_skate(joints, lengths, KIT_ML) == in_metres > 0


def test_networks_of_two_skeletons_are_named(kit):
    corpus, models = kit
    with pytest.raises(UserError, match="251 features.*retrieval network has 263"):
        quick(None, corpus=corpus, target="sway", **models | {"retrieval": files.WEIGHTS / "retrieval"})
    with pytest.raises(UserError, match="263 features.*corpus has 251"):
        experiment.evaluate(files.WEIGHTS / "denoiser", corpus)


def test_every_phase_of_an_adaptation_has_a_bar_with_its_name(base, capsys):
    quick(base, target=TARGET, full_model=base, progress=True)
    said = capsys.readouterr()
    ends = [said.err.index(f"{name}: 100%") for name in ("before", "full data", "selection", "after", "best of N")]
    assert ends == sorted(ends) and said.out == ""
    assert "before:   0%" in said.err[: said.err.index("full data")]  # there before its first motion is
    experiment.evaluate(base, CORPUS, evaluation_prompts=8, steps=2)
    assert "evaluate: 100%" in capsys.readouterr().err
    experiment.evaluate(base, CORPUS, evaluation_prompts=8, steps=2, progress=False)
    assert "%|" not in capsys.readouterr().err


def test_evaluation_prompts_are_drawn_in_linear_time():
    motion = np.zeros((40, 263), np.float32)
    clips = [Clip(str(i), motion, (f"a {i}", f"b {i}", f"c {i}"), ("walk",), "train") for i in range(11_693)]  # HumanML3D's
    started = time.process_time()
    asked = tasks.draw_evaluation_prompts(clips, 576)
    assert time.process_time() - started < 2  # a list of all for every prompt took 25 s
    order = torch.randperm(3 * len(clips), generator=torch.Generator().manual_seed(0))[:576].tolist()
    assert asked.prompts == [f"{'abc'[i % 3]} {i // 3}" for i in order]


def test_words_that_no_caption_has_bring_a_line_with_the_nearest_sentence_that_is_known():
    known = vocabulary.known_words()
    assert all(set(vocabulary._words(caption)) <= known for caption in CORPUS.captions)
    assert vocabulary.words_note(["A person walks forward, while waving the left hand!"]) is None
    note = vocabulary.words_note(["a man boxing with a kangaroo", "walks", "翻跟头", "🙂"])
    assert "'kangaroo'" in note and "2 more prompts" in note and "\n" not in note
    nearest = note.split("nearest sentence that it knows is ")[1].strip("'")
    assert any(nearest in captions_for(label, 3) for label in ("punch-left", "punch-right"))
    assert "'翻跟头'" in vocabulary.words_note(["翻跟头"]) and "'🙂'" in vocabulary.words_note(["🙂"])


def test_strange_words_and_forgotten_quotes_are_noted_once_each(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    common = ["--denoising-steps", "2", "--seconds", "2", "--out", "a.npy", "--device", "cpu"]
    status, _, said = command(capsys, monkeypatch, "generate", "a", "person", "walks", *common)
    assert status == 0 and said.count("\n") == 1 and said.startswith("note: 3 motions") and '"a person walks"' in said
    status, _, said = command(capsys, monkeypatch, "generate", "a person does a cartwheel", *common)
    assert status == 0 and said.count("\n") == 1 and "trained without 'cartwheel'" in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generation.generate(["a person does a cartwheel"], "b.npy", base, 2, 2)  # nobody knows what this one was trained on


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A model that was trained on 2.0 to 2.1 seconds: less than the corpus holds, and asks for."""
    model = MotionDenoiser(width=32, layers=1, heads=2, feedforward=32, frames_per_token=4, trained_frames=[40, 42])
    model.set_statistics(CORPUS.mean, CORPUS.std)
    folder = tmp_path_factory.mktemp("narrow")
    model.save_pretrained(folder)
    return folder


LENGTH_NOTE = r"s asked for, .*than the 2\.0 to 2\.1 s that this model was trained on"


def test_lengths_beyond_training_bring_a_note_from_python(narrow, base, tmp_path):
    callers = {
        "generate": lambda model: generation.generate(["walks"], tmp_path / "a.npy", model, 9.8, 2),
        "evaluate": lambda model: experiment.evaluate(model, CORPUS, evaluation_prompts=8, steps=2),
        "adapt": lambda model: quick(model, target=TARGET),
        "adapt to free prompts": lambda model: quick(model, target=None, prompts=["a person waves"]),
    }
    for name, call in callers.items():
        with pytest.warns(UserWarning, match=LENGTH_NOTE) as heard:
            call(narrow)
        places = [one.filename for one in heard if "this model was trained on" in str(one.message)]
        assert places == [__file__], name  # the line of the caller, once: Python shows it again for another line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callers["generate"](base)  # nobody knows what this one was trained on


def test_lengths_beyond_training_bring_one_line_from_every_command(narrow, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    small = ["--denoising-steps", "2", "--device", "cpu"]
    plain = {"generate": ["walks", "--seconds", "9.8", "--out", "a.npy", "--model", narrow, *small],
             "evaluate": ["--model", narrow, "--evaluation-prompts", "8", *small],
             "adapt": ["--prompt", "walks", "--model", narrow, *small]}
    config = dataclasses.replace(QUICK, iterations=1)
    monkeypatch.setattr("mocapfree_nb.learning.ALGORITHMS", {"exploration": lambda **_: config})
    monkeypatch.setattr(experiment, "adapt", functools.partial(experiment.adapt, evaluation_prompts=4))
    recipe = {"model": narrow, "full_model": None, "config": config, "steps": 2}
    monkeypatch.setattr(shipped, "shipped_recipe", lambda *_: dict(recipe))
    for name, words in {**plain, "demo": []}.items():
        status, _, said = command(capsys, monkeypatch, name, *words)
        notes = [line for line in said.splitlines() if "this model was trained on" in line]
        assert status == 0 and len(notes) == 1 and notes[0].startswith("note: "), (name, said)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_guidance_is_a_finite_number(scale, base):
    with pytest.raises(UserError, match="guidance scale"):
        registry.load_policy(base, guidance_scale=scale)


@pytest.mark.parametrize("option", ["--guidance", "--eta", "--seconds"])
def test_a_number_that_is_none_is_refused_by_name(option, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for value in ("nan", "inf"):
        status, _, complaint = command(capsys, monkeypatch, "generate", "walks", option, value)
        assert status == 2 and option in complaint and not list(tmp_path.iterdir())


def test_motion_that_is_not_finite_is_neither_saved_nor_scored(base, tmp_path):
    with pytest.raises(UserError, match="not finite"):
        quick(base, target=TARGET, guidance_scale=1e30, folder=tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.json"}  # the settings, and nothing made by them
    with pytest.raises(UserError, match="finite|bounds"):
        generation.generate(["walks"], tmp_path / "walk.npy", base, guidance_scale=1e38, steps=3)
    assert not (tmp_path / "walk.npy").exists()


def test_which_models_are_taken_where_none_is_named(monkeypatch):
    shipped, taken = files.WEIGHTS, []
    monkeypatch.setattr(experiment, "load_policy", lambda model, **_: taken.append(model) or 1 / 0)
    for arguments, expected in (
        ({}, shipped / "denoiser-leave-one-out"),
        ({"target": TARGET, "prompts": ["a person raises both arms"]}, shipped / "denoiser-leave-one-out"),
        ({"prompts": ["a person salutes"]}, shipped / "denoiser"),  # the one that generate uses
        ({"prompts": ["a person salutes"], "model": "mine"}, "mine"),
    ):
        with pytest.raises(ZeroDivisionError):
            experiment.adapt(corpus=CORPUS, **arguments)
        assert taken.pop() == expected
    for arguments in ({"target": "kick-right"}, {"leave_out_words": ["waves"]}, {"source": CORPUS}):
        with pytest.raises(UserError, match="the shipped model lacks .*raise-both-arms"):
            experiment.adapt(corpus=CORPUS, **arguments)


def test_a_floor_under_the_deviation_reaches_the_policy_from_the_command_line(monkeypatch, capsys, tmp_path):
    plain, floored = (registry.load_policy(files.WEIGHTS / "denoiser-leave-one-out", min_std=floor) for floor in (0.0, 0.7))
    room = (1 - floored.alphas_next).sqrt()  # no step may hold more noise than its next state
    torch.testing.assert_close(floored.stds, torch.maximum(plain.stds, room.clamp(max=0.7)))
    assert (floored.stds > plain.stds).any() and floored.stds[-1] == 0
    taken = []
    monkeypatch.setattr(experiment, "load_policy", lambda model, **how: taken.append(how["min_std"]) or 1 / 0)
    monkeypatch.setattr(experiment, "load_corpus", lambda: CORPUS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        command(capsys, monkeypatch, "adapt", "--prompt", "a person salutes", "--min-std", "0.7", "--device", "cpu")
    assert taken == [0.7]


def test_a_free_prompts_report_says_only_what_is_so(base):
    report = free(base)
    text = report.to_html() + comparison.summary(report.values)
    for words in ("was not trained on.", "eld-out prompts", "saw the action", "was shown such motions"):
        assert words not in text.replace("(a run of free prompts", ""), words
    assert "for the very prompts that it was trained on" in text and "the prompts that it was trained on" in text
    assert report.values["held_out"] is False and "full_data" not in report.values["target"]


def test_a_number_that_could_not_be_measured_is_null_in_the_report():
    values = experiment._without_nan({"fid": math.nan, "rows": [1.0, -math.inf, {"n": 2, "name": "nan"}]})
    assert values == {"fid": None, "rows": [1.0, None, {"n": 2, "name": "nan"}]}


def test_the_next_start_of_a_killed_run_takes_its_leftovers_away_and_nothing_else(tmp_path):
    code = (
        "import os, sys; from mocapfree_nb.files import write_atomically\n"
        "names = 'report.html', 'checkpoints/last.pt', 'model/model.safetensors', 'ddpo/checkpoints/last.pt', 'ddpo/log.jsonl'\n"
        "begun = [write_atomically(os.path.join(sys.argv[1], name)) for name in names]\n"
        "begun = [writing.__enter__() and writing for writing in begun]\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    assert len([path for path in tmp_path.rglob(".*") if path.is_file()]) == 5
    mine = [tmp_path / name for name in (".report.html", ".report.html.mine", "model/.hidden", ".git-keep")]
    for path in mine:
        path.touch()
    runs.prepare_folder(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(mine)


def test_runs_that_began_from_one_model_are_compared_and_it_is_measured_once(base, capsys, monkeypatch, tmp_path):
    measured = []
    cost = {"rollout_s": 98.75, "update_s": 2.5, "rollout_mib": 3.0, "update_mib": 4.0}
    monkeypatch.setattr("mocapfree_nb.bench.measure_iteration", lambda model: measured.append(model) or cost)
    for name in ("one", "two"):
        free(base).save(tmp_path / name)
    status, said, _ = command(capsys, monkeypatch, "compare", tmp_path / "one", tmp_path / "two")
    assert status == 0 and measured == [str(base)] and said.count("98.75 s") == 2


NASTY = "\x1b[31mred\x07\x9b2J\u202e"


def test_no_name_and_no_caption_controls_the_terminal(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = (["generate", NASTY, "--model", base, "--denoising-steps", "2", "--out", f"{NASTY}.npy"], ["compare", NASTY],
                 ["generate", "walks", "--model", NASTY], ["data", NASTY], ["generate", "walks", "--device", NASTY],
                 ["adapt", "--leave-out", NASTY], ["sweep", "--out", "a.json", "--variant", NASTY], ["bench", NASTY],
                 ["generate", NASTY, "--denoising-steps", "2", "--out", "b.npy"])  # fmt: skip
    for words in arguments:
        _, said, complaint = command(capsys, monkeypatch, *words)
        assert "red" in said + complaint or words[-1] == "b.npy"
        assert all(c.isprintable() or c == "\n" for c in said + complaint), words
