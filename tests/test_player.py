"""The player's data and pages: exact, small, closed to what comes from data, and the same in a saved notebook."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from mocapfree_nb import player, viewer
from mocapfree_nb.files import UserError
from mocapfree_nb.player import Chart, player_code, player_html, player_scene
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML, forward_kinematics
from mocapfree_nb.widgets import MotionPlayer, PlayerBox

NASTY = "</script><img src=x onerror=alert(1)>\"'&"


def wander(frames=120, skeleton=HUMANML3D, seed=0, size=0.02) -> np.ndarray:
    "A body on the floor whose joints wander at random: harder to pack than any motion."
    rotations = torch.eye(3, dtype=torch.float64).expand(1, skeleton.num_joints, 3, 3)
    body, _ = forward_kinematics(rotations, torch.zeros(1, 3, dtype=torch.float64), skeleton)
    body = body.numpy() - [0, body[..., 1].min(), 0]
    steps = np.random.default_rng(seed).normal(0, size, (frames, skeleton.num_joints, 3))
    return body + np.cumsum(steps, axis=0) * (1000 if skeleton.unit == "mm" else 1)


class Tags(HTMLParser):
    "Tags, attributes and visible words of a page."

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("skeleton", [HUMANML3D, KIT_ML], ids=lambda s: s.name)
def test_packing_keeps_every_joint_to_a_quarter_of_a_millimetre(skeleton):
    clip = wander(skeleton=skeleton) / (1000 if skeleton.unit == "mm" else 1)
    back = player.unpack_joints(player.pack_joints(clip[None]), skeleton.num_joints)
    np.testing.assert_allclose(back[0], clip, atol=2.51e-4)


def test_packing_wraps_around_and_far_travellers_still_fit():
    "From one end of 16 bits to the other in one frame, and half a kilometre away."
    jumps = np.where(np.arange(8)[:, None, None] % 2, 16.0, -16.0) * np.ones((8, 22, 3))
    np.testing.assert_allclose(player.unpack_joints(player.pack_joints(jumps[None]), 22)[0], jumps, atol=2.51e-4)
    far = wander(9)
    far[..., 0] += np.linspace(0, 500, len(far))[:, None]
    np.testing.assert_allclose(player.unpack_joints(player.pack_joints(far[None]), 22)[0], far, atol=0.01)


def test_denoising_walks_are_packed_state_by_state():
    walk = np.stack([wander(12, seed=i) for i in range(5)])
    scene = player_scene(walk, denoising=range(4, -1, -1))
    assert scene["steps"] == ["4", "3", "2", "1", "0"] and len(scene["panels"][0]["contacts"]) == 5
    origin = [walk[-1, 0, 0, 0], 0, walk[-1, 0, 0, 2]]
    np.testing.assert_allclose(player.unpack_joints(scene["panels"][0], 22), walk - origin, atol=1.01e-3)


def test_a_clip_is_well_under_50_kb_and_the_code_is_in_a_page_once():
    one = MotionPlayer(wander(196, size=0.005))
    assert len(one.to_html()) < 50_000
    scenes = [player_scene(wander(seed=i)) for i in range(3)]
    page = "".join(player_html(scene, code=False) for scene in scenes) + player_code()
    assert Tags(page).tags.count("script") == 4 and page.count("class Player") == 1


def test_nothing_is_asked_of_anybody():
    page = player_html(player_scene(wander(5)))
    links = [value for name, value in Tags(page).attributes if name in ("src", "href")]
    assert [value.split(",")[0] for value in links] == ["data:image/svg+xml;base64"]
    assert not re.search(r"\bfetch\(|XMLHttpRequest|\bimport\b|https?:", page)


def test_what_comes_from_data_stays_data(tmp_path):
    player = MotionPlayer({NASTY: wander(5)}, captions={NASTY: NASTY}, title=NASTY,
                          charts=[Chart({NASTY: [1, 2]}, along=NASTY, title=NASTY)])
    for text in (player.to_html(), player.save(tmp_path / "page.html").read_text(encoding="utf-8")):
        page = Tags(text)
        assert page.tags.count("script") == 2 and page.tags.count("img") == 1
        assert not [name for name, _ in page.attributes if name.startswith("on")]
        scene = json.loads(next(words for words in page.words if words.startswith("{")))
        assert scene["panels"][0]["caption"] == scene["title"] == scene["charts"][0]["title"] == NASTY


def test_charts_leave_gaps_and_run_along_what_they_are_told():
    values = [0.123456789, float("nan"), 3]
    scene = player_scene(wander(3), charts={"speed": values})
    assert scene["charts"] == [{"title": "", "along": "frame", "first": 0,
                                "lines": [{"name": "speed", "values": [0.12346, None, 3.0]}]}]
    assert "NaN" not in player_html(scene)
    assert Chart({"reward": torch.ones(2)}, along="iteration", first=1).data()["lines"][0]["values"] == [1, 1]


def test_contact_rings_know_rest_from_sliding_and_from_the_air():
    clip = np.zeros((1, 4, 22, 3))
    clip[0, :, HUMANML3D.feet_left[0], 1] = 0.2
    clip[0, :, HUMANML3D.feet_right[1], 2] = np.arange(4) * 0.03  # .6 m/s
    assert viewer.resting_feet(clip, HUMANML3D, fps=20) == ["666e"]  # left toe, right ankle; at the end nothing slides
    assert viewer.resting_feet(clip, HUMANML3D, fps=10) == ["eeee"]  # .3 m/s rests


def test_traits_hold_the_place_and_show_keeps_it():
    player = MotionPlayer(wander(40), fps=12.5)
    assert (player.frame, player.step, player.speed) == (0, 0, 1.0) and player.scene["fps"] == 12.5
    player.frame, player.playing = 7, False
    player.show(wander(20), title="other")
    assert player.frame == 7 and player.scene["title"] == "other" and player.scene["panels"][0]["frames"] == 20
    state = json.loads(next(words for words in Tags(player.to_html()).words if words.startswith("{")))
    assert (state["frame"], state["playing"]) == (7, False)
    assert MotionPlayer(np.stack([wander(5)] * 3), denoising="abc").step == 2


class Kernel:
    def __init__(self, allow_stdin):
        self._allow_stdin = allow_stdin


@pytest.mark.parametrize("allowed", [True, False], ids=["live", "batch"])
def test_a_saved_notebook_keeps_the_html_and_only_a_live_one_the_widget(allowed, monkeypatch):
    player = MotionPlayer(wander(5))
    box = PlayerBox([player])
    for widget in (player, box):
        monkeypatch.setattr(widget.comm, "kernel", Kernel(allowed), raising=False)
        bundle = widget._repr_mimebundle_()
        assert bundle["text/html"] == player.to_html()
        assert ("application/vnd.jupyter.widget-view+json" in bundle) == allowed


@pytest.mark.parametrize("options,says", [
    ({"motions": [wander(3)] * 5}, "5 motions; a player shows at most 4"),
    ({"motions": {"long": wander(10_000)}}, "long: 10000 frames; at most 2000"),
    ({"motions": wander(4), "denoising": "abc"}, r"expected \(3, frames, 22, 3\)"),
    ({"motions": np.stack([wander(3)] * 3), "denoising": "ab"}, r"shape \(3, 3, 22, 3\); expected \(2, frames"),
    ({"motions": np.full((2, 3, 22, 3), np.nan), "denoising": "ab"}, "step 0: NaN or infinite coordinates"),
    ({"motions": 3, "denoising": "ab"}, "one motion for each of the 2 denoising steps"),
    ({"motions": wander(3), "fps": 0}, "fps is 0"),
], ids=["five", "long", "no walk", "wrong walk", "nan walk", "number", "fps"])
def test_bad_input_is_one_clear_line(options, says):
    with pytest.raises(ValueError, match=says) as error:
        MotionPlayer(**options)
    assert "\n" not in str(error.value)


def test_a_target_that_cannot_be_written(tmp_path):
    player = MotionPlayer(wander(3))
    (tmp_path / "file").write_text("in the way")
    for path, says in (("file/page.html", "cannot write"), ("page.gif", "ends in .html"), ("page", "ends in .html")):
        with pytest.raises(UserError, match=says):
            player.save(tmp_path / path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]
