"""The networks that ship: their sizes, how they were trained, and how `adapt` is called to teach each a left-out action."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mocapfree_nb import parallel
from mocapfree_nb.corpus import Corpus, collate, load_corpus, more_training_clips
from mocapfree_nb.denoiser import find_denoiser
from mocapfree_nb.evaluation import Checks, check_motion
from mocapfree_nb.evaluator import train_evaluator
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.learning import find_algorithm, make_config
from mocapfree_nb.models.registry import load_denoiser
from mocapfree_nb.pretrain import PretrainConfig, pretrain
from mocapfree_nb.runstate import borrowed_generators
from mocapfree_nb.retrieval import train_retrieval
from mocapfree_nb.runs import prepare_folder
from mocapfree_nb.skeleton import HUMANML3D, skeleton_of
from mocapfree_nb.validity import body_validity

__all__ = ["SHIPPED", "ARCHITECTURES", "DIRECTIONS", "shipped_recipe", "cross_dataset_recipe", "train"]

BODIES = {"joint_weight": 2.0, "velocity_weight": 4.0, "bone_weight": 5.0}  # in the loss, see lesson 11
SHIPPED: dict[str, tuple[str, dict, dict]] = {  # name of the class (see `models.registry`), size, training
    "denoiser": (
        "MotionDenoiser",
        {"width": 128, "layers": 4, "heads": 4, "feedforward": 384, "frames_per_token": 2, "dropout": 0.0}
        | {"schedule": "shifted_cosine"},
        {"steps": 11000} | BODIES,
    ),
    "unet": (
        "MotionUNet",
        {"channels": (96, 64, 64), "text_latent": 64, "dropout": 0.0, "schedule": "shifted_cosine"},
        {"steps": 6500} | BODIES | {"joint_weight": 6.0, "bone_weight": 20.0},
    ),
    "latent": (
        "LatentDenoiser",
        {"latent_tokens": 8, "dropout": 0.0, "schedule": "shifted_cosine"},
        {"steps": 5500, "bone_weight": 20.0},
    ),
}
COMMON = {"batch_size": 128, "bfloat16": True}
CONTINUED = {"steps": 14_000, "batch_size": 64, "learning_rate": 5e-4}  # of saved ones
MORE_CLIPS = 24_000  # of the generator, beside the 4,000 of the corpus
VAE_TRAINING = PretrainConfig(steps=4000, **COMMON, joint_weight=2.0, velocity_weight=2.0, bone_weight=20.0)
ARCHITECTURES: dict[str, tuple[str, dict, bool]] = {  # name of their folders, changes to DDPO's settings, mirror-consistent?
    "transformer": ("denoiser", {}, False),
    "unet": ("unet", {"iterations": 60, "distillation_weight": 0.05, "learning_rate": 5e-4, "select_every": 10}, True),
    "latent": ("latent", {"iterations": 80, "distillation_weight": 0.1, "learning_rate": 5e-4, "select_every": 10}, True),
}
ONE_ROUND = {"rounds": 1}  # fits five minutes
EXPLORED: dict[str, dict] = {  # what the held-out scorer likes best, lesson 25: DDPO at any learning rate it likes less than none
    "latent": {"steps": 1000, "guided": 0.0, "ddpo_iterations": 0},
}
DIRECTIONS = {"a-to-b": ("procedural", "procedural-b"), "b-to-a": ("procedural-b", "procedural")}  # original, target


def shipped_recipe(architecture: str, seed: int = 0, algorithm: str = "exploration") -> dict:
    """What `adapt` is called with to teach a shipped model the left-out action: models, settings and reward.

    Raises `UserError` for an architecture or an algorithm that does not exist.
    """
    if architecture not in ARCHITECTURES:
        raise UserError(f"there is no architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    name, changes, mirrored = ARCHITECTURES[architecture]
    explores = algorithm == "exploration"
    changes = ONE_ROUND | EXPLORED.get(architecture, {}) if explores else changes if algorithm == "ddpo" else {}
    config = find_algorithm(algorithm)(seed=seed, **changes)
    models = {"model": WEIGHTS / f"{name}-leave-one-out", "full_model": WEIGHTS / name}
    return {**models, "config": config, "mirrored": mirrored and not explores}


def cross_dataset_recipe(
    direction: str, architecture: str = "transformer", seed: int = 0, algorithm: str = "exploration"
) -> dict:
    """What `adapt` is called with to teach a model of one built-in corpus what the captions of the other say.

    The reward and the evaluator know both; of the other corpus the model sees captions only. Raises `UserError` for a
    direction, an architecture or an algorithm that does not exist, and where the networks are not there.
    """
    if direction not in DIRECTIONS:
        raise UserError(f"there is no direction {direction!r}; choose {' or '.join(DIRECTIONS)}")
    if architecture not in ARCHITECTURES:
        raise UserError(f"there is no architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    name = ARCHITECTURES[architecture][0]
    first, second = WEIGHTS / name, WEIGHTS / f"{name}-b"
    networks = {"retrieval": WEIGHTS / "retrieval-both", "evaluator": WEIGHTS / "evaluator-both"}
    models = dict(zip(("model", "full_model"), (first, second) if direction == "a-to-b" else (second, first), strict=True))
    for path in (second, *networks.values()):
        if not (path / "config.json").exists():
            corpus = "procedural-b" if path == second else "procedural+procedural-b"
            what = path.name.split("-")[0]
            raise UserError(f"{path.name} is not here: mocapfree pretrain {what} --corpus {corpus} --out {path}")
    source, target = (load_corpus(corpus) for corpus in DIRECTIONS[direction])
    rounds = {"rounds": 1} if algorithm == "exploration" else {}
    config = make_config(algorithm, crossing=True, seed=seed, **rounds)
    return {**models, **networks, "corpus": target, "source": source, "config": config}


def _shows(labels: str | Sequence[str], checks: Checks | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Of raw motion (batch, frames, features) and lengths: does it show one of `labels`, as far as checks tell?"""
    labels = [labels] if isinstance(labels, str) else labels

    def shows(motion: Tensor, lengths: Tensor) -> Tensor:
        joints = features_to_joints(motion, skeleton_of(motion.shape[-1])).cpu()
        shown = [check_motion(joints, lengths.cpu(), [label] * len(motion), checks) == 1 for label in labels]
        return torch.stack(shown).any(0).to(motion.device)

    return shows


def _has_the_bones_of_its_skeleton(clips: Corpus, most: int = 64, tolerance: float = 0.01) -> bool:
    """Are the bones of `most` clips as long as the skeleton's, within the tolerance? Those of another body are not."""
    some = collate([clips[i] for i in range(0, len(clips), max(1, len(clips) // most))][:most])
    joints = features_to_joints(some.motion, clips.skeleton)
    return float(body_validity(joints, some.lengths, clips.skeleton)["bone_deviation"].mean()) < tolerance


def _train_denoiser(network, out, corpus, labels, given, seed, device, checks, start):
    """See `train`; a denoiser of whichever architecture."""
    kind, size, settings = SHIPPED[network]
    size = size | ({"rigid": _has_the_bones_of_its_skeleton(corpus)} if network in ("latent", "unet") else {})
    with borrowed_generators(torch.device("cpu"), seed):  # weights are drawn on the CPU, wherever they go
        denoiser = find_denoiser(kind)(num_features=corpus.skeleton.num_features, **size).to(device)
    if start:
        denoiser, settings = load_denoiser(start).to(device), settings | CONTINUED
    clips, checkpoint = corpus.split("train"), Path(out) / "checkpoint.pt"
    config = PretrainConfig(seed=seed, **COMMON | settings | given)
    if network != "latent":
        return pretrain(denoiser, clips, config, checkpoint=checkpoint)
    from mocapfree_nb.models.latent import pretrain_latent

    refuse = _shows(labels, checks) if labels and corpus.skeleton is HUMANML3D else None  # the joints that checks know
    vae_config = replace(VAE_TRAINING, seed=seed, **given)
    return pretrain_latent(denoiser, clips, config, vae_config, checkpoint=checkpoint, refuse=refuse)


def train(
    network: str,
    out: str | Path,
    corpus: Corpus | str = "procedural",
    leave_out: str | None = None,
    leave_out_words: Sequence[str] = (),
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    checks: Checks | None = None,
    start: str | Path | None = None,
) -> None:
    """Train the "denoiser", the "unet", the "latent" model, the "retrieval" network or the "evaluator" into `out`.

    `corpus` is the name of a built-in one, or clips. With the defaults this rebuilds the shipped weights (stored in half
    precision, as those are). `steps` are the training steps of each part, where a model has two. `leave_out` is a label,
    or several with commas between. `start` is a saved denoiser to go on from, as the shipped one that knows every action
    goes on from the one that lacks six. Several processes share the batches of "denoiser" and "unet".
    `checks` (see `check_motion`) tells by which check the autoencoder of "latent" is kept from composing what is left out.
    """
    parallel.from_main(lambda: prepare_folder(out))
    if isinstance(corpus, str):
        source, corpus = corpus, load_corpus(corpus)
        corpus = more_training_clips(corpus, MORE_CLIPS, source=source) if network in SHIPPED else corpus
    labels = leave_out.split(",") if leave_out else []
    for label in labels:
        corpus = corpus.leave_out(label)
    if leave_out_words and not labels:
        corpus = corpus.leave_out_words(leave_out_words)
    given = {"steps": steps} if steps else {}
    if network == "retrieval":
        model, _ = train_retrieval(corpus, seed=seed, device=device, folder=out, **given)
    elif network == "evaluator":
        model, _ = train_evaluator(corpus, seed=seed, device=device, folder=out, **given)
    else:
        model = _train_denoiser(network, out, corpus, labels, given, seed, device, checks, start)
    if not parallel.is_main():
        return
    model.left_out = tuple(labels)
    model.half().save_pretrained(out)
    (Path(out) / "checkpoint.pt").unlink(missing_ok=True)  # not before the model is safe
