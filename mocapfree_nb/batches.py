"""A corpus as a few tensors on one device, from which every network of the course draws its training batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .corpus import Corpus
from .files import UserError
from .text import TextEmbedding, TextEncoder, default_text_encoder


def _padded(values: Tensor, first: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `first` (B,) and on of `values` (N, D), `lengths` (B,) of them: (B, longest, D), zero-padded, and mask."""
    steps = torch.arange(int(lengths.max()), device=values.device)
    mask = steps < lengths[:, None]
    rows = (first[:, None] + steps).clamp_max(len(values) - 1)
    return values[rows].masked_fill(~mask[..., None], 0), mask


@dataclass(frozen=True, eq=False)
class StackedCorpus:
    """A corpus as tensors on one device: all frames end to end, every distinct caption encoded once; see `stack_corpus`."""

    frames: Tensor  # (sum of lengths, F) raw
    starts: Tensor  # (N,) where each clip begins in `frames`
    lengths: Tensor  # (N,)
    captions: Tensor  # (N, C) rows of `prompts`; clips with fewer than C captions repeat theirs
    caption_counts: Tensor  # (N,) how many of the C are distinct
    tokens: Tensor  # (sum of token counts, W) in half precision
    token_starts: Tensor  # (U,) where each caption begins in `tokens`
    token_counts: Tensor  # (U,)
    pooled: Tensor  # (U, W)
    prompts: list[str]  # the U distinct captions
    actions: Tensor  # (N,) which of action_names
    action_names: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.lengths)

    def motion(self, index: Tensor, max_frames: int, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Clips `index` (B,) -> raw motion (B, T, F), zero-padded, and lengths (B,); at most `max_frames` each.

        `offset` (B,) in [0, 1) says where a longer clip is cut: 0 keeps its beginning.
        """
        index = index.to(self.lengths.device)
        full = self.lengths[index]
        lengths = full.clamp_max(max_frames)
        skipped = 0 if offset is None else (offset * (full - lengths + 1)).long()
        return _padded(self.frames, self.starts[index] + skipped, lengths)[0], lengths

    def text(self, rows: Tensor) -> TextEmbedding:
        """The captions `rows` (B,), encoded."""
        rows = rows.to(self.pooled.device)
        tokens, mask = _padded(self.tokens, self.token_starts[rows], self.token_counts[rows])
        return TextEmbedding(tokens, mask, self.pooled[rows])


def _stack_text(prompts: list[str], text_encoder: TextEncoder, device: torch.device | str) -> dict[str, Tensor]:
    """The text of a `StackedCorpus`."""
    tokens, counts, pooled = [], [], []
    for first in range(0, len(prompts), 512):
        text = text_encoder(prompts[first : first + 512])
        tokens.append(text.tokens[text.mask].half())  # half the memory; the cache on disk holds no more
        counts.append(text.mask.sum(1))
        pooled.append(text.pooled)
    counts = torch.cat(counts)
    found = {"tokens": torch.cat(tokens), "token_starts": counts.cumsum(0) - counts, "token_counts": counts}
    return {name: value.to(device) for name, value in (found | {"pooled": torch.cat(pooled)}).items()}


def stack_corpus(
    corpus: Corpus, text_encoder: TextEncoder | None = None, device: torch.device | str = "cpu"
) -> StackedCorpus:
    """Lay a corpus out as tensors on `device`. Raises `UserError` for an empty one."""
    clips = list(corpus)
    if not clips:
        raise UserError("the corpus has no clips to train on; check the split and what was left out")
    lengths = torch.tensor([len(clip) for clip in clips])
    prompts = sorted({caption for clip in clips for caption in clip.captions})
    row = {caption: i for i, caption in enumerate(prompts)}
    names = sorted({tuple(clip.actions) for clip in clips})
    label = {name: i for i, name in enumerate(names)}
    most = max(len(clip.captions) for clip in clips)
    captions = [[row[clip.captions[i % len(clip.captions)]] for i in range(most)] for clip in clips]
    return StackedCorpus(
        frames=torch.from_numpy(np.concatenate([clip.features for clip in clips])).float().to(device),
        starts=(lengths.cumsum(0) - lengths).to(device),
        lengths=lengths.to(device),
        captions=torch.tensor(captions).to(device),
        caption_counts=torch.tensor([len(clip.captions) for clip in clips]).to(device),
        prompts=prompts,
        actions=torch.tensor([label[tuple(clip.actions)] for clip in clips]).to(device),
        action_names=names,
        **_stack_text(prompts, text_encoder or default_text_encoder(), device),
    )


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Random clips of a `StackedCorpus` with one caption each."""

    index: Tensor  # (B,) which clips
    motion: Tensor  # (B, T, F) raw, zero-padded
    lengths: Tensor  # (B,)
    text: TextEmbedding
    actions: Tensor  # (B,) which of the corpus's action_names
    captions: Tensor  # (B,) which of the corpus's prompts


def draw_batch(stacked: StackedCorpus, batch_size: int, generator: torch.Generator, max_frames: int = 196) -> TrainingBatch:
    """Random clips, for each one of its captions; of a clip longer than `max_frames` a random piece."""
    device = generator.device
    index = torch.randint(len(stacked), (batch_size,), generator=generator, device=device)
    which, offset = torch.rand(2, batch_size, generator=generator, device=device)
    motion, lengths = stacked.motion(index, max_frames, offset)
    caption = stacked.captions[index, (which * stacked.caption_counts[index]).long()]
    return TrainingBatch(index, motion, lengths, stacked.text(caption), stacked.actions[index], caption)
