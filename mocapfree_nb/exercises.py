"""Exercises of the short route: each has a check that says in one line what is wrong, and remembers what is solved."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mocapfree_nb.files import UserError, cache_folder, printable, write_json
from mocapfree_nb.reading import read_json

__all__ = ["Exercise", "EXERCISES", "find_fault", "progress_file", "solved", "summary", "check_path_length", "check_without",
           "check_add_noise", "check_halfway", "check_guided", "check_log_prob", "check_contrastive_loss", "check_clipped_loss",
           "check_hands_over_head", "check_interval"]


@dataclass(frozen=True)
class Exercise:
    """What `mocapfree progress` says of an exercise, and what finds a fault in an answer."""

    name: str  # two digits of the lesson, and a word
    difficulty: str  # easy, medium or hard
    minutes: int
    task: str
    check: Callable[[Callable], None]  # raises `Fault`


class Fault(Exception):
    """What is wrong with an answer, in one line."""


EXERCISES: dict[str, Exercise] = {}


def find_fault(name: str, answer: Callable) -> str:
    """What is wrong with `answer` to the exercise `name`, in one line; an empty string where nothing is."""
    try:
        EXERCISES[name].check(answer)
    except Fault as fault:
        return str(fault)
    except Exception as error:  # whatever the answer raises
        return printable(f"it raises {type(error).__name__}: {error}".replace("\n", " "))
    return ""


def progress_file() -> Path:
    """Where it is kept what has been solved, and when."""
    return cache_folder() / "progress.json"


def solved() -> dict[str, str]:
    """Solved exercises and the day of each. Raises `UserError` where the file is no list of such."""
    path = progress_file()
    kept = read_json(path) if os.path.lexists(path) else {}
    if not all(isinstance(day, str) for day in kept.values()):
        raise UserError(f"{printable(path)} should hold exercises and days; delete it to start anew")
    return kept


def _remember(name: str) -> str:
    """Keep that an exercise is solved; what there is to say of it."""
    try:
        done = solved() | {name: date.today().isoformat()}
        write_json(progress_file(), done)
    except UserError as error:
        return f"right, but not kept: {error}"
    count = len(done.keys() & EXERCISES.keys())
    return f"right: {count} of {len(EXERCISES)} exercises solved (mocapfree progress lists them)"


def summary() -> list[str]:
    """A line for each exercise, and one for all."""
    done = solved()
    lines = [
        f"[{'x' if e.name in done else ' '}] {e.name:15} {e.difficulty:6} {e.minutes:3} min  {e.task}"
        + (f"  ({printable(done[e.name])})" if e.name in done else "")
        for e in EXERCISES.values()
    ]
    count = len(done.keys() & EXERCISES.keys())
    return [*lines, f"{count} of {len(EXERCISES)} solved; each stands at the end of the lesson whose number it bears"]


def _exercise(name: str, difficulty: str, minutes: int, task: str) -> Callable:
    """Register a function that raises `Fault`; what it becomes prints the fault, or remembers that there is none."""

    def register(check: Callable[[Callable], None]) -> Callable[[Callable], None]:
        EXERCISES[name] = Exercise(name, difficulty, minutes, task, check)

        def told(answer: Callable) -> None:
            fault = find_fault(name, answer)
            print(f"{name}: not yet: {fault}" if fault else f"{name}: {_remember(name)}")

        told.__name__, told.__doc__ = check.__name__, check.__doc__
        return told

    return register


def _tensor(found: object, like: Tensor) -> Tensor:
    """What an answer returned, as a tensor of the shape of `like`."""
    if found is None or found is Ellipsis:
        raise Fault("it returns nothing yet: write its body")
    try:
        found = torch.as_tensor(found).to(like.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Fault(f"it returns a {type(found).__name__}, which is no tensor") from error
    if found.shape != like.shape:
        raise Fault(f"it returns the shape {tuple(found.shape)}, not {tuple(like.shape)}")
    if not found.isfinite().all():
        raise Fault("it returns NaN or infinity")
    return found


def _compare(found: object, right: Tensor | float, mistakes: dict[str, Tensor | float], tolerance: float = 1e-4) -> None:
    """Raise `Fault` unless `found` is `right`: of the known `mistakes` the one that gives the same, else the numbers."""
    right = torch.as_tensor(right)
    found = _tensor(found, right)
    close = dict(rtol=tolerance, atol=tolerance)
    if torch.allclose(found, right, **close):
        return
    for words, wrong in mistakes.items():
        if torch.allclose(found, torch.as_tensor(wrong).to(right.dtype).expand_as(right), **close):
            raise Fault(words)
    worst = int((found - right).abs().argmax())
    got, expected = float(found.flatten()[worst]), float(right.flatten()[worst])
    raise Fault(f"it gives {got:.4g} where {expected:.4g} is right")


@_exercise("01-path", "easy", 5, "metres that a motion walks over the floor, from its features")
def check_path_length(answer: Callable[[Tensor], float]) -> None:
    """`answer(features)`: features (frames, 263) to the length of the root's path over the floor, in metres."""
    features = torch.zeros(41, 263)
    features[:20, 1:3], features[20:40, 1:3] = torch.tensor([0.03, 0.04]), torch.tensor([-0.03, -0.01])
    features[:, 0], features[:, 3] = 0.05, 0.9
    ground = features[:, 1:3]
    right = ground.norm(dim=1).sum()
    mistakes = {
        "that adds the velocities before it takes a length: there and back would be no way at all": ground.sum(0).norm(),
        "sideways plus forward is a way around the corner: take the root of the squares": ground.abs().sum(),
        "that is the mean of a frame: add them up": ground.norm(dim=1).mean(),
        "that is divided by the frames of a second: the velocities are metres a frame": right / 20,
        "that is multiplied by the frames of a second: the velocities are metres a frame already": right * 20,
        "feature 0 is the turning of the root, in radians: leave it out": features[:, :3].norm(dim=1).sum(),
        "feature 3 is the height of the root, not a velocity: leave it out": features[:, 1:4].norm(dim=1).sum(),
    }
    _compare(answer(features.clone()), right, mistakes)


@_exercise("05-leave-out", "easy", 5, "clips that show nothing of an action")
def check_without(answer: Callable[[list, str], list]) -> None:
    """`answer(clips, action)`: those of the clips (see `corpus.Clip`) that do not show the action, in their order."""
    from mocapfree_nb.corpus import Clip

    labels = {"walk": ("walk",), "wave": ("wave",), "both": ("walk", "wave"), "shy": ("wave-low",), "none": ()}
    clips = [Clip(name, np.zeros((16, 263), np.float32), ("a person moves",), own) for name, own in labels.items()]
    found = answer(list(clips), "wave")
    if found is None or found is Ellipsis:
        raise Fault("it returns nothing yet: write its body")
    names = [clip.name for clip in found]
    if "wave" in names:
        raise Fault("a clip labelled ('wave',) is still there")
    if "both" in names:
        raise Fault("a clip labelled ('walk', 'wave') is still there: it shows how to wave, too")
    if "shy" not in names:
        raise Fault("'wave-low' is another label than 'wave', and its clip is gone: compare labels, not pieces of text")
    if names != ["walk", "shy", "none"]:
        raise Fault(f"of clips with the labels {list(labels.values())} it keeps {names}, not ['walk', 'shy', 'none']")


@_exercise("08-noise", "easy", 5, "a noisy motion at a given alpha-bar")
def check_add_noise(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """`answer(x0, noise, alpha_bar)`: motions and noise (batch, frames, features), alpha-bar (batch,), to x_t."""
    x0, noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    alpha_bar = torch.tensor([0.9, 0.5, 0.1])
    a = alpha_bar[:, None, None]
    mistakes = {
        "both factors lack their root: alpha-bar is a share of the variance": a * x0 + (1 - a) * noise,
        "the factor of the noise lacks its root": a.sqrt() * x0 + (1 - a) * noise,
        "the factor of the data lacks its root": a * x0 + (1 - a).sqrt() * noise,
        "data and noise are exchanged: at alpha-bar 1 there is no noise": a.sqrt() * noise + (1 - a).sqrt() * x0,
        "the factor of the noise is one minus the root, not the root of one minus alpha-bar":
            a.sqrt() * x0 + (1 - a.sqrt()) * noise,
    }  # fmt: skip
    try:
        found = answer(x0, noise, alpha_bar)
    except RuntimeError as error:
        raise Fault("alpha_bar is (batch,): give it two more dimensions, alpha_bar[:, None, None]") from error
    _compare(found, a.sqrt() * x0 + (1 - a).sqrt() * noise, mistakes)


@_exercise("08-halfway", "easy", 5, "the first timestep with more noise than data")
def check_halfway(answer: Callable[[Tensor], int]) -> None:
    """`answer(alphas_cumprod)`: alpha-bars (timesteps,) to the first timestep at which the noise has more variance."""
    from mocapfree_nb.schedule import NoiseSchedule

    for schedule in (NoiseSchedule.cosine(50), NoiseSchedule.linear(1000)):
        alphas = schedule.alphas_cumprod
        right = int((alphas < 0.5).nonzero()[0])
        mistakes = {
            "that compares amplitudes with one half: alpha-bar itself is the data's share of the variance":
                float((alphas.sqrt() < 0.5).nonzero()[0]),
            "that is the last timestep with more data than noise": float(right - 1),
            "that is where the middle of the timesteps is": float(len(alphas) // 2),
        }  # fmt: skip
        found = answer(alphas.clone())
        _compare(found.reshape(()) if isinstance(found, Tensor) and found.numel() == 1 else found, float(right), mistakes, 1e-6)


@_exercise("10-guidance", "easy", 5, "a prediction pushed away from the unconditional one")
def check_guided(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(conditional, unconditional, scale)`: scale 0 is the unconditional prediction, 1 the conditional one."""
    with_text, without = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    for scale in (2.5, 1.0, 0.0):
        difference = with_text - without
        mistakes = {
            "that starts from the conditional prediction, so that scale 1 guides already: start from the unconditional one":
                with_text + scale * difference,
            "that goes the other way, away from the text": without - scale * difference,
            "the two predictions are exchanged": with_text - scale * difference,
        }  # fmt: skip
        _compare(answer(with_text, without, scale), without + scale * difference, mistakes)


@_exercise("12-log-prob", "medium", 10, "the mean log-density of a denoising step")
def check_log_prob(answer: Callable[[Tensor, Tensor, float, Tensor], Tensor]) -> None:
    """`answer(x, mean, std, lengths)`: (batch, frames, features) to (batch,), averaged over valid frames and features."""
    x, mean = torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(0))
    std, lengths = 0.5, torch.tensor([6, 4])

    def densities(deviation: float) -> Tensor:
        return -0.5 * ((x - mean) / deviation).square() - math.log(deviation) - 0.5 * math.log(2 * math.pi)

    valid = (torch.arange(6) < lengths[:, None])[..., None]

    def average(values: Tensor) -> Tensor:
        return (values * valid).sum((1, 2)) / (3 * lengths)

    full = densities(std)
    mistakes = {
        "that is the sum: divide by the valid numbers, frames times features": (full * valid).sum((1, 2)),
        "padded frames take part: leave out what lies past `lengths`": full.mean((1, 2)),
        "padded frames are left out of the sum but counted in the mean": (full * valid).mean((1, 2)),
        "that divides by frames only: a motion has features, too": (full * valid).sum((1, 2)) / lengths,
        "`std` is a deviation, and that takes it for a variance": average(densities(std**0.5)),
        "that squares the deviation once too often": average(densities(std**2)),
        "the constant -log sqrt(2 pi) is missing": average(full + 0.5 * math.log(2 * math.pi)),
        "the term -log std is missing: a wide distribution is thin everywhere": average(full + math.log(std)),
        "that has the wrong sign": -average(full),
    }
    _compare(answer(x, mean, std, lengths), average(full), mistakes)


@_exercise("13-info-nce", "medium", 15, "the loss that brings sentence and motion together")
def check_contrastive_loss(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(text, motion, temperature)`: (batch, width) each, row i belonging to row i, to the symmetric InfoNCE."""
    from torch.nn import functional as F

    from mocapfree_nb.retrieval import info_nce

    text, motion = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    motion, rows, tau = motion + text, torch.arange(5), 0.2
    cosine = F.normalize(text, dim=-1) @ F.normalize(motion, dim=-1).T
    mistakes = {
        "only sentences look for their motion: motions look for their sentence, too": F.cross_entropy(cosine / tau, rows),
        "only motions look for their sentence: sentences look for their motion, too": F.cross_entropy(cosine.T / tau, rows),
        "the vectors are not normalised: the similarity is a cosine": _both_ways(text @ motion.T / tau),
        "the temperature is missing": _both_ways(cosine),
        "that multiplies by the temperature: divide": _both_ways(cosine * tau),
        "that is the sum of both directions: take their mean": 2 * _both_ways(cosine / tau),
        "that has the wrong sign": -_both_ways(cosine / tau),
    }
    _compare(answer(text, motion, tau), info_nce(text, motion, temperature=tau), mistakes)


def _both_ways(similarity: Tensor) -> Tensor:
    """Cross entropy of a square of similarities, both ways."""
    rows = torch.arange(len(similarity))
    return (torch.nn.functional.cross_entropy(similarity, rows) + torch.nn.functional.cross_entropy(similarity.T, rows)) / 2


@_exercise("17-clip", "medium", 10, "the loss that does not trust the ratio too far")
def check_clipped_loss(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """`answer(log_probs, old_log_probs, advantages, clip_range)`: all (batch,) but the last; the mean loss."""
    from mocapfree_nb.ddpo import clipped_policy_loss

    new = torch.tensor([0.3, -0.3, 0.3, -0.3, 0.02])
    old, gain, clip = torch.zeros(5), torch.tensor([1.0, 1.5, -1.0, -2.0, 0.5]), 0.1
    ratio = (new - old).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    mistakes = {
        "that is the objective, to be raised: a loss is its negative": torch.minimum(gain * ratio, gain * held).mean(),
        "of the two losses the larger counts, the pessimistic one: maximum, not minimum":
            torch.minimum(-gain * ratio, -gain * held).mean(),
        "nothing is clipped": (-gain * ratio).mean(),
        "only the clipped ratio is used: one that went the wrong way then gets no gradient": (-gain * held).mean(),
        "the ratio is not the difference of the log-probabilities but its exponential":
            torch.maximum(-gain * (new - old), -gain * (new - old).clamp(1 - clip, 1 + clip)).mean(),
        "the ratio is turned over: the new probability stands above the old one":
            torch.maximum(-gain / ratio, -gain * (1 / ratio).clamp(1 - clip, 1 + clip)).mean(),
        "that is the sum: take the mean": torch.maximum(-gain * ratio, -gain * held).sum(),
    }  # fmt: skip
    _compare(answer(new, old, gain, clip), clipped_policy_loss(new, old, gain, clip), mistakes)


@_exercise("17-reward", "medium", 15, "a reward for both hands over the head that a jump or one arm does not fool")
def check_hands_over_head(answer: Callable[[Tensor, Tensor, list[str]], Tensor]) -> None:
    """`answer(motion, lengths, prompts)`: how far the lower wrist is above the head, metres, mean over valid frames: (batch,)."""
    head, left, right = 47, 62, 65  # heights of joints 15, 20 and 21
    motion, lengths = torch.zeros(4, 10, 263), torch.tensor([10, 10, 10, 6])
    motion[:, :, 3], motion[:, :, head] = 0.9, 1.5
    motion[0, :, left] = motion[0, :, right] = 1.8
    motion[1, :, left], motion[1, :, right] = 2.1, 0.8  # one arm
    motion[2, :, left] = motion[2, :, right] = 1.4  # a jump
    motion[2, :, head] = 1.9
    motion[3, :, left] = motion[3, :, right] = torch.linspace(1.0, 1.9, 10)
    motion[3, 6:] = 0
    valid = torch.arange(10) < lengths[:, None]

    def average(values: Tensor) -> Tensor:
        return (values * valid).sum(1) / lengths

    hands, over = motion[:, :, [left, right]], motion[:, :, [left, right]] - motion[:, :, [head]]
    mistakes = {
        "one raised arm fools it: the lower of the two wrists counts": average(over.mean(-1)),
        "one raised arm fools it: of the two wrists it takes the higher": average(over.amax(-1)),
        "a jump fools it: measure from the head, not from the floor": average(hands.amin(-1)),
        "one raised arm and a jump fool it: take the lower wrist, and measure from the head": average(hands.mean(-1)),
        "frames past `lengths` are counted: leave them out of the mean": over.amin(-1).mean(1),
        "that has the wrong sign: up is more": -average(over.amin(-1)),
    }
    _compare(answer(motion.clone(), lengths.clone(), ["a person walks"] * 4), average(over.amin(-1)), mistakes)


@_exercise("23-interval", "hard", 20, "how sure a share of passed checks is")
def check_interval(answer: Callable[[Tensor], tuple[float, float]]) -> None:
    """`answer(passed)`: (captions, repeats) bool to low and high, a 95% interval of the share by drawing captions."""
    from mocapfree_nb.evaluation import bootstrap_interval

    passed = (torch.arange(20) % 5 < 3)[:, None].expand(20, 8).clone()  # a caption's motions all pass, or none does
    groups = torch.arange(20).repeat_interleave(8)
    found = answer(passed)
    if found is None or found is Ellipsis:
        raise Fault("it returns nothing yet: write its body")
    low, high = (float(bound) for bound in found)
    right = bootstrap_interval(passed.flatten().float(), groups)
    narrow = bootstrap_interval(passed.flatten().float(), torch.arange(160))

    def near(other: list[float]) -> bool:
        return max(abs(low - other[0]), abs(high - other[1])) < 0.04

    if low > high:
        raise Fault("low is above high: the order is (low, high)")
    if near(narrow):
        raise Fault(
            "it draws motions, as if the eight of a caption told eight different things: draw whole captions with replacement"
        )
    if high - low > 0.9:
        raise Fault("that is the spread of single motions: of every draw take the mean, and of the means the quantiles")
    if not near(right):
        raise Fault(f"it gives {low:.2f} to {high:.2f} where {right[0]:.2f} to {right[1]:.2f} is right, give or take .04")
