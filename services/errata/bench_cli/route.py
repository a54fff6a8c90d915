"""`errata bench route`: how long searches of keys and codes take, and what they find."""

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
    width: Annotated[int, typer.Option(help="Width of normal keys and queries.", min=1)] = 1024,
    batch: Annotated[int, typer.Option(help="Queries in a batch.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Batches at each size.", min=1)] = 50,
    threads: Annotated[
        int, typer.Option(help="Threads of FAISS and Torch; 0 uses all cores.", min=0)
    ] = 0,
    index: Annotated[
        list[str] | None, typer.Option(help="Kinds of index, beside exact; may be repeated.")
    ] = None,
    graph_keys: Annotated[int, typer.Option(help="Most keys for which a graph is made.")] = 20_000,
    lane_model: Annotated[
        Path | None, typer.Option(help="Lane model; its encoder makes keys with clusters.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="CounterFact file that the lane model encodes.")
    ] = None,
    records: Annotated[int, typer.Option(help="Most records that are encoded.", min=1)] = 15_000,
    namespaces: Annotated[
        str, typer.Option(help="Numbers of namespaces to compare, such as 1,1000; none if empty.")
    ] = "",
    own_edits: Annotated[int, typer.Option(help="Edits of each namespace.", min=1)] = 1_000,
) -> None:
    """Times searches of keys, by each kind of index, and of allocation codes."""
    import faiss
    import torch

    from errata.errors import InvalidRequestError
    from errata.evaluation.edit.plan import parse_numbers
    from errata.evaluation.route_bench import RoutePlan, run

    if (lane_model is None) != (data is None):
        raise InvalidRequestError("give --lane-model and --data together.", field="lane_model")
    if threads:
        faiss.omp_set_num_threads(threads)
        torch.set_num_threads(threads)
    plan = RoutePlan(
        parse_numbers(keys, "keys"),
        width,
        batch,
        rounds,
        indices=tuple(index or ("lists", "graph")),
        graph_keys=graph_keys,
        lane_model=lane_model,
        data=data,
        num_records=records,
        namespaces=parse_numbers(namespaces, "namespaces") if namespaces else (),
        own_edits=own_edits,
    )
    run(plan, out, console())
