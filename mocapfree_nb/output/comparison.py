"""Reports read back: the outcome in a few lines, and runs side by side."""

import math
import os
from collections.abc import Callable, Mapping, Sequence

from mocapfree_nb.files import UserError, printable
from mocapfree_nb.reading import read_json
from mocapfree_nb.output.page import (
    COLUMNS, METRICS, RANGES, STYLE, as_number, as_percent, column_names, escape, held_out, is_free, others, unserved,
)  # fmt: skip
from mocapfree_nb.player import page_html
from mocapfree_nb.validity import validity_words

__all__ = ["read_report", "summary", "comparison_rows", "comparison_text", "comparison_html"]


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
        there = [side for side in COLUMNS if side in ("before", "after") or report[part].get(side) is not None]
        for side in there:
            row, where = report[part].get(side), f"{part}.{side}"
            check_mapping(row, where)
            found = row.get("r_precision")
            check(isinstance(found, list) and len(found) > 0, f"{where}.r_precision", "a list of numbers")
            for key, values in ({key: [row.get(key)] for key in METRICS} | {"r_precision": found}).items():
                for value in values:
                    check_number(value, f"{where}.{key}", *RANGES.get(key, ()))
            check(isinstance(row.get("interval", {}), dict), f"{where}.interval", "a JSON object")
            for key, bounds in row.get("interval", {}).items():
                check(bounds is None or isinstance(bounds, list) and len(bounds) == 2, f"{where}.interval", "pairs of numbers")
                for bound in bounds or ():
                    check_number(bound, f"{where}.interval.{key}", 0, 1)
    for where, value in {"wall_clock_s": report.get("wall_clock_s"), "gap_closed": report.get("gap_closed")}.items():
        check_number(value, where)
    for side in ("before", "after"):
        check_number(report["reward"].get(side), f"reward.{side}")
    curves, prompts = report.get("curves", []), report.get("prompts", {})
    check(isinstance(curves, list) and all(isinstance(record, dict) for record in curves), "curves", "a list of objects")
    check(isinstance(prompts, dict) and all(isinstance(some, list) for some in prompts.values()), "prompts", "lists by name")
    return report


def comparison_rows(reports: Mapping[str, Mapping], costs: Mapping[str, Mapping]) -> list[dict[str, str]]:
    """Runs side by side, one row of printable cells each: name -> what its `report.json` holds, and what an iteration costs.

    A row of `costs` is that of `bench.measure_iteration`. "others" is what was forgotten: the actions that were not trained.
    """

    def change(part: Mapping, read: Callable[[Mapping], str]) -> str:
        return f"{read(part['before'])} → {read(part['after'])}"

    def fixed(value: object, digits: int) -> str:
        number = as_number(value)
        return "–" if number is None else f"{number:.{digits}f}"

    rows = []
    for name, report in reports.items():
        target, others, cost = report["target"], report["original"], costs.get(name, {})
        rows.append(
            {
                "run": name,
                "model": str(report["config"].get("architecture", "MotionDenoiser")),
                "reward": f"{fixed(report['reward'].get('before'), 2)} → {fixed(report['reward'].get('after'), 2)}",
                "verified": change(target, lambda row: as_percent(row.get("verified"))),
                "R-precision@1": change(target, lambda row: fixed(row["r_precision"][0], 2)),
                "best of N": as_percent((target.get("best_of_n") or {}).get("verified")),
                "FID": change(target, lambda row: fixed(row.get("fid"), 1)),
                "others verified": change(others, lambda row: as_percent(row.get("verified"))),
                "others R-precision@1": change(others, lambda row: fixed(row["r_precision"][0], 2)),
                "minutes": fixed((as_number(report.get("wall_clock_s")) or math.nan) / 60, 1),
                "rollout": f"{fixed(cost.get('rollout_s'), 2)} s",
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
    head = "".join(f'<th scope="col">{escape(row[first])}</th>' for row in rows)
    body = "".join(
        f'<tr><th scope="row">{escape(key)}</th>{"".join(f"<td>{escape(row[key])}</td>" for row in rows)}</tr>'
        for key in keys
    )
    note = (
        "Before → after adaptation, on held-out prompts (a run of free prompts: on those it was trained on); “others” are the "
        "actions that were not trained (of a run of free prompts: all captions of the corpus). Rollout, update and memory "
        "(above what the process held before) are those of one iteration of 16 motions of 48 frames."
    )
    return page_html(
        title,
        f'<h1>{title}</h1><p>{note}</p><div class="wide"><table><caption>{title}</caption><thead><tr><th></th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>",
        STYLE,
    )


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)  # None: it could not be measured


def _lines(name: str, part: Mapping, keys: list[str], names: Mapping[str, str]) -> str:
    """Name of a part of the report, and a line for each of its rows."""
    lines = [name]
    for key in keys:
        verified, found = _shown(part[key].get("verified"), ".1%"), _shown(part[key]["r_precision"][0], ".3f")
        title = "full data" if names[key] == "saw the action" else names[key]
        if bounds := (part[key].get("interval") or {}).get("verified"):
            verified += f" ({bounds[0]:.0%} to {bounds[1]:.0%})"
        lines.append(f"{title:>11}: verified {verified:>6}  R-precision@1 {found}")
    return "\n  ".join(lines)


def summary(values: Mapping) -> str:
    """The outcome in a few lines of plain text, for the command line."""
    names, target, original = column_names(values), values["target"], values["original"]
    prompts = "held-out prompts" if held_out(values) else "the prompts that it was trained on"
    title = f"target: {printable(target.get('name'))} ({prompts}, n = {target['after'].get('n')})"
    lines = [_lines(title, target, [key for key in COLUMNS if target.get(key)], names)]
    title = f"{others(values)} (n = {original['after'].get('n')})"
    lines.append(_lines(title, original, [key for key in COLUMNS if original.get(key)], names))
    if target["after"].get("bone_deviation") is not None:
        lines.append(f"bodies: {validity_words(target['after'])} (before: {validity_words(target['before'])})")
    if values.get("gap_closed") is not None:
        other = "other model" if names["full_data"] == "other model" else "model that saw the action"
        lines.append(f"R-precision@1 gap to the {other}: {values['gap_closed']:.0%} closed")
    if values.get("experiment") == "cross-dataset":
        fids = " -> ".join(_shown(target[key].get("fid"), ".2f") for key in ("before", "after"))
        of_its_own = f", a model of its own {target['full_data'].get('fid'):.2f}" if target.get("full_data") else ""
        closed = values.get("fid_gap_closed")
        lines.append(f"FID {fids}{of_its_own}" + ("" if closed is None else f": {closed:.0%} of the gap closed"))
    found_nothing = unserved(values) if is_free(values) else []
    lines += [f"search: {printable(line, 400)}" for line in found_nothing[:3]]
    lines += [f"search: {len(found_nothing) - 3} more prompts for which nothing was found"] * (len(found_nothing) > 3)
    reward = values["reward"]
    rise = " -> ".join(_shown(reward.get(key), ".3f") for key in ("before", "after"))
    lines.append(f"reward {rise}; {_shown(values.get('wall_clock_s'), '.0f')} s")
    return "\n".join(lines)
