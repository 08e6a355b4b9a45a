"""Run every lesson in a real kernel, all cells as Jupyter's Run All does, and keep how long each takes.

python .ci/times.py            all notebooks, one after the other, into nbs/results/lessons.json
python .ci/times.py 17 08      those whose name holds one of these; the others keep their numbers

Processor seconds count (of one thread), so that a busy machine does not; a kernel starts and imports torch in each.
"""

import json
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "nbs" / "results" / "lessons.json"
SECONDS = """
import resource
print(sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))))
"""


def seconds(path: Path) -> float:
    """Processor seconds of a notebook from kernel start to last cell; raises where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(SECONDS))
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return float("".join(output["text"] for output in notebook.cells[-1].outputs))


def main(wanted: list[str]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    os.environ.pop("MOCAPFREE_FULL", None)
    kept = json.loads(KEPT.read_text(encoding="utf-8"))["seconds"] if KEPT.exists() else {}
    names = {path.relative_to(ROOT / "nbs").with_suffix("").as_posix(): path for path in sorted(ROOT.glob("nbs/**/*.ipynb"))}
    names = {name: path for name, path in names.items() if ".ipynb_checkpoints" not in name}
    kept = {name: value for name, value in kept.items() if name in names}
    for name, path in names.items():
        if not wanted or any(word in name for word in wanted):
            kept[name] = max(1, round(seconds(path)))
            print(f"{kept[name]:4} s  {name}", flush=True)
            text = json.dumps({"command": "make times", "seconds": dict(sorted(kept.items()))}, indent=1)
            KEPT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
