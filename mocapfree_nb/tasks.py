"""What an adaptation trains on, what must be retained, and what is evaluated: lists of prompts, drawn from a corpus."""

# The machinery of lesson 23.

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mocapfree_nb.corpus import Clip, Corpus
from mocapfree_nb.files import UserError, printable
from mocapfree_nb.run_settings import check_prompts

__all__ = ["LEFT_OUT", "LEFT_OUT_ACTIONS", "EvaluationPrompts", "draw_evaluation_prompts", "draw_prompts", "Task", "make_task",
           "without_others", "known_to"]

LEFT_OUT = "raise-both-arms"
LEFT_OUT_ACTIONS = (  # what the shipped base models lack, all six at once; the easiest first
    "squat+punch-left",  # legs and an arm: both known, and either beside other things
    "raise-both-arms",  # two arms, each known alone
    "kick-left",  # the mirror image of a known one
    "bow",  # near what is known: the trunk bends to pick something up
    "jump-forward",  # a known jump, and a way ahead that no known jump takes
    "kneel",  # nothing near
)


@dataclass(frozen=True)
class EvaluationPrompts:
    """Prompts with the motion length (frames) to generate and the label to verify by."""

    prompts: list[str]
    lengths: Tensor
    labels: list[str]

    def __len__(self) -> int:
        return len(self.prompts)


def draw_evaluation_prompts(
    clips: Sequence[Clip] | Corpus, count: int, seed: int = 0, avoid: Sequence[str] = ()
) -> EvaluationPrompts:
    """Draw up to `count` prompts from `clips`: distinct captions, each with the length and label of its clip.

    Captions in `avoid` are not drawn. Raises `UserError` if nothing is left.
    """
    avoid = set(avoid)
    pairs = {caption: clip for clip in clips for caption in clip.captions if caption not in avoid}
    if not pairs:
        raise UserError("no held-out captions to evaluate: the corpus is too small, or all its captions were trained on")
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    captions = list(pairs)
    chosen = [(captions[i], pairs[captions[i]]) for i in order]
    return EvaluationPrompts(
        prompts=[caption for caption, _ in chosen],
        lengths=torch.tensor([len(clip) for _, clip in chosen]),
        labels=["+".join(clip.actions) for _, clip in chosen],
    )


def draw_prompts(prompts: Sequence[str], lengths: Tensor, count: int, generator: torch.Generator) -> tuple[list[str], Tensor]:
    """`count` of the prompts, without replacement as far as they go round, and a length (count,) for each.

    `lengths` (n,) are for any prompt; of `lengths` (prompts, n) each prompt has a row of its own.
    """
    order = torch.randperm(len(prompts), generator=generator).repeat(count // len(prompts) + 1)[:count]
    lengths = lengths if lengths.ndim == 2 else lengths.expand(len(prompts), -1)
    return [prompts[i] for i in order.tolist()], lengths[order, torch.randint(lengths.shape[1], (count,), generator=generator)]


@dataclass(frozen=True)
class Task:
    """What is trained on, what must be retained, and what is evaluated in the end.

    `target_clips` and `original_clips` are real motion to compare generated motion with; the first may be empty.
    """

    training_prompts: list[str]
    selection_prompts: list[str]  # of the target, to choose a checkpoint by: neither trained on nor evaluated
    retained: EvaluationPrompts
    target: EvaluationPrompts
    original: EvaluationPrompts
    target_clips: list[Clip]
    original_clips: list[Clip]
    among_itself: bool = False  # is a target's motion sought among those of the other target prompts, not among the original?


def make_task(
    corpus: Corpus,
    target: str | None = None,
    source: Corpus | None = None,
    prompts: Sequence[str] | None = None,
    leave_out_words: Sequence[str] = (),
    evaluation_prompts: int = 32,
    retained: int = 576,
    seed: int = 0,
) -> Task:
    """Lay out a task. Three kinds:

    *Leave-one-out*: `target` is a label of `corpus`, or `leave_out_words` picks clips by their captions.
    *Cross-dataset*: the target is all of `corpus`, the original is `source`.
    *Free*: neither; only `prompts`, and all of `corpus` must be retained.

    `prompts` replaces the training prompts, which are otherwise the captions of the target's training split. Selection
    prompts are captions of its validation split; without one, an eighth of the training prompts is held out for them; of
    prompts of your own, or fewer than 8, they are the training prompts themselves.
    Raises `UserError` if there is nothing to train on or nothing to retain.
    """
    prompts = check_prompts(prompts, "prompts") if prompts else prompts
    clips, original = _parts(corpus, target, source, leave_out_words)
    training_prompts = list(prompts or _captions(clip for clip in clips if clip.split == "train"))
    if not training_prompts:
        raise UserError("nothing to train on: give prompts, or a target that has captions")
    held_out = [clip for clip in clips if clip.split == "test"]
    kept = draw_evaluation_prompts(original.split("train"), retained, seed)
    if held_out:
        evaluated = draw_evaluation_prompts(held_out, evaluation_prompts, seed, avoid=training_prompts)
    else:  # nothing held out: evaluate what was trained on, at lengths of the original corpus
        turns = (training_prompts * evaluation_prompts)[:evaluation_prompts]
        lengths = kept.lengths.repeat(evaluation_prompts)[: len(turns)]
        evaluated = EvaluationPrompts(turns, lengths, [target or "free"] * len(turns))
    taken = {*training_prompts, *evaluated.prompts}
    apart = [caption for caption in _captions(clip for clip in clips if clip.split == "val") if caption not in taken]
    if not apart and not prompts and len(training_prompts) >= 8:
        order = torch.randperm(len(training_prompts), generator=torch.Generator().manual_seed(seed)).tolist()
        count = len(order) // 8
        apart, training_prompts = ([training_prompts[i] for i in some] for some in (order[:count], sorted(order[count:])))
    test = original.split("test")
    others = draw_evaluation_prompts(test, 4 * evaluation_prompts, seed)
    return Task(training_prompts, apart or training_prompts, kept, evaluated, others, clips, list(test), source is not None)


def _parts(corpus: Corpus, target: str | None, source: Corpus | None, words: Sequence[str]) -> tuple[list[Clip], Corpus]:
    """Clips of the target, and the corpus of everything else; see `make_task`."""
    if source is not None:
        return list(corpus), source
    if not (target or words):
        return [], corpus
    original = corpus.leave_out(target) if target else corpus.leave_out_words(words)
    kept = {clip.name for clip in original}
    clips = [clip for clip in corpus if clip.name not in kept]
    return [clip for clip in clips if len(clip.actions) == 1] or clips, original  # composed motions show two things


def _captions(clips: Iterable[Clip]) -> list[str]:
    return list(dict.fromkeys(caption for clip in clips for caption in clip.captions))


def without_others(corpus: Corpus, target: str | None = None, left_out: Sequence[str] = LEFT_OUT_ACTIONS) -> Corpus:
    """`corpus` without those of the actions `left_out` of a model that are not the `target`: what that model can retain.

    By default those that the shipped base models lack. Labels that the corpus does not have are passed over.
    """
    wanted = set((target or "").split("+"))
    for action in left_out:
        parts = set(action.split("+"))
        if not parts <= wanted and any(parts <= set(clip.actions) for clip in corpus):
            corpus = corpus.leave_out(action)
    return corpus


def known_to(
    left_out: Sequence[str], corpus: Corpus, source: Corpus | None, target: str | None, words: Sequence[str] = ()
) -> tuple[Corpus, Corpus | None]:
    """`corpus` and `source` of a task without what a model that lacks `left_out` cannot be asked to retain (see `make_task`).

    Warns of a `target` that such a model does not lack.
    """
    if target and left_out and target not in left_out:
        lacks = printable(", ".join(left_out), 200)
        warnings.warn(f"the model was trained without {lacks}, not without {target}: it may do that already", stacklevel=3)
    if source is not None:
        return corpus, without_others(source, None, left_out)
    return corpus if words else without_others(corpus, target, left_out), None
