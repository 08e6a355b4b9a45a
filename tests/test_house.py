"""The plan of the house: reading order is import order, small modules, no circles."""

import ast
import json
import re
import statistics
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mocapfree_nb"
LESSONS = sorted((ROOT / "nbs").glob("[0-9]_*/[0-9][0-9]_*.ipynb"), key=lambda path: path.name)
MOST_LINES = 400


def dotted(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "_modidx.py"}


def exported(path: Path) -> str:
    "The module that a lesson exports."
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    found = [m.group(1) for source in sources for m in re.finditer(r"^#\| default_exp ([\w.]+)", source, re.M)]
    assert len(found) == 1, f"{path.name} should export one module, not {found}"
    return f"mocapfree_nb.{found[0]}"


def imports(module: str) -> set[str]:
    "Modules of the package that `module` imports when it is imported (not those that a function imports when called)."
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()

    def visit(nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                    base = ".".join(stem + ([base] if base else []))
                found.add(base)
                found.update(f"{base}.{alias.name}" for alias in node.names)
            elif isinstance(node, (ast.If, ast.Try, ast.With)):
                if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                    continue
                visit(node.body)

    visit(tree.body)
    return {name for name in found if name in MODULES and name not in ("mocapfree_nb", module)}


def test_no_module_imports_itself_through_others():
    graph = {module: imports(module) for module in MODULES}
    done, path = set(), []

    def visit(module):
        if module in path:
            raise AssertionError("a circle: " + " > ".join(path[path.index(module) :] + [module]))
        if module in done:
            return
        path.append(module)
        for other in sorted(graph[module]):
            visit(other)
        path.pop()
        done.add(module)

    for module in graph:
        visit(module)


def test_reading_order_is_import_order():
    "A lesson imports nothing that a later lesson exports, itself or through a module without a lesson."
    number = {exported(path): int(path.name[:2]) for path in LESSONS}

    @cache
    def latest(module: str) -> tuple[int, str]:
        if module in number:
            return number[module], module
        return max((latest(other) for other in imports(module)), default=(-1, module))

    wrong = []
    for module, own in number.items():
        for other in sorted(imports(module)):
            rank, name = latest(other)
            if rank >= own:
                wrong.append(f"lesson {own:02d} ({module}) imports {other}, which needs lesson {rank:02d} ({name})")
    assert not wrong, "\n".join(wrong)


def test_every_lesson_has_its_own_number_and_module():
    numbers = [int(path.name[:2]) for path in LESSONS]
    assert numbers == sorted(set(numbers))
    modules = [exported(path) for path in LESSONS]
    assert len(set(modules)) == len(modules) and set(modules) <= set(MODULES)


def test_a_module_can_be_read_in_one_sitting():
    long = {dotted(p): n for p in MODULES.values() if (n := len(p.read_text(encoding="utf-8").splitlines())) > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {long}"


def exported_cells() -> list[tuple[int, str]]:
    "Lines of each exported cell, and the first name that it defines."
    found = []
    for path in LESSONS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.match(r"#\|\s*export", source):
                defined = re.search(r"^(?:def|class) (\w+)", source, re.M)
                found.append((len(source.splitlines()), defined[1] if defined else path.stem))
    return sorted(found, reverse=True)


def test_exported_cells_are_short_and_the_longest_say_why_they_are_not():
    cells, said = exported_cells(), (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert statistics.median(lines for lines, _ in cells) < 15
    unsaid = [(lines, name) for lines, name in cells[:10] if f"| `{name}` |" not in said]
    assert not unsaid, f"among the ten longest cells, without a reason in CONTRIBUTING.md: {unsaid}"
