"""Arguments and results of previews and reviews: plain, frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from errata_client.edits import Conflict, Edit, EditSpec, Figures
from errata_client.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that was made: its position, and the edits behind it."""

    seq: int
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class AnswerChange:
    """The first tokens of the model's answer to a prompt, before and after an edit.

    Attributes:
        prompt: a text or a conversation.
        before: in the present state.
        after: with the edit; None if it could not be fitted.
        changed: whether the two differ.
    """

    prompt: Prompt
    before: str
    after: str | None
    changed: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What an edit would do, if it were committed now and alone.

    Attributes:
        spec: the correction, its subject filled in.
        lane: that it would belong to.
        seq: position of the log at whose state it was tried.
        figures: of its check; None if it could not be fitted.
        error: why it would be rejected; empty if it would be committed.
        reason: machine-readable reason of that; empty likewise.
        answers: to the prompt, then to the rephrases.
        probes: answers to the correction's probes, or to the lane's own if it has none.
        num_set_probes: size of the deployment's probe set.
        num_set_changed: prompts of the probe set that would be answered in another way.
        set_changes: the first 50 of these.
        conflicts: earlier edits on the same matter.
    """

    spec: EditSpec
    lane: str
    seq: int
    figures: Figures | None
    error: str
    reason: str
    answers: tuple[AnswerChange, ...]
    probes: tuple[AnswerChange, ...]
    num_set_probes: int
    num_set_changed: int
    set_changes: tuple[AnswerChange, ...]
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The deployment's prompts that edits should not change; `seq` is 0 if it has none."""

    seq: int
    prompts: tuple[Prompt, ...]
