"""`errata bench scale`: how a worker's costs grow with the edits of a lane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.launch.terminal import console

_LANES = (
    "recipe=1000,10000,100000",
    "elder=1000,10000",
    "lemoe=1000,10000",
    "adaple=1000,10000",
)


def scale(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    lane: Annotated[
        list[str] | None,
        typer.Option(help="METHOD=NUMBERS of edits, such as elder=1000,10000; may be repeated."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Edits of a commit.", min=1)] = 100,
    index: Annotated[str, typer.Option(help="Kind of the key index.")] = "auto",
    model: Annotated[str, typer.Option(help="Folder of the LLM; the demo model if empty.")] = "",
) -> None:
    """Applies logs of random edits: start, memory, catch-up, routing, revert of one edit."""
    from errata.evaluation.edit.plan import parse_numbers
    from errata.evaluation.scale_bench import ScalePlan, run

    plans = []
    for text in lane or _LANES:
        method, _, numbers = text.partition("=")
        plans.append(ScalePlan(method, parse_numbers(numbers, "lane"), batch, index, model))
    run(plans, out, console())
