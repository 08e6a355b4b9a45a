"""What the shipped models know: their actions, their words, and a line where a prompt is far from all of them."""

import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mocapfree_nb.files import WEIGHTS
from mocapfree_nb.procedural import captions_for
from mocapfree_nb.synthetic.actions import ACTIONS, COMPOSED
from mocapfree_nb.skeleton import skeleton_of
from mocapfree_nb.text import default_text_encoder

__all__ = ["known_actions", "known_words", "words_note", "warn_of_words", "warn_of_lengths"]


def known_actions() -> dict[str, str]:
    """Every action of the built-in corpus with an example sentence: what the shipped models of all data were trained on."""
    return {label: captions_for(label, 1)[0] for label in (*ACTIONS, *map("+".join, COMPOSED))}


@cache
def known_words() -> frozenset[str]:
    """Every word of the built-in captions, in lower case."""
    labels = (*ACTIONS, *map("+".join, COMPOSED))
    return frozenset(_words(" ".join(caption for label in labels for caption in captions_for(label, 200))))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s.,;:!?'\"()-]", text.lower())  # a sign that is no punctuation is a word as well


def words_note(prompts: Sequence[str]) -> str | None:
    """A line about the first prompt with words that no built-in caption has; None where every word is known.

    It names the built-in caption whose sentence vector is nearest to the prompt's.
    """
    strange = {prompt: [w for w in dict.fromkeys(_words(prompt)) if w not in known_words()] for prompt in prompts}
    strange = {prompt: words for prompt, words in strange.items() if words}
    if not strange:
        return None
    prompt, words = next(iter(strange.items()))
    known = [caption for label in ACTIONS for caption in captions_for(label, 3)]
    vectors = torch.nn.functional.normalize(default_text_encoder()([prompt, *known]).pooled, dim=-1)
    nearest = known[int((vectors[1:] @ vectors[0]).argmax())]
    named = ", ".join(map(repr, words[:5])) + (" ..." if len(words) > 5 else "")
    others = f" ({len(strange) - 1} more prompts have such words)" if len(strange) > 1 else ""
    return f"the model was trained without {named}{others}; the nearest sentence that it knows is {nearest!r}"


def warn_of_words(prompts: Sequence[str], model: object) -> None:
    """Warn of words that a shipped model never read; what others were trained on is not written down."""
    if isinstance(model, (str, Path)) and Path(model).absolute().parent == WEIGHTS and (note := words_note(prompts)):
        warnings.warn(note, stacklevel=3)


def warn_of_lengths(policy, lengths: Tensor) -> None:
    """Warn of lengths that the policy's model never saw in training."""
    known = getattr(policy.denoiser, "length_note", None)
    note = known and known(lengths, skeleton_of(policy.denoiser.num_features).fps)
    if note:
        warnings.warn(note, stacklevel=3)
