"""Put notebooks that were run, not edited, back as they were; clean the others. `make test` begins with it.

JupyterLab saves outputs, counts and metadata by itself. A notebook whose cells read as in git's index (what was committed, or
added since) is put back; the copy with your outputs goes beside it, into .ipynb_checkpoints/NAME-run.ipynb. To keep new outputs
`git add` the notebook. An edited one loses counts and metadata only.
"""

import json
import subprocess
import sys
from pathlib import Path

from fastcore.nbio import dict2nb, nb2str
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent


def kept(path: Path, root: Path) -> str | None:
    """The notebook as git's index holds it; None where there is no git, or git does not know it."""
    try:
        done = subprocess.run(["git", "show", f":{path.relative_to(root).as_posix()}"], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode("utf-8")


def cells(text: str) -> list[tuple]:
    """What an author writes of a notebook: kind and source of each cell."""
    return [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]


def cleaned(text: str) -> str:
    """A notebook without counts and metadata."""
    notebook = dict2nb(json.loads(text))
    clean_nb(notebook)
    return nb2str(notebook)


def tidy(path: Path, root: Path) -> str:
    """Put a notebook back or clean it; what was done, in words, or an empty string."""
    text, before = path.read_text(encoding="utf-8"), kept(path, root)
    if before is not None and text != before and cells(text) == cells(before):
        copy = path.parent / ".ipynb_checkpoints" / f"{path.stem}-run.ipynb"
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(text, encoding="utf-8")
        path.write_text(before, encoding="utf-8")
        return f"was run, not edited: put back; your outputs are in {copy.relative_to(root)} (git add keeps new ones)"
    if (clean := cleaned(text)) != text:
        path.write_text(clean, encoding="utf-8")
        return "was edited and run: counts and metadata taken out"
    return ""


def main(root: Path = ROOT) -> int:
    strays = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        if path.name.startswith("Untitled"):
            strays.append(path)
            continue
        if done := tidy(path, root):
            print(f"{path.relative_to(root)} {done}")
    for path in strays:
        print(f"error: {path.relative_to(root)} is no lesson: move it out of nbs/, or delete it", file=sys.stderr)
    return bool(strays)


if __name__ == "__main__":
    sys.exit(main())
