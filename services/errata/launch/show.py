"""How answers, edits, replicas and log entries look on a terminal."""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import json
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from errata.launch.findings import Finding
from errata.launch.terminal import console
from errata.platform.settings import masked
from errata.platform.settings.report import SettingReport
from errata_client import (
    Answer,
    Compaction,
    Edit,
    EditState,
    Head,
    Lane,
    LogEntry,
    Replica,
    ReplicaAnswer,
    Reversal,
    Score,
)

T = TypeVar("T")


class _Table(Table):
    """A table whose strings are text: a name that came from outside may look like markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Adds a row of strings and of what rich can show."""
        super().add_row(*(Text(c) if isinstance(c, str) else c for c in cells), **options)


_LONG_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_STATE_STYLES = {
    EditState.COMMITTED: "green",
    EditState.REJECTED: "red",
    EditState.REVERTED: "yellow",
}


def short(digest: str) -> str:
    """Enough of a digest to compare by eye."""
    return digest[:12]


def edit_lines(edit: Edit) -> Group:
    """One edit."""
    lines = [
        Text.assemble(
            (edit.name, "bold"),
            " ",
            (edit.state.name.lower(), _STATE_STYLES.get(edit.state, "cyan")),
            f" in {edit.lane}",
        ),
        Text.assemble("  ", edit.spec.prompt, " → ", (edit.spec.target, "bold")),
    ]
    if edit.subject_found:
        lines.append(Text(f"  about {edit.spec.subject!r}, for no subject was named"))
    if edit.figures is not None:
        figures = edit.figures
        told = f"  reliability {figures.reliability:.2f}  locality {figures.locality:.2f}"
        if figures.generality is not None:
            told += f"  generality {figures.generality:.2f}"
        lines.append(Text(told))
        if figures.already_answered:
            lines.append(Text("  the model answered this before the edit", "yellow"))
    if edit.commit_seq:
        lines.append(Text(f"  every replica answers with it from seq {edit.commit_seq} on"))
    if edit.superseded_by:
        lines.append(Text(f"  superseded by {edit.superseded_by}", "yellow"))
    if edit.revert_seq:
        lines.append(Text(f"  reverted at seq {edit.revert_seq}"))
    if edit.error:
        lines.append(Text(f"  {edit.error}", "red"))
    return Group(*lines)


def answer_lines(prompt: str, answer: Answer) -> Group:
    """One answer with its provenance."""
    provenance = answer.provenance
    edits = ", ".join(provenance.edits) or "none"
    return Group(
        Text.assemble(prompt, (answer.text, "bold green")),
        Text(
            f"  seq {provenance.applied_seq}  state {short(provenance.state_digest)}  "
            f"{provenance.replica}\n  shaped by: {edits} "
            f"(of {provenance.num_edits_in_force} in force)"
            + ("; claims decided on the prompt's end alone" if provenance.prompt_cut else ""),
            "dim",
        ),
    )


def replica_table(replicas: Iterable[Replica], head: Head) -> Table:
    """Where the replicas stand."""
    table = _Table(title=f"head {head.seq}  {short(head.chain_digest)}  epoch {head.epoch}")
    for column in ("replica", "role", "seq", "lag", "history", "state", "agrees", "heard"):
        table.add_column(column)
    now = datetime.now(UTC)
    for replica in replicas:
        table.add_row(
            replica.name,
            replica.role,
            str(replica.applied_seq),
            str(replica.lag),
            short(replica.chain_digest),
            short(replica.state_digest),
            Text("yes", "green") if replica.agrees else Text("NO", "bold red"),
            f"{(now - replica.report_time).total_seconds():.1f} s ago",
        )
    return table


def count_states(edits: Iterable[Edit]) -> dict[str, int]:
    """How many edits stand in which state."""
    return dict(Counter(edit.state.name.lower() for edit in edits))


def status_lines(
    head: Head, replicas: Iterable[Replica], counts: Mapping[str, int], lanes: Sequence[Lane]
) -> Group:
    """Head, replicas, edits and lanes at a glance."""
    told = "  ".join(f"{state} {count}" for state, count in counts.items()) or "none"
    shown = list(replicas)
    return Group(
        replica_table(shown, head),
        Text(f"edits: {told}"),
        *(Text(f"{lane.name}: {_sizes(lane.sizes)}") for lane in lanes),
        *(
            Text(f"{replica.name}, on its device: {lane} {_sizes(sizes)}")
            for replica in shown
            for lane, sizes in sorted(replica.resident.items())
        ),
        *(Text(f"{lane.name}: {text}", "yellow") for lane in lanes for text in lane.warnings),
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {value:,}" for name, value in sorted(sizes.items()))


def edit_list(edits: Iterable[Edit]) -> Table:
    """Edits, a line each; times are this machine's."""
    table = _Table()
    for column in ("edit", "state", "lane", "asked for", "by", "correction", "what came of it"):
        table.add_column(column, overflow="fold", no_wrap=column in ("edit", "state"))
    for edit in edits:
        table.add_row(
            edit.name,
            Text(edit.state.name.lower(), _STATE_STYLES.get(edit.state, "cyan")),
            edit.lane.removeprefix("lanes/"),
            f"{edit.request_time.astimezone():%Y-%m-%d %H:%M}",
            edit.author,
            Text.assemble(edit.spec.prompt, " → ", (edit.spec.target, "bold")),
            _outcome(edit),
        )
    return table


def _outcome(edit: Edit) -> Text:
    if edit.error:
        return Text(edit.error, "red")
    told = []
    if edit.commit_seq:
        told.append(f"from seq {edit.commit_seq} on")
    if edit.revert_seq:
        told.append(f"until seq {edit.revert_seq}")
    if edit.superseded_by:
        told.append(f"superseded by {edit.superseded_by}")
    return Text(", ".join(told))


def score_table(score: Score) -> Group:
    """A scored continuation, token by token."""
    table = _Table()
    for column in ("token", "log p", "model's own"):
        table.add_column(column)
    for token in score.tokens:
        same = token.token_id == token.argmax_token_id
        table.add_row(
            repr(token.token),
            f"{token.log_probability:.3f}",
            Text(repr(token.argmax_token), "green" if same else "red"),
        )
    return Group(table, Text(f"log p of all {score.log_probability:.3f}"))


def reversal_lines(reversal: Reversal) -> Group:
    """What was taken back, and what that means."""
    return Group(
        Text(f"without effect from seq {reversal.seq} on", "bold"),
        *(Text(f"  {meaning}") for meaning in reversal.meanings),
    )


def compaction_lines(made: Compaction, now: Lane) -> Group:
    """A compaction, and what it did to the lane's sizes."""
    lines = [Text(f"compacted at seq {made.seq}", "bold")]
    if made.before is not None and made.after is not None:
        for metric in ("reliability", "locality"):
            before, after = getattr(made.before, metric), getattr(made.after, metric)
            lines.append(Text(f"  {metric} {before:.3f} → {after:.3f}"))
    for name, size in sorted(now.sizes.items()):
        before = made.sizes_before.get(name, size)
        lines.append(Text(f"  {name} {before:,} → {size:,}"))
    return Group(*lines)


def lane_table(lanes: Iterable[Lane]) -> Table:
    """The lanes."""
    table = _Table()
    for column in ("lane", "method", "default", "since seq", "holds"):
        table.add_column(column, overflow="fold")
    for lane in lanes:
        default = "yes" if lane.is_default else ""
        table.add_row(lane.name, lane.method, default, str(lane.configured_seq), _sizes(lane.sizes))
    return table


def lane_config_table(lane: Lane) -> Table:
    """One lane's configuration, as the log has it."""
    table = _Table(title=Text(f"{lane.name}: {lane.method}, since seq {lane.configured_seq}"))
    for column in ("key", "value"):
        table.add_column(column, overflow="fold")
    for key, value in json.loads(lane.config_json).items():
        table.add_row(key, json.dumps(value))
    return table


def config_table(settings: Iterable[SettingReport]) -> Table:
    """Every setting with its value, its origin and what it is."""
    table = _Table()
    for column in ("setting", "value", "from", "what it is"):
        table.add_column(column, overflow="fold")
    for item in settings:
        value = "" if item.value is None else str(item.value)
        table.add_row(item.setting, value, item.origin, item.description)
    return table


def version_lines() -> str:
    """Of this installation, without importing what is told about."""
    told = [f"Python {platform.python_version()}"]
    for package in ("errata-client", "torch", "transformers", "ray", "grpcio"):
        try:
            told.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            told.append(f"{package} is not installed")
    return "\n".join([f"errata {importlib.metadata.version('errata')}", *told])


def doctor_table(findings: Iterable[Finding]) -> Table:
    """What was checked, what was found, and what to do."""
    table = _Table(show_lines=False)
    for column in ("", "checked", "found", "what to do"):
        table.add_column(column, overflow="fold")
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        grade = Text(finding.grade, styles[finding.grade])
        table.add_row(grade, finding.name, masked(finding.found), finding.remedy)
    return table


def entry_table(entries: Iterable[LogEntry]) -> Table:
    """Log entries."""
    table = _Table()
    for column in ("seq", "time", "kind", "edits", "history", "by", "detail"):
        table.add_column(column, overflow="fold", no_wrap=column in ("seq", "time"))
    for entry in entries:
        table.add_row(
            str(entry.seq),
            entry.append_time.strftime("%H:%M:%S"),
            entry.kind.removeprefix("edits_").replace("_", " ") or "unknown",
            _some(entry.edits),
            short(entry.chain_digest),
            entry.author,
            _LONG_DIGEST.sub(lambda match: short(match.group()), entry.detail),
        )
    return table


def everywhere_table(title: str, answers: Iterable[ReplicaAnswer]) -> Table:
    """What every replica answers."""
    table = _Table(title=Text(title), title_justify="left", title_style="bold")
    for column in ("replica", "answer", "seq", "history", "state", "shaped by"):
        table.add_column(column)
    for item in answers:
        if item.answer is None:
            table.add_row(item.replica, Text(item.error, "red"))
            continue
        provenance = item.answer.provenance
        table.add_row(
            item.replica,
            Text(item.answer.text.strip(), "bold green"),
            str(provenance.applied_seq),
            short(provenance.chain_digest),
            short(provenance.state_digest),
            _some(provenance.edits) or "–",
        )
    return table


def print_result(as_json: bool, value: T, render: Callable[[T], RenderableType]) -> None:
    """Prints a command's result on standard output.

    Args:
        as_json: whether as JSON.
        value: one of the SDK's values, or a list of them.
        render: how the value looks on a terminal.
    """
    if as_json:
        print_json(console(), value)
    else:
        console().print(render(value))


def print_json(out: Console, value: Any) -> None:
    """Prints any of the SDK's values, or a list of them, as JSON."""
    out.print_json(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)})" if len(names) > 4 else shown
