"""Commands on motion: generate, actions, playground, view, export."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.cli.common import (
    DenoisingSteps, Device, Eta, FramesPerSecond, Guidance, Seed, Solver, check_finite, note, pick_device, read_prompts, say,
)  # fmt: skip
from mocapfree_nb.files import UserError

app = typer.Typer()


class JointNames(StrEnum):
    humanml3d = "humanml3d"
    mixamo = "mixamo"
    unreal = "unreal"


@app.command()
def actions() -> None:
    """Say what the shipped models know: every action with an example sentence, and which the leave-one-out models lack."""
    from mocapfree_nb.tasks import LEFT_OUT_ACTIONS
    from mocapfree_nb.vocabulary import known_actions

    known = known_actions()
    lacked = {label for label in known for action in LEFT_OUT_ACTIONS if {*action.split("+")} <= {*label.split("+")}}
    for label, sentence in known.items():
        lacking = "   (the leave-one-out models were trained without)" if label in lacked else ""
        say(f"{label:32} {sentence}{lacking}")


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """What drawing and writing refuse in a motion is the user's to mend: one line that names its source."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


@app.command()
def generate(
    texts: Annotated[list[str] | None, typer.Argument(help="What the motion should show.")] = None,
    out: Annotated[
        Path, typer.Option(help="File to write: .html (player), .npz (joints with prompt, seed, model) or .npy.")
    ] = Path("motion.html"),
    prompts_file: Annotated[Path | None, typer.Option(help="One prompt a line, instead.")] = None,
    model: Annotated[Path | None, typer.Option(help="Denoiser (default: shipped, full data).")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the motion.", min=0.5, max=30, callback=check_finite)] = 2.4,
    denoising_steps: DenoisingSteps = 10,
    guidance: Guidance = 2.5,
    solver: Solver = "ddim",
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Generate motion from text: joints (motions, frames, 22, 3) in metres as .npy or .npz, or a page that plays it."""
    from mocapfree_nb import generation
    from mocapfree_nb.files import WEIGHTS

    prompts = list(texts or []) + (read_prompts(prompts_file) if prompts_file else [])
    if not prompts:
        raise UserError('say what to generate: mocapfree generate "a person waves with the left hand"')
    model = model or WEIGHTS / "denoiser"
    if len(texts or ()) > 2 and all(len(text.split()) == 1 for text in texts):
        note(f"{len(texts)} motions, one of each word; for one motion of all put quotes around it: \"{' '.join(texts)}\"")
    how = (denoising_steps, guidance, seed, pick_device(device), solver, eta)
    path = generation.generate(prompts, out, model, seconds, *how)
    say(f"saved {path}")


@app.command()
def playground(
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("playground.html"),
    before: Annotated[Path | None, typer.Option(help="Model or run on the left (default: shipped, lacks six actions).")] = None,
    after: Annotated[Path | None, typer.Option(help="Model or run on the right (default: shipped, full data).")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="A sentence of your own in the list; repeat for more.")] = None,
) -> None:
    """Write one page in which two models run in the browser: pick a sentence, change the sampler, watch it denoise.

    The page needs no network and no server: 7.8 MB, the first motion after 1.3 s, on a phone too. The same seed gives what
    `mocapfree generate` makes, within 1e-4 (python -m pytest tests/test_playground.py).
    """
    from mocapfree_nb.output.playground import save_playground

    path = save_playground(out, before, after, prompt or [])
    say(f"open {path.resolve()} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def view(
    source: Annotated[Path, typer.Argument(help="A .npy, .npz or .bvh file of motion, or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="Page to write (default: beside the source).")] = None,
    fps: FramesPerSecond = None,
) -> None:
    """Write a page that plays motion: what `mocapfree generate` wrote, or before and after of a run."""
    from mocapfree_nb.output.takes import load_takes, takes_html
    from mocapfree_nb.files import write_atomically

    if out is not None and out.suffix.lower() != ".html":
        raise UserError(f"{out}: view writes a page, so choose a name that ends in .html (mocapfree export writes other files)")
    takes, most = load_takes(source), 24
    out = out or (source / "motions.html" if source.is_dir() else source.with_suffix(".html"))
    with _naming(source), write_atomically(out) as temporary:
        title = takes[0].title if len(takes) == 1 else source.stem
        temporary.write_text(takes_html(takes[:most], title, fps or takes[0].about.get("fps")), encoding="utf-8")
    if len(takes) > most:
        say(f"the first {most} of {len(takes)} motions; the others: mocapfree export {source} --motion NUMBER")
    say(f"open {out.resolve()}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A .npy, .npz or .bvh file of motion, or a run folder.")],
    out: Annotated[Path, typer.Option(help="File to write: .gif .mp4 .html .bvh .npy, or a body as .glb .obj .ply.")],
    motion: Annotated[int, typer.Option(help="Which motion of the source, counted from 1.", min=1)] = 1,
    panel: Annotated[str | None, typer.Option(help="Of a run: before, after or 'full data'.")] = None,
    fps: FramesPerSecond = None,
    body: Annotated[
        Path | None, typer.Option(help="SMPL, SMPL-H or SMPL-X model (.npz or its folder) for .glb .obj .ply.")
    ] = None,
    frame: Annotated[int | None, typer.Option(help="For .obj and .ply, from 0 (default: the middle one).")] = None,
    joint_names: Annotated[JointNames, typer.Option(help="What joints are called in .bvh and .glb.")] = JointNames.humanml3d,
    t_pose: Annotated[bool, typer.Option("--t-pose", help="Of .bvh and .glb: put a T-pose before the first frame.")] = False,
) -> None:
    """Write motion as moving pictures (.gif .mp4 .html), a skeleton (.bvh), numbers (.npy) or a body (.glb .obj .ply).

    A run shows before and after side by side; what holds one motion gets the one after adaptation (see --panel).
    A .bvh or .glb has the joints of the skeleton and, for all clips of a model, the same bones; a .glb also keeps the prompt,
    the seed and the model of a .npz or a run. Without --body a body is made of capsules. A .glb is animated; an .obj or
    .ply holds one frame.
    """
    from mocapfree_nb.output.body import MESH_ENDINGS, dress, save_body
    from mocapfree_nb.output.takes import ENDINGS, choose, export_motion, load_takes

    if out.suffix not in (*ENDINGS, *MESH_ENDINGS):
        raise UserError(f"{out}: choose a name that ends in {', '.join((*ENDINGS, *MESH_ENDINGS))}")
    meshes = out.suffix in MESH_ENDINGS
    if not meshes and (body is not None or frame is not None):
        raise UserError(f"--body and --frame are for {', '.join(MESH_ENDINGS)}, not for {out.suffix}")
    if out.suffix not in (".bvh", ".glb") and (t_pose or joint_names is not JointNames.humanml3d):
        raise UserError(f"--joint-names and --t-pose are for .bvh and .glb, not for {out.suffix}")
    takes = load_takes(source)
    take = choose(takes, motion, panel, out.suffix)
    fps = fps or take.about.get("fps")
    with _naming(source):
        if meshes:
            figure = dress(*take.panels.values(), take.skeleton, body)
            said = save_body(out, figure, fps, frame, joint_names.value, t_pose, take.about)
        else:
            said = export_motion(take.panels, out, take.skeleton, fps, take.title, joint_names.value, t_pose)
    say(f"saved {out}: {said}" + f" (motion {motion} of {len(takes)})" * (len(takes) > 1))
