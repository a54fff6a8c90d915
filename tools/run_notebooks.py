"""Runs the notebooks of `docs/notebooks` and keeps what their cells print.

    python tools/run_notebooks.py [--check] NOTEBOOK...

With `--check` nothing is written: a cell must not fail, and must print what the file has. Numbers
and names of edits do not count, because they depend on the machine and on what else the log has.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

_SECONDS = 600
# Digits with what belongs to a number, and the width of a column that they fill.
_VARIES = re.compile(r"[ ]*[-+]?\d[\d.,]*(?:e[-+]?\d+)?%?")


def executed(path: Path) -> Any:
    """The notebook with what a run in a new kernel printed on standard output.

    Raises:
        CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    # Over sockets in a folder with a short name: free TCP ports can be taken before a kernel is up.
    config = Config({"KernelManager": {"transport": "ipc"}})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JUPYTER_RUNTIME_DIR"] = folder
        client = NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3", config=config)
        client.execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count = None
            said = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
            cell.outputs = [nbformat.v4.new_output("stream", text=said)] if said else []
    return notebook


def printed(notebook: Any) -> list[str]:
    """What each cell prints, with `#` for numbers."""
    return [
        _VARIES.sub(" #", "".join(output.text for output in cell.get("outputs", ())))
        for cell in notebook.cells
    ]


def differences(kept: Any, new: Any) -> list[str]:
    """The cells that print something else than before, in words."""
    return [
        f"cell {number}:\n{before}\nnow\n{now}"
        for number, (before, now) in enumerate(zip(printed(kept), printed(new), strict=True), 1)
        if before != now
    ]


def main() -> int:
    """Runs notebooks; returns 1 if one prints something else than before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args()
    found: list[str] = []
    for path in options.notebooks:
        new = executed(path)
        if options.check:
            kept = nbformat.read(path, as_version=4)
            found += [f"{path}: {each}" for each in differences(kept, new)]
        else:
            nbformat.write(new, path)
    sys.stderr.write("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
