"""`errata bench …`: measurements that anyone can rerun with one command."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from errata import demo

bench = typer.Typer(help="Measure; every run writes JSON.", no_args_is_help=True)
_out = Console()

Output = Annotated[Path, typer.Option(help="JSON file to write.")]


class Suite(StrEnum):
    """What `errata bench serve` can measure."""

    BASELINE = "baseline"
    MIXED = "mixed"
    UNCLAIMED = "unclaimed"
    LOAD = "load"


@bench.command()
def serve(
    suite: Annotated[
        Suite,
        typer.Option(
            help="baseline: against transformers' static batches. mixed: rows of every kind, "
            "against hooks off. unclaimed: 10,000 edits in force, against none. load: the whole "
            "system over gRPC, with edits coming in, against without."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for result.json and plots.")],
    model: Annotated[str, typer.Option(help="Folder or hub id; the demo model if empty.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
    rounds: Annotated[int, typer.Option(help="Alternations with the baseline.", min=1)] = 5,
    requests: Annotated[
        int, typer.Option(help="In a round; for load, at most in all.", min=1)
    ] = 96,
    replicas: Annotated[int, typer.Option(help="load: LLM replicas.", min=1)] = 2,
    rate: Annotated[float, typer.Option(help="load: requests per second.", min=0.01)] = 8.0,
    edit_rate: Annotated[float, typer.Option(help="load: edits per second.", min=0)] = 0.5,
    seconds: Annotated[float, typer.Option(help="load: of arrivals.", min=1)] = 40.0,
    min_tokens: Annotated[int, typer.Option(help="load: shortest answer.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="load: longest answer.", min=1)] = 32,
    text: Annotated[
        Path | None, typer.Option(help="load: statistics text for a model of your own.")
    ] = None,
    target: Annotated[str, typer.Option(help="load: a running system's address.")] = "",
) -> None:
    """Measures throughput and latency as ratios in one run; writes OUT/result.json."""
    from errata.evaluation.serve import engine_suites, load, report
    from errata.evaluation.serve.workload import Workload

    if suite is Suite.LOAD:
        found = load.run_load(
            load.LoadPlan(
                out=out,
                model=model,
                statistics_text=text,
                target=target,
                replicas=replicas,
                rate=rate,
                edit_rate=edit_rate,
                seconds=seconds,
                max_tokens=(min(min_tokens, max_tokens), max_tokens),
                max_requests=max(requests, round(2 * rate * seconds)),
            ),
            console=_out,
        )
    else:
        run = {
            Suite.BASELINE: engine_suites.run_baseline,
            Suite.MIXED: engine_suites.run_mixed,
            Suite.UNCLAIMED: engine_suites.run_unclaimed,
        }[suite]
        plan = engine_suites.EnginePlan(
            model or str(demo.model_path()),
            dtype=dtype,
            device=device,
            rounds=rounds,
            workload=Workload(num_requests=requests),
        )
        found = run(plan, console=_out)
    path = report.write(found, out)
    _out.print(report.table(found))
    _out.print(f"written to {path}")


@bench.command()
def system(
    output: Output = Path("build/bench-system.json"),
    edits: Annotated[int, typer.Option(help="Edits to submit.", min=1)] = 40,
    requests: Annotated[int, typer.Option(help="Generations per load run.", min=1)] = 200,
    appends: Annotated[int, typer.Option(help="Appends to time.", min=1)] = 500,
) -> None:
    """Times appends, commit to applied, fits, and generation with and without edits."""
    from errata.evaluation.system_bench import run

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
