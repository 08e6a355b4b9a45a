"""Write what follows from the lessons themselves: badges, the way from lesson to lesson, links to the glossary, the table
of the index, the sidebar of the documentation, README.md.

python .ci/house.py          write them
python .ci/house.py --check  exit with 1 and say what would change

The address of the repository stands in pyproject.toml alone; everything here is made from it.
"""

import json
import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
CHAPTERS = {
    "1_motion": "1 Motion: a body, its features, and how to look at it",
    "2_data": "2 Data: clips with captions",
    "3_diffusion": "3 Diffusion: from noise to motion, step by step",
    "4_reward": "4 Reward: does a motion fit its sentence?",
    "5_rl": "5 Reinforcement learning: following the reward",
    "6_judging": "6 Judging: what was gained, what it cost",
    "7_models": "7 Other architectures",
    "8_published": "8 With the data, weights and measures of the field",
    "9_output": "9 Out of the notebook",
    "tutorials": "Tutorials",
}
# What a chapter is good for, and what of it can be left out at first.
WORTH = {
    "1_motion": "After it you read, draw and check any motion. At first leave out 02 to 04.",
    "2_data": "After it you open, divide and make corpora. At first leave out 06 and 07.",
    "3_diffusion": "After it you sample, train and score a diffusion model. At first leave out 09 and 11.",
    "4_reward": "After it you turn any sentence into a reward, and know how it is fooled.",
    "5_rl": "After it you adapt a model to an action by reward alone. 17 is the core; `mocapfree demo` does 18 to 20, then 17.",
    "6_judging": "After it you say what was gained and how sure that is. Leave out 24 unless people are asked.",
    "7_models": "After it you put another network in the place of the transformer. Not needed for anything else.",
    "8_published": "After it you run on HumanML3D and KIT-ML, with other people's weights. Not needed without that data.",
    "9_output": "After it motions leave for animation programs, videos and pages. Each stands alone.",
    "tutorials": "Each stands alone; begin here with a piece of your own.",
}
# The short route, and what one can do after each of its lessons.
ROUTE = {
    "1_motion/01_features": "read the 263 numbers of a frame, and turn them into joints and back",
    "2_data/05_corpus": "leave an action out of a corpus without leaking it",
    "3_diffusion/08_schedule": "add noise to a motion, and say how much is left of it",
    "3_diffusion/10_denoiser": "guide a denoiser with a sentence",
    "3_diffusion/12_rollouts": "sample a motion as a trajectory, and score each step of it",
    "4_reward/13_retrieval": "score how well a motion fits a sentence",
    "5_rl/17_ddpo": "change what a model does by a reward of your own, see it fooled, and mend that",
    "6_judging/23_experiment": "say what an adaptation gained, what it cost, and how sure that is",
}
WORDS_A_MINUTE = 200
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def lessons() -> list[Path]:
    """All notebooks of the course in reading order, tutorials last."""
    order = list(CHAPTERS)
    found = [path for chapter in order for path in sorted((NBS / chapter).glob("*.ipynb"))]
    return [path for path in found if ".ipynb_checkpoints" not in path.parts]


def repository() -> str:
    """Where the project lives, as pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def read(path: Path) -> dict:
    """A notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def title(path: Path) -> tuple[str, str]:
    """Title and one-line description of a notebook, from its first cell."""
    head = re.match(r"# (.+)\n> (.+)", source(read(path)["cells"][0]))
    if head is None:
        raise SystemExit(f"{path}: the first cell is `# Title` and a line `> what it is`")
    return head.group(1), head.group(2).rstrip(".")


def module(path: Path) -> str:
    """The module that a lesson exports, or an empty string."""
    found = re.search(r"^#\| default_exp (\S+)", "\n".join(source(cell) for cell in read(path)["cells"]), re.M)
    return found.group(1) if found else ""


def label(path: Path) -> str:
    """What a link to a notebook reads: its number and title, up to a colon."""
    number = path.name[:2] + " " if path.name[:2].isdigit() else ""
    return number + title(path)[0].split(":")[0]


def with_badge(path: Path, text: str) -> str:
    """The first cell of a notebook with the badge that opens it in Colab."""
    place = path.relative_to(ROOT).as_posix()
    address = f"{repository().replace('https://github.com', 'https://colab.research.google.com/github')}/blob/main/{place}"
    return re.sub(r"\n\n\[!\[Open in Colab\].*", "", text).rstrip() + f"\n\n[![Open in Colab]({BADGE})]({address})"


def way(path: Path, course: list[Path]) -> str:
    """The line that leads from a notebook to its neighbours and to the map of the course."""
    at = course.index(path)

    def link(text: str, other: Path) -> str:
        return f"[{text}]({os.path.relpath(other, path.parent).replace(os.sep, '/')})"

    parts = [link(f"← {label(course[at - 1])}", course[at - 1])] if at else []
    parts.append(link("map of the course", NBS / "index.ipynb"))
    parts += [link(f"{label(course[at + 1])} →", course[at + 1])] if at + 1 < len(course) else []
    return " · ".join(parts)


def glossary() -> list[tuple[str, re.Pattern, str]]:
    """Anchor of each term, what finds it in a text, and the notebook that builds it."""
    text = source(next(cell for cell in read(NBS / "glossary.ipynb")["cells"] if cell["id"] == "terms"))
    entry = r'<a id="([^"]+)"></a>\*\*(.+?)\*\*(?:<!-- also: (.+?) -->)?.*?\[Lesson \d\d\]\((\S+?)\)'
    found = []
    for anchor, term, also, lesson in re.findall(entry, text):
        words = sorted(filter(None, [term, also]), key=len, reverse=True)
        pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, words))})(?![\w-])", re.I)
        found.append((anchor, pattern, lesson))
    return sorted(found, key=lambda item: -len(item[1].pattern))  # "per-step advantage" before "advantage"


PROTECTED = re.compile(
    r"(```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|!?\[[^\]]*\]\([^)]*\)|<[^>]+>|^#.*?$|^\|.*?$|\*\*.*?\*\*)", re.S | re.M
)


def link_terms(path: Path, cells: list[dict]) -> None:
    """Link the first use of each term in a notebook to the glossary, except in the lesson that builds it."""
    place = os.path.relpath(NBS / "glossary.ipynb", path.parent).replace(os.sep, "/")
    own = path.relative_to(NBS).as_posix()
    waiting = [(anchor, pattern) for anchor, pattern, lesson in glossary() if lesson != own]
    for cell in cells[1:]:
        if cell["cell_type"] != "markdown" or cell["id"] == "way":
            continue
        text = re.sub(r"\[([^\]]+)\]\([^)]*glossary\.ipynb#[^)]*\)", r"\1", source(cell))
        for anchor, pattern in list(waiting):
            parts = PROTECTED.split(text)
            for i in range(0, len(parts), 2):  # odd parts are code, formulas, links, headings, tables
                parts[i], count = pattern.subn(lambda m, anchor=anchor: f"[{m.group()}]({place}#{anchor})", parts[i], count=1)
                if count:
                    waiting.remove((anchor, pattern))
                    text = "".join(parts)
                    break
        cell["source"] = text.splitlines(keepends=True)


def words(path: Path) -> int:
    """Words of the prose; folded answers, addresses of links and code not counted."""
    prose = " ".join(source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "markdown" and cell["id"] != "way")
    return len(re.sub(r"<details>.*?</details>|\]\([^)]*\)", " ", prose, flags=re.S).split())


def code_lines(path: Path) -> int:
    """Lines of code, blank ones and cells that begin with `#| hide` not counted."""
    cells = [source(cell) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return sum(bool(line.strip()) for text in cells if not text.startswith("#| hide") for line in text.splitlines())


def reading(path: Path) -> int:
    """Minutes that the prose takes at 200 words a minute, in steps of five."""
    return max(5, 5 * round(words(path) / WORDS_A_MINUTE / 5))


def seconds(path: Path) -> int | None:
    """Processor seconds that its cells take, as .ci/times.py measured; None for a lesson that it has not seen."""
    kept = NBS / "results" / "lessons.json"
    taken = json.loads(kept.read_text(encoding="utf-8"))["seconds"] if kept.exists() else {}
    return taken.get(path.relative_to(NBS).with_suffix("").as_posix())


def shown_seconds(path: Path) -> str:
    """The same for a table."""
    return "" if seconds(path) is None else f"{seconds(path)} s"


def short_route(course: list[Path]) -> str:
    """The table of the short route, for the index, and how much the whole course is beside it."""
    lines = ["| lesson | after it you can | words | lines of code | reading | all cells |", "|---|---|---|---|---|---|"]
    for name, good_for in ROUTE.items():
        path = NBS / f"{name}.ipynb"
        size = f"{round(words(path), -2):,} | {round(code_lines(path), -1):,} | {reading(path)} min | {shown_seconds(path)}"
        lines.append(f"| [{label(path)}]({name}.ipynb) | {good_for} | {size} |")
    paths = [NBS / f"{name}.ipynb" for name in ROUTE]
    run = sum(seconds(path) or 0 for path in paths)
    (prose, code), (all_prose, all_code) = (
        [round(sum(map(count, some)), -2) for count in (words, code_lines)] for some in (paths, course)
    )
    size = f"{prose:,} | {code:,} | {sum(map(reading, paths))} min | {run} s"
    whole = f"All {len(course)} notebooks have {all_prose:,} words and {all_code:,} lines of code, to the nearest hundred."
    return "\n".join([*lines, f"| together | | {size} |", "", whole])


def table(course: list[Path]) -> str:
    """The lessons by chapter, for the index."""
    parts = []
    for chapter, name in CHAPTERS.items():
        rows = [path for path in course if path.parent.name == chapter]
        if not rows:
            continue
        lines = [f"**{name}**", "", WORTH[chapter], ""]
        lines += ["| lesson | module | what it is about | reading | all cells |", "|---|---|---|---|---|"]
        for path in rows:
            exports = f"`{module(path)}`" if module(path) else ""
            link, times = path.relative_to(NBS).as_posix(), f"{reading(path)} min | {shown_seconds(path)}"
            lines.append(f"| [{label(path)}]({link}) | {exports} | {title(path)[1]} | {times} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def sidebar(course: list[Path]) -> str:
    """The sidebar of the documentation, as Quarto reads it."""
    lines = ["website:", "  sidebar:", "    contents:", "      - index.ipynb", "      - glossary.ipynb"]
    for chapter, name in CHAPTERS.items():
        rows = [path for path in course if path.parent.name == chapter]
        if rows:
            lines += [f"      - section: {json.dumps(name)}", "        contents:"]
            lines += [f"          - {path.relative_to(NBS).as_posix()}" for path in rows]
    return "\n".join(lines) + "\n"


def readme(index: dict) -> str:
    """README.md: markdown cells as they are, code cells that are not hidden as blocks, links seen from the top folder."""
    parts = []
    for cell in index["cells"]:
        text = source(cell).strip()
        if cell["cell_type"] == "code":
            if re.search(r"^#\|\s*hide", text, re.M):
                continue
            text = re.sub(r"^#\|.*\n", "", text, flags=re.M)
            text = f"```python\n{text}\n```"
        parts.append(text)
    text = "\n\n".join(filter(None, parts)) + "\n"
    return re.sub(r"\]\((?![a-z]+:|#|\.\./)", "](nbs/", text).replace("](../", "](")


def everything() -> dict[Path, str]:
    """Each file that follows from the lessons, and what it should hold."""
    course, made = lessons(), {}
    for path in course:
        notebook = read(path)
        cells = notebook["cells"]
        cells[0]["source"] = with_badge(path, source(cells[0])).splitlines(keepends=True)
        cells = [cell for cell in cells if cell["id"] != "way"]
        link_terms(path, cells)
        line = {"cell_type": "markdown", "id": "way", "metadata": {}, "source": [way(path, course)]}
        notebook["cells"] = [*cells, line]
        made[path] = text_of(notebook)
    index = read(NBS / "index.ipynb")
    index["cells"][0]["source"] = with_badge(NBS / "index.ipynb", source(index["cells"][0])).splitlines(keepends=True)
    for cell in index["cells"]:
        if cell["id"] == "lessons":
            cell["source"] = f"## The lessons\n\n{table(course)}".splitlines(keepends=True)
        if cell["id"] == "route":
            cell["source"] = short_route(course).splitlines(keepends=True)
    made[NBS / "index.ipynb"] = text_of(index)
    terms = read(NBS / "glossary.ipynb")
    terms["cells"][0]["source"] = with_badge(NBS / "glossary.ipynb", source(terms["cells"][0])).splitlines(keepends=True)
    made[NBS / "glossary.ipynb"] = text_of(terms)
    made[NBS / "sidebar.yml"] = sidebar(course)
    made[ROOT / "README.md"] = readme(index)
    return made


def text_of(notebook: dict) -> str:
    """A notebook as nbdev writes it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    wrong = [path for path, text in everything().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in wrong:
            print(f"{path.relative_to(ROOT)} is not what the lessons say: run `make readme`")
        sys.exit(bool(wrong))
    for path, text in everything().items():
        path.write_text(text, encoding="utf-8")
