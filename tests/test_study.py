"""The user study: a page that gives nothing away, and an analysis that finds what simulated raters were told to prefer."""

import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy.optimize import minimize
from typer.testing import CliRunner

from mocapfree_nb import cli, player, study
from mocapfree_nb.files import UserError, write_json
from mocapfree_nb.output.takes import save_motions
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import KIT_ML
from mocapfree_nb.study import QUESTIONS, analyse, exclusions, read_answers, simulate_answers
from mocapfree_nb.study_page import make_study, read_runs, save_study, study_html
from mocapfree_nb.study_paper import save_results, study_table, study_text

NASTY = "</script><img src=x onerror=alert(1)>\"'&|${x}{y}"
SYSTEMS = ("zebra", "okapi", "impala")


def write_run(folder, systems=SYSTEMS, count=24, captions=None, tile=1):
    "A run of `count` sentences, in the systems' columns the same motion with more and more tremor."
    made, shown = generate_clips(3 * count, seed=1), {}
    for i, words in enumerate(made.captions):
        clip = np.tile(np.asarray(made.joints[i, : made.lengths[i]]), (tile, 1, 1))
        shown.setdefault(words[0], {name: study.shake(clip, 0.01 * n, i) for n, name in enumerate(systems)})
    rows = [{"prompt": words} | clips for words, clips in zip(captions or shown, list(shown.values())[:count], strict=False)]
    save_motions(folder / "motions.npz", {"target": rows})
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("secretrun"))


@pytest.fixture(scope="module")
def made(run) -> tuple[dict, dict]:
    return make_study([run])


def write_answers(folder, answers):
    paths = [folder / f"{one['rater']}.json" for one in answers]
    for path, one in zip(paths, answers, strict=True):
        write_json(path, one)
    return paths


def read(answers, key):
    return read_answers({f"{number}.json": one for number, one in enumerate(answers)}, key)


def strengths(**values) -> dict:
    return {question: dict(values) for question in QUESTIONS}


# ---- the page and its key


def test_pairs_are_of_one_sentence_and_in_balance(made):
    _, key = made
    compared = [row for row in key["pairs"] if row["kind"] == "compare"]
    assert Counter(frozenset(key["motions"][name] for name in row["motions"]) for row in compared) == {
        frozenset(two): 8 for two in (("zebra", "okapi"), ("zebra", "impala"), ("okapi", "impala"))
    }
    assert set(Counter(row["caption"] for row in compared).values()) == {1}


def test_controls_are_what_the_key_says(made):
    page, key = made
    rows = {kind: [row for row in key["pairs"] if row["kind"] == kind] for kind in ("static", "noised", "mismatched", "turned")}
    assert {kind: len(found) for kind, found in rows.items()} == {"static": 1, "noised": 1, "mismatched": 2, "turned": 2}

    def clip(name):
        return player.unpack_joints(page["motions"][name], 22)[0]

    sound, frozen = map(clip, rows["static"][0]["motions"])
    assert np.ptp(frozen, axis=0).max() == 0 and np.ptp(sound, axis=0).max() > 0.1
    sound, shaken = map(clip, rows["noised"][0]["motions"])
    assert 0.04 < (np.diff(shaken - sound, axis=0) / np.sqrt(2)).std() < 0.06
    for row in rows["mismatched"]:
        assert len({key["motions"][name] for name in row["motions"]}) == 1
    by_id = {row["id"]: row for row in key["pairs"]}
    for row in rows["turned"]:
        assert by_id[row["turned"]]["kind"] == "compare" and by_id[row["turned"]]["motions"] == row["motions"]


def test_the_page_names_neither_systems_nor_runs_nor_controls(run, made):
    page, _ = made
    text = study_html(page)
    for word in (*SYSTEMS, "secretrun", "motions.npz", "noised", "mismatched", '"static"', '"kind"'):
        assert word not in text, word
    names = [*page["motions"], *(row["id"] for row in page["pairs"])]
    assert all(re.fullmatch("[0-9a-f]{8}", name) for name in names) and len(set(names)) == len(names)
    assert list(page["motions"]) == sorted(page["motions"])  # the order gives nothing away either
    assert [row["id"] for row in page["pairs"]] == sorted(row["id"] for row in page["pairs"])
    assert all(row["motions"] == sorted(row["motions"]) for row in page["pairs"])
    fields = {"name", "caption", "contacts", "frames", "scale", "data"}
    assert all(set(panel) == fields for panel in page["motions"].values())
    assert {(panel["name"], panel["caption"]) for panel in page["motions"].values()} == {("", "")}


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.data, self.inside = Counter(), "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.inside = dict(attrs).get("id") == "study"
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, text):
        if self.inside:
            self.data += text
            self.inside = False


def test_what_comes_from_data_stays_text(tmp_path):
    folder = write_run(tmp_path, count=3, captions=[f"{i}{NASTY}" for i in range(3)])
    page, _ = make_study([folder], pairs=3)
    sound = Tags(study_html(page | {"pairs": [], "motions": {}})).tags
    found = Tags(study_html(page, contact=NASTY))
    assert found.tags == sound
    assert {row["caption"][1:] for row in json.loads(found.data)["pairs"]} == {NASTY}
    assert "Content-Security-Policy" in study_html(page) and "https:" not in study_html(page)


def test_the_same_runs_and_seed_give_the_same_study(run, made):
    assert make_study([run]) == made
    assert make_study([run], seed=1)[0]["id"] != made[0]["id"]


def test_24_pairs_of_ten_seconds_stay_under_a_megabyte(tmp_path):
    page, _ = make_study([write_run(tmp_path, tile=4)])
    assert min(panel["frames"] for panel in page["motions"].values()) >= 150
    assert len(study_html(page)) < 1_000_000


def test_motions_are_packed_to_two_millimetres(run, made):
    page, key = made
    shown = {motion.joints.tobytes(): motion for motion in read_runs([run])[0]}
    clips = [m.joints - m.joints[0, 0] * [1, 0, 1] for m in shown.values()]
    name = next(row["motions"][0] for row in key["pairs"] if row["kind"] == "compare")
    back = player.unpack_joints(page["motions"][name], 22)[0]
    back = back - back[0, 0] * [1, 0, 1]
    fits = [np.abs(back - clip - (back - clip).mean((0, 1)) * [0, 1, 0]).max() for clip in clips if clip.shape == back.shape]
    assert min(fits) < 0.0026


def test_another_skeleton_will_do(tmp_path):
    rng = np.random.default_rng(0)
    rest = rng.normal(0, 300, (1, 21, 3)) + [0, 900, 0]
    rows = [{"prompt": f"p{i}", **{name: rest + rng.normal(0, 9, (20, 21, 3)) for name in "ab"}} for i in range(3)]
    save_motions(tmp_path / "motions.npz", {"target": rows})
    page, key = make_study([tmp_path], pairs=3)
    assert len(page["scene"]["parents"]) == KIT_ML.num_joints
    assert page["scene"]["fps"] == KIT_ML.fps
    kinds = {row["kind"]: row["motions"] for row in key["pairs"]}
    sound, shaken = (player.unpack_joints(page["motions"][name], 21)[0] for name in kinds["noised"])
    assert 0.03 < (np.diff(shaken - sound, axis=0) / np.sqrt(2)).std() < 0.07  # 5 cm, though the unit is mm


def test_names_of_runs_make_systems(tmp_path):
    one, two = (write_run(tmp_path / name, ("before", "after"), count=2) for name in "ab")
    assert {m.system for m in read_runs([one])[0]} == {"before", "after"}
    assert {m.system for m in read_runs([one, f"new={two}"])[0]} == {"a before", "a after", "new before", "new after"}
    shown, _ = read_runs([f"x={one}", f"x={two}"])  # repeats
    assert {m.system for m in shown} == {"before", "after"} and len(shown) == 8


def bad_runs(folder):
    save_motions(folder / "none" / "motions.npz", {})
    (folder / "nothing").mkdir()
    (folder / "deep" / "good").mkdir(parents=True)
    write_run(folder / "good", ("before", "after"), count=3)
    write_run(folder / "deep" / "good", ("before", "after"), count=3)
    write_run(folder / "one", ("after",), count=3)
    write_run(folder / "strange", ("before", "after"), count=3, captions=["p", "q", "r"])
    rows = [{"prompt": "p", "a": np.zeros((9, 21, 3)), "b": np.zeros((9, 21, 3))}]
    save_motions(folder / "kit" / "motions.npz", {"target": rows})


@pytest.mark.parametrize(
    "runs,words",
    [(["missing"], "missing is not the folder of a run"), (["x=missing"], "missing is not the folder"),
     (["nothing"], "keeps no motions.npz"), (["none"], "holds no motions"), (["one"], "come from one system (after)"),
     (["good", "strange"], "share no sentence"), (["good", "kit"], "different skeletons"),
     (["good", "deep/good"], "two runs are called good")],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_runs_that_make_no_study_say_why(tmp_path, monkeypatch, runs, words):
    monkeypatch.chdir(tmp_path)
    bad_runs(tmp_path)
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        make_study(runs, pairs=3)
    assert "\n" not in str(caught.value)


def test_a_key_is_never_lost(tmp_path, made, run):
    page, key = made
    kept = save_study(page, key, tmp_path / "study.html")
    save_study(page, key, tmp_path / "study.html")
    with pytest.raises(UserError, match="key of another study"):
        save_study(*make_study([run], seed=1), tmp_path / "study.html")
    assert json.loads(kept.read_text()) == key
    with pytest.raises(UserError, match="ends in .html"):
        save_study(page, key, tmp_path / "study.txt")


def shown_by(*groups):
    "Motions of a sentence for each group of systems."
    still = np.zeros((4, 22, 3))
    return [study.Shown(system, f"sentence {number}", still) for number, group in enumerate(groups) for system in group]


@pytest.mark.parametrize("seed", range(20))
def test_the_pairs_that_are_taken_link_all_systems(seed):
    # "ab" and "cd" meet most often, and each pair of systems once in balance would be one of them at first
    shown = shown_by(*["ab", "cd"] * 4, "bc", "de", "ef")
    pairs = study.choose_pairs(shown, 5, np.random.default_rng(seed))
    met = {frozenset((pair.first.system, pair.second.system)) for pair in pairs}
    assert met == {frozenset(two) for two in ("ab", "bc", "cd", "de", "ef")}
    with pytest.raises(UserError, match="^4 pairs cannot link 6 systems: give --pairs 5 or more"):
        study.choose_pairs(shown, 4, np.random.default_rng(seed))


def test_a_study_of_two_named_runs_and_too_few_pairs_is_refused(tmp_path):
    runs = [f"{name}={write_run(tmp_path / name, ('before', 'after'), count=4)}" for name in "ab"]
    with pytest.raises(UserError, match="^2 pairs cannot link 4 systems"):
        make_study(runs, pairs=2)
    _, key = make_study(runs, pairs=3)
    results = analyse(write_answers(tmp_path / "answers", simulate_answers(
        key, strengths(**{"a before": 0, "a after": 1, "b before": 0, "b after": 1}), raters=9)), key, draws=20)
    assert {row["system"] for row in results["strengths"]} == set(key["systems"]) and len(key["systems"]) == 4


# ---- answers


@pytest.fixture
def answer(made) -> dict:
    return simulate_answers(made[1], strengths(zebra=1, okapi=0, impala=0), raters=1)[0]


def broken(answer, **changes) -> dict:
    first, *rest = answer["answers"]
    return answer | {"answers": [first | changes, *rest]}


@pytest.mark.parametrize(
    "change,words",
    [(lambda a: a | {"study": "x"}, "answers another study (x, not"),
     (lambda a: {"study": a["study"]}, "not what the page of a study saves"),
     (lambda a: a | {"answers": "x"}, "not what the page of a study saves"),
     (lambda a: broken(a, pair="x"), "holds an answer that the page cannot give"),
     (lambda a: broken(a, left="x"), "holds an answer that the page cannot give"),
     (lambda a: broken(a, natural="up"), "holds an answer that the page cannot give"),
     (lambda a: broken(a, natural=["left"]), "holds an answer that the page cannot give"),
     (lambda a: broken(a, seconds=float("nan")), "holds an answer that the page cannot give"),
     (lambda a: broken(a, seconds=None), "holds an answer that the page cannot give"),
     (lambda a: a | {"answers": [1]}, "holds an answer that the page cannot give"),
     (lambda a: a | {"answers": a["answers"][:1] * 2}, "twice: leave it out")],
)
def test_answers_that_are_none_say_so_in_one_line(made, answer, change, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_answers({"a.json": change(answer)}, made[1])
    assert "\n" not in str(caught.value) and "a.json" in str(caught.value)


def test_a_file_cut_off_and_a_file_sent_twice(tmp_path, made, answer):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(answer)[:-20])
    with pytest.raises(UserError, match="it may be truncated"):
        analyse([path], made[1])
    path.write_text("[]")
    with pytest.raises(UserError, match="should hold a JSON object"):
        analyse([path], made[1])
    path.write_text(json.dumps(answer))
    (tmp_path / "b.json").write_text(json.dumps(answer))
    with pytest.raises(UserError, match="b.json and .*a.json come from one rater"):
        analyse([path, tmp_path / "b.json"], made[1])


def test_choices_are_read_from_sides(made):
    _, key = made
    rows = [{"pair": row["id"], "left": row["motions"][i % 2], "right": row["motions"][1 - i % 2], "seconds": 5,
             "natural": "left", "match": ("same", "right")[i % 2]} for i, row in enumerate(key["pairs"])]
    answers = read([{"study": key["study"], "rater": "r", "answers": rows}], key)
    even = np.arange(len(rows)) % 2 == 0
    assert (answers.side[0] == np.where(even, 1, -1)).all()
    assert (answers.choice[0, 0] == np.where(even, 1, -1)).all()  # always the left one: the first where that stood left
    assert (answers.choice[1, 0] == np.where(even, 0, 1)).all()  # else the right one, which was the first
    results = study.share_of((answers.choice * answers.side)[0])
    assert results["share"] == 1 and results["p"] == pytest.approx(2 * 0.5 ** len(rows))


def test_each_rule_removes_whom_it_names(made):
    _, key = made
    raters = simulate_answers(key, strengths(zebra=0, okapi=0, impala=0), raters=6, seed=2, ties=0)
    at = {row["id"]: row for row in key["pairs"]}

    def edit(number, change):
        for row in raters[number]["answers"]:
            change(row, at[row["pair"]])

    def right(row, pair, other=False):
        row["natural"] = "left" if (row["left"] == pair["motions"][0]) != other else "right"

    def sane(row, pair):  # passes every check, and repeats itself
        right(row, pair)
        row["match"] = row["natural"]

    for number in range(6):
        edit(number, sane)
    raters[1]["answers"].pop()
    edit(2, lambda row, pair: row.update(seconds=1.0))
    edit(3, lambda row, pair: right(row, pair, other=pair["kind"] == "noised"))
    edit(4, lambda row, pair: row.update(natural="same") if pair["kind"] == "static" else None)
    edit(5, lambda row, pair: row.update(natural="left", match="right") if pair["kind"] in ("compare", "turned") else None)
    answers = read(raters, key)
    names = [one["rater"] for one in raters]
    assert exclusions(answers, key) == {
        names[1]: "incomplete", names[2]: "too fast", names[3]: "failed an attention check",
        names[4]: "failed an attention check", names[5]: "always the same side",
    }


def test_honest_raters_stay_and_careless_ones_go(made):
    _, key = made
    said = simulate_answers(key, strengths(zebra=1, okapi=0.5, impala=0), raters=60, careless=60, seed=3, spread=0.5)
    out = exclusions(read(said, key), key)
    gone = [one["rater"] in out for one in said]
    assert sum(gone[:60]) <= 3  # by chance an answer to a check is wrong
    assert sum(gone[60:]) >= 48  # one in nine guesses both checks


# ---- statistics against somebody else's numbers


def test_holm_against_the_worked_example():
    "Four hypotheses of Holm's procedure as it is commonly shown: .01, .04, .03, .005."
    assert study.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert study.holm([0.9, 0.8]) == [1.0, 1.0]


def test_alpha_against_krippendorffs_paper_and_a_sum_by_hand():
    nan = np.nan
    paper = np.array([[1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
                      [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan]])
    assert study.krippendorff_alpha(paper) == pytest.approx(0.849, abs=5e-4)
    assert study.krippendorff_alpha(np.array([[1.0, -1, 1], [1, -1, 1]])) == 1
    assert np.isnan(study.krippendorff_alpha(np.ones((3, 4))))
    values = np.random.default_rng(0).choice([-1.0, 0, 1, nan], (5, 7))
    units = [row[~np.isnan(row)] for row in values.T]
    units = [row for row in units if len(row) > 1]
    every = np.concatenate(units)
    observed = sum((a - b) ** 2 / (len(row) - 1) for row in units for a in row for b in row) / len(every)
    expected = sum((a - b) ** 2 for a in every for b in every) / len(every) / (len(every) - 1)
    assert study.krippendorff_alpha(values) == pytest.approx(1 - observed / expected)


def test_strengths_are_the_likeliest():
    wins = np.random.default_rng(0).integers(3, 40, (4, 4)) * (1 - np.eye(4))
    met = 1 - np.eye(4)

    def loss(theta):
        return (np.log1p(np.exp(theta[None] - theta[:, None])) * (wins + 0.5 * met)).sum()

    best = minimize(loss, np.zeros(4)).x
    np.testing.assert_allclose(study.bradley_terry(wins, met), best - best.mean(), atol=1e-4)
    assert np.isfinite(study.bradley_terry(np.array([[0, 50.0], [0, 0]]), 1 - np.eye(2))).all()  # one always wins


def test_power_is_what_many_studies_find():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    for decided in (20, 100):
        wins, times = np.unique(rng.binomial(decided, 0.7, 4000), return_counts=True)
        found = sum(n for k, n in zip(wins, times, strict=True) if binomtest(int(k), decided).pvalue < 0.05) / 4000
        assert study.sign_test_power(0.7, decided) == pytest.approx(found, abs=0.03)
    needed = study.raters_needed(0.6, 1)
    assert 194 <= needed <= 210  # 194 by the normal approximation; the exact test is a little weaker
    assert (study.sign_test_power(0.6, np.arange(needed, needed + 200)) >= 0.8).all()
    assert study.sign_test_power(0.6, needed - 1) < 0.8
    assert study.raters_needed(0.6, 10, design_effect=2) == -(-2 * needed // 10)
    assert study.raters_needed(0.6, 0) is None
    assert study.detectable_share(needed) <= 0.6 < study.detectable_share(needed // 2)
    assert study.detectable_share(3) is None  # three answers prove nothing


# ---- simulated raters of known preference


def test_intervals_hold_the_truth(made):
    "25 studies of 30 raters: 95% intervals of the shares and strengths hold what the raters were told."
    _, key = made
    theta = {"impala": -0.6, "okapi": 0.0, "zebra": 0.6}
    held = []
    for seed in range(25):
        answers = read(simulate_answers(key, {q: theta for q in QUESTIONS}, 30, seed), key)
        wins, ties = study.count_choices(answers, key)
        drawn = study.resample(wins, 200, seed)
        row = study.preferences(wins, ties, drawn, key["systems"])[1]
        assert (row["first"], row["second"]) == ("impala", "zebra")
        strength = study.strengths(wins, ties, drawn[:60], key["systems"])[2] if seed % 5 == 0 else None
        share = 1 / (1 + np.exp(1.2))
        held.append((row["over_raters"][0] <= share <= row["over_raters"][1], row["wilson"][0] <= share <= row["wilson"][1],
                     strength is None or strength["over_raters"][0] <= 0.6 <= strength["over_raters"][1]))
    assert (np.sum(held, axis=0) >= (21, 21, 24)).all(), np.sum(held, axis=0)


def test_lapses_pull_towards_one_half_as_they_must(made):
    _, key = made
    said = simulate_answers(key, strengths(zebra=1.5, okapi=0, impala=0), raters=300, seed=1, ties=0.5, lapses=0.3)
    wins, _ = study.count_choices(read(said, key), key)
    odds = np.exp(np.array([1.5, 0.75, 0])) * [1, 0.5, 1]
    win, _, lose = 0.7 * odds / odds.sum() + 0.1
    counts = wins.sum(axis=(0, 1))
    zebra = key["systems"].index("zebra")
    share = counts[zebra].sum() / (counts[zebra].sum() + counts[:, zebra].sum())
    assert share == pytest.approx(win / (win + lose), abs=0.02)


def test_raters_who_differ_widen_the_interval_and_sides_are_heard(tmp_path, made):
    _, key = made

    def analysed(**options):
        said = simulate_answers(key, strengths(zebra=0.5, okapi=0, impala=0), raters=40, seed=5, **options)
        return analyse(write_answers(tmp_path, said), key, draws=200)

    alike, apart, leaning = analysed(), analysed(spread=1.5), analysed(left=1.0)
    assert max(row["design_effect"] for row in alike["preferences"]) < 1.6
    assert min(row["design_effect"] for row in apart["preferences"]) > 1.6
    assert apart["preferences"][0]["raters_for_60"] > alike["preferences"][0]["raters_for_60"]
    assert alike["left"]["p"] > 0.01 and leaning["left"]["p"] < 1e-6 and leaning["left"]["share"] > 0.6


def test_where_all_agree_the_interval_is_not_a_point():
    "Resampling ten answers that are all alike would say [1, 1]; Wilson's interval for 10 of 10 is [.722, 1]."
    wins = np.zeros((2, 5, 2, 2))
    wins[0, :, 0, 1] = 2
    row = study.preferences(wins, 0 * wins, study.resample(wins, 50), ["a", "b"])[0]
    assert row["over_raters"] == pytest.approx([0.7225, 1], abs=1e-4) and row["share"] == 1 and row["design_effect"] is None


def test_captions_are_read_or_not(tmp_path, made):
    _, key = made
    results = analyse(write_answers(tmp_path, simulate_answers(key, strengths(zebra=1, okapi=0, impala=0), 40)), key, draws=50)
    assert results["captions"]["match"]["share"] > 0.85 and results["captions"]["match"]["p"] < 1e-4
    assert results["captions"]["natural"]["wilson"][0] < 0.5 < results["captions"]["natural"]["wilson"][1]


def test_too_few_raters_all_ties_and_no_key_say_so(tmp_path, made):
    _, key = made
    said = simulate_answers(key, strengths(zebra=1, okapi=0, impala=0), raters=3, careless=1, seed=4)
    paths = write_answers(tmp_path, said)
    with pytest.raises(UserError, match="^1 of 1 raters count: it takes two"):
        analyse(paths[:1], key)
    with pytest.raises(UserError, match=r"^1 of 2 raters count \(1 failed an attention check\)"):
        analyse([paths[0], paths[3]], key)
    with pytest.raises(UserError, match="not the key of a study"):
        analyse(paths, {"study": key["study"]})
    right = {row["id"]: row["motions"][0] for row in key["pairs"] if row["kind"] in ("static", "noised")}
    for one in said:
        for row in one["answers"]:
            side = "left" if right.get(row["pair"]) == row["left"] else "right"
            row |= dict.fromkeys(QUESTIONS, side if row["pair"] in right else "same")
    with pytest.raises(UserError, match="^all answers of the 3 raters are ties"):
        analyse(write_answers(tmp_path, said)[:3], key)


def test_a_key_whose_pairs_do_not_link_its_systems_says_so(tmp_path, made):
    key = made[1] | {"systems": [*made[1]["systems"], "quagga"]}
    paths = write_answers(tmp_path, simulate_answers(key, strengths(zebra=1, okapi=0, impala=0), raters=3))
    with pytest.raises(UserError, match="^no pair of this study links impala and quagga") as caught:
        analyse(paths, key)
    assert "\n" not in str(caught.value)


def first_pair(key, **changes):
    first, *rest = key["pairs"]
    return key | {"pairs": [{name: value for name, value in (first | changes).items() if value != "drop"}, *rest]}


DAMAGED_KEYS = [
    lambda key: key | {"pairs": 3}, lambda key: key | {"pairs": [3]}, lambda key: key | {"pairs": {}},
    lambda key: key | {"pairs": [*key["pairs"], key["pairs"][0]]}, lambda key: key | {"systems": 3},
    lambda key: key | {"systems": []}, lambda key: key | {"systems": [3, []]}, lambda key: key | {"motions": []},
    lambda key: key | {"motions": {}}, lambda key: key | {"motions": dict.fromkeys(key["motions"], 3)},
    lambda key: key | {"motions": dict.fromkeys(key["motions"], "zebra")}, lambda key: key | {"study": 3},
    *[lambda key, name=name, value=value: first_pair(key, **{name: value})
      for name in ("id", "motions", "kind") for value in ("drop", [], {}, 3, "x", [[], []])],
    *[lambda key, value=value: first_pair(key, turned=value) for value in ([], {}, 3, "x")],
    lambda key: first_pair(key, kind="turned"), lambda key: first_pair(key, turned=key["pairs"][1]["id"]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGED_KEYS)))
def test_a_damaged_key_is_one_line(tmp_path, made, number):
    paths = write_answers(tmp_path, simulate_answers(made[1], strengths(zebra=1, okapi=0, impala=0), raters=3))
    with pytest.raises(UserError, match="key") as caught:
        analyse(paths, DAMAGED_KEYS[number](made[1]))
    assert "\n" not in str(caught.value)


# ---- what it says


def test_text_table_and_files_say_what_was_found(tmp_path, made):
    _, key = made
    said = simulate_answers(key, strengths(zebra=1.2, okapi=0, impala=0), raters=30, careless=2, seed=1)
    results = analyse(write_answers(tmp_path, said), key, draws=200)
    text, table = study_text(results), study_table(results)
    assert f"32 people took part; {len(results['excluded'])} were excluded" in text
    row = next(r for r in results["preferences"] if (r["first"], r["second"]) == ("impala", "zebra"))
    assert row["question"] == "natural" and row["share"] < 0.5  # in words the preferred one comes first
    assert f"zebra was preferred to impala in {100 - 100 * row['share']:.1f}%" in text
    assert f"| {row['wins']} / {row['ties']} / {row['losses']} | {100 * row['share']:.1f}% |" in table
    assert len(table.splitlines()) == 2 + 6
    save_results(results, tmp_path / "out")
    assert (tmp_path / "out" / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["preferences"] == results["preferences"]
    assert text in (tmp_path / "out" / "study.md").read_text(encoding="utf-8")


def test_commands_make_and_analyse(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.app, ["study", "make", str(run), "--pairs", "99", "--contact", "Ada <ada@example.org>"])
    assert done.exit_code == 0, done.output
    assert "72 pairs of impala, okapi, zebra, and 6 controls" in done.output and "there are no more than 72" in done.output
    assert "Ada &lt;ada@example.org&gt;" in (tmp_path / "study.html").read_text(encoding="utf-8")
    key = json.loads((tmp_path / "study-key.json").read_text())
    paths = write_answers(tmp_path / "answers", simulate_answers(key, strengths(zebra=1, okapi=0, impala=0), raters=8))
    done = CliRunner().invoke(cli.app, ["study", "analyse", *map(str, paths)])
    assert done.exit_code == 0, done.output
    assert "zebra was preferred to" in done.output and (tmp_path / "study-results" / "study.md").exists()


@pytest.mark.parametrize(
    "command",
    [["make", "nowhere"], ["analyse", "nothing.json"], ["make", "nowhere", "--seed", "-1"],
     ["analyse", "nothing.json", "--seed", "-1"]],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mocapfree", "study", *command])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().err
    assert stop.value.code == 1 and said.startswith("mocapfree: ") and said.count("\n") == 1
    assert ("--seed -1" in said) == ("--seed" in command)


def test_no_name_of_a_system_controls_the_terminal(tmp_path, monkeypatch, capsys):
    "A key may come from someone else."
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key.json").write_text("{}")
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr("mocapfree_nb.study.analyse", lambda *_, **__: {})
    monkeypatch.setattr("mocapfree_nb.study_paper.save_results", lambda *_: "study.md")
    monkeypatch.setattr("mocapfree_nb.study_paper.study_text", lambda _: "\x1b[31mzebra was preferred\x1b]0;title\x07")
    monkeypatch.setattr("mocapfree_nb.study_paper.study_table", lambda _: "table")
    monkeypatch.setattr("sys.argv", ["mocapfree", "study", "analyse", "a.json", "--key", "key.json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().out
    assert not stop.value.code and "zebra was preferred" in said
    assert all(c.isprintable() or c == "\n" for c in said)
