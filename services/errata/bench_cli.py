"""`errata bench …`: measurements that anyone can rerun with one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

bench = typer.Typer(help="Measure; every run writes JSON.", no_args_is_help=True)
_out = Console()

Output = Annotated[Path, typer.Option(help="JSON file to write.")]


@bench.command()
def serving(
    output: Output = Path("build/bench-serving.json"),
    edits: Annotated[int, typer.Option(help="Edits to submit.", min=1)] = 40,
    requests: Annotated[int, typer.Option(help="Generations per load run.", min=1)] = 200,
    appends: Annotated[int, typer.Option(help="Appends to time.", min=1)] = 500,
) -> None:
    """Times appends, commit to applied, fits, and generation with and without edits."""
    from errata.evaluation.serving_bench import run

    run(output, num_edits=edits, num_requests=requests, num_appends=appends, console=_out)
