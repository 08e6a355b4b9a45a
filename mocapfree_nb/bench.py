"""`mocapfree bench`: how fast this machine is, as ratios and medians of one run. Not a test: machines differ."""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mocapfree_nb.body import MESH_ENDINGS, dress, save_body
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.export import ENDINGS, export_motion, fit_pose
from mocapfree_nb.features import joints_to_features
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.retrieval import RetrievalModel, RetrievalReward
from mocapfree_nb.text import default_text_encoder


def seconds(*jobs: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median seconds of each job, run in turns so that all see the same machine; one run each first, not counted."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, record in zip(jobs, times, strict=True):
            started = time.perf_counter()
            job()
            if turn:
                record.append(time.perf_counter() - started)
    return [statistics.median(record) for record in times]


@torch.inference_mode()
def reward_path(batch: int = 256) -> str:
    """Joints to features to reward: one batch against one motion at a time."""
    made = generate_clips(batch, seed=1)
    joints, lengths = torch.as_tensor(made.joints), torch.as_tensor(made.lengths)
    prompts = [captions[0] for captions in made.captions]
    reward = RetrievalReward(RetrievalModel())

    def batched() -> None:
        reward(joints_to_features(joints, lengths=lengths), lengths - 1, prompts)

    def one_by_one() -> None:
        for row in range(batch):
            one = joints[row : row + 1, : lengths[row]]
            reward(joints_to_features(one), lengths[row : row + 1] - 1, prompts[row : row + 1])

    together, apart = seconds(batched, one_by_one, repeats=3)
    return (
        f"reward path at batch {batch}: {batch / together:,.0f} motions/s batched, {batch / apart:,.0f} one by one: "
        f"{apart / together:.1f} times as many"
    )


def features(clips: int = 1000, frames: int = 100) -> str:
    """Features of many clips."""
    joints = torch.as_tensor(generate_clips(clips, seed=2).joints)
    joints = torch.cat([joints, joints, joints], dim=1)[:, :frames]
    (taken,) = seconds(lambda: joints_to_features(joints), repeats=3)
    return f"features of {clips:,} clips of {frames} frames: {taken:.2f} s"


@torch.inference_mode()
def guidance(batch: int = 64, frames: int = 48) -> str:
    """Both guidance branches in one forward against two."""
    denoiser = MotionDenoiser(width=128, frames_per_token=2).eval()
    text = default_text_encoder()(["a person waves with the left hand"] * batch)
    x, t, lengths = torch.randn(batch, frames, 263), torch.full((batch,), 20), torch.full((batch,), frames)
    hidden = torch.zeros(batch, dtype=torch.bool)
    one, two = seconds(
        lambda: denoiser.guided(x, t, text, lengths, 2.5),
        lambda: (denoiser(x, t, text, lengths), denoiser(x, t, text, lengths, hidden)),
        repeats=15,
    )
    return f"guidance: one forward {one * 1e3:.0f} ms, two forwards {two * 1e3:.0f} ms: ratio {one / two:.2f}"


def rollout(batch: int = 64, frames: int = 48) -> str:
    """A rollout of the shipped size."""
    policy = DiffusionPolicy(MotionDenoiser(width=128, frames_per_token=2), steps=10)
    prompts, lengths = ["a person raises both arms"] * batch, [frames] * batch
    (taken,) = seconds(lambda: policy.rollout(prompts, lengths), repeats=3)
    return f"rollout of {batch} motions, 10 steps with guidance: {taken:.2f} s"


def files(frames: int = 100) -> str:
    """A motion written in every form."""
    joints = torch.as_tensor(generate_clips(1, seed=3).joints)[0].repeat(frames, 1, 1)[:frames]
    with tempfile.TemporaryDirectory() as folder:
        jobs = {ending: partial(export_motion, joints, Path(folder, f"a{ending}")) for ending in ENDINGS}
        jobs |= {ending: partial(_body, joints, Path(folder, f"a{ending}")) for ending in MESH_ENDINGS}
        taken = seconds(*jobs.values(), repeats=3)
    return f"files of {frames} frames: " + ", ".join(f"{e} {t:.2f} s" for e, t in zip(jobs, taken, strict=True))


def _body(joints: torch.Tensor, path: Path) -> None:
    save_body(path, dress(joints))


def inverse(frames: int = 10_000) -> str:
    """Inverse kinematics of a long motion."""
    joints = torch.as_tensor(generate_clips(1, seed=3).joints)[0].repeat(frames, 1, 1)[:frames]
    (taken,) = seconds(lambda: fit_pose(joints), repeats=2)
    return f"inverse kinematics of {frames:,} frames, 22 joints: {taken:.2f} s"


def main() -> None:
    """Run all benchmarks and print a line for each."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for benchmark in (reward_path, features, guidance, rollout, inverse, files):
        print(benchmark(), flush=True)
