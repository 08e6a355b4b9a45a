"""Text-to-motion retrieval in the four protocols of TMR, from embeddings, from a folder, from paths."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.captions import read_text
from ..data.folders import DataFolder, read_recordings
from ..files import UserError, write_json
from ..metrics import retrieval_recall
from ..retrieval import TextMotionModel, cosines
from ..sources import Caption, Recording
from ..text import PublishedTextEncoder, TextEncoder, default_text_encoder
from .checkpoints import from_checkpoint, text_encoder_for
from .encoders import TMR, GuoEvaluator

def dissimilar_subset(sentence: Tensor, count: int = 100) -> Tensor:
    """Rows of `count` sentence vectors (N, W) far from each other: first the two farthest, then always the farthest left."""
    similarity = cosines(sentence, sentence)
    first = int(similarity.min(1).values.argmin())
    chosen, nearest = [first], similarity[first].clone()
    while len(chosen) < min(count, len(sentence)):
        nearest[chosen] = torch.inf
        chosen.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, similarity[chosen[-1]])
    return torch.tensor(chosen)


def retrieval_protocols(
    text: Tensor,  # (N, D)
    motion: Tensor,  # (N, D), row i belongs to text row i, rows sorted by the name of their clip
    sentence: Tensor,  # (N, W) unit sentence vectors
    dissimilar: Tensor | None = None,  # rows of the dissimilar subset; None: `dissimilar_subset`
    threshold: float = 0.95,
    batch: int = 32,
) -> dict[str, dict[str, float]]:
    """Recall and median rank by protocol: "all", "threshold", "dissimilar", "batches" (TMR, section 4)."""
    similarity = cosines(text, motion)
    rows = dissimilar_subset(sentence) if dissimilar is None else dissimilar
    order = np.arange(len(text))
    np.random.RandomState(0).shuffle(order)
    groups = [torch.from_numpy(order[i * batch : (i + 1) * batch]) for i in range(len(order) // batch)]
    if not groups:
        raise UserError(f"{len(text)} pairs do not fill one batch of {batch}")
    each = [retrieval_recall(similarity[group][:, group]) for group in groups]
    return {
        "all": retrieval_recall(similarity),
        "threshold": retrieval_recall(similarity, sentence, threshold),
        "dissimilar": retrieval_recall(similarity[rows][:, rows]),
        "batches": {name: sum(found[name] for found in each) / len(each) for name in each[0]},
    }


@torch.inference_mode()
def evaluate_retrieval(
    model: TextMotionModel,
    folder: str | Path,
    text_encoder: TextEncoder | PublishedTextEncoder,
    sentence_encoder: TextEncoder | PublishedTextEncoder,
    split: str = "test",
    device: str = "cpu",
) -> dict[str, dict[str, float]]:
    """`retrieval_protocols` of a retrieval network on a list of a data folder; the first caption of each clip counts."""
    data, listed, near = DataFolder(folder), Path(folder) / f"{split}.txt", Path(folder) / f"nsim_{split}.txt"
    if data.skeleton.num_features != model.num_features:
        raise UserError(f"{folder} has {data.skeleton.num_features} features a frame; this network reads {model.num_features}")
    if not listed.is_file():
        raise UserError(f"{listed} is missing: the protocol evaluates the clips that it lists")
    recordings, _ = read_recordings(data, sorted(set(read_text(listed).split()) & set(data.names)))
    if not recordings:
        raise UserError(f"{listed} names no clip that can be used")
    model.to(device).eval()
    captions = [recording.captions[0] for recording in recordings]
    texts = [caption.text for caption in captions]
    encoded = [model.encode_text(text_encoder(texts[i : i + 256]).to(device)).cpu() for i in range(0, len(texts), 256)]
    sentence = torch.cat([sentence_encoder(texts[i : i + 256]).pooled for i in range(0, len(texts), 256)])
    motions = []
    for rows in torch.arange(len(recordings)).split(64):
        parts = [torch.from_numpy(np.array(_spoken(recordings[i], captions[i], data.skeleton.fps))) for i in rows]
        lengths = torch.tensor([len(part) for part in parts])
        motion = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        motions.append(model.encode_motion(motion.to(device), lengths.to(device)).cpu())
    names = {recording.name: i for i, recording in enumerate(recordings)}
    own = [names[name] for name in read_text(near).split() if name in names] if near.is_file() else []
    return retrieval_protocols(
        torch.cat(encoded), torch.cat(motions), sentence, torch.tensor(own) if own else None
    )


def _spoken(recording: Recording, caption: Caption, fps: float) -> np.ndarray:
    """The frames that a caption speaks of."""
    if caption.start == caption.end == 0:
        return recording.features
    return recording.features[int(caption.start * fps) : int(caption.end * fps)]


def retrieval_table(result: Mapping[str, Mapping[str, float]]) -> str:
    """The four protocols as plain text, both directions."""
    keys = [f"{way}/{what}" for way in ("t2m", "m2t") for what in ("R01", "R02", "R03", "R05", "R10", "MedR")]
    lines = [f"{'':>10}" + "".join(f"{key:>10}" for key in keys)]
    lines += [f"{name:>10}" + "".join(f"{row[key]:10.2f}" for key in keys) for name, row in result.items()]
    return "\n".join(lines)


def run_retrieval(
    data: str | Path,
    retrieval: str | Path,
    text_encoder: str | Path | None = None,
    sentence_encoder: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
) -> str:
    """TMR's four protocols of a retrieval network, from paths: their table, as text; `out` keeps the numbers as JSON."""
    model = from_checkpoint(retrieval)
    if not hasattr(model, "encode_motion") or isinstance(model, GuoEvaluator):
        raise UserError(f"{retrieval} is a {type(model).__name__}, not a retrieval network")
    sentences = default_text_encoder() if not isinstance(model, TMR) else PublishedTextEncoder("mpnet", sentence_encoder)
    result = evaluate_retrieval(model, data, text_encoder_for(model, text_encoder), sentences, device=device)
    if out:
        write_json(out, result)
    return retrieval_table(result)
