"""Settings times seeds: what runs, what is not run again, the table and the figure."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mocapfree_nb import sweep
from mocapfree_nb.files import UserError
from mocapfree_nb.sweep import ABLATIONS, choose_variants, sweep_figure, sweep_table
from mocapfree_nb.tasks import LEFT_OUT


def row(verified, reward=0.5):
    return {"verified": verified, "r_precision": [0.25, 0.5, 0.5], "fid": 2.0, "foot_skate": 0.0, "retrieval_score": reward}


@pytest.fixture
def ran(monkeypatch):
    """Nothing is adapted: what would be, in order."""
    calls = []

    def run(plan, say, **arguments):
        calls.append(plan["config"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        part = {"name": arguments.get("target") or LEFT_OUT, "before": row(0.0), "after": row(0.5 + 0.25 * plan["config"].seed)}
        return {"target": part, "original": part, "reward": {"after": 0.75}, "gap_closed": None}

    monkeypatch.setattr(sweep, "_run", run)
    monkeypatch.setattr(sweep, "load_corpus", lambda: SimpleNamespace(source="built-in"))
    return calls


def test_a_sweep_that_was_stopped_goes_on_and_its_table_and_figure_say_all_runs(ran, tmp_path):
    variants, out = {"kl_weight=0.0": {"kl_weight": 0.0}, "kl_weight=0.1": {"kl_weight": 0.1}}, tmp_path / "s.json"
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(out, variants, (0, 1))
    assert len(json.loads(out.read_text())["runs"]) == 2
    rows = sweep.sweep(out, variants, (0, 1))
    assert [config.seed for config in ran] == [0, 0, 1, 1, 1] and len(rows) == 4
    lines = sweep_table(rows).splitlines()
    assert lines[1].split()[:6] == ["kl_weight=0.0", "2", "0.750", "±", "0.000", "0.625"] and len(lines) == 3
    sweep_figure(rows, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="other settings"):
        sweep.sweep(out, {"kl_weight=0.1": {"kl_weight": 0.2}}, (0,))


OTHERS = {
    "algorithm": {"algorithm": "grpo"}, "iterations": {"iterations": 5}, "model": {"model": "mine"}, "target": {"target": "bow"},
    "corpus": {"corpus": SimpleNamespace(source="a folder")}, "evaluator": {"evaluator": "mine"},
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_rows_of_another_experiment_are_refused_in_one_line(name, ran, tmp_path):
    variants, out = {"kl_weight=0.0": {"kl_weight": 0.0}}, tmp_path / "s.json"
    first = sweep.sweep(out, variants, (0,))
    with pytest.raises(UserError, match=f"another {name}") as caught:
        sweep.sweep(out, variants, (0, 1), **OTHERS[name])
    assert "\n" not in str(caught.value) and len(ran) == 1 and sweep.sweep(out, variants, (0,)) == first
    if name != "target":  # a file from before rows said so goes on; the name of its target it always said
        out.write_text(json.dumps({"runs": [{key: value for key, value in first[0].items() if key != name}]}))
        assert len(sweep.sweep(out, variants, (0,), **OTHERS[name])) == len(ran) == 1


def test_the_file_that_ships_goes_on_and_its_runs_are_not_run_again(ran, tmp_path):
    shipped, out = Path(__file__).parent.parent / "nbs" / "results" / "ablation.json", tmp_path / "ablation.json"
    out.write_bytes(shipped.read_bytes())
    rows = sweep.sweep(out, choose_variants(["the recipe"]), (0, 1, 2))
    assert not ran and len(rows) == 11 and len(sweep_table(rows).splitlines()) == 10


def test_a_setting_called_as_one_of_the_search_is_the_algorithm_s_own():
    keeps = [sweep._plan({"keep": keep}, 0, None, "raft") for keep in (1, 3)]
    assert [plan["config"].keep for plan in keeps] == [1, 3] and "search" not in keeps[0]
    assert sweep._plan({"keep": 3, "rounds": 2}, 0, None, "exploration")["search"].keep == 3


@pytest.mark.parametrize(
    "variants,iterations,words",
    [({"a": {}, "b": {"learning_rate": -1.0}}, None, "learning_rate should be"),
     ({"a": {"iterations": 50}}, 5, "iterations is a"), ({"a": {"seed": 3}}, None, "seed is a setting to try and fixed")],
)
def test_settings_that_cannot_be_meant_are_refused_before_the_first_run(variants, iterations, words, ran, tmp_path):
    with pytest.raises(UserError, match=words):
        sweep.sweep(tmp_path / "s.json", variants, (0,), iterations)
    assert not ran and not (tmp_path / "s.json").exists()


def test_every_ablation_is_a_setting_that_exists():
    from dataclasses import fields

    from mocapfree_nb.ddpo import DDPOConfig

    known = {field.name for field in fields(DDPOConfig)} | {"contrastive", "mirrored"}
    for change in ABLATIONS.values():
        assert set(change) <= known
        DDPOConfig(**{key: value for key, value in change.items() if key not in ("contrastive", "mirrored")})
    assert choose_variants(()) == ABLATIONS and choose_variants(["plain DDPO"]) == {"plain DDPO": ABLATIONS["plain DDPO"]}
    with pytest.raises(UserError, match="magic"):
        choose_variants(["magic"])


def test_every_ablation_of_exploration_goes_to_the_search_or_to_learning(monkeypatch):
    from dataclasses import asdict

    from mocapfree_nb.exploration import ExploreConfig
    from mocapfree_nb.off_policy import LearnConfig

    seen = {}

    def adapt(config, search=None, **arguments):
        seen[name] = asdict(search or ExploreConfig()) | asdict(config)
        return SimpleNamespace(values=dict.fromkeys(("target", "original", "reward", "gap_closed", "selection", "wall_clock_s")))

    monkeypatch.setattr(sweep, "adapt", adapt)
    monkeypatch.setattr(sweep, "summary", lambda values: "")
    variants = choose_variants((), "exploration")
    for name in variants:
        sweep._run(sweep._plan(variants[name], 3, None, "exploration"), say=lambda text: None)
    usual = asdict(ExploreConfig()) | asdict(LearnConfig(seed=3))
    for name, change in variants.items():  # one thing is taken away, nothing else
        changed = {key: value for key, value in seen[name].items() if value != usual[key]}
        assert changed == {key: tuple(value) if isinstance(value, list) else value for key, value in change.items()}
    with pytest.raises(UserError, match="grpo has no named variants"):
        choose_variants((), "grpo")


DAMAGED = [
    '{"runs": [3]}', '{"runs": [{"variant": "plain DDPO"}]}', '{"runs": [{"seed": 0, "variant": []}]}', '{"runs": {}}', "[]",
    "[" * 100_000, "{", '{"runs": [{"seed": true, "variant": "a"}]}', '{"a": 1}', '{"runs": [{"seed": 0, "variant": "a"}]}',
    '{"runs": [{"seed": 0, "variant": "a", "target": {}, "original": {}, "reward": {"after": "high"}}]}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_file_that_holds_no_rows_is_named_and_not_written_over(text, tmp_path, ran):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match="mine.json"):
        sweep.sweep(tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text() == text and not ran
