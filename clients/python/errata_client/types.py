"""What the SDK takes and gives: plain, frozen values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class EditSpec:
    """One correction.

    Attributes:
        prompt: what is asked; must contain the subject.
        target: what the model shall continue the prompt with.
        subject: whom or what the fact is about; found by the service if empty.
        rephrases: other prompts with the same answer; checked, and learned from by some methods.
        locality_probes: prompts whose continuation shall stay.
        source: where the correction comes from.
        separator: what stands between prompt and target: white space, or nothing. None leaves it
            to the prompt's end and its script: mostly one blank.
    """

    prompt: str
    target: str
    subject: str = ""
    rephrases: tuple[str, ...] = ()
    locality_probes: tuple[str, ...] = ()
    source: str = ""
    separator: str | None = None


class EditState(enum.Enum):
    """Where an edit stands; `UNKNOWN` is a value that this SDK does not know yet."""

    UNKNOWN = 0
    REQUESTED = 1
    FITTING = 2
    COMMITTED = 3
    REJECTED = 4
    REVERTED = 5

    @classmethod
    def _missing_(cls, value: object) -> EditState:
        return cls.UNKNOWN

    @property
    def settled(self) -> bool:
        """True once waiting will change nothing."""
        return self in (EditState.COMMITTED, EditState.REJECTED, EditState.REVERTED)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured when an edit was checked, each a share between 0 and 1."""

    reliability: float
    generality: float | None
    locality: float
    already_answered: bool


@dataclass(frozen=True, slots=True)
class Edit:
    """A correction and where it stands.

    Attributes:
        name: `edits/{seq}-{index}`.
        commit_seq: ask with `min_seq=commit_seq` to have it in every answer; 0 until committed.
        revert_seq: from here on it has no effect; 0 unless reverted.
        artifact_digest: SHA-256 of what carries the effect; empty until committed.
        artifact_size: its bytes; edits that were fitted together share it.
        error: why it was rejected; empty otherwise.
        superseded_by: the newer edit of the same prompt that answers in its place; empty if none.
        reason: of the rejection, machine-readable, such as `CHECK_FAILED`; empty otherwise.
        subject_found: no subject was named, and the writer found the one that `spec` has.
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


@dataclass(frozen=True, slots=True)
class Lane:
    """One configured method.

    Attributes:
        reversal: what taking an edit back means.
        sizes: what it holds, by name: `edits` in force and, as its method has them, `capacity`,
            `experts`, `max_experts`, `parameters`, `bytes`.
        warnings: what somebody should do something about before it stops edits.
    """

    name: str
    method: str
    config_json: str
    config_digest: str
    base_model_digest: str
    configured_seq: int
    is_default: bool
    reversal: str
    sizes: Mapping[str, int]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reversal:
    """Edits taken back from position `seq` on, and what that means for each lane."""

    seq: int
    meanings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compaction:
    """A lane that was learned anew from its edits in force.

    Attributes:
        seq: from here on the new artifact answers.
        before: mean figures of its edits before; None if the request was answered before.
        after: the same afterwards.
        sizes_before: what the lane held; `Client.lanes` has what it holds now.
    """

    seq: int
    before: Figures | None
    after: Figures | None
    sizes_before: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Under what an answer was computed.

    Attributes:
        applied_seq: one position of the log, from first to last token.
        chain_digest: hex digest of the log's history up to there.
        state_digest: hex digest of what the replica's lanes held.
        replica: which replica answered.
        edits: edits that shaped the answer, newest first.
        num_edits_in_force: all edits in force, whether or not they answered to the prompt.
        prompt_cut: the prompt is longer than a lane's retriever reads; which edits claim it was
            decided on its end alone.
    """

    applied_seq: int
    chain_digest: str
    state_digest: str
    replica: str
    edits: tuple[str, ...]
    num_edits_in_force: int
    prompt_cut: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: only the likeliest tokens that together reach this probability.
        top_k: only so many likeliest tokens; 0 allows all.
        seed: the same seed gives the same text under the same state; made up if None.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """A token that could have stood somewhere."""

    token: str
    token_id: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token that was made; log-probabilities are those before temperature, top-k and top-p."""

    token: str
    token_id: int
    log_probability: float
    alternatives: tuple[TokenAlternative, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation; `finish_reason` is `stop` or `length`, `tokens` empty unless asked for."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    provenance: Provenance
    tokens: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed continuation; the last one has a `finish_reason`."""

    text: str
    finish_reason: str
    num_tokens: int
    provenance: Provenance
    tokens: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One token of a scored continuation, and what the model itself ranks first there."""

    token: str
    token_id: int
    log_probability: float
    argmax_token: str
    argmax_token_id: int


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model finds a continuation."""

    tokens: tuple[TokenScore, ...]
    provenance: Provenance

    @property
    def log_probability(self) -> float:
        """Natural logarithm of the whole continuation's probability."""
        return sum(token.log_probability for token in self.tokens)

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that the model itself ranks first."""
        return sum(t.token_id == t.argmax_token_id for t in self.tokens) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """One replica's answer, or its error."""

    replica: str
    answer: Answer | None
    error: str


@dataclass(frozen=True, slots=True)
class Replica:
    """Where a replica stands; `agrees` is False if its history is not the log's.

    Attributes:
        resident: sizes, by lane, of what is on its device only while it is used.
    """

    name: str
    role: str
    applied_seq: int
    lag: int
    chain_digest: str
    state_digest: str
    agrees: bool
    report_time: datetime
    resident: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Head:
    """The log's last acknowledged position."""

    log_id: str
    seq: int
    chain_digest: str
    floor_seq: int
    epoch: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of the log.

    Attributes:
        kind: `edits_requested`, `edits_committed`, `edits_rejected`, `edits_reverted`,
            `lane_configured`, or empty if this SDK does not know it.
        edits: names of the edits it speaks of.
        detail: lane, digest or comment, for people.
    """

    seq: int
    kind: str
    author: str
    append_time: datetime
    chain_digest: str
    edits: tuple[str, ...]
    detail: str = field(default="")
