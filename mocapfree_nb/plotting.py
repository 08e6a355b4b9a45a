"""A plotly figure of motion, to turn and play in a live notebook."""

import html
import math
import textwrap
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from mocapfree_nb.viewer import (
    COLOURS,
    MAX_FRAMES,
    check_motions,
    floor_height,
    joint_sides,
    resting_feet,
    strokes_of,
    units_per_metre,
)
from mocapfree_nb.skeleton import HUMANML3D, Skeleton

__all__ = ["plot_motion"]


def _spread(clips: Mapping[str, np.ndarray], metre: float, overlay: bool = False) -> dict[str, np.ndarray]:
    "The clips side by side along x (or all in one place), each starting over the origin of its lane and on floor 0."
    lanes, at = {}, 0.0
    for name, clip in clips.items():
        clip = clip - [clip[0, 0, 0], floor_height(clip), clip[0, 0, 2]]
        if lanes and not overlay:
            at += 0.4 * metre - clip[..., 0].min()
        lanes[name] = clip + [at, 0.0, 0.0]
        at += 0.0 if overlay else clip[..., 0].max()
    return lanes


def _pen(skeleton: Skeleton) -> tuple[np.ndarray, np.ndarray]:
    "Joints in the order in which a body is drawn, -1 where the pen is lifted, and each point's side; the feet follow."
    strokes, side = strokes_of(skeleton), joint_sides(skeleton)
    feet = [*skeleton.feet_left, *skeleton.feet_right]
    joints = [joint for stroke in strokes for joint in [*stroke, -1]] + [joint for foot in feet for joint in (foot, -1)]
    colour = [side[j] for stroke in strokes for j in [stroke[1], *stroke[1:], stroke[-1]]]
    return np.array(joints), np.array(colour + [side[foot] for foot in feet for _ in range(2)])


def _moving_points(clip: np.ndarray, skeleton: Skeleton, fps: float) -> np.ndarray:
    "Plot coordinates (z, x, y) of every frame, (T, points, 3): NaN where the pen is lifted or a foot does not rest."
    joints, _ = _pen(skeleton)
    points = np.where((joints < 0)[:, None], np.nan, clip[:, joints])
    marks = points[:, -8::2]                                             # the last points are feet, on the floor
    digits = resting_feet(clip[None] / units_per_metre(skeleton), skeleton, fps)[0]
    resting = np.array([int(digit, 16) for digit in digits])[:, None] >> np.arange(4) & 1
    marks[..., 1] = 0
    marks[resting == 0] = np.nan
    return points[..., [2, 0, 1]]


def _camera(x: float, y: float, z: float) -> dict:
    return {"eye": {"x": x, "y": y, "z": z}, "up": {"x": 0, "y": 0, "z": 1}}


_CAMERAS = {"corner": _camera(1.3, 0.6, 0.4), "front": _camera(1.6, 0, 0.1), "left": _camera(0, 1.6, 0.1),
            "top": _camera(0.01, 0, 1.9)}


def _buttons(y: float, buttons: list[dict]) -> dict:
    "A row of buttons under the picture."
    return {"type": "buttons", "direction": "left", "x": 0.01, "y": y, "xanchor": "left", "yanchor": "top",
            "showactive": False, "bgcolor": "#e5e7eb", "font": {"color": "#111827", "size": 11}, "buttons": buttons,
            "pad": {"r": 2, "t": 2}}


def _layout(title: str, caption: str, bounds: np.ndarray, stops: list[int], fps: float) -> dict:
    "Plotly layout with play at three speeds, pause, cameras and a slider; `bounds` (2, 3) in plot axes."
    move = {"mode": "immediate", "fromcurrent": True, "transition": {"duration": 0}}
    stop = {**move, "frame": {"duration": 0, "redraw": True}}
    buttons = [{"label": label, "method": "animate",
                "args": [None, {**move, "frame": {"duration": 1000 / fps / speed, "redraw": True}}]}
               for label, speed in (("Play", 1), ("¼×", 0.25), ("½×", 0.5), ("2×", 2))]
    buttons.append({"label": "Pause", "method": "animate", "args": [[None], stop]})
    views = [{"label": view.capitalize(), "method": "relayout", "args": [{"scene.camera": camera}]}
             for view, camera in _CAMERAS.items()]
    steps = [{"label": f"{frame / fps:.1f}", "method": "animate", "args": [[str(frame)], stop]} for frame in stops]
    axis = {"showbackground": False, "showticklabels": False, "title": {"text": ""}, "showspikes": False,
            "showgrid": False, "zeroline": False}
    scene = {f"{name}axis": {**axis, "range": bounds[:, i].tolist()} for i, name in enumerate("xyz")}
    words = [html.escape(title), *(f"<sup>{html.escape(line)}</sup>" for line in textwrap.wrap(caption, 110))]
    return {
        "title": {"text": "<br>".join(filter(None, words)), "y": 0.98, "yanchor": "top"}, "height": 540,
        "margin": {"l": 0, "r": 0, "t": 36 + 18 * len(words), "b": 96}, "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)", "font": {"color": "#737a86"},  # as far from a white page as from a dark one
        "scene": {**scene, "aspectmode": "data", "camera": _CAMERAS["corner"]},
        "updatemenus": [_buttons(0, buttons), _buttons(-0.09, views)],
        "sliders": [{"active": 0, "x": 0.38, "len": 0.6, "y": 0, "yanchor": "top", "steps": steps, "pad": {"t": 4},
                     "currentvalue": {"suffix": " s", "offset": 4}, "font": {"size": 11}}],
    }


@lru_cache(maxsize=1)
def _animated_figure() -> type:
    "A plotly `Figure` that keeps its frames as plain dictionaries until they are asked for."
    import plotly.graph_objects as go  # takes a second: only when a figure is wanted

    class AnimatedFigure(go.Figure):
        def __init__(self, figure: dict):
            self._plain = figure["frames"]
            super().__init__({key: figure[key] for key in ("data", "layout")})

        @property
        def frames(self):
            if self._plain:
                plain, self._plain = self._plain, None
                go.Figure.frames.fset(self, plain)
            return go.Figure.frames.fget(self)

        @frames.setter
        def frames(self, frames):
            self._plain = None
            go.Figure.frames.fset(self, frames)

        def to_dict(self) -> dict:
            made = super().to_dict()
            return made | {"frames": self._plain} if self._plain else made

        def __reduce__(self):
            return go.Figure, (self.to_dict(),)

    return AnimatedFigure


def _shades(count: int, overlay: bool) -> list[str]:
    "The three colours of each body; bodies in one place grow paler, so that they can be told apart."
    shades = []
    for body in range(count):
        pale = 0.6 * body / count if overlay else 0.0
        for colour in COLOURS.values():
            channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            shades.append("rgb({},{},{})".format(*(round(c + pale * (255 - c)) for c in channels)))
    return shades


def _standing(clips: Mapping[str, np.ndarray], bounds: np.ndarray, metre: float, overlay: bool) -> list[dict]:
    "The traces that do not move: floor, the path of each root, names."
    (x0, y0, _), (x1, y1, _) = bounds.tolist()
    floor = {"type": "mesh3d", "x": [x0, x1, x1, x0], "y": [y0, y0, y1, y1], "z": [-0.005 * metre] * 4, "i": [0, 0],
             "j": [1, 2], "k": [2, 3], "color": "#d9dde3", "opacity": 0.6, "hoverinfo": "skip", "name": "floor"}
    roots = [np.append(clip[:, 0, [2, 0]].round(3 if metre == 1 else 0), [[np.nan] * 2], axis=0) for clip in clips.values()]
    path = np.where(np.isnan(roots := np.concatenate(roots)), None, roots).T.tolist()
    trail = {"type": "scatter3d", "mode": "lines", "x": path[0], "y": path[1], "z": [0] * len(path[0]), "name": "trail",
             "line": {"color": "#6b7280", "width": 3}, "hoverinfo": "skip"}
    tops = [clip[0, :, 1].max() + (0.2 + 0.15 * i * overlay) * metre for i, clip in enumerate(clips.values())]
    over = np.array([[clip[0, 0, 2], clip[0, 0, 0], top] for clip, top in zip(clips.values(), tops, strict=True)])
    names = {"type": "scatter3d", "mode": "text", "hoverinfo": "skip", "text": list(map(html.escape, clips)),
             "name": "names", **dict(zip("xyz", over.T.tolist(), strict=True))}
    return [floor, trail, names]


def plot_motion(
    joints,  # (T, J, 3), a list of such clips, or a dict name -> clip
    skeleton: Skeleton = HUMANML3D,
    title: str = "",
    fps: float | None = None,  # frames a second (default: the skeleton's)
    caption: str = "",  # a line under the title, broken where it is long
    overlay: bool = False,  # all motions in one place, later ones paler, instead of side by side
):
    """An animated plotly figure of motions: play at four speeds, pause, slider, cameras, floor, trails, resting feet.

    Axes are drawn as (z, x, y), so left stays left. Shorter motions hold their last pose. Words are shown as
    written, whatever characters they hold. Raises `ValueError` as `film_strips` does, and for more than `MAX_FRAMES`.
    """
    metre, fps = units_per_metre(skeleton), skeleton.fps if fps is None else fps
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}; expected a positive number of frames a second")
    clips = _spread(check_motions(joints, skeleton, MAX_FRAMES), metre, overlay)
    total = max(len(clip) for clip in clips.values())
    order, side = _pen(skeleton)
    bodies = [_moving_points(clip, skeleton, fps) for clip in clips.values()]
    points = np.concatenate([np.pad(body, ((0, total - len(body)), (0, 0), (0, 0)), "edge") for body in bodies], axis=1)
    rounded = (points.round(3 if metre == 1 else 0) + 0.0).transpose(2, 0, 1)       # + 0.0: no minus zero
    places = np.where(np.isnan(rounded), None, rounded).tolist()

    def pose(frame):
        return {"type": "scatter3d", **{axis: place[frame] for axis, place in zip("xyz", places, strict=True)}}

    shades = _shades(len(clips), overlay)
    scale = [[(i + end) / len(shades), shade] for i, shade in enumerate(shades) for end in (0, 1)]
    colours = {"color": [int(3 * body + s) for body in range(len(clips)) for s in side], "colorscale": scale,
               "cmin": -0.5, "cmax": len(shades) - 0.5}
    sizes = np.where(order == strokes_of(skeleton)[0][-1], 11, 0)
    sizes[-8::2] = 6
    body = {**pose(0), "mode": "lines+markers", "hoverinfo": "skip", "name": "bodies", "line": {**colours, "width": 8},
            "marker": {**colours, "size": sizes.tolist() * len(clips), "line": {"width": 0}, "opacity": 1}}
    frames = [{"name": str(frame), "traces": [0], "data": [pose(frame)]} for frame in range(total)]
    every = np.concatenate([clip.reshape(-1, 3) for clip in clips.values()])[:, [2, 0, 1]]
    bounds = np.stack([every.min(0) - 0.3 * metre, every.max(0) + 0.35 * metre]).round(3)
    bounds[0, 2] = min(0.0, every[:, 2].min()) - 0.02 * metre
    stops = list(range(0, total, math.ceil(total / 30)))
    layout = _layout(title, caption, bounds, stops, fps)
    return _animated_figure()({"data": [body, *_standing(clips, bounds, metre, overlay)], "layout": layout,
                               "frames": frames})
