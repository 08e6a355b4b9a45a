"""The reward card: what a reward can and cannot tell apart, measured on clips of which the better one is known."""

# The machinery of lesson 14.

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from mocapfree_nb.corpus import Clip, Corpus
from mocapfree_nb.edits import SIDES, arm_joints, lower_arms
from mocapfree_nb.features import features_to_joints, length_mask, mirror
from mocapfree_nb.files import UserError
from mocapfree_nb.recombination import Recipes, put_together, take_apart
from mocapfree_nb.rewards import Reward, checked_scores, swap_sides
from mocapfree_nb.skeleton import Skeleton, skeleton_of
from mocapfree_nb.validity import rebuild

__all__ = ["RUNGS", "Batch", "choose_clips", "preference", "ladder", "side_accuracy", "mirror_accuracy", "action_accuracy"]
__all__ += ["order_accuracy", "swap_count", "count_accuracy", "recall_by_action", "mean_reward", "QUESTIONS", "reward_card"]

RUNGS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # share of the way to rest that arms are lowered
NEAR_TOP = RUNGS.index(0.2)

_COUNTS = {"once": 1, "a single time": 1, "one time": 1, "twice": 2, "two times": 2, "three times": 3, "four times": 4}
_COUNTED = re.compile(r"\b(" + "|".join(_COUNTS) + r")\b", re.IGNORECASE)


@dataclass(frozen=True)
class Batch:
    """Clips to measure with: raw motion (N, T, F), lengths (N,), one caption and the labels of each."""

    motion: Tensor
    lengths: Tensor
    captions: list[str]
    actions: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, rows: Tensor) -> "Batch":
        chosen = rows.tolist()
        captions, actions = [self.captions[i] for i in chosen], [self.actions[i] for i in chosen]
        return Batch(self.motion[rows], self.lengths[rows], captions, actions)

    @property
    def skeleton(self) -> Skeleton:
        return skeleton_of(self.motion.shape[-1])

    @property
    def joints(self) -> Tensor:
        return features_to_joints(self.motion, self.skeleton)


def choose_clips(corpus: Corpus, count: int = 640, seed: int = 0) -> Batch:
    """Up to `count` random clips of the test split, or of all where there is none, with one caption each.

    A caption that names a count is preferred, for there are few.
    """
    clips: Sequence[Clip] = list(corpus.split("test")) or list(corpus)
    clips = [clip for clip in clips if clip.captions]
    if len(clips) < 2:
        raise UserError(f"{corpus.source} has {len(clips)} clips to measure with; at least 2 are needed")
    generator = torch.Generator().manual_seed(seed)
    clips = [clips[i] for i in torch.randperm(len(clips), generator=generator)[:count].tolist()]
    offered = [[caption for caption in clip.captions if _COUNTED.search(caption)] or clip.captions for clip in clips]
    captions = [some[int(torch.randint(len(some), (), generator=generator))] for some in offered]
    motion = nn.utils.rnn.pad_sequence([torch.from_numpy(clip.features).float() for clip in clips], batch_first=True)
    return Batch(motion, torch.tensor([len(clip) for clip in clips]), captions, [clip.actions for clip in clips])


def _scores(reward: Reward, motion: Tensor, lengths: Tensor, captions: Sequence[str], chunk: int = 512) -> Tensor:
    """Checked scores (N,), `chunk` motions at a time."""
    parts = [
        checked_scores(reward, motion[i : i + chunk], lengths[i : i + chunk], captions[i : i + chunk])
        for i in range(0, len(motion), chunk)
    ]
    return torch.cat(parts).double().cpu()


def _share(hits: Tensor) -> dict | None:
    """Mean of hits (n,) in [0, 1] with its 95% interval (Wilson's) and n; None of nothing."""
    if not len(hits):
        return None
    value = float(hits.double().mean())
    interval = binomtest(min(len(hits), round(value * len(hits))), len(hits)).proportion_ci(method="wilson")
    return {"value": value, "interval": [float(interval.low), float(interval.high)], "n": len(hits)}


def preference(better: Tensor, worse: Tensor) -> Tensor:
    """1 where `better` (n,) scores higher than `worse` (n,), 0 where it scores lower, a half where they are equal."""
    return ((better - worse).sign() + 1) / 2


def _raised(batch: Batch) -> Tensor:
    """Which arms are up: is the wrist above its shoulder in five frames? (N, 2) bool, the left one first."""
    joints, real = batch.joints, length_mask(batch.lengths, batch.motion.shape[1])
    up = [joints[..., wrist, 1] > joints[..., shoulder, 1] for shoulder, _, wrist in arm_joints(batch.skeleton)]
    return torch.stack([(over & real).sum(1) >= 5 for over in up], dim=1)


def _wrist_heights(joints: Tensor, lengths: Tensor, sides: Sequence[str], skeleton: Skeleton) -> Tensor:
    """Highest point in time of the lower wrist of `sides` over the shoulder of its arm, metres: (N,)."""
    arms = [arm for side, arm in zip(SIDES, arm_joints(skeleton), strict=True) if side in sides]
    over = torch.stack([joints[..., wrist, 1] - joints[..., shoulder, 1] for shoulder, _, wrist in arms]).amin(0)
    over = over.masked_fill(~length_mask(lengths, joints.shape[1]), -math.inf).amax(1)
    return over / (1000 if skeleton.unit == "mm" else 1)


def _climb(reward: Reward, batch: Batch, sides: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Heights and scores, (rungs, N) each, of a batch with the arms of `sides` lowered by each of `RUNGS`."""
    joints, skeleton = batch.joints, batch.skeleton
    scores, heights = [], []
    for rung in RUNGS if len(batch) else ():
        placed = lower_arms(joints, rung, sides, skeleton)
        heights.append(_wrist_heights(placed, batch.lengths, sides, skeleton))
        scores.append(_scores(reward, rebuild(placed, batch.lengths, skeleton), batch.lengths, batch.captions))
    return (torch.stack(heights), torch.stack(scores)) if scores else (torch.zeros(len(RUNGS), 0),) * 2


def _ladder(heights: Tensor, scores: Tensor) -> dict | None:
    """What `ladder` returns, of heights and scores (rungs, N)."""
    if not scores.shape[1]:
        return None
    above, mean = preference(scores[:1], scores[1:]), scores.mean(1).tolist()
    whole = mean[0] - mean[-1]
    return {
        "n": scores.shape[1],
        "lowered": list(RUNGS),
        "height": heights.mean(1).tolist(),
        "score": mean,
        "above": above.mean(1).tolist(),
        "accuracy": _share(above.mean(0)),
        "near_top": (mean[0] - mean[NEAR_TOP]) / whole if whole > 1e-6 else None,
    }


def ladder(reward: Reward, batch: Batch, sides: Sequence[str] = SIDES) -> dict | None:
    """Score against true height, arms of `sides` lowered by `RUNGS` of the way to rest; None of no clips.

    `lowered`, `height` (of the lower wrist over its shoulder, metres) and `score`: one mean a rung. `above`: how often the
    whole motion scores higher than each lowered one; `accuracy` is the mean of that. `near_top`: of the score between top
    and rest, the part that is lost in the first fifth of the way (.2 on a straight line), None where rest scores no less.
    """
    return _ladder(*_climb(reward, batch, sides))


def _ladders(reward: Reward, batch: Batch, most: int = 96) -> dict[str, dict | None]:
    """Three ladders: both arms of clips that raise both, one of those two, and the one arm of clips that raise one."""
    up = _raised(batch)
    both, one = up.all(1).nonzero()[:most, 0], [(up[:, i] & ~up[:, 1 - i]).nonzero()[: most // 2, 0] for i in (0, 1)]

    def each_side(rows: Sequence[Tensor]) -> dict | None:
        left, right = (_climb(reward, batch[rows[i]], (SIDES[i],)) for i in (0, 1))
        return _ladder(*(torch.cat(pair, 1) for pair in zip(left, right, strict=True)))

    return {
        "both arms": ladder(reward, batch[both]),
        "one of two": each_side((both[::2], both[1::2])),
        "the only arm": each_side(one),
    }


def _sided(batch: Batch) -> Batch:
    """The clips whose caption names a side."""
    named = [swap_sides(caption) != caption for caption in batch.captions]
    return batch[torch.tensor(named).nonzero()[:, 0]]


def _two_captions(reward: Reward, batch: Batch, others: Sequence[str]) -> dict | None:
    """How often a motion scores higher with its own caption than with the other one."""
    if not len(batch):
        return None
    own = _scores(reward, batch.motion, batch.lengths, batch.captions)
    return _share(preference(own, _scores(reward, batch.motion, batch.lengths, others)))


def side_accuracy(reward: Reward, batch: Batch) -> dict | None:
    """How often the true caption scores higher than the same with left and right exchanged; None if none names a side."""
    batch = _sided(batch)
    return _two_captions(reward, batch, [swap_sides(caption) for caption in batch.captions])


def mirror_accuracy(reward: Reward, batch: Batch) -> dict | None:
    """How often a motion scores higher than its mirror image, for a caption that names a side; None if none does."""
    batch = _sided(batch)
    if not len(batch):
        return None
    own = _scores(reward, batch.motion, batch.lengths, batch.captions)
    return _share(preference(own, _scores(reward, mirror(batch.motion, batch.skeleton), batch.lengths, batch.captions)))


def _meanings(batch: Batch) -> list:
    """What each clip means: its labels, or its caption where there are none."""
    return [labels or caption for labels, caption in zip(batch.actions, batch.captions, strict=True)]


def _partners(batch: Batch) -> tuple[Tensor, Tensor]:
    """Rows of clips and for each the next one that means another thing, in turn."""
    meaning, pairs = _meanings(batch), []
    for row in range(len(batch)):
        for step in range(1, len(batch)):
            other = (row + step) % len(batch)
            if meaning[other] != meaning[row]:
                pairs.append((row, other))
                break
    rows = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def action_accuracy(reward: Reward, batch: Batch) -> dict | None:
    """How often a caption scores its own clip higher than a clip of another action; None if there is no other."""
    rows, others = _partners(batch)
    if not len(rows):
        return None
    own, other = batch[rows], batch[others]
    scores = _scores(reward, own.motion, own.lengths, own.captions)
    return _share(preference(scores, _scores(reward, other.motion, other.lengths, own.captions)))


def order_accuracy(reward: Reward, batch: Batch, most: int = 128, max_frames: int = 196) -> dict | None:
    """How often a clip that goes over into another scores higher as "first, then second" than as "second, then first".

    Clips of one label are joined in time, each at its own pace (faster where both would take more than `max_frames`).
    """
    single = [i for i, labels in enumerate(batch.actions) if len(labels) < 2]
    batch = batch[torch.tensor(single, dtype=torch.long)]
    first, second = (rows[:most] for rows in _partners(batch)) if len(batch) else ([], [])
    if not len(first):
        return None
    bank = take_apart(batch.joints, batch.lengths, batch.skeleton)
    lengths = batch.lengths[first] + batch.lengths[second]
    shrink = (max_frames / lengths).clamp_max(1)
    switch = (batch.lengths[first] * shrink).long()
    four = [rows[:, None].expand(-1, 4) for rows in (first, second)]
    recipes = Recipes(*four, switch, (lengths * shrink).long())
    motion = rebuild(put_together(bank, recipes), recipes.lengths, batch.skeleton)
    pairs = [(batch.captions[i], batch.captions[j]) for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    true, false = ([f"{a}, then {b}" for a, b in order] for order in (pairs, [pair[::-1] for pair in pairs]))
    joined = Batch(motion, recipes.lengths, true, [()] * len(true))
    return _two_captions(reward, joined, false)


def swap_count(caption: str, counts: Sequence[str]) -> str | None:
    """The caption with the next of `counts` ("once", "twice" ...) that is another number; None if it names no count."""
    found = _COUNTED.search(caption)
    others = [word for word in counts if found and _COUNTS[word] != _COUNTS[found.group().lower()]]
    if not others:
        return None
    return caption[: found.start()] + others[len(caption) % len(others)] + caption[found.end() :]


def count_accuracy(reward: Reward, batch: Batch) -> dict | None:
    """How often the true caption scores higher than with another count; None where captions name fewer than two counts."""
    found = [_COUNTED.search(caption) for caption in batch.captions]
    counts = sorted({match.group().lower() for match in found if match})
    others = [swap_count(caption, counts) for caption in batch.captions]
    rows = torch.tensor([i for i, other in enumerate(others) if other], dtype=torch.long)
    return _two_captions(reward, batch[rows], [others[i] for i in rows.tolist()])


def recall_by_action(reward: Reward, batch: Batch, size: int = 32, most: int = 320) -> dict[str, dict]:
    """Of each label, how often a caption ranks its clip first of `size`, clips that mean the same not competing.

    Of the first `most` clips. Labels of composed clips each count; "all" is the mean over clips. Equal scores share a place.
    """
    batch = batch[torch.arange(min(len(batch), most))]
    meaning, hits = _meanings(batch), []
    for rows in torch.arange(len(batch)).split(size):
        part, count = batch[rows], len(rows)
        captions = [caption for caption in part.captions for _ in range(count)]
        scores = _scores(reward, part.motion.repeat(count, 1, 1), part.lengths.repeat(count), captions).view(count, count)
        own = scores.diagonal()[:, None]
        rival = torch.tensor([[meaning[i] != meaning[j] for j in rows.tolist()] for i in rows.tolist()])
        beaten, equal = ((scores > own) & rival).any(1), ((scores == own) & rival).sum(1)
        hits.append((~beaten).double() / (1 + equal))
    hits = torch.cat(hits)
    labels = sorted({label for labels in batch.actions for label in labels})
    mine = {label: torch.tensor([label in labels for labels in batch.actions]) for label in labels}
    return {"all": _share(hits)} | {label: _share(hits[rows]) for label, rows in mine.items()}


QUESTIONS: dict[str, tuple[str, Callable[[Reward, Batch], dict | None]]] = {  # key: in words, what measures it
    "action_accuracy": ("one action from another", action_accuracy),
    "side_accuracy": ("left from right in the caption", side_accuracy),
    "mirror_accuracy": ("a motion from its mirror image", mirror_accuracy),
    "order_accuracy": ("first this, then that, from the other order", order_accuracy),
    "count_accuracy": ("once from twice or three times", count_accuracy),
}


def mean_reward(rewards: Sequence[Reward]) -> Reward:
    """The mean of several rewards: what one network alone is wrong about counts less."""

    def mean(motion: Tensor, lengths: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.stack([checked_scores(reward, motion, lengths, prompts) for reward in rewards]).mean(0)

    return mean


def reward_card(reward: Reward, batch: Batch) -> dict:
    """Everything that this module measures, of one reward, as plain values for JSON.

    Keys: `clips`, those of `QUESTIONS` (value, interval and n, or None), `ladder`, `recall`.
    """
    card = {"clips": len(batch)} | {key: ask(reward, batch) for key, (_, ask) in QUESTIONS.items()}
    return card | {"ladder": _ladders(reward, batch), "recall": recall_by_action(reward, batch)}
