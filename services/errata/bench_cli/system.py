"""`errata bench system` and `observability`: whole systems on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from errata.launch.terminal import console


def system(
    output: Annotated[Path, typer.Option(help="JSON file to write.")] = Path(
        "build/bench-system.json"
    ),
    edits: Annotated[int, typer.Option(help="Edits to submit.", min=1)] = 40,
    requests: Annotated[int, typer.Option(help="Generations in each load run.", min=1)] = 200,
    appends: Annotated[int, typer.Option(help="Appends to time.", min=1)] = 500,
    only: Annotated[
        Literal["all", "appends"],
        typer.Option(help="`appends` starts Redis and the log alone; the rest is not measured."),
    ] = "all",
) -> None:
    """Times appends, commit to applied, fits, and generation with and without edits."""
    from errata.evaluation.system_bench import run, run_appends

    if only == "appends":
        run_appends(output, num_appends=appends, console=console())
        return
    run(output, num_edits=edits, num_requests=requests, num_appends=appends, console=console())


def observability(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    rounds: Annotated[int, typer.Option(help="Rounds; each one measures every system.", min=1)] = 7,
    requests: Annotated[int, typer.Option(help="Requests in a round, 16 at a time.", min=1)] = 300,
) -> None:
    """Measures the cost of metrics and of traces, with three systems side by side."""
    from errata.evaluation.observability.bench import run

    run(out, rounds=rounds, num_requests=requests, console=console())
