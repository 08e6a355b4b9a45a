"""What a user study found, for a paper: a table, a text and a figure from the same numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .files import write_atomically, write_json
from .study import QUESTIONS, RULES
from .viewer import _strip_class

__all__ = ["study_table", "study_text", "study_figure", "save_results"]


def _percent(value: float | None, ends: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" + (f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else "")


def _p(value: float) -> str:
    return "p < .001" if value < 0.001 else f"p = {value:.3f}".replace("0.", ".")


def study_table(results: Mapping) -> str:
    """The preferences as a Markdown table."""
    head = ("question", "systems", "wins / ties / losses", "share", "Wilson 95%", "over raters 95%", "p (Holm)",
            "least to be found")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results["preferences"]:
        ends = [f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else "–" for ends in (row["wilson"], row["over_raters"])]
        names = f"{row['first']} : {row['second']}".replace("|", "\\|")
        least = f"{100 * row['detectable']:.0f}%" if row["detectable"] else "–"
        cells = (row["question"], names, f"{row['wins']} / {row['ties']} / {row['losses']}", _percent(row["share"]), *ends,
                 _p(row["p_holm"]).removeprefix("p = ").removeprefix("p "), least)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _preferred(row: Mapping) -> str:
    "A preference in words, the preferred one first."
    names, share, ends = (row["first"], row["second"]), row["share"], row["over_raters"]
    if share is None:
        return f"nobody preferred {names[0]} or {names[1]} ({row['ties']} ties)"
    if share < 0.5:
        names, share, ends = names[::-1], 1 - share, [1 - end for end in ends[::-1]]
    return (
        f"{names[0]} was preferred to {names[1]} in {_percent(share, ends)} of {row['decided']} answers ({_p(row['p_holm'])}; "
        f"{row['ties']} ties)"
    )


def study_text(results: Mapping) -> str:
    """The study in words, ready for a paper."""
    removed = Counter(results["excluded"].values())
    why = "; ".join(f"{number} who {RULES[rule]}" for rule, number in removed.items())
    lines = [
        f"{results['raters']} people took part; {sum(removed.values())} were excluded by rules fixed beforehand"
        f"{f' ({why})' * bool(why)}, which leaves {results['counted']}. Each compared {results['pairs']} pairs of motions made "
        f"for the same sentence, side by side on one clock, in an order and on sides drawn for each rater, and "
        f"{results['controls']} control pairs; a pair took {results['seconds']:.0f} s (median). Ties were allowed; shares are "
        f"of decided answers, with 95% intervals from {results['draws']} bootstrap samples of raters, and sign tests are "
        "adjusted by Holm's method."
    ]
    for name, question in QUESTIONS.items():
        said = [_preferred(row) for row in results["preferences"] if row["question"] == name]
        alpha = results["alpha"][name]
        lines.append(f"“{question}”: {'; '.join(said)}. Krippendorff's α (interval) was "
                     f"{'undefined' if alpha is None else f'{round(alpha, 2) + 0.0:.2f}'}.")  # + 0: no -0.00
    left = results["left"]
    lines.append(f"The left motion was chosen in {_percent(left['share'], left['wilson'])} of decided answers ({_p(left['p'])}).")
    found = [f"{_percent(row['share'], row['wilson'])} of {row['decided']} answers to “{QUESTIONS[name]}”"
             for name, row in results["captions"].items() if row]
    if found:
        lines.append(f"Of two motions of one system, the one made for the sentence was chosen in {' and '.join(found)}.")
    rows = results["preferences"]
    least, enough = ([row[name] for row in rows] for name in ("detectable", "raters_for_60"))
    if None not in least + enough:
        lines.append(
            f"With these raters and their design effect a study finds preferences of {100 * max(least):.0f}% or more in 80 "
            f"of 100 repetitions; for one of 60% it would take {max(enough)} raters."
        )
    return "\n\n".join(lines)


def study_figure(results: Mapping) -> Figure:
    """Left the shares of each two systems, right the Bradley-Terry strengths, with 95% intervals over raters."""
    pairs = list(dict.fromkeys((row["first"], row["second"]) for row in results["preferences"]))
    figure = _strip_class()(figsize=(9, 1.4 + 0.45 * max(len(pairs), len(results["systems"]))), layout="constrained")
    shares, scale = figure.subplots(1, 2)
    for q, (name, question) in enumerate(QUESTIONS.items()):
        style = {"fmt": "os"[q], "color": ("#0072B2", "#D55E00")[q], "capsize": 3, "label": question}
        rows = [row for row in results["preferences"] if row["question"] == name and row["share"] is not None]
        for axes, found, value, places in (
            (shares, rows, "share", [pairs.index((row["first"], row["second"])) for row in rows]),
            (scale, ranked := [row for row in results["strengths"] if row["question"] == name], "strength", range(len(ranked))),
        ):
            middle = np.array([row[value] for row in found])
            ends = np.array([row["over_raters"] for row in found]).reshape(-1, 2)
            reach = np.abs(ends.T - middle)
            axes.errorbar(middle, np.array(places) + 0.24 * q - 0.12, xerr=reach, **style)
    shares.set_yticks(range(len(pairs)), [f"{first} over {second}" for first, second in pairs], parse_math=False)
    shares.set(xlim=(0, 1), xlabel="share of decided answers", ylim=(len(pairs) - 0.5, -0.5))
    shares.axvline(0.5, color="0.6", linewidth=1, linestyle="dotted")
    scale.set_yticks(range(len(results["systems"])), results["systems"], parse_math=False)
    scale.set(xlabel="Bradley-Terry log strength", ylim=(len(results["systems"]) - 0.5, -0.5))
    scale.axvline(0, color="0.6", linewidth=1, linestyle="dotted")
    figure.legend(*shares.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure


def save_results(results: Mapping, folder: str | Path) -> Path:
    """Write `results.json`, `study.md` (text and table), `figure.pdf` and `figure.png` into `folder`; returns the page's path."""
    folder, figure = Path(folder), study_figure(results)
    write_json(folder / "results.json", results)
    for ending in ("pdf", "png"):
        with write_atomically(folder / f"figure.{ending}") as temporary:
            figure.savefig(temporary, dpi=200)
    with write_atomically(folder / "study.md") as temporary:
        temporary.write_text(f"{study_text(results)}\n\n{study_table(results)}\n", encoding="utf-8")
    return folder / "study.md"
