"""The paper's experiments as recipes: what they set, what a dry run finds, and that they run."""

import dataclasses
import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mocapfree_nb import cli, experiment, recipes, tasks
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.data.convert import convert_skeleton
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.features import features_to_joints, joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.reading import read_json
from mocapfree_nb.recipes import SETTINGS, Plan, dry_run, load_data, run
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

BANDAI = Path(__file__).parents[2] / "shared" / "data" / "bandai_h3d"
CORPUS = load_corpus("procedural", num_clips=440, seed=5)
HALF = set(CORPUS.actions[: len(CORPUS.actions) // 2])


def write(root: Path, clips, kit: bool = False) -> Path:
    for part in ("new_joint_vecs", "texts"):
        (root / part).mkdir(parents=True)
    for split in ("train", "val", "test"):
        (root / f"{split}.txt").write_text("\n".join(clip.name for clip in clips if clip.split == split))
    for clip in clips:
        rows = clip.features
        if kit:
            rows = joints_to_features(convert_skeleton(features_to_joints(rows).numpy(), HUMANML3D, KIT_ML), KIT_ML).numpy()
        np.save(root / f"new_joint_vecs/{clip.name}.npy", rows)
        (root / f"texts/{clip.name}.txt").write_text("".join(f"{c}#x/NOUN#0.0#0.0\n" for c in clip.captions))
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What takes a whole adaptation its time: the motions it retains, and checkpoint selection."""
    monkeypatch.setattr(experiment, "make_task", functools.partial(tasks.make_task, retained=16))
    monkeypatch.setattr(experiment, "fit_scorer", lambda clips: None)  # no text to encode: the last weights are kept


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two sets of synthetic motion that share no action, the second as KIT-ML ships, and networks of no skill."""
    root = tmp_path_factory.mktemp("world")
    write(root / "humanml3d", [clip for clip in CORPUS if not set(clip.actions) & HALF])
    write(root / "kit", [clip for clip in CORPUS if set(clip.actions) <= HALF], kit=True)
    torch.manual_seed(0)
    small = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32, "dropout": 0.0}
    networks = {
        "model": MotionDenoiser(**small, frames_per_token=4),
        "retrieval": RetrievalModel(),
        "evaluator": EvaluatorModel(),
        "kit-evaluator": EvaluatorModel(num_features=251),
    }
    for name, network in networks.items():
        if network.num_features == 263:
            network.set_statistics(CORPUS.mean, CORPUS.std)
        network.save_pretrained(root / name)
    return root


def plan_of(root: Path, recipe: str = "humanml3d-to-kit", **changes) -> Plan:
    networks = {name: root / name for name in ("model", "retrieval", "evaluator")}
    data = {"humanml3d": root / "humanml3d", "kit": root / "kit"}
    return Plan(recipe, **{"data": data, **networks, "settings": "ours", "iterations": 1, "evaluation_prompts": 4, **changes})


def problems(plan: Plan, folder=None) -> str:
    found = dry_run(plan, folder)
    text = "\n".join(text for kind, text in found.lines if kind == "problem")
    assert found.ok == (text == "")
    return text


# --- what they set -------------------------------------------------------------------------------------


def test_the_paper_s_settings_are_the_authors_public_ones():
    config = Plan("humanml3d-to-kit", {"humanml3d": "", "kit": ""}, "", "", "", settings="paper").config
    assert (config.prompts_per_iteration, config.motions_per_prompt, config.inner_epochs) == (64, 4, 4)
    assert (config.learning_rate, config.weight_decay, config.clip_range, config.gradient_clip) == (1e-5, 1e-4, 1e-4, 1.0)
    assert (config.lora_rank, config.lora_alpha, config.kl_weight, config.distillation_weight) == (4, 16.0, 0.0, 0.0)
    assert (config.advantage, config.weigh_timesteps) == ("batch", False)
    assert SETTINGS["paper"].sampling["guidance_scale"] == 1.0
    told = set(SETTINGS["paper"].public) | set(SETTINGS["paper"].chosen)
    assert {"iterations", "steps", "lora_dropout", "min_std"} <= set(SETTINGS["paper"].chosen) and len(told) == 20


def test_both_data_sets_come_on_one_skeleton(world):
    data = load_data(plan_of(world))
    assert {role: corpus[0].features.shape[1] for role, corpus in data.items()} == {"humanml3d": 263, "kit": 263}
    assert all(corpus.fps == 20 for corpus in data.values()) and "KIT-ML" in data["kit"].source


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": "kit-to-mars"}, "humanml3d-to-kit, kit-to-humanml3d, leave-one-out"),
        ({"settings": "theirs"}, "paper, ours"),
        ({"space": "outer"}, "joint, latent"),
        ({"data": {"kit": "x"}}, "--humanml3d FOLDER"),
    ],
)
def test_mistakes_in_a_plan(changes, words, tmp_path):
    with pytest.raises(UserError, match=words):
        dataclasses.replace(plan_of(tmp_path), **changes)


# --- a dry run -----------------------------------------------------------------------------------------


def test_a_sound_plan_is_told_with_time_and_memory_and_writes_nothing(world, tmp_path, monkeypatch):
    plain = recipes._measure
    monkeypatch.setattr(recipes, "_measure", lambda job, device: (2.0, plain(job, device)[1]))  # on a clock that nothing disturbs
    before = sorted(path.name for path in world.rglob("*"))
    found = dry_run(plan_of(world), tmp_path / "run")
    assert found.ok and found.seconds > 0 and "KIT-ML folder" in str(found) and "training prompts" in str(found)
    assert "joint space" in str(found) and not (tmp_path / "run").exists()
    assert sorted(path.name for path in world.rglob("*")) == before
    assert found.memory is None or 1e8 < found.memory < 1e11
    assert dry_run(plan_of(world, iterations=1000)).seconds > 20 * found.seconds > 40  # an iteration takes 2 s at least


def test_what_would_fail_is_found_before(world, tmp_path):
    assert "both the reward and the evaluator" in problems(plan_of(world, evaluator=world / "retrieval"))
    assert "latent space asked for" in problems(plan_of(world, space="latent"))
    assert "no corpus at" in problems(plan_of(world, data={"kit": tmp_path / "no", "humanml3d": world / "humanml3d"}))
    assert "should hold one file of weights" in problems(plan_of(world, model=tmp_path))
    assert "must be of one skeleton" in problems(plan_of(world, evaluator=world / "kit-evaluator"))
    (tmp_path / "done").mkdir()
    (tmp_path / "done/report.json").write_text("{}")
    assert "holds a finished run" in problems(plan_of(world), tmp_path / "done")
    few = [clip for clip in CORPUS if not set(clip.actions) & HALF][:40]
    write(tmp_path / "few", few)
    assert "held-out motions of the original" in problems(
        plan_of(world, data={"humanml3d": tmp_path / "few", "kit": world / "kit"})
    )
    assert "no caption has the word" in problems(plan_of(world, "leave-one-out", words=("moonwalk",)))


def test_too_little_memory_is_a_problem(world, monkeypatch):
    monkeypatch.setattr(recipes, "_peak_memory", lambda device: (2e9, 1e9))
    assert "memory: about 2.0 GB of 1.0 GB" in problems(plan_of(world))


def test_a_guard_that_speaks_is_told(world, tmp_path):
    shutil.copytree(world / "humanml3d", tmp_path / "x")
    for path in (tmp_path / "x/new_joint_vecs").iterdir():
        mirrored = features_to_joints(np.load(path)).numpy() * [1, 1, -1]
        np.save(path, joints_to_features(mirrored.astype(np.float32)).numpy())
    found = dry_run(plan_of(world, data={"humanml3d": tmp_path / "x", "kit": world / "kit"}))
    assert any(kind == "note" and "mirrored" in text for kind, text in found.lines)


# --- they run ------------------------------------------------------------------------------------------


@pytest.fixture
def few_prompts(monkeypatch):
    """Two prompts an iteration; all else is as the settings say."""
    for name, settings in SETTINGS.items():
        ddpo = {**settings.ddpo, "prompts_per_iteration": 2}
        monkeypatch.setitem(SETTINGS, name, dataclasses.replace(settings, ddpo=ddpo))


@pytest.mark.parametrize("recipe", ["humanml3d-to-kit", "kit-to-humanml3d"])
def test_between_data_sets(world, few_prompts, tmp_path, recipe):
    report = run(plan_of(world, recipe), tmp_path / "run", progress=False)
    assert report.values["experiment"] == "cross-dataset"
    own = load_data(plan_of(world))["kit" if recipe.endswith("kit") else "humanml3d"]
    assert set(report.values["prompts"]["training"]) <= set(own.split("train").captions)
    assert set(report.values["prompts"]["evaluation"]) <= set(own.split("test").captions)
    assert read_json(tmp_path / "run/config.json")["guidance_scale"] == 2.5


def test_a_latent_model_by_the_paper_s_settings(world, few_prompts, tmp_path):
    torch.manual_seed(0)
    latent = LatentDenoiser(num_features=263, width=32, heads=2, feedforward=32)
    latent.set_statistics(CORPUS.mean, CORPUS.std)
    latent.save_pretrained(tmp_path / "latent")
    plan = plan_of(world, model=tmp_path / "latent", space="latent", settings="paper")
    found = dry_run(plan)
    assert found.ok and "latent space" in str(found)
    report = run(plan, tmp_path / "run", progress=False)
    assert report.values["config"]["learning_rate"] == 1e-5 and report.values["config"]["inner_epochs"] == 4
    assert report.values["config"]["solver"] == "sde-dpmsolver++"


def type_in(monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", ["mocapfree", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return done.value.code or 0


def test_the_commands(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [f"--{name}={world / name}" for name in ("humanml3d", "kit", "model", "retrieval")]
    rest = ["--settings=ours", "--iterations=1", "--evaluation-prompts=8", "--device=cpu", "--dry-run"]
    assert type_in(monkeypatch, "recipe", "humanml3d-to-kit", *options, f"--evaluator={world / 'evaluator'}", *rest) == 0
    assert "memory" in capsys.readouterr().out and not (tmp_path / "runs").exists()
    assert type_in(monkeypatch, "recipe", "humanml3d-to-kit", *options, f"--evaluator={world / 'retrieval'}", *rest) == 1
    assert "this run would fail" in capsys.readouterr().err
    assert type_in(monkeypatch, "recipe", "humanml3d-to-kit", *options, *rest) == 1
    assert "give --evaluator" in capsys.readouterr().err
    assert type_in(monkeypatch, "data", world / "kit") == 0
    said = capsys.readouterr().out
    assert "KIT-ML folder" in said and "21 joints, 251 features, 12.5 frames" in said


def test_two_halves_of_real_motion_end_to_end(world, few_prompts, tmp_path):
    if not BANDAI.is_dir():
        pytest.skip("real motion is not part of the project")
    real = load_corpus(BANDAI, max_frames=48)
    hands = {action for action in real.actions if action.startswith("raise")}
    for role, mine in (("kit", True), ("humanml3d", False)):
        write(tmp_path / role, [clip for clip in real if (set(clip.actions) <= hands) == mine][::3])
    data = {role: tmp_path / role for role in ("kit", "humanml3d")}
    plan = plan_of(world, data=data)
    assert problems(plan) == ""
    values = run(plan, tmp_path / "run", progress=False).values
    assert set(values["prompts"]["training"]) <= set(load_data(plan)["kit"].split("train").captions)
    assert values["target"]["after"]["n"] == 16 and (tmp_path / "run/report.html").exists()
