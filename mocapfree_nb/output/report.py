"""The report of an adaptation as one page that needs no network."""

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mocapfree_nb.output.page import (
    COLUMNS,
    INTERVALS,
    METRICS,
    STYLE,
    as_number,
    as_percent,
    column_names,
    escape,
    first_value,
    held_out,
    is_free,
    others,
    skeleton_in,
    unserved,
)
from mocapfree_nb.player import page_html, player_code, player_html, player_scene
from mocapfree_nb.validity import validity_words
from mocapfree_nb.viewer import film_strips

__all__ = ["report_html"]

SHOWN = 3  # motions of each part in the page; a run keeps more


def _cell(key: str, value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        said = ["–" if as_number(v) is None else f"{as_number(v):.3f}" for v in value]
        return " ".join(f"<span>{word}</span>" for word in [*(f"{word} /" for word in said[:-1]), *said[-1:]])
    number = as_number(value)
    if number is None:
        return "–"
    if key in ("verified", "foot_skate", "bone_deviation"):
        return as_percent(number)
    return f"{number:.0f}" if key == "n" else f"{number:.3f}"


def _interval(key: str, row: Mapping) -> str:
    "The 95% interval of a metric where the row has one, as a second line of its cell."
    found = (row.get("interval") or {}).get(INTERVALS.get(key)) or ()
    low, high = ([as_number(bound) for bound in found] + [None, None])[:2]
    if low is None or high is None:
        return ""
    return f"<br><small><span>{as_percent(low)} to</span> <span>{as_percent(high)}</span></small>"


def _points(before: object, after: object) -> str:
    "A change of a share in words: 'up 3.1 points'."
    a, b = as_number(before), as_number(after)
    if a is None or b is None:
        return "not measured"
    change = 100 * (b - a)
    if abs(change) < 0.05:
        return "unchanged"
    return f"{'up' if change > 0 else 'down'} {abs(change):.1f} points"


def _title(report: Mapping) -> str:
    "What was to be learnt, as a title says it; of free prompts the first one."
    prompts = report.get("prompts")
    training = [str(prompt) for prompt in (prompts.get("training") or [])] if isinstance(prompts, Mapping) else []
    if is_free(report) and training:
        more = len(set(training)) - 1
        return f"“{training[0]}”" + (f" and {more} more prompt{'s' * (more > 1)}" if more else "")
    return str(report.get("target", {}).get("name") or report.get("experiment") or "adaptation")


def _headline(report: Mapping) -> tuple[str, list[str]]:
    "The outcome as a title and sentences, by `verified` where it is known, else by R-precision@1."
    target, original = report.get("target", {}), report.get("original", {})
    before, after = target.get("before") or {}, target.get("after") or {}
    name, free = _title(report), is_free(report)
    key = "verified" if as_number(before.get("verified")) is not None else "r_precision"
    old, new = as_number(first_value(before, key)), as_number(first_value(after, key))
    what = "passed the check by geometry" if key == "verified" else "were matched to their own prompt first"
    if old is None or new is None:
        return f"{name}: nothing measured", ["This run has no numbers before and after to compare."]
    gain = new - old
    word = "learnt" if gain >= 0.5 else "partly learnt" if gain >= 0.1 else "not learnt"
    asked = "in words that it was not trained on" if held_out(report) else "for the very prompts that it was trained on"
    lines = [
        f"The model was asked {asked}. "
        f"Before adaptation {as_percent(old)} of its motions {what}, afterwards {as_percent(new)}."
    ]
    if key != "verified":
        lines.append("So says the evaluator, a network; no check by geometry knows what was asked, so look at the motions.")
    full = as_number(first_value(target.get("full_data") or {}, key))
    if full is not None:
        lines.append(f"{'The other model' if free else 'A model that was shown such motions'} reaches {as_percent(full)}.")
    instead = as_number(first_value(target.get("best_of_n") or {}, key))
    if instead is not None:
        count = target["best_of_n"].get("samples", "N")
        lines.append(f"Sampling instead, the best of {count} by the reward: {as_percent(instead)}.")
    kept = [first_value(original.get(side) or {}, key) for side in ("before", "after")]
    if all(as_number(value) is not None for value in kept):
        lines.append(f"On {others(report)}: {as_percent(kept[0])} before, {as_percent(kept[1])} after ({_points(*kept)}).")
    reward = report.get("reward", {})
    rise = [as_number(reward.get(side)) for side in ("before", "after")]
    if None not in rise and rise[1] - rise[0] > 0.02 and gain < 0.05:
        fooled = "it was satisfied without the action being done (reward hacking)"
        fooled = fooled if key == "verified" else "another network sees no gain (a sign of reward hacking)"
        lines.append(f"The reward rose all the same, {rise[0]:.3f} to {rise[1]:.3f}: {fooled}.")
    return f"{name}: {word} from text alone", lines


def _table(part: Mapping, caption: str, names: Mapping[str, str]) -> str:
    columns = [key for key in COLUMNS if part.get(key)]
    marks = {key: ' class="now"' * (key == "after") for key in columns}
    head = "".join(f'<th scope="col"{marks[key]}>{names[key]}</th>' for key in columns)
    rows = []
    for key, (name, better, meaning) in METRICS.items():
        if all(first_value(part[column], key) is None for column in columns):
            continue
        cells = "".join(f"<td{marks[c]}>{_cell(key, part[c].get(key))}{_interval(key, part[c])}</td>" for c in columns)
        rows.append(f'<tr><th scope="row" title="{escape(meaning)}">{escape(name)}{better and "&nbsp;"}{better}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _series(curves: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    "Every number of the log as name -> [(iteration, value)]; values by timestep are averaged."
    series: dict[str, list[tuple[float, float]]] = {}

    def add(name: str, at: float, value: object) -> None:
        if isinstance(value, Mapping) and not all(str(part).isdecimal() for part in value):  # kinds of proposals, say
            for part, inner in value.items():
                add(f"{name}: {part}", at, inner)
            return
        if isinstance(value, Mapping | list | tuple):
            inner = list(value.values()) if isinstance(value, Mapping) else value
            finite = [v for v in map(as_number, inner) if v is not None]
            value = float(np.mean(finite)) if finite else None
            name = f"{name}, mean over timesteps" if name != "distillation" else name
        if (number := as_number(value)) is not None:
            series.setdefault(name.replace("_", " "), []).append((at, number))

    for index, record in enumerate(curves, start=1):
        at = as_number(record.get("iteration")) or index
        for name, value in record.items():
            if name not in ("iteration", "time", "wall_clock_s", "seconds"):
                add(name, at, value)
    return series


def _is_flat(points: Sequence[tuple[float, float]]) -> bool:
    "True where a curve never moves from its first value, or has but one: a chart of it would say nothing."
    values = [value for _, value in points]
    return max(values) - min(values) <= 1e-6 * max(abs(values[0]), 1e-12)


def _chart(name: str, points: Sequence[tuple[float, float]], width: int = 320, height: int = 170) -> str:
    "One line chart as inline SVG, described in words for those who do not see it."
    x, y = np.array(points, dtype=float).T
    low, high = float(y.min()), float(y.max())
    pad = 0.08 * (high - low) or 0.05 * max(abs(high), 1e-3)
    low, high = low - pad, high + pad
    left, right, top, bottom = 66, 10, 12, 24  # left: room for numbers such as 9.41e+04
    across = left + (x - x.min()) / max(x.max() - x.min(), 1) * (width - left - right)
    down = top + (high - y) / (high - low) * (height - top - bottom)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
    ticks = ""
    for value in (y.min(), y.max()):
        at = top + (high - value) / (high - low) * (height - top - bottom)
        ticks += (
            f'<line x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>'
            f'<text x="{left - 5}" y="{at + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        )
        if y.min() == y.max():
            break
    words = f"{name}: {y[0]:.3g} at iteration {x[0]:.0f}, {y[-1]:.3g} at iteration {x[-1]:.0f}, most {y.max():.3g}"
    dots = "" if len(x) > 30 else "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="var(--mark)"/>'
        for a, b in zip(across, down, strict=True)
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(words)}">{ticks}'
        f'<polyline points="{line}" fill="none" stroke="var(--mark)" stroke-width="2"/>{dots}'
        f'<text x="{left}" y="{height - 7}">iteration {x[0]:.0f}</text>'
        f'<text x="{width - right}" y="{height - 7}" text-anchor="end">{x[-1]:.0f}</text></svg>'
        f"<figcaption>{escape(name)}</figcaption></figure>"
    )


def _picture(motion: Mapping, names: Mapping[str, str]) -> str:
    "The first motion before and after as a film strip, in the page itself."
    rows = {names[key]: motion[key] for key in COLUMNS if key in motion}
    buffer = io.BytesIO()
    film_strips(rows, skeleton_in(rows), title=str(motion.get("prompt", ""))).savefig(buffer, format="png", dpi=90)
    words = f"Film strip, rows {', '.join(rows)}: a figure asked to do this: {motion.get('prompt', '')}"
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'
    return f'<div class="wide strip" role="group" aria-label="Film strip" tabindex="0">{image}</div>'


def _players(motions: Sequence[Mapping], names: Mapping[str, str]) -> str:
    parts = []
    for motion in motions:
        panels = {names[key]: motion[key] for key in COLUMNS if key in motion}
        if panels:
            player = player_html(player_scene(panels, skeleton_in(panels)), code=False)
            parts.append(f"<h3>“{escape(motion.get('prompt', ''))}”</h3>{player}")
    return "".join(parts)


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _list(items: Sequence) -> str:
    "Items in their order, each once, with how often where it comes again."
    counts = Counter(map(str, items))
    times = {item: f" ({count} times)" * (count > 1) for item, count in counts.items()}
    return f"<ul>{''.join(f'<li>{escape(item)}{times[item]}</li>' for item in counts)}</ul>"


def _settings(values: Mapping) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td class="value">'
        f"{escape(value if isinstance(value, str) else json.dumps(value, default=str))}</td></tr>"
        for key, value in values.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def _forgotten(report: Mapping, original: Mapping) -> str:
    before, after = original.get("before") or {}, original.get("after") or {}
    if not (before and after):
        return "<p>Not measured in this run.</p>"
    asked = "Held-out captions of the corpus that was to be kept." if is_free(report) else (
        "Prompts for actions that the model knew before.")
    words = []
    for key, name in (("verified", "the check by geometry"), ("r_precision", "R-precision@1")):
        pair = (first_value(before, key), first_value(after, key))
        if all(as_number(value) is not None for value in pair):
            words.append(f"{name}: {as_percent(pair[0])} to {as_percent(pair[1])} ({_points(*pair)})")
    count = as_number(after.get("n"))
    spread = ""
    if count:
        share = as_number(after.get("verified")) or 0.5
        points = 196 * math.sqrt(max(share * (1 - share), 0.25 / count) / count)
        spread = f" Chance alone moves a share of {count:.0f} motions by about {points:.0f} points."
    found = "; ".join(words)
    return f"<p>{asked} {escape(found[:1].upper() + found[1:])}.{spread}</p>"


def _stage(report: Mapping, at: float) -> str:
    """What a run's iteration `at` was: one of its rounds of exploration, one of the DDPO after them, or a plain iteration."""
    curves = report.get("curves")
    rounds = sum(isinstance(record, Mapping) and "proposals" in record for record in (curves if isinstance(curves, list) else ()))
    if not rounds:
        return f"iteration {at:.0f}"
    if at <= rounds:
        return f"round {at:.0f} of exploration"
    return f"iteration {at - rounds:.0f} of DDPO, after {rounds} round{'s' * (rounds > 1)} of exploration,"


def _honest(report: Mapping, target: Mapping, names: Mapping[str, str]) -> list[str]:
    """What the numbers stand on, in words: bodies, best of N, and which weights were kept."""
    lines = []
    for key in COLUMNS:
        row = target.get(key) or {}
        if None not in [as_number(row.get(name)) for name in ("bone_deviation", "foot_skate", "jitter", "floor_penetration")]:
            lines.append(f"Bodies, {escape(names[key])}: {escape(validity_words(row))}.")
    samples = as_number((target.get("best_of_n") or {}).get("samples"))
    if samples is not None:
        lines.append(
            f"Best of N: the model before adaptation with as many network calls as the adaptation took, {samples:.0f} samples "
            "for each motion, of which the reward chose one."
        )
    chosen = report.get("selection")
    if isinstance(chosen, Mapping) and as_number(chosen.get("chosen_iteration")) is not None:
        apart = chosen.get("held_out", not is_free(report))
        asked = "by prompts that nothing else uses" if apart else "by the training prompts"
        how = f"{asked} and a scorer that is nothing else" if "score" in chosen else "the last"
        at = as_number(chosen["chosen_iteration"])
        kept = f"Weights of {_stage(report, at)} were kept" if at else "No iteration was better: the weights before were kept"
        lines.append(f"{kept} ({how}); neither the check nor the evaluation chose anything.")
    return lines


def report_html(report: Mapping, motions: Mapping[str, Sequence[Mapping]] | None = None) -> str:
    """The page for one adaptation, self-contained: sentences, players, tables, curves, settings.

    `report` is what `report.json` holds. `motions` maps "target" and "original" to dicts with `prompt` and joints
    (frames, joints, 3) under `before`, `after` and `full_data` where there are any. Everything is escaped; what is
    missing is left out. The first three of each are shown.
    """
    motions, names = motions or {}, column_names(report)
    target, original = report.get("target", {}), report.get("original", {})
    title, sentences = _headline(report)
    facts = ["free prompts" if is_free(report) and key == "experiment" else str(report[key])
             for key in ("experiment", "device") if report.get(key)]
    if report.get("seed") is not None:
        facts.append(f"seed {report['seed']}")
    if (seconds := as_number(report.get("wall_clock_s"))) is not None:
        facts.append(f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds")
    shown = motions.get("target", [])[:SHOWN]
    body = [f"<p class=soft>{escape(' · '.join(facts))}</p><h1>{escape(title)}</h1>"]
    body.append(f'<p class="lead">{escape(" ".join(sentences))}</p>')
    if shown and "after" in shown[0]:
        body.append(_picture(shown[0], names))
    asked = "Held-out prompts for the target" if held_out(report) else "The prompts that it was trained on"
    body.append(f"<h2>{'The prompts' if is_free(report) else 'The action'} it was to learn</h2>" + _table(target, asked, names))
    gap = as_number(report.get("gap_closed"))
    if gap is not None:
        other = names["full_data"] if is_free(report) else "model that saw the action"
        body.append(f"<p>Of the R-precision@1 gap to the {other}, {100 * gap:.0f}% is closed.</p>")
    body += [f"<p>{line}</p>" for line in _honest(report, target, names)]
    if lines := unserved(report):
        found_nothing = f"Prompts for which the last search found nothing that scores like known motion ({len(lines)})"
        body.append(_fold(found_nothing, _list(lines)))
    if shown:
        body.append("<p class=soft>The first prompts of the list, not the best ones. Drag to turn, space to play.</p>")
    body.append(_players(shown, names))
    body.append("<h2>What was forgotten</h2>" + _forgotten(report, original))
    if original:
        body.append(_table(original, f"Prompts: {others(report)}", names))
    body.append(_players(motions.get("original", [])[:SHOWN], names))
    series = _series(report.get("curves") or [])
    charts = [_chart(name, points) for name, points in series.items() if not _is_flat(points)]
    if charts:
        body.append(f'<h2>Training</h2><div class="charts">{"".join(charts)}</div>')
    words = "".join(f"<dt>{name} {better}</dt><dd>{escape(text)}</dd>" for name, better, text in METRICS.values())
    body.append("<h2>How to read the numbers</h2>" + _fold("What each metric says", f"<dl>{words}</dl>"))
    prompts = report.get("prompts") or {}
    prompts = prompts if isinstance(prompts, Mapping) else {"prompts": prompts}
    for name, items in prompts.items():
        body.append(_fold(f"Prompts: {name} ({len(items)})", _list(items)))
    if report.get("config"):
        body.append("<h2>Settings</h2>" + _fold("All settings of this run", _settings(report["config"])))
    if any(motions.values()):
        body.append(player_code())
    return page_html(title, "\n".join(body), STYLE)
