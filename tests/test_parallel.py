"""Two processes learn what one learns: the same log and the same weights, up to rounding, at the same global batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import command

from mocapfree_nb import cli, off_policy, parallel
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.files import UserError
from mocapfree_nb.off_policy import LearnConfig, explore_and_learn
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.pretrain import PretrainConfig, pretrain
from mocapfree_nb.reading import load_state, save_state

SETTINGS = {
    "branching": {},
    "tracker and KL": {"advantage": "tracker", "kl_weight": 0.1, "lora_rank": 0, "learning_rate": 1e-3},
    "per step": {"advantage": "per_step", "inner_epochs": 2},
}


def height(motion, lengths, prompts):
    valid = torch.arange(motion.shape[1]) < lengths[:, None]  # how far a batch is padded is not the motion's
    return (motion[:, :, 3] * valid).sum(1) / lengths


def train(name, folder=None, iterations=3, seed=0, stop_after=None):
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=32, layers=2, heads=2, feedforward=64, frames_per_token=4)
    config = DDPOConfig(
        iterations=iterations, prompts_per_iteration=4, motions_per_prompt=3, distillation_batch=8, select_every=2, micro_batch=5,
        seed=seed, **SETTINGS[name],
    )
    prompts, retained = ["raises both arms", "lifts both hands", "hands up"], ["walks", "runs", "kicks"]
    policy = DiffusionPolicy(denoiser, steps=4)
    trainer = DDPOTrainer(policy, height, prompts, [24, 30], config, retained, lambda policy: {"score": 0.5}, folder)
    if stop_after:  # and no more is heard of it
        return [trainer.iterate() for _ in range(stop_after)], None
    trainer.run(progress=False)
    return trainer.log, [p.detach() for p in denoiser.parameters()]


def explore(folder=None, rounds=2, stop_in=None, batch_size=4):
    "The other algorithm: `stop_in` is the round in whose learning a run is interrupted."
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=32, layers=2, heads=2, feedforward=64, frames_per_token=4)
    known = [("walks", 24), ("runs", 24), ("kicks", 30), ("jumps", 30)]
    size = {"steps": 3, "batch_size": batch_size, "retained_batch": 4, "lora_rank": 2}
    config = LearnConfig(rounds=rounds, bones=0.2, **size)  # an untrained network makes no bodies: more is all rounding
    # a frame in which a foot slides counts whole, and with an untrained network rounding says which do
    search = ExploreConfig(prompts=2, pool=3, near=3, proposals=8, sliding=0.0)
    learnt, plain = [], off_policy.learn

    def learn(*given):
        learnt.append(given)
        if len(learnt) == stop_in:
            raise KeyboardInterrupt
        return plain(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(off_policy, "learn", learn)
        policy, prompts = DiffusionPolicy(denoiser, steps=4), ["raises both arms", "lifts both hands"]

        def far(policy):
            "Of the updates, how much is there: nothing at first, and more from round to round."
            return {"score": float(sum(p.detach().abs().sum() for name, p in denoiser.named_parameters() if name.endswith(".B")))}

        log = explore_and_learn(policy, height, prompts, known, known, config, search, far, folder, progress=False)
    return log, [p.detach() for p in denoiser.parameters()]


def launch(*arguments, processes=2, folder=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    command = [sys.executable, __file__, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen(command, env=usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=folder, **pipes)
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=300) for process in running]
    return [process.returncode for process in running], said


def close(one, other):
    for a, b in zip(one, other, strict=True):
        assert a["iteration"] == b["iteration"] and a["selection"] == b["selection"]
        for name in ("reward", "distillation"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
        for name in ("gradient_norm", "ratio"):  # the last step has no noise, hence no number
            assert a[name][-1] is b[name][-1] is None
            assert a[name][:-1] == pytest.approx(b[name][:-1], rel=1e-3, abs=1e-5), name


def pretraining(checkpoint=None, stop_at=None, steps=4):
    "`pretrain` of a small denoiser on clips of many lengths, all terms of the loss and dropped captions among them."
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=32, layers=1, heads=2, feedforward=32, frames_per_token=4, dropout=0.0)
    config = PretrainConfig(steps=steps, batch_size=6, warmup_steps=2, text_dropout=0.5, joint_weight=2.0)

    def stop(step, loss):
        if step == stop_at:
            raise KeyboardInterrupt

    corpus = load_corpus("procedural", num_clips=40)
    model = pretrain(denoiser, corpus, config, checkpoint=checkpoint, checkpoint_every=2, on_step=stop, progress=False)
    return None, [p.detach() for p in model.parameters()]


NUMBERS = ("reward", "chosen_reward", "loss", "distillation")


def same_way(one, other, first):
    "Adam divides each gradient by its own size, so a weight whose gradient is all but zero moves by rounding: what is compared"
    "is the whole vector of weights, by the way it went since the first iteration."
    one, two, first = (torch.cat([w.flatten() for w in each]) for each in (one, other, first))
    assert float((one - two).norm()) < 0.01 * float((one - first).norm())


def test_two_processes_give_the_log_and_weights_of_one_and_resume(tmp_path):
    codes, said = launch(tmp_path)
    assert codes == [0, 0], said
    for name in SETTINGS:
        log, weights = train(name)
        found = load_state(tmp_path / f"{name}.pt")
        close(log, found["log"])
        assert found["writes"] == [1, 0], "only the main process writes"
        same_way(weights, found["weights"], train(name, iterations=1)[1])
        assert found["same"], "a run that was interrupted halfway ends with other weights"
    log, weights = explore()
    found = load_state(tmp_path / "exploration.pt")
    assert found["writes"] == [1, 0] and found["same"]
    assert len(log) == 2
    for one, other in zip(log, found["log"], strict=True):
        for key in ("proposals", "chosen", "kinds", "improved"):
            assert one[key] == other[key], key
        assert one["selection"] == pytest.approx(other["selection"], rel=1e-4)
        assert [one[key] for key in NUMBERS] == pytest.approx([other[key] for key in NUMBERS], rel=1e-3, abs=1e-5)
    same_way(weights, found["weights"], explore(rounds=1)[1])
    found = load_state(tmp_path / "pretraining.pt")
    assert found["writes"] == [1, 0] and found["same"]
    same_way(pretraining()[1], found["weights"], pretraining(steps=1)[1])


def test_the_command_line_joins_and_only_the_main_process_prints_and_writes(tmp_path):
    words = ("--prompt", "a person waves", "--name", "wave", "--denoising-steps", "3", "--device", "cpu")
    codes, said = launch("adapt", *words, folder=tmp_path)
    assert codes == [0, 0], said
    (spoken, _), (silent, complaint) = said
    assert "runs/wave/report.html" in spoken and silent == complaint == ""
    assert {"report.html", "report.json", "model"} <= {path.name for path in (tmp_path / "runs" / "wave").iterdir()}
    writers = {path.read_text() for path in tmp_path.glob("wrote-*")}
    assert writers == {"0"}, "only the main process writes"


@pytest.mark.parametrize("words", [["generate", "a person walks"], ["view", "x"], ["pretrain", "retrieval"]])
def test_what_several_processes_cannot_share_is_refused_by_the_first(words, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        status, spoken, complaint = command(capsys, monkeypatch, *words)
        assert status == 1 and spoken == "" and complaint.count("\n") == lines
        assert lines == 0 or f"{' '.join(words[: 1 + (words[0] == 'pretrain')])} is the work of one process" in complaint


def test_alone_nothing_changes_and_an_uneven_share_is_named(monkeypatch):
    rows = torch.arange(6.0)
    assert parallel.gather(rows) is rows and parallel.total(rows) is rows and parallel.own_share(7) == slice(0, 7)
    assert parallel.broadcast("x") == "x" and parallel.is_main() and parallel.start() is None
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(UserError, match="7 prompts cannot be shared evenly by 2 processes: take a multiple of 2"):
        parallel.own_share(7, "prompts")


def compare_in_this_process(folder):
    "What each process of a launch does for the first test."
    from mocapfree_nb import checkpointing
    from mocapfree_nb import pretrain as pretrain_module

    parallel.start()
    written = []
    for module in (checkpointing, pretrain_module):
        module.save_state = lambda path, state, save=module.save_state: (written.append(path), save(path, state))

    def whole_and_halfway(name, run, stop):
        written.clear()
        run(folder / name)
        log, weights = run(folder / name)  # goes on from the end: nothing left to do
        stop(folder / f"{name} halfway")
        _, again = run(folder / f"{name} halfway")
        same = all(torch.equal(one, other) for one, other in zip(weights, again, strict=True))
        writes = parallel.gather(torch.tensor([int(bool(written))])).tolist()
        if parallel.is_main():
            save_state(folder / f"{name}.pt", {"log": log, "weights": weights, "writes": writes, "same": same})

    for name in SETTINGS:
        whole_and_halfway(name, lambda at, name=name: train(name, at), lambda at, name=name: train(name, at, stop_after=1))

    def interrupted(at):
        with pytest.raises(KeyboardInterrupt):
            explore(at, stop_in=2)

    def stopped(checkpoint):
        with pytest.raises(KeyboardInterrupt):
            pretraining(checkpoint, stop_at=2)

    whole_and_halfway("exploration", explore, interrupted)
    whole_and_halfway("pretraining", pretraining, stopped)
    for different in (lambda: train("branching", seed=parallel.rank()), lambda: explore(batch_size=4 + 2 * parallel.rank())):
        with pytest.raises(UserError, match=r"process 1 was not started like process 0 \((seed|batch_size)\)"):
            different()
    with pytest.raises(UserError, match="5 motions a step cannot be shared evenly"):
        explore(batch_size=5)
    with pytest.raises(UserError, match="by the main one"):
        parallel.from_main(lambda: (_ for _ in ()).throw(UserError("found out by the main one")))
    parallel.stop()


def type_in_this_process(words):
    "What each process does for the second: the command line, on a small corpus with few prompts and one short round."
    from mocapfree_nb import corpus, experiment, files, tasks

    clips, make_task = load_corpus("procedural", num_clips=300), tasks.make_task
    experiment.load_corpus = corpus.load_corpus = lambda *_, **__: clips
    experiment.make_task = lambda *given: make_task(*given[:5], evaluation_prompts=4, retained=8)
    experiment.fit_scorer = lambda clips: None
    off_policy.ExploreConfig = lambda: ExploreConfig(prompts=2, pool=3, near=3, proposals=8)
    replace = files.os.replace

    def noted(source, target):
        replace(source, target)
        Path(f"wrote-{os.getpid()}-{Path(target).name}").write_text(os.environ["RANK"])

    files.os.replace = noted
    short = ("rounds=1", "steps=2", "batch_size=2", "retained_batch=2", "ddpo_iterations=2")
    short = [word for pair in short for word in ("--set", pair)]
    sys.argv = ["mocapfree", *words, *(short if words[0] == "adapt" else [])]
    cli.main()


if __name__ == "__main__":
    if Path(sys.argv[1]).is_absolute():
        compare_in_this_process(Path(sys.argv[1]))
    else:
        type_in_this_process(sys.argv[1:])
