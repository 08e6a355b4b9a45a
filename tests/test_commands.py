"""Every command that README, lessons and cards of weights name can be typed; those that are quick are run, word by word."""

import functools
import json
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from mocapfree_nb import by_action, cli, experiment, files, off_policy, selection, tasks
from mocapfree_nb.bench import write_folder
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.exploration import ExploreConfig
from mocapfree_nb.off_policy import LearnConfig

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [
    ROOT / "README.md", *sorted((ROOT / "nbs").rglob("*.ipynb")), *sorted((ROOT / "mocapfree_nb" / "weights").rglob("*.md")),
    *sorted((ROOT / "mocapfree_nb" / "cli").glob("*.py")),
]  # fmt: skip
GROUP = typer.main.get_command(cli.app)


def markdown(path: Path) -> str:
    "What a reader reads: of a notebook its prose, of the command line its help."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        return "\n\n".join("".join(cell["source"]) for cell in cells)
    return text


def commands(text: str) -> list[str]:
    "Commands in blocks of code, in inline code, and after a colon or blanks in help texts; lines that go on are joined."
    text = re.sub(r"\\\n\s*", " ", text)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line.strip() for block in fenced for line in block.splitlines()]
    lines += re.findall(r"`(mocapfree [^`]+)`", text)
    lines += re.findall(r"^ {4}(?:[^`\n]* {2,})?(mocapfree [^`\n]+)$", text, re.M)
    found = [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in lines]
    return [line for line in dict.fromkeys(found) if line.startswith("mocapfree ")]


def typed(line: str) -> list[str]:
    "A command as a shell would pass it on; '...' stands for more of the same, N for a number."
    return ["10" if word == "N" else word for word in shlex.split(line)[1:] if word != "..."]


def parse(words: list[str]) -> None:
    "Raise what typer raises for words that it does not understand."
    if words[0] == "--import":  # an option of the whole program: what it names is not there to be imported
        words = words[2:]
    context = GROUP.make_context("mocapfree", list(words), resilient_parsing=words == ["--help"])
    if words != ["--help"]:
        name, command, rest = GROUP.resolve_command(context, words)
        command.make_context(name, rest, parent=context, resilient_parsing=not rest)


NAMED = [(path, line) for path in TEXTS for line in commands(markdown(path))]


def test_the_commands_are_found():
    lines = {line for _, line in NAMED}
    assert len(lines) > 40 and 'mocapfree generate "a person walks forward while waving the left hand" --out wave.html' in lines
    assert "mocapfree adapt --leave-out kick-left --model runs/base --name kick" in lines
    assert "mocapfree recipe humanml3d-to-kit --humanml3d H --kit K --model M --retrieval R --evaluator E --dry-run" in lines
    with pytest.raises(Exception, match="--solver"):
        parse(["demo", "--solver", "ddpm"])
    with pytest.raises(Exception, match="dmeo"):
        parse(["dmeo"])


@pytest.mark.parametrize("path, line", NAMED, ids=[f"{path.stem}-{line[10:60]}" for path, line in NAMED])
def test_a_command_that_is_named_can_be_typed(path, line):
    parse(typed(line))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem if path.suffix != ".md" else path.parent.name)
def test_an_option_named_alone_belongs_to_the_command_before_it(path):
    for paragraph in markdown(path).split("\n\n") if path.suffix != ".py" else ():
        command = None
        for code in re.findall(r"`([^`\n]+)`", paragraph):
            words = code.split()
            if words[0] == "mocapfree" and len(words) > 1:
                command = GROUP.commands.get(words[1])
            elif words[0].startswith("--") and command:
                known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
                assert words[0] in known, f"{command.name} has no {words[0]}: {paragraph[:200]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem if path.suffix != ".md" else path.parent.name)
def test_a_make_target_that_is_named_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target, arguments in re.findall(r"(?:`|^)make ([a-z-]+)(?: ARGS=\"([^\"]*)\")?(?=`|\s+#)", markdown(path), re.M):
        assert target in targets, f"make {target}"
        parse(["demo", *arguments.split()] if arguments else ["demo"])


@dataclass(frozen=True)
class QuickConfig(LearnConfig):
    "One short iteration, whatever is typed."

    def __post_init__(self):
        super().__post_init__()
        for name, value in {"rounds": 1, "steps": 1, "batch_size": 2, "retained_batch": 2, "ddpo_iterations": 1}.items():
            object.__setattr__(self, name, value)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    "In an empty folder, a small corpus, few prompts and one short iteration: all else is as it is typed."
    monkeypatch.chdir(tmp_path)
    corpus, plain = load_corpus("procedural", num_clips=500), tasks.make_task
    monkeypatch.setattr("mocapfree_nb.experiment.load_corpus", lambda *_, **__: corpus)
    monkeypatch.setattr("mocapfree_nb.corpus.load_corpus", lambda source="procedural", **options: (
        corpus if source == "procedural" else load_corpus(source, **options)
    ))
    few = {"evaluation_prompts": 4, "retained": 8}
    monkeypatch.setattr(experiment, "make_task", lambda *rest: plain(*rest[:5], **few))
    monkeypatch.setattr(experiment, "fit_scorer", functools.partial(selection.fit_scorer, most=100))
    monkeypatch.setattr(experiment, "HeldOutSelector", functools.partial(selection.HeldOutSelector, count=8, others=8))
    monkeypatch.setattr("mocapfree_nb.learning.ALGORITHMS", {"exploration": QuickConfig})
    monkeypatch.setattr(off_policy, "ExploreConfig", lambda: ExploreConfig(prompts=2, pool=3, near=3, proposals=8))
    (tmp_path / "path" / "to" / "HumanML3D").mkdir(parents=True)
    write_folder(tmp_path / "path" / "to" / "HumanML3D", 24)


def run(words, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["mocapfree", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def block_with(path: Path, words: str) -> list[str]:
    "The commands of the block of code that holds these words."
    (block,) = [block for block in re.findall(r"^```.*?^```", markdown(path), re.M | re.S) if words in block]
    return commands(block)


def test_the_commands_of_the_readme_run_in_their_order(quick, monkeypatch, capsys, tmp_path):
    lines = block_with(ROOT / "README.md", "mocapfree generate")
    assert len(lines) >= 6
    for line in lines:
        assert run(shlex.split(line)[1:], monkeypatch) == 0, (line, capsys.readouterr())
    named = [shlex.split(line)[1:] for line in commands(markdown(ROOT / "README.md")) if line not in lines]
    named = {words[0]: words for words in named if len(words) > 1 or words[0] in ("progress", "reward-card")}  # not "adapt" alone
    assert sorted(named) == ["compare", "demo", "evaluate", "generate", "playground", "progress", "reward-card"]
    monkeypatch.setattr(by_action, "FRESH", {"num_clips": 40, "seed": 1})  # of 1,050: a minute
    del named["demo"]  # half a minute even with few prompts; `adapt` above does the same work
    for place in named["compare"][1:]:
        shutil.copytree("runs/salute", place)
    for words in named.values():
        assert run(words, monkeypatch) == 0, (words, capsys.readouterr())
    for name in ("wave.html", "runs/salute/report.html", "runs/salute/motions.html", "salute.bvh"):
        assert (tmp_path / name).stat().st_size > 1000
    report = json.loads((tmp_path / "runs/salute/report.json").read_text())
    assert report["config"]["model"] == str(files.WEIGHTS / "denoiser")  # the one that generate uses
    assert report["held_out"] is False and "full_data" not in report["target"]
    page = (tmp_path / "runs/salute/report.html").read_text()
    assert not any(words in page for words in ("had not practised", "Held-out prompts", "saw the action"))


def test_the_commands_of_the_lessons_on_files_and_bodies_run_in_their_order(quick, monkeypatch, capsys, tmp_path):
    stems = ("36_video", "37_body")
    lines = [line for stem in stems for line in block_with(ROOT / "nbs" / "9_output" / f"{stem}.ipynb", "wave.npy")]
    lines = [line for line in lines if "runs/" not in line and "models/" not in line]  # those need a run, or SMPL
    assert len(lines) >= 5
    for line in lines:
        assert run(shlex.split(line)[1:], monkeypatch) == 0, (line, capsys.readouterr())
    assert {"wave.npy", "wave.html", "wave.bvh", "wave.glb", "wave.obj"} <= {path.name for path in tmp_path.iterdir()}
