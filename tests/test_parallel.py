"""Two processes learn what one learns: the same log and the same weights, up to rounding, at the same global batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mocapfree_nb import parallel
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.pretrain import load_state
from mocapfree_nb.reading import save_state

SETTINGS = {
    "branching": {},
    "tracker and KL": {"advantage": "tracker", "kl_weight": 0.1, "lora_rank": 0, "learning_rate": 1e-3},
    "per step": {"advantage": "per_step", "inner_epochs": 2},
}


def height(motion, lengths, prompts):
    valid = torch.arange(motion.shape[1]) < lengths[:, None]  # how far a batch is padded is not the motion's
    return (motion[:, :, 3] * valid).sum(1) / lengths


def train(name, folder=None, iterations=3, seed=0):
    torch.manual_seed(0)
    denoiser = MotionDenoiser(width=32, layers=2, heads=2, feedforward=64, frames_per_token=4)
    config = DDPOConfig(
        iterations=iterations, prompts_per_iteration=4, motions_per_prompt=3, distillation_batch=8, select_every=2, micro_batch=5,
        seed=seed, **SETTINGS[name],
    )
    prompts, retained = ["raises both arms", "lifts both hands", "hands up"], ["walks", "runs", "kicks"]
    policy = DiffusionPolicy(denoiser, steps=4)
    trainer = DDPOTrainer(policy, height, prompts, [24, 30], config, retained, lambda policy: {"score": 0.5}, folder)
    trainer.run(progress=False)
    return trainer.log, [p.detach() for p in denoiser.parameters()]


def launch(*arguments, processes=2):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    command = [sys.executable, __file__, *map(str, arguments)]
    running = [
        subprocess.Popen(command, env=usual | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    return [process.returncode for process in running], said


def close(one, other):
    for a, b in zip(one, other, strict=True):
        assert a["iteration"] == b["iteration"] and a["selection"] == b["selection"]
        for name in ("reward", "distillation"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
        for name in ("gradient_norm", "ratio"):  # the last step has no noise, hence no number
            assert a[name][-1] is b[name][-1] is None
            assert a[name][:-1] == pytest.approx(b[name][:-1], rel=1e-3, abs=1e-5), name


def test_two_processes_give_the_log_and_weights_of_one_and_resume(tmp_path):
    codes, said = launch(tmp_path)
    assert codes == [0, 0], said
    for name in SETTINGS:
        log, weights = train(name)
        found = load_state(tmp_path / f"{name}.pt")
        close(log, found["log"])
        assert found["writes"] == [1, 0], "only the main process writes"
        # Adam divides each gradient by its own size, so a weight whose gradient is all but zero moves by rounding: what is
        # compared is the whole vector of weights, by the way it went since the first iteration.
        given = weights, found["weights"], train(name, iterations=1)[1]
        one, two, first = (torch.cat([w.flatten() for w in each]) for each in given)
        assert float((one - two).norm()) < 0.01 * float((one - first).norm())


def test_alone_nothing_changes_and_an_uneven_share_is_named(monkeypatch):
    rows = torch.arange(6.0)
    assert parallel.gather(rows) is rows and parallel.total(rows) is rows and parallel.own_share(7) == slice(0, 7)
    assert parallel.broadcast("x") == "x" and parallel.is_main() and parallel.start() is None
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(UserError, match="7 prompts cannot be shared evenly by 2 processes: take a multiple of 2"):
        parallel.own_share(7, "prompts")


if __name__ == "__main__":
    from mocapfree_nb import checkpointing

    parallel.start()
    folder, written = Path(sys.argv[1]), []
    save, checkpointing.save_state = checkpointing.save_state, lambda path, state: (written.append(path), save(path, state))
    for name in SETTINGS:
        written.clear()
        train(name, folder / name, iterations=3)
        log, weights = train(name, folder / name, iterations=3)  # goes on from the end: nothing left to do
        writes = parallel.gather(torch.tensor([int(bool(written))])).tolist()
        if parallel.is_main():
            save_state(folder / f"{name}.pt", {"log": log, "weights": weights, "writes": writes})
    try:
        train("branching", seed=parallel.rank())
    except UserError as error:
        assert "seed" in str(error) or "other processes" in str(error), error
    else:
        raise AssertionError("processes with other settings went on")
