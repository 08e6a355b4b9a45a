"""Build the pages of the documentation from the notebooks into _docs, and check every link between them.

python .ci/docs.py [FOLDER]   (default: _docs); exits with 1 and names the links that lead nowhere
"""

import html
import inspect
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import house
import nbformat
from nbconvert import HTMLExporter

STYLE = "body{max-width:60rem;margin:0 auto;padding:1rem;font:16px/1.5 system-ui,sans-serif}pre{overflow-x:auto}"


def convert(notebook: Path, out: Path) -> None:
    """Write one notebook as a page: hidden cells and directives left out, links between notebooks led to pages."""
    book = nbformat.read(notebook, as_version=4)
    book.cells = [cell for cell in book.cells if not re.match(r"#\|\s*(hide|default_exp)\b", cell.source.strip())]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        else:
            cell.source = re.sub(r"(\]\((?!\w+:)[^)\s]*?)\.ipynb", r"\1.html", cell.source)
    body, _ = HTMLExporter(template_name="lab").from_notebook_node(book, {"metadata": {"name": notebook.stem}})
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(body, encoding="utf-8")


def reference() -> str:
    """The public names of every module with their signatures and docstrings."""
    parts = ["<h1>API reference</h1>"]
    for file in sorted((house.ROOT / "mocapfree_nb").rglob("*.py")):
        if file.name.startswith("_") or "cli" in file.parts:
            continue
        name = ".".join(file.relative_to(house.ROOT).with_suffix("").parts)
        module = import_module(name)
        parts.append(f'<h2 id="{name}">{name}</h2><p>{html.escape(inspect.getdoc(module) or "")}</p>')
        for key, thing in vars(module).items():
            if key.startswith("_") or getattr(thing, "__module__", None) != name:
                continue
            if not (inspect.isclass(thing) or inspect.isfunction(thing)):
                continue
            try:
                call = str(inspect.signature(thing))
            except (TypeError, ValueError):
                call = ""
            said = html.escape(inspect.getdoc(thing) or "")
            parts.append(f'<h3 id="{name}.{key}"><code>{key}{html.escape(call)}</code></h3><pre>{said}</pre>')
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>API reference</title><style>{STYLE}</style>'
    return head + "".join(parts)


class Links(HTMLParser):
    """The links of a page, and what in it can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        if found.get("href") and tag == "a":
            self.links.add(found["href"])


def broken(folder: Path) -> list[str]:
    """The links of the built pages to pages or headings that are not there, as `page: link`."""
    pages = {path.resolve(): Links(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    wrong = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(there)
            anchor = unquote(parts.fragment)
            places = {place.lower() for place in known.places} if known else set()
            if not there.exists() or (known and anchor and anchor.lower() not in places):
                wrong.append(f"{path.relative_to(folder.resolve())}: {link}")
    return wrong


def main(folder: Path) -> int:
    """Build everything into `folder`; 1 where a link leads nowhere."""
    shutil.rmtree(folder, ignore_errors=True)
    tops = [house.NBS / f"{name}.ipynb" for name in ("index", "glossary")]
    for notebook in [*(path for path in tops if path.exists()), *house.lessons()]:
        convert(notebook, folder / notebook.relative_to(house.NBS).with_suffix(".html"))
    (folder / "api.html").write_text(reference(), encoding="utf-8")
    for link in (wrong := broken(folder)):
        print(f"leads nowhere: {link}")
    print(f"{len(list(folder.rglob('*.html')))} pages: open {folder / 'index.html'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "_docs")))
