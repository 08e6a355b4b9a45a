"""Pictures: nothing is mirrored, nothing is lost, nothing that comes from data is run, and bad input is refused."""


import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from mocapfree_nb import viewer
from mocapfree_nb.player import player_scene
from mocapfree_nb.plotting import plot_motion
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics
from mocapfree_nb.viewer import COLOURS, film_strip, film_strips, project
from mocapfree_nb.widgets import MotionPlayer

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
    drawn = [bone for stroke in viewer.strokes_of(skeleton) for bone in zip(stroke, stroke[1:], strict=False)]
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


def test_the_words_of_a_plot_can_be_read_on_a_white_and_on_a_dark_page():
    def lightness(colour):  # relative luminance, WCAG 2
        share = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in share]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear)) + 0.05

    layout = plot_motion(standing()).layout
    for page in ("#ffffff", "#111111"):  # JupyterLab's
        two = sorted((lightness(layout.font.color), lightness(page)))
        assert two[1] / two[0] > 4
    assert layout.sliders[0].font.size >= 11


def test_plot_keeps_left_on_the_left_and_every_joint():
    joints = standing(raise_left=True)
    figure = plot_motion(joints)
    z, x, y = (np.array(figure.data[0][axis], dtype=float) for axis in "xyz")
    shown = np.stack([x, y, z], axis=-1)
    shown = shown[~np.isnan(shown).any(axis=1)]
    first = joints[0] - joints[0, 0] * [1, 0, 1]
    for joint in first:
        assert np.abs(shown - joint).max(axis=1).min() < 6e-4  # rounded to a millimetre


def test_plot_is_small_and_moves_one_trace():
    joints = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (120, 22, 3)), axis=0) + standing(frames=120)
    figure = plot_motion(joints)
    assert len(figure.to_json()) < 150_000
    assert len(figure.frames) == 120 and len(figure.layout.sliders[0].steps) <= 30
    assert all(frame.traces == (0,) and len(frame.data) == 1 for frame in figure.frames)


def bodies(frame) -> np.ndarray:
    "Points of the moving trace as (N, 3: x, y, z of the skeleton), NaN in the gaps."
    z, x, y = (np.array(frame.data[0][axis], dtype=float) for axis in "xyz")
    return np.stack([x, y, z], axis=-1)


def test_plot_holds_the_last_pose_of_the_shorter_motion_and_escapes_words():
    short = standing(frames=8, raise_left=True)[:3]
    figure = plot_motion({"<b>short": short, "long": standing(frames=8)}, title="<i>t</i>", caption="<u>" * 60)
    assert len(figure.frames) == 8
    half = len(figure.frames[0].data[0].x) // 2
    np.testing.assert_array_equal(bodies(figure.frames[7])[:half], bodies(figure.frames[2])[:half])
    assert not np.array_equal(bodies(figure.frames[1])[:half], bodies(figure.frames[2])[:half], equal_nan=True)
    assert "<i>" not in figure.layout.title.text and "<u>" not in figure.layout.title.text
    assert figure.layout.title.text.count("<br>") == 2  # a long caption is broken
    assert "&lt;b&gt;short" in figure.data[-1].text


@pytest.mark.parametrize("overlay", [False, True])
def test_plot_side_by_side_or_in_one_place(overlay):
    figure = plot_motion({"a": standing(), "b": standing()}, overlay=overlay)
    first, second = np.split(bodies(figure.frames[0]), 2)
    assert (np.nanmin(second[:, 0]) > np.nanmax(first[:, 0])) != overlay
    shades = [colour for _, colour in figure.data[0].line.colorscale[::2]]
    assert len(set(shades)) == (6 if overlay else 3)
    red, green, blue = (int(COLOURS["left"][i : i + 2], 16) for i in (1, 3, 5))
    assert shades[1] == f"rgb({red},{green},{blue})"


@pytest.mark.parametrize("skeleton", SKELETONS, ids=lambda s: s.name)
def test_plot_marks_the_feet_that_rest_and_sides_by_colour(skeleton):
    joints = standing(skeleton, frames=4)
    lifted = skeleton.feet_left[1]
    joints[:, lifted, 1] += 300 if skeleton.unit == "mm" else 0.3
    body = plot_motion(joints, skeleton).data[0]
    marks = [None if x is None else (x, y, z) for x, y, z in zip(body.x, body.y, body.z, strict=True)][-8::2]
    feet = [*skeleton.feet_left, *skeleton.feet_right]
    for foot, mark in zip(feet, marks, strict=True):
        assert (mark is None) == (foot == lifted)
        assert mark is None or mark[2] == 0
    assert [body.line.color[i] for i in range(-8, 0, 2)] == [1, 1, 2, 2]
    assert sum(size > 0 for size in body.marker.size) == 5  # the head and four marks


def test_plot_can_be_changed_copied_and_pickled_like_any_figure():
    import copy
    import pickle

    import plotly.graph_objects as go

    for change in (copy.deepcopy, go.Figure, lambda figure: pickle.loads(pickle.dumps(figure))):
        made = change(plot_motion(standing()))
        assert type(made) is go.Figure or type(made).__mro__[1] is go.Figure
        assert len(made.frames) == 9 and made.frames[8].name == "8"
    figure = plot_motion(standing())
    figure.frames = figure.frames[:2]
    figure.update_layout(height=300)
    assert len(figure.to_dict()["frames"]) == 2


@pytest.mark.parametrize("show", [film_strip, plot_motion, MotionPlayer],
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
    for show in (film_strips, plot_motion, MotionPlayer):
        with pytest.raises(ValueError, match="no motions"):
            show({})
    for show in (plot_motion, MotionPlayer):
        with pytest.raises(ValueError, match="fps"):
            show(standing(), fps=float("nan"))
        with pytest.raises(ValueError, match="10000 frames; at most 2000"):
            show(standing(frames=10_000))
    film_strip(standing(frames=10_000))  # a strip takes a few poses of any length


def test_tensors_half_precision_and_gradients_are_drawn_like_arrays():
    joints = torch.tensor(standing(), dtype=torch.float32, requires_grad=True)
    assert player_scene(joints) == player_scene(joints.detach().numpy())
    film_strip(joints.detach().half())
