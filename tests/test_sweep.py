"""Settings times seeds: what runs, what is not run again, the table and the figure."""

import json

import pytest

from mocapfree_nb import sweep
from mocapfree_nb.files import UserError
from mocapfree_nb.sweep import ABLATIONS, choose_variants, sweep_figure, sweep_table


def row(verified, reward=0.5):
    return {"verified": verified, "r_precision": [0.25, 0.5, 0.5], "fid": 2.0, "foot_skate": 0.0, "retrieval_score": reward}


@pytest.fixture
def ran(monkeypatch):
    """Nothing is adapted: what would be, in order."""
    calls = []

    def run(change, seed, iterations, corpus, algorithm, **arguments):
        calls.append((dict(change), seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        part = {"before": row(0.0), "after": row(0.5 + 0.25 * seed)}
        return {"target": part, "original": part, "reward": {"after": 0.75}, "gap_closed": None}

    monkeypatch.setattr(sweep, "_run", run)
    monkeypatch.setattr(sweep, "load_corpus", lambda: None)
    return calls


def test_a_sweep_that_was_stopped_goes_on_and_its_table_and_figure_say_all_runs(ran, tmp_path):
    variants, out = {"kl_weight=0.0": {"kl_weight": 0.0}, "kl_weight=0.1": {"kl_weight": 0.1}}, tmp_path / "s.json"
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(out, variants, (0, 1))
    assert len(json.loads(out.read_text())["runs"]) == 2
    rows = sweep.sweep(out, variants, (0, 1))
    assert [seed for _, seed in ran] == [0, 0, 1, 1, 1] and len(rows) == 4
    lines = sweep_table(rows).splitlines()
    assert lines[1].split()[:6] == ["kl_weight=0.0", "2", "0.750", "±", "0.000", "0.625"] and len(lines) == 3
    sweep_figure(rows, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="other settings"):
        sweep.sweep(out, {"kl_weight=0.1": {"kl_weight": 0.2}}, (0,))


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
    from types import SimpleNamespace

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
        sweep._run(variants[name], 3, None, None, "exploration", say=lambda text: None)
    usual = asdict(ExploreConfig()) | asdict(LearnConfig(seed=3))
    for name, change in variants.items():  # one thing is taken away, nothing else
        changed = {key: value for key, value in seen[name].items() if value != usual[key]}
        assert changed == {key: tuple(value) if isinstance(value, list) else value for key, value in change.items()}
    with pytest.raises(UserError, match="grpo has no named variants"):
        choose_variants((), "grpo")


DAMAGED = [
    '{"runs": [3]}', '{"runs": [{"variant": "plain DDPO"}]}', '{"runs": [{"seed": 0, "variant": []}]}', '{"runs": {}}', "[]",
    "[" * 100_000, "{", '{"runs": [{"seed": true, "variant": "a"}]}', '{"a": 1}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_file_that_holds_no_rows_is_named_and_not_written_over(text, tmp_path, ran):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match="mine.json"):
        sweep.sweep(tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text() == text and not ran
