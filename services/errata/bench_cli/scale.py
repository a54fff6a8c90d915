"""`errata bench scale`: how a worker's costs grow with the edits of a lane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.launch.terminal import console


def scale(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Method of the lane; may be repeated.")
    ] = None,
    edits: Annotated[str, typer.Option(help="Numbers of edits.")] = "1000,10000",
    recipe_edits: Annotated[
        str, typer.Option(help="Numbers of edits of a RECIPE lane.")
    ] = "1000,10000,100000",
    batch: Annotated[int, typer.Option(help="Edits of a commit.", min=1)] = 100,
    index: Annotated[str, typer.Option(help="Kind of the key index.")] = "auto",
    model: Annotated[str, typer.Option(help="Folder of the LLM; the demo model if empty.")] = "",
) -> None:
    """Applies logs of random edits: start, memory, catch-up, routing, revert of one edit."""
    from errata.evaluation.edit.plan import parse_numbers
    from errata.evaluation.scale_bench import ScalePlan, run

    plans = []
    for name in method or ("recipe", "elder", "lemoe", "adaple"):
        sizes = parse_numbers(recipe_edits if name == "recipe" else edits, "edits")
        plans.append(ScalePlan(name, sizes, batch, index, model))
    run(plans, out, console())
