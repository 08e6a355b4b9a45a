"""Write README.md from nbs/index.ipynb (nbdev_readme does this with quarto; nothing here needs it).

python .ci/readme.py          write README.md
python .ci/readme.py --check  exit with 1 if it would change
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme(notebook: Path = ROOT / "nbs" / "index.ipynb") -> str:
    """Markdown cells as they are, code cells that are not hidden as blocks, links seen from the top folder."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "code":
            if re.search(r"^#\|\s*hide", text, re.M):
                continue
            text = re.sub(r"^#\|.*\n", "", text, flags=re.M)
            text = f"```python\n{text}\n```"
        parts.append(text)
    text = "\n\n".join(filter(None, parts)) + "\n"
    return re.sub(r"\]\((?![a-z]+:|#|\.\./)", "](nbs/", text).replace("](../", "](")


if __name__ == "__main__":
    target = ROOT / "README.md"
    if "--check" in sys.argv:
        sys.exit(target.read_text(encoding="utf-8") != readme())
    target.write_text(readme(), encoding="utf-8")
