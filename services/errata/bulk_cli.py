"""`errata import`, `errata export`, `errata diff`: many edits at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from errata.bulk import difference, exporter
from errata.bulk.columns import Columns
from errata.bulk.fates import Report, report_file
from errata.bulk.files import FORMATS, read_corrections
from errata.bulk.importer import Importer, ImportPlan
from errata.bulk.row import (
    Conflict,
    Row,
    conflicts,
    last_of_each,
    with_canary,
    with_namespace,
    with_source,
)
from errata.bulk.trials import Ends, ends_of, in_open_canaries
from errata.cli_options import DEFAULT_TARGET, AuthorOption, JsonOption, TargetOption, TimeoutOption
from errata.errors import InvalidRequestError
from errata.launch.output import TextTable, line, lines, print_result
from errata.launch.terminal import console
from errata.platform.typed import canary_of
from errata_client import AsyncClient, Client, Edit

_SHOWN = 10  # problems in one message

ColumnOption = Annotated[
    list[str] | None,
    typer.Option(help="FIELD=NAME: the field is in the column of that name; repeatable."),
]
OnConflict = Literal["refuse", "last", "all"]
KindOption = Annotated[
    str, typer.Option("--format", help=f"{', '.join(FORMATS)}; by the file's name if empty.")
]
IgnoreOption = Annotated[
    bool, typer.Option("--ignore-other-columns", help="Columns that are no field are left out.")
]
SkipOption = Annotated[
    bool, typer.Option("--skip-invalid", help="Leave out rows that are no correction.")
]
ConflictOption = Annotated[
    OnConflict,
    typer.Option(
        help="Rows that correct one prompt to different targets: refuse the file, send the last of "
        "them, or send all in the file's order."
    ),
]
LaneOption = Annotated[
    str,
    typer.Option(
        help="Lane, as lanes/{lane}; if empty, that of each row or its canary, or the default lane."
    ),
]
RateOption = Annotated[float, typer.Option(help="Most rows a second; 0 for no limit.", min=0)]
InFlightOption = Annotated[
    int, typer.Option(help="Most rows that wait to be fitted at once.", min=1)
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="End once all rows are durable in the log.")
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Write what became of each row, as JSON lines.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read the file, send nothing.")]


def import_(
    file: Annotated[Path, typer.Argument(help="File of corrections.")],
    kind: KindOption = "",
    column: ColumnOption = None,
    ignore_other_columns: IgnoreOption = False,
    encoding: Annotated[str, typer.Option(help="Of a text file.")] = "utf-8",
    skip_invalid: SkipOption = False,
    on_conflict: ConflictOption = "refuse",
    source: Annotated[str, typer.Option(help="Source of rows that name none.")] = "",
    namespace: Annotated[str, typer.Option(help="Namespace of rows that name none.")] = "",
    canary: Annotated[str, typer.Option(help="Open canary of rows that name none.")] = "",
    lane: LaneOption = "",
    rate: RateOption = 0.0,
    in_flight: InFlightOption = 64,
    no_wait: NoWaitOption = False,
    report: ReportOption = None,
    dry_run: DryRunOption = False,
    *,
    author: AuthorOption,
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Submits a file of corrections; run it again to go on after an interruption.

    Each row has a request id that follows from its content, lane and author, so no row is sent a
    second time. Nothing is sent before the whole file is read.
    """
    rows = _rows(file, kind, _columns(column, ignore_other_columns), encoding, skip_invalid)
    rows = with_canary(with_namespace(rows, namespace), canary_of(canary))
    rows = with_source(_without_conflicts(rows, on_conflict), source)
    if dry_run:
        console().print(f"{len(rows):,} rows can be sent")
        return
    plan = ImportPlan(lane, author, rate, in_flight, wait=not no_wait)
    begun = time.monotonic()
    with report_file(report) as found:
        try:
            asyncio.run(_import(rows, plan, found, target, timeout))
        finally:
            seconds = time.monotonic() - begun
            print_result(as_json, dict(found.counts), lambda _: _summary(found, len(rows), seconds))
    if found.num_failed:
        raise typer.Exit(1)


def export(
    out: Annotated[Path, typer.Argument(help="File to write.")],
    kind: Annotated[
        Literal["", "jsonl", "csv", "parquet"],
        typer.Option("--format", help="By the file's name if empty."),
    ] = "",
    lane: Annotated[str, typer.Option(help="Only edits of this lane, as lanes/{lane}.")] = "",
    namespace: Annotated[
        str | None,
        typer.Option(help="Only edits of this namespace; `default` is the default one."),
    ] = None,
    timeout: TimeoutOption = 30.0,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Writes all edits with state, figures and provenance; `errata import` reads the file."""
    chosen = kind or out.suffix.lower().removeprefix(".")
    if chosen not in exporter.FORMATS:
        raise InvalidRequestError(
            f"the format of {out.name} is not known; name it with --format: one of "
            f"{', '.join(exporter.FORMATS)}.",
            field="format",
        )
    with Client(target, timeout=timeout) as client:
        edits = client.list_edits(lane=lane, namespace=namespace)
        number = exporter.export(in_open_canaries(edits, lambda: _ends(client)), out, chosen)
    console().print(f"{number:,} edits written to {out}")


def diff(
    first: Annotated[str, typer.Argument(help="Position of the log, or host:port of a system.")],
    second: Annotated[str, typer.Argument(help="Position of the log, or host:port of a system.")],
    lane: Annotated[str, typer.Option(help="Only edits of this lane, as lanes/{lane}.")] = "",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Shows which corrections are in force at one of two positions, or systems, only."""
    if first.isdecimal() != second.isdecimal():
        raise InvalidRequestError(
            "compare two positions of one log, or two systems; not one with the other.",
            field="second",
        )
    if first.isdecimal():
        edits, ends = _edits(target, lane, timeout)
        found = difference.between_positions(edits, int(first), int(second), ends)
    else:
        pair = [_in_force(each, lane, timeout) for each in (first, second)]
        found = difference.between_deployments(*pair)
    print_result(as_json, found, lambda _: _differences(found))


def _columns(column: Sequence[str] | None, ignore_others: bool) -> Columns:
    named = {}
    for given in column or ():
        field, equals, name = given.partition("=")
        if not equals or not name:
            raise InvalidRequestError(
                f"--column {given!r} is not FIELD=NAME, such as prompt=question.", field="column"
            )
        named[field] = name
    return Columns(named, ignore_others=ignore_others)


def _rows(
    file: Path, kind: str, columns: Columns, encoding: str, skip_invalid: bool
) -> Sequence[Row]:
    if kind not in ("", *FORMATS):
        raise InvalidRequestError(
            f"--format {kind!r} is not known; choose one of {', '.join(FORMATS)}.", field="format"
        )
    found = read_corrections(file, columns, kind=kind, encoding=encoding)
    if found.problems and not skip_invalid:
        raise InvalidRequestError(
            f"{len(found.problems):,} rows of {file} are no corrections: "
            f"{_some(found.problems)}. Nothing was sent; correct them, or leave them out with "
            "--skip-invalid.",
            field="file",
        )
    if found.withdrawn:
        console(stderr=True).print(f"left out: {found.withdrawn:,} rejected or reverted edits")
    for problem in found.problems[:_SHOWN]:
        console(stderr=True).print(f"left out: {problem}")
    if len(found.problems) > _SHOWN:
        console(stderr=True).print(f"left out: {len(found.problems) - _SHOWN:,} more")
    return found.rows


def _without_conflicts(rows: Sequence[Row], on_conflict: OnConflict) -> Sequence[Row]:
    found = conflicts(rows) if on_conflict != "all" else []
    if not found:
        return rows
    if on_conflict == "last":
        return last_of_each(rows)
    raise InvalidRequestError(
        f"{len(found):,} prompts are corrected to different targets: "
        f"{_some([_told(conflict) for conflict in found])}. Nothing was sent; correct the file, "
        "or choose --on-conflict last or all.",
        field="file",
    )


def _told(conflict: Conflict) -> str:
    targets = ", ".join(f"{target!r} in row {number}" for number, target in conflict.rows[:3])
    return f"{conflict.prompt!r} has {targets}"


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


async def _import(
    rows: Sequence[Row], plan: ImportPlan, report: Report, target: str, timeout: float
) -> None:
    out = console(stderr=True)
    with ExitStack() as stack:
        advance = None
        if out.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            progress = stack.enter_context(Progress(*columns, console=out, transient=True))
            task = progress.add_task("", total=len(rows))
            advance = lambda: progress.advance(task)  # noqa: E731
        async with AsyncClient(target, timeout=timeout) as client:
            await Importer(client, plan, report, advance or (lambda: None)).run(rows)


def _summary(report: Report, total: int, seconds: float) -> RenderableType:
    done = report.counts.total()
    shown = [line(f"{outcome:<10} {number:,}") for outcome, number in report.counts.most_common()]
    for fate in report.failed:
        shown.append(line(f"row {fate.row}: {fate.outcome}: {fate.message or fate.reason}"))
    if report.num_failed > len(report.failed):
        shown.append(line(f"and {report.num_failed - len(report.failed):,} more; see --report"))
    rate = done / seconds if seconds else 0.0
    shown.append(line(f"{done:,} of {total:,} rows in {seconds:.1f} s ({rate:,.1f} a second)"))
    if done < total:
        shown.append(line("run the same command again to go on"))
    return lines(shown)


def _edits(target: str, lane: str, timeout: float) -> tuple[list[Edit], Ends]:
    """All edits, and where canaries ended if any of them had one."""
    with Client(target, timeout=timeout) as client:
        edits = list(client.list_edits(lane=lane))
        return edits, _ends(client) if any(edit.spec.canary for edit in edits) else {}


def _ends(client: Client) -> Ends:
    return ends_of(client.list_canaries())


def _in_force(target: str, lane: str, timeout: float) -> list[Edit]:
    edits, ends = _edits(target, lane, timeout)
    found = in_open_canaries(edits, lambda: ends)
    return [edit for edit in found if edit.commit_seq and not edit.revert_seq]


def _differences(found: Sequence[difference.Difference]) -> RenderableType:
    if not found:
        return line("no difference")
    table = TextTable("", "edit", "lane", "prompt", "target")
    for each in found:
        sign = "+" if each.kind == "added" else "-"
        spec = each.edit.spec
        where = " · ".join(filter(None, (each.edit.lane, each.canary)))
        table.add_row(sign, each.edit.name, where, str(spec.prompt), spec.target)
    return table
