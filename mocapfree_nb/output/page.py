"""What pages about runs share: names of columns and numbers, their style, and a page that only plays motions."""

import html
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from mocapfree_nb.player import page_html, player_code, player_html, player_scene
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, Skeleton

__all__ = ["held_out", "is_free", "others", "unserved", "column_names", "skeleton_in", "players_html"]

COLUMNS = ("before", "after", "best_of_n", "full_data")
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
    "bone_deviation": ("bone length deviation", "↓", "how far bones are off their length, on average; a body has none"),
    "jitter": ("jitter", "↓", "mean third derivative of joint positions, m/s³"),
    "floor_penetration": ("under the floor", "↓", "mean depth of the lowest joint under the floor, metres"),
    "fid_floor": ("FID of fresh real clips", "", "as many real clips against the same reference: no model can be asked for less"),
    "n": ("motions", "", "how many motions were generated for this column"),
}
RANGES = {"verified": (0, 1), "r_precision": (0, 1), "foot_skate": (0, 1), "n": (1, math.inf)}
INTERVALS = {"r_precision": "r_precision@1", "verified": "verified"}  # metric -> its key among a row's intervals
STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--soft:#59636e;--page:#fff;--line:#d1d9e0;--panel:#f6f8fa;
--mark:#0072B2}
@media(prefers-color-scheme:dark){:root{--text:#e6e9ed;--soft:#9aa5b1;--page:#15181c;--line:#343b44;
--panel:#1d2127;--mark:#56B4E9}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--text);background:var(--page);max-width:62rem;margin:0 auto;
padding:1.5rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:.3em 0}h2{font-size:1.2rem;margin:2.2em 0 .5em}
h3{font-size:1rem;margin:1.4em 0 .2em}.lead{font-size:1.1rem}.soft,figcaption{color:var(--soft)}
.wide{overflow-x:auto}.strip img{min-width:40rem}td span{white-space:nowrap}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;min-width:60%}
caption{text-align:left;color:var(--soft);padding-bottom:.3em}
th,td{padding:.3em .8em;border-bottom:1px solid var(--line);text-align:right}
th[scope=row]{text-align:left;font-weight:normal}thead th{font-weight:600}
.now{background:var(--panel);font-weight:600}img{max-width:100%;height:auto;border-radius:6px;background:#fff}summary{min-height:44px;line-height:44px;cursor:pointer}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1rem}.charts figure{margin:0}
.charts svg{width:100%;height:auto;background:var(--panel);border-radius:6px}
.charts text{fill:var(--soft);font-size:11px}details{margin:.6em 0}dt{font-weight:600}dd{margin:0 0 .5em}
@media(max-width:40rem){.wide table{font-size:.85rem;min-width:100%}th,td{padding:.3em .25em}
main .mocapfree-player figure canvas{height:min(300px,60vw)}}
li{overflow-wrap:anywhere}td.value{text-align:left;white-space:normal;overflow-wrap:anywhere}
"""


def held_out(report: Mapping) -> bool:
    """True where no prompt of the target that was evaluated was trained on; reports say so, or the prompts they list do."""
    if isinstance(report.get("held_out"), bool):
        return report["held_out"]
    prompts = report.get("prompts")
    lists = [prompts.get(key) or [] for key in ("training", "evaluation")] if isinstance(prompts, Mapping) else [[], []]
    return not set(map(str, lists[0])) & set(map(str, lists[1]))


def is_free(report: Mapping) -> bool:
    """True of a run of the user's own prompts, for which there is no motion: nothing is known of it but its words."""
    return report.get("experiment") == "free"


def others(report: Mapping) -> str:
    """What the prompts of `original` are: with free prompts all of the corpus, which may hold what they ask for."""
    return "held-out captions of the corpus" if is_free(report) else "everything else"


def unserved(report: Mapping) -> list[str]:
    """What the last search of an exploration found nothing for, a line each prompt; [] of other runs."""
    curves = report.get("curves")
    curves = curves if isinstance(curves, Sequence) else ()
    searches = [record for record in curves if isinstance(record, Mapping) and "unserved" in record]
    lines = searches[-1]["unserved"] if searches else []
    return [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []


def column_names(report: Mapping) -> dict[str, str]:
    """What the columns of a report are called: only a target with motion of its own can have been seen in training."""
    saw = "other model" if is_free(report) else "saw the action"
    return {"before": "before", "after": "after", "best_of_n": "best of N", "full_data": saw}


def skeleton_in(motions: Mapping[str, np.ndarray]) -> Skeleton:
    """The skeleton that joints (frames, joints, 3), by name, belong to; HumanML3D's where it cannot be told."""
    sizes = {joints.shape[-2] for joints in motions.values()}
    return KIT_ML if sizes == {KIT_ML.num_joints} else HUMANML3D


def escape(value: object) -> str:
    return html.escape(str(value))


def as_number(value: object) -> float | None:
    "A finite float, or None for anything else (None, NaN, words)."
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        return None
    return float(value)


def as_percent(value: object) -> str:
    number = as_number(value)
    return "–" if number is None else f"{100 * number:.0f}%" if number in (0, 1) else f"{100 * number:.1f}%"


def first_value(row: Mapping, key: str) -> object:
    "A metric; of R-precision the @1."
    value = row.get(key)
    return value[0] if key == "r_precision" and value else value


def players_html(prompts: Sequence[str], motions: Sequence[np.ndarray], skeleton: Skeleton = HUMANML3D) -> str:
    """A page that plays the motion, joints (frames, joints, 3), of each prompt in a player of its own."""
    title = prompts[0] if len(prompts) == 1 else f"{len(prompts)} generated motions: {', '.join(prompts)}"[:120]
    named = len(prompts) > 1  # of one prompt the title says it already
    players = [
        f"<h3>“{escape(prompt)}”</h3>" * named + player_html(player_scene(joints, skeleton), code=False)
        for prompt, joints in zip(prompts, motions, strict=True)
    ]
    return page_html(title, f"<h1>{escape(title)}</h1>{''.join(players)}{player_code()}", STYLE)
