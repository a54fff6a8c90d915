"""How previews, decisions and probe sets look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType

from errata.launch.output import TextTable, line
from errata.launch.show import conflict_line, edit_lines, prompt_text
from errata_client import AnswerChange, Decision, Preview, ProbeSet


def preview_lines(preview: Preview) -> Group:
    """What an edit would do: verdict, figures, answers before and after, conflicts."""
    verdict = (
        line(("would be rejected: ", "red"), preview.error)
        if preview.error
        else line(("would be committed", "green"), f" in {preview.lane}")
    )
    rows: list[RenderableType] = [verdict, _figures(preview)]
    rows += map(conflict_line, preview.conflicts)
    rows.append(_table("answers", preview.answers))
    rows.append(_table("prompts that should not change", preview.probes))
    if preview.num_set_probes:
        changed, total = preview.num_set_changed, preview.num_set_probes
        rows.append(
            line((f"probe set: {changed:,} of {total:,} change", "yellow" if changed else "green"))
        )
    if preview.set_changes:
        rows.append(_table("probe set", preview.set_changes))
    rows.append(line((f"tried on the state at seq {preview.seq}; nothing was submitted", "dim")))
    return Group(*rows)


def decision_lines(decision: Decision) -> Group:
    """A decision, and the edits behind it."""
    return Group(line((f"decided at seq {decision.seq}", "bold")), *map(edit_lines, decision.edits))


def _figures(preview: Preview) -> RenderableType:
    figures = preview.figures
    if figures is None:
        return line("  no figures: the edit could not be fitted")
    told = f"  reliability {figures.reliability:.2f}  locality {figures.locality:.2f}"
    if figures.generality is not None:
        told += f"  generality {figures.generality:.2f}"
    known = "; the model answers this already" if figures.already_answered else ""
    return line(f"{told}{known}")


def _table(title: str, answers: Iterable[AnswerChange]) -> RenderableType:
    table = TextTable(title=title, title_justify="left")
    for column in ("prompt", "before", "after"):
        table.add_column(column, overflow="fold")
    for answer in answers:
        after = "–" if answer.after is None else answer.after
        style = "bold" if answer.changed else "dim"
        table.add_row(prompt_text(answer.prompt), line(answer.before), line((after, style)))
    return table


def probe_table(probes: ProbeSet) -> RenderableType:
    """The probe set, one prompt a row."""
    if not probes.prompts:
        return line("the probe set is empty; `errata probes set FILE` fills it")
    table = TextTable(title=f"probe set of seq {probes.seq}", title_justify="left")
    table.add_column("prompt", overflow="fold")
    for prompt in probes.prompts:
        table.add_row(prompt_text(prompt))
    return table
