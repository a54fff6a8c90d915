"""Notebooks as pages: their text, code and printed outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def as_page(path: Path) -> str:
    """A notebook as Markdown.

    Raises:
        SystemExit: an output is neither text nor what a cell printed.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
        else:
            parts.append(f"```python\n{text}\n```")
            if said := "".join(output_text(path, output) for output in cell["outputs"]):
                parts.append(f"```text title=\"Output\"\n{said.rstrip()}\n```")
    parts.append(f"This page is the notebook `{path.name}`; tests run it.")
    return "\n\n".join(parts) + "\n"


def output_text(path: Path, output: Mapping[str, Any]) -> str:
    """What a cell printed, or its value, as text.

    Raises:
        SystemExit: it is of another kind.
    """
    if output["output_type"] == "stream":
        return "".join(output["text"])
    text = output.get("data", {}).get("text/plain")
    if text is None:
        raise SystemExit(f"{path}: an output of kind {output['output_type']} is not text")
    return "".join(text)
