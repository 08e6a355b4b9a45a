"""The page of a user study, and its key: motions of runs as pairs that name nobody."""

import hashlib
import html
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from mocapfree_nb.output.takes import load_takes
from mocapfree_nb.files import UserError, write_atomically, write_json
from mocapfree_nb.reading import read_json
from .skeleton import Skeleton
from .study import QUESTIONS, Shown, choose_pairs, controls
from mocapfree_nb.viewer import units_per_metre
from mocapfree_nb.player import _json, page_html, player_code, player_scene

__all__ = ["read_runs", "make_study", "study_html", "save_study"]


def read_runs(runs: Sequence[str | Path]) -> tuple[list[Shown], Skeleton]:
    """The motions of run folders, each given as FOLDER or NAME=FOLDER, and the skeleton that they share.

    A system is a column of a run (before, after, full data), with the name of the run before it if there are several
    names. Raises `UserError` for a run without motions, for two skeletons, and for two folders of one name that were
    not given it on purpose.
    """
    found, skeletons, names = [], set(), set()
    for text in map(str, runs):
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = "", text
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is not the folder of a run: give what `mocapfree demo` or `adapt` wrote")
        label = name or Path(folder).resolve().name
        if not name and label in names:
            raise UserError(f"two runs are called {label}: name them, A=FOLDER B=FOLDER, or alike if they are repeats")
        names.add(label)
        takes = load_takes(folder)
        if not takes:
            raise UserError(f"{folder} keeps no motions: its motions.npz is empty; run it anew")
        skeletons |= {take.skeleton for take in takes}
        found += [(label, column, take.title, joints) for take in takes for column, joints in take.panels.items()]
    if len(skeletons) > 1:
        raise UserError("the runs have different skeletons: raters would compare bodies, not motions; make a study of each")
    several = len(names) > 1
    return [Shown(f"{label} {column}" if several else column, *rest) for label, column, *rest in found], skeletons.pop()


def _scene(joints: np.ndarray, skeleton: Skeleton) -> dict:
    """The player's scene of one motion, rounded to 2 mm so that it packs well."""
    grid = 0.002 * units_per_metre(skeleton)
    return player_scene((joints / grid).round() * grid, skeleton)


def make_study(runs: Sequence[str | Path], pairs: int = 24, seed: int = 0) -> tuple[dict, dict]:
    """What the page of a study holds, and its key, for the motions of `runs`; at most `pairs` comparisons and 6 controls.

    Raises `UserError` as `read_runs` and `choose_pairs` do, and for fewer than 2 pairs.
    """
    if pairs < 2:
        raise UserError(f"--pairs {pairs}: a study needs 2 or more, and 20 to 30 are what a rater's patience lasts for")
    shown, skeleton = read_runs(runs)
    rng = np.random.default_rng(seed)
    chosen = choose_pairs(shown, pairs, rng)
    chosen += controls(chosen, shown, rng, units_per_metre(skeleton))
    motions = list(dict.fromkeys(motion for pair in chosen for motion in (pair.first, pair.second)))
    names = [f"{number:08x}" for number in rng.choice(2**32, len(motions) + len(chosen), replace=False)]
    name_of = dict(zip(motions, names[len(chosen) :], strict=True))
    scenes = {name: _scene(motion.joints, skeleton) for motion, name in name_of.items()}
    rows = [{"id": name, "caption": pair.first.caption, "motions": [name_of[pair.first], name_of[pair.second]],
             "turned": None if pair.turned is None else names[pair.turned], "kind": pair.kind}
            for name, pair in zip(names, chosen, strict=False)]
    public = [{**{key: row[key] for key in ("id", "caption", "turned")}, "motions": sorted(row["motions"])} for row in rows]
    page = {
        "questions": [{"name": name, "text": text} for name, text in QUESTIONS.items()],
        "pairs": sorted(public, key=lambda row: row["id"]),
        "motions": {name: scenes[name]["panels"][0] for name in sorted(scenes)},
        "scene": next(iter(scenes.values())) | {"height": max(scene["height"] for scene in scenes.values()), "panels": [],
                                                "reach": max(scene["reach"] for scene in scenes.values())},
    }
    study = hashlib.sha256(_json(page).encode()).hexdigest()[:12]
    compared = {motion.system for pair in chosen if pair.kind == "compare" for motion in (pair.first, pair.second)}
    key = {"study": study, "seed": seed, "runs": [str(run) for run in runs], "systems": sorted(compared), "pairs": rows,
           "motions": {name: motion.system for motion, name in name_of.items()}}
    return {"id": study} | page, key


_ASSETS = files("mocapfree_nb") / "assets"
_BODY, _CODE, _STYLE = ((_ASSETS / f"study.{ending}").read_text(encoding="utf-8") for ending in ("html", "js", "css"))
_CHOICES = {"left": ("A", "A, the left one"), "same": ("no difference", "no difference, or I cannot tell"),
            "right": ("B", "B, the right one")}


def _fieldset(number: int, name: str, text: str) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{value}" aria-label="{said}"><span>{words}</span></label>'
        for value, (words, said) in _CHOICES.items()
    )
    return f'<fieldset><legend>{number}. {html.escape(text)}</legend><div class="choices">{choices}</div></fieldset>'


def study_html(page: Mapping, contact: str = "ask whoever gave you this page") -> str:
    """The page of a study as one file that needs no network. `contact` (escaped) is whom raters may ask."""
    count = len(page["pairs"])
    questions = [_fieldset(number, row["name"], row["text"]) for number, row in enumerate(page["questions"], start=1)]
    words = {"pairs": count, "minutes": math.ceil(count / 4), "contact": html.escape(contact.rstrip(".")),
             "questions": "\n".join(questions), "data": _json(page)}
    return page_html("Which of two motions is better?", Template(_BODY).substitute(words) + player_code(_CODE), _STYLE)


def save_study(page: Mapping, key: Mapping, out: str | Path, contact: str | None = None) -> Path:
    """Write the page to `out` and its key beside it as NAME-key.json; returns the path of the key.

    Raises `UserError` where another study's key lies there: without its key no answer to it could be read again.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"cannot save a study as {out.name}: it is a page, give a name that ends in .html")
    kept = out.with_name(f"{out.stem}-key.json")
    if kept.exists() and read_json(kept).get("study") != key["study"]:
        raise UserError(f"{kept} is the key of another study, whose answers need it: choose another --out")
    with write_atomically(out) as temporary:
        temporary.write_text(study_html(page, contact) if contact else study_html(page), encoding="utf-8")
    write_json(kept, key)
    return kept
