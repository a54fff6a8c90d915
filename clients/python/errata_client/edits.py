"""Corrections, and what became of them: plain, frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime

from errata_client.prompts import Prompt


@dataclass(frozen=True, slots=True)
class EditSpec:
    """One correction.

    Attributes:
        prompt: the prompt to correct, a text or a conversation; must contain the subject.
        target: the text with which the model should continue the prompt.
        subject: the person or thing that the fact is about; found by the service if empty.
        rephrases: other prompts with the same answer; checked, and learned from by some methods.
        locality_probes: prompts whose continuation should not change.
        source: where the correction comes from.
        separator: text between prompt and target: white space, or nothing. If None, it follows
            from the prompt's end and its script, and is usually one blank.
        effective_from: it waits until this time; a time without a zone is local time.
        expires_at: it is reverted at this time; likewise.
        namespace: that it belongs to; the default one if empty or `default`.
        canary: the open canary that it belongs to, `canaries/{canary}`, of the same lane; the
            namespace is the canary's if none is named. Until the canary ends, only its requests
            read the edit. Empty for none.
    """

    prompt: Prompt
    target: str
    subject: str = ""
    rephrases: tuple[Prompt, ...] = ()
    locality_probes: tuple[Prompt, ...] = ()
    source: str = ""
    separator: str | None = None
    effective_from: datetime | None = None
    expires_at: datetime | None = None
    namespace: str = ""
    canary: str = ""


class EditState(enum.Enum):
    """State of an edit; `UNKNOWN` stands for states that this version of the SDK does not know."""

    UNKNOWN = 0
    REQUESTED = 1
    FITTING = 2
    COMMITTED = 3
    REJECTED = 4
    REVERTED = 5
    PROPOSED = 6
    SCHEDULED = 7
    WITHDRAWN = 8

    @classmethod
    def _missing_(cls, value: object) -> EditState:
        return cls.UNKNOWN

    @property
    def settled(self) -> bool:
        """True if no fit will change it: committed, rejected, reverted or withdrawn."""
        return self in _SETTLED

    @property
    def waits(self) -> bool:
        """True if a decision or a time must come first: proposed or scheduled."""
        return self in (EditState.PROPOSED, EditState.SCHEDULED)


_SETTLED = (EditState.COMMITTED, EditState.REJECTED, EditState.REVERTED, EditState.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of an edit's check, each a share between 0 and 1."""

    reliability: float
    generality: float | None
    locality: float
    already_answered: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """An earlier edit on the same matter as a new one.

    Attributes:
        kind: `supersedes`: same prompt and lane, another target, and the new edit answers instead;
            `contradicts`: another target in another lane, or for another prompt of the same
            meaning; `repeats`: the same target; empty if this version of the SDK does not know it.
        edit: name of the earlier edit.
        lane: of the earlier edit.
        state: of the earlier edit.
        prompt: that it corrects; of a conversation, the user's last turn.
        target: of the earlier edit.
    """

    kind: str
    edit: str
    lane: str
    state: EditState
    prompt: str
    target: str


@dataclass(frozen=True, slots=True)
class Review:
    """A decision on an edit.

    Attributes:
        seq: position of its entry.
        reviewer: who decided: the credential's subject where calls are authenticated.
        comment: why.
        time: when.
    """

    seq: int
    reviewer: str
    comment: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Edit:
    """A correction and its state.

    Attributes:
        name: `edits/{seq}-{index}`.
        commit_seq: position from which it has an effect; answers to requests with
            `min_seq=commit_seq` include it. 0 until committed.
        revert_seq: position from which it has no effect; 0 unless reverted.
        artifact_digest: SHA-256 of the artifact that carries its effect; empty until committed.
        artifact_size: the artifact's bytes; edits that were fitted together share it.
        error: why it was rejected; empty otherwise.
        superseded_by: the newer edit of the same prompt that answers instead; empty if none.
        reason: machine-readable reason of the rejection, such as `CHECK_FAILED`; empty otherwise.
        subject_found: no subject was given, and the writer found the one in `spec`.
        conflicts: earlier edits on the same matter, as the answer to its submission named them.
        review: the newest decision on it; None without one.
        on_behalf_of: whom its author named beside himself, unverified.
    """

    name: str
    state: EditState
    spec: EditSpec
    lane: str
    author: str
    request_time: datetime
    commit_seq: int
    revert_seq: int
    figures: Figures | None
    artifact_digest: str
    artifact_size: int
    method: str
    base_model_digest: str
    error: str
    superseded_by: str
    reason: str = ""
    subject_found: bool = False
    conflicts: tuple[Conflict, ...] = ()
    review: Review | None = None
    on_behalf_of: str = ""
