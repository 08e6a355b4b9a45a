"""The report of an adaptation as one page that needs no network, and a page that only plays motions."""

import base64
import html
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mocapfree_nb.skeleton import HUMANML3D, Skeleton
from mocapfree_nb.player import page_html, player_code, player_html, player_scene
from mocapfree_nb.viewer import film_strips
from mocapfree_nb.files import UserError
from mocapfree_nb.reading import read_json
from mocapfree_nb.skeleton import KIT_ML

__all__ = [
    "report_html", "players_html", "read_report", "comparison_rows", "comparison_text", "comparison_html", "column_names",
    "held_out", "skeleton_in",
]

COLUMNS = ("before", "after", "full_data")
SHOWN = 3  # motions of each part in the page; a run keeps more
METRICS = {  # key -> (name, which way is better, what it says)
    "verified": ("verified", "↑", "share of motions that pass a check by geometry alone; no network is asked"),
    "r_precision": (
        "R-precision @1 / @2 / @3",
        "↑",
        "how often motion and prompt find each other among the nearest 1, 2, 3 of 32, by an evaluator network "
        "that is not the reward",
    ),
    "fid": ("FID", "↓", "distance between generated and real motion in the evaluator's space"),
    "matching_distance": ("matching distance", "↓", "mean distance from a motion to its prompt, same evaluator"),
    "diversity": ("diversity", "", "mean distance between two motions; near that of real motion is good"),
    "multimodality": ("multimodality", "", "the same between motions for one and the same prompt"),
    "retrieval_score": ("retrieval score", "↑", "what the reward network says; it was aimed at, so trust it least"),
    "foot_skate": ("foot skating", "↓", "share of frames in which a resting foot slides"),
    "n": ("motions", "", "how many motions were generated for this column"),
}
RANGES = {"verified": (0, 1), "r_precision": (0, 1), "foot_skate": (0, 1), "n": (1, math.inf)}
STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--soft:#59636e;--page:#fff;--line:#d1d9e0;--panel:#f6f8fa;
--mark:#0072B2}
@media(prefers-color-scheme:dark){:root{--text:#e6e9ed;--soft:#9aa5b1;--page:#15181c;--line:#343b44;
--panel:#1d2127;--mark:#56B4E9}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:62rem;margin:0 auto;
padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.3em 0}h2{font-size:1.2rem;margin:2.2em 0 .5em}
h3{font-size:1rem;margin:1.4em 0 .2em}.lead{font-size:1.1rem}.soft,figcaption{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:60%}
caption{text-align:left;color:var(--soft);padding-bottom:.3em}
th,td{padding:.3em .8em;border-bottom:1px solid var(--line);text-align:right}
th[scope=row]{text-align:left;font-weight:normal}thead th{font-weight:600}
.now{background:var(--panel);font-weight:600}img{max-width:100%;height:auto;border-radius:6px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}.charts figure{margin:0}
.charts svg{width:100%;height:auto;background:var(--panel);border-radius:6px}
.charts text{fill:var(--soft);font-size:11px}details{margin:.6em 0}dt{font-weight:600}dd{margin:0 0 .5em}
li{overflow-wrap:anywhere}td.value{text-align:left;white-space:normal;overflow-wrap:anywhere}
"""


def held_out(report: Mapping) -> bool:
    """True where no prompt of the target that was asked had been practised; reports say so, or the prompts they list do."""
    if isinstance(report.get("held_out"), bool):
        return report["held_out"]
    prompts = report.get("prompts")
    lists = [prompts.get(key) or [] for key in ("training", "evaluation")] if isinstance(prompts, Mapping) else [[], []]
    return not set(map(str, lists[0])) & set(map(str, lists[1]))


def column_names(report: Mapping) -> dict[str, str]:
    """What the columns of a report are called: only a target with motion of its own can have been seen in training."""
    saw = "other model" if report.get("experiment") == "free" else "saw the action"
    return {"before": "before", "after": "after", "full_data": saw}


def skeleton_in(motions: Mapping[str, np.ndarray]) -> Skeleton:
    """The skeleton that joints (frames, joints, 3), by name, belong to; HumanML3D's where it cannot be told."""
    sizes = {joints.shape[-2] for joints in motions.values()}
    return KIT_ML if sizes == {KIT_ML.num_joints} else HUMANML3D


def _escape(value: object) -> str:
    return html.escape(str(value))


def _number(value: object) -> float | None:
    "A finite float, or None for anything else (None, NaN, words)."
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def _percent(value: object) -> str:
    number = _number(value)
    return "–" if number is None else f"{100 * number:.0f}%" if number in (0, 1) else f"{100 * number:.1f}%"


def _cell(key: str, value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join("–" if _number(v) is None else f"{_number(v):.3f}" for v in value)
    number = _number(value)
    if number is None:
        return "–"
    if key in ("verified", "foot_skate"):
        return _percent(number)
    return f"{number:.0f}" if key == "n" else f"{number:.3f}"


def _points(before: object, after: object) -> str:
    "A change of a share in words: 'up 3.1 points'."
    a, b = _number(before), _number(after)
    if a is None or b is None:
        return "not measured"
    change = 100 * (b - a)
    if abs(change) < 0.05:
        return "unchanged"
    return f"{'up' if change > 0 else 'down'} {abs(change):.1f} points"


def _first(row: Mapping, key: str) -> object:
    "A metric; of R-precision the @1."
    value = row.get(key)
    return value[0] if key == "r_precision" and value else value


def _headline(report: Mapping) -> tuple[str, list[str]]:
    "The outcome as a title and sentences, judged by `verified` where it is known, else by R-precision@1."
    target, original = report.get("target", {}), report.get("original", {})
    before, after = target.get("before") or {}, target.get("after") or {}
    name = str(target.get("name") or report.get("experiment") or "adaptation")
    key = "verified" if _number(before.get("verified")) is not None else "r_precision"
    old, new = _number(_first(before, key)), _number(_first(after, key))
    what = "passed the check by geometry" if key == "verified" else "were matched to their own prompt first"
    if old is None or new is None:
        return f"{name}: nothing measured", ["This run has no numbers before and after to compare."]
    gain = new - old
    word = "learnt" if gain >= 0.5 else "partly learnt" if gain >= 0.1 else "not learnt"
    asked = "in words it had not practised" if held_out(report) else "for the very prompts that it practised"
    lines = [
        f"The model was asked {asked}. "
        f"Before adaptation {_percent(old)} of its motions {what}, afterwards {_percent(new)}."
    ]
    full = _number(_first(target.get("full_data") or {}, key))
    if full is not None:
        other = "The other model" if report.get("experiment") == "free" else "A model that was shown such motions"
        lines.append(f"{other} reaches {_percent(full)}.")
    kept = [_first(original.get(side) or {}, key) for side in ("before", "after")]
    if all(_number(value) is not None for value in kept):
        lines.append(f"On everything else: {_percent(kept[0])} before, {_percent(kept[1])} after ({_points(*kept)}).")
    reward = report.get("reward", {})
    rise = [_number(reward.get(side)) for side in ("before", "after")]
    if None not in rise and rise[1] - rise[0] > 0.02 and gain < 0.05:
        lines.append(
            f"The reward rose all the same, {rise[0]:.3f} to {rise[1]:.3f}: it was satisfied without the action "
            "being done (reward hacking)."
        )
    return f"{name}: {word} from text alone", lines


def _table(part: Mapping, caption: str, names: Mapping[str, str]) -> str:
    columns = [key for key in COLUMNS if part.get(key)]
    marks = {key: ' class="now"' * (key == "after") for key in columns}
    head = "".join(f'<th scope="col"{marks[key]}>{names[key]}</th>' for key in columns)
    rows = []
    for key, (name, better, meaning) in METRICS.items():
        if not any(key in part[column] for column in columns):
            continue
        cells = "".join(f"<td{marks[c]}>{_cell(key, part[c].get(key))}</td>" for c in columns)
        rows.append(f'<tr><th scope="row" title="{_escape(meaning)}">{name} {better}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><caption>{_escape(caption)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _series(curves: Sequence[Mapping]) -> dict[str, list[tuple[float, float]]]:
    "Every number of the log as name -> [(rollout, value)]; values by timestep are averaged."
    series: dict[str, list[tuple[float, float]]] = {}

    def add(name: str, at: float, value: object) -> None:
        if isinstance(value, Mapping) and name == "selection":
            for part, inner in value.items():
                add(f"judge: {part}", at, inner)
            return
        if isinstance(value, Mapping | list | tuple):
            inner = list(value.values()) if isinstance(value, Mapping) else value
            finite = [v for v in map(_number, inner) if v is not None]
            value = float(np.mean(finite)) if finite else None
            name = f"{name}, mean over timesteps" if name != "distillation" else name
        if (number := _number(value)) is not None:
            series.setdefault(name.replace("_", " "), []).append((at, number))

    for index, record in enumerate(curves, start=1):
        at = _number(record.get("iteration")) or index
        for name, value in record.items():
            if name not in ("iteration", "time", "wall_clock_s"):
                add(name, at, value)
    return series


def _chart(name: str, points: Sequence[tuple[float, float]], width: int = 320, height: int = 170) -> str:
    "One line chart as inline SVG, described in words for those who do not see it."
    x, y = np.array(points, dtype=float).T
    low, high = float(y.min()), float(y.max())
    pad = 0.08 * (high - low) or 0.05 * max(abs(high), 1e-3)
    low, high = low - pad, high + pad
    left, right, top, bottom = 48, 10, 12, 24
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
    words = f"{name}: {y[0]:.3g} at rollout {x[0]:.0f}, {y[-1]:.3g} at rollout {x[-1]:.0f}, most {y.max():.3g}"
    dots = "" if len(x) > 30 else "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="var(--mark)"/>'
        for a, b in zip(across, down, strict=True)
    )
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{_escape(words)}">{ticks}'
        f'<polyline points="{line}" fill="none" stroke="var(--mark)" stroke-width="2"/>{dots}'
        f'<text x="{left}" y="{height - 7}">rollout {x[0]:.0f}</text>'
        f'<text x="{width - right}" y="{height - 7}" text-anchor="end">{x[-1]:.0f}</text></svg>'
        f"<figcaption>{_escape(name)}</figcaption></figure>"
    )


def _picture(motion: Mapping, names: Mapping[str, str]) -> str:
    "The first motion before and after as a film strip, in the page itself."
    rows = {names[key]: motion[key] for key in COLUMNS if key in motion}
    buffer = io.BytesIO()
    film_strips(rows, skeleton_in(rows), title=str(motion.get("prompt", ""))).savefig(buffer, format="png", dpi=90)
    words = f"Film strip, rows {', '.join(rows)}: a figure asked to do this: {motion.get('prompt', '')}"
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{_escape(words)}" src="data:image/png;base64,{data}"></p>'


def _players(motions: Sequence[Mapping], names: Mapping[str, str]) -> str:
    parts = []
    for motion in motions:
        panels = {names[key]: motion[key] for key in COLUMNS if key in motion}
        if panels:
            player = player_html(player_scene(panels, skeleton_in(panels)), code=False)
            parts.append(f"<h3>“{_escape(motion.get('prompt', ''))}”</h3>{player}")
    return "".join(parts)


def _fold(summary: str, body: str) -> str:
    return f"<details><summary>{_escape(summary)}</summary>{body}</details>"


def _list(items: Sequence) -> str:
    return f"<ul>{''.join(f'<li>{_escape(item)}</li>' for item in items)}</ul>"


def _settings(values: Mapping) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_escape(key)}</th><td class="value">'
        f"{_escape(value if isinstance(value, str) else json.dumps(value, default=str))}</td></tr>"
        for key, value in values.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def _forgotten(original: Mapping) -> str:
    before, after = original.get("before") or {}, original.get("after") or {}
    if not (before and after):
        return "<p>Not measured in this run.</p>"
    words = []
    for key, name in (("verified", "the check by geometry"), ("r_precision", "R-precision@1")):
        pair = (_first(before, key), _first(after, key))
        if all(_number(value) is not None for value in pair):
            words.append(f"{name}: {_percent(pair[0])} to {_percent(pair[1])} ({_points(*pair)})")
    count = _number(after.get("n"))
    spread = ""
    if count:
        share = _number(after.get("verified")) or 0.5
        points = 196 * math.sqrt(max(share * (1 - share), 0.25 / count) / count)
        spread = f" Chance alone moves a share of {count:.0f} motions by about {points:.0f} points."
    return f"<p>Prompts for actions that the model knew before. {_escape('; '.join(words))}.{spread}</p>"


def report_html(report: Mapping, motions: Mapping[str, Sequence[Mapping]] | None = None) -> str:
    """The page for one adaptation, self-contained: sentences, players, tables, curves, settings.

    `report` is what `report.json` holds. `motions` maps "target" and "original" to dicts with `prompt` and joints
    (frames, joints, 3) under `before`, `after` and `full_data` where there are any. Everything is escaped; what is
    missing is left out. The first three of each are shown.
    """
    motions, names = motions or {}, column_names(report)
    target, original = report.get("target", {}), report.get("original", {})
    title, sentences = _headline(report)
    facts = [str(report[key]) for key in ("experiment", "device") if report.get(key)]
    if report.get("seed") is not None:
        facts.append(f"seed {report['seed']}")
    if (seconds := _number(report.get("wall_clock_s"))) is not None:
        facts.append(f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds")
    shown = motions.get("target", [])[:SHOWN]
    body = [f"<p class=soft>{_escape(' · '.join(facts))}</p><h1>{_escape(title)}</h1>"]
    body.append(f'<p class="lead">{_escape(" ".join(sentences))}</p>')
    if shown and "after" in shown[0]:
        body.append(_picture(shown[0], names))
    asked = "Held-out prompts for the target" if held_out(report) else "The prompts that were practised"
    body.append("<h2>The action it was to learn</h2>" + _table(target, asked, names))
    gap = _number(report.get("gap_closed"))
    if gap is not None:
        other = names["full_data"] if report.get("experiment") == "free" else "model that saw the action"
        body.append(f"<p>Of the R-precision@1 gap to the {other}, {100 * gap:.0f}% is closed.</p>")
    if shown:
        body.append("<p class=soft>The first prompts of the list, not the best ones. Drag to turn, space to play.</p>")
    body.append(_players(shown, names))
    body.append("<h2>What was forgotten</h2>" + _forgotten(original))
    if original:
        body.append(_table(original, "Prompts for everything else", names))
    body.append(_players(motions.get("original", [])[:SHOWN], names))
    charts = [_chart(name, points) for name, points in _series(report.get("curves") or []).items()]
    if charts:
        body.append(f'<h2>Training</h2><div class="charts">{"".join(charts)}</div>')
    words = "".join(f"<dt>{name} {better}</dt><dd>{_escape(text)}</dd>" for name, better, text in METRICS.values())
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


def players_html(prompts: Sequence[str], motions: Sequence[np.ndarray], skeleton: Skeleton = HUMANML3D) -> str:
    """A page that plays the motion, joints (frames, joints, 3), of each prompt in a player of its own."""
    title = "Generated motions"
    players = [
        f"<h3>“{_escape(prompt)}”</h3>{player_html(player_scene(joints, skeleton), code=False)}"
        for prompt, joints in zip(prompts, motions, strict=True)
    ]
    return page_html(title, f"<h1>{_escape(title)}</h1>{''.join(players)}{player_code()}", STYLE)


def read_report(path: str | os.PathLike) -> dict:
    """What an adaptation wrote as `report.json`.

    Raises `UserError` for a file that cannot be read, or is not whole.
    """
    report = read_json(path)

    def check(fits: bool, where: str, wanted: str) -> None:
        if not fits:
            raise UserError(f"{path} is not the report of an adaptation: {where} should be {wanted}; it may be damaged")

    def check_mapping(value: object, where: str) -> None:
        check(isinstance(value, dict), where, "a JSON object")

    def check_number(value: object, where: str, least: float = -math.inf, most: float = math.inf) -> None:
        fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most)
        check(fits, where, "a number" if least == -math.inf else f"a number from {least:g} to {most:g}")

    for part in ("target", "original", "reward", "config"):
        check_mapping(report.get(part), part)
    for part in ("target", "original"):
        for side in COLUMNS if report[part].get("full_data") is not None else COLUMNS[:2]:
            row, where = report[part].get(side), f"{part}.{side}"
            check_mapping(row, where)
            found = row.get("r_precision")
            check(isinstance(found, list) and len(found) > 0, f"{where}.r_precision", "a list of numbers")
            for key, values in ({key: [row.get(key)] for key in METRICS} | {"r_precision": found}).items():
                for value in values:
                    check_number(value, f"{where}.{key}", *RANGES.get(key, ()))
    for where, value in {"wall_clock_s": report.get("wall_clock_s"), "gap_closed": report.get("gap_closed")}.items():
        check_number(value, where)
    for side in ("before", "after"):
        check_number(report["reward"].get(side), f"reward.{side}")
    curves, prompts = report.get("curves", []), report.get("prompts", {})
    check(isinstance(curves, list) and all(isinstance(record, dict) for record in curves), "curves", "a list of objects")
    check(isinstance(prompts, dict) and all(isinstance(some, list) for some in prompts.values()), "prompts", "lists by name")
    return report


def comparison_rows(reports: Mapping[str, Mapping], costs: Mapping[str, Mapping]) -> list[dict[str, str]]:
    """Runs side by side, one row of printable cells each: name -> what its `report.json` holds, and what a round costs.

    A row of `costs` is that of `bench.measure_round`. "others" is what was forgotten: the actions that were not trained.
    """

    def change(part: Mapping, read: Callable[[Mapping], str]) -> str:
        return f"{read(part['before'])} → {read(part['after'])}"

    def fixed(value: object, digits: int) -> str:
        number = _number(value)
        return "–" if number is None else f"{number:.{digits}f}"

    rows = []
    for name, report in reports.items():
        target, others, cost = report["target"], report["original"], costs.get(name, {})
        rows.append(
            {
                "run": name,
                "model": str(report["config"].get("architecture", "MotionDenoiser")),
                "reward": f"{fixed(report['reward'].get('before'), 2)} → {fixed(report['reward'].get('after'), 2)}",
                "verified": change(target, lambda row: _percent(row.get("verified"))),
                "R-precision@1": change(target, lambda row: fixed(row["r_precision"][0], 2)),
                "FID": change(target, lambda row: fixed(row.get("fid"), 1)),
                "others verified": change(others, lambda row: _percent(row.get("verified"))),
                "others R-precision@1": change(others, lambda row: fixed(row["r_precision"][0], 2)),
                "minutes": fixed((_number(report.get("wall_clock_s")) or math.nan) / 60, 1),
                "iteration": f"{fixed(cost.get('rollout_s'), 2)} s",
                "update": f"{fixed(cost.get('update_s'), 2)} s",
                "memory": f"{fixed(cost.get('update_mib'), 0)} MiB",
            }
        )
    return rows


def comparison_text(rows: Sequence[Mapping[str, str]]) -> str:
    """The rows of `comparison_rows` as plain text, one block a run."""
    wide = max(len(key) for row in rows for key in row)
    return "\n\n".join("\n".join(f"{key:>{wide}}  {value}" for key, value in row.items()) for row in rows)


def comparison_html(rows: Sequence[Mapping[str, str]]) -> str:
    """The same as a page of its own, one column a run."""
    title = "Runs side by side"
    first, *keys = rows[0]
    head = "".join(f'<th scope="col">{_escape(row[first])}</th>' for row in rows)
    body = "".join(
        f'<tr><th scope="row">{_escape(key)}</th>{"".join(f"<td>{_escape(row[key])}</td>" for row in rows)}</tr>'
        for key in keys
    )
    note = (
        "Before → after adaptation, on held-out prompts (a run of free prompts: on those it practised); “others” are the "
        "actions that were not trained. Rollout, update and memory (above what the process held before) are those of one "
        "round of 16 motions of 48 frames."
    )
    return page_html(
        title,
        f'<h1>{title}</h1><p>{note}</p><div class="wide"><table><caption>{title}</caption><thead><tr><th></th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>",
        STYLE,
    )
