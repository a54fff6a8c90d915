"""How a plan looks on a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from errata.editing.lane.needs import Place, Work
from errata.launch.output import TextTable, line, lines
from errata.launch.plan.plan import Plan, Service

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(num_bytes: int) -> str:
    """Bytes with a decimal unit and three digits: 1 MB is 10⁶ bytes."""
    value, unit = float(num_bytes), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {_UNITS[unit]}"


def plan_lines(plan: Plan, *, only_totals: bool) -> RenderableType:
    """The totals of every service, and each part with its formula."""
    parts: list[RenderableType] = [_headline(plan), totals_table(plan)]
    if not only_totals:
        parts += [_parts_table(service) for service in plan.services]
        parts.append(_work_table(plan))
    parts += [line((f"warning: {text}", "yellow")) for text in plan.warnings]
    return Group(*parts)


def _headline(plan: Plan) -> Text:
    model, load = plan.model, plan.load
    names = ", ".join(f"{lane.name} ({lane.method.name})" for lane in plan.lanes)
    return lines(
        (
            line(
                f"{model.name}: {model.num_parameters:,} parameters in {str(model.dtype)[6:]}, "
                f"{model.num_layers} layers, d {model.d:,}, d_ff {model.d_ff:,}, V "
                f"{model.num_embeddings:,}"
            ),
            line(f"{load.num_edits:,} edits of {load.text_tokens} tokens in each of: {names}"),
            line(f"{load.rows} rows run at once; device {load.device}"),
        )
    )


def totals_table(plan: Plan) -> Table:
    """One row for each service: what one process takes, all the time and at the highest."""
    table = TextTable(title="one process of each service", title_justify="left")
    on_cpu = plan.load.device == "cpu"
    memory = ("memory",) if on_cpu else ("device", "host")
    for column in ("service", "processes", *memory, *(f"{m}, highest" for m in memory), "disk"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for service in plan.services:
        places = [("device", "host")] if on_cpu else [("device",), ("host",)]
        held = [size(service.held(*place)) for place in places]
        peak = [size(service.peak(*place)) for place in places]
        processes = str(service.count) if service.count else "0 (optional)"
        table.add_row(service.name, processes, *held, *peak, size(service.held("disk")))
    return table


def _parts_table(service: Service) -> Table:
    table = TextTable(title=line((service.name, "bold")), title_justify="left")
    for column in ("of", "what", "bytes", "where", "during", "formula"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for part in service.parts:
        need = part.need
        about = "≈ " if need.is_estimate else ""
        when = need.during or "always"
        table.add_row(
            part.owner,
            need.name,
            about + size(need.num_bytes),
            need.place,
            when,
            need.formula,
        )
    return table


def _work_table(plan: Plan) -> Table:
    table = TextTable(title=line(("operations, not seconds", "bold")), title_justify="left")
    for column in ("of", "what", "operations", "formula"):
        table.add_column(column, justify="right" if column == "operations" else "left")
    for owner, works in plan.work.items():
        for work in works:
            table.add_row(owner, work.name, f"{work.operations:.2e}", work.formula)
    return table


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs; sizes are bytes."""
    model, load = plan.model, plan.load
    return {
        "model": {
            "name": model.name,
            "dtype": str(model.dtype)[6:],
            "parameters": model.num_parameters,
            "layers": model.num_layers,
            "d": model.d,
            "d_ff": model.d_ff,
            "vocabulary": model.num_embeddings,
        },
        "edits": load.num_edits,
        "text_tokens": load.text_tokens,
        "device": load.device,
        "lanes": [
            {
                "name": lane.name,
                "method": lane.method.name,
                "config": lane.config.model_dump(mode="json"),
            }
            for lane in plan.lanes
        ],
        "services": [_service(service) for service in plan.services],
        "operations": {owner: _works(works) for owner, works in plan.work.items()},
        "warnings": list(plan.warnings),
    }


def _service(service: Service) -> dict[str, Any]:
    places: tuple[Place, ...] = ("device", "host", "disk")
    return {
        "name": service.name,
        "processes": service.count,
        "bytes": {place: service.held(place) for place in places},
        "highest": {place: service.peak(place) for place in places},
        "parts": [
            {
                "of": part.owner,
                "what": part.need.name,
                "bytes": part.need.num_bytes,
                "where": part.need.place,
                "during": part.need.during or "always",
                "formula": part.need.formula,
                "estimate": part.need.is_estimate,
            }
            for part in service.parts
        ],
    }


def _works(works: Iterable[Work]) -> list[dict[str, Any]]:
    return [
        {"what": work.name, "operations": work.operations, "formula": work.formula}
        for work in works
    ]
