"""`errata bench …`: measurements that anyone can rerun with one command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from errata import demo
from errata.errors import InvalidRequestError

bench = typer.Typer(help="Measure; every run writes JSON.", no_args_is_help=True)
_out = Console()

Output = Annotated[Path, typer.Option(help="JSON file to write.")]


class Suite(StrEnum):
    """What `errata bench serve` can measure."""

    BASELINE = "baseline"
    MIXED = "mixed"
    UNCLAIMED = "unclaimed"
    ROUTED = "routed"
    LOAD = "load"


@bench.command()
def serve(
    suite: Annotated[
        Suite,
        typer.Option(
            help="baseline: against transformers' static batches. mixed: rows of every kind, "
            "against hooks off. unclaimed: 10,000 edits in force, against none. routed: 5,000 "
            "edits of a lane that claims all rows or none, against none. load: the whole "
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
    concurrency: Annotated[
        int,
        typer.Option(
            help="Requests under way; what has none of the engine's 32 rows waits.", min=1
        ),
    ] = 32,
    edits: Annotated[
        int, typer.Option(help="unclaimed, routed: edits in force; 0 for the above.", min=0)
    ] = 0,
    method: Annotated[str, typer.Option(help="routed: recipe, elder or lemoe.")] = "recipe",
    lane_config: Annotated[
        Path | None, typer.Option(help="routed: TOML or JSON with the lane's values.")
    ] = None,
    lane_model: Annotated[
        Path | None, typer.Option(help="routed: folder that `errata train recipe` made.")
    ] = None,
    experts: Annotated[
        int, typer.Option(help="routed, lemoe: experts that share the edits.", min=1)
    ] = 8,
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
    lane: Annotated[str, typer.Option(help="load: that edits go to; the default if empty.")] = "",
    retrieval: Annotated[
        bool, typer.Option("--retrieval", help="load: workers ask a retrieval service.")
    ] = False,
) -> None:
    """Measures throughput and latency as ratios in one run; writes OUT/result.json."""
    from errata.evaluation.edit.plan import read_values
    from errata.evaluation.report import write
    from errata.evaluation.serve import engine_suites, load, report
    from errata.evaluation.serve.routed import RoutedLane
    from errata.evaluation.serve.workload import Workload

    if suite is Suite.LOAD:
        found = load.run_load(
            load.LoadPlan(
                out=out,
                model=model,
                statistics_text=text,
                target=target,
                lane=lane,
                retrieval=retrieval,
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
            Suite.ROUTED: engine_suites.run_routed,
        }[suite]
        plan = engine_suites.EnginePlan(
            model or str(demo.model_path()),
            dtype=dtype,
            device=device,
            rounds=rounds,
            workload=Workload(num_requests=requests, concurrency=concurrency),
            num_edits=edits or 10_000,
            lane=RoutedLane(
                method,
                read_values(lane_config) if lane_config else {},
                lane_model,
                edits or 5_000,
                experts,
            ),
        )
        found = run(plan, console=_out)
    path = write(found, out)
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
    data: Annotated[Path, typer.Option(help="File of records, in the data set's public format.")],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for result.json, report.md and plots; an interrupted run goes on."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(help="A lane's method, or none, ft-l, grace, memit, retrieval-prompt."),
    ] = "adaple",
    dataset: Annotated[
        str, typer.Option(help="counterfact, zsre, selfcheckgpt or rippleedits.")
    ] = "counterfact",
    model: Annotated[str, typer.Option(help="Folder or hub id.")] = "",
    edits: Annotated[int, typer.Option(help="That the model carries in the end.", min=1)] = 100,
    batch: Annotated[int, typer.Option(help="Edits submitted together.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Chooses the records.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(help="So many in a row, from --seed.", min=1)] = 1,
    suite: Annotated[
        str, typer.Option(help="What to run; `errata bench suites` says what there is.")
    ] = "sequential",
    preset: Annotated[
        str, typer.Option(help="Of the method, as `paper`; its defaults if empty.")
    ] = "",
    lane_config: Annotated[
        Path | None, typer.Option(help="TOML or JSON with values that differ from the defaults.")
    ] = None,
    lane_model: Annotated[
        Path | None, typer.Option(help="Folder that `errata train` made, for methods that need it.")
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="The library alone; the default.")
    ] = False,
    target: Annotated[str, typer.Option(help="host:port of a running cluster.")] = "",
    lane: Annotated[str, typer.Option(help="Of the cluster; its default lane if empty.")] = "",
    scale: Annotated[str, typer.Option(help="scaling: numbers of edits.")] = "1,10,100,1000,10000",
    vary: Annotated[
        list[str] | None, typer.Option(help="ablation: KEY=a,b,c; give several for a grid.")
    ] = None,
    records: Annotated[str, typer.Option(help="Range of records to draw from, a:b.")] = "0:",
    text: Annotated[
        Path | None,
        typer.Option(help="Plain text for statistics, a paragraph a line; else the model writes."),
    ] = None,
    heldout: Annotated[Path | None, typer.Option(help="Plain text for perplexity.")] = None,
    retention: Annotated[
        list[Path] | None, typer.Option(help="JSON lines of questions about general ability.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="JSON lines of target and text, for consistency.")
    ] = None,
    texts: Annotated[
        int, typer.Option(help="Records whose generated texts are judged.", min=0)
    ] = 0,
    rephrasings: Annotated[
        int, typer.Option(help="That each edit brings, asked as others of its relation.", min=0)
    ] = 0,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Commit edits that fail the writer's checks, too.")
    ] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="For statistics.")] = None,
    device: Annotated[str, typer.Option(help="Torch device.")] = "cpu",
) -> None:
    """Measures an editing method as the papers do, in process or through a cluster's front door."""
    from errata.evaluation.edit import plan as plans
    from errata.evaluation.edit.bench import run
    from errata.evaluation.edit.plots import draw
    from errata.evaluation.edit.report import markdown
    from errata.evaluation.report import write

    if in_process and target:
        raise InvalidRequestError("give --in-process or --target, not both.", field="target")
    plan = plans.Plan(
        method=method,
        dataset=dataset,
        data=data,
        out=out,
        model=model,
        edits=edits,
        batch=batch,
        seed=seed,
        num_seeds=seeds,
        suite=suite,
        preset=preset,
        values=plans.read_values(lane_config) if lane_config else {},
        lane_model=lane_model,
        points=plans.parse_numbers(scale, "scale"),
        vary=plans.parse_grid(vary or []),
        target=target,
        lane=lane,
        records=plans.parse_range(records),
        text=text,
        heldout=heldout,
        retention=tuple(retention or ()),
        references=references,
        num_texts=texts,
        rephrasings=rephrasings,
        check=not no_check,
        cache_dir=cache_dir or plans.default_cache_dir(),
        device=device,
    )
    found = run(plan, _out)
    path = write(found, out)
    report = markdown(found, draw(found, out))
    (out / "report.md").write_text(report, encoding="utf-8")
    typer.echo(report)
    _out.print(f"written to {path}")


@bench.command()
def route(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    keys: Annotated[
        str, typer.Option(help="Numbers of keys, and of codes.")
    ] = "10000,100000,1000000",
    width: Annotated[int, typer.Option(help="Of keys and queries.", min=1)] = 1024,
    batch: Annotated[int, typer.Option(help="Queries at once.", min=1)] = 32,
    rounds: Annotated[int, typer.Option(help="Batches at each size.", min=1)] = 50,
    threads: Annotated[int, typer.Option(help="Of FAISS; 0 takes all cores.", min=0)] = 0,
) -> None:
    """Times searches of synthetic keys, over all rows and in lists, and of allocation codes."""
    import faiss

    from errata.evaluation.edit.plan import parse_numbers
    from errata.evaluation.route_bench import RoutePlan, run

    if threads:
        faiss.omp_set_num_threads(threads)
    run(RoutePlan(parse_numbers(keys, "keys"), width, batch, rounds), out, _out)


@bench.command()
def observability(
    out: Annotated[Path, typer.Option(help="Folder for result.json.")],
    rounds: Annotated[int, typer.Option(help="In which each system is asked.", min=1)] = 7,
    requests: Annotated[int, typer.Option(help="Of a round, 16 at a time.", min=1)] = 300,
) -> None:
    """Measures what metrics and traces cost, in three systems side by side."""
    from errata.evaluation.observability_bench import run

    run(out, rounds=rounds, num_requests=requests, console=_out)


@bench.command()
def suites() -> None:
    """Lists what `errata bench edit --suite` can run."""
    from errata.evaluation.edit.suites import SUITES

    table = Table("suite", "what it runs", "methods")
    for name, suite in SUITES.items():
        table.add_row(name, suite.about, ", ".join(suite.methods) or "all")
    _out.print(table)


@bench.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `errata bench edit`.")],
    out: Annotated[Path | None, typer.Option(help="Folder for compare.md and a plot.")] = None,
) -> None:
    """Puts runs on the same model and data side by side."""
    from errata.evaluation.edit.compare import compared, read_runs
    from errata.evaluation.edit.plots import draw_compared

    found = read_runs(runs)
    report = compared(found)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        draw_compared(found, out / "compare.png")
        (out / "compare.md").write_text(f"{report}\n![Score](compare.png)\n", encoding="utf-8")
    typer.echo(report)
