"""Commands that make networks and look at data: pretrain, checkpoint, data."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.cli.common import Corpus, Device, MaxFrames, Seed, going_on, launched, pick_device, read_checks, say
from mocapfree_nb.files import UserError

app = typer.Typer()


class Network(StrEnum):
    denoiser = "denoiser"
    unet = "unet"
    latent = "latent"
    retrieval = "retrieval"
    evaluator = "evaluator"


@app.command()
def pretrain(
    network: Annotated[Network, typer.Argument(help="What to train.")] = Network.denoiser,
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")] = Path("runs/pretrained"),
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    leave_out: Annotated[str | None, typer.Option(help="Label to train without; several with commas between.")] = None,
    start: Annotated[Path | None, typer.Option(help="Saved denoiser to go on from.")] = None,
    leave_out_words: Annotated[
        list[str] | None, typer.Option(help="Train without captions that have this word; repeat for more.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Iterations of training, of each part of a latent model (default: as shipped).", min=1)
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="Of latent: how to tell the label left out, as in adapt.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network on a corpus: a motion model (the denoiser, a transformer; the unet; the latent model), the
    retrieval network (the reward) or the evaluator (metrics only). With the defaults this rebuilds the shipped weights.
    On several processes (denoiser, unet): torchrun --nproc-per-node 2 -m mocapfree_nb.cli pretrain ...
    """
    from mocapfree_nb.models import shipped as networks
    from mocapfree_nb.built_in import built_in
    from mocapfree_nb.corpus import load_corpus

    shipped = built_in(corpus) and max_frames == 196  # with the clips that the shipped weights were trained on
    clips, checks = corpus if shipped else load_corpus(corpus, max_frames=max_frames), read_checks(check or [])
    if launched() and network not in (Network.denoiser, Network.unet):
        raise UserError(f"pretrain {network.value} is the work of one process; several share pretrain denoiser and pretrain unet")
    words, device = leave_out_words or (), pick_device(device)
    with going_on(out, "checkpoint.pt", "the same command"):
        networks.train(network.value, out, clips, leave_out, words, iterations, seed, device, checks, start)
    say(f"saved {out}")


@app.command()
def checkpoint(
    path: Annotated[Path, typer.Argument(help="A published file of weights, or its folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write config.json and model.safetensors to.")] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Folder with mean and deviation, if they do not lie near the weights.")
    ] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads, which no array shows (default: 4).", min=1)] = None,
    timesteps: Annotated[int | None, typer.Option(help="Diffusion steps, where no file beside says them.", min=1)] = None,
) -> None:
    """Say what a published checkpoint is (MDM, MLD, StableMoFusion, TMR, the Guo evaluator), and convert it.

    Runs nothing that lies in the file. Every array must find its place: what is missing or left over is named.
    """
    from mocapfree_nb.published.checkpoints import convert, read_checkpoint

    settings = {key: value for key, value in (("heads", heads), ("num_timesteps", timesteps)) if value}
    if out:
        say(convert(path, out, statistics, **settings))
        say(f"saved {out}")
    else:
        say(read_checkpoint(path, statistics, **settings).report())


@app.command()
def data(folder: Annotated[Path, typer.Argument(help="A folder of motion with captions.")]) -> None:
    """Say what a data folder is (HumanML3D, KIT-ML, BVH, AMASS), what is in it, and what is wrong with it."""
    import warnings

    from mocapfree_nb.corpus import load_corpus

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corpus = load_corpus(folder)
    say(corpus)
    say(f"{corpus.skeleton.num_joints} joints, {corpus.skeleton.num_features} features, {corpus.fps:g} frames a second")
    say(f"{len(corpus.captions)} different captions; {len(corpus.actions)} labels")
    for warning in caught:
        say(f"note: {warning.message}")
