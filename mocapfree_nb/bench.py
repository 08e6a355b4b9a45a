"""`mocapfree bench`: how fast this machine is, as ratios and medians of one run. Not a test: machines differ."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from mocapfree_nb.output.body import MESH_ENDINGS, dress, save_body
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.ddpo import DDPOConfig, DDPOTrainer, collect, update
from mocapfree_nb.denoiser import Denoiser, MotionDenoiser
from mocapfree_nb.exploration import ExploreConfig, explore
from mocapfree_nb.models.registry import load_denoiser, load_policy, load_scorers
from mocapfree_nb.output.ik import fit_pose
from mocapfree_nb.output.takes import ENDINGS, export_motion
from mocapfree_nb.features import joints_to_features
from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.models.latent import LatentDenoiser
from mocapfree_nb.models.mdm import MDM
from mocapfree_nb.metrics import multimodality
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.published.protocol import measure, summarise
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.tasks import LEFT_OUT
from mocapfree_nb.text import TextEmbedding, default_text_encoder
from mocapfree_nb.validity import on_rigid_bones


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
    """Both guidance branches in one forward, as on a GPU, against two, as on a processor."""
    denoiser = MotionDenoiser(width=128, frames_per_token=2).eval()
    text = default_text_encoder()(["a person waves with the left hand"] * batch)
    x, t, lengths = torch.randn(batch, frames, 263), torch.full((batch,), 20), torch.full((batch,), frames)
    captioned = torch.ones(batch, dtype=torch.bool)
    twice, both = torch.arange(batch).repeat(2), torch.cat([captioned, ~captioned])
    one, two = seconds(
        lambda: denoiser(x[twice], t[twice], text[twice], lengths[twice], both),
        lambda: (denoiser(x, t, text, lengths, captioned), denoiser(x, t, text, lengths, ~captioned)),
        repeats=15,
    )
    return f"guidance: one forward {one * 1e3:.0f} ms, two forwards {two * 1e3:.0f} ms: ratio {two / one:.2f}"


def rollout(batch: int = 64, frames: int = 48) -> str:
    """A rollout of the shipped size."""
    policy = DiffusionPolicy(MotionDenoiser(width=128, frames_per_token=2), steps=10)
    prompts, lengths = ["a person raises both arms"] * batch, [frames] * batch
    (taken,) = seconds(lambda: policy.rollout(prompts, lengths), repeats=3)
    return f"rollout of {batch} motions, 10 steps with guidance: {taken:.2f} s"


def _peak_mebibytes() -> float | None:
    """The most memory this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _measure_iteration(denoiser: Denoiser | str, batch: int, frames: int, turns: int) -> dict:
    """See `measure_iteration`; this is what its fresh process does."""
    denoiser = load_denoiser(denoiser) if isinstance(denoiser, str) else denoiser
    config = DDPOConfig(
        prompts_per_iteration=1, motions_per_prompt=batch, advantage="batch", distillation_weight=0.0
    )

    def trainer(frames: int) -> DDPOTrainer:
        policy = load_policy(denoiser, steps=10)  # with the text encoder that this network reads
        return DDPOTrainer(policy, lambda motion, *_: motion[:, 0, 0], ["a person waves"], torch.tensor([frames]), config)

    def play(run: DDPOTrainer):
        return collect(run.policy, run.reward, run.prompts, run.lengths, config, run.tracker, run.generator)

    run = trainer(frames)
    taken, before = {"rollout_s": [], "update_s": []}, _peak_mebibytes()
    memory = {}
    for _ in range(turns):
        started = time.perf_counter()
        experience = play(run)
        taken["rollout_s"].append(time.perf_counter() - started)
        memory.setdefault("rollout_mib", before and _peak_mebibytes() - before)
        started = time.perf_counter()
        update(run.policy, experience, run.optimizer, run.weights, config, run.generator)
        taken["update_s"].append(time.perf_counter() - started)
    memory["update_mib"] = before and _peak_mebibytes() - before
    return {name: min(values) for name, values in taken.items()} | memory


def measure_iteration(denoiser: Denoiser | str, batch: int = 16, frames: int = 48, turns: int = 2) -> dict:
    """What one rollout of `batch` motions and one update cost, in a fresh process: the best of `turns`.

    `denoiser` is a network or the folder of a saved one. Returns `rollout_s`, `update_s` (seconds), `rollout_mib` and
    `update_mib`: by how much the process's peak memory grew until after the rollout, and until after the update (None
    where the system does not tell).
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_measure_iteration, denoiser, batch, frames, turns).result()


def architectures(batch: int = 16, frames: int = 120) -> str:
    """Rollout and update of the latent model against the joint-space transformer of equal width, long motions."""
    size = {"width": 128, "heads": 4, "feedforward": 384, "dropout": 0.0}
    costs = [measure_iteration(kind, batch, frames) for kind in (MotionDenoiser(layers=5, **size), LatentDenoiser(**size))]
    joint, latent = (batch / (cost["rollout_s"] + cost["update_s"]) for cost in costs)
    return (
        f"rollout and update at {frames} frames, width 128, 5 layers: {latent:.1f} motions/s in latent space, {joint:.1f} "
        f"in joint space: {latent / joint:.1f} times as many"
    )


def _measure_search(prompts: int) -> dict:
    """See `search`; this is what its fresh process does."""
    policy, clock = load_policy(WEIGHTS / "denoiser-leave-one-out"), []
    scored = load_scorers(WEIGHTS / "retrieval", WEIGHTS / "evaluator").reward

    def timed(*given) -> torch.Tensor:
        started = time.perf_counter()
        found = scored(*given)
        clock.append(time.perf_counter() - started)
        return found

    corpus = load_corpus()
    known = [(clip.captions[0], len(clip)) for clip in corpus.leave_out(LEFT_OUT).split("train")[:576]]
    asked = [clip.captions[0] for clip in corpus.only(LEFT_OUT)]
    before, started = _peak_mebibytes(), time.perf_counter()
    found = explore(policy, on_rigid_bones(timed), asked, known, ExploreConfig(prompts=prompts))
    taken = time.perf_counter() - started
    return {"tried": found.all_scores.numel(), "s": taken, "reward_s": sum(clock), "mib": before and _peak_mebibytes() - before}


def search(prompts: int = ExploreConfig.prompts) -> str:
    """One search of exploration with the shipped networks: its speed, the reward's share of the time, and memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        cost = fresh.submit(_measure_search, prompts).result()
    memory = "" if cost["mib"] is None else f", {cost['mib']:,.0f} MiB more than before it"
    return (
        f"search among {cost['tried']:,} recombinations for {prompts} prompts: {cost['s']:.0f} s, "
        f"{cost['tried'] / cost['s']:,.0f} a second, {cost['reward_s'] / cost['s']:.0%} of the time in the reward{memory}"
    )


def gpu() -> str:
    """Rollout and iteration of DDPO on the GPU: the shipped transformer, and MDM's size at 196 frames; float32 and bfloat16."""
    if not torch.cuda.is_available():
        return "gpu: torch sees none here"

    def clock(job: Callable[[], object]) -> float:
        def wait() -> None:
            job()
            torch.cuda.synchronize()

        return seconds(wait, repeats=3)[0]

    prompts = ["a person walks", "a person waves with the left hand"]
    text = TextEmbedding(torch.randn(1, 1, 512), torch.ones(1, 1, dtype=torch.bool), torch.randn(1, 512))

    def read(captions: list[str]) -> TextEmbedding:
        return text[[0] * len(captions)]

    read.width = 512
    shipped = partial(load_policy, WEIGHTS / "denoiser", device="cuda")
    makers = {"shipped transformer, 48 frames": (shipped, 48, (64, 512))}
    makers["MDM's size, 196 frames"] = (lambda: DiffusionPolicy(MDM().cuda(), read, steps=10), 196, (64, 256))
    lines = [torch.cuda.get_device_name()]
    for name, (make, frames, sizes) in makers.items():
        for count, half in product(sizes, (False, True)):
            asked, policy = (prompts * (count // 2), [frames] * count), make()
            rolled = clock(partial(policy.rollout, *asked, torch.Generator().manual_seed(0)))
            settings = {"iterations": 9, "prompts_per_iteration": count // 4, "motions_per_prompt": 4, "bfloat16": half}
            settings |= {"distillation_weight": 0.0, "advantage": "group", "micro_batch": min(count, 256)}
            torch.cuda.reset_peak_memory_stats()
            lengths = torch.tensor([frames])
            trainer = DDPOTrainer(make(), lambda motion, *_: motion[:, :, 3].mean(1), prompts, lengths, DDPOConfig(**settings))
            taken, peak = clock(trainer.iterate), torch.cuda.max_memory_allocated() / 2**30
            lines.append(
                f"{name}, {count} at a time{', bfloat16' if half else ''}: rollout {count / rolled:.0f} motions/s, iteration of "
                f"DDPO {count / taken:.0f} motions/s, peak {peak:.2f} GiB"
            )
    return "\n".join(lines)


def published_metrics(rows: int = 4646, width: int = 512, replications: int = 20) -> str:
    """All numbers of the published protocol on ready embeddings, as many as HumanML3D's test list gives."""
    draw = torch.Generator().manual_seed(0)
    text, motion, real = (torch.randn(rows, width, generator=draw) for _ in range(3))
    many = torch.randn(100, 30, width, generator=draw)
    started, used, found = time.perf_counter(), time.process_time(), []
    for i in range(replications):
        random = np.random.default_rng(i)
        found.append(measure(text, motion, real, random) | {"multimodality": [multimodality(many, 10, random)]})
    summarise(found)
    taken, used = time.perf_counter() - started, time.process_time() - used
    return (
        f"published metrics, {rows:,} embeddings of width {width}, {replications} replications: {taken:.1f} s "
        f"({used:.1f} s of processor time)"
    )


_OPEN = """
import json, sys, time
from mocapfree_nb.corpus import load_corpus
started, busy = time.perf_counter(), time.process_time()
corpus = load_corpus(sys.argv[1])
seconds, busy = time.perf_counter() - started, time.process_time() - busy
try:  # the peak of this program; getrusage would inherit that of the one which started it
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(lines["VmHWM"].split()[0]) * 1024
except (OSError, KeyError):
    peak = 0
print(json.dumps({"seconds": seconds, "busy": busy, "peak": peak, "clips": len(corpus)}))
"""


def write_folder(root: Path, motions: int) -> None:
    """A folder in the layout of HumanML3D, of so many synthetic motions, 40 to 196 frames long, as it would ship."""
    made = generate_clips(256, seed=0)
    generator = np.random.default_rng(0)
    rows = joints_to_features(torch.as_tensor(made.joints), lengths=made.lengths).numpy()
    clips = [row[: length - 1] for row, length in zip(rows, made.lengths, strict=True)]
    there_and_back = [np.concatenate([clip, clip[::-1]]) for clip in clips]  # long motions without a jump
    poses = np.concatenate(clips)
    np.save(root / "Mean.npy", poses.mean(0))
    np.save(root / "Std.npy", poses.std(0) + np.float32(1e-3))
    for part in ("texts", "new_joint_vecs", "new_joints"):
        (root / part).mkdir()
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for i in range(motions):
        name = f"{i // 2:06d}" if i % 2 == 0 else f"M{i // 2:06d}"
        frames = int(generator.integers(40, 197))
        motion = np.resize(there_and_back[i % 256], (frames, 263))
        np.save(root / "new_joint_vecs" / f"{name}.npy", motion)
        np.save(root / "new_joints" / f"{name}.npy", motion[:, :66].reshape(-1, 22, 3))
        lines = [f"{caption}#{'word/NOUN ' * 8}#0.0#0.0\n" for caption in (made.captions[i % 256] * 3)[:3]]
        (root / "texts" / f"{name}.txt").write_text("".join(lines))
        lists["train" if i % 20 < 16 else "val" if i % 20 == 16 else "test"].append(name)
    for split, names in lists.items():
        (root / f"{split}.txt").write_text("\n".join(names) + "\n")


def dataset(motions: int = 14_616) -> str:
    """First and second opening of a folder the size of HumanML3D, each in a program of its own. Writes 5 GB."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "data"
        root.mkdir()
        write_folder(root, motions)
        environment = os.environ | {"MOCAPFREE_CACHE": str(Path(place) / "cache")}
        looks = []
        for _ in range(2):
            command = [sys.executable, "-c", _OPEN, str(root)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            looks.append(json.loads(done.stdout))
        packed = sum(path.stat().st_size for path in (Path(place) / "cache").iterdir())
    first, second = (
        f"{look['seconds']:.2f} s ({look['busy']:.2f} s of processor time), peak memory {look['peak'] / 1e9:.2f} GB"
        for look in looks
    )
    return f"folder of {motions:,} motions ({packed / 1e9:.1f} GB packed): opened first in {first}; again in {second}"


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


QUICK = {
    function.__name__: function
    for function in (reward_path, features, guidance, rollout, search, architectures, published_metrics, inverse, files)
}
LARGE = {"dataset": dataset, "gpu": gpu}


def main(names: list[str] | None = None) -> None:
    """Run the benchmarks named (default: all but those that need much room, or a GPU) and print a line for each."""
    known = QUICK | LARGE
    if unknown := [name for name in names or () if name not in known]:
        raise UserError(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in names or QUICK:
        print(known[name](), flush=True)
