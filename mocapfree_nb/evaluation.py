"""Rows of numbers about a policy: what an evaluator network, the geometric check and the reward say of what it generates."""

# The machinery of lesson 23.

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mocapfree_nb import metrics
from mocapfree_nb.corpus import Clip
from mocapfree_nb.evaluator import EvaluatorModel
from mocapfree_nb.sources import features_in_batches
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError
from mocapfree_nb.measures import Body
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.progress import phase_bar
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, skeleton_of
from mocapfree_nb.synthetic.actions import ACTIONS
from mocapfree_nb.tasks import EvaluationPrompts, Task
from mocapfree_nb.text import default_text_encoder
from mocapfree_nb.validity import body_validity, rigid, rigid_joints
from mocapfree_nb.verify import CHECKS, verify

__all__ = [
    "Checks", "check_motion", "check_labels", "check_whole_bodies", "Scorers", "make_motion", "bootstrap_interval",
    "score_motions", "evaluate_policy", "PolicyEvaluation",
]

Checks = Mapping[str, str | Callable]


def check_motion(joints: Tensor, lengths: Tensor, labels: Sequence[str], checks: Checks | None = None) -> Tensor:
    """Verify each motion by its own label; (batch,) float: 1 passed, 0 failed, nan where no check is known.

    `joints` is (batch, frames, joints, 3). `checks` translates labels that `verify` does not know into ones it does,
    or into a checker of your own (`verify` in lesson 03 says what that looks like). `verify` knows the joints of
    HumanML3D; those of another skeleton only a checker of your own can verify.
    """
    checks = checks or {}
    result = torch.full((len(labels),), torch.nan)
    for label in set(labels):
        check = checks.get(label, label)
        rows = torch.tensor([other == label for other in labels])
        if callable(check):
            clips = zip(joints[rows], lengths[rows].tolist(), strict=True)
            result[rows] = torch.tensor([float(bool(check(clip[:length].cpu().numpy()))) for clip, length in clips])
        elif joints.shape[2] == HUMANML3D.num_joints and (label in checks or _has_check(check)):
            result[rows] = verify(joints[rows], check, lengths[rows]).float()
    return result


def check_labels(checks: Checks, known: Iterable[str]) -> None:
    """Raise `UserError` for a check of a label that is none of `known`, or one that names a check that there is not."""
    known = sorted(set(known))
    for label, check in checks.items():
        if label not in known:
            near = ", ".join(difflib.get_close_matches(label, known, 3, 0.3) or known[:12])
            raise UserError(f"a check is given for {label!r}, which nothing here is labelled; labels are {near}")
        if not callable(check) and not _has_check(check):
            near = ", ".join(difflib.get_close_matches(check, CHECKS, 3, 0.3) or sorted(CHECKS)[:12])
            raise UserError(f"there is no check {check!r} for {label!r}; there are {near}, or a function of yours")


def check_whole_bodies(joints: Tensor, lengths: Tensor, labels: Sequence[str], checks: Checks | None = None) -> Tensor:
    """As `check_motion`, of the motions put on rigid bones; what was no body before (`measures.Body.valid`) fails."""
    skeleton = next(known for known in (HUMANML3D, KIT_ML) if known.num_joints == joints.shape[2])
    verified = check_motion(rigid_joints(joints, skeleton), lengths, labels, checks)
    if skeleton is not HUMANML3D:
        return verified
    return verified.where(Body(joints, lengths).valid | verified.isnan(), 0)


def _has_check(label: str) -> bool:
    return all(part in CHECKS for part in label.split("+"))


def _pad(clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
    motions = [torch.as_tensor(clip.features) for clip in clips]
    return torch.nn.utils.rnn.pad_sequence(motions, batch_first=True), torch.tensor([len(m) for m in motions])


@dataclass(frozen=True)
class Scorers:
    """The networks that score motion, and how labels are checked by geometry."""

    evaluator: EvaluatorModel
    reward: RetrievalReward
    checks: Checks = field(default_factory=dict)
    read: Callable | None = None  # the text encoder that the evaluator reads (default: the kit's own)
    rigid: bool = False  # do networks and checks see every motion on rigid bones? (published ones do not)

    def see(self, motion: Tensor, lengths: Tensor) -> Tensor:
        """The raw motion (batch, frames, features) that networks and checks look at."""
        return rigid(motion, lengths) if self.rigid else motion

    @torch.inference_mode()
    def embed(self, clips: Sequence[Clip]) -> Tensor:
        """Evaluator embeddings of real clips, (clips, width)."""
        device, rows = next(self.evaluator.parameters()).device, []
        for first in range(0, len(clips), 256):  # a published corpus at once would not fit
            motion, lengths = (part.to(device) for part in _pad(clips[first : first + 256]))
            rows.append(self.evaluator.encode_motion(self.see(motion, lengths), lengths))
        return torch.cat(rows)


def make_motion(policy: DiffusionPolicy, prompts: Sequence[str], lengths: Tensor, seed: int) -> Tensor:
    """What `policy` generates, (batch, frames, features) in physical units.

    Raises `UserError` for motion that is not finite: it must not be scored, and not be saved.
    """
    motion = policy.generate(prompts, lengths, seed=seed)
    if not bool(motion.isfinite().all()):
        raise UserError(
            f"the model made motion that is not finite (guidance scale {policy.guidance_scale:g}): choose a smaller "
            "guidance scale, 1 to 8 say, or another model"
        )
    return motion


def _groups(count: int, prompts: int) -> Tensor:
    """Which prompt each of `count` motions belongs to; they stand repetition by repetition."""
    return torch.arange(count) % prompts


def bootstrap_interval(values: Tensor, groups: Tensor, draws: int = 2000, seed: int = 0) -> list[float] | None:
    """95% interval [low, high] of the mean of `values` (n,), by drawing whole groups (captions) with replacement.

    nan is left out; None where nothing is left. Source: Efron 1979, percentile method, in clusters.
    """
    known = ~values.isnan()
    if not known.any():
        return None
    count = int(groups.max()) + 1
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, groups[known], values[known].double())
    sizes = torch.zeros(count, dtype=torch.float64).index_add_(0, groups[known], torch.ones(int(known.sum())).double())
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    drawn = torch.randint(len(sums), (draws, len(sums)), generator=torch.Generator().manual_seed(seed))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return [float(bound) for bound in means.quantile(torch.tensor([0.025, 0.975]).double())]


def score_motions(
    motion: Tensor,
    evaluation_prompts: EvaluationPrompts,
    scorers: Scorers,
    reference: Tensor | None,
    distractors: Tensor | None = None,
    reward: Callable[..., Tensor] | None = None,
    seed: int = 0,
) -> tuple[dict, Tensor]:
    """A row of numbers about raw motion (repeats * n, frames, features) for n prompts, and its joints; see `evaluate_policy`."""
    device, skeleton = motion.device, skeleton_of(motion.shape[-1])
    repeats = len(motion) // len(evaluation_prompts)
    prompts, lengths = evaluation_prompts.prompts * repeats, evaluation_prompts.lengths.repeat(repeats).to(device)
    with torch.inference_mode():
        read = scorers.read or default_text_encoder()
        text = scorers.evaluator.encode_text(read(evaluation_prompts.prompts).to(device)).repeat(repeats, 1)
        seen = scorers.see(motion, lengths)
        embedding = scorers.evaluator.encode_motion(seen, lengths)
        score = scorers.reward(seen, lengths, prompts)
        joints = features_to_joints(motion, skeleton)
    with torch.no_grad():  # a reward of one's own may take gradients inside, which inference mode forbids
        rewarded = reward(motion, lengths, prompts) if reward else score
    generator = torch.Generator().manual_seed(seed)
    check = check_whole_bodies if scorers.rigid else check_motion
    verified = check(joints.cpu(), lengths.cpu(), evaluation_prompts.labels * repeats, scorers.checks)
    rows = min(32, len(embedding), len(distractors) + 1 if distractors is not None else 32)  # of a batch of R-precision
    one, other = torch.combinations(torch.arange(repeats)).T  # of so few, every pair, and none with itself
    groups = embedding.view(repeats, -1, embedding.shape[1])
    marks = metrics.precision_marks(text, embedding, batch_size=rows, distractors=distractors, generator=generator).cpu()
    whose = _groups(len(motion), len(evaluation_prompts))
    return {
        "r_precision": [float(share) for share in marks.mean(0)],
        "fid": None if reference is None or len(reference) < 2 else float(metrics.frechet_distance(reference, embedding)),
        "matching_distance": float(metrics.matching_distance(text, embedding, rows)),
        "diversity": float(metrics.diversity(embedding, min(300, len(embedding) // 2), generator)),
        "multimodality": float((groups[one] - groups[other]).norm(dim=-1).mean()),
        "retrieval_score": float(score.mean()),
        "reward": float(rewarded.mean()),
        "verified": None if verified.isnan().all() else float(verified.nanmean()),
        **{name: float(value.mean()) for name, value in body_validity(joints, lengths, skeleton).items()},
        "n": len(prompts),
        "interval": {
            "r_precision@1": bootstrap_interval(marks[:, 0], whose[: len(marks)]),
            "verified": bootstrap_interval(verified, whose),
        },
    }, joints


def evaluate_policy(
    policy: DiffusionPolicy,
    evaluation_prompts: EvaluationPrompts,
    scorers: Scorers,
    reference: Tensor | None,
    distractors: Tensor | None = None,
    repeats: int = 4,
    seed: int = 0,
    reward: Callable[..., Tensor] | None = None,
    progress: str | None = None,  # name of the progress bar, None for none
) -> tuple[dict, Tensor]:
    """Generate `repeats` (two or more) motions for each prompt; return a row of numbers and the joints (repeats * n, ...).

    `reference` holds evaluator embeddings of real motion (for FID); `distractors` those of real motion of other
    actions, among which R-precision must find the generated one (without: among those of the other prompts). `reward` is
    what was followed (default: the retrieval score).
    """
    lengths = evaluation_prompts.lengths.repeat(repeats).to(policy.denoiser.feature_mean.device)
    with phase_bar(policy, progress, len(lengths)):
        motion = make_motion(policy, evaluation_prompts.prompts * repeats, lengths, seed)
    return score_motions(motion, evaluation_prompts, scorers, reference, distractors, reward, seed)


def fresh_clips(labels: Sequence[str], count: int, seed: int = 987_654) -> list[Clip]:
    """`count` clips of the built-in generator with these labels, of a seed that no corpus has."""
    made = generate_clips(count, seed=seed, actions=list(dict.fromkeys(labels)))
    joints = [made.joints[i, :length] for i, length in enumerate(made.lengths)]
    rows = features_in_batches(joints, HUMANML3D)
    return [Clip(f"fresh_{i}", row, tuple(made.captions[i]), tuple(made.actions[i])) for i, row in enumerate(rows)]


class PolicyEvaluation:
    """The evaluation prompts of a task, with everything needed to evaluate one policy after another the same way."""

    def __init__(self, task: Task, scorers: Scorers, reward: Callable | None = None, repeats: int = 4, seed: int = 0):
        self.task, self.scorers, self.reward, self.repeats, self.seed = task, scorers, reward, repeats, seed
        self.original = scorers.embed(task.original_clips)
        self.target = scorers.embed(task.target_clips) if len(task.target_clips) > 1 else None

    def _against(self, part: str) -> dict:
        prompts = {"target": self.task.target, "original": self.task.original}[part]
        reference = {"target": self.target, "original": self.original}[part]
        others = self.original if part == "target" and not self.task.among_itself else None
        compared = {"reference": reference, "distractors": others}
        return {"evaluation_prompts": prompts, "scorers": self.scorers, "reward": self.reward, "seed": self.seed, **compared}

    def __call__(self, policy: DiffusionPolicy, progress: str | None = None) -> dict[str, dict]:
        """Rows of numbers and joints: {"target": ..., "original": ..., "joints": {"target": ..., "original": ...}}.

        `progress` is the name of the progress bar, None for none.
        """
        parts = ("target", "original")
        with phase_bar(policy, progress, self.repeats * sum(len(getattr(self.task, part)) for part in parts)):
            found = {part: evaluate_policy(policy, repeats=self.repeats, **self._against(part)) for part in parts}
        return {part: row for part, (row, _) in found.items()} | {"joints": {part: j.cpu() for part, (_, j) in found.items()}}

    def score(self, motion: Tensor) -> dict[str, dict]:
        """The same of motion (repeats * n, frames, features) that is there already, for the target's prompts."""
        row, joints = score_motions(motion, **self._against("target"))
        return {"target": row, "joints": {"target": joints.cpu()}}

    def fid_floor(self, part: str, built_in: bool) -> float | None:
        """FID of fresh real clips, as many as generated motions, against the same reference; None where there are too few.

        Of the built-in corpus the clips are new ones; else one half of the reference is held against the other.
        """
        clips, prompts = getattr(self.task, f"{part}_clips"), getattr(self.task, part)
        reference = self._against(part)["reference"]
        if reference is None or len(reference) < 4:
            return None
        labels = ["+".join(clip.actions) for clip in clips]
        if built_in and all(part in ACTIONS for label in labels for part in label.split("+")):
            fresh = self.scorers.embed(fresh_clips(labels, self.repeats * len(prompts)))
            return float(metrics.frechet_distance(reference, fresh))
        order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(self.seed)).to(reference.device)
        one, other = reference[order].chunk(2)
        return float(metrics.frechet_distance(one, other))
