"""Notebooks that need no running system, and the comparison of what notebooks print."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from tools.docs_site.notebooks import as_page
from tools.run_notebooks import differences

from tests.unit.docs_site.running import NOTEBOOKS, check_notebook


@pytest.mark.parametrize("name", ["inside_a_claim.ipynb", "judge_a_method.ipynb"])
def test_a_notebook_prints_what_it_has(name: str, tmp_path: Path) -> None:
    check_notebook(name, {"ERRATA_DATA_DIR": str(tmp_path)})


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_has_no_traces_of_a_machine(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        assert cell.get("execution_count") is None
    assert "/tmp" not in path.read_text(encoding="utf-8")


def _notebook(*outputs: str) -> nbformat.NotebookNode:
    cells = [
        nbformat.v4.new_code_cell("…", outputs=[nbformat.v4.new_output("stream", text=text)])
        for text in outputs
    ]
    return nbformat.v4.new_notebook(cells=cells)


def test_numbers_and_names_of_edits_may_differ_and_nothing_else() -> None:
    kept = _notebook("edits/9-0 is served\n", "recipe  reliability  0.95\nnone 1e-3\n")
    same = _notebook("edits/12-10 is served\n", "recipe  reliability  1.00\nnone 2\n")
    other = _notebook("edits/9-0 is rejected\n", "recipe  reliability  0.95\nnone 1e-3\n")
    assert differences(kept, same) == []
    (difference,) = differences(kept, other)
    assert difference.startswith("cell 1:")


def test_a_page_has_text_code_and_outputs(tmp_path: Path) -> None:
    notebook = _notebook("edits/9-0\n")
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# Title"))
    nbformat.write(notebook, tmp_path / "a.ipynb")
    page = as_page(tmp_path / "a.ipynb")
    assert page.startswith("# Title\n\n```python\n…\n```\n\n```text")
    assert "\nedits/9-0\n```" in page
