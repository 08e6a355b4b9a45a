"""The experiment: what is asked, what is reported, and the commands a user types."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from mocapfree_nb import cli, experiment
from mocapfree_nb.corpus import Clip, Corpus, collate, load_corpus
from mocapfree_nb.ddpo import DDPOConfig
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError

TARGET = experiment.LEFT_OUT
CORPUS = load_corpus("procedural", num_clips=500)
QUICK = DDPOConfig(rollouts=2, prompts_per_rollout=2, motions_per_prompt=2, replay_batch=4, judge_every=1)
ROW = {
    "r_precision", "fid", "matching_distance", "diversity", "multimodality", "retrieval_score", "verified",
    "foot_skate", "n",
}


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
        **{"corpus": CORPUS, "model": base, "full_model": None, "config": QUICK, "steps": 3, "questions": 4,
           "progress": False, **arguments}
    )


def test_no_sentence_is_both_practised_and_asked():
    task = experiment.make_task(CORPUS, TARGET)
    asked = set(task.target.prompts) | set(task.original.prompts)
    assert not asked & (set(task.practice) | set(task.anchors.prompts))
    assert set(task.target.labels) == {TARGET} and TARGET not in "+".join(task.anchors.labels + task.original.labels)
    assert not {clip.name for clip in task.target_clips} & {clip.name for clip in task.original_clips}


def test_words_choose_a_target_where_there_are_no_labels():
    bare = CORPUS.subset(dataclasses.replace(clip, actions=()) for clip in CORPUS)
    task = experiment.make_task(bare, leave_out_words=["both arms", "both hands"])
    assert sum("both" in prompt for prompt in task.practice) > len(task.practice) / 3
    assert not any("both arms" in prompt for prompt in task.anchors.prompts)


def test_a_run_leaves_everything_behind_and_is_not_lost(base, tmp_path):
    folder = tmp_path / "run"
    report = quick(base, target=TARGET, full_model=base, folder=folder)
    values = json.loads((folder / "report.json").read_text())
    for row in (values["target"][k] for k in ("before", "after", "full_data")):
        assert set(row) >= ROW and len(row["r_precision"]) == 3
    assert set(values["original"]["after"]) >= ROW
    assert {"experiment", "seed", "device", "wall_clock_s", "reward", "config"} <= set(values)
    assert values["target"]["full_data"] == values["target"]["before"]  # the same model, questions and noise
    assert report.before == values["target"]["before"] and report.after == values["target"]["after"]
    page = (folder / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    for name in ("config.json", "log.jsonl", "checkpoints/last.pt", "model/model.safetensors"):
        assert (folder / name).exists()
    adapted = experiment.load_policy(folder / "model", steps=3)
    assert adapted.generate(["walks"], [20]).shape == (1, 20, 263)


def test_a_prompt_with_html_shows_as_text(base):
    page = quick(base, target=None, prompts=["<script>alert(1)</script> waves"]).to_html()
    assert "<script>alert(1)</script>" not in page and "&lt;script&gt;" in page


def test_cross_dataset_practises_the_new_corpus_and_keeps_the_old(base):
    new = CORPUS.only("wave-left")
    report = quick(base, target=None, corpus=new, source=CORPUS.leave_out("wave-left"))
    assert report.values["experiment"] == "cross-dataset"
    assert all("wav" in prompt or "left" in prompt for prompt in report.values["prompts"]["practised"])


def test_a_checker_of_ones_own_judges_an_unknown_label():
    clips = [Clip(f"c{i}", clip.features, clip.captions, ("sway",), clip.split) for i, clip in enumerate(CORPUS)]
    joints, lengths = torch.zeros(3, 20, 22, 3), torch.tensor([20, 20, 20])
    joints[1, :, :, 1] = 1.0
    labels = [clip.actions[0] for clip in clips[:3]]
    assert experiment.check_motion(joints, lengths, labels).isnan().all()
    passed = experiment.check_motion(joints, lengths, labels, {"sway": lambda clip: bool(clip[..., 1].mean() > 0.5)})
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
        experiment.check_motion(torch.zeros(1, 20, 22, 3), torch.tensor([20]), ["sway"], {"sway": "jmup"})


def test_a_practice_prompt_is_judged_by_the_label_of_its_own_caption():
    task = experiment.make_task(CORPUS, leave_out_words=["waves"])
    label = {caption: "+".join(clip.actions) for clip in task.target_clips for caption in clip.captions}
    assert task.practice_labels == [label[prompt] for prompt in task.practice] and len(set(task.practice_labels)) > 1

    class Still:
        def generate(self, prompts, lengths, seed):
            self.prompts = prompts
            return torch.zeros(len(prompts), int(max(lengths)), 263)

    judge = experiment.GeometryJudge(Still(), task, count=20, others=4)
    assert judge.labels[:20] == [label[prompt] for prompt in judge.prompts[:20]]


def test_one_real_clip_gives_no_fid_and_a_corpus_is_embedded_in_parts(base):
    judges = experiment.load_judges(experiment.WEIGHTS / "retrieval", experiment.WEIGHTS / "evaluator")
    clips = list(CORPUS)[:300]
    rows = judges.embed(clips)
    assert len(rows) == 300 and torch.allclose(rows[290:], judges.embed(clips[290:]), atol=1e-4)
    questions = experiment.ask(clips[:8], 4)
    assert experiment.examine(experiment.load_policy(base, 3), questions, judges, rows[:1], repeats=2)[0]["fid"] is None


def test_a_run_goes_on_only_with_its_own_settings(base, tmp_path):
    quick(base, target=TARGET, folder=tmp_path)
    (tmp_path / "report.json").unlink()
    for change in ({"steps": 4}, {"guidance_scale": 1.5}, {"solver": "ddpm"}, {"model": experiment.WEIGHTS / "denoiser"}):
        with pytest.raises(UserError, match="other settings.*" + next(iter(change)).split("_")[0]):
            quick(base, target=TARGET, folder=tmp_path, **change)
    quick(base, target=TARGET, folder=tmp_path)
    assert (tmp_path / "report.json").exists()


def test_a_report_that_could_not_be_written_whole_does_not_count_as_finished(base, tmp_path, monkeypatch):
    report = quick(base, target=TARGET)
    monkeypatch.setattr(experiment.Report, "to_html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report.save(tmp_path)
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
    policy, lengths = experiment.load_policy(experiment.WEIGHTS / "denoiser"), torch.full((16,), 48)
    joints = features_to_joints(policy.generate([said] * 16, lengths))
    assert experiment.check_motion(joints, lengths, [label] * 16).mean() > 0.75


def test_the_shipped_base_model_never_does_what_it_lacks():
    clips = list(load_corpus(num_clips=600, seed=5))
    lacking = [clip for clip in clips if "+".join(clip.actions) in set(experiment.LEFT_OUT_ACTIONS[1:])]
    policy, lengths = experiment.load_policy(experiment.WEIGHTS / "denoiser-leave-one-out"), torch.tensor([*map(len, lacking)])
    joints = features_to_joints(policy.generate([clip.captions[0] for clip in lacking], lengths))
    assert len(lacking) > 40
    assert experiment.check_motion(joints, lengths, ["+".join(clip.actions) for clip in lacking]).mean() < 0.1


def test_what_the_base_model_lacks_is_neither_retained_nor_asked():
    task = experiment.make_task(experiment.without_others(CORPUS, TARGET), TARGET)
    assert set(task.target.labels) == {TARGET}
    said = {part for label in task.anchors.labels + task.original.labels for part in label.split("+")}
    assert not said & {"raise-both-arms", "kick-left", "bow", "jump-forward", "kneel"} and {"squat", "kick-right"} <= said


def test_several_labels_are_left_out_at_once_and_saved_weights_go_on(tmp_path, monkeypatch):
    seen = []

    def pretrain(denoiser, clips, config, checkpoint):
        seen.append((denoiser, clips, config))
        return denoiser

    small = (MotionDenoiser, {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}, {"batch_size": 4})
    monkeypatch.setitem(experiment.SHIPPED, "denoiser", small)
    monkeypatch.setattr(experiment, "pretrain", pretrain)
    corpus = load_corpus(num_clips=1000)
    experiment.train("denoiser", tmp_path / "base", corpus, ",".join(experiment.LEFT_OUT_ACTIONS))
    experiment.train("denoiser", tmp_path / "full", corpus, start=tmp_path / "base", seed=1)
    (base, without, first), (full, clips, later) = seen
    shown = {"+".join(clip.actions) for clip in clips}
    for label in experiment.LEFT_OUT_ACTIONS:
        assert label in shown and not any(set(label.split("+")) <= set(clip.actions) for clip in without)
    assert any("squat" in clip.actions for clip in without) and any("punch-left" in clip.actions for clip in without)
    assert first.steps == 8000 and later.steps == experiment.CONTINUED["steps"]
    weights = zip(base.state_dict().values(), full.state_dict().values(), strict=True)
    assert all(torch.equal(one.float(), other) for one, other in weights)


def test_the_checkpoint_outlives_a_model_that_could_not_be_saved(tmp_path, monkeypatch):
    small = (MotionDenoiser, {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}, {"batch_size": 4})
    monkeypatch.setitem(experiment.SHIPPED, "denoiser", small)

    def full_disk(*_):
        raise UserError("no space left")

    monkeypatch.setattr(MotionDenoiser, "save_pretrained", full_disk)
    (tmp_path / "checkpoint.pt").touch()
    monkeypatch.setattr(experiment, "pretrain", lambda denoiser, *_, **__: denoiser)
    with pytest.raises(UserError, match="no space"):
        experiment.train("denoiser", tmp_path, CORPUS, steps=1)
    assert (tmp_path / "checkpoint.pt").exists()


def test_next_run_overwrites_no_report(tmp_path):
    assert experiment.next_run(tmp_path, "demo") == tmp_path / "demo"
    (tmp_path / "demo").mkdir()
    assert experiment.next_run(tmp_path, "demo") == tmp_path / "demo"  # unfinished: goes on
    (tmp_path / "demo" / "report.json").write_text("{}")
    assert experiment.next_run(tmp_path, "demo") == tmp_path / "demo-2"


def run(*arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-c", "from mocapfree_nb.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def command(capsys, monkeypatch, *arguments):
    """Run the command line in this process: exit status, what it printed, what it complained."""
    monkeypatch.setattr(sys, "argv", ["mocapfree", *map(str, arguments)])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    return status, *capsys.readouterr()


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
    "a misspelt solver": (["generate", "walks", "--solver", "sde-dpmsolver"], "did you mean 'sde-dpmsolver++'"),
    "more steps than timesteps": (["generate", "walks", "--denoising-steps", "51"], "50 timesteps"),
    "training without noise": (["adapt", "--prompt", "bows", "--solver", "dpmsolver++2m"], "no density to train"),
    "eta 0 for training": (["adapt", "--prompt", "bows", "--eta", "0"], "no density to train"),
    "an unknown architecture": (["demo", "--model", "gan"], "transformer, unet, latent"),
    "a model that knows the action": (["adapt", "--leave-out", "kick-left"], "--model"),
    "longer than the model counts": (
        ["generate", "walks", "--model", experiment.WEIGHTS / "latent-leave-one-out", "--seconds", "30"], "positions",
    ),
    "a run that is none": (["compare", "nowhere"], "nowhere"),
    "an unknown variant": (["ablation", "--out", "a.json", "--variant", "magic"], "magic"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_mistake_is_one_clear_line(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments, word = MISTAKES[name]
    status, _, complaint = command(capsys, monkeypatch, *arguments)
    line = complaint.strip().splitlines()[-1]
    assert status == 1 and line.startswith("mocapfree: ") and word in line and "Traceback" not in complaint


def test_the_command_line_as_a_process_exits_with_status_1_and_no_traceback(tmp_path):
    status, _, complaint = run("generate", "walks", "--model", "nowhere", cwd=tmp_path)
    assert status == 1 and "Traceback" not in complaint and "nowhere" in complaint


@pytest.mark.parametrize("steps", [0, -5])
def test_training_takes_a_step_at_least(steps, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "train", lambda *_: pytest.fail("it trains"))
    status, _, complaint = command(capsys, monkeypatch, "pretrain", "--steps", steps, "--out", tmp_path / "model")
    assert status == 2 and "--steps" in complaint and not (tmp_path / "model").exists()


def test_a_latent_model_composes_no_arms_that_show_what_is_left_out(capsys, monkeypatch, tmp_path):
    from mocapfree_nb import latent

    asked, learnt = [], latent.vae_batch_loss
    corpus = load_corpus("procedural", num_clips=60)
    monkeypatch.setattr(experiment, "load_corpus", lambda *_, **__: corpus)
    size = {"width": 16, "layers": 1, "vae_layers": 1, "heads": 2, "feedforward": 16}
    monkeypatch.setitem(experiment.SHIPPED, "latent", (latent.LatentDenoiser, size, {"batch_size": 64}))
    monkeypatch.setattr(latent, "vae_batch_loss", lambda *args, refuse: asked.append(refuse) or learnt(*args, refuse=refuse))
    for check in ([], ["--check", "raise-both-arms=walk-forward"]):
        options = ["--leave-out", "raise-both-arms", "--steps", "1", "--device", "cpu", "--out", tmp_path / f"model{len(check)}"]
        assert command(capsys, monkeypatch, "pretrain", "latent", *options, *check)[0] == 0
    clips = collate([clip for clip in corpus if clip.actions in (("raise-both-arms",), ("walk-forward",))])
    shown = torch.tensor([actions == ("raise-both-arms",) for actions in clips.actions])
    assert shown.any() and not shown.all()
    assert torch.equal(asked[0](clips.motion, clips.lengths), shown)
    assert torch.equal(asked[1](clips.motion, clips.lengths), ~shown)


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "generate", interrupted)
    status, _, complaint = command(capsys, monkeypatch, "generate", "walks", "--device", "cpu")
    assert status == 130 and complaint == "mocapfree: stopped; an adaptation goes on with --resume (the demo by itself)\n"


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
    out = experiment.generate(["walks"], tmp_path / "walk.npy", tmp_path / "kit", seconds=2, steps=3)
    assert np.load(out, allow_pickle=False).shape == (1, 25, 21, 3)
    assert experiment.generate(["walks"], tmp_path / "walk.html", tmp_path / "kit", seconds=2, steps=3).exists()


def test_a_finished_demo_is_not_run_over(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "report.json").write_text("{}")
    status, _, complaint = command(capsys, monkeypatch, "demo", "--name", "mine")
    assert status == 1 and "is finished" in complaint


def test_an_ablation_is_not_written_over_another_file(tmp_path):
    (tmp_path / "mine.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="no rows"):
        experiment.ablate(tmp_path / "mine.json", corpus=CORPUS)


def test_a_run_is_not_started_over_another(base, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "bow").mkdir(parents=True)
    status, _, complaint = command(capsys, monkeypatch, "adapt", "--prompt", "bows", "--name", "bow", "--model", base)
    assert status == 1 and "--resume" in complaint


def test_prompts_files_may_come_from_windows(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa person bows\r\n\r\nsomeone waves\r\n".encode())
    assert cli._read_prompts(path) == ["a person bows", "someone waves"]
    path.write_text("\n")
    with pytest.raises(UserError, match="no prompts"):
        cli._read_prompts(path)


def test_a_corpus_without_held_out_captions_is_named():
    with pytest.raises(UserError, match="held-out"):
        experiment.ask(Corpus((), CORPUS.mean, CORPUS.std), 5)


def test_a_folder_with_a_handful_of_held_out_clips_will_do(base):
    held_out = [clip for clip in CORPUS if clip.split == "test"]
    others = [clip for clip in held_out if TARGET not in clip.actions][:4]
    target = [clip for clip in held_out if clip.actions == (TARGET,)][:2]
    names = {clip.name for clip in others + target}
    small = CORPUS.subset(clip for clip in CORPUS if clip.split != "test" or clip.name in names)
    report = quick(base, target=TARGET, corpus=small)
    assert report.after["n"] > 0 and all(0 <= share <= 1 for share in report.after["r_precision"])


def test_a_score_from_both_sides_is_what_the_unet_and_latent_recipes_follow(base, monkeypatch):
    followed, plain = [], experiment.DDPOTrainer

    def trainer(policy, reward, *rest):
        followed.append(reward)
        return plain(policy, reward, *rest)

    monkeypatch.setattr(experiment, "DDPOTrainer", trainer)
    given = {name: experiment.shipped_recipe(name, seed=3) for name in experiment.ARCHITECTURES}
    assert [recipe["both_sides"] for recipe in given.values()] == [False, True, True]
    assert all(recipe["config"].seed == 3 and recipe["model"].is_dir() for recipe in given.values())
    looked = []
    monkeypatch.setattr(experiment, "from_both_sides", lambda reward: looked.append(reward) or reward)
    for both_sides in (False, True):
        values = experiment.adapt(
            TARGET, CORPUS, model=base, full_model=None, config=dataclasses.replace(QUICK, rollouts=1), steps=3, questions=4,
            both_sides=both_sides, progress=False,
        ).values
        assert values["config"]["both_sides"] is both_sides and len(looked) == both_sides
    assert followed[1] is looked[0]
