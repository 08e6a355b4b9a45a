"""Parts that several networks share: positions as waves, attention, transformer blocks, normalisation of features."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mocapfree_nb.networks import PretrainedModel


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of each position at width / 2 wavelengths from 2 pi up to 20,000 pi.

    positions (...,) -> (..., width) float32; `width` is even. Source: arXiv 1706.03762, section 3.5.
    """
    rates = torch.exp(torch.arange(width // 2, device=positions.device) * (-math.log(10_000) / (width // 2)))
    angles = positions[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def interleaved_sinusoids(positions: Tensor, width: int) -> Tensor:
    """The numbers of `sinusoids` as sine, cosine, sine, cosine, ...: (...,) -> (..., width) float32.

    This is the order of arXiv 1706.03762, section 3.5; `width` is even.
    """
    return sinusoids(positions, width).unflatten(-1, (2, -1)).mT.flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention whose four maps are plain `nn.Linear` layers, so that LoRA can adapt each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, attended: Tensor, memory: Tensor | None = None) -> Tensor:
        """`x` (batch, tokens, width) attends to itself, or to `memory` (batch, others, width) where that is given.

        `attended` (batch, tokens or others) is bool, False for what is not attended to.
        """
        memory = x if memory is None else memory

        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(memory)), split(self.value(memory))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then a two-layer network, each behind a layer norm and added to the stream (pre-norm)."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), attended))
        return x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(x))))))


class PostNormBlock(nn.Module):
    """Attention, then a two-layer network, each added to the stream and *followed* by a layer norm (1706.03762).

    With `cross`, the tokens attend to a memory in between, as a transformer decoder's do.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, cross: bool = False):
        super().__init__()
        self.self_attn, self.norm1 = SelfAttention(width, heads), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm2, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        if cross:
            self.multihead_attn, self.norm3 = SelfAttention(width, heads), nn.LayerNorm(width)

    def forward(
        self, x: Tensor, attended: Tensor, memory: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """`x` (batch, tokens, width), `attended` (batch, tokens) bool, `memory` (batch, others, width).

        `seen` (batch, others) bool is False for what of the memory is not attended to (None: it is seen in full).
        """
        x, last = self.norm1(x + self.dropout(self.self_attn(x, attended))), self.norm2
        if memory is not None:
            seen = attended.new_ones(memory.shape[:2]) if seen is None else seen
            x, last = self.norm2(x + self.dropout(self.multihead_attn(x, seen, memory))), self.norm3
        return last(x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x))))))


class NormalisedModel(PretrainedModel):
    """A network that takes raw features, and turns them into features of mean 0 and deviation 1 itself.

    The corpus's mean and deviation are the buffers `feature_mean` and `feature_std` (num_features,), saved with it.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features
        self.register_buffer("feature_mean", torch.zeros(num_features))
        self.register_buffer("feature_std", torch.ones(num_features))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Copy the corpus's mean and deviation, (num_features,) each, into the buffers; `ValueError` if they do not fit."""
        mean, std = torch.as_tensor(mean), torch.as_tensor(std)
        if not mean.shape == std.shape == (self.num_features,) or not bool((std > 0).all()):
            given = f"shapes {tuple(mean.shape)} and {tuple(std.shape)}, smallest std {std.min():.3g}"
            raise ValueError(f"mean and std (above 0) should have shape ({self.num_features},), got {given}")
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std)
