"""All left-out actions times models: what runs, with what, what is not run again, the table and the figure."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from mocapfree_nb import grid
from mocapfree_nb.files import WEIGHTS, UserError
from mocapfree_nb.grid import find_models, grid_figure, grid_table, learn_all_actions
from mocapfree_nb.tasks import LEFT_OUT_ACTIONS


def part(verified):
    return {"verified": verified, "interval": {"verified": [verified - 0.125, verified + 0.25]}, "r_precision": [0.5], "fid": 2.5,
            "bone_deviation": 0.0125, "foot_skate": 0.0, "reward": 0.75, "n": 8, "joints": "too big to keep"}  # fmt: skip


@pytest.fixture
def ran(monkeypatch):
    """Nothing is adapted: what would be, in order; the third run is interrupted once."""
    calls = []

    def adapt(**given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        rows = {"before": part(0.0), "after": part(0.5), "best_of_n": part(0.125), "full_data": part(0.75)}
        values = {"target": {"name": given["target"], **rows}, "original": rows, "selection": {}, "network_calls": 9,
                  "wall_clock_s": 90.0}  # fmt: skip
        return SimpleNamespace(values=values)

    monkeypatch.setattr(grid, "adapt", adapt)
    monkeypatch.setattr(grid, "summary", lambda values: "done")
    monkeypatch.setattr(grid, "load_corpus", lambda: None)
    monkeypatch.setattr(grid, "without_others", lambda corpus, action: action)
    return calls


def test_every_model_learns_every_action_and_a_stopped_run_goes_on(ran, tmp_path):
    out, quiet = tmp_path / "a.json", []
    with pytest.raises(KeyboardInterrupt):
        learn_all_actions(out, ["unet"], say=quiet.append)
    assert len(json.loads(out.read_text())["actions"]) == 2
    rows = learn_all_actions(out, ["unet"], say=quiet.append)
    assert [row["action"] for row in rows] == list(LEFT_OUT_ACTIONS) and len(ran) == 7
    for given in ran:
        assert given["corpus"] == given["target"]  # the clips of the five others are not there
        assert (given["model"], given["full_model"]) == (WEIGHTS / "unet-leave-one-out", WEIGHTS / "unet")
    assert "joints" not in rows[0]["target"]["after"] and "name" not in rows[0]["target"]
    lines = grid_table(rows).splitlines()
    assert len(lines) == 7 and lines[1].split()[:7] == ["unet", LEFT_OUT_ACTIONS[0], "0", "0%", "50%", "12%", "75%"]
    assert lines[1].split()[7:] == ["2.5", "1.2%", "0.0%", "50.0%", "1.5"]


def test_the_figure_has_a_colour_a_model_and_intervals(ran, tmp_path):
    rows = learn_all_actions(tmp_path / "a.json", ["unet"], ["bow", "kneel"], say=lambda text: None)
    rows += [row | {"model": "latent"} for row in rows]
    figure = grid_figure(rows, tmp_path / "a.png")
    axes = figure.axes[0]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"  # a notebook that has not imported pyplot shows it too
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["bow", "kneel"] and axes.get_ylabel() and axes.get_xlabel()
    assert {"unet: after", "latent: after"} <= {text.get_text() for text in axes.get_legend().get_texts()}
    low, high = axes.collections[0].get_segments()[0][:, 1]
    assert (low, high) == (37.5, 75.0)


def test_a_folder_is_compared_with_the_shipped_model_of_its_architecture(tmp_path):
    found = find_models(["latent", str(WEIGHTS / "denoiser-leave-one-out")])
    assert [given["architecture"] for given in found.values()] == ["latent", "transformer"]
    with pytest.raises(UserError, match="neither one of transformer, unet, latent nor the folder"):
        find_models([str(tmp_path)])


NO_NUMBERS = '{"actions": [{"model": "unet", "action": "%s", "seed": 0, "wall_clock_s": %s, "target": {%s}, "original": {}}]}'
DAMAGED = [NO_NUMBERS % given for given in (("bow", "9", ""), ("bow", "null", '"after": {}'), ("fly", "9", '"after": {}'),
                                            ("bow", "9", '"after": {"fid": "x"}'))]  # fmt: skip


@pytest.mark.parametrize("text", [*DAMAGED, '{"actions": [3]}', '{"actions": [{"model": "unet"}]}', '{"runs": []}', "[]", "{"])
def test_a_file_that_holds_something_else_is_named_and_not_written_over(text, tmp_path, ran):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match="mine.json"):
        learn_all_actions(tmp_path / "mine.json")
    assert (tmp_path / "mine.json").read_text() == text and not ran


def test_the_file_that_ships_is_not_run_again(ran, tmp_path):
    (tmp_path / "a.json").write_bytes((Path(__file__).parent.parent / "nbs" / "results" / "actions.json").read_bytes())
    assert len(learn_all_actions(tmp_path / "a.json")) == 18 and not ran, "six actions, three architectures"


def test_an_action_that_is_not_left_out_is_named(tmp_path):
    with pytest.raises(UserError, match="do not lack wave-left; they lack squat"):
        learn_all_actions(tmp_path / "a.json", actions=["wave-left"])
