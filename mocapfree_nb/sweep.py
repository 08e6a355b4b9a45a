"""Settings times seeds: one run of `adapt` each, a table and a figure; a sweep that was interrupted goes on."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from mocapfree_nb.corpus import Corpus, load_corpus
from mocapfree_nb.experiment import adapt
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.files import UserError, write_atomically, write_json
from mocapfree_nb.learning import find_algorithm
from mocapfree_nb.output.comparison import summary
from mocapfree_nb.rows import model_name, read_rows, refuse_others
from mocapfree_nb.tasks import LEFT_OUT

__all__ = ["ABLATIONS", "choose_variants", "sweep", "sweep_table", "sweep_figure"]

PLAIN = {"advantage": "group", "weigh_timesteps": False, "distillation_weight": 0.0}
ABLATIONS: dict[str, dict] = {  # name -> settings that differ from DDPO's recipe, or "contrastive", "mirrored"
    "the recipe": {},
    "plain DDPO": PLAIN,
    "reward at the end only": {"advantage": "group"},
    "per-step advantage, no branching": {"advantage": "per_step"},
    "contrastive reward": {"contrastive": True},
    "no timestep weights": {"weigh_timesteps": False},
    "no self-distillation": {"distillation_weight": 0.0},
    "KL instead of self-distillation": {"distillation_weight": 0.0, "kl_weight": 0.02},
    "all weights, no LoRA": {"lora_rank": 0, "learning_rate": 1e-4},
}
NO_CHANCE = {"bent": 0.0, "stepping": 0.0, "leaping": 0.0, "springing": 0.0}
EXPLORATION_ABLATIONS: dict[str, dict] = {  # the same of exploration: settings of `LearnConfig` and of `ExploreConfig`
    "the recipe": {},
    "no recombination": {"kinds": [1, 0, 0, 0, 0, 0], "joined": 0.0, "twice": 0.0, "mirror": 0.0, **NO_CHANCE, "generations": 1},
    "no mirror image": {"kinds": [1, 1, 3, 0, 1, 1], "mirror": 0.0},
    "nothing added by chance": NO_CHANCE,
    "sliding costs nothing": {"sliding": 0.0},
    "all proposals at once": {"generations": 1},
    "nothing joined, nothing twice": {"joined": 0.0, "twice": 0.0},
    "lengths of anything known": {"near_lengths": False},
    "the best of all prompts": {"each_prompt": False},
    "no self-distillation": {"distillation": 0.0},
    "no weight on bones": {"bones": 0.0},
    "no DDPO after it": {"ddpo_iterations": 0},
}
OF_SEARCH = {field.name for field in fields(ExploreConfig)}
COLUMNS = {  # of the table: title -> what of a row
    "reward": lambda row: row["reward"]["after"],
    "verified": lambda row: row["target"]["after"]["verified"],
    "R-precision@1": lambda row: row["target"]["after"]["r_precision"][0],
    "FID": lambda row: row["target"]["after"]["fid"],
    "foot skating": lambda row: row["target"]["after"]["foot_skate"],
    "others verified": lambda row: row["original"]["after"]["verified"],
}


def _plan(change: Mapping, seed: int, iterations: int | None, algorithm: str) -> dict:
    """What `adapt` is called with for these settings and this seed; `UserError` for settings that cannot be meant."""
    kind, change = find_algorithm(algorithm), dict(change)
    counted = "rounds" if algorithm == "exploration" else "iterations"
    if taken := [key for key in ("seed", *[counted] * (iterations is not None)) if key in change]:
        raise UserError(f"{taken[0]} is a setting to try and fixed for all runs (--seeds, --iterations): give one of them")
    plan = {key: change.pop(key) for key in ("contrastive", "mirrored") if key in change}
    if algorithm == "exploration":  # of any other, `keep` and the like are its own
        search = {key: change.pop(key) for key in OF_SEARCH - {field.name for field in fields(kind)} & change.keys()}
        search = {key: tuple(value) if isinstance(value, list) else value for key, value in search.items()}
        plan |= {"search": ExploreConfig(**search)} if search else {}
    change |= {counted: iterations} if iterations else {}
    return plan | {"config": kind(**{"seed": seed} | change)}


def _run(plan: Mapping, say: Callable, **arguments) -> dict:
    """One adaptation as planned: what a row keeps of it."""
    values = adapt(sample_instead=False, **plan, **arguments).values
    say(summary(values))
    return {key: values[key] for key in ("target", "original", "reward", "gap_closed", "selection", "wall_clock_s")}


def sweep(
    out: str | Path,
    variants: Mapping[str, Mapping] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    iterations: int | None = None,
    corpus: Corpus | None = None,
    algorithm: str = "ddpo",
    say: Callable[[str], object] = print,
    **arguments,
) -> list[dict]:
    """Run every variant with every seed; write one row a run to `out` (JSON) as they finish, and return all rows.

    `variants` maps a name to settings of `algorithm` that differ from its recipe (default: all of `choose_variants`);
    `arguments` go to `adapt`. A run whose row is already in `out` is not run again. Raises `UserError` before the first run
    for settings that cannot be meant, a name that stands there for other settings, and rows of another experiment.
    """
    variants = choose_variants((), algorithm) if variants is None else variants
    plans = {(name, seed): _plan(variants[name], seed, iterations, algorithm) for seed in seeds for name in variants}
    rows = read_rows(out, "runs", {"variant": str, "seed": int, "target": dict}, COLUMNS)
    for row in rows:
        if row["variant"] in variants and row.get("settings", dict(variants[row["variant"]])) != variants[row["variant"]]:
            raise UserError(f"{out}: {row['variant']!r} stands there for other settings; choose another file or another name")
    corpus = corpus or load_corpus()
    experiment = {"algorithm": algorithm, "iterations": iterations, "corpus": corpus.source}
    experiment |= {key: model_name(arguments.get(key)) for key in ("model", "full_model", "retrieval", "evaluator")}
    target = arguments.get("target") or LEFT_OUT
    said = [row | {"target": row["target"].get("name", target)} for row in rows]  # the numbers of the target have its name
    refuse_others(out, said, experiment | {"target": target})
    write_json(out, {"runs": rows})  # a place that cannot be written shows now, not after the first run
    for (name, seed), plan in plans.items():
        if any((row["variant"], row["seed"]) == (name, seed) for row in rows):
            continue
        say(f"{name} (seed {seed})")
        found = _run(plan, say, corpus=corpus, **arguments)
        rows.append({"variant": name, "seed": seed, "settings": dict(variants[name])} | experiment | found)
        write_json(out, {"runs": rows})
    return rows


def choose_variants(names: Sequence[str], algorithm: str = "ddpo") -> dict[str, dict]:
    """The variants of an algorithm with these names, all for none. Raises `UserError` for one that is not there."""
    known = {"ddpo": ABLATIONS, "exploration": EXPLORATION_ABLATIONS}.get(algorithm)
    if known is None:
        raise UserError(f"{algorithm} has no named variants; give --set KEY=VALUE,VALUE")
    for name in names:
        if name not in known:
            raise UserError(f"unknown variant {name!r}; the variants are {', '.join(known)}")
    return {name: known[name] for name in names or known}


def _cell(values: Sequence[float | None]) -> str:
    """Mean and deviation over seeds."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return f"{statistics.fmean(there):.3f}" + (f" ± {statistics.pstdev(there):.3f}" if len(there) > 1 else "")


def sweep_table(rows: Sequence[Mapping]) -> str:
    """One line a variant as plain text: mean ± deviation over its seeds of the columns of `COLUMNS`."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    table = [["variant", "seeds", *COLUMNS]]
    for name in names:
        own = [row for row in rows if row["variant"] == name]
        table.append([name, str(len(own)), *(_cell([read(row) for row in own]) for read in COLUMNS.values())])
    wide = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip() for line in table)


def sweep_figure(rows: Sequence[Mapping], path: str | Path) -> None:
    """A figure (.png or .svg): what was learnt against what was retained, a point a run, its variant in words."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        points = [(COLUMNS["others verified"](row), COLUMNS["verified"](row)) for row in own]
        points = [point for point in points if None not in point]
        if points:
            axes.scatter(*zip(*points, strict=True), label=name)
    axes.set(xlabel="verified on the other actions", ylabel="verified on the target", title="Learnt and retained, a point a run")
    if axes.collections:
        axes.legend(fontsize=8)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")
