"""Build the pages of the documentation from the notebooks into _docs, and check every link between them.

python .ci/docs.py [FOLDER]   (default: _docs); exits with 1 and names the links that lead nowhere
"""

import html
import inspect
import json
import re
import shutil
import sys
from functools import cache
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import house
import nbformat
import plotly.io
from nbconvert import HTMLExporter

STYLE = """:root{color-scheme:light dark}
body{max-width:60rem;margin:0 auto;padding:1rem;font:16px/1.5 system-ui,sans-serif}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
h2,h3{overflow-wrap:anywhere}"""
# Pages of notebooks, where a reader's system is dark: the variables of JupyterLab's own dark theme. Players ask the system
# themselves; pictures stay as they were drawn, on white. Operators and comments of that theme are hard to read (3.4 to 1).
DARK = """<style>@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark }} {variables}
:root {{ --jp-mirror-editor-operator-color: #c792ff; --jp-mirror-editor-comment-color: #7fb8b8 }}
body {{ background: var(--jp-layout-color0); color: var(--jp-content-font-color1) }} }}</style>"""
TEXTS = {"CONTRIBUTING": "Contributing", "CHANGELOG": "Changelog"}  # pages that are written as Markdown
TOPS = {"index": "Start", "glossary": "Glossary", "api": "API reference"} | TEXTS


def ways(out: Path, folder: Path) -> str:
    """Links from the page `out` to the tops of the documentation, large enough for a finger."""
    up = "../" * (len(out.relative_to(folder).parts) - 1)
    links = "".join(
        f'<a href="{up}{name}.html" style="display:inline-block;padding:10px 12px 10px 0;min-height:24px">{title}</a>'
        for name, title in TOPS.items()
    )
    return f'<nav aria-label="Documentation" style="padding:0 15px;font:16px/1.5 system-ui,sans-serif">{links}</nav>'


def with_figures(cell: nbformat.NotebookNode) -> None:
    """Give figures of plotly, which a page without a kernel does not draw, a drawing of their own."""
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if (figure := data.get("application/vnd.plotly.v1+json")) and "text/html" not in data:
            made = plotly.io.from_json(json.dumps({key: figure[key] for key in ("data", "layout") if key in figure}))
            data["text/html"] = plotly.io.to_html(made, include_plotlyjs="cdn", full_html=False)


@cache
def dark() -> str:
    """The style of a notebook's page for readers in the dark."""
    folders = map(Path, HTMLExporter(template_name="lab").template_paths)
    theme = next(path for path in (folder / "static" / "theme-dark.css" for folder in folders) if path.exists())
    return DARK.format(variables=theme.read_text(encoding="utf-8"))


def convert(notebook: Path, out: Path, folder: Path) -> None:
    """Write a notebook or a text as a page: hidden cells and directives left out, links between notebooks led to pages."""
    if notebook.suffix == ".md":
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(notebook.read_text(encoding="utf-8"))])
    else:
        book = nbformat.read(notebook, as_version=4)
    book.cells = [cell for cell in book.cells if not re.match(r"#\|\s*(hide|default_exp)\b", cell.source.strip())]
    for cell in book.cells:
        if cell.cell_type == "code":
            with_figures(cell)
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        else:
            cell.source = re.sub(r"(\]\((?!\w+:)[^)\s]*?)\.ipynb", r"\1.html", cell.source)
    body, _ = HTMLExporter(template_name="lab").from_notebook_node(book, {"metadata": {"name": notebook.stem}})
    out.parent.mkdir(parents=True, exist_ok=True)
    body = body.replace("</head>", dark() + "</head>", 1)
    out.write_text(re.sub("<body[^>]*>", lambda tag: tag[0] + ways(out, folder), body, count=1), encoding="utf-8")


def reference(folder: Path) -> str:
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
    head = f'''<!doctype html><html lang="en"><meta charset="utf-8"><title>API reference</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'''
    return head + ways(folder / "api.html", folder) + "".join(parts)


class Links(HTMLParser):
    """The links and pictures of a page, and what in it can be linked to."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.places = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        for name, key in (("a", "href"), ("img", "src")):
            if tag == name and found.get(key):
                self.links.add(found[key])


def broken(folder: Path) -> list[str]:
    """The links of the built pages to pages, headings or pictures that are not there, as `page: link`."""
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
        convert(notebook, folder / notebook.relative_to(house.NBS).with_suffix(".html"), folder)
    for name in TEXTS:
        convert(house.ROOT / f"{name}.md", folder / f"{name}.html", folder)
    shutil.copytree(house.NBS / "images", folder / "images")
    (folder / "api.html").write_text(reference(folder), encoding="utf-8")
    for link in (wrong := broken(folder)):
        print(f"leads nowhere: {link}")
    print(f"{len(list(folder.rglob('*.html')))} pages: open {folder / 'index.html'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "_docs")))
