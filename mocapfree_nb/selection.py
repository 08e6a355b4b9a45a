"""Which weights of a run are kept: chosen on prompts that nothing else uses, by a scorer that is nothing else either."""

# The scorer is canonical correlation analysis (Hotelling 1936): two linear maps, found in closed form, that take simple
# statistics of a motion and the sentence vector of its caption to where they agree best. It shares no weights, no training
# and no objective with the reward (transformers, contrastive), the evaluator (convolutions, hinge) or the geometric check.

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mocapfree_nb.corpus import Clip
from mocapfree_nb.evaluation import make_motion
from mocapfree_nb.exploration import near_lengths
from mocapfree_nb.features import length_mask
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.progress import phase_bar
from mocapfree_nb.tasks import Task, draw_prompts
from mocapfree_nb.text import default_text_encoder

__all__ = ["LinearScorer", "fit_scorer", "HeldOutSelector"]

FEWEST = 100  # clips that a scorer can be fitted to
RIVALS = 0.5  # captions less alike than this (cosine) say another thing: 99% of the pairs of other actions are


def describe(motion: Tensor, lengths: Tensor) -> Tensor:
    """Statistics (B, D) float64 of raw motion (B, T, F), lengths (B,): root and joint positions, averaged over each third
    of the motion, their deviation, and their highest and lowest values."""
    seen = motion[..., : 4 + 3 * ((motion.shape[-1] + 1) // 12 - 1)].double()
    lengths = lengths.to(motion.device)
    mask = length_mask(lengths, motion.shape[1])[..., None]
    third = torch.arange(motion.shape[1], device=motion.device) * 3 // lengths[:, None]

    def mean(values: Tensor, where: Tensor) -> Tensor:
        return (values * where).sum(1) / where.sum(1).clamp_min(1)

    middle = mean(seen, mask)
    deviation = mean((seen - middle[:, None]).square(), mask).sqrt()
    parts = [mean(seen, mask & (third == i)[..., None]) for i in range(3)]
    most, least = seen.masked_fill(~mask, -torch.inf).amax(1), seen.masked_fill(~mask, torch.inf).amin(1)
    return torch.cat([*parts, deviation, most, least], dim=1)


def _whiten(rows: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, D) -> mean, deviation, and the Cholesky factor of their correlations with a ridge."""
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-6)
    scaled = (rows - mean) / deviation
    correlation = scaled.T @ scaled / len(rows) + ridge * torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    return mean, deviation, torch.linalg.cholesky(correlation)


@dataclass(frozen=True)
class LinearScorer:
    """Two linear maps into one space: of a motion's statistics, and of its caption's sentence vector."""

    motion: tuple[Tensor, Tensor, Tensor]  # mean (D,), deviation (D,), map (D, width)
    text: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def _place(rows: Tensor, side: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        mean, deviation, onto = (part.to(rows.device) for part in side)
        return torch.nn.functional.normalize((rows - mean) / deviation @ onto, dim=-1)

    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors (len(prompts), width) of prompts."""
        return self._place(default_text_encoder()(list(prompts)).pooled.double(), self.text)

    def embed_motion(self, motion: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors (B, width) of raw motion (B, T, F), lengths (B,)."""
        return self._place(describe(motion, lengths), self.motion)


def fit_scorer(
    clips: Sequence[Clip], width: int = 48, most: int = 1000, ridge: float = 0.1, seed: int = 0
) -> LinearScorer | None:
    """Fit the scorer to up to `most` clips, one caption each; None for fewer than 100 clips, which fit nothing."""
    if len(clips) < FEWEST:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = [clips[i] for i in torch.randperm(len(clips), generator=generator)[:most].tolist()]
    which = torch.rand(len(chosen), generator=generator).tolist()
    captions = [clip.captions[int(share * len(clip.captions))] for clip, share in zip(chosen, which, strict=True)]
    motions = [torch.as_tensor(clip.features) for clip in chosen]
    lengths = torch.tensor([len(motion) for motion in motions])
    x = describe(torch.nn.utils.rnn.pad_sequence(motions, batch_first=True), lengths)
    y = default_text_encoder()(captions).pooled.double()
    (x_mean, x_std, x_root), (y_mean, y_std, y_root) = _whiten(x, ridge), _whiten(y, ridge)
    cross = ((x - x_mean) / x_std).T @ ((y - y_mean) / y_std) / len(x)
    cross = torch.linalg.solve_triangular(x_root, cross, upper=False)
    cross = torch.linalg.solve_triangular(y_root, cross.T, upper=False).T
    left, agreement, right = torch.linalg.svd(cross, full_matrices=False)
    width = min(width, len(agreement))
    weight = agreement[:width].sqrt()  # directions in which text and motion agree more count for more

    def onto(root: Tensor, basis: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(root.T, basis[:, :width] * weight, upper=True)

    return LinearScorer((x_mean, x_std, onto(x_root, left)), (y_mean, y_std, onto(y_root, right.T)))


class HeldOutSelector:
    """How much nearer new motions are to their selection prompts than to anything known, minus twice what was forgotten.

    It generates `count` motions of the target and `others` for retained prompts, always from the same noise. A motion's margin
    is its cosine with its own prompt less the highest with a retained prompt that says another thing; what was forgotten is
    the fall of the mean cosine of retained prompts. Called with a policy it returns "score" and its standard "error", "target"
    (the mean margin) and "retained" (the mean cosine); `policy` here is the one before adaptation.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        task: Task,
        scorer: LinearScorer,
        count: int = 48,
        others: int = 96,
        seed: int = 1234,
        progress: str | None = None,  # name of the progress bar while it is made, None for none
    ):
        kept = task.retained  # in random order already, so the first ones are as good as any
        known = list(zip(kept.prompts, kept.lengths.tolist(), strict=True))
        own = near_lengths(task.selection_prompts, known, default_text_encoder())
        prompts, lengths = draw_prompts(task.selection_prompts, own, count, torch.Generator().manual_seed(seed))
        self.prompts, self.lengths = prompts + kept.prompts[:others], torch.cat([lengths, kept.lengths[:others]])
        self.scorer, self.count, self.seed = scorer, count, seed
        self.text, self.rivals = scorer.embed_text(self.prompts), scorer.embed_text(kept.prompts)
        with phase_bar(policy, progress, len(self.prompts)):
            self.before = self._look(policy)
        self.target_before = float(self.before[0].mean())

    def _look(self, policy: DiffusionPolicy) -> tuple[Tensor, Tensor]:
        """The margin of each motion of the target, the cosine of each motion of a retained prompt."""
        motion = make_motion(policy, self.prompts, self.lengths, self.seed).cpu()
        placed = self.scorer.embed_motion(motion, self.lengths)
        cosine = (placed * self.text).sum(1)
        alike = self.text[: self.count] @ self.rivals.T >= RIVALS
        rival = (placed[: self.count] @ self.rivals.T).masked_fill(alike, -1).amax(1)
        return cosine[: self.count] - rival, cosine[self.count :]

    def __call__(self, policy: DiffusionPolicy) -> dict[str, float]:
        margin, cosine = self._look(policy)
        target, retained, lost = float(margin.mean()), float(cosine.mean()), self.before[1] - cosine
        error = float(margin.var(correction=0) / len(margin) + 4 * lost.var(correction=0) / len(lost)) ** 0.5
        score = target - 2 * max(0.0, float(lost.mean()))
        return {"score": score, "error": error, "target": target, "retained": retained}
