"""A page that runs the small denoiser in the browser: two models side by side, no kernel, no network, no library."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.edits import arm_joints, least_over_ankle, leg_joints
from mocapfree_nb.files import WEIGHTS, UserError, is_file, is_folder, reason, write_atomically
from mocapfree_nb.models.registry import load_denoiser
from mocapfree_nb.player import _json, page_html, player_code, player_scene
from mocapfree_nb.procedural import captions_for
from mocapfree_nb.reading import read_json
from mocapfree_nb.retrieval import RetrievalModel
from mocapfree_nb.skeleton import HUMANML3D
from mocapfree_nb.synthetic.actions import ACTIONS, COMPOSED
from mocapfree_nb.tasks import LEFT_OUT_ACTIONS
from mocapfree_nb.text import TextEncoder, default_text_encoder

__all__ = ["pack_halves", "playground_captions", "playground_html", "save_playground"]

MOST_PROMPTS = 12  # of a run: each makes the page 10 KB larger
SHIPPED = {"lacks six": WEIGHTS / "denoiser-leave-one-out", "knows all": WEIGHTS / "denoiser"}


def pack_halves(values: np.ndarray | Tensor) -> str:
    """Numbers as base64 of deflated float16, all low bytes before all high bytes: what `halves` of the page reads.

    Raises `UserError` for numbers that float16 cannot hold.
    """
    halves = np.asarray(values, np.float32).astype("<f2").ravel()
    if not np.isfinite(halves).all():
        raise UserError(f"half precision holds finite numbers up to {np.finfo(np.float16).max:g}: these are not")
    return base64.b64encode(zlib.compress(halves.view(np.uint8).reshape(-1, 2).T.tobytes(), 9)).decode()


def _packed(arrays: Mapping[str, Tensor], config: dict) -> dict:
    """A network for the page: its sizes, the names and shapes of its arrays, and their numbers."""
    numbers = torch.cat([array.detach().float().flatten() for array in arrays.values()])
    return {"config": config, "arrays": [[name, list(array.shape)] for name, array in arrays.items()],
            "data": pack_halves(numbers)}


def _denoiser(folder: Path) -> MotionDenoiser:
    """The transformer saved in `folder`, or in that of a run; `UserError` for a model that the page cannot run."""
    folder = folder / "model" if is_folder(folder / "model") else folder
    model = load_denoiser(folder)
    what = type(model).__name__
    if type(model) is not MotionDenoiser:
        raise UserError(f"{folder} holds a {what}: the playground runs the transformer, a MotionDenoiser")
    if model.prediction != "x0" or model.num_features != HUMANML3D.num_features:
        raise UserError(f"{folder} predicts {model.prediction} of {model.num_features} features: the playground runs models "
                        f"that predict x0 of {HUMANML3D.num_features}")
    if (getattr(model, "text_encoder_config", None) or TextEncoder.config) != TextEncoder.config:
        raise UserError(f"{folder} reads a text encoder of its own: the playground has the sentences of the built-in one")
    return model


def _packed_denoiser(model: MotionDenoiser) -> dict:
    config = {"width": model.width, "heads": model.blocks[0].attention.heads, "layers": len(model.blocks),
              "group": model.frames_per_token, "features": model.num_features,
              "alphas": model.noise_schedule.alphas_cumprod.tolist(), "frames": model.trained_frames or [36, 48]}
    return _packed(model.state_dict(), config)


def _packed_scorer(model: RetrievalModel) -> dict:
    """The motion encoder of the retrieval network, its arrays named as those of the denoiser are."""
    encoder, arrays = model.motion_encoder, {}
    for i, layer in enumerate(encoder.transformer.layers):
        for name, weight, bias in zip(("query", "key", "value"), layer.self_attn.in_proj_weight.chunk(3),
                                      layer.self_attn.in_proj_bias.chunk(3), strict=True):
            arrays |= {f"blocks.{i}.attention.{name}.weight": weight, f"blocks.{i}.attention.{name}.bias": bias}
        parts = {"attention.out": layer.self_attn.out_proj, "norm1": layer.norm1, "norm2": layer.norm2,
                 "linear1": layer.linear1, "linear2": layer.linear2}
        arrays |= {f"blocks.{i}.{name}.{key}": value for name, part in parts.items() for key, value in part.named_parameters()}
    for name, part in {"project": encoder.project, "norm": encoder.transformer.norm, "read": encoder.read[0]}.items():
        arrays |= {f"{name}.{key}": value for key, value in part.named_parameters()}
    arrays |= {"tokens": encoder.tokens, "feature_mean": model.feature_mean, "feature_std": model.feature_std}
    config = {"width": encoder.project.out_features, "heads": encoder.transformer.layers[0].self_attn.num_heads,
              "layers": len(encoder.transformer.layers), "group": model.frames_per_token, "features": model.num_features,
              "seen": model.num_seen, "clip": model.clip}
    return _packed(arrays, config)


def playground_captions(prompts: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(sentence, label) of `prompts`, which have no label, then of three of every action and one of every composed motion."""
    composed = ["+".join(pair) for pair in COMPOSED]
    found = {prompt: "" for prompt in prompts}
    for label in ACTIONS:
        found |= {caption: label for caption in captions_for(label, 3) if caption not in found}
    for label in composed:
        shortest = min(captions_for(label, 6), key=len)  # fewer words, a smaller page
        found |= {} if shortest in found else {shortest: label}
    return list(found.items())


def _packed_text(captions: list[str], scorer: RetrievalModel) -> dict:
    """Token states of the captions end to end, how many each has, and their unit vectors for the retrieval score."""
    text = default_text_encoder()(captions)
    with torch.no_grad():
        vectors = F.normalize(torch.cat([scorer.encode_text(text[part]) for part in torch.arange(len(text)).split(64)]), dim=-1)
    return {"counts": text.mask.sum(1).tolist(), "data": pack_halves(text.tokens[text.mask]), "vectors": pack_halves(vectors)}


_ASSETS = files("mocapfree_nb") / "assets"
_BODY, _STYLE, *_SCRIPTS = (
    (_ASSETS / name).read_text(encoding="utf-8")
    for name in ("playground.html", "playground.css", "denoiser.js", "checks.js", "edits.js", "playground.js")
)


def playground_html(models: Mapping[str, MotionDenoiser], prompts: Sequence[str] = (), lacking: Sequence[str] = ()) -> str:
    """The page for two models by name, with `prompts` first among its sentences.

    `lacking` are labels of actions that the first model never saw: the page marks them.
    Weights, token states and retrieval vectors stand in it in half precision, which is what the shipped weights are
    stored in: of a model in single precision the page rounds every weight to 11 bits.
    """
    scorer = RetrievalModel.from_folder(WEIGHTS / "retrieval")
    captions = playground_captions(prompts)
    text = _packed_text([caption for caption, _ in captions], scorer)
    scene = player_scene(np.zeros((2, HUMANML3D.num_joints, 3)), HUMANML3D) | {"panels": []}
    page = {
        "captions": [list(row) for row in captions], "text": text, "scene": scene, "scorer": _packed_scorer(scorer),
        "models": [{"name": name} | _packed_denoiser(model) for name, model in models.items()],
        "lacking": list(lacking), "width": default_text_encoder().width,
        "body": {"arms": arm_joints(), "legs": leg_joints(), "least": least_over_ankle()},
    }
    data = f'<script type="application/json" id="playground-data">{_json(page)}</script>'
    return page_html("Text-to-motion playground", _BODY + data + player_code("".join(_SCRIPTS)), _STYLE)


def _of_run(folder: Path) -> tuple[Path | None, list[str]]:
    """The model that a finished run started from, and its first training prompts; (None, []) of a model's own folder."""
    if not is_file(folder / "report.json"):
        return None, []
    report = read_json(folder / "report.json")
    try:
        started, prompts = Path(report["config"]["model"]), report["prompts"]["training"][:MOST_PROMPTS]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/report.json does not say what the run started from: {reason(error)}") from error
    return started, [prompt for prompt in prompts if isinstance(prompt, str)]


def save_playground(
    out: str | Path, before: str | Path | None = None, after: str | Path | None = None, prompts: Sequence[str] = ()
) -> Path:
    """Write the page to `out` (.html): folders of models or runs `before` and `after`, or the two shipped transformers.

    Of a run `after`, some training prompts join the sentences, and without `before` the model that it started from stands
    beside it. Raises `UserError` for models that the page cannot run and for another ending.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"cannot save a playground as {out.name}: it is a page, give a name that ends in .html")
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("an empty prompt says nothing to generate")
    folders, base = dict(SHIPPED), WEIGHTS / "denoiser-leave-one-out"
    if before or after:
        started, trained_on = _of_run(Path(after)) if after else (None, [])
        prompts = [*prompts, *trained_on]
        folders = {"before": Path(before or started or base), "after": Path(after or WEIGHTS / "denoiser")}
    models = {name: _denoiser(folder) for name, folder in folders.items()}
    lacking = LEFT_OUT_ACTIONS if next(iter(folders.values())).resolve() == base.resolve() else ()
    page = playground_html(models, prompts, lacking)
    with write_atomically(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out
