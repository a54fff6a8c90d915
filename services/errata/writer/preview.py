"""Tries an edit on the writer's model and compares the model's answers; nothing remains of it."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass

from errata.editing.artifact import Artifact
from errata.editing.chat import Prompt, said
from errata.editing.edit import Edit
from errata.editing.effects.plan import BASE, RowPlan
from errata.editing.lane.commits import Commit
from errata.editing.model.causal_lm import CausalLM
from errata.editing.model.prompts import tokenise
from errata.editing.namespaces import Reading, reading_for
from errata.engine import offline
from errata.errors import ErrataError
from errata.log.entries import Figures, Schedule
from errata.platform.settings import WriterSettings
from errata.replica.open_lane import OpenLane
from errata.replica.routing_table import RoutingTable
from errata.writer.checks import Route, probes_of
from errata.writer.conflicts import Conflict
from errata.writer.fitting import TRIAL_SEQ, fit_batch

ANSWER_TOKENS = 8
"""Tokens of each answer that a preview shows and compares."""
MAX_CHANGES = 50
"""Most changed answers of the probe set that a preview shows."""
_ROWS = 64  # of one forward pass


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt's answer before and after; None where the edit could not be fitted."""

    prompt: Prompt
    before: str
    after: str | None

    @property
    def changed(self) -> bool:
        """Whether the two differ."""
        return self.after is not None and self.after != self.before


@dataclass(frozen=True, slots=True)
class Preview:
    """What an edit would do.

    Attributes:
        edit: as it would be accepted.
        source: of the correction.
        subject_found: the writer found the subject.
        times: when it would begin and end; they are not waited for.
        conflicts: earlier edits on the same matter.
        figures: of its check; None if it could not be fitted.
        error: why it would be rejected; None if it would be committed.
        answers: to its prompt and rephrases.
        probes: answers to its probes.
        probe_set: answers to the deployment's probe set.
    """

    edit: Edit
    source: str
    subject_found: bool
    times: Schedule
    conflicts: tuple[Conflict, ...]
    figures: Figures | None
    error: ErrataError | None
    answers: tuple[Answer, ...]
    probes: tuple[Answer, ...]
    probe_set: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An edit to preview, and what is known of it before any fit; see `Preview`."""

    edit: Edit
    source: str
    subject_found: bool
    times: Schedule
    conflicts: tuple[Conflict, ...] = ()


def preview(
    model: CausalLM,
    lane: OpenLane,
    served: RoutingTable | None,
    candidate: Candidate,
    probe_set: Sequence[Prompt],
    limits: WriterSettings,
) -> Preview:
    """Fits an edit as if it were alone, asks the model before and after, and undoes it.

    The fit is the one that would follow a submission: the same seed, checks and attempts. Answers
    are those of a request that reads the edit's namespace, and is in its canary if it has one.

    Args:
        model: of the writer, with all edits of the log.
        lane: that the edit would belong to.
        served: which edits claim which prompts now; None if none claims any.
        candidate: the edit.
        probe_set: prompts that edits should not change.
        limits: of the checks.
    """
    edit = candidate.edit
    groups = ((edit.prompt, *edit.rephrases), probes_of(edit), tuple(probe_set))
    asked = list(dict.fromkeys(prompt for group in groups for prompt in group))
    reading = reading_for(edit.namespace)
    before = _answers(model, asked, _route(served, reading))
    outcome = fit_batch(model, lane, [edit], limits)
    after: dict[Prompt, str] = {}
    figures, error = None, None
    if outcome.fitted is None:
        (rejection,) = outcome.rejections
        figures, error = rejection.figures, rejection.error
    else:
        (figures,) = outcome.fitted.figures
        artifact = Artifact.from_bytes(outcome.fitted.artifact)
        outside = {edit.name: edit.namespace} if edit.namespace else {}
        trial = Commit(TRIAL_SEQ, (edit.name,), artifact, namespaces=outside)
        undo = lane.lane.prepare(trial).apply()
        try:
            table = _with_trial(served, lane, edit.name)
            after = _answers(model, asked, _route(table, reading))
        finally:
            undo()
    answers, probes, in_set = (
        tuple(Answer(prompt, before[prompt], after.get(prompt)) for prompt in group)
        for group in groups
    )
    return Preview(
        edit,
        candidate.source,
        candidate.subject_found,
        candidate.times,
        candidate.conflicts,
        figures,
        error,
        answers,
        probes,
        in_set,
    )


def _with_trial(served: RoutingTable | None, lane: OpenLane, name: str) -> RoutingTable | None:
    """Routing while a trial is applied, which is the newest commit."""
    view = lane.lane.view()
    if view is None:
        return served
    views, commit_seq = ({}, {}) if served is None else (served.views, served.commit_seq)
    trial: dict[str, int] = {name: TRIAL_SEQ}
    return RoutingTable({**views, lane.configured.lane: view}, ChainMap(trial, dict(commit_seq)))


def _route(table: RoutingTable | None, reading: Reading) -> Route:
    """Routes as for requests with this reading."""

    def route(prompts: Sequence[str]) -> list[RowPlan]:
        return [BASE] * len(prompts) if table is None else table.route(prompts, reading)

    return route


def _answers(model: CausalLM, prompts: Sequence[Prompt], route: Route) -> dict[Prompt, str]:
    """The greedy answer to each prompt, `ANSWER_TOKENS` tokens or up to the end of text.

    Where the model's positions end before that, the answers end as well.
    """
    found: dict[Prompt, str] = {}
    for start in range(0, len(prompts), _ROWS):
        chunk = prompts[start : start + _ROWS]
        rows = [tokenise(model, prompt) for prompt in chunk]
        routed = zip(route([said(prompt) for prompt in chunk]), rows, strict=True)
        plans = [plan.behind(row.said_index) for plan, row in routed]
        longest = max(len(row.ids) + p.num_positions for row, p in zip(rows, plans, strict=True))
        room = max(1, min(ANSWER_TOKENS, model.max_positions - longest + 1))
        made = offline.generate(model, [row.ids for row in rows], room, plans=plans)
        found.update(zip(chunk, (_text(model, ids) for ids in made), strict=True))
    return found


def _text(model: CausalLM, ids: Sequence[int]) -> str:
    ends = [index for index, token in enumerate(ids) if token in model.end_ids]
    return str(model.tokenizer.decode(ids[: ends[0]] if ends else ids, skip_special_tokens=True))
