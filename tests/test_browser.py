"""The player in a real browser: it plays, obeys, keeps left on the left and feet on the floor, and asks nobody."""

import re

import numpy as np
import pytest
from browser import Hands, chromium, listen

from mocapfree_nb import player
from mocapfree_nb.output.page import players_html
from mocapfree_nb.output.report import report_html
from mocapfree_nb.player import Chart, page_html
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D
from mocapfree_nb.widgets import MotionPlayer

pytestmark = pytest.mark.flaky(reruns=1)  # a browser on a machine that is busy with something else
NASTY = "</script><img src=x onerror=document.title='caught'><script>document.title='caught'</script>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def open_page(browser, tmp_path):
    "Open a player (or a whole page of HTML) from a file, offline; whatever goes wrong in it fails the test."
    contexts, heard = [], []

    def opener(shown, **options):
        place = tmp_path / f"page{len(contexts)}.html"
        if isinstance(shown, str):
            place.write_text(shown, encoding="utf-8")
        else:
            shown.save(place)
        contexts.append(browser.new_context(offline=True, **options))
        page = contexts[-1].new_page()
        heard.append(listen(page))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:", "blob:"))
                else heard[-1].append(f"asked for {request.url}"))
        page.goto(place.as_uri())
        return page

    yield opener
    for context in contexts:
        context.close()
    assert [line for lines in heard for line in lines] == []


@pytest.fixture(scope="module")
def clips() -> dict[str, np.ndarray]:
    made = generate_clips(400, seed=3)
    by_action = {}
    for i, actions in enumerate(made.actions):
        by_action.setdefault("+".join(actions), np.asarray(made.joints[i][: made.lengths[i]]))
    return by_action


def test_it_plays_pauses_scrubs_and_turns(open_page, clips):
    page = open_page(MotionPlayer({name: clips[name] for name in ("squat", "jump")}))
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.check_that_it_plays()
    hands.slider("Frame").fill("7")
    assert hands.clock() == f"0.35 of {(max(len(clips[n]) for n in ('squat', 'jump')) - 1) / 20:.2f} s"


def test_every_key_does_its_work(open_page, clips):
    page = open_page(MotionPlayer(clips["squat"], denoising=(), ghosts=False))
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.slider("Frame").fill("0")
    hands.player.focus()
    start = hands.picture()
    for key, back in (("ArrowRight", "ArrowLeft"), ("Shift+ArrowRight", "Shift+ArrowLeft"), ("End", "Home"), ("a", "d"),
                      ("w", "s"), ("+", "-"), ("a", "0")):
        page.keyboard.press(key)
        assert hands.picture() != start, key
        page.keyboard.press(back)
        page.wait_for_timeout(30)
        assert hands.picture() == start, back
    page.keyboard.press("Space")
    hands.button("Pause").wait_for()
    page.keyboard.press("Space")
    hands.button("Play").wait_for()


def test_switches_change_the_picture(open_page, clips):
    page = open_page(MotionPlayer(clips["walk-forward"]))
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.slider("Frame").fill("20")
    for name, pressed in (("Ghosts", "false"), ("Trail", "true"), ("Contacts", "true")):
        button, before = hands.button(name), hands.picture()
        assert button.get_attribute("aria-pressed") == pressed
        button.click()
        assert hands.picture() != before, name
        button.click()
        assert hands.picture() == before and button.get_attribute("aria-pressed") == pressed


def test_without_loop_it_stops_at_the_end_and_speed_is_speed(open_page, clips):
    page = open_page(MotionPlayer(clips["squat"][:20]))
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.button("Loop").click()
    hands.slider("Frame").fill("0")
    hands.player.get_by_role("combobox", name="Speed").select_option("4")
    hands.button("Play").click()
    hands.expect(hands.player.locator("output")).to_have_text("0.95 of 0.95 s")
    hands.button("Play").wait_for()


def test_a_speed_set_before_the_scene_is_unpacked_is_kept(open_page, clips):
    "As Python may, in the moment between making the widget and seeing it."
    page = open_page("<div></div>")
    page.evaluate("""async ([code, scene]) => {
        const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
        const heard = {}, traits = { scene: JSON.parse(scene), frame: 0, step: 0, speed: 1, playing: false };
        const model = { get: (name) => traits[name], set() {}, save_changes() {}, on: (name, call) => { heard[name] = call; } };
        module.default.render({ model, el: document.querySelector("div") });
        traits.speed = 2;
        heard["change:speed"]();
    }""", [player.SCRIPT, player._json(player.player_scene(clips["squat"][:20]))])
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.expect(hands.player.get_by_role("combobox", name="Speed")).to_have_value("2")


def test_wheel_zooms_a_chosen_player_and_scrolls_the_page_otherwise(open_page, clips):
    page = open_page(page_html("x", MotionPlayer(clips["squat"]).to_html() + "<p style='height:3000px'>"))
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.slider("Frame").fill("0")
    page.evaluate("document.activeElement.blur()")
    start, canvas = hands.picture(), hands.player.locator("figure canvas")
    canvas.hover()
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(200)
    assert page.evaluate("scrollY") > 0 and hands.picture() == start
    page.evaluate("scrollTo(0, 0)")
    canvas.click()
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(100)
    assert hands.picture() != start and page.evaluate("scrollY") == 0


def test_two_fingers_zoom_and_one_turns(open_page, clips):
    page = open_page(MotionPlayer(clips["squat"]), has_touch=True)
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.slider("Frame").fill("0")
    box = hands.player.locator("figure canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)

    def touch(*moves):
        for kind, points in moves:
            places = [{"x": x + dx, "y": y, "id": i} for i, dx in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    start = hands.picture()
    touch(("touchStart", [0]), ("touchMove", [30]), ("touchMove", [60]), ("touchEnd", []))
    turned = hands.picture()
    assert turned != start
    touch(("touchStart", [-30, 30]), ("touchMove", [-50, 50]), ("touchMove", [-90, 90]), ("touchEnd", []))
    assert hands.picture() != turned
    hands.button("Reset view").click()
    assert hands.picture() == start


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_left_is_left_and_the_page_can_be_read(open_page, clips, scheme):
    "Face to face, the figure's left (blue) is on our right. In the dark the words are light and the colours brighter."
    arm = np.repeat(clips["stand"][:1], 3, axis=0)
    arm[:, [HUMANML3D.joint_names.index(j) for j in ("left_elbow", "left_wrist")]] = arm[:, :1] + [[[0.5, 0.5, 0], [0.8, 0.7, 0]]]
    page = open_page(MotionPlayer(arm, azimuth=0, elevation=0), color_scheme=scheme)
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    seen = hands.pixels()
    assert seen["blueRight"] > 300 and seen["blueLeft"] < seen["blueRight"] / 10
    assert seen["orangeLeft"] > 200 and seen["orangeRight"] < seen["orangeLeft"] / 10
    hands.drag(314.16, 0)  # half a turn: from behind
    seen = hands.pixels()
    assert seen["blueLeft"] > 300 and seen["blueRight"] < seen["blueLeft"] / 10
    ink = hands.player.evaluate("p => getComputedStyle(p).color")
    assert (int(re.search(r"\d+", ink).group()) > 128) == (scheme == "dark")
    assert hands.player.evaluate("p => p.classList.contains('mocapfree-dark')") == (scheme == "dark")


def test_feet_stand_on_the_floor(open_page, clips):
    "Seen from the side at the height of the hips, the lowest pixel of the limbs is where the floor under the root is."
    player = MotionPlayer(clips["stand"], azimuth=90, elevation=0)
    page = open_page(player)
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.stop()
    hands.button("Contacts").click()  # the rings lie on the floor by themselves
    lowest, w, h = hands.player.locator("figure canvas").evaluate("""canvas => {
        const {width: w, height: h} = canvas, d = canvas.getContext('2d').getImageData(0, 0, w, h).data;
        let lowest = 0;
        for (let i = 0; i < d.length; i += 4) {
          const [r, g, b, a] = d.slice(i, i + 4);
          if (a > 250 && Math.max(r, g, b) - Math.min(r, g, b) > 100) lowest = Math.floor(i / 4 / w);
        }
        return [lowest, w, h];
    }""")
    scale = min(h / (1.25 * player.scene["height"]), w / (2.1 * player.scene["reach"]))
    floor = 0.47 * h + scale * player.scene["height"] / 2
    assert abs(lowest - floor) < 0.08 * scale  # half the width of a limb, and the near foot is seen a little lower


def test_the_denoising_slider_and_its_chart(open_page, clips):
    walk = clips["walk-forward"]
    noise = np.random.default_rng(0).normal(size=walk.shape)
    states = np.stack([walk + share * noise for share in (0.6, 0.3, 0.1, 0.0)])
    both = {"state": states, "predicted x0": states[[1, 2, 3, 3]]}
    player = MotionPlayer(both, denoising=[f"t = {t}" for t in (9, 6, 3, 0)],
                          charts=[Chart({"log-probability": [1, 2, 3, float("nan")]}, along="step")])
    page = open_page(player)
    hands = Hands(page, page.locator(".mocapfree-player"))
    hands.check_that_it_denoises()
    hands.slider("Denoising step").fill("1")
    assert hands.player.locator("output").last.inner_text() == "step 1: t = 6"
    before, ahead = hands.picture(), hands.picture(1)
    assert ahead != before
    hands.player.focus()
    page.keyboard.press("]")
    assert hands.player.locator("output").last.inner_text() == "step 2: t = 3" and hands.picture() == ahead
    hands.slider("Denoising step").fill("0")
    hands.button("Denoise").click()  # walks to x_0 and stops there
    hands.expect(hands.player.locator("output").last).to_have_text("step 3: t = 0")
    hands.button("Denoise").wait_for()
    chart = hands.player.locator("canvas.mocapfree-chart")
    box = chart.bounding_box()
    page.mouse.click(box["x"] + 46, box["y"] + 60)  # its left end is x_T
    assert hands.player.locator("output").last.inner_text() == "step 0: t = 9"


def test_words_from_data_are_shown_and_not_run(open_page, clips):
    player = MotionPlayer({NASTY: clips["squat"]}, captions={NASTY: NASTY}, title=NASTY, charts={NASTY: [1.0, 2.0]})
    page = open_page(player)
    Hands(page, page.locator(".mocapfree-player")).stop()
    assert page.title() != "caught"
    assert page.locator("figcaption").inner_text() == f"{NASTY}\n{NASTY}" and page.locator("img").count() == 0


def test_without_scripts_a_picture_stands_in(open_page, clips):
    page = open_page(MotionPlayer({"a squat": clips["squat"]}), java_script_enabled=False)
    image = page.get_by_role("img", name="Poses of a squat")
    assert image.bounding_box()["width"] > 200 and image.bounding_box()["height"] > 40


def test_less_motion_is_respected(open_page, clips):
    page = open_page(MotionPlayer(clips["squat"]), reduced_motion="reduce")
    hands = Hands(page, page.locator(".mocapfree-player"))
    page.wait_for_timeout(300)
    assert hands.clock().startswith("0.00 of") and hands.button("Play").count() == 1


def test_a_page_of_many_players_minds_each_and_rests_what_is_not_seen(open_page, clips):
    page = open_page(players_html(names := sorted(clips)[:12], [clips[name] for name in names]))
    players = page.locator(".mocapfree-player")
    assert players.count() == 12
    first, last = Hands(page, players.first), players.last
    page.evaluate("scrollTo(0, 0)")
    first.stop()
    assert last.locator("output").first.inner_text().startswith("0.00 of")  # far below: it waits to be seen
    Hands(page, last).button("Pause").wait_for()
    first.button("Play").wait_for()


@pytest.mark.parametrize("width", [420, 1100])
def test_labels_are_not_cut(open_page, clips, width):
    names = ["squat", "jump", "kick-left", "wave-right"]
    player = MotionPlayer({f"{n}, a name of some length": clips[n] for n in names}, title="word " * 40)
    page = open_page(player, viewport={"width": width, "height": 900})
    Hands(page, page.locator(".mocapfree-player")).stop()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = page.evaluate("""[...document.querySelectorAll('.mocapfree-player figcaption, .mocapfree-player button, output')]
        .filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflow !== 'visible').length""")
    assert cut == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_plays_before_and_after_offline(open_page, clips, scheme):
    row = {"r_precision": [0.1, 0.2, 0.3], "verified": 0.5, "n": 8}
    values = {"experiment": "x", "target": {"name": "raise-both-arms", "before": row, "after": row},
              "curves": [{"iteration": i, "reward": i / 3} for i in (1, 2, 3)]}
    motions = {part: [{"prompt": NASTY, "before": clips["squat"], "after": clips["raise-both-arms"]}]
               for part in ("target", "original")}
    page = open_page(report_html(values, motions), color_scheme=scheme)
    players = page.locator(".mocapfree-player")
    assert players.count() == 2
    for i in range(2):
        hands = Hands(page, players.nth(i))
        hands.check_that_it_plays()
        assert hands.player.locator("figcaption").all_inner_texts() == ["before", "after"]
    assert page.title() != "caught"


def test_the_report_fits_a_phone_with_all_columns_side_by_side(open_page, clips):
    row = {"r_precision": [0.297, 0.445, 0.477], "fid": 284.794, "matching_distance": 18.1, "verified": 0.973, "jitter": 109.409,
           "n": 112, "interval": {"verified": [0.929, 1.0], "r_precision@1": [0.188, 0.414]}}
    columns = ("before", "after", "best_of_n", "full_data")
    report = {"experiment": "leave-one-out", "target": {"name": "squat"} | dict.fromkeys(columns, row), "original": {},
              "config": {"model": "m" * 300}, "prompts": {"training": ["w" * 200]}}
    shown = {"target": [{"prompt": "squats"} | dict.fromkeys(columns, clips["squat"])]}
    page = open_page(report_html(report, shown), viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page.locator("canvas").first.wait_for()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("[...document.querySelectorAll('table')].every(t => t.scrollWidth <= t.parentElement.clientWidth)")
    boxes = [figure.bounding_box() for figure in page.locator(".mocapfree-panels figure canvas").all()]
    assert len(boxes) == 4 and len({box["y"] for box in boxes}) == 1 and min(box["width"] for box in boxes) >= 75
    strip = page.locator(".strip")  # wide enough to be read, and moved by a finger or by the keys
    assert strip.evaluate("s => s.scrollWidth > s.clientWidth && s.tabIndex === 0 && s.querySelector('img').width >= 600")
    small = page.evaluate("""() => [...document.querySelectorAll('button,select,input,summary')].filter(one => one.offsetParent
        && one.getBoundingClientRect().height < 44).map(one => one.outerHTML)""")
    assert small == []
