"""Exercises: the folded answers pass, usual mistakes are told by name, and what is solved is kept."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from mocapfree_nb import cli, course, exercises
from mocapfree_nb.exercises import EXERCISES, find_fault

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "nbs").glob("[0-9]_*/*.ipynb"))
TEXT = re.compile(
    r"\*\*Exercise (\d\d-[\w-]+)\*\* \((\w+), (\d+) minutes\)\..*?<details>.*?```python\n(.*?)```\n</details>", re.S
)


def told() -> dict[str, tuple]:
    "Of each exercise: the lesson it stands in, difficulty, minutes, the folded answer, and the cell below."
    found = {}
    for path in LESSONS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell, below in zip(cells, cells[1:], strict=False):
            if match := TEXT.match("".join(cell["source"])):
                name, difficulty, minutes, answer = match.groups()
                found[name] = path, difficulty, int(minutes), answer, "".join(below["source"])
    return found


TOLD = told()


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path))


def test_every_exercise_stands_in_its_lesson():
    assert sorted(TOLD) == sorted(EXERCISES)
    for name, (path, difficulty, minutes, _, _) in TOLD.items():
        exercise = EXERCISES[name]
        assert path.name[:2] == name[:2] and (difficulty, minutes) == (exercise.difficulty, exercise.minutes), name
        assert difficulty in ("easy", "medium", "hard")


@pytest.mark.parametrize("name", TOLD)
def test_the_folded_answer_is_right_and_the_cell_below_says_so(name, capsys):
    "The answer is put in the place of the stub, as a reader does."
    _, _, _, answer, cell = TOLD[name]
    assert f"{name}: not yet: it returns nothing yet" in run(cell, capsys)
    check = cell.rstrip().splitlines()[-1]
    assert f"{name}: right: 1 of {len(EXERCISES)}" in run(f"{answer}\n{check}", capsys)
    assert list(exercises.solved()) == [name]


def run(source: str, capsys) -> str:
    exec(source, {"exercises": exercises})
    return capsys.readouterr().out


def densities(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def cosine(text, motion):
    return F.normalize(text, dim=-1) @ F.normalize(motion, dim=-1).T


def wrists(motion, dim=-1):
    return motion[:, :, [62, 65]].amin(dim) - motion[:, :, 47]


WRONG = [
    ("01-path", lambda f: f[:, 1:3].sum(0).norm(), "there and back would be no way"),
    ("01-path", lambda f: f[:, 1:3].abs().sum(), "around the corner"),
    ("01-path", lambda f: f[:, 1:3].norm(dim=1).mean() * 20, "right"),
    ("01-path", lambda f: f[:, 1:4].norm(dim=1).sum(), "height of the root"),
    ("01-path", lambda f: f[:, 1:3].norm(dim=1), "shape (41,), not ()"),
    ("05-leave-out", lambda clips, a: [c for c in clips if c.actions != (a,)], "it shows how to wave, too"),
    ("05-leave-out", lambda clips, a: [c for c in clips if not any(a in label for label in c.actions)], "another label"),
    ("05-leave-out", lambda clips, a: [c for c in clips if c.actions and a not in c.actions], "it keeps ['walk', 'shy']"),
    ("08-noise", lambda x, n, a: a[:, None, None] * x + (1 - a[:, None, None]) * n, "both factors lack their root"),
    ("08-noise", lambda x, n, a: a.sqrt() * x + (1 - a).sqrt() * n, "two more dimensions"),
    ("08-noise", lambda x, n, a: a[:, None, None].sqrt() * n + (1 - a[:, None, None]).sqrt() * x, "exchanged"),
    ("08-halfway", lambda a: int((a.sqrt() < 0.5).nonzero()[0]), "compares amplitudes"),
    ("08-halfway", lambda a: len(a) // 2, "the middle of the timesteps"),
    ("10-guidance", lambda c, u, s: c + s * (c - u), "scale 1 guides already"),
    ("10-guidance", lambda c, u, s: c + s * (u - c), "exchanged"),
    ("12-log-prob", lambda x, m, s, n: densities(x, m, s).sum((1, 2)) / (3 * n), "where"),
    ("12-log-prob", lambda x, m, s, n: densities(x, m, s).mean((1, 2)), "padded frames take part"),
    ("13-info-nce", lambda t, m, tau: F.cross_entropy(cosine(t, m) / tau, torch.arange(len(t))), "only sentences look"),
    ("13-info-nce", lambda t, m, tau: exercises._both_ways(t @ m.T / tau), "not normalised"),
    ("17-clip", lambda n, o, a, c: (-a * (n - o).exp()).mean(), "nothing is clipped"),
    ("17-clip", lambda n, o, a, c: (-a * (n - o).exp().clamp(1 - c, 1 + c)).mean(), "gets no gradient"),
    ("17-reward", lambda m, n, p: m[:, :, [62, 65]].mean((1, 2)), "where"),
    ("17-reward", lambda m, n, p: wrists(m).mean(1), "past `lengths`"),
    ("17-reward", lambda m, n, p: m[:, :, 99].undefined, "it raises AttributeError"),
    ("23-interval", lambda p: p.float().std() / len(p.flatten()) ** 0.5 * torch.tensor([-1.96, 1.96]) + p.float().mean(),
     "draw whole captions"),
    ("23-interval", lambda p: (0.5, 0.7), "draw whole captions"),
    ("23-interval", lambda p: (0.0, 1.0), "spread of single motions"),
    ("23-interval", lambda p: (0.8, 0.4), "low is above high"),
]  # fmt: skip


@pytest.mark.parametrize("name, answer, words", WRONG, ids=[f"{name}-{words}" for name, _, words in WRONG])
def test_a_usual_mistake_is_told_in_one_line(name, answer, words, capsys):
    fault = find_fault(name, answer)
    assert words in fault and "\n" not in fault
    assert exercises.solved() == {}


def test_an_average_of_one_motion_does_not_hide_padding():
    "One mistake a line: the sum over valid frames, divided by all."
    padded = lambda x, m, s, n: (densities(x, m, s) * (torch.arange(6) < n[:, None])[..., None]).mean((1, 2))  # noqa: E731
    assert "counted in the mean" in find_fault("12-log-prob", padded)


def test_a_second_right_answer_counts_once_and_a_damaged_file_is_said(capsys):
    right = lambda c, u, s: u + s * (c - u)  # noqa: E731
    exercises.check_guided(right)
    exercises.check_guided(right)
    assert capsys.readouterr().out.count(f"right: 1 of {len(EXERCISES)}") == 2
    listed = CliRunner().invoke(cli.app, ["progress"]).output
    assert "[x] 10-guidance" in listed and "[ ] 01-path" in listed and f"1 of {len(EXERCISES)} solved" in listed
    exercises.progress_file().write_text("{")
    exercises.check_guided(right)
    assert "right, but not kept" in capsys.readouterr().out
    assert exercises.progress_file().read_text() == "{", "the reader's file is left as it is"


def test_slow_cells_are_passed_over_unless_all_is_to_run(monkeypatch):
    slow, quick = ["#| slow\n", "train()\n"], ["train()\n"]
    assert course.without_slow(quick, "hours") == quick
    (line,) = course.without_slow(slow, "an hour's \"work\"")
    said = []
    exec(line, {"print": said.append})
    assert said == ["not run: an hour's \"work\"; course.FULL = True runs it"]
    monkeypatch.setattr(course, "FULL", True)
    assert course.without_slow(slow, "hours") == slow


def test_a_shell_learns_once_to_pass_over_slow_cells(monkeypatch):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.delenv("IN_TEST", raising=False)
    before = len(shell.input_transformers_cleanup)
    course.skip_slow_cells("a minute")
    course.skip_slow_cells("two hours")
    assert len(shell.input_transformers_cleanup) == before + 1
    assert "two hours" in shell.transform_cell("#| slow\ntrain()") and shell.transform_cell("train()") == "train()\n"
