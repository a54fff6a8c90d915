"""`errata bench …`: measurements that anyone can rerun with one command."""

from __future__ import annotations

import json
import sys
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


@bench.command()
def edit(
    model: Annotated[str, typer.Option(help="Model folder or hub id.")],
    data: Annotated[Path, typer.Option(help="CounterFact, flat or original layout.")],
    text: Annotated[Path, typer.Option(help="Plain text for statistics, a paragraph a line.")],
    heldout: Annotated[Path | None, typer.Option(help="Text for perplexity.")] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated.")] = "memit,printed,eq3,erase",
    edits: Annotated[int, typer.Option(min=1)] = 70,
    batch_size: Annotated[int, typer.Option(min=1)] = 10,
    seeds: Annotated[
        str, typer.Option(help="Comma-separated; each takes other records.")
    ] = "0,1,2",
    records: Annotated[
        str, typer.Option(help="Range of records to draw from, start:end.")
    ] = "0:2500",
    cache_dir: Annotated[Path, typer.Option(help="For statistics.")] = Path("build/statistics"),
    output: Output = Path("build/bench-edit.json"),
) -> None:
    """Measures AdaPLE's variants on CounterFact as MEMIT's authors do; prints a table."""
    from errata.evaluation.editing_bench import BenchPlan, run, variant_configs
    from errata.evaluation.tables import markdown_table

    start, _, end = records.partition(":")
    plan = BenchPlan(
        model=model,
        data=data,
        text=text,
        heldout=heldout,
        configs=variant_configs(variants.split(",")),
        cache_dir=cache_dir,
        num_edits=edits,
        batch_size=batch_size,
        seeds=tuple(int(seed) for seed in seeds.split(",")),
        records=(int(start or 0), int(end or sys.maxsize)),
    )
    report = run(plan, on_progress=_out.print)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    typer.echo(markdown_table(report))
