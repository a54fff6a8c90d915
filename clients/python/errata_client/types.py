"""The SDK's arguments and results: plain, frozen values."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from errata_client.prompts import Chat as Chat
from errata_client.prompts import ChatMessage as ChatMessage
from errata_client.prompts import Prompt as Prompt
from errata_client.prompts import ToolCall as ToolCall

if TYPE_CHECKING:
    from errata_client.policy import Conflict, Review


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


@dataclass(frozen=True, slots=True)
class Lane:
    """One configured method.

    Attributes:
        reversal: what reverting an edit means.
        sizes: what it holds, by name: active `edits` and, depending on its method, `capacity`,
            `experts`, `max_experts`, `parameters`, `bytes`.
        warnings: problems that an operator should resolve before they stop edits.
        requires_approval: whether new edits wait for approval.
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
    requires_approval: bool = False


@dataclass(frozen=True, slots=True)
class Reversal:
    """A reversal: edits have no effect from `seq` on; `meanings` explains this for each lane."""

    seq: int
    meanings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compaction:
    """The result of retraining a lane from its active edits.

    Attributes:
        seq: position from which the new artifact is active.
        before: mean figures of its edits before; None if this request was answered before.
        after: mean figures afterwards; None likewise.
        sizes_before: what the lane held before; `Client.lanes` has its present sizes.
    """

    seq: int
    before: Figures | None
    after: Figures | None
    sizes_before: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Provenance:
    """State and edits under which an answer was computed.

    Attributes:
        applied_seq: one position of the log, from first to last token.
        chain_digest: hex digest of the log's history up to that position.
        state_digest: hex digest of the state of the replica's lanes.
        replica: name of the replica that answered.
        edits: edits that shaped the answer, newest first.
        num_edits_in_force: number of active edits, whether or not they shaped the answer.
        prompt_cut: the prompt is longer than a lane's retriever can read; claims were decided on
            its end alone.
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
        temperature: divides the logits; 0 is greedy, otherwise from 0.001 to 10.
        top_p: sample from the most likely tokens whose total probability reaches this.
        top_k: sample from the k most likely tokens; 0 disables.
        seed: the same seed gives the same text under the same state; random if None.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class TokenAlternative:
    """A possible token at some place of a continuation."""

    token: str
    token_id: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A generated token; log-probabilities are those before temperature, top-k and top-p."""

    token: str
    token_id: int
    log_probability: float
    alternatives: tuple[TokenAlternative, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A continuation; `finish_reason` is `stop` or `length`, `tokens` empty unless requested."""

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
    """One token of a scored continuation, and the token that the model ranks first there."""

    token: str
    token_id: int
    log_probability: float
    argmax_token: str
    argmax_token_id: int


@dataclass(frozen=True, slots=True)
class Score:
    """Probability of a continuation under the model."""

    tokens: tuple[TokenScore, ...]
    provenance: Provenance

    @property
    def log_probability(self) -> float:
        """Natural logarithm of the whole continuation's probability."""
        return sum(token.log_probability for token in self.tokens)

    @property
    def token_accuracy(self) -> float:
        """Share of tokens that the model ranks first."""
        return sum(t.token_id == t.argmax_token_id for t in self.tokens) / len(self.tokens)


@dataclass(frozen=True, slots=True)
class ReplicaAnswer:
    """One replica's answer, or its error."""

    replica: str
    answer: Answer | None
    error: str


@dataclass(frozen=True, slots=True)
class Model:
    """The model that is served.

    Attributes:
        name: under which it is served.
        base_model_digest: hex digest of its configuration and weights without any edit.
        max_positions: longest text of prompt and continuation, in tokens.
        max_tokens: most tokens that one request can ask for.
        has_chat_template: whether it takes conversations.
    """

    name: str
    base_model_digest: str
    max_positions: int
    max_tokens: int
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class Replica:
    """Position and state of a replica; `agrees` is False if its history is not the log's.

    Attributes:
        resident: sizes, by lane, of data that is on its device only while it is used.
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
            `lane_configured`, `lane_model_committed`, `lane_compacted`, `keys_trusted`,
            `entry_voided`, `snapshot_taken`, `probes_set`, `lane_policy_set`, `edits_reviewed`,
            `edits_scheduled`, `edits_released`, or empty if this version of the SDK does not know
            it or the entry cannot be read.
        append_time: 1970 if the entry cannot be read.
        edits: names of the edits that it refers to.
        detail: lane, digest or comment, for people.
        on_behalf_of: whom the author named beside himself, unverified.
    """

    seq: int
    kind: str
    author: str
    append_time: datetime
    chain_digest: str
    edits: tuple[str, ...]
    detail: str = field(default="")
    on_behalf_of: str = ""
