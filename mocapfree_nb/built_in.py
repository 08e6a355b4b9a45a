"""The built-in corpora by name, alone or joined: clips of the generators as a `Corpus`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mocapfree_nb.corpus import Clip, Corpus, assign_splits, crop, statistics
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D
from mocapfree_nb.sources import features_in_batches
from mocapfree_nb.synthetic.second import generate_second_clips

__all__ = ["built_in", "join", "load_built_in"]

def _first_clips(num_clips: int, seed: int) -> tuple[list[np.ndarray], list[tuple[str, ...]], list[list[str]]]:
    made = generate_clips(num_clips, seed=seed)
    joints = [made.joints[i, :length] for i, length in enumerate(made.lengths)]
    return joints, [tuple(labels) for labels in made.actions], made.captions


def _second_clips(num_clips: int, seed: int) -> tuple[list[np.ndarray], list[tuple[str, ...]], list[list[str]]]:
    return generate_second_clips(num_clips, seed=seed)


_GENERATORS = {"procedural": (_first_clips, "generator"), "procedural-b": (_second_clips, "second generator")}


def _procedural(source: str, num_clips: int, seed: int, max_frames: int) -> Corpus:
    generate, name = _GENERATORS[source]
    joints, actions, said = generate(num_clips, seed)
    splits, captions = assign_splits(said, actions, seed)
    clips = tuple(
        Clip(f"{source.replace('-', '_')}_{seed}_{i:05d}", crop(features, max_frames), captions[i], actions[i], splits[i])
        for i, features in enumerate(features_in_batches(joints, HUMANML3D))
    )
    train = [clip for clip in clips if clip.split == "train"] or clips
    return Corpus(clips, *statistics(train), source=f"the built-in {name}")


def built_in(source: str | Path) -> bool:
    """Is this the name of a built-in corpus, or of several with a + between?"""
    return all(name in _GENERATORS for name in str(source).split("+"))


def _plain(caption: str) -> str:
    return caption.lower().rstrip(". ")


def join(corpora: Sequence[Corpus]) -> Corpus:
    """The clips of several corpora of one skeleton as one, normalised together.

    A training caption that another one holds back, upper or lower case, is dropped, and a clip without one. Raises
    `UserError` for corpora of different skeletons.
    """
    if len(corpora) == 1:
        return corpora[0]
    if len({corpus.skeleton.name for corpus in corpora}) != 1:
        raise UserError(f"cannot join corpora of {' and '.join(corpus.skeleton.name for corpus in corpora)}: give a skeleton")
    held = {_plain(caption) for corpus in corpora for clip in corpus if clip.split != "train" for caption in clip.captions}
    clips = []
    for clip in (clip for corpus in corpora for clip in corpus):
        if clip.split != "train":
            clips.append(clip)
        elif captions := tuple(caption for caption in clip.captions if _plain(caption) not in held):
            clips.append(replace(clip, captions=captions))
    mean, std = statistics([clip for clip in clips if clip.split == "train"] or clips, corpora[0].skeleton)
    skipped = tuple(fault for corpus in corpora for fault in corpus.skipped)
    return Corpus(tuple(clips), mean, std, corpora[0].skeleton, skipped, " and ".join(corpus.source for corpus in corpora))


def load_built_in(source: str, num_clips: int, seed: int, max_frames: int) -> Corpus:
    """The corpus of this name, or those of several with a + between joined, of `num_clips` clips each."""
    return join([_procedural(name, num_clips, seed, max_frames) for name in source.split("+")])
