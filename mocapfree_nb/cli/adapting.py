"""Commands that adapt a model: demo, adapt, recipe, sweep."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.cli.common import (
    Algorithm, ConfigFile, Corpus, DenoisingSteps, Device, Eta, Guidance, Iterations, MaxFrames, MinStd, Seed, Set, Solver,
    Track, announce, by_main, check_ending, find_function, going_on, launched, pick_device, read_checks, read_prompts,
    refuse_finished, run_folder, say, tracker,
)  # fmt: skip
from mocapfree_nb.cli.settings import parse_pair, read_settings
from mocapfree_nb.files import UserError

app = typer.Typer()


class Experiment(StrEnum):
    leave_one_out = "leave-one-out"
    cross_dataset = "cross-dataset"


class Direction(StrEnum):
    a_to_b = "a-to-b"
    b_to_a = "b-to-a"


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="Architecture: transformer, unet or latent.")] = "transformer",
    experiment: Annotated[Experiment, typer.Option(help="An action left out, or another data set.")] = Experiment.leave_one_out,
    direction: Annotated[
        Direction, typer.Option(help="Of cross-dataset: from the first built-in corpus to the second, or back.")
    ] = Direction.a_to_b,
    algorithm: Algorithm = "exploration",
    seed: Seed = 0,
    iterations: Iterations = None,
    settings: Set = None,
    config: ConfigFile = None,
    track: Track = None,
    name: Annotated[str | None, typer.Option(help="Run folder under runs/.")] = None,
) -> None:
    """The main job: teach the shipped model an action it never saw, and report before and after.

    --experiment cross-dataset: teach a model of one built-in corpus the captions of the other, another person's.

    Takes a few minutes on two CPU cores. A demo that was interrupted goes on where it stopped.
    On several processes: torchrun --nproc-per-node 2 -m mocapfree_nb.cli demo
    """
    from mocapfree_nb.experiment import adapt
    from mocapfree_nb.models.shipped import cross_dataset_recipe, shipped_recipe
    from mocapfree_nb.runs import next_run

    crossing = experiment == Experiment.cross_dataset
    recipe = cross_dataset_recipe(direction, model, seed, algorithm) if crossing else shipped_recipe(model, seed, algorithm)
    recipe |= {"device": pick_device("cpu")} if launched() else {}
    recipe["config"] = replace(recipe["config"], **read_settings(algorithm, settings, config, iterations))
    parts = ["cross-dataset", direction.value] * crossing
    parts += [model] * (model != "transformer") + [algorithm] * (algorithm != "exploration") + [f"seed{seed}"] * (seed != 0)
    usual = "-".join(["demo", *parts])
    folder = by_main(lambda: Path("runs") / name if name else next_run("runs", usual))
    by_main(lambda: refuse_finished(folder))
    unseen = "another data set" if crossing else "an unseen action"
    say(f"adapting to {unseen} from text alone; the run is kept in {folder}")
    with going_on(folder, "checkpoints/last.pt", "the same command"):
        report = adapt(**recipe, folder=folder, on_iteration=tracker(track, folder))
    announce(report, folder)


@app.command()
def adapt(
    prompt: Annotated[list[str] | None, typer.Option(help="What to train on; repeat for more.")] = None,
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
    model: Annotated[
        Path | None, typer.Option(help="Denoiser to adapt (default: the one of generate; of --leave-out: one that lacks it).")
    ] = None,
    full_model: Annotated[Path | None, typer.Option(help="A denoiser that saw the target, to compare with.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network (the reward).")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network (never the reward).")] = None,
    check: Annotated[
        list[str] | None, typer.Option(help="How to verify a label: LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="A reward of your own, as MODULE:FUNCTION of (motion, lengths, prompts).")
    ] = None,
    algorithm: Algorithm = "exploration",
    iterations: Iterations = None,
    settings: Set = None,
    config: ConfigFile = None,
    track: Track = None,
    denoising_steps: DenoisingSteps = 10,
    guidance: Guidance = 2.5,
    solver: Solver = "ddim",
    eta: Eta = None,
    min_std: MinStd = 0.0,
    seed: Seed = 0,
    device: Device = "auto",
    name: Annotated[str, typer.Option(help="Run folder under runs/.")] = "adapt",
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
) -> None:
    """Adapt a model to prompts, or to an action left out of its training, by reinforcement learning from text.

    Leave-one-out:   mocapfree adapt --leave-out raise-both-arms
    Your own words:  mocapfree adapt --prompt "a person salutes" --prompt "someone gives a salute" --name salute
    Your own reward: mocapfree adapt --prompt "a person waves" --reward my_rewards:hands_high --name high
    Your own data:   mocapfree adapt --corpus DATA --leave-out LABEL --model BASE --retrieval R --evaluator E
    Cross-dataset:   mocapfree adapt --corpus NEW --source OLD --model BASE --retrieval R --evaluator E
    On several processes (GPUs, machines): torchrun --nproc-per-node 2 -m mocapfree_nb.cli adapt ...
    """
    from mocapfree_nb import experiment
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.learning import make_config
    from mocapfree_nb.tasks import LEFT_OUT_ACTIONS

    prompts = list(prompt or []) + (read_prompts(prompts_file) if prompts_file else [])
    if not (prompts or leave_out or leave_out_words or source):
        raise UserError("say what to learn: --prompt, --prompts-file, --leave-out, --leave-out-words or --source")
    device = pick_device(device)
    folder = run_folder(name, resume)
    chosen = {"seed": seed} | read_settings(algorithm, settings, config, iterations)
    followed = find_function("--reward", reward) if reward else None
    given = {"model": model, "retrieval": retrieval, "evaluator": evaluator}
    shipped = corpus == "procedural" and source is None
    if shipped and model is None and (leave_out_words or leave_out not in (None, *LEFT_OUT_ACTIONS)):
        raise UserError(
            f"the shipped model lacks {', '.join(LEFT_OUT_ACTIONS)}, not {leave_out or ', '.join(leave_out_words)}: train one "
            "that does (mocapfree pretrain --leave-out LABEL --out FOLDER) and give it as --model"
        )
    if not shipped and None in given.values():
        missing = ", ".join(f"--{key}" for key, value in given.items() if value is None)
        raise UserError(f"the shipped networks know only the built-in corpus: give {missing} (see mocapfree pretrain)")
    if shipped and leave_out in LEFT_OUT_ACTIONS and full_model is None:
        full_model = experiment.WEIGHTS / "denoiser"
    what = "another data set" if source else leave_out or ", ".join(leave_out_words or ()) or "your prompts"
    say(f"adapting to {what} from text alone; the run is kept in {folder}")
    with going_on(folder, "checkpoints/last.pt", "--resume"):
        report = experiment.adapt(
            target=leave_out,
            corpus=None if shipped and max_frames == 196 else load_corpus(corpus, max_frames=max_frames),
            source=load_corpus(source, max_frames=max_frames) if source else None,
            prompts=prompts or None,
            leave_out_words=leave_out_words or (),
            full_model=full_model,
            checks=read_checks(check or []),
            config=make_config(algorithm, crossing=source is not None, **chosen),
            reward=followed,
            steps=denoising_steps,
            guidance_scale=guidance,
            solver=solver,
            eta=eta,
            min_std=min_std,
            folder=folder,
            on_iteration=tracker(track, folder),
            device=device,
            **{key: value for key, value in given.items() if value is not None},
        )
    announce(report, folder)


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
    iterations: Annotated[int | None, typer.Option(help="Iterations of training (default: the settings').", min=1)] = None,
    evaluation_prompts: Annotated[int, typer.Option(help="Held-out prompts to evaluate.", min=8)] = 32,
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
        say("\n".join(f"{key:18}{value.about}" for key, value in recipes.RECIPES.items()))
        return
    networks = {"model": model, "retrieval": retrieval, "evaluator": evaluator}
    if missing := [f"--{key}" for key, value in networks.items() if value is None]:
        raise UserError(f"give {', '.join(missing)}: a folder of this kit or a published checkpoint")
    data = {key: value for key, value in (("humanml3d", humanml3d), ("kit", kit)) if value}
    rest = {"iterations": iterations, "evaluation_prompts": evaluation_prompts, "max_frames": max_frames, "seed": seed}
    rest |= {"device": pick_device(device)}
    words = {"words": tuple(word)} if word else {}
    plan = recipes.Plan(name, data, settings=settings, space=space, **networks, **rest, **words)
    usual = f"{name}-{space}-{settings}"
    if dry_run:
        found = recipes.dry_run(plan, Path("runs") / (run or usual))
        say(found)
        if not found.ok:
            raise UserError("this run would fail: see the lines marked 'problem'")
        return
    folder = run_folder(run or usual, resume)
    with going_on(folder, "checkpoints/last.pt", "--resume"):
        report = recipes.run(plan, folder)
    announce(report, folder)


def _grid(pairs: list[str], algorithm: str = "ddpo") -> dict[str, dict]:
    """"key=a,b" and more of them to all combinations, by a name that says them. Raises `UserError` for one given twice."""
    from itertools import product

    axes = [parse_pair(pair, algorithm) for pair in pairs]
    for number, (key, values) in enumerate(axes):
        if key in [other for other, _ in axes[:number]]:
            raise UserError(f"--set {key} is given twice: give all its values at once, --set {key}=VALUE,VALUE")
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise UserError(f"--set {key} has the value {twice[0]} twice: give each value once")
    combined = [dict(zip([key for key, _ in axes], values, strict=True)) for values in product(*(some for _, some in axes))]
    return {" ".join(f"{key}={value}" for key, value in some.items()): some for some in combined}


@app.command()
def sweep(
    out: Annotated[Path, typer.Option(help="JSON file of the results; a run that is in it is not run again.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE,VALUE: settings to try; several make all combinations.")
    ] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Named variants of the recipe instead; repeat for more.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0.", min=1)] = 3,
    algorithm: Algorithm = "ddpo",
    iterations: Iterations = None,
    leave_out: Annotated[str | None, typer.Option(help="Target: a label of the built-in corpus (default: as demo).")] = None,
    model: Annotated[Path | None, typer.Option(help="Denoiser to adapt: one that lacks --leave-out.")] = None,
    algorithms: Annotated[
        str | None, typer.Option(help="Compare algorithms instead, at equal cost: names with commas between, or all.")
    ] = None,
    regularisers: Annotated[
        bool, typer.Option("--regularisers", help="Of --algorithms: each with each regulariser that it has.")
    ] = False,
    calls: Annotated[
        int | None, typer.Option(help="Of --algorithms: network calls that each may spend (default: 40,000).", min=1000)
    ] = None,
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    full_model: Annotated[Path | None, typer.Option(help="A denoiser that saw the target, to compare with.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network (the reward).")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network (never the reward).")] = None,
    check: Annotated[list[str] | None, typer.Option(help="LABEL=CHECK, as in adapt; repeat for more.")] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Teach each of these all six left-out actions instead: architectures or folders, commas between."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Settings times seeds: adapt once for each, go on where it stopped, print a table and draw a figure beside --out.

    Settings:   mocapfree sweep --out runs/rates.json --set learning_rate=3e-4,1e-3 --set kl_weight=0,0.02
    Ablation:   mocapfree sweep --out runs/ablation.json --algorithm exploration --iterations 1
    Algorithms: mocapfree sweep --out runs/algorithms.json --algorithms all --calls 24000 --seeds 1
    Held back:  mocapfree sweep --out runs/held.json --algorithms draft --regularisers --calls 24000 --seeds 1
    Actions:    mocapfree sweep --out runs/actions.json --models transformer,unet,latent --seeds 1
    """
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.sweep import choose_variants, sweep, sweep_figure, sweep_table

    check_ending(out, ".json", "the table of results, with a figure beside it,")
    if (models or algorithms) and (corpus != "procedural" or full_model or retrieval or evaluator or check):
        given = "--corpus, --full-model, --retrieval, --evaluator and --check"
        raise UserError(f"--models and --algorithms take the built-in corpus and the networks that ship: leave {given} out")
    if calls and not algorithms:
        raise UserError(f"--calls {calls} is what each of --algorithms may spend: give their names too, or leave it out")
    if models:
        if settings or variant or iterations or algorithms or regularisers or model or algorithm != "ddpo":
            raise UserError("--models runs the recipe of the demo on every left-out action: leave the other options out")
        from mocapfree_nb.grid import grid_figure, grid_table, learn_all_actions

        actions = {"actions": [leave_out]} if leave_out else {}
        names = [name.strip() for name in models.split(",")]
        rows = learn_all_actions(out, names, seeds=range(seeds), device=pick_device(device), say=say, **actions)
        say(grid_table(rows))
        grid_figure(rows, out.with_suffix(".png"))
        say(f"saved {out} and {out.with_suffix('.png')}")
        return
    if algorithms:
        if settings or variant or iterations:
            raise UserError("--algorithms compares their defaults at equal --calls: leave --set, --variant and --iterations out")
        from mocapfree_nb.algorithms.comparison import (
            compare_algorithms, comparison_figure, comparison_table, with_regularisers,
        )  # fmt: skip
        from mocapfree_nb.learning import ALGORITHMS

        names = list(ALGORITHMS) if algorithms == "all" else [name.strip() for name in algorithms.split(",")]
        names = with_regularisers(names) if regularisers else names
        given = {key: value for key, value in (("target", leave_out), ("model", model)) if value}
        rows = compare_algorithms(out, names, calls or 40_000, seeds=range(seeds), device=pick_device(device), say=say, **given)
        say(comparison_table(rows))
        comparison_figure(rows, out.with_suffix(".png"))
        say(f"saved {out} and {out.with_suffix('.png')}")
        return
    if regularisers:
        raise UserError("--regularisers wants --algorithms: the names of those to hold back, with commas between")
    if settings and variant:
        raise UserError("give --set or --variant, not both")
    variants = _grid(settings, algorithm) if settings else choose_variants(variant or (), algorithm)
    arguments = {"target": leave_out, "model": model, "device": pick_device(device), "algorithm": algorithm, "say": say}
    networks = {"full_model": full_model, "retrieval": retrieval, "evaluator": evaluator}
    arguments |= {key: value for key, value in networks.items() if value is not None} | {"checks": read_checks(check or [])}
    if corpus != "procedural":
        if leave_out is None or None in (model, retrieval, evaluator):
            needed = "--leave-out, --model, --retrieval and --evaluator"
            raise UserError(f"the shipped networks know only the built-in corpus: with --corpus give {needed}")
        arguments["corpus"] = load_corpus(corpus, max_frames=max_frames)
    rows = sweep(out, variants, range(seeds), iterations, **arguments)
    say(sweep_table(rows))
    sweep_figure(rows, out.with_suffix(".png"))
    say(f"saved {out} and {out.with_suffix('.png')}")
