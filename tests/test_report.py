"""The report: true to its numbers, whole without a network, and nothing in it is run but its own player."""

import copy
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mocapfree_nb.files import UserError
from mocapfree_nb.output.comparison import comparison_html, comparison_rows, comparison_text, read_report, summary
from mocapfree_nb.output.page import players_html
from mocapfree_nb.output.report import report_html
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

NASTY = '</script><img src=x onerror=alert(1)>"'
JOINTS = np.cumsum(np.random.default_rng(0).normal(0, 0.01, (12, 22, 3)), axis=0) + HUMANML3D.offsets.cumsum(0)


def row(verified=0.5, first=0.4, n=64) -> dict:
    return {"r_precision": [first, first + 0.1, first + 0.2], "fid": 1.0, "matching_distance": 2.0, "diversity": 3.0,
            "multimodality": 1.0, "retrieval_score": 0.5, "verified": verified, "foot_skate": 0.03, "n": n}


def values(**changes) -> dict:
    return {
        "experiment": "leave-one-out", "seed": 3, "device": "cpu", "wall_clock_s": 200.0,
        "reward": {"before": 0.3, "after": 0.8},
        "target": {"name": "raise-both-arms", "before": row(0.05), "after": row(0.85), "full_data": row(0.95)},
        "original": {"before": row(0.93), "after": row(0.91)},
        "curves": [{"iteration": i, "reward": 0.3 + 0.1 * i, "selection": {}, "clip_share": {"0": 0.1}} for i in range(1, 5)],
        "config": {"learning_rate": 1e-4}, "prompts": {"training": ["raise both arms"]}, "gap_closed": 0.7,
    } | changes


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data


def motions() -> dict:
    return {part: [{"prompt": f"{part} prompt", "before": JOINTS, "after": JOINTS}] for part in ("target", "original")}


def test_the_page_shows_three_of_each_however_many_were_kept():
    kept = {part: rows * 5 for part, rows in motions().items()}
    assert report_html(values(), kept).count("data-waiting=") == 6


def test_the_sentences_and_tables_say_what_the_numbers_say():
    text = Page(report_html(values(), motions())).text
    assert "raise-both-arms: learnt from text alone" in text
    for words in ("5.0%", "85.0%", "95.0%", "down 2.0 points", "0.400 / 0.500 / 0.600", "70% is closed", "seed 3",
                  "3.3 minutes", "learning_rate"):
        assert words in text, words


@pytest.mark.parametrize(
    "before,after,word", [(0.05, 0.85, "learnt"), (0.05, 0.3, "partly learnt"), (0.05, 0.07, "not learnt")]
)
def test_the_verdict_follows_the_check_not_the_reward(before, after, word):
    page = Page(report_html(values(target={"name": "x", "before": row(before), "after": row(after)})))
    assert f"x: {word} from" in page.text
    assert ("reward hacking" in page.text) == (word == "not learnt")


def test_without_a_check_r_precision_counts():
    page = Page(report_html(values(target={"name": "x", "before": row(None, 0.1), "after": row(None, 0.7)})))
    assert "x: learnt" in page.text and "matched to their own prompt" in page.text


def test_nothing_from_outside_and_nothing_from_data_runs():
    bad = values(
        experiment=NASTY, device=NASTY, config={NASTY: NASTY}, prompts={NASTY: [NASTY]},
        target={"name": NASTY, "before": row(), "after": row()}, curves=[{"iteration": 1, NASTY: 1.0}],
    )
    shown = {"target": [{"prompt": NASTY, "before": JOINTS, "after": JOINTS}]}
    for text in (report_html(bad, shown), players_html([NASTY], [JOINTS])):
        page = Page(text)
        images = [value for tag, name, value in page.attributes if tag == "img" and name == "src"]
        assert all(value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for value in images)
        data = [a for a in page.attributes if a[:2] == ("script", "type")]
        assert {value for _, _, value in data} == {"application/json"} and page.tags.count("script") == len(data) + 1
        assert not {"link", "iframe", "object"} & set(page.tags)
        assert not [a for a in page.attributes if a[1].startswith("on") or (a[1] in ("href", "src") and a[0] != "img")]
        assert not re.search(r"https?://", text)
        assert NASTY in page.text


def test_every_picture_is_described():
    page = Page(report_html(values(), motions()))
    for tag in ("img", "svg"):
        assert page.tags.count(tag) > 0
        described = [v for t, name, v in page.attributes if t == tag and name in ("alt", "aria-label") and v]
        assert len(described) == page.tags.count(tag), tag
    assert page.tags.count("h1") == 1 and ("html", "lang", "en") in page.attributes


@pytest.mark.parametrize("report", [
    {}, {"target": {}}, values(curves=[], gap_closed=None, config=None, prompts=["one"]),
    values(original={}), values(wall_clock_s=float("nan"), reward={}),
    values(curves=[{"iteration": 1, "reward": float("nan")}, {"iteration": 2, "reward": None}]),
    values(original={"before": {}, "after": row(None) | {"fid": None, "n": 0}}),
], ids=["empty", "no rows", "bare", "no original", "nan time", "nan curve", "holes"])
def test_what_is_missing_is_left_out(report):
    text = Page(report_html(report)).text
    assert "nan" not in re.findall(r"[a-z]+", text.lower()) and "None" not in text


def test_runs_stand_side_by_side():
    latent = values(config={"architecture": "LatentDenoiser"}, reward={"before": 0.25, "after": 0.75})
    cost = {"rollout_s": 1.25, "update_s": 2.5, "rollout_mib": 10.0, "update_mib": 90.4}
    rows = comparison_rows({"runs/one": values(), f"runs/{NASTY}": latent}, {"runs/one": cost})
    assert [row["model"] for row in rows] == ["MotionDenoiser", "LatentDenoiser"]
    assert rows[0]["verified"] == "5.0% → 85.0%" and rows[0]["others verified"] == "93.0% → 91.0%"
    assert rows[0]["rollout"] == "1.25 s" and rows[0]["update"] == "2.50 s" and rows[0]["memory"] == "90 MiB"
    assert rows[1]["reward"] == "0.25 → 0.75" and rows[1]["memory"] == "– MiB"
    page = Page(comparison_html(rows))
    assert all(cell in page.text for row in rows for cell in row.values()) and "img" not in page.tags
    assert comparison_text(rows).count("\n\n") == 1 and "93.0% → 91.0%" in comparison_text(rows)


def test_only_what_was_held_out_is_called_so():
    free = values(experiment="free", prompts={"training": ["bows"], "evaluation": ["bows", "bows"]})
    text = Page(report_html(free, motions())).text + summary(free)
    assert "for the very prompts that it was trained on" in text and "The prompts that it was trained on" in text
    assert "other model" in text and not re.search("was not trained on|eld-out prompts|saw the action|shown such", text)
    for said in ({}, {"held_out": True}, {"prompts": {"training": ["bows"], "evaluation": ["a bow"]}}):
        text = Page(report_html(values(**said), motions())).text + summary(values(**said))
        assert "in words that it was not trained on" in text and "Held-out prompts" in text and "saw the action" in text
    assert "the very prompts" in Page(report_html(values(held_out=False))).text


FALSE_OF_FREE_PROMPTS = (
    "in words that", "eld-out prompts", "saw the action", "shown such", "without the action", "The action it",
    "model knew before", "everything else", "that nothing else uses", "check by geometry,",
)


def free_run(**changes) -> dict:
    "A run of prompts of the user's own, as `adapt --prompt` reports it: nothing verified, no FID, selection by what was trained."
    rows = {key: row(None, first) | {"fid": None} for key, first in (("before", 0.3), ("after", 0.57), ("best_of_n", 0.38))}
    prompts = {"training": ["a person salutes", "someone gives a salute"], "evaluation": ["a person salutes"] * 16}
    curves = [{"iteration": 1, "reward": 0.5, "kinds": {"whole": 0.2, "one arm": 0.8}, "seconds": {"search": 2.0},
               "unserved": ["nothing found for 'a person salutes': the best of 96 recombinations scores 0.91"]}]
    chosen = {"chosen_iteration": 1, "last_iteration": 1, "score": 0.2}
    return values(experiment="free", target={"name": "prompts"} | rows, prompts=prompts, held_out=False, curves=curves,
                  gap_closed=None, selection=chosen | {"held_out": False}) | changes


def test_nothing_that_is_false_of_free_prompts_is_said():
    for report in (free_run(), free_run(selection={"chosen_iteration": 0, "last_iteration": 1, "score": 0.1}),
                   free_run(target=free_run()["target"] | {"full_data": row(None, 0.9)})):
        text = Page(report_html(report, motions())).text + summary(report)
        assert [words for words in FALSE_OF_FREE_PROMPTS if words in text] == []
        for words in ("“a person salutes” and 1 more prompt: partly learnt", "the evaluator, a network; no check by geometry",
                      "held-out captions of the corpus", "by the training prompts", "a person salutes (16 times)",
                      "nothing found for 'a person salutes'", "free prompts · cpu"):
            assert words in text, words
    assert "no iteration was better".capitalize() in Page(report_html(free_run(selection={"chosen_iteration": 0}))).text
    found = summary(free_run(curves=[{"iteration": 1, "unserved": [f"nothing for {i}" for i in range(9)]}]))
    assert found.count("search: nothing") == 3 and "search: 6 more prompts" in found
    assert "search:" not in summary(values(curves=[{"iteration": 1, "unserved": ["nothing for 1"]}]))  # the check says more


def test_a_reward_that_rose_alone_is_called_fooled_only_by_what_was_measured():
    unchecked = values(target={"name": "x", "before": row(None, 0.3), "after": row(None, 0.31)})
    text = Page(report_html(unchecked)).text
    assert "another network sees no gain" in text and "without the action being done" not in text


def test_rows_that_nobody_measured_and_curves_of_one_point_are_left_out():
    page = Page(report_html(free_run()))
    named = re.findall(r'<th scope="row"[^>]*>(verified|FID)&nbsp;', report_html(free_run()))
    assert named == ["verified", "FID"]  # of what was kept; of the prompts nobody could
    assert "svg" not in page.tags and "Training" not in page.text
    two = report_html(free_run(curves=[
        {"iteration": i, "kinds": {"whole": i, "joined": 1.0}, "clip_share": {"0": 0.1 * i, "1": 0.3}, "seconds": {"a": i}}
        for i in (1, 2)]))
    names = [words for words in re.findall("<figcaption>(.*?)</figcaption>", two)]
    assert names == ["kinds: whole", "clip share, mean over timesteps"]


def test_before_after_and_the_full_model_stand_in_one_order():
    from mocapfree_nb.output.page import COLUMNS

    assert COLUMNS == ("before", "after", "best_of_n", "full_data")
    mixed = {key: row() for key in ("full_data", "best_of_n", "after", "before")}
    shown = {"target": [{"prompt": "p"} | dict.fromkeys(mixed, JOINTS)]}
    text = report_html(values(target={"name": "x"} | mixed), shown)
    names = ["before", "after", "best of N", "saw the action"]
    assert re.findall(r'<th scope="col".*?>(.*?)</th>', text)[:4] == names
    assert [panel["name"] for panel in json.loads(re.search(r'"application/json">(.*?)</script>', text)[1])["panels"]] == names
    assert f"rows {', '.join(names)}" in text
    lines = summary(values(target={"name": "x"} | mixed)).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:5]] == ["before", "after", "best of N", "full data"]


def test_one_motion_is_not_named_twice():
    assert Page(players_html(["waves"], [JOINTS])).text.count("waves") == 2  # title and heading
    assert Page(players_html(["waves", "bows"], [JOINTS, JOINTS])).text.count("“bows”") == 1


def test_a_report_of_kit_ml_shows_its_own_skeleton():
    joints = np.repeat(KIT_ML.offsets[None].cumsum(1), 6, axis=0)
    shown = {"target": [{"prompt": "sways", "before": joints, "after": joints}]}
    assert Page(report_html(values(), shown)).text.count("sways") == 1


def damaged(report: dict, draw: random.Random) -> dict:
    "The report with one value, anywhere in it, taken away or put in the place of another kind."
    report = copy.deepcopy(report)
    at, key = report, draw.choice(list(report))
    while isinstance(at[key], dict | list) and at[key] and draw.random() < 0.7:
        at = at[key]
        key = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
    strange = draw.choice([None, 3, -1e300, 10**19, True, "", "\x1b[31m", "x" * 5000, "\0", [], {}, [[]], [None], {"before": 1}])
    if draw.random() < 0.3 and isinstance(at, dict):
        del at[key]
    else:
        at[key] = strange
    return report


def test_a_damaged_report_is_named_or_can_be_shown(tmp_path):
    draw, refused = random.Random(0), 0
    path = tmp_path / "report.json"
    for _ in range(1000):
        path.write_text(json.dumps(damaged(values(), draw)))
        try:
            report = read_report(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        comparison_text(comparison_rows({"run": report}, {}))
        report_html(report)
        summary(report)
    assert 200 < refused < 800


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "{}", '{"target": NaN}', "[" * 100_000, '{"target": {}}', "\xff"])
def test_what_is_no_report_is_named(text, tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"report\.json"):
        read_report(path)
    path.write_text(json.dumps(values()))
    assert read_report(path) == values()


def test_intervals_bodies_best_of_n_and_what_chose_are_in_the_page_and_the_lines():
    honest = {"interval": {"r_precision@1": [0.3, 0.5], "verified": [0.722, 0.944]}, "bone_deviation": 0.15, "jitter": 60.0,
              "floor_penetration": 0.004, "fid_floor": 0.31}
    target = {"name": "x", "before": row(0.05), "after": row(0.85) | honest, "best_of_n": row(0.25) | {"samples": 61}}
    chosen = {"chosen_iteration": 60, "last_iteration": 100, "score": 0.5, "last_score": 0.4}
    text = Page(report_html(values(target=target, selection=chosen))).text
    for words in ("72.2% to 94.4%", "best of N", "25.0%", "the best of 61", "0.310", "15.0% off their length",
                  "Weights of iteration 60 were kept", "neither the check nor the evaluation chose"):
        assert words in text, words
    lines = summary(values(target=target | {"before": row(0.05) | honest}))
    assert "(72% to 94%)" in lines and "best of N: verified  25.0%" in lines and "15.0% off" in lines


@pytest.mark.parametrize("kept, words", [
    (1, "Weights of round 1 of exploration were kept"),
    (12, "Weights of iteration 10 of DDPO, after 2 rounds of exploration, were kept"),
])  # fmt: skip
def test_the_page_says_which_stage_the_weights_are_of(kept, words):
    searched = {"proposals": 96, "unserved": ["nothing found for 'x'"]}
    curves = [{"iteration": i, "reward": 0.5} | (searched if i < 3 else {}) for i in range(1, 23)]
    text = Page(report_html(values(curves=curves, selection={"chosen_iteration": kept, "last_iteration": 22, "score": 0.5}))).text
    assert words in text and "nothing found for 'x'" in text  # of the last search, though DDPO came after it


@pytest.mark.parametrize(
    "interval", [3, {"verified": [0.1]}, {"verified": [0.1, "x"]}, {"verified": [0.1, 7.0]}, {"verified": {}}]
)
def test_a_damaged_interval_is_named(interval, tmp_path):
    damaged = values(target={"before": row(), "after": row() | {"interval": interval}})
    (tmp_path / "report.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match="interval"):
        read_report(tmp_path / "report.json")


def test_a_curve_that_never_moves_gets_no_chart():
    from mocapfree_nb.output.report import report_html

    curves = [{"iteration": i, "reward": 0.1 * i, "guidance": 2.5} for i in range(1, 5)]
    page = report_html({"curves": curves})
    assert "reward: 0.1 at iteration 1" in page and "guidance: " not in page


def test_the_running_clock_is_not_read_aloud_and_controls_fit_a_finger():
    from mocapfree_nb.files import WEIGHTS

    assets = WEIGHTS.parent / "assets"
    assert 'make("output", { "aria-live": "off" })' in (assets / "player.js").read_text()
    assert "min-height: 44px; min-width: 44px" in (assets / "player.css").read_text()
