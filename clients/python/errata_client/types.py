"""The SDK's arguments and results: plain, frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from errata_client.canary import Canary as Canary
from errata_client.canary import CanaryComparison as CanaryComparison
from errata_client.canary import CanaryCounts as CanaryCounts
from errata_client.canary import CanaryRule as CanaryRule
from errata_client.canary import CanaryState as CanaryState
from errata_client.edits import Conflict as Conflict
from errata_client.edits import Edit as Edit
from errata_client.edits import EditSpec as EditSpec
from errata_client.edits import EditState as EditState
from errata_client.edits import Figures as Figures
from errata_client.edits import Review as Review
from errata_client.prompts import Chat as Chat
from errata_client.prompts import ChatMessage as ChatMessage
from errata_client.prompts import Prompt as Prompt
from errata_client.prompts import ToolCall as ToolCall


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
        canaries: those that the request was in, sorted.
        canary_key: the request's key, given or drawn, if a canary of a namespace that it reads is
            open; else empty.
    """

    applied_seq: int
    chain_digest: str
    state_digest: str
    replica: str
    edits: tuple[str, ...]
    num_edits_in_force: int
    prompt_cut: bool = False
    canaries: tuple[str, ...] = ()
    canary_key: str = ""


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
            `edits_scheduled`, `edits_released`, `edits_namespaced`, `edits_canaried`, `canary_set`,
            `canary_ended`, or empty if this version of the SDK does not know it or the entry cannot
            be read.
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
