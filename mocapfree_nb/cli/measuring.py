"""Commands that measure: evaluate, reward-card, compare, bench."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mocapfree_nb.cli.common import Corpus, Device, Eta, MaxFrames, Seed
from mocapfree_nb.cli.common import check_ending, check_finite, find_function, pick_device, read_checks, say
from mocapfree_nb.files import UserError

app = typer.Typer()


class ProtocolName(StrEnum):
    humanml3d = "humanml3d"
    kit = "kit"
    retrieval = "retrieval"


_SAMPLED = {"model", "denoising_steps", "guidance", "solver", "eta", "seed", "device", "out"}
_OPTIONS = {  # of evaluate: what is measured -> the options that it heeds
    "--protocol": _SAMPLED
    | {"protocol", "data", "evaluator", "glove", "text_encoder", "replications", "samples", "multimodality"},
    "--protocol retrieval": {"protocol", "data", "retrieval", "text_encoder", "sentence_encoder", "device", "out"},
    "--by-action": _SAMPLED | {"by_action", "corpus", "max_frames", "check"},
    "held-out prompts": _SAMPLED | {"corpus", "max_frames", "target", "retrieval", "evaluator", "check", "evaluation_prompts"},
}


def _refuse_unheeded(context: typer.Context, protocol: ProtocolName | None, by_action: bool) -> None:
    """`UserError` for options on the command line that have no part in what `evaluate` is asked for."""
    measured = "--by-action" if by_action else "held-out prompts"
    if protocol is not None:
        measured = "--protocol retrieval" if protocol is ProtocolName.retrieval else "--protocol"
    given = [option for option in context.command.params if context.get_parameter_source(option.name).name == "COMMANDLINE"]
    if rest := [option for option in given if option.name not in _OPTIONS[measured]]:
        where = [name for name, heeded in _OPTIONS.items() if all(option.name in heeded for option in rest)]
        there = f"{'they are' if len(rest) > 1 else 'it is'} of {' and '.join(where)}, " if where else ""
        names = ", ".join(option.opts[0] for option in rest)
        raise UserError(f"an evaluation by {measured} heeds no {names}: {there}leave {'them' if len(rest) > 1 else 'it'} out")


@app.command()
def evaluate(
    context: typer.Context,
    model: Annotated[Path | None, typer.Option(help="Denoiser to evaluate (default: shipped, full data).")] = None,
    protocol: Annotated[
        ProtocolName | None, typer.Option(help="The published evaluation instead: humanml3d, kit, or TMR's retrieval.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Of --protocol: the data folder as it ships.")] = None,
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    target: Annotated[str | None, typer.Option(help="A label to evaluate by itself.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Retrieval network.")] = None,
    evaluator: Annotated[Path | None, typer.Option(help="Evaluator network.")] = None,
    check: Annotated[list[str] | None, typer.Option(help="LABEL=KNOWN_LABEL or LABEL=MODULE:FUNCTION.")] = None,
    evaluation_prompts: Annotated[int, typer.Option(help="Held-out prompts.", min=8)] = 32,
    by_action: Annotated[
        bool, typer.Option("--by-action", help="The share that passes the geometric check, action by action, instead.")
    ] = False,
    denoising_steps: Annotated[
        int | None, typer.Option(help="Denoising steps of a motion (default: 10; of --protocol: the authors').", min=2, max=1000)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance scale (default: 2.5; of --protocol: the authors').", callback=check_finite),
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="Sampler, as in generate (default: ddim; of --protocol: the authors').")
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
    """Evaluate a model on held-out prompts: R-precision, FID, distances, verified share, foot skate.

    As papers do:  mocapfree evaluate --protocol humanml3d --data HumanML3D --evaluator t2m --model model.pt --out mdm.json
    Real motion:   the same without --model
    Retrieval:     mocapfree evaluate --protocol retrieval --data HumanML3D --retrieval tmr_humanml3d_guoh3dfeats
    What it does:  mocapfree evaluate --by-action
    (of 1,050 captions of the built-in generator that no training has seen, or of those of the test split of --corpus)
    """
    import json

    from mocapfree_nb import experiment
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.files import write_json

    _refuse_unheeded(context, protocol, by_action)
    if protocol is not None:
        from mocapfree_nb.published import protocol as published
        from mocapfree_nb.published.retrieval_protocol import run_retrieval

        needed = {"--data": data, "--evaluator": evaluator}
        if protocol is ProtocolName.retrieval:
            needed = {"--data": data, "--retrieval": retrieval}
        if missing := [name for name, value in needed.items() if value is None]:
            raise UserError(f"--protocol {protocol} needs {' and '.join(missing)}")
        if protocol is ProtocolName.retrieval:
            say(run_retrieval(data, retrieval, text_encoder, sentence_encoder, out, pick_device(device)))
        else:
            sampling = {"steps": denoising_steps, "guidance_scale": guidance, "eta": eta}
            sampling["solver"] = solver or (None if eta is None else "ddim")  # the only solver that takes an eta
            sampling = {key: value for key, value in sampling.items() if value is not None}
            size = {"replications": replications, "limit": samples, "captions": 100 if multimodality else 0, "seed": seed}
            where = (data, evaluator, model, glove, text_encoder, sampling)
            say(published.run(protocol, *where, out=out, device=pick_device(device), **size))
        return
    if by_action:
        from mocapfree_nb.by_action import by_action_text, clips_to_ask_for, evaluate_by_action

        scale = 2.5 if guidance is None else guidance
        sampling = (denoising_steps or 10, scale, seed, pick_device(device), solver or "ddim", eta)
        clips = clips_to_ask_for(corpus, max_frames)
        found = evaluate_by_action(model or experiment.WEIGHTS / "denoiser", clips, read_checks(check or []), *sampling)
        say(by_action_text(found))
        if out:
            write_json(out, found)
        return
    rows = experiment.evaluate(
        model or experiment.WEIGHTS / "denoiser",
        load_corpus(corpus, max_frames=max_frames),
        target,
        retrieval or experiment.WEIGHTS / "retrieval",
        evaluator or experiment.WEIGHTS / "evaluator",
        read_checks(check or []),
        evaluation_prompts,
        denoising_steps or 10,
        2.5 if guidance is None else guidance,
        seed,
        pick_device(device),
        solver or "ddim",
        eta,
    )
    say(json.dumps(rows, indent=1))
    if out:
        write_json(out, rows)


@app.command("reward-card")
def reward_card(
    networks: Annotated[
        list[Path] | None, typer.Argument(help="Folders of retrieval networks (default: shipped); of several, their mean too.")
    ] = None,
    corpus: Corpus = "procedural",
    max_frames: MaxFrames = 196,
    reward: Annotated[list[str] | None, typer.Option(help="A reward of your own too: MODULE:FUNCTION.")] = None,
    clips: Annotated[int, typer.Option(help="Clips of the test split to measure with.", min=8)] = 640,
    out: Annotated[Path | None, typer.Option(help="Folder for reward_card.json and the figure, reward_card.png.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Say what a reward can and cannot tell apart: actions, sides, order, counts, arms that are nearly up.

    mocapfree reward-card --out runs/card
    """
    from mocapfree_nb import reward_card as measured
    from mocapfree_nb.corpus import load_corpus
    from mocapfree_nb.files import WEIGHTS, write_json
    from mocapfree_nb.output.card import card_figure, card_text
    from mocapfree_nb.retrieval import RetrievalModel
    from mocapfree_nb.rewards import RetrievalReward

    own = {name: find_function("--reward", name) for name in reward or []}
    folders = networks or ([] if own else [WEIGHTS / "retrieval"])
    models = {str(path): RetrievalModel.from_folder(path, pick_device(device)) for path in folders}
    rewards = {"shipped" if path == str(WEIGHTS / "retrieval") else path: RetrievalReward(m) for path, m in models.items()}
    if len(rewards) > 1:
        rewards[f"mean of {len(rewards)}"] = measured.mean_reward(list(rewards.values()))
    found = load_corpus(corpus, max_frames=max_frames)
    batch = measured.choose_clips(found, clips, seed)
    cards = {name: measured.reward_card(score, batch) for name, score in (rewards | own).items()}
    say("\n\n".join(card_text(name, card) for name, card in cards.items()))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "reward_card.json", {"corpus": found.source, "seed": seed, "cards": cards})
        card_figure(cards, out / "reward_card.png")
        say(f"saved {out}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, or their report.json.")],
    out: Annotated[Path | None, typer.Option(help="Write the table here as a page (.html).")] = None,
) -> None:
    """Put finished runs side by side: what each learnt and forgot, and what an iteration of its model costs here.

    mocapfree compare runs/demo runs/demo-unet runs/demo-latent
    """
    from mocapfree_nb.bench import measure_iteration
    from mocapfree_nb.files import write_atomically
    from mocapfree_nb.output.comparison import comparison_html, comparison_rows, comparison_text, read_report

    check_ending(out, ".html", "a page")
    paths = {str(run): run if run.suffix == ".json" else run / "report.json" for run in runs}
    reports = {name: read_report(path) for name, path in paths.items()}
    models = {name: str(report["config"].get("model", "")) for name, report in reports.items()}
    cost = {model: measure_iteration(model) for model in dict.fromkeys(models.values()) if os.path.isdir(model)}
    rows = comparison_rows(reports, {name: cost[model] for name, model in models.items() if model in cost})
    say(comparison_text(rows))
    if out:
        with write_atomically(out) as temporary:
            temporary.write_text(comparison_html(rows), encoding="utf-8")
        say(f"saved {out}")


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which: reward_path, features, rollout, dataset, gpu ...")] = None,
) -> None:
    """Measure this machine: reward path batched against one by one, features, guidance in one forward.

    `mocapfree bench dataset` writes a folder the size of HumanML3D (5 GB, removed again) and opens it twice.
    `mocapfree bench gpu` measures rollouts and iterations of DDPO on the GPU.
    """
    from mocapfree_nb.bench import main as run

    run(names)
