"""An edit and its state as the writer knows them, and everything in a ledger at one position."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from errata.editing.chat import Prompt
from errata.editing.edit import Edit
from errata.editing.lane.inventory import fact_of
from errata.editing.namespaces import own_namespace
from errata.errors import ErrataError, PreconditionError
from errata.log.entries import (
    UNTIMED,
    ArtifactRef,
    EditsReviewed,
    Figures,
    LaneConfigured,
    Schedule,
    Verdict,
)
from errata.writer.canary_book import CanaryRecord


class State(Enum):
    """The state of an edit."""

    REQUESTED = "requested"
    FITTING = "fitting"
    COMMITTED = "committed"
    REJECTED = "rejected"
    REVERTED = "reverted"
    PROPOSED = "proposed"
    SCHEDULED = "scheduled"
    WITHDRAWN = "withdrawn"

    @property
    def waits(self) -> bool:
        """Whether a decision or a time must come before its fit."""
        return self in (State.PROPOSED, State.SCHEDULED)

    @property
    def settled(self) -> bool:
        """Whether no fit will change it any more."""
        return not self.waits and self not in (State.REQUESTED, State.FITTING)


@dataclass(frozen=True, slots=True)
class Review:
    """A decision on an edit.

    Attributes:
        seq: of its entry.
        verdict: what was decided.
        reviewer: who decided.
        comment: why.
        time: of its entry.
    """

    seq: int
    verdict: Verdict
    reviewer: str
    comment: str
    time: datetime


@dataclass(frozen=True, slots=True)
class EditRecord:
    """An edit and its state.

    Attributes:
        edit: the correction.
        source: of the correction.
        lane: that it belongs to.
        author: who requested it.
        request_time: when.
        state: now.
        commit_seq, revert_seq: 0 until they happen.
        figures: of its check; None until it is checked.
        artifact: carries its effect; None until it is committed.
        base_model_digest: that it was made for; empty until it is committed.
        error: why it was rejected; None if it was not.
        trace_parent: of the request.
        subject_found: the writer found the subject.
        on_behalf_of: whom the author named beside himself.
        review: the newest decision on it; None without one.
        queued_seq: from which position on it may be fitted, if that is not its request.
        queue_time: of that position; None likewise.
        times: when it begins and ends.
    """

    edit: Edit
    source: str
    lane: str
    author: str
    request_time: datetime
    state: State = State.REQUESTED
    commit_seq: int = 0
    revert_seq: int = 0
    figures: Figures | None = None
    artifact: ArtifactRef | None = None
    base_model_digest: str = ""
    error: ErrataError | None = None
    trace_parent: str = ""
    subject_found: bool = False
    on_behalf_of: str = ""
    review: Review | None = None
    queued_seq: int = 0
    queue_time: datetime | None = None
    times: Schedule = UNTIMED

    @property
    def fact(self) -> tuple[str, str, str]:
        """Lane, place and prompt: of edits that share them, the newest answers."""
        return self.lane, self.edit.namespace, fact_of(self.edit.said)

    @property
    def namespace(self) -> str:
        """The namespace that callers know, of an edit in a canary as well."""
        return own_namespace(self.edit.namespace)

    def rests(self, now: datetime) -> bool:
        """Whether nothing but a decision, or a time to come, can change it."""
        begin = self.times.effective_from
        is_early = self.state is State.SCHEDULED and begin is not None and begin > now
        return self.state.settled or self.state is State.PROPOSED or is_early

    @property
    def waits_since(self) -> datetime:
        """Since when it could be fitted."""
        return self.queue_time or self.request_time

    @property
    def queue_order(self) -> tuple[int, tuple[int, int]]:
        """Its place among the edits that wait to be fitted; entries list them in log order."""
        order = order_of(self.edit.name)
        return self.queued_seq or order[0], order


@dataclass(frozen=True, slots=True)
class LedgerState:
    """Everything in a ledger at one position.

    Attributes:
        seq: of the last entry that was folded in.
        lanes: name → position of its configuration, and the configuration.
        lane_models: lane → digest of its active model.
        compactions: position → lane.
        records: all edits, in log order.
        request_seqs: request id → position.
        probes: the deployment's probe set.
        probes_seq: of the entry that set them; 0 before the first.
        reviewed_lanes: lanes whose new edits wait for approval.
        decisions: position → digest of a decision on edits that waited, or on a canary.
        canaries: all of them, in the order in which they were opened.
    """

    seq: int
    lanes: Mapping[str, tuple[int, LaneConfigured]]
    lane_models: Mapping[str, str]
    compactions: Mapping[int, str]
    records: Sequence[EditRecord]
    request_seqs: Mapping[str, int]
    probes: tuple[Prompt, ...] = ()
    probes_seq: int = 0
    reviewed_lanes: frozenset[str] = frozenset()
    decisions: Mapping[int, str] = field(default_factory=dict)
    canaries: Sequence[CanaryRecord] = ()


def digest_of(review: EditsReviewed) -> str:
    """SHA-256 of what a decision says, by which a retry is told from another request."""
    said = (review.edits, review.verdict.value, review.comment, review.reviewer)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def order_of(name: str) -> tuple[int, int]:
    """Position and index of an edit's name, `edits/{seq}-{index}`."""
    seq, _, index = name.removeprefix("edits/").partition("-")
    return int(seq), int(index)


def review_error(review: Review) -> PreconditionError:
    """Why an edit that an approver rejected has no effect."""
    return PreconditionError(
        f"{review.reviewer} rejected it: {review.comment}",
        reviewer=review.reviewer,
        review_seq=review.seq,
    )
