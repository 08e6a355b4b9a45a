"""Pictures: nothing is mirrored, nothing is lost, nothing that comes from data is run, and bad input is refused."""

import base64
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from mocapfree_nb import viewer
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics
from mocapfree_nb.viewer import COLOURS, film_strip, film_strips, motion_html, plot_motion, project

SKELETONS = [HUMANML3D, KIT_ML]


def standing(skeleton=HUMANML3D, frames=9, raise_left=False) -> np.ndarray:
    "A figure that faces +z on the floor; with `raise_left` its left wrist goes up over the clip."
    rotations = torch.eye(3, dtype=torch.float64).expand(frames, skeleton.num_joints, 3, 3)
    joints, _ = forward_kinematics(rotations, torch.zeros(frames, 3, dtype=torch.float64), skeleton)
    joints = joints.numpy().copy()
    joints[..., 1] -= joints[..., 1].min()
    if raise_left:
        wrist = skeleton.joint_names.index("left_wrist")
        joints[:, wrist] = joints[:, 0] + np.stack(
            [np.full(frames, 0.6), np.linspace(0, 1.2, frames), np.zeros(frames)], axis=-1
        )
    return joints


def limbs(figure) -> list[tuple[str, np.ndarray]]:
    "(colour, segment) of every thick line in a film strip."
    found = []
    for axes in figure.axes:
        for lines in axes.collections:
            if isinstance(lines, LineCollection) and lines.get_zorder() == 3:
                found += list(zip(map(to_hex, lines.get_colors()), lines.get_segments(), strict=True))
    return found


@pytest.mark.parametrize("azimuth,side", [(0, 1), (30, 1), (180, -1), (-150, -1)])
def test_the_raised_left_arm_is_seen_on_the_figures_own_left(azimuth, side):
    figure = film_strip(standing(raise_left=True), poses=1, azimuth=azimuth, elevation=0)
    mean_x = {c: np.mean([s[:, 0].mean() for colour, s in limbs(figure) if colour == COLOURS[c].lower()])
              for c in ("left", "right")}
    assert np.sign(mean_x["left"] - mean_x["right"]) == side


def test_projection_is_a_rotation_for_every_angle():
    for azimuth, elevation in np.random.default_rng(0).uniform(-180, 180, (50, 2)):
        axes = project(np.eye(3), azimuth, elevation)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(axes) > 0


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda s: s.name)
def test_a_strip_draws_every_bone_in_the_colour_of_its_side(skeleton):
    figure = film_strip(standing(skeleton), skeleton, poses=3)
    drawn = [colour for colour, _ in limbs(figure)]
    assert len(drawn) == 3 * (skeleton.num_joints - 1)
    assert drawn.count(COLOURS["left"].lower()) == 3 * len(skeleton.left_joints)
    assert drawn.count(COLOURS["right"].lower()) == 3 * len(skeleton.right_joints)


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda s: s.name)
def test_strokes_cover_the_tree_once(skeleton):
    drawn = [bone for stroke in viewer._strokes(skeleton) for bone in zip(stroke, stroke[1:], strict=False)]
    assert sorted(drawn) == sorted(skeleton.bones)


def test_a_strip_names_its_times_and_rows_literally():
    figure = film_strips({"a_$x$_{b": standing(frames=21), "<b>": standing(frames=5)}, title="100% $\\alpha$", poses=3)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]
    assert {"0.0 s", "0.5 s", "1.0 s", "0.1 s", "0.2 s", "a_$x$_{b", "<b>", "100% $\\alpha$"} <= set(texts)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_strip_of_one_frame_and_one_that_travels(tmp_path):
    walk = standing(frames=40)
    walk[..., 2] += np.linspace(0, 30, 40)[:, None]
    for joints in (walk, walk[:1]):
        film_strip(joints).savefig(tmp_path / "strip.png")
        pixels = matplotlib.image.imread(tmp_path / "strip.png")[..., :3]
        blue = np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255).max(axis=-1) < 0.05
        assert blue.sum() > 30


def test_plot_keeps_left_on_the_left_and_every_joint():
    joints = standing(raise_left=True)
    figure = plot_motion(joints)
    z, x, y = (np.array(figure.data[0][axis], dtype=float) for axis in "xyz")
    shown = np.stack([x, y, z], axis=-1)
    shown = shown[~np.isnan(shown).any(axis=1)]
    first = joints[0] - joints[0, 0] * [1, 0, 1]
    for joint in first:
        assert np.abs(shown - joint).max(axis=1).min() < 6e-4  # rounded to a millimetre
    plot_axes = np.eye(3)[[2, 0, 1]]
    assert np.linalg.det(plot_axes) == pytest.approx(1)


def test_plot_is_small_and_has_few_stops():
    joints = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (120, 22, 3)), axis=0) + standing(frames=120)
    figure = plot_motion(joints)
    assert len(figure.to_json()) < 150_000
    assert len(figure.frames) == 120 and len(figure.layout.sliders[0].steps) <= 30
    assert [trace.type for trace in figure.data].count("scatter3d") == 2  # the body, and its name


def test_plot_holds_the_last_pose_of_the_shorter_motion_and_escapes_names():
    figure = plot_motion({"<b>short": standing(frames=3), "long": standing(frames=8)}, title="<i>t</i>")
    assert len(figure.frames) == 8
    assert figure.frames[7].data[0].x == figure.frames[2].data[0].x
    assert figure.layout.title.text == "&lt;i&gt;t&lt;/i&gt;"
    assert "&lt;b&gt;short" in figure.data[-1].text


class Tags(HTMLParser):
    "Tags and visible words of a page."

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


NASTY = "</script><img src=x onerror=alert(1)>\"'&"


def test_player_escapes_what_comes_from_data():
    page = Tags(motion_html({NASTY: standing()}, captions={NASTY: NASTY}))
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert page.words.count(NASTY) == 2


def test_player_is_small_holds_every_joint_and_asks_nobody():
    clips = {f"clip {i}": standing(frames=60) + 0.01 * i for i in range(4)}
    page = motion_html(clips)
    assert len(page) < 100_000 and not re.search(r"https?:|//[a-z]", page)
    packed = json.loads(re.search(r"const D=(\{.*?\}\]\}),J=", page).group(1))
    for clip, stored in zip(clips.values(), packed["clips"], strict=True):
        numbers = np.frombuffer(base64.b64decode(stored["data"]), "<i2").reshape(clip.shape) * stored["scale"]
        np.testing.assert_allclose(numbers, clip - clip[0, 0] * [1, 0, 1], atol=2.6e-4)


def test_player_of_a_far_traveller_still_fits_in_16_bits():
    far = standing()
    far[..., 0] += np.linspace(0, 500, len(far))[:, None]
    stored = viewer._pack(far)
    numbers = np.frombuffer(base64.b64decode(stored["data"]), "<i2").reshape(far.shape) * stored["scale"]
    np.testing.assert_allclose(numbers, far, atol=0.01)


@pytest.mark.parametrize("show", [film_strip, plot_motion, lambda joints: motion_html({"a": joints})],
                         ids=["strip", "plot", "player"])
@pytest.mark.parametrize("bad,says", [
    (np.zeros((0, 22, 3)), "no frames"),
    (np.zeros((5, 21, 3)), r"expected \(frames, 22, 3\)"),
    (np.zeros((5, 22, 2)), r"expected \(frames, 22, 3\)"),
    (np.zeros((2, 5, 22, 3)), "pass one clip"),
    (np.zeros(3), r"shape \(3,\)"),
    (np.where(np.arange(5)[:, None, None] == 3, np.nan, np.zeros((5, 22, 3))), "first in frame 3"),
    (np.full((5, 22, 3), np.inf), "first in frame 0"),
    ("a person walks", "not an array of numbers"),
    (None, r"shape \(\)"),
], ids=["empty", "21 joints", "flat", "batch", "vector", "nan", "inf", "words", "none"])
def test_bad_input_says_what_is_wrong(show, bad, says):
    with pytest.raises(ValueError, match=says):
        show(bad)


def test_no_motion_at_all():
    for show in (film_strips, plot_motion, motion_html):
        with pytest.raises(ValueError, match="no motions"):
            show({})
    with pytest.raises(ValueError, match="fps"):
        motion_html({"a": standing()}, fps=float("nan"))


def test_tensors_half_precision_and_gradients_are_drawn_like_arrays():
    joints = torch.tensor(standing(), dtype=torch.float32, requires_grad=True)
    assert motion_html({"a": joints}) == motion_html({"a": joints.detach().numpy()})
    film_strip(joints.detach().half())


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_two_players_run_on_one_page_in_a_real_browser(tmp_path):
    "Both players start, draw something blue on the right half of the picture, and obey the keys."
    player = motion_html({"a": standing(raise_left=True, frames=21)}, azimuth=0)
    probe = """<script>
    const found=[...document.querySelectorAll('.mocap')].map(root=>{
      const canvas=root.querySelector('canvas'),w=canvas.width,h=canvas.height;
      const d=canvas.getContext('2d').getImageData(0,0,w,h).data;let left=0,right=0;
      for(let i=0;i<d.length;i+=4)if(d[i]<20&&d[i+2]>150&&d[i+3]>200)((i/4)%w<w/2)?left++:right++;
      root.dispatchEvent(new KeyboardEvent('keydown',{key:'End'}));
      return {ready:root.dataset.ready,left,right,time:root.querySelector('output').textContent};});
    document.title=JSON.stringify(found);</script>"""
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8><title>no</title>{player}{player}{probe}")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    players = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout).group(1)))
    assert len(players) == 2
    for found in players:
        assert found["ready"] == "1" and found["time"] == "1.00 s of 1.00 s"
        assert found["right"] > 100 and found["left"] == 0  # face to face, its left is on our right
