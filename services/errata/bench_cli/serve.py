"""`errata bench serve`: throughput and latency as ratios, in five suites."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from errata import demo
from errata.evaluation.edit.plan import read_values

_out = Console()


class Suite(StrEnum):
    """What `errata bench serve` can measure."""

    BASELINE = "baseline"
    MIXED = "mixed"
    UNCLAIMED = "unclaimed"
    ROUTED = "routed"
    LOAD = "load"


SuiteName = Annotated[
    Suite,
    typer.Option(
        help="baseline: against transformers' static batches. mixed: a batch with rows of every "
        "kind, against hooks off. unclaimed: 10,000 active edits, against none. routed: 5,000 "
        "edits of a lane that claims all rows or none, against none. load: the whole system over "
        "gRPC while edits arrive, against the same without edits."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for result.json and plots.")]
Model = Annotated[str, typer.Option(help="Folder or hub id; the demo model if empty.")]
Dtype = Annotated[str, typer.Option(help="Data type of the weights.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Rounds = Annotated[int, typer.Option(help="Alternations with the baseline.", min=1)]
Requests = Annotated[
    int, typer.Option(help="Requests in one round; for load, at most so many in all.", min=1)
]
Concurrency = Annotated[
    int,
    typer.Option(help="Requests in flight; those without one of the engine's 32 rows wait.", min=1),
]
Edits = Annotated[
    int, typer.Option(help="unclaimed, routed: active edits; 0 for the numbers above.", min=0)
]
Method = Annotated[str, typer.Option(help="routed: recipe, elder or lemoe.")]
LaneConfig = Annotated[
    Path | None, typer.Option(help="routed: TOML or JSON with the lane's values.")
]
LaneModel = Annotated[
    Path | None, typer.Option(help="routed: folder that `errata train recipe` made.")
]
Experts = Annotated[
    int, typer.Option(help="routed, lemoe: number of experts that share the edits.", min=1)
]
Replicas = Annotated[int, typer.Option(help="load: number of LLM replicas.", min=1)]
Rate = Annotated[float, typer.Option(help="load: requests per second.", min=0.01)]
EditRate = Annotated[float, typer.Option(help="load: edits per second.", min=0)]
Seconds = Annotated[float, typer.Option(help="load: how long requests arrive.", min=1)]
MinTokens = Annotated[int, typer.Option(help="load: tokens of the shortest answer.", min=1)]
MaxTokens = Annotated[int, typer.Option(help="load: tokens of the longest answer.", min=1)]
Text = Annotated[Path | None, typer.Option(help="load: statistics text for a model of your own.")]
Target = Annotated[str, typer.Option(help="load: address of a running system.")]
Lane = Annotated[
    str, typer.Option(help="load: lane that takes the edits; the default lane if empty.")
]
Retrieval = Annotated[
    bool, typer.Option("--retrieval", help="load: workers ask a retrieval service.")
]


def serve(
    suite: SuiteName,
    out: Out,
    model: Model = "",
    dtype: Dtype = "float32",
    device: Device = "cpu",
    rounds: Rounds = 5,
    requests: Requests = 96,
    concurrency: Concurrency = 32,
    edits: Edits = 0,
    method: Method = "recipe",
    lane_config: LaneConfig = None,
    lane_model: LaneModel = None,
    experts: Experts = 8,
    replicas: Replicas = 2,
    rate: Rate = 8.0,
    edit_rate: EditRate = 0.5,
    seconds: Seconds = 40.0,
    min_tokens: MinTokens = 4,
    max_tokens: MaxTokens = 32,
    text: Text = None,
    target: Target = "",
    lane: Lane = "",
    retrieval: Retrieval = False,
) -> None:
    """Measures throughput and latency as ratios in one run; writes OUT/result.json."""
    from errata.evaluation.serve.engine_bench import EnginePlan
    from errata.evaluation.serve.engine_suites import run
    from errata.evaluation.serve.load import run_load
    from errata.evaluation.serve.load_plan import LoadPlan
    from errata.evaluation.serve.routed import SyntheticLane
    from errata.evaluation.serve.workload import Workload

    if suite is Suite.LOAD:
        load_plan = LoadPlan(
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
        )
        _report(run_load(load_plan, console=_out), out)
        return
    values = read_values(lane_config) if lane_config else {}
    routed = SyntheticLane(method, values, lane_model, edits or 5_000, experts)
    workload = Workload(num_requests=requests, concurrency=concurrency)
    path = model or str(demo.model_path())
    plan = EnginePlan(path, dtype, device, rounds, workload, edits or 10_000, lane=routed)
    _report(run(suite.value, plan, console=_out), out)


def _report(found: Mapping[str, Any], out: Path) -> None:
    from errata.evaluation.report import write
    from errata.evaluation.serve import report

    path = write(found, out)
    _out.print(report.table(found))
    _out.print(f"written to {path}")
