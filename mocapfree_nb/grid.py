"""Every action that the shipped base models lack, learnt by every architecture: one run of `adapt` each, a table, a figure."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.experiment import PHASES, adapt
from mocapfree_nb.files import WEIGHTS, UserError, write_atomically, write_json
from mocapfree_nb.models.registry import load_denoiser
from mocapfree_nb.models.shipped import ARCHITECTURES, SHIPPED, shipped_recipe
from mocapfree_nb.output.comparison import summary
from mocapfree_nb.rows import read_rows
from mocapfree_nb.tasks import LEFT_OUT_ACTIONS, without_others
from mocapfree_nb.viewer import _strip_class

__all__ = ["find_models", "learn_all_actions", "grid_table", "grid_figure"]

KEPT = ("verified", "interval", "r_precision", "fid", "bone_deviation", "foot_skate", "reward", "n")  # of a row of a report
NUMBERS = {  # that the table and the figure take from a row, or what stands for them
    "a left-out action": lambda row: LEFT_OUT_ACTIONS.index(row["action"]),
    "minutes": lambda row: row["wall_clock_s"] / 60,
    "FID": lambda row: row["target"]["after"].get("fid"),
    "bones off": lambda row: row["target"]["after"].get("bone_deviation"),
    "the interval": lambda row: sum(row["target"]["after"].get("interval", {}).get("verified", (0, 0))[i] for i in (0, 1)),
}
NUMBERS |= {f"{part} {phase}": lambda row, part=part, phase=phase: _share(row, phase, part)
            for part in ("target", "original") for phase in PHASES}  # fmt: skip


def find_models(names: Sequence[str]) -> dict[str, dict]:
    """Of each architecture, or folder of a base model that lacks all six: what `adapt` is called with.

    The model that saw the actions is the shipped one of the same architecture. Raises `UserError` for an unknown name.
    """
    models = {}
    for name in names:
        kind = name
        if name not in ARCHITECTURES:
            if not Path(name, "config.json").is_file():
                raise UserError(f"{name!r} is neither one of {', '.join(ARCHITECTURES)} nor the folder of a base model")
            denoiser = type(load_denoiser(name)).__name__
            kind = next((key for key, (shipped, *_) in ARCHITECTURES.items() if SHIPPED[shipped][0] == denoiser), None)
            if kind is None:
                raise UserError(f"{name} holds a {denoiser}; no architecture that ships is one")
        models[name] = {"architecture": kind, "model": WEIGHTS / f"{ARCHITECTURES[kind][0]}-leave-one-out"}
        models[name] |= {"model": Path(name)} if name != kind else {}
    return models


def _row(values: Mapping) -> dict:
    """What is kept of a report: the numbers of both parts before and after, what was chosen, and what it cost."""
    parts = {
        part: {phase: {key: row[key] for key in KEPT if key in row} for phase, row in values[part].items() if phase in PHASES}
        for part in ("target", "original")
    }
    return parts | {key: values[key] for key in ("selection", "network_calls", "wall_clock_s")}


def learn_all_actions(
    out: str | Path,
    models: Sequence[str] = tuple(ARCHITECTURES),
    actions: Sequence[str] = LEFT_OUT_ACTIONS,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    say: Callable[[str], object] = print,
    **arguments,
) -> list[dict]:
    """Teach each of `models` (see `find_models`) each action by the recipe of the demo; all rows, kept in `out` (JSON).

    A run whose row is there already is not run again. `arguments` go to `adapt`. Raises `UserError` for what is unknown.
    """
    if unknown := [action for action in actions if action not in LEFT_OUT_ACTIONS]:
        raise UserError(f"the base models do not lack {', '.join(unknown)}; they lack {', '.join(LEFT_OUT_ACTIONS)}")
    rows = read_rows(out, "actions", {"model": str, "action": str, "seed": int}, NUMBERS)
    found = find_models(models)
    write_json(out, {"actions": rows})  # a place that cannot be written shows now, not after the first run
    corpus = load_corpus()
    for seed in seeds:
        for name, given in found.items():
            for action in actions:
                if any((row["model"], row["action"], row["seed"]) == (name, action, seed) for row in rows):
                    continue
                say(f"{name}: {action} (seed {seed})")
                recipe = shipped_recipe(given["architecture"], seed) | {"model": given["model"], "device": device}
                values = adapt(target=action, corpus=without_others(corpus, action), **recipe, **arguments).values
                say(summary(values))
                rows.append({"model": name, "action": action, "seed": seed} | _row(values))
                write_json(out, {"actions": rows})
    return rows


def _share(row: Mapping, phase: str, part: str = "target") -> float | None:
    return row[part].get(phase, {}).get("verified")


def grid_table(rows: Sequence[Mapping]) -> str:
    """A line of plain text for each run: verified shares of the target and of the others, bodies, time."""

    def told(value: float | None, form: str = ".0%") -> str:
        return "-" if value is None else format(value, form)

    titles = ["model", "action", "seed", *PHASES.values(), "FID", "bones off", "others before", "others after", "minutes"]
    lines = [titles]
    for row in rows:
        after = row["target"]["after"]
        others = [told(_share(row, phase, "original"), ".1%") for phase in ("before", "after")]
        bodies = [told(after.get("fid"), ".1f"), told(after.get("bone_deviation"), ".1%")]
        shares = [told(_share(row, phase)) for phase in PHASES]
        numbers = [*shares, *bodies, *others, told(row["wall_clock_s"] / 60, ".1f")]
        lines.append([Path(row["model"]).name, row["action"], str(row["seed"]), *numbers])
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip() for line in lines)


def grid_figure(rows: Sequence[Mapping], path: str | Path | None = None):
    """A matplotlib figure: what passes before and after (with 95% intervals) and in a model that saw the action.

    Actions from the easiest to the hardest, a colour a model. Saved where `path` says.
    """
    figure = _strip_class()(figsize=(9, 3.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    runs = list(dict.fromkeys((row["model"], row["seed"]) for row in rows))
    actions = [action for action in LEFT_OUT_ACTIONS if any(row["action"] == action for row in rows)]
    names = {model for model, _ in runs}
    for place, (model, seed) in enumerate(runs):
        shift, colour = (place - (len(runs) - 1) / 2) * 0.8 / len(runs), f"C{place}"
        own = [row for row in rows if (row["model"], row["seed"]) == (model, seed)]
        at = [actions.index(row["action"]) + shift for row in own]
        after = [100 * (_share(row, "after") or 0) for row in own]
        ends = [[100 * end for end in row["target"]["after"].get("interval", {}).get("verified", ())] for row in own]
        reach = [[max(0, y - e[0]) if e else 0 for y, e in zip(after, ends, strict=True)],
                 [max(0, e[1] - y) if e else 0 for y, e in zip(after, ends, strict=True)]]  # fmt: skip
        label = Path(model).name + (f", seed {seed}" if len(runs) > len(names) else "")
        axes.errorbar(at, after, reach, fmt="o", color=colour, label=f"{label}: after", capsize=2)
        axes.plot(at, [100 * (_share(row, "before") or 0) for row in own], "o", mfc="none", color=colour)
        full = [(x, 100 * value) for x, row in zip(at, own, strict=True) if (value := _share(row, "full_data")) is not None]
        axes.plot(*zip(*full, strict=True), "_", color=colour, ms=12) if full else None
    axes.plot([], [], "o", mfc="none", color="grey", label="before")
    axes.plot([], [], "_", color="grey", ms=12, label="saw the action")
    axes.set(ylabel="passes the check (%)", ylim=(-3, 103), xticks=range(len(actions)), xlabel="left-out action")
    axes.set_xticklabels(actions)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.22))
    if path:
        with write_atomically(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png")
    return figure
