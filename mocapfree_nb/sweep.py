"""Settings times seeds: one run of `adapt` each, a table and a figure; a sweep that was interrupted goes on."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from mocapfree_nb.corpus import Corpus, load_corpus
from mocapfree_nb.experiment import adapt
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.files import UserError, write_atomically, write_json
from mocapfree_nb.learning import find_algorithm
from mocapfree_nb.reading import read_json
from mocapfree_nb.output.comparison import summary

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
EXPLORATION_ABLATIONS: dict[str, dict] = {  # the same of exploration: settings of `LearnConfig` and of `ExploreConfig`
    "the recipe": {},
    "no recombination": {"kinds": [1, 0, 0, 0, 0, 0], "joined": 0.0, "twice": 0.0, "mirror": 0.0, "bent": 0.0},
    "no mirror image": {"kinds": [1, 1, 3, 0, 1, 1], "mirror": 0.0},
    "nothing bent": {"bent": 0.0, "proposals": 96},
    "nothing joined, nothing twice": {"joined": 0.0, "twice": 0.0},
    "lengths of anything known": {"near_lengths": False},
    "the best of all prompts": {"each_prompt": False},
    "no self-distillation": {"distillation": 0.0},
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


def _read_rows(out: str | Path) -> list[dict]:
    """The rows that a sweep wrote so far; `UserError` for a file that holds something else."""
    rows = read_json(out).get("runs") if os.path.exists(out) else []
    if not isinstance(rows, list):
        raise UserError(f"{out} holds no rows of a sweep; choose another file")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not isinstance(row.get("variant"), str) or type(row.get("seed")) is not int:
            raise UserError(f"{out}: row {number} names no variant and seed; mend it, or choose another file")
    return rows


def _run(change: Mapping, seed: int, iterations: int | None, corpus: Corpus, algorithm: str, say: Callable, **arguments) -> dict:
    """One adaptation with these settings: what a row keeps of it."""
    change = dict(change)
    rewards = {key: change.pop(key) for key in ("contrastive", "mirrored") if key in change}
    search = {key: change.pop(key) for key in OF_SEARCH & change.keys()}
    if search:
        search = {key: tuple(value) if isinstance(value, list) else value for key, value in search.items()}
        arguments["search"] = ExploreConfig(**search)
    change |= {"rounds" if algorithm == "exploration" else "iterations": iterations} if iterations else {}
    config = find_algorithm(algorithm)(**{"seed": seed} | change)
    values = adapt(corpus=corpus, config=config, sample_instead=False, **rewards, **arguments).values
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
    `arguments` go to `adapt`. A run whose row is already in `out` is not run again; a name that stands there for other
    settings is refused.
    """
    variants = choose_variants((), algorithm) if variants is None else variants
    rows = _read_rows(out)
    for row in rows:
        if row["variant"] in variants and row.get("settings", dict(variants[row["variant"]])) != variants[row["variant"]]:
            raise UserError(f"{out}: {row['variant']!r} stands there for other settings; choose another file or another name")
    corpus = corpus or load_corpus()
    write_json(out, {"runs": rows})  # a place that cannot be written shows now, not after the first run
    for seed in seeds:
        for name, change in variants.items():
            if any((row["variant"], row["seed"]) == (name, seed) for row in rows):
                continue
            say(f"{name} (seed {seed})")
            found = _run(change, seed, iterations, corpus, algorithm, say=say, **arguments)
            rows.append({"variant": name, "seed": seed, "settings": dict(change)} | found)
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
