"""`errata bench route`: how long searches of synthetic keys and codes take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.launch.terminal import console


def route(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    keys: Annotated[
        str, typer.Option(help="Numbers of keys and of codes.")
    ] = "10000,100000,1000000",
    width: Annotated[int, typer.Option(help="Width of keys and queries.", min=1)] = 1024,
    batch: Annotated[int, typer.Option(help="Queries in a batch.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Batches at each size.", min=1)] = 50,
    threads: Annotated[int, typer.Option(help="Threads of FAISS; 0 uses all cores.", min=0)] = 0,
) -> None:
    """Times searches of synthetic keys (exact and in inverted lists) and of allocation codes."""
    import faiss

    from errata.evaluation.edit.plan import parse_numbers
    from errata.evaluation.route_bench import RoutePlan, run

    if threads:
        faiss.omp_set_num_threads(threads)
    run(RoutePlan(parse_numbers(keys, "keys"), width, batch, rounds), out, console())
