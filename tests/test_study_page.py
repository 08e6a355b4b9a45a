"""A real browser fills in a study: by keys and by touch, interrupted, and the files it saves are analysed."""

import json

import pytest
from browser import chromium, listen
from test_study import write_run

from mocapfree_nb.study import QUESTIONS, analyse, exclusions, read_answers
from mocapfree_nb.study_page import make_study, save_study

pytestmark = pytest.mark.flaky(reruns=1)  # a browser on a machine that is busy with something else
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("study")
    page, key = make_study([write_run(folder / "run", ("zebra", "okapi"), count=6)], pairs=4)
    save_study(page, key, folder / "study.html")
    return (folder / "study.html").as_uri(), key


@pytest.fixture
def open_page(browser, made):
    "Open the study offline; whatever goes wrong in it, or is asked of a network, fails the test."
    contexts, heard = [], []

    def opener(**options):
        contexts.append(browser.new_context(offline=True, accept_downloads=True, **options))
        page = contexts[-1].new_page()
        heard.append(listen(page))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:", "blob:"))
                else heard[-1].append(f"asked for {request.url}"))
        page.goto(made[0])
        return page

    yield opener
    for context in contexts:
        context.close()
    assert [line for lines in heard for line in lines] == []


def begin(page):
    page.get_by_role("button", name="I agree, begin").click()
    page.locator("#player canvas").first.wait_for()


def fill(page, keys=("1", "4"), most=99):
    "Answer pairs by keys until there are no more; `keys` may be a function of the pair's number."
    for number in range(most):
        if page.locator("#done").is_visible():
            return number
        for one in keys(number) if callable(keys) else keys:
            page.keyboard.press(one)
        page.keyboard.press("Enter")
    return most


def saved(page) -> dict:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save my answers").click()
    found = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == f"answers-{found['rater']}.json"
    return found


def test_two_honest_raters_and_one_who_presses_a_button(open_page, made, tmp_path):
    "Who always presses A is found out; who looks is counted, and what they saw comes out of the analysis."
    _, key = made
    rows, files = {row["id"]: row for row in key["pairs"]}, []
    for rater in range(2):
        page = open_page()
        begin(page)
        assert fill(page) == len(rows)
        first = saved(page)
        assert {row["natural"] for row in first["answers"]} == {row["match"] for row in first["answers"]} == {"left"}
        assert 0 < sum(row["seconds"] for row in first["answers"]) < 120
        slow = {**first, "answers": [row | {"seconds": 9} for row in first["answers"]]}
        rule = exclusions(read_answers({"a": slow}, key), key)[first["rater"]]
        assert rule in ("failed an attention check", "always the same side")
        # the same rater anew, who sees the same pairs in the same order, and now looks
        page.evaluate("""place => { for (const name of Object.keys(localStorage)) localStorage.setItem(name,
            JSON.stringify({rater: place, at: 0, answers: {}})); }""", first["rater"])
        page.reload()
        page.get_by_role("button", name="Go on at pair 1").click()

        def look(number, first=first):
            row = first["answers"][number]
            pair = rows[row["pair"]]
            better = pair["motions"][0] if pair["kind"] in ("static", "noised", "mismatched") else next(
                name for name in pair["motions"] if key["motions"][name] == "zebra")
            return ("1", "5") if row["left"] == better else ("3", "5")

        page.locator("#player canvas").first.wait_for()
        fill(page, look)
        second = saved(page)
        assert [(a["pair"], a["left"]) for a in second["answers"]] == [(a["pair"], a["left"]) for a in first["answers"]]
        for row in second["answers"]:  # nobody waits for a test
            row["seconds"] += 5
        files.append(tmp_path / f"{rater}.json")
        files[-1].write_text(json.dumps(second))
    orders = [[row["pair"] for row in json.loads(path.read_text())["answers"]] for path in files]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    results = analyse(files, key, draws=20)
    assert results["counted"] == 2
    shares = {row["question"]: row for row in results["preferences"]}
    assert shares["natural"]["losses"] == 8 and shares["natural"]["wins"] == 0  # okapi over zebra
    assert shares["match"]["ties"] == 8 and shares["match"]["share"] is None


def test_pairs_come_again_later_and_turned_round(open_page, made):
    _, key = made
    again = {row["id"]: row["turned"] for row in key["pairs"] if row["turned"]}
    for _ in range(3):
        page = open_page()
        begin(page)
        fill(page)
        answers = saved(page)["answers"]
        at = {row["pair"]: number for number, row in enumerate(answers)}
        assert set(at) == {row["id"] for row in key["pairs"]}
        for later, before in again.items():
            assert at[later] > at[before]
            assert answers[at[later]]["left"] == answers[at[before]]["right"]


def test_an_interrupted_rater_goes_on_and_nothing_is_skipped(open_page):
    page = open_page()
    begin(page)
    fill(page, most=3)
    page.reload()
    page.get_by_role("button", name="Go on at pair 4").click()
    assert page.locator("#count").inner_text() == "Pair 4 of 10"
    page.keyboard.press("Enter")
    assert page.locator("#missing").inner_text() == "Please answer both questions."
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    assert page.locator("#count").inner_text() == "Pair 4 of 10"
    page.get_by_role("button", name="Back").click()
    assert page.locator("#questions input:checked").evaluate_all("all => all.map(one => one.value)") == ["left", "left"]
    page.keyboard.press("6")
    fill(page, most=1, keys=())
    fill(page)
    assert saved(page)["answers"][2]["match"] == "right"
    page.reload()  # done stays done, until the answers are deleted
    assert page.locator("#done").is_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete them").click()
    assert page.evaluate("Object.keys(localStorage).length") == 0
    page.reload()
    assert page.get_by_role("button", name="I agree, begin").is_visible()


def test_by_keyboard_alone_and_read_aloud(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#player canvas").first.wait_for()
    assert page.evaluate("document.activeElement.id") == "caption"  # the sentence is read out first
    for number, text in enumerate(QUESTIONS.values(), start=1):
        group = page.get_by_role("group", name=f"{number}. {text}")
        for name in ("A, the left one", "no difference, or I cannot tell", "B, the right one"):
            assert group.get_by_role("radio", name=name).count() == 1
    assert page.get_by_role("progressbar", name="Pairs answered").count() == 1
    for name in ("Moving figure. A", "Moving figure. B"):
        assert page.get_by_role("img", name=name).count() == 1
    seen = []
    for _ in range(20):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    assert {"natural", "match", "next"} <= set(seen)
    page.get_by_role("radio", name="A, the left one").first.focus()
    page.keyboard.press("ArrowRight")  # as radio buttons do
    assert page.locator("input[name=natural]:checked").get_attribute("value") == "same"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_by_touch(open_page, scheme):
    page = open_page(**PHONE, color_scheme=scheme)
    page.get_by_role("button", name="I agree, begin").tap()
    page.locator("#player canvas").first.wait_for()
    wide, high, inside = page.evaluate("(({scrollWidth, scrollHeight}) => [scrollWidth, scrollHeight, innerWidth])"
                                       "(document.documentElement)")
    assert wide == inside == 390 and high <= 844  # nothing to scroll for
    small = page.evaluate("""() => [...document.querySelectorAll('button, select, input[type=range], .choices label')]
        .filter(one => one.offsetParent).map(one => [one.textContent || one.type, one.getBoundingClientRect()])
        .filter(([, box]) => box.width < 44 || box.height < 44).map(([words]) => words)""")
    assert small == []
    tops = page.locator("#player canvas").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert len(tops) == 2 and tops[0] == tops[1]  # side by side
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    light = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (light[0] > light[1]) == (scheme == "dark")
    for name in QUESTIONS:
        page.locator(f".choices label:has(input[name={name}][value=right])").tap()
    page.get_by_role("button", name="Next").tap()
    assert page.locator("#count").inner_text() == "Pair 2 of 10"
    assert page.locator("#progress").evaluate("one => one.value") == 1


def test_both_figures_move_on_one_clock(open_page):
    page = open_page()
    begin(page)

    def pictures():
        return page.locator("#player canvas").evaluate_all("all => all.map(one => one.toDataURL())")

    page.keyboard.press(" ")  # pauses
    page.get_by_role("button", name="Play", exact=True).wait_for()
    held = pictures()
    page.wait_for_timeout(150)
    assert pictures() == held
    page.keyboard.press(" ")
    page.wait_for_timeout(300)
    moved = pictures()
    assert page.locator("#player input[type=range]").count() == 1
    assert moved != held
