"""The built documentation: pages that lead somewhere, with their pictures and figures."""

import sys
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def docs():
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        import docs as module
    finally:
        sys.path.remove(str(ROOT / ".ci"))
    return module


def test_links_and_pictures_that_lead_nowhere_are_named(docs, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "there.png").write_bytes(b"")
    (tmp_path / "a.html").write_text('<h2 id="One">x</h2><img src="there.png"><img src="gone.png"><a href="in/b.html#no">b</a>')
    (tmp_path / "in" / "b.html").write_text('<a href="../a.html#one">a</a><a href="https://x.org/y">far</a><img src="data:,">')
    assert docs.broken(tmp_path) == ["a.html: gone.png", "a.html: in/b.html#no"]


def test_a_page_has_its_ways_its_figures_and_no_directives(docs, tmp_path):
    drawn = go.Figure(go.Scatter(y=[1, 3])).to_plotly_json()
    figure = nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": drawn})
    cells = [nbformat.v4.new_markdown_cell("see [that](03_x.ipynb#y)"),
             nbformat.v4.new_code_cell("#| export\nplot = 1", outputs=[figure]), nbformat.v4.new_code_cell("#| hide\nsecret = 2")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "one.ipynb")
    docs.convert(tmp_path / "one.ipynb", tmp_path / "out" / "1_x" / "one.html", tmp_path / "out")
    text = (tmp_path / "out" / "1_x" / "one.html").read_text()
    page = docs.Links(text)
    assert {"../index.html", "../api.html", "../CONTRIBUTING.html", "03_x.html#y"} <= page.links
    assert "prefers-color-scheme: dark" in text.split("</head>")[0] and "--jp-layout-color0: #111;" in text
    assert "plotly-graph-div" in text and "secret" not in text and "| export" not in text


def test_a_text_becomes_a_page(docs, tmp_path):
    docs.convert(ROOT / "CONTRIBUTING.md", tmp_path / "CONTRIBUTING.html", tmp_path)
    text = (tmp_path / "CONTRIBUTING.html").read_text()
    assert "make test" in text and "index.html" in docs.Links(text).links
