"""How answers, edits, replicas and log entries look on a terminal."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from errata.launch.output import TextTable, line, lines, quoted
from errata_client import (
    Answer,
    Chat,
    Compaction,
    Conflict,
    Edit,
    EditState,
    Head,
    Lane,
    LogEntry,
    Prompt,
    Provenance,
    Replica,
    ReplicaAnswer,
    Reversal,
    Review,
    Score,
)

_LONG_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_STATE_STYLES = {
    EditState.COMMITTED: "green",
    EditState.REJECTED: "red",
    EditState.REVERTED: "yellow",
    EditState.WITHDRAWN: "yellow",
}


def short(digest: str) -> str:
    """The first characters of a digest, enough to compare by eye."""
    return digest[:12]


def edit_lines(edit: Edit) -> Group:
    """One edit with its state, figures and error."""
    rows = [
        line(
            (edit.name, "bold"),
            " ",
            (edit.state.name.lower(), _STATE_STYLES.get(edit.state, "cyan")),
            f" in {edit.lane}",
            f", namespace {edit.spec.namespace}" if edit.spec.namespace else "",
            f", of {edit.spec.canary}" if edit.spec.canary else "",
        ),
        line("  ", prompt_text(edit.spec.prompt), " → ", (edit.spec.target, "bold")),
    ]
    if edit.subject_found:
        rows.append(line(f"  subject {edit.spec.subject!r}, found in the prompt"))
    if edit.figures is not None:
        figures = edit.figures
        figures_line = f"  reliability {figures.reliability:.2f}  locality {figures.locality:.2f}"
        if figures.generality is not None:
            figures_line += f"  generality {figures.generality:.2f}"
        rows.append(line(figures_line))
        if figures.already_answered:
            rows.append(line(("  the model answered this before the edit", "yellow")))
    if edit.state is EditState.PROPOSED:
        rows.append(line(("  waits for approval, and has no effect yet", "yellow")))
    if edit.state is EditState.SCHEDULED:
        rows.append(line((f"  waits until {local_time(edit.spec.effective_from)}", "yellow")))
    if edit.spec.expires_at is not None:
        rows.append(line(f"  expires at {local_time(edit.spec.expires_at)}"))
    if edit.review is not None:
        rows.append(review_line(edit.review))
    if edit.commit_seq:
        whom = f", for the requests in {edit.spec.canary} until that ends"
        effect = f"  every replica answers with it from seq {edit.commit_seq} on"
        rows.append(line(effect + (whom if edit.spec.canary else "")))
    if edit.superseded_by:
        rows.append(line((f"  superseded by {edit.superseded_by}", "yellow")))
    if edit.revert_seq:
        rows.append(line(f"  reverted at seq {edit.revert_seq}"))
    if edit.error:
        rows.append(line((f"  {edit.error}", "red")))
    return Group(*rows, *map(conflict_line, edit.conflicts))


def local_time(time: datetime | None) -> str:
    """A time in this machine's time zone, or in its own where that has no such year."""
    if time is None:
        return ""
    try:
        time = time.astimezone()
    except (OverflowError, ValueError):
        pass
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def review_line(review: Review) -> Text:
    """A decision on an edit, on one line."""
    said = f": {review.comment}" if review.comment else ""
    return line(f"  decided at seq {review.seq} by {review.reviewer}{said}")


def conflict_line(conflict: Conflict) -> Text:
    """An earlier edit on the same matter, on one line."""
    what = {
        "supersedes": "it answers instead of",
        "contradicts": "it contradicts",
        "repeats": "it repeats",
    }.get(conflict.kind, "it is about the same as")
    told = f"{conflict.edit} ({conflict.state.name.lower()} in {conflict.lane})"
    return line((f"  {what} {told}: {conflict.prompt} → {conflict.target}", "yellow"))


def answer_lines(prompt: Prompt, answer: Answer) -> Group:
    """One answer with its provenance."""
    provenance = answer.provenance
    edits = ", ".join(provenance.edits) or "none"
    cut = "; claims decided on the prompt's end alone" if provenance.prompt_cut else ""
    return Group(
        _before_answer(prompt).append_text(quoted(answer.text, "bold green")),
        line(
            (
                f"  seq {provenance.applied_seq}  state {short(provenance.state_digest)}  "
                f"{provenance.replica}",
                "dim",
            )
        ),
        line(
            (f"  shaped by: {edits} (of {provenance.num_edits_in_force} active){cut}", "dim"),
        ),
        *_canary_lines(provenance),
    )


def _canary_lines(provenance: Provenance) -> list[Text]:
    """Which canaries a request was in; nothing if none was open for it."""
    said = _canaries(provenance)
    return [line((f"  in {said}", "dim"))] if said else []


def _canaries(provenance: Provenance) -> str:
    """The same in words; empty if none was open for the request."""
    if not provenance.canary_key and not provenance.canaries:
        return ""
    said = ", ".join(provenance.canaries) or "no canary"
    return f"{said} (canary key {provenance.canary_key})"


def replica_table(replicas: Iterable[Replica], head: Head) -> Table:
    """The replicas with their positions and digests."""
    table = TextTable(title=f"head {head.seq}  {short(head.chain_digest)}  epoch {head.epoch}")
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
            line(("yes", "green")) if replica.agrees else line(("NO", "bold red")),
            f"{(now - replica.report_time).total_seconds():.1f} s ago",
        )
    return table


def count_states(edits: Iterable[Edit]) -> dict[str, int]:
    """The number of edits in each state."""
    return dict(Counter(edit.state.name.lower() for edit in edits))


def status_lines(
    head: Head, replicas: Iterable[Replica], counts: Mapping[str, int], lanes: Sequence[Lane]
) -> Group:
    """Head, replicas, edits and lanes in one view."""
    by_state = "  ".join(f"{state} {count}" for state, count in counts.items()) or "none"
    shown = list(replicas)
    return Group(
        replica_table(shown, head),
        line(f"edits: {by_state}"),
        *(line(f"{lane.name}: {_sizes(lane.sizes)}") for lane in lanes),
        *(
            line(f"{replica.name}, on its device: {lane} {_sizes(sizes)}")
            for replica in shown
            for lane, sizes in sorted(replica.resident.items())
        ),
        *(line((f"{lane.name}: {text}", "yellow")) for lane in lanes for text in lane.warnings),
    )


def _sizes(sizes: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {value:,}" for name, value in sorted(sizes.items()))


def edit_list(edits: Iterable[Edit]) -> Table:
    """Edits, one row each, with times in this machine's time zone."""
    table = TextTable()
    for column in ("edit", "state", "lane", "requested", "by", "correction", "outcome"):
        table.add_column(column, overflow="fold", no_wrap=column in ("edit", "state"))
    for edit in edits:
        table.add_row(
            edit.name,
            line((edit.state.name.lower(), _STATE_STYLES.get(edit.state, "cyan"))),
            _place(edit),
            f"{edit.request_time.astimezone():%Y-%m-%d %H:%M}",
            edit.author,
            line(prompt_text(edit.spec.prompt), " → ", (edit.spec.target, "bold")),
            _outcome(edit),
        )
    return table


def _place(edit: Edit) -> str:
    """Lane, namespace and canary of an edit."""
    lane = edit.lane.removeprefix("lanes/")
    return " · ".join(filter(None, (lane, edit.spec.namespace, edit.spec.canary)))


def _outcome(edit: Edit) -> Text:
    if edit.error:
        return line((edit.error, "red"))
    parts = []
    if edit.commit_seq:
        parts.append(f"from seq {edit.commit_seq} on")
    if edit.revert_seq:
        parts.append(f"until seq {edit.revert_seq}")
    if edit.superseded_by:
        parts.append(f"superseded by {edit.superseded_by}")
    return line(", ".join(parts))


def score_lines(score: Score) -> Group:
    """A scored continuation, token by token, and the canaries that its request was in."""
    table = TextTable()
    for column in ("token", "log p", "model's own"):
        table.add_column(column)
    for token in score.tokens:
        same = token.token_id == token.argmax_token_id
        table.add_row(
            repr(token.token),
            f"{token.log_probability:.3f}",
            line((repr(token.argmax_token), "green" if same else "red")),
        )
    total = line(f"log p of all {score.log_probability:.3f}")
    return Group(table, total, *_canary_lines(score.provenance))


def reversal_lines(reversal: Reversal) -> Group:
    """A reversal and its consequences."""
    return Group(
        line((f"without effect from seq {reversal.seq} on", "bold")),
        *(line(f"  {meaning}") for meaning in reversal.meanings),
    )


def compaction_lines(made: Compaction, now: Lane) -> Group:
    """A compaction, with figures and sizes before and after it."""
    rows = [line((f"compacted at seq {made.seq}", "bold"))]
    if made.before is not None and made.after is not None:
        for metric in ("reliability", "locality"):
            before, after = getattr(made.before, metric), getattr(made.after, metric)
            rows.append(line(f"  {metric} {before:.3f} → {after:.3f}"))
    for name, size in sorted(now.sizes.items()):
        before = made.sizes_before.get(name, size)
        rows.append(line(f"  {name} {before:,} → {size:,}"))
    return Group(*rows)


def lane_table(lanes: Iterable[Lane]) -> Table:
    """Lanes, one row each."""
    table = TextTable()
    for column in ("lane", "method", "default", "approval", "since seq", "holds"):
        table.add_column(column, overflow="fold")
    for lane in lanes:
        default = "yes" if lane.is_default else ""
        approval = "required" if lane.requires_approval else ""
        since, holds = str(lane.configured_seq), _sizes(lane.sizes)
        table.add_row(lane.name, lane.method, default, approval, since, holds)
    return table


def lane_config_table(lane: Lane) -> Table:
    """One lane's configuration, as recorded in the log."""
    table = TextTable(title=f"{lane.name}: {lane.method}, since seq {lane.configured_seq}")
    for column in ("key", "value"):
        table.add_column(column, overflow="fold")
    for key, value in _config(lane.config_json).items():
        table.add_row(key, json.dumps(value))
    return table


def _config(document: str) -> dict[str, Any]:
    try:
        values = json.loads(document)
    except ValueError:
        values = document
    return values if isinstance(values, dict) else {"not an object": values}


def entry_table(entries: Iterable[LogEntry]) -> Table:
    """Log entries, one row each."""
    table = TextTable()
    for column in ("seq", "time", "kind", "edits", "history", "by", "detail"):
        table.add_column(column, overflow="fold", no_wrap=column in ("seq", "time"))
    for entry in entries:
        table.add_row(
            str(entry.seq),
            entry.append_time.strftime("%H:%M:%S"),
            entry.kind.removeprefix("edits_").replace("_", " ") or "unknown",
            some_names(entry.edits),
            short(entry.chain_digest),
            entry.author + (f" for {entry.on_behalf_of}" if entry.on_behalf_of else ""),
            _LONG_DIGEST.sub(lambda match: short(match.group()), entry.detail),
        )
    return table


def everywhere_table(prompt: Prompt, answers: Iterable[ReplicaAnswer]) -> Table:
    """Every replica's answer with its provenance."""
    found = list(answers)
    told = any(item.answer and _canaries(item.answer.provenance) for item in found)
    table = TextTable(title=prompt_text(prompt), title_justify="left")
    for column in ("replica", "answer", "seq", "history", "state", "shaped by"):
        table.add_column(column)
    if told:
        table.add_column("in", overflow="fold")
    for item in found:
        if item.answer is None:
            table.add_row(item.replica, line((item.error, "red")))
            continue
        provenance = item.answer.provenance
        table.add_row(
            item.replica,
            line((item.answer.text.strip(), "bold green")),
            str(provenance.applied_seq),
            short(provenance.chain_digest),
            short(provenance.state_digest),
            some_names(provenance.edits) or "–",
            *([_canaries(provenance)] if told else []),
        )
    return table


def some_names(names: tuple[str, ...]) -> str:
    """The first of some names, and how many there are."""
    shown = ", ".join(names[:4])
    return f"{shown}, … ({len(names)})" if len(names) > 4 else shown


def prompt_text(prompt: Prompt) -> Text:
    """A prompt on few lines: a text on one, a conversation turn by turn."""
    if isinstance(prompt, str):
        return line(prompt)
    if isinstance(prompt, Chat):
        return lines(line(f"{message.role}: {message.content}") for message in prompt.messages)
    return lines(line(str(message)) for message in prompt)


def _before_answer(prompt: Prompt) -> Text:
    """A prompt in front of its answer."""
    if isinstance(prompt, str):
        return quoted(prompt)
    continued = isinstance(prompt, Chat) and prompt.continue_final_message
    return prompt_text(prompt) if continued else prompt_text(prompt).append("\nassistant: ")
