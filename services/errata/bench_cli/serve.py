"""`errata bench serve`: throughput and latency as ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from errata import demo
from errata.cli_options import DeviceOption
from errata.evaluation.edit.plan import parse_values, read_values
from errata.launch.terminal import console


class ServeSuite(StrEnum):
    """What `errata bench serve` can measure."""

    BASELINE = "baseline"
    MIXED = "mixed"
    UNCLAIMED = "unclaimed"
    ROUTED = "routed"
    LOAD = "load"
    HTTP = "http"
    SECURE = "secure"
    ATTACK = "attack"
    IMPORT = "import"
    CANARY = "canary"


class Api(StrEnum):
    """The API over which a load run asks."""

    GRPC = "grpc"
    HTTP = "http"


SuiteOption = Annotated[
    ServeSuite,
    typer.Option(
        help="baseline: against transformers' static batches. mixed: a batch with rows of every "
        "kind, against hooks off. unclaimed: 10,000 active edits, against none. routed: 5,000 "
        "edits of a lane that claims all rows or none, against none. load: the whole system while "
        "edits arrive, against the same without edits. http: the HTTP API, against gRPC. secure: "
        "TLS, tokens and an audit log, against a system without. attack: latencies of an honest "
        "client beside an attacker, against those without him. import: latencies while a file of "
        "10,000 edits is imported, killed and resumed, against those without. canary: an open "
        "canary, against none, and who of 10,000 keys is in it."
    ),
]
EngineOption = Annotated[
    str, typer.Option(help="Engine of the workers, by name.", envvar="ERRATA_WORKER__ENGINE")
]
EngineOptionsOption = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE for that engine; repeatable.")
]
OutOption = Annotated[Path, typer.Option(help="Folder for result.json and plots.")]
ModelOption = Annotated[str, typer.Option(help="Folder or hub id; the demo model if empty.")]
DtypeOption = Annotated[str, typer.Option(help="Data type of the weights.")]
RoundsOption = Annotated[int, typer.Option(help="Alternations with the baseline.", min=1)]
RequestsOption = Annotated[
    int, typer.Option(help="Requests in one round; for load, the maximum in all slices.", min=1)
]
ConcurrencyOption = Annotated[
    int,
    typer.Option(help="Requests in flight; those without one of the engine's 32 rows wait.", min=1),
]
EditsOption = Annotated[
    int,
    typer.Option(
        help="unclaimed, routed: active edits; import: rows; canary: keys; 0 for the numbers "
        "above.",
        min=0,
    ),
]
MethodOption = Annotated[str, typer.Option(help="routed: recipe, elder or lemoe.")]
LaneConfigOption = Annotated[
    Path | None, typer.Option(help="routed: TOML or JSON with the lane's values.")
]
LaneModelOption = Annotated[
    Path | None, typer.Option(help="routed: folder that `errata train recipe` made.")
]
ExpertsOption = Annotated[
    int, typer.Option(help="routed, lemoe: number of experts that share the edits.", min=1)
]
ReplicasOption = Annotated[int, typer.Option(help="load, http: number of LLM replicas.", min=1)]
RateOption = Annotated[float, typer.Option(help="load: requests per second.", min=0.01)]
EditRateOption = Annotated[float, typer.Option(help="load: edits per second.", min=0)]
SecondsOption = Annotated[float, typer.Option(help="load: how long requests arrive.", min=1)]
MinTokensOption = Annotated[int, typer.Option(help="load: tokens of the shortest answer.", min=1)]
MaxTokensOption = Annotated[int, typer.Option(help="load: tokens of the longest answer.", min=1)]
TextOption = Annotated[
    Path | None, typer.Option(help="load, http: statistics text for a model of your own.")
]
TargetOption = Annotated[str, typer.Option(help="load, http: address of a running system.")]
ApiOption = Annotated[
    Api,
    typer.Option(help="load: the API of requests; over http, in chats if the model takes them."),
]
HttpUrlOption = Annotated[
    str, typer.Option(help="load, http: URL of the running system's HTTP API.")
]
LaneOption = Annotated[
    str, typer.Option(help="load: lane that takes the edits; the default lane if empty.")
]
RetrievalOption = Annotated[
    bool, typer.Option("--retrieval", help="load: workers ask a retrieval service.")
]


def serve(
    suite: SuiteOption,
    out: OutOption,
    model: ModelOption = "",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "cpu",
    rounds: RoundsOption = 5,
    requests: RequestsOption = 96,
    concurrency: ConcurrencyOption = 32,
    edits: EditsOption = 0,
    method: MethodOption = "recipe",
    lane_config: LaneConfigOption = None,
    lane_model: LaneModelOption = None,
    experts: ExpertsOption = 8,
    replicas: ReplicasOption = 2,
    rate: RateOption = 8.0,
    edit_rate: EditRateOption = 0.5,
    seconds: SecondsOption = 40.0,
    min_tokens: MinTokensOption = 4,
    max_tokens: MaxTokensOption = 32,
    text: TextOption = None,
    target: TargetOption = "",
    api: ApiOption = Api.GRPC,
    http_url: HttpUrlOption = "",
    lane: LaneOption = "",
    retrieval: RetrievalOption = False,
    engine: EngineOption = "errata",
    engine_option: EngineOptionsOption = None,
) -> None:
    """Measures throughput and latency as ratios in one run; writes OUT/result.json."""
    options = parse_values(engine_option or (), "--engine-option")
    named = (engine, {key: str(value) for key, value in options.items()})
    system = (model, text, replicas, retrieval, *named)
    running = {"target": target, "http_url": http_url}
    client = {"rounds": rounds, "requests": requests, "concurrency": concurrency}
    if suite is ServeSuite.LOAD:
        found = _load(
            system,
            **running,
            out=out,
            api=api.value,
            lane=lane,
            rate=rate,
            edit_rate=edit_rate,
            seconds=seconds,
            max_tokens=(min(min_tokens, max_tokens), max_tokens),
            max_requests=max(requests, round(2 * rate * seconds)),
        )
    elif suite is ServeSuite.HTTP:
        found = _http(system, **running, **client)
    elif suite in _BESIDE:
        found = _BESIDE[suite](system, **client)
    elif suite in _IN_LANE:
        found = _IN_LANE[suite](system, edits or 10_000, lane or "lanes/facts", **client)
    else:
        values = read_values(lane_config) if lane_config else {}
        machine = (model or str(demo.model_path()), dtype, device, rounds)
        routed = (method, values, lane_model, edits or 5_000, experts)
        found = _engine(suite, machine, (requests, concurrency), edits or 10_000, routed, named)
    _report(found, out)


def _load(system: tuple[Any, ...], **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.load import run_load
    from errata.evaluation.serve.load_plan import LoadPlan
    from errata.evaluation.serve.own_system import OwnSystem

    return run_load(LoadPlan(system=OwnSystem(*system), **values), console=console())


def _http(system: tuple[Any, ...], **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.http_bench import HttpPlan, run_http
    from errata.evaluation.serve.own_system import OwnSystem

    return run_http(HttpPlan(OwnSystem(*system), **values), console=console())


def _secure(system: tuple[Any, ...], **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.own_system import OwnSystem
    from errata.evaluation.serve.secure_bench import SecurePlan, run_secure

    return run_secure(SecurePlan(OwnSystem(*system), **values), console=console())


def _attack(system: tuple[Any, ...], **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.attack_bench import AttackPlan, run_attack
    from errata.evaluation.serve.own_system import OwnSystem

    return run_attack(AttackPlan(OwnSystem(*system), **values), console=console())


def _import(system: tuple[Any, ...], rows: int, lane: str, **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.import_bench import ImportPlan, run_import
    from errata.evaluation.serve.own_system import OwnSystem

    return run_import(ImportPlan(OwnSystem(*system), rows, lane, **values), console=console())


def _canary(system: tuple[Any, ...], keys: int, lane: str, **values: Any) -> dict[str, Any]:
    from errata.evaluation.serve.canary_bench import CanaryPlan, run_canary
    from errata.evaluation.serve.own_system import OwnSystem

    return run_canary(CanaryPlan(OwnSystem(*system), keys, lane, **values), console=console())


_BESIDE = {ServeSuite.SECURE: _secure, ServeSuite.ATTACK: _attack}
_IN_LANE: dict[ServeSuite, Callable[..., dict[str, Any]]] = {
    ServeSuite.IMPORT: _import,
    ServeSuite.CANARY: _canary,
}


def _engine(
    suite: ServeSuite,
    machine: tuple[str, str, str, int],
    requests: tuple[int, int],
    edits: int,
    lane: tuple[Any, ...],
    engine: tuple[str, Mapping[str, str]],
) -> dict[str, Any]:
    from errata.evaluation.serve.engine_bench import EnginePlan
    from errata.evaluation.serve.engine_suites import run
    from errata.evaluation.serve.routed import SyntheticLane
    from errata.evaluation.serve.workload import Workload

    plan = EnginePlan(
        *machine,
        Workload(*requests),
        edits,
        lane=SyntheticLane(*lane),
        engine=engine[0],
        engine_options=engine[1],
    )
    return run(suite.value, plan, console=console())


def _report(found: Mapping[str, Any], out: Path) -> None:
    from errata.evaluation.report import write
    from errata.evaluation.serve import report

    path = write(found, out)
    console().print(report.terminal_table(found))
    console().print(f"written to {path}")
