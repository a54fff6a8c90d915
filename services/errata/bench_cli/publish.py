"""`errata bench publish` and `report`: committed results, and the pages made from them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from errata.errors import InvalidRequestError
from errata.launch.terminal import console

DocsOption = Annotated[Path, typer.Option(help="Folder of the documentation.")]


def publish(
    result: Annotated[
        Path, typer.Argument(help="Output folder of `errata bench edit` or `compare`.")
    ],
    name: Annotated[
        str, typer.Option("--as", help="METHOD/NAME; the last two folders of RESULT if empty.")
    ] = "",
    command_file: Annotated[
        Path | None,
        typer.Option(help="The command to show; command.txt in RESULT if left out."),
    ] = None,
    row: Annotated[
        Path | None,
        typer.Option(
            help="JSON array of the tables and plots that show the run; row.json in RESULT if left "
            "out, and without one the table of the method's runs."
        ),
    ] = None,
    docs: DocsOption = Path("docs"),
) -> None:
    """Condenses a result into docs/results/data/METHOD/NAME.json, without single records."""
    from errata.evaluation.data.fields import read_text
    from errata.evaluation.edit.summary import read_result
    from errata.evaluation.published.comparisons import condensed_comparison
    from errata.evaluation.published.condense import as_text, condensed, read_rows

    name = name or "/".join(result.resolve().parts[-2:])
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InvalidRequestError(f"{name!r} is not METHOD/NAME.", field="as")
    command = read_text(command_file or result / "command.txt")
    rows_file = row or result / "row.json"
    rows = read_rows(rows_file) if row is not None or rows_file.is_file() else []
    compared = result / "compare.json"
    if compared.is_file():
        text = as_text(condensed_comparison(json.loads(read_text(compared)), name, command, rows))
    else:
        text = as_text(condensed(read_result(result), name, command, rows))
    path = docs / "results" / "data" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    console().print(f"written to {path}; `errata bench report` puts it into the pages")


def report(docs: DocsOption = Path("docs")) -> None:
    """Makes the tables and plots of docs/results.md and docs/results/ from the published files."""
    from errata.evaluation.published.pages import Pages

    pages = Pages(docs)
    if unused := pages.unused():
        raise InvalidRequestError(
            f"no page has the tables or plots {', '.join(sorted(unused))} of tables.toml.",
            field="docs",
        )
    changed = pages.write()
    names = ", ".join(str(path) for path in changed) or "none"
    console().print(f"{len(pages.paths)} pages read; changed: {names}")
