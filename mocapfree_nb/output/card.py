"""A reward card in plain words and as a figure."""

from collections.abc import Mapping
from pathlib import Path

from mocapfree_nb.files import write_atomically
from mocapfree_nb.reward_card import QUESTIONS

__all__ = ["verdict", "card_text", "card_figure"]


def verdict(share: Mapping | None, nothing: str) -> str:
    """What a share of right answers means in plain words; a guess is right half of the time."""
    if share is None:
        return f"not measured: {nothing}"
    low, high = share["interval"]
    if share["n"] < 20:
        return "too few clips to say"
    if low > 0.9:
        return "tells them apart"
    if low > 0.5:
        return "tells them apart more often than not" if share["value"] < 0.75 else "tells them apart mostly"
    return "cannot tell them apart: no better than a guess" if high >= 0.5 else "prefers the wrong one"


def _row(words: str, share: Mapping | None, nothing: str) -> str:
    if share is None:
        return f"  {words:<46}{'':>23}  {verdict(share, nothing)}"
    low, high = share["interval"]
    numbers = f"{share['value']:>7.1%} {100 * low:>4.0f}-{100 * high:<3.0f} {share['n']:>6}"
    return f"  {words:<46}{numbers}  {verdict(share, nothing)}"


_NOTHING = {
    "side_accuracy": "no caption names a side",
    "mirror_accuracy": "no caption names a side",
    "count_accuracy": "captions name no counts, or one only",
}


def _ladder_lines(name: str, found: Mapping | None) -> list[str]:
    if found is None:
        return [f"  {name}: not measured, no clip raises its arms so"]
    lines = [f"  {name} ({found['n']} clips)"]
    rows = {"lowered": "{:.2f}", "height": "{:+.2f}", "score": "{:.3f}"}
    names = {"lowered": "share of the way to rest", "height": "wrist over shoulder, m", "score": "score"}
    lines += [f"    {names[key]:<26}" + "".join(form.format(v).rjust(8) for v in found[key]) for key, form in rows.items()]
    lines += [f"    {'the whole motion is above':<26}" + " " * 8 + "".join(f"{v:.0%}".rjust(8) for v in found["above"])]
    if found["near_top"] is None:
        return [*lines, "    lowering the arms costs nothing at all: how high they are cannot be learnt from this reward"]
    flat = " : nearly flat there" if found["near_top"] < 0.1 else ""
    line = f"    the first fifth of the way costs {found['near_top']:.0%} of the score (20% on a straight line){flat}"
    return [*lines, line]


def card_text(name: str, card: Mapping) -> str:
    """A card as plain text: a table, the ladder, the weakest actions."""
    head = f"  {'can it tell ...':<46}{'right':>7} {'95%':>8} {'clips':>6}"
    lines = [f"reward card of {name}: {card['clips']} clips", head]
    lines += [_row(words, card[key], _NOTHING.get(key, "too few clips")) for key, (words, _) in QUESTIONS.items()]
    lines.append("arms lowered step by step:")
    for what, found in card["ladder"].items():
        lines += _ladder_lines(what, found)
    recall = dict(card["recall"])
    lines.append(f"recall@1 of 32: {recall.pop('all')['value']:.1%}")
    weak = sorted((item for item in recall.items() if item[1]["value"] < 0.9), key=lambda item: item[1]["value"])[:8]
    shown = ", ".join(f"{label} {share['value']:.0%} of {share['n']}" for label, share in weak)
    lines.append(f"  weakest: {shown}" if weak else "  no action below 90%" if recall else "  the clips have no labels")
    return "\n".join(lines)


def card_figure(cards: Mapping[str, Mapping], path: str | Path | None = None):
    """A matplotlib figure of cards by name: score against true height, and what is told apart; saved to `path` if given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    thick = 0.8 / len(cards)
    for place, (name, card) in enumerate(cards.items()):
        colour = f"C{place}"
        for style, (what, found) in zip(("-", "--", ":"), card["ladder"].items(), strict=True):
            if found:
                left.plot(found["height"], found["score"], style, marker="o", ms=3, color=colour, label=f"{name}, {what}")
        measured = [(row, card[key]) for row, key in enumerate(QUESTIONS) if card[key]]
        measured += [(len(QUESTIONS) + row, found["accuracy"]) for row, found in enumerate(card["ladder"].values()) if found]
        rows = [row + thick * (place + 0.5) - 0.4 for row, _ in measured]
        values = [share["value"] for _, share in measured]
        ends = [[abs(share["value"] - share["interval"][side]) for _, share in measured] for side in (0, 1)]
        right.barh(rows, values, thick, xerr=ends, color=colour, error_kw={"lw": 0.8}, label=name)
    words = [words for words, _ in QUESTIONS.values()]
    words += [f"{what} up, from lowered" for what in next(iter(cards.values()))["ladder"]]
    right.set_yticks(range(len(words)), words)
    right.invert_yaxis()
    right.axvline(0.5, color="grey", lw=0.8)
    right.set(xlim=(0, 1), xlabel="right answers (a guess: .5)")
    left.set(xlabel="wrist over shoulder, m (arms lowered to the left)", ylabel="score")
    left.legend(fontsize=7)
    if path is not None:
        with write_atomically(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=100)
    return figure
