"""What a model does of what it is told, action by action: the share of motions that pass the geometric check."""

# Machinery of lesson 23.

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mocapfree_nb.built_in import built_in
from mocapfree_nb.corpus import Clip, collate, load_corpus
from mocapfree_nb.evaluation import Checks, bootstrap_interval, check_labels, check_whole_bodies, make_motion
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import UserError
from mocapfree_nb.models.registry import load_policy
from mocapfree_nb.skeleton import Skeleton, skeleton_of
from mocapfree_nb.validity import body_validity, validity_words

__all__ = ["FRESH", "clips_to_ask_for", "evaluate_by_action", "by_action_text"]

FRESH = {"num_clips": 1050, "seed": 90_005}  # of the built-in generator: clips and captions that no training has seen


def clips_to_ask_for(source: str | Path, max_frames: int = 196) -> list[Clip]:
    """New clips of a built-in generator, or those of a folder's test split."""
    if built_in(source):
        return list(load_corpus(source, max_frames=max_frames, **FRESH))
    return list(load_corpus(source, max_frames=max_frames).split("test"))


def _row(joints: Tensor, lengths: Tensor, labels: Sequence[str], checks: Checks | None, skeleton: Skeleton) -> dict:
    verified = check_whole_bodies(joints, lengths, labels, checks)
    if verified.isnan().all():
        raise UserError("no label of these clips has a check; name some (--check LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION)")
    composed = torch.tensor(["+" in label for label in labels])

    def share(rows: Tensor) -> tuple[float, int] | None:
        rows = rows & ~verified.isnan()
        return (float(verified[rows].mean()), int(rows.sum())) if rows.any() else None

    single = {label: share(torch.tensor([other == label for other in labels])) for label in sorted(set(labels))}
    body = {name: float(value.mean()) for name, value in body_validity(joints, lengths, skeleton).items()}
    known = {label: found for label, found in single.items() if found and "+" not in label}
    return {
        "verified": float(verified.nanmean()),
        "interval": bootstrap_interval(verified, torch.arange(len(verified))),
        "composed": share(composed),
        "actions": dict(sorted(known.items(), key=lambda item: item[1][0])),
        "n": len(labels),
        **body,
    }


def evaluate_by_action(
    model: str | Path,
    clips: Sequence[Clip],
    checks: Checks | None = None,
    steps: int = 10,
    guidance_scale: float = 2.5,
    seed: int = 0,
    device: str = "cpu",
    solver: str = "ddim",
    eta: float | None = None,
    progress: bool = True,
) -> dict[str, dict]:
    """Ask `model` for every clip once, and check each motion by the clip's labels: rows "model" and "clips".

    Asked is the first caption of each clip, at its length. A row holds verified (mean over all, with `interval`: 95%, over
    captions), composed and actions (share and number of motions each, the lowest first), and the means of `body_validity`.
    Raises `UserError` where no label has a check, and for a check of a label that no clip has.
    """
    policy = load_policy(model, steps, guidance_scale, device, solver, eta)
    skeleton = skeleton_of(policy.denoiser.num_features)
    asked = collate(clips)
    labels = ["+".join(actions) for actions in asked.actions]
    check_labels(checks or {}, [*labels, *chain(*asked.actions)])
    made = torch.zeros(*asked.motion.shape[:2], skeleton.num_joints, 3)
    with tqdm(total=len(asked), desc="motions", disable=not progress) as bar:
        for rows in torch.arange(len(asked)).split(128):
            prompts = [asked.prompts[row] for row in rows]
            joints = features_to_joints(make_motion(policy, prompts, asked.lengths[rows], seed + int(rows[0])), skeleton)
            made[rows, : joints.shape[1]] = joints.cpu()
            bar.update(len(rows))
    seen = {"model": made, "clips": features_to_joints(asked.motion, skeleton)}
    return {name: _row(joints, asked.lengths, labels, checks, skeleton) for name, joints in seen.items()}


def by_action_text(rows: dict[str, dict]) -> str:
    """Both rows as lines of text: all, composed, then the actions, the lowest of the model first."""
    model, real = rows["model"], rows["clips"]
    low, high = model["interval"]

    def told(found: Sequence | None) -> str:
        return "     -" if found is None else f"{found[0]:6.1%}"

    lines = [f"{'passes the geometric check':28} {'model':>6} {'clips':>7} {'n':>5}"]
    lines += [f"{'all':28} {model['verified']:6.1%} {real['verified']:7.1%} {model['n']:5}   model {low:.1%} to {high:.1%}"]
    if model["composed"]:
        lines += [f"{'composed of two':28} {told(model['composed'])} {told(real['composed']):>7} {model['composed'][1]:5}"]
    for label, found in model["actions"].items():
        lines += [f"{label:28} {told(found)} {told(real['actions'][label]):>7} {found[1]:5}"]
    return "\n".join([*lines, "", f"model: {validity_words(model)}", f"clips: {validity_words(real)}"])
