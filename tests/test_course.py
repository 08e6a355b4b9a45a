"""The course as a whole: lessons that run in a minute, links that lead on, and a tree that can be tested after Jupyter."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
LONGEST = 60  # seconds of one core


@pytest.fixture(scope="module")
def ci():
    "The scripts of .ci, as modules."
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / ".ci"))
        import house
        import notebooks

        yield house, notebooks


def text(path: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


def test_every_lesson_was_measured_and_runs_in_a_minute():
    seconds = json.loads((NBS / "results" / "lessons.json").read_text(encoding="utf-8"))["seconds"]
    names = {path.relative_to(NBS).with_suffix("").as_posix() for path in NOTEBOOKS}
    assert set(seconds) == names, f"run `make times`: {sorted(set(seconds) ^ names)}"
    long = {name: value for name, value in seconds.items() if not 0 < value <= LONGEST}
    assert not long, f"more than {LONGEST} s of one core under Run All: {long}"


def test_only_a_tutorial_that_goes_past_them_and_the_index_have_slow_cells():
    for path in NOTEBOOKS:
        slow = re.search(r"^#\| *slow", text(path), re.M)
        assert not slow or path.stem == "index" or "course.skip_slow_cells(" in text(path), path.name


def test_the_short_route_has_eight_lessons_in_reading_order_each_with_an_exercise(ci):
    house, _ = ci
    route, order = list(house.ROUTE), [path.relative_to(NBS).with_suffix("").as_posix() for path in house.lessons()]
    assert len(route) == 8 and route == [name for name in order if name in route]
    for name in route:
        assert re.search(rf"\*\*Exercise {Path(name).name[:2]}-", text(NBS / f"{name}.ipynb")), name


def test_one_can_go_from_the_first_lesson_to_the_last_and_back(ci):
    house, _ = ci
    course = house.lessons()
    for before, after in zip(course, course[1:], strict=False):
        for start, end, arrow in ((before, after, r"\[[^\]]+ →\]"), (after, before, r"\[← [^\]]+\]")):
            line = text(start).splitlines()[-1]
            (link,) = re.findall(arrow + r"\(([^)]+)\)", line)
            assert (start.parent / link).resolve() == end
            assert "index.ipynb" in line


def test_a_term_of_the_glossary_leads_to_the_lesson_it_names():
    found = re.findall(r"\[Lesson (\d\d)\]\((\S+?)\)", text(NBS / "glossary.ipynb"))
    assert len(found) > 60
    for number, link in found:
        assert (NBS / link).exists() and Path(link).name.startswith(number), link


def test_links_into_the_glossary_lead_to_a_term():
    terms = set(re.findall(r'<a id="([^"]+)">', text(NBS / "glossary.ipynb")))
    for path in NOTEBOOKS:
        assert set(re.findall(r"glossary\.ipynb#([\w-]+)", text(path))) <= terms, path.name


def test_a_term_with_the_number_of_a_lesson_names_the_one_that_builds_it():
    "`[LoRA](...#lora) (lesson 16)`, `[...](...#geometric-check) of lesson 03`: lessons were renumbered before."
    entry = r'<a id="([^"]+)"></a>(?:(?!<a id).)*?\[Lesson (\d\d)\]'
    built, found = dict(re.findall(entry, text(NBS / "glossary.ipynb"), re.S)), 0
    for path in NOTEBOOKS:
        for term, number in re.findall(r"glossary\.ipynb#([\w-]+)\)(?: \(| of )lesson (\d\d)", text(path)):
            assert built[term] == number, f"{path.name} says lesson {number} of {term}"
            found += 1
    assert found > 15


def test_stored_outputs_hold_no_name_of_a_python_object():
    "A cell that ends in `axis.legend()` shows `<matplotlib.legend.Legend ...>` under its figure; a semicolon mends that."
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if set(output.get("data", {})) == {"text/plain"}:
                    assert not re.match(r"<[\w.]+[ >]", "".join(output["data"]["text/plain"])), f"{path.name} {cell['id']}"


def notebook(source: str, **ran) -> dict:
    "A notebook of one cell; `ran`: what Jupyter adds."
    cell = {"cell_type": "code", "execution_count": None, "id": "one", "metadata": {}, "outputs": [], "source": [source]}
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {"cells": [cell | ran], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def write(path: Path, book: dict) -> str:
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8")


RAN = {
    "execution_count": 3,
    "metadata": {"execution": {"iopub.execute_input": "today"}},
    "outputs": [{"name": "stdout", "output_type": "stream", "text": ["4\n"]}],
}


@pytest.fixture
def tree(tmp_path):
    "A checkout with one lesson, committed."
    (tmp_path / "nbs").mkdir()
    lesson = tmp_path / "nbs" / "lesson.ipynb"
    write(lesson, notebook("2 + 2"))

    def git(*words):
        who = ["-c", "user.name=a reader", "-c", "user.email=reader@example.org"]
        try:
            subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)
        except OSError:
            pytest.skip("git is not installed")

    git("init", "-q")
    git("add", "nbs")
    git("commit", "-qm", "a lesson")
    return tmp_path, lesson, git


def test_a_lesson_that_was_only_run_is_put_back_and_the_outputs_kept(tree, ci, capsys):
    root, lesson, _ = tree
    before = lesson.read_text()
    ran = write(lesson, notebook("2 + 2", **RAN))
    assert ci[1].main(root) == 0
    assert lesson.read_text() == before
    assert (root / "nbs" / ".ipynb_checkpoints" / "lesson-run.ipynb").read_text() == ran
    assert "nbs/lesson.ipynb was run, not edited" in capsys.readouterr().out
    assert ci[1].main(root) == 0 and not capsys.readouterr().out


def test_an_edited_lesson_keeps_the_edit_and_its_outputs(tree, ci):
    root, lesson, _ = tree
    write(lesson, notebook("2 + 3", **RAN))
    assert ci[1].main(root) == 0
    (cell,) = json.loads(lesson.read_text())["cells"]
    assert cell["source"] == ["2 + 3"] and cell["outputs"] == RAN["outputs"]
    assert cell["execution_count"] is None and cell["metadata"] == {}


def test_new_outputs_stay_once_they_were_added(tree, ci):
    root, lesson, git = tree
    added = write(lesson, notebook("2 + 2", outputs=RAN["outputs"]))
    git("add", "nbs")
    assert ci[1].main(root) == 0
    assert lesson.read_text() == added


def test_a_notebook_of_ones_own_among_the_lessons_is_named_first(tree, ci, capsys):
    root, lesson, _ = tree
    write(lesson.parent / "Untitled1.ipynb", notebook("1"))
    assert ci[1].main(root) == 1
    assert "nbs/Untitled1.ipynb is no lesson" in capsys.readouterr().err


def test_without_git_notebooks_are_cleaned(tmp_path, ci):
    (tmp_path / "nbs").mkdir()
    write(tmp_path / "nbs" / "lesson.ipynb", notebook("2 + 2", **RAN))
    assert ci[1].main(tmp_path) == 0
    (cell,) = json.loads((tmp_path / "nbs" / "lesson.ipynb").read_text())["cells"]
    assert cell["execution_count"] is None


def test_make_test_looks_at_the_notebooks_first():
    done = subprocess.run(["make", "-n", "test", "VENV=none"], cwd=ROOT, capture_output=True, text=True)
    commands = [line for line in done.stdout.splitlines() if line.startswith(("none/bin/python .ci", "none/bin/ruff", "OMP"))]
    assert commands[0] == "none/bin/python .ci/notebooks.py", done.stderr
