"""What the documentation site is made of: reference, drawings, links, notebooks, navigation."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re

import pytest

import percpu as pc
import percpu.plot
import percpu.testing

from .conftest import ROOT

DOCS = ROOT / "docs"


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference():
    pages = script("hooks").public_names()
    listed = [name for names in pages.values() for name in names]
    assert len(listed) == len(set(listed))
    for module in (pc, percpu.plot, percpu.testing, pc.workloads, pc.engines, pc.distributions):
        for name in module.__all__:
            if not inspect.ismodule(getattr(module, name)):
                assert f"{module.__name__}.{name}" in listed
    assert "percpu.Allocator" in pages["allocator"]
    assert "percpu.cost" in pages["answers"]


def test_the_reference_of_the_command_line_has_every_verb():
    from percpu.cli import VERBS

    text = script("hooks").command_line()
    assert len(re.findall(r"^## percpu ", text, re.MULTILINE)) == len(VERBS)
    assert "--static-size BYTES" in text


def test_every_page_is_in_the_navigation():
    hooks, nav = script("hooks"), (ROOT / "mkdocs.yml").read_text()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")]:
        assert nav.count(f": {page.relative_to(DOCS)}\n") == 1, page.name
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert f": notebooks/{notebook.name}\n" in nav, notebook.name
    for page in hooks.PAGES:
        assert f": reference/{page}.md\n" in nav, page


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")], ids=lambda page: page.name
)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if re.match(r"https?://", link):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link), link
            continue
        target = (page.parent / link.partition("#")[0]).resolve()
        assert link.startswith("#") or target.exists(), link


def test_faults_of_the_site_are_found(tmp_path):
    check = script("check_site").check
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text('<a href="a/#here">x</a><a href="https://docs.python.org/3/">y</a>')
    (tmp_path / "a" / "index.html").write_text('<h1 id="here">x</h1><a href="..">up</a>')
    assert check(tmp_path) == []
    (tmp_path / "index.html").write_text('<a href="a/#there">x</a><img src="b.png"><a href="http://x y">z</a>')
    assert [line.rpartition(": ")[2] for line in check(tmp_path)] == [
        "no such place on that page",
        "leads nowhere",
        "not the address of a page",
    ]
    (tmp_path / "index.html").write_text("")
    (tmp_path / "notebooks" / "n").mkdir(parents=True)
    (tmp_path / "notebooks" / "n" / "index.html").write_text("<p>x</p>")
    assert check(tmp_path) == ["notebooks/n/index.html: a notebook without a picture"]


def test_the_figures_of_the_readme_are_those_of_the_pages():
    """If not: `make readme`."""
    text = (ROOT / "README.md").read_text()
    table = script("figures").table()
    assert len(table.splitlines()) == 7
    assert f"<!-- figures -->\n{table}<!-- /figures -->" in text
    targets = re.findall(r"\| `make ([\w-]+)` \|", table)
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_drawings(tmp_path):
    """Each is drawn anew, with what it claims asserted; the page shows all of them and no other."""
    pytest.importorskip("matplotlib")
    script("drawings").main(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name for path in (DOCS / "img" / "model").iterdir()}
    assert drawn == set(re.findall(r"\(img/model/([\w-]+\.svg)\)", (DOCS / "model.md").read_text()))
    for path in tmp_path.glob("*.svg"):
        assert 5_000 < path.stat().st_size < 200_000


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            compile("".join(cell["source"]), path.name, "exec")
    titles = [cell for cell in notebook["cells"] if "".join(cell["source"]).startswith("# ")]
    assert len(titles) == 1
