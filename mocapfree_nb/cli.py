"""The command line: a thin front on `mocapfree_nb.experiment`. `mocapfree --help` is the place to start."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.files import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Teach a text-to-motion diffusion model a new action from sentences alone.

    Start with `mocapfree demo`: it adapts the shipped model to an action it never saw and writes a report.
    Then try your own: `mocapfree adapt --prompt "a person salutes with the right hand" --name salute`.
    """,
)

Corpus = Annotated[str, typer.Option(help="'procedural', or a folder: HumanML3D, KIT-ML, BVH or AMASS.")]
MaxFrames = Annotated[int, typer.Option(help="Of longer clips, the middle of this many frames is used.", min=16)]
Device = Annotated[str, typer.Option(help="'cpu', 'cuda', 'cuda:1', 'mps', or 'auto' for the fastest there is.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]
DenoisingSteps = Annotated[int, typer.Option(help="Denoising steps of a motion.", min=2)]
Solver = Annotated[str, typer.Option(help="How noise is walked down: ddim, ddpm, sde-dpmsolver++, sde-dpmsolver++2m ...")]
Eta = Annotated[float | None, typer.Option(help="Share of fresh noise of solver ddim, 0 to 1 (default 1).", min=0, max=1)]
FramesPerSecond = Annotated[float | None, typer.Option(help="Frames a second (default: the skeleton's).", min=0.1, max=999)]
Guidance = Annotated[float, typer.Option(help="Classifier-free guidance scale; 1 is none.")]


class Network(StrEnum):
    denoiser = "denoiser"
    unet = "unet"
    latent = "latent"
    retrieval = "retrieval"
    evaluator = "evaluator"


class ProtocolName(StrEnum):
    humanml3d = "humanml3d"
    kit = "kit"
    retrieval = "retrieval"


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device {name!r} here: {str(error).splitlines()[0]}; use --device auto") from error
    return name


def _refuse_finished(folder: Path) -> None:
    if (folder / "report.json").exists():
        raise UserError(f"{folder} is finished: see {folder / 'report.html'}; choose another --name for a new run")


def _run_folder(name: str, resume: bool) -> Path:
    folder = Path("runs") / name
    if resume:
        _refuse_finished(folder)
    if folder.exists() and not resume:
        raise UserError(f"{folder} exists: go on with --resume, or choose another --name")
    if resume and not folder.exists():
        raise UserError(f"nothing to resume: {folder} does not exist")
    return folder


def _checks(pairs: list[str]) -> dict:
    """"label=known-label" or "label=module:function" to what `experiment.adapt` takes."""
    import importlib

    checks = {}
    for pair in pairs:
        label, _, check = pair.partition("=")
        if not label or not check:
            raise UserError(f"--check wants LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION, not {pair!r}")
        if ":" in check:
            module, _, function = check.partition(":")
            sys.path.insert(0, os.getcwd())
            try:
                checks[label] = getattr(importlib.import_module(module), function)
            except (ImportError, AttributeError) as error:
                raise UserError(f"--check {pair}: {error}") from error
        else:
            checks[label] = check
    return checks


def _announce(report, folder: Path) -> None:
    from mocapfree_nb.experiment import summary

    print(summary(report.values))
    print(f"report: {folder / 'report.html'}")


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Architecture: transformer, unet or latent.")] = "transformer",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="Run folder under runs/.")] = None,
) -> None:
    """The main job: teach the shipped model an action it never saw, and report before and after.

    Takes a few minutes on two CPU cores. A demo that was interrupted goes on where it stopped.
    """
    from mocapfree_nb.experiment import adapt, next_run, shipped_recipe

    recipe = shipped_recipe(model, seed)
    usual = "demo" + ("" if model == "transformer" else f"-{model}") + (f"-seed{seed}" if seed else "")
    folder = Path("runs") / name if name else next_run("runs", usual)
    _refuse_finished(folder)
    print(f"adapting to an unseen action from text alone; the run is kept in {folder}")
    _announce(adapt(**recipe, folder=folder), folder)


@app.command()
def adapt(
    prompt: Annotated[list[str] | None, typer.Option(help="What to practise; repeat for more.")] = None,
    prompts_file: Annotated[Path | None, typer.Option(help="One prompt a line.")] = None,
    leave_out: Annotated[str | None, typer.Option(help="Target: a label of the corpus.")] = None,
    leave_out_words: Annotated[
        list[str] | None, typer.Option(help="Target: clips whose captions have this word; repeat for more.")
    ] = None,
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    source: Annotated[
        str | None, typer.Option(help="Cross-dataset: the corpus the model was trained on; --corpus is the new one.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Denoiser to adapt (default: the shipped one).")] = None,
    full_model: Annotated[Path | None, typer.Option(help="A denoiser that saw the target, to compare with.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network (the reward).")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network (never the reward).")] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="How to verify a label: LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Rounds of practice (default: the recipe's).", min=1)] = None,
    denoising_steps: DenoisingSteps = 10,
    guidance: Guidance = 2.5,
    solver: Solver = "ddim",
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = "auto",
    name: Annotated[str, typer.Option(help="Run folder under runs/.")] = "adapt",
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
) -> None:
    """Adapt a model to prompts, or to an action left out of its training, by reinforcement learning from text.

    Leave-one-out:   mocapfree adapt --leave-out raise-both-arms
    Your own words:  mocapfree adapt --prompt "a person salutes" --prompt "someone gives a salute" --name salute
    Your own data:   mocapfree adapt --corpus DATA --leave-out LABEL --model BASE --retrieval R --evaluator E
    Cross-dataset:   mocapfree adapt --corpus NEW --source OLD --model BASE --retrieval R --evaluator E
    """
    from mocapfree_nb import experiment
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.ddpo import DDPOConfig

    prompts = list(prompt or []) + (_read_prompts(prompts_file) if prompts_file else [])
    if not (prompts or leave_out or leave_out_words or source):
        raise UserError("say what to learn: --prompt, --prompts-file, --leave-out, --leave-out-words or --source")
    folder = _run_folder(name, resume)
    config = DDPOConfig(seed=seed)
    given = {"model": model, "retrieval": retrieval, "evaluator": evaluator}
    shipped = corpus == "procedural" and source is None
    if shipped and model is None and (leave_out_words or leave_out not in (None, *experiment.LEFT_OUT_ACTIONS)):
        raise UserError(
            f"the shipped model lacks {', '.join(experiment.LEFT_OUT_ACTIONS)} only, not "
            f"{leave_out or ', '.join(leave_out_words)}: train one that does (mocapfree pretrain --leave-out LABEL --out FOLDER) "
            "and give it as --model"
        )
    if not shipped and None in given.values():
        missing = ", ".join(f"--{key}" for key, value in given.items() if value is None)
        raise UserError(f"the shipped networks know only the built-in corpus: give {missing} (see mocapfree pretrain)")
    if shipped and leave_out in experiment.LEFT_OUT_ACTIONS and full_model is None:
        full_model = experiment.WEIGHTS / "denoiser"
    report = experiment.adapt(
        target=leave_out,
        corpus=None if shipped and max_frames == 196 else load_corpus(corpus, max_frames=max_frames),
        source=load_corpus(source, max_frames=max_frames) if source else None,
        prompts=prompts or None,
        leave_out_words=leave_out_words or (),
        full_model=full_model,
        checks=_checks(check or []),
        config=replace(config, rollouts=steps) if steps else config,
        steps=denoising_steps,
        guidance_scale=guidance,
        solver=solver,
        eta=eta,
        folder=folder,
        device=_device(device),
        **{key: value for key, value in given.items() if value is not None},
    )
    _announce(report, folder)


def _read_prompts(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{path} holds no prompts: write one a line")
    return prompts


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
    steps: Annotated[
        int | None, typer.Option(help="Training steps, of each part of a latent model (default: as shipped).", min=1)
    ] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="Of latent: how to tell the label left out, as in adapt.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network on a corpus: a motion model (the denoiser, a transformer; the unet; the latent model), the
    retrieval network (the reward) or the evaluator (metrics only). With the defaults this rebuilds the shipped weights.
    """
    from mocapfree_nb import experiment
    from mocapfree_nb.corpus import load_corpus

    shipped = corpus == "procedural" and max_frames == 196  # with the clips that the shipped weights were trained on
    clips, checks = None if shipped else load_corpus(corpus, max_frames=max_frames), _checks(check or [])
    words, device = leave_out_words or (), _device(device)
    experiment.train(network.value, out, clips, leave_out, words, steps, seed, device, checks, start)
    print(f"saved {out}")


@app.command()
def evaluate(
    model: Annotated[Path | None, typer.Option(help="Denoiser to examine (default: shipped, full data).")] = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="The published evaluation instead: humanml3d, kit, or TMR's retrieval.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Of --protocol: the data folder as it ships.")] = None,
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    target: Annotated[str | None, typer.Option(help="A label to examine by itself.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network.")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network.")] = None,
    check: Annotated[list[str] | None, typer.Option(help="LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION.")] = None,
    questions: Annotated[int, typer.Option(help="Held-out prompts to ask for each label group.", min=8)] = 32,
    denoising_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a motion (default: 10; of --protocol: the authors').", min=2, max=1000)
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance scale (default: 2.5; of --protocol: the authors').")
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="How noise is walked down, as in generate (default: ddim; of --protocol: the authors').")
    ] = None,
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the numbers here as JSON.")] = None,
    replications: Annotated[int, typer.Option(help="Of --protocol.", min=1)] = 20,
    samples: Annotated[int | None, typer.Option(help="Of --protocol: samples in a replication (default: all).", min=32)] = None,
    multimodality: Annotated[bool, typer.Option(help="Of --protocol: 100 captions, 30 motions each.")] = True,
    glove: Annotated[Path | None, typer.Option(help="Of --protocol: folder of our_vab_data.npy.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Of --protocol: folder or hub name of the encoder that the model reads.")
    ] = None,
    sentence_encoder: Annotated[
        str | None, typer.Option(help="Of --protocol retrieval: folder or hub name of MPNet.")
    ] = None,
) -> None:
    """Examine a model on held-out prompts: R-precision, FID, distances, verified share, foot skate.

    As papers do:  mocapfree evaluate --protocol humanml3d --data HumanML3D --evaluator t2m --model model.pt --out mdm.json
    Real motion:   the same without --model
    Retrieval:     mocapfree evaluate --protocol retrieval --data HumanML3D --retrieval tmr_humanml3d_guoh3dfeats
    """
    import json

    from mocapfree_nb import experiment
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.files import write_json

    if protocol is not None:
        from mocapfree_nb import protocol as published

        needed = {"--data": data, "--evaluator": evaluator}
        if protocol is ProtocolName.retrieval:
            needed = {"--data": data, "--retrieval": retrieval}
        if missing := [name for name, value in needed.items() if value is None]:
            raise UserError(f"--protocol {protocol} needs {' and '.join(missing)}")
        if protocol is ProtocolName.retrieval:
            print(published.run_retrieval(data, retrieval, text_encoder, sentence_encoder, out, _device(device)))
        else:
            sampling = {"steps": denoising_steps, "guidance_scale": guidance, "eta": eta}
            sampling["solver"] = solver or (None if eta is None else "ddim")  # the only solver that takes an eta
            sampling = {key: value for key, value in sampling.items() if value is not None}
            size = {"replications": replications, "limit": samples, "captions": 100 if multimodality else 0, "seed": seed}
            where = (data, evaluator, model, glove, text_encoder, sampling)
            print(published.run(protocol, *where, out=out, device=_device(device), **size))
        return
    rows = experiment.evaluate(
        model or experiment.WEIGHTS / "denoiser",
        load_corpus(corpus, max_frames=max_frames),
        target,
        retrieval or experiment.WEIGHTS / "retrieval",
        evaluator or experiment.WEIGHTS / "evaluator",
        _checks(check or []),
        questions,
        denoising_steps or 10,
        2.5 if guidance is None else guidance,
        seed,
        _device(device),
        solver or "ddim",
        eta,
    )
    print(json.dumps(rows, indent=1))
    if out:
        write_json(out, rows)


@app.command()
def generate(
    texts: Annotated[list[str] | None, typer.Argument(help="What the motion should show.")] = None,
    out: Annotated[Path, typer.Option(help="File to write: .npy (joints) or .html (player).")] = Path("motion.html"),
    prompts_file: Annotated[Path | None, typer.Option(help="One prompt a line, instead.")] = None,
    model: Annotated[Path | None, typer.Option(help="Denoiser (default: shipped, full data).")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the motion.", min=0.5, max=30)] = 2.4,
    denoising_steps: DenoisingSteps = 10,
    guidance: Guidance = 2.5,
    solver: Solver = "ddim",
    eta: Eta = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Generate motion from text: joints (motions, frames, 22, 3) in metres as .npy, or a page that plays it."""
    from mocapfree_nb import experiment

    prompts = list(texts or []) + (_read_prompts(prompts_file) if prompts_file else [])
    if not prompts:
        raise UserError('say what to generate: mocapfree generate "a person waves with the left hand"')
    model = model or experiment.WEIGHTS / "denoiser"
    path = experiment.generate(prompts, out, model, seconds, denoising_steps, guidance, seed, _device(device), solver, eta)
    print(f"saved {path}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or their report.json.")],
    out: Annotated[Path | None, typer.Option(help="Write the table here as a page (.html).")] = None,
) -> None:
    """Put finished runs side by side: what each learnt and forgot, and what a round of its model costs here.

    mocapfree compare runs/demo runs/demo-unet runs/demo-latent
    """
    from mocapfree_nb.bench import measure_round
    from mocapfree_nb.files import read_json, write_atomically
    from mocapfree_nb.report import comparison_html, comparison_rows, comparison_text

    paths = {str(run): run if run.suffix == ".json" else run / "report.json" for run in runs}
    reports = {name: read_json(path) for name, path in paths.items()}
    unfit = [name for name, report in reports.items() if not {"target", "original", "config"} <= set(report)]
    if unfit:
        raise UserError(f"{unfit[0]} is not the report of an adaptation")
    models = {name: str(report["config"].get("model", "")) for name, report in reports.items()}
    costs = {name: measure_round(model) for name, model in models.items() if Path(model).is_dir()}
    rows = comparison_rows(reports, costs)
    print(comparison_text(rows))
    if out:
        with write_atomically(out) as temporary:
            temporary.write_text(comparison_html(rows), encoding="utf-8")
        print(f"saved {out}")


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
    from mocapfree_nb.checkpoints import convert, read_checkpoint

    settings = {key: value for key, value in (("heads", heads), ("num_timesteps", timesteps)) if value}
    if out:
        print(convert(path, out, statistics, **settings))
        print(f"saved {out}")
    else:
        print(read_checkpoint(path, statistics, **settings).report())


@app.command()
def ablation(
    out: Annotated[Path, typer.Option(help="JSON file of the results; what is in it already is not run again.")],
    variant: Annotated[list[str] | None, typer.Option(help="Only these variants; repeat for more.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.", min=1)] = 3,
    steps: Annotated[int | None, typer.Option(help="Rounds of practice (default: the recipe's).", min=1)] = None,
) -> None:
    """Run the recipe and its variants on the built-in task, over seeds: what is each remedy worth?"""
    from mocapfree_nb import experiment

    experiment.ablate(out, variant or tuple(experiment.ABLATIONS), range(seeds), steps)


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="humanml3d-to-kit, kit-to-humanml3d or leave-one-out; none: list.")] = None,
    humanml3d: Annotated[Path | None, typer.Option(help="Folder of HumanML3D, as it ships.")] = None,
    kit: Annotated[Path | None, typer.Option(help="Folder of KIT-ML, as it ships.")] = None,
    model: Annotated[Path | None, typer.Option(help="Denoiser to adapt: a folder, or a published checkpoint.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network (the reward), ours or TMR.")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network, ours or the published one.")] = None,
    settings: Annotated[str, typer.Option(help="'paper' (as far as public) or 'ours'.")] = "paper",
    space: Annotated[str, typer.Option(help="What kind of model it is: 'joint' or 'latent'.")] = "joint",
    word: Annotated[list[str] | None, typer.Option(help="Of leave-one-out: words of the action (default: kick).")] = None,
    steps: Annotated[int | None, typer.Option(help="Rounds of practice (default: the settings').", min=1)] = None,
    questions: Annotated[int, typer.Option(help="Held-out prompts to ask.", min=8)] = 32,
    max_frames: MaxFrames = 196,
    seed: Seed = 0,
    device: Device = "auto",
    run: Annotated[str | None, typer.Option("--name", help="Run folder under runs/ (default: the recipe's name).")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check data, weights, memory and time; do nothing.")] = False,
) -> None:
    """The paper's experiments: between HumanML3D and KIT-ML, and an action left out, by the paper's settings or ours.

    mocapfree recipe humanml3d-to-kit --humanml3d H --kit K --model M --retrieval R --evaluator E --dry-run
    """
    from mocapfree_nb import recipes

    if name is None:
        print("\n".join(f"{key:18}{value.about}" for key, value in recipes.RECIPES.items()))
        return
    networks = {"model": model, "retrieval": retrieval, "evaluator": evaluator}
    if missing := [f"--{key}" for key, value in networks.items() if value is None]:
        raise UserError(f"give {', '.join(missing)}: a folder of this kit or a published checkpoint")
    data = {key: value for key, value in (("humanml3d", humanml3d), ("kit", kit)) if value}
    rest = {"rollouts": steps, "questions": questions, "max_frames": max_frames, "seed": seed, "device": _device(device)}
    words = {"words": tuple(word)} if word else {}
    plan = recipes.Plan(name, data, settings=settings, space=space, **networks, **rest, **words)
    usual = f"{name}-{space}-{settings}"
    if dry_run:
        found = recipes.dry_run(plan, Path("runs") / (run or usual))
        print(found)
        if not found.ok:
            raise UserError("this run would fail: see the lines marked 'problem'")
        return
    folder = _run_folder(run or usual, resume)
    _announce(recipes.run(plan, folder), folder)


@app.command()
def data(folder: Annotated[Path, typer.Argument(help="A folder of motion with captions.")]) -> None:
    """Say what a data folder is (HumanML3D, KIT-ML, BVH, AMASS), what is in it, and what is wrong with it."""
    import warnings

    from mocapfree_nb.corpus import load_corpus

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corpus = load_corpus(folder)
    print(corpus)
    print(f"{corpus.skeleton.num_joints} joints, {corpus.skeleton.num_features} features, {corpus.fps:g} frames a second")
    print(f"{len(corpus.captions)} different captions; {len(corpus.actions)} labels")
    for warning in caught:
        print(f"note: {warning.message}")


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which: reward_path, features, guidance, rollout, dataset.")] = None,
) -> None:
    """Measure this machine: reward path batched against one by one, features, guidance in one forward.

    `mocapfree bench dataset` writes a folder the size of HumanML3D (5 GB, removed again) and opens it twice.
    """
    from mocapfree_nb.bench import main as run

    run(names)


@contextmanager
def _naming(source: Path) -> Iterator[None]:
    """What drawing and writing refuse in a motion is the user's to mend: one line that names its source."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


@app.command()
def view(
    source: Annotated[Path, typer.Argument(help="A .npy or .bvh file of motion, or a run folder.")],
    out: Annotated[Path | None, typer.Option(help="Page to write (default: beside the source).")] = None,
    fps: FramesPerSecond = None,
) -> None:
    """Write a page that plays motion: what `mocapfree generate` wrote, or before and after of a run."""
    from mocapfree_nb.export import load_takes, takes_html
    from mocapfree_nb.files import write_atomically

    takes, most = load_takes(source), 24
    out = out or (source / "motions.html" if source.is_dir() else source.with_suffix(".html"))
    with _naming(source), write_atomically(out) as temporary:
        temporary.write_text(takes_html(takes[:most], source.stem, fps), encoding="utf-8")
    if len(takes) > most:
        print(f"the first {most} of {len(takes)} motions; the others: mocapfree export {source} --motion NUMBER")
    print(f"open {out.resolve()}")


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="A .npy or .bvh file of motion, or a run folder.")],
    out: Annotated[Path, typer.Option(help="File to write: .gif .mp4 .html .bvh .npy, or a body as .glb .obj .ply.")],
    motion: Annotated[int, typer.Option(help="Which motion of the source, counted from 1.", min=1)] = 1,
    panel: Annotated[str | None, typer.Option(help="Of a run: before, after or 'full data'.")] = None,
    fps: FramesPerSecond = None,
    body: Annotated[
        Path | None, typer.Option(help="SMPL, SMPL-H or SMPL-X model (.npz or its folder) for .glb .obj .ply.")
    ] = None,
    frame: Annotated[int | None, typer.Option(help="For .obj and .ply, from 0 (default: the middle one).")] = None,
) -> None:
    """Write motion as moving pictures (.gif .mp4 .html), a skeleton (.bvh), numbers (.npy) or a body (.glb .obj .ply).

    A run shows before and after side by side; what holds one motion gets the one after adaptation (see --panel).
    Without --body a body is made of capsules. A .glb is animated; an .obj or .ply holds one frame.
    """
    from mocapfree_nb.body import MESH_ENDINGS, dress, save_body
    from mocapfree_nb.export import ENDINGS, choose, export_motion, load_takes

    if out.suffix not in (*ENDINGS, *MESH_ENDINGS):
        raise UserError(f"{out}: choose a name that ends in {', '.join((*ENDINGS, *MESH_ENDINGS))}")
    meshes = out.suffix in MESH_ENDINGS
    if not meshes and (body is not None or frame is not None):
        raise UserError(f"--body and --frame are for {', '.join(MESH_ENDINGS)}, not for {out.suffix}")
    takes = load_takes(source)
    take = choose(takes, motion, panel, out.suffix)
    with _naming(source):
        if meshes:
            said = save_body(out, dress(*take.panels.values(), take.skeleton, body), fps, frame)
        else:
            said = export_motion(take.panels, out, take.skeleton, fps, take.title)
    print(f"saved {out}: {said}" + f" (motion {motion} of {len(takes)})" * (len(takes) > 1))


def main() -> None:
    """Entry point: a user's mistake is one line and exit status 1, Ctrl-C is 130."""
    try:
        app()
    except UserError as error:
        print(f"mocapfree: {error}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # typer makes this of Ctrl-C, without a word
            raise
        print("mocapfree: stopped; an adaptation goes on with --resume (the demo by itself)", file=sys.stderr)
        sys.exit(130)
