"""Saved networks found by the name in their `config.json`: the class is imported when a folder asks for it, not before."""

import importlib
import math
from pathlib import Path

from torch import nn

from mocapfree_nb import files
from mocapfree_nb.corpus import Corpus
from mocapfree_nb.denoiser import DENOISERS, Denoiser
from mocapfree_nb.evaluation import Checks, Scorers
from mocapfree_nb.files import UserError
from mocapfree_nb.reading import read_json
from mocapfree_nb.policy import DiffusionPolicy
from mocapfree_nb.rewards import RetrievalReward
from mocapfree_nb.skeleton import skeleton_of
from mocapfree_nb.text import text_encoder_of

__all__ = ["RETRIEVALS", "EVALUATORS", "find_class", "load_denoiser", "load_policy", "load_scorers", "check_fit"]

# the name in config.json -> where the class is, as in `denoiser.DENOISERS`; the first is what a folder that names none holds
RETRIEVALS = {"RetrievalModel": "mocapfree_nb.retrieval", "TMR": "mocapfree_nb.published.encoders"}
EVALUATORS = {"EvaluatorModel": "mocapfree_nb.evaluator", "GuoEvaluator": "mocapfree_nb.published.encoders"}


def find_class(name: str, known: dict[str, str | type]) -> type[nn.Module]:
    """The class of this name, imported from where `known` says, or one that was registered."""
    place = known[name]
    return getattr(importlib.import_module(place), name) if isinstance(place, str) else place


def _load(path: str | Path, known: dict[str, str], device: str = "cpu") -> nn.Module:
    """The network saved at `path`: of a folder of this kit its own class alone is imported."""
    folder = Path(path)
    if files.is_file(folder / "model.safetensors"):
        config = folder / "config.json"
        own = read_json(config, files.MEBIBYTE) if files.is_file(config) else {}
        name = str(own.get("architecture", next(iter(known))))
        if name in known:
            return find_class(name, known).from_folder(folder, device)
    from mocapfree_nb.published.checkpoints import load_network

    return load_network(path, [find_class(name, known) for name in known], device)


def _text_encoder(model: nn.Module, source: str | Path | None) -> object:
    """The text encoder that a network reads: the kit's own, or that of a published one."""
    if type(model).__module__.partition(".")[0] != "mocapfree_nb" or type(model).__name__ in ("MotionDenoiser", "RetrievalModel"):
        return text_encoder_of(model, source)
    from mocapfree_nb.published.checkpoints import text_encoder_for

    return text_encoder_for(model, source)


def load_denoiser(folder: str | Path) -> Denoiser:
    """The saved denoiser in `folder`, of whichever architecture its `config.json` names (none: a `MotionDenoiser`).

    A published MDM, MLD or StableMoFusion will do as well (lesson 33), and so will the folder of a run: its adapted model.
    """
    own = Path(folder, "model")
    return _load(own if files.is_file(own / "model.safetensors") else folder, DENOISERS)


def load_policy(
    model: str | Path | Denoiser,
    steps: int = 10,
    guidance_scale: float = 2.5,
    device: str = "cpu",
    solver: str = "ddim",
    eta: float | None = None,
    text_encoder: str | Path | None = None,
    min_std: float = 0.0,
) -> DiffusionPolicy:
    """A policy around a saved denoiser (or one in memory), ready to generate in `steps` denoising steps.

    `text_encoder` is the folder of the one that a published model reads, if it is not in transformers' own store.
    `min_std` is a floor under the steps' standard deviation (`solvers.ddim_std`).
    Raises `UserError` for a model that cannot be read, or that allows no such sampling.
    """
    if not math.isfinite(guidance_scale):
        raise UserError(f"the guidance scale is a number, 1 for none and about 2.5 as a rule, not {guidance_scale}")
    denoiser = model if isinstance(model, Denoiser) else load_denoiser(model)
    encoder = _text_encoder(denoiser, text_encoder)
    try:
        return DiffusionPolicy(denoiser.to(device), encoder, steps, eta, guidance_scale, min_std, solver=solver)
    except ValueError as error:
        raise UserError(f"{model if isinstance(model, (str, Path)) else 'this denoiser'}: {error}") from error


def load_scorers(
    retrieval: str | Path,
    evaluator: str | Path,
    checks: Checks | None = None,
    device: str = "cpu",
    text_encoder: str | Path | None = None,
) -> Scorers:
    """The saved retrieval network and evaluator, ready to score: ours, or TMR and the Guo evaluator (lesson 33).

    Networks of ours see every motion on rigid bones, so that shrinking a bone gains nothing (lesson 04); published ones see it
    as it was generated, or their numbers would not be those of the literature.
    `text_encoder` is the folder of the one that TMR reads, if it is not in transformers' own store.
    """
    network = _load(retrieval, RETRIEVALS, device)
    reward = RetrievalReward(network, _text_encoder(network, text_encoder))
    network_of_metrics = _load(evaluator, EVALUATORS, device)
    read = None
    if type(network_of_metrics).__name__ == "GuoEvaluator":
        from mocapfree_nb.published.protocol import find_words

        read = find_words([evaluator])
    published = any(type(part).__module__.startswith("mocapfree_nb.published") for part in (network, network_of_metrics))
    return Scorers(network_of_metrics, reward, checks or {}, read, rigid=not published)


def check_fit(policy: DiffusionPolicy, scorers: Scorers, corpus: Corpus | None = None) -> None:
    """Raise `UserError` unless model, scorers and corpus speak of the same skeleton."""
    made = policy.denoiser.num_features
    widths = {"retrieval network": scorers.reward.model.num_features, "evaluator": scorers.evaluator.num_features}
    widths |= {"corpus": corpus.skeleton.num_features} if corpus is not None else {}
    for name, width in widths.items():
        if width != made:
            raise UserError(
                f"the model makes motion of {made} features a frame ({skeleton_of(made).name}), the {name} has {width}: "
                "model, scorers and corpus must be of one skeleton"
            )
