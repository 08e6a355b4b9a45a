"""The player: motions as a scene, and a scene as a page that needs no library, no kernel and no network."""

import base64
import html
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from mocapfree_nb.viewer import (
    COLOURS,
    MAX_FRAMES,
    as_array,
    check_motions,
    floor_height,
    joint_sides,
    named_motions,
    project,
    resting_feet,
    strokes_of,
    units_per_metre,
)
from mocapfree_nb.skeleton import HUMANML3D, Skeleton

__all__ = ["Chart", "player_scene", "player_code", "player_html", "page_html", "pack_joints", "unpack_joints"]


def pack_joints(states: np.ndarray, unit: float = 5e-4) -> dict:
    "Joints (S, T, J, 3) in metres as deflated differences in time, with the length of one whole number."
    scale = max(unit, float(np.abs(states).max()) / 32767)
    whole = (states / scale).round().astype(np.int64).reshape(*states.shape[:2], -1)
    change = np.diff(whole, axis=1, prepend=0).astype(np.uint16)         # wraps around, and back in `unpack_joints`
    data = (change & 255).astype(np.uint8).tobytes() + (change >> 8).astype(np.uint8).tobytes()
    return {"frames": states.shape[1], "scale": scale, "data": zlib.compress(data, 9)}


def unpack_joints(panel: Mapping, num_joints: int) -> np.ndarray:
    "What `pack_joints` packed, (S, T, J, 3): the player does the same in JavaScript."
    low, high = np.frombuffer(zlib.decompress(panel["data"]), np.uint8).astype(np.uint16).reshape(2, -1)
    change = (low | high << 8).reshape(-1, panel["frames"], num_joints * 3)
    whole = np.add.accumulate(change, axis=1, dtype=np.uint16).astype(np.int16)
    return whole.reshape(*change.shape[:2], num_joints, 3) * panel["scale"]


@dataclass(frozen=True)
class Chart:
    """Lines under the panels of a player, one colour and dash each, with the value at the cursor."""

    lines: Mapping[str, Sequence[float]]  # name -> numbers; NaN leaves a gap
    along: str = "frame"  # what a number belongs to: "frame", "step" (of denoising), or another word, "rollout" say
    title: str = ""
    first: int = 0  # how the first place is counted, where `along` is a word of your own

    def data(self) -> dict:
        """As plain values for JSON, five digits each."""
        lines = [{"name": str(name), "values": [float(f"{v:.5g}") if math.isfinite(v) else None for v in as_array(row)]}
                 for name, row in self.lines.items()]
        return {"lines": lines, "along": self.along, "title": self.title, "first": self.first}


def _check_denoising(motions, skeleton: Skeleton, steps: int) -> dict[str, np.ndarray]:
    "Named motions (S, T, J, 3), a version for each of `steps` denoising steps."
    versions = {}
    for name, states in named_motions(motions, 4).items():
        shape = getattr(states, "shape", (len(states),) if hasattr(states, "__len__") else ())
        if not shape or shape[0] != steps:
            raise ValueError(f"{name or 'joints'}: shape {tuple(shape)}; expected ({steps}, frames, "
                             f"{skeleton.num_joints}, 3), one motion for each of the {steps} denoising steps")
        parts = [check_motions({f"{name or 'joints'}, step {i}": state}, skeleton, MAX_FRAMES)
                 for i, state in enumerate(states)]
        versions[name] = np.stack([clip for part in parts for clip in part.values()])
    return versions


def player_scene(
    motions,  # (T, J, 3), a list of such clips or a dict name -> clip, at most 4; numpy or torch
    skeleton: Skeleton = HUMANML3D,
    *,
    title: str = "",
    captions: Mapping[str, str] | None = None,  # name -> a line under the name
    fps: float | None = None,  # frames a second (default: the skeleton's)
    denoising: Sequence = (),  # names of the denoising steps, x_T first; then every motion is (steps, T, J, 3)
    charts: Sequence[Chart] | Mapping[str, Sequence[float]] = (),  # under the panels; a dict: lines over frames
    ghosts: bool = False,  # show further poses, half a second apart
    azimuth: float = 30.0,  # of the camera, degrees
    elevation: float = 12.0,
) -> dict:
    """Motions as what a player plays: plain values, and packed joints as bytes.

    Each motion starts over the origin of its own panel. Raises `ValueError` as `film_strips` does, and for more
    than 4 motions or `MAX_FRAMES` frames.
    """
    steps, metre, fps = [str(step) for step in denoising], units_per_metre(skeleton), skeleton.fps if fps is None else fps
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}; expected a positive number of frames a second")
    if steps:
        versions = _check_denoising(motions, skeleton, len(steps))
    else:
        versions = {name: clip[None] for name, clip in check_motions(motions, skeleton, MAX_FRAMES).items()}
    if len(versions) > 4:
        raise ValueError(f"{len(versions)} motions; a player shows at most 4: choose some, or make several players")
    versions = {name: (states - [states[-1, 0, 0, 0], floor_height(states[-1]), states[-1, 0, 0, 2]]) / metre
                for name, states in versions.items()}
    about_root = np.concatenate([(s[-1] - s[-1][:, :1] * [1, 0, 1]).reshape(-1, 3) for s in versions.values()])
    captions = captions or {}
    panels = [{"name": name, "caption": str(captions.get(name, "")), "contacts": resting_feet(states, skeleton, fps),
               **pack_joints(states, 2e-3 if steps else 5e-4)} for name, states in versions.items()]
    charts = [Chart(charts)] if isinstance(charts, Mapping) and charts else charts
    return {
        "title": title, "fps": float(fps), "steps": steps, "panels": panels, "charts": [c.data() for c in charts],
        "ghosts": ghosts, "azimuth": math.radians(azimuth), "elevation": math.radians(elevation),
        "height": round(float(about_root[:, 1].max()) + 0.2, 3),
        "reach": round(max(0.5, float(np.hypot(about_root[:, 0], about_root[:, 2]).max())), 3),
        "parents": list(skeleton.parents), "head": strokes_of(skeleton)[0][-1],
        "sides": [list(COLOURS)[side] for side in joint_sides(skeleton)],
        "feet": [*skeleton.feet_left, *skeleton.feet_right],
    }


def _still(scene: Mapping) -> str:
    "A few poses of every panel as an `<img>`, for those who run no script."
    parents, poses = scene["parents"], max(2, 6 // len(scene["panels"]))
    colours, parts, at = [COLOURS[side] for side in scene["sides"]], [], 0.0
    for panel in scene["panels"]:
        clip = unpack_joints(panel, len(parents))[-1]
        for frame in np.linspace(0, len(clip) - 1, poses).round().astype(int):
            pose = clip[frame] - clip[frame, 0] * [1, 0, 1]
            seen = project(pose, math.degrees(scene["azimuth"]), math.degrees(scene["elevation"]))
            x, y = (100 * (seen[:, 0] + at)).round().astype(int), (-100 * seen[:, 1]).round().astype(int)
            for colour in dict.fromkeys(colours):
                bones = [(p, j) for j, p in enumerate(parents) if p >= 0 and colours[j] == colour]
                line = "".join(f"M{x[p]} {y[p]}L{x[j]} {y[j]}" for p, j in bones)
                parts.append(f'<path d="{line}" stroke="{colour}"/>')
            at += 2 * scene["reach"]
    left, width, height = -100 * scene["reach"], 100 * at, 100 * scene["height"] + 30
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} {20 - height:.0f} {width:.0f} {height:.0f}" '
           f'width="{4.5 * width / poses:.0f}" stroke-width="6" stroke-linecap="round">{"".join(parts)}</svg>')
    names = ", ".join(filter(None, [scene["title"], *(panel["name"] for panel in scene["panels"])])) or "a motion"
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="Poses of {html.escape(names)}" src="data:image/svg+xml;base64,{data}">'


def _json(scene: Mapping) -> str:
    "A scene as JSON that may stand inside a script element."
    text = json.dumps(scene, separators=(",", ":"), default=lambda data: base64.b64encode(data).decode())
    return text.replace("<", "\\u003c")


_ASSETS = Path(str(files("mocapfree_nb"))) / "assets"
SCRIPT, STYLE = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("player.js", "player.css"))
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
<main>
{body}
</main></body></html>
"""
_PAGE_STYLE = (":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;"
               "padding:1rem;background:Canvas;color:CanvasText}")


def player_code(program: str = "document.querySelectorAll('.mocapfree-player[data-waiting]').forEach(fill);") -> str:
    """Style and script of a page with players: needed once, after the last of them.

    `program` is JavaScript that may use `Player`; by itself it starts every waiting player.
    """
    script = SCRIPT.replace("export default { render };", program)
    script = re.sub(r"^\s*//.*\n|^\s+", "", script, flags=re.M)         # a quarter of it is indentation and comments
    return f"<style>{STYLE}</style><script>(() => {{\n{script}}})();</script>"


def player_html(scene: Mapping, code: bool = True) -> str:
    """A scene as a piece of HTML that needs no library and no network; `code=False` leaves `player_code` out."""
    state = {"frame": 0, "step": max(0, len(scene["steps"]) - 1), "speed": 1.0, "playing": True}
    place = (f'<div class="mocapfree-player" data-waiting="">{_still(scene)}'
             f'<script type="application/json">{_json(state | scene)}</script></div>')
    return place + player_code() * code


def page_html(title: str, body: str, style: str = _PAGE_STYLE) -> str:
    """A whole page around `body` (HTML) that is allowed to fetch nothing; `title` is escaped."""
    return _PAGE.format(title=html.escape(title), style=style, body=body)
