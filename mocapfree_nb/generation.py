"""Motion from sentences into a file: what `mocapfree generate` does, and no more is imported for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mocapfree_nb.evaluation import make_motion
from mocapfree_nb.features import features_to_joints
from mocapfree_nb.files import WEIGHTS, UserError, write_atomically
from mocapfree_nb.models.registry import load_policy
from mocapfree_nb.skeleton import skeleton_of
from mocapfree_nb.vocabulary import warn_of_lengths, warn_of_words

__all__ = ["generate"]


def generate(
    prompts: Sequence[str],
    out: str | Path,
    model: str | Path = WEIGHTS / "denoiser",
    seconds: float = 2.4,
    steps: int = 10,
    guidance_scale: float = 2.5,
    seed: int = 0,
    device: str = "cpu",
    solver: str = "ddim",
    eta: float | None = None,
) -> Path:
    """Generate one motion a prompt; write joints (motions, frames, joints, 3) as .npy, or a page that plays them (.html).

    A .npz holds each motion by itself, with its prompt, and the seed, the model and the frame rate.

    Raises `UserError` for another ending or an empty prompt.
    """
    out = Path(out)
    if out.suffix not in (".npy", ".npz", ".html"):
        raise UserError(
            f"{out}: choose a name that ends in .npy (joints in metres), .npz (the same with prompts and seed) "
            "or .html (a page that plays them)"
        )
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("an empty prompt says nothing to generate")
    policy = load_policy(model, steps, guidance_scale, device, solver, eta)
    skeleton = skeleton_of(policy.denoiser.num_features)
    lengths = torch.full((len(prompts),), max(2, round(seconds * skeleton.fps)))
    warn_of_words(prompts, model)
    warn_of_lengths(policy, lengths)
    try:
        motion = make_motion(policy, prompts, lengths, seed)
    except ValueError as error:  # longer than the model can count, say
        raise UserError(f"{model}: {error}") from error
    joints = features_to_joints(motion, skeleton).cpu().numpy()
    if not np.isfinite(joints).all():  # finite features too large to be added up
        raise UserError(f"{model}: the motion runs out of all bounds; choose a smaller guidance scale, 1 to 8 say")
    if out.suffix == ".npz":
        from mocapfree_nb.output.takes import save_motions

        shown = [{"prompt": prompt, "generated": clip} for prompt, clip in zip(prompts, joints, strict=True)]
        save_motions(out, {"motion": shown}, {"seed": seed, "model": Path(model).name, "fps": skeleton.fps})
        return out
    with write_atomically(out) as temporary:
        if out.suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, joints)
        else:
            from mocapfree_nb.output.page import players_html

            temporary.write_text(players_html(prompts, joints, skeleton), encoding="utf-8")
    return out
