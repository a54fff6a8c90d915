"""Notebooks as pages: their text, code and printed outputs."""

from __future__ import annotations

import json
from pathlib import Path


def as_page(path: Path) -> str:
    """A notebook as Markdown; `tools/run_notebooks.py` keeps only outputs that cells print."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            parts.append(f"```python\n{text}\n```")
            if said := "".join(line for output in cell["outputs"] for line in output["text"]):
                parts.append(f'```text title="Output"\n{said.rstrip()}\n```')
    parts.append(f"This page is the notebook `{path.name}`; tests run it.")
    return "\n\n".join(parts) + "\n"
