"""The field's terms: the private words that they took the place of are gone from names, docstrings, headings and prose."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mocapfree_nb"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py")
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)

# word: what to say
GONE = {
    r"beliefs?": "predicted x0",
    r"recalls?_(?:x0|state)|looks? back": "multistep sampler, previous prediction",
    r"fork(?:s|ed|ing)?": "branching rollout",
    r"tries|siblings?": "candidates, group",
    r"credit(?:s|ed)?": "per-step advantage",
    r"anchors?|anchored": "retained prompts",
    r"replay(?:s|ed)?": "self-distillation",
    r"practi[cs]e[sd]?": "iteration, training prompts",
    r"exams?|examin(?:e|es|ed|er)": "evaluation prompts, evaluate",
    r"judges?|judged": "checkpoint selection, evaluator, geometric check, reward model (or person)",
    r"spoil(?:s|ed|ing)?|spoilt": "corrupt",
    r"mix_arms|blends?": "body-part augmentation, interpolation",
    r"from both sides": "mirror-consistent reward",
}
# of names only: in prose people walk, a lift stops and a hand moves
GONE_FROM_NAMES = {r"walks?": "trajectory, sampling", r"stops": "timesteps", r"moves": "denoising steps, actions"}
# where a word means something else: (file, a piece of the line)
ALLOWED = {
    "walk": ("synthetic/", "verify.py"),  # the action
    "stops": ("plotting.py",),  # of a slider
    "moves": (),
    "blend": ("synthetic/", "Blend one arm", "skin", "Blend shapes"),  # interpolation of poses and of vertices
    "fork": ("multiprocessing", "threads and forks", "_at_fork"),
    "spoil": (),
    "replay": (),
    "judge": ("study",),  # people
    "anchor": ("text-anchor", "bbox to anchor"),  # of a text in a drawing
}
ROUND = re.compile(r"\brounds? of (?:training|practice|learning)\b|\btraining rounds?\b", re.I)
PATTERN, NAMES = (
    re.compile(r"(?<![A-Za-z])(?:" + "|".join(words) + r")(?![A-Za-z])", re.I) for words in (GONE, GONE_FROM_NAMES)
)


def allowed(word: str, place: str, line: str) -> bool:
    pieces = [piece for stem, pieces in ALLOWED.items() if word.lower().startswith(stem) for piece in pieces]
    return any(piece in place or piece in line for piece in pieces)


def found_in(place: str, lines: list[tuple[int, str]], *more: re.Pattern) -> list[str]:
    hits = []
    for number, line in lines:
        for match in [match for pattern in (PATTERN, ROUND, *more) for match in pattern.finditer(line)]:
            if not allowed(match.group(), place, line):
                hits.append(f"{place}:{number}: {match.group()!r} in {line.strip()[:80]!r}")
    return hits


def names(tree: ast.Module) -> list[tuple[int, str]]:
    "Names that a module defines, arguments among them, in words."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.lineno, node.name))
        if isinstance(node, ast.arg):
            found.append((node.lineno, node.arg))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.id))
    return [(number, name.replace("_", " ")) for number, name in found]


def docstrings(tree: ast.Module) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
            start = node.body[0].lineno
            found += [(start + i, line) for i, line in enumerate(text.splitlines())]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_names_and_docstrings_use_the_terms_of_the_field(path):
    tree, place = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(PACKAGE).as_posix()
    wrong = found_in(place, names(tree), NAMES) + found_in(place, docstrings(tree))
    assert not wrong, "\n".join(wrong)


def said_in(text: str) -> list[tuple[int, str]]:
    "Strings (help of the command line, reports, messages) and comments of a module, and the names that it imports things by."
    tree, found = ast.parse(text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [(node.lineno, line) for line in node.value.splitlines()]
        if isinstance(node, ast.alias):
            found.append((0, (node.asname or "").replace("_", " ")))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return found + [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_help_reports_messages_and_comments_use_the_terms_of_the_field(path):
    wrong = found_in(path.relative_to(PACKAGE).as_posix(), said_in(path.read_text(encoding="utf-8")))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_of_lessons_uses_the_terms_of_the_field(path):
    lines = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            lines += [(number, line.replace("_", " ")) for line in "".join(cell["source"]).splitlines()]
    wrong = found_in(path.relative_to(ROOT / "nbs").as_posix(), lines)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile"])
def test_pages_beside_the_lessons_use_the_terms_of_the_field(name):
    wrong = found_in(name, list(enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_headings_and_prose_use_the_terms_of_the_field(path):
    lines = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines += [(number, line) for line in text.splitlines()]
    wrong = found_in(path.relative_to(ROOT / "nbs").as_posix(), lines)
    assert not wrong, "\n".join(wrong)


def test_the_finder_finds():
    assert found_in("x", [(1, "the belief of the network")]) and found_in("x", [(1, "anchor captions")])
    assert found_in("x", [(1, "a hundred rounds of practice")])
    assert not found_in("x", [(1, "people walk; a round table; acknowledge credibly")])
    assert not found_in("study.py", [(1, "people as judges")])
    assert found_in("x", [(1, "walks")], NAMES) and not found_in("synthetic/gaits.py", [(1, "walk")], NAMES)
