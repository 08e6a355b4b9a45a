"""The player as a widget of a live notebook, which leaves a playing page behind in a saved one."""

import os
from pathlib import Path

import anywidget
import ipywidgets
import traitlets

from mocapfree_nb.files import UserError, write_atomically
from mocapfree_nb.player import SCRIPT, STYLE, page_html, player_html, player_scene
from mocapfree_nb.skeleton import HUMANML3D, Skeleton

__all__ = ["MotionPlayer", "PlayerBox"]


def _attended(widget: ipywidgets.Widget) -> bool:
    "Whether somebody sits before the notebook: a kernel that may not ask for input works for a saved page."
    return "COLAB_RELEASE_TAG" in os.environ or getattr(getattr(widget.comm, "kernel", None), "_allow_stdin", True)


class _Lasting:
    "A widget that leaves `to_html()` behind in a saved notebook, where no kernel answers."

    _ipython_display_ = None  # ipywidgets 7 would show the widget through this, without its HTML

    def _repr_mimebundle_(self, **kwargs) -> dict:
        data = {"text/plain": f"{type(self).__name__}()", "text/html": self.to_html()}
        if _attended(self):
            view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
            data["application/vnd.jupyter.widget-view+json"] = view
        return data


class PlayerBox(_Lasting, ipywidgets.VBox):
    """Widgets in a column, players among them; a saved notebook keeps the players."""

    def to_html(self) -> str:
        """The players among the children as a piece of HTML."""
        return "".join(child.to_html() for child in self.children if hasattr(child, "to_html"))


class MotionPlayer(_Lasting, anywidget.AnyWidget):
    """One to four motions on one clock and one camera: play, scrub, turn, zoom, compare, denoise.

    Arguments as for `player_scene`. A notebook shows it as a widget, a saved notebook as plain HTML; `save` writes
    a page. Space plays, arrow keys step, brackets move the denoising step, dragging turns, wheel or pinch zooms.

    Traits, in step with the browser: `frame` and `step` (of denoising; both whole, from 0), `playing`, `speed`.
    """

    _esm, _css = SCRIPT, STYLE
    scene = traitlets.Dict().tag(sync=True)
    frame = traitlets.Int(0, min=0).tag(sync=True)
    step = traitlets.Int(0, min=0).tag(sync=True)
    playing = traitlets.Bool(True).tag(sync=True)
    speed = traitlets.Float(1.0, min=0.01).tag(sync=True)

    def __init__(self, motions, skeleton: Skeleton = HUMANML3D, **options):
        self.skeleton = skeleton
        scene = player_scene(motions, skeleton, **options)
        super().__init__(scene=scene, step=max(0, len(scene["steps"]) - 1))

    def show(self, motions, **options) -> None:
        """Show other motions in the same place; camera, speed and clock go on. Options as for `player_scene`."""
        self.scene = player_scene(motions, self.skeleton, **options)

    def to_html(self) -> str:
        """The player as it stands, as a piece of HTML that needs no kernel, no library and no network."""
        steps = max(0, len(self.scene["steps"]) - 1)
        state = {"frame": self.frame, "step": min(self.step, steps), "speed": self.speed, "playing": self.playing}
        return player_html(self.scene | state)

    _repr_html_ = to_html

    def save(self, path: str | os.PathLike) -> Path:
        """Write a page that plays in any browser, whole or not at all; returns its path.

        Raises `UserError` where `path` cannot be written or does not end in .html.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"cannot save a player as {path.name}: it is a page, give a name that ends in .html")
        with write_atomically(path) as temporary:
            temporary.write_text(page_html(self.scene["title"] or "Motion", self.to_html()), encoding="utf-8")
        return path
