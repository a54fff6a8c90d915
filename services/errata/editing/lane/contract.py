"""What every editing method offers: five questions, answered by five files of the same names.

Nothing outside a slice branches on a method's name. Writer and worker see a `Method` and the
objects that it makes; what a method can and cannot promise is declared in `Capabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.effects.plan import RowPlan
from errata.editing.lane.search import Indices
from errata.editing.lane.swap import Swap
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError

NEARLY_FULL = 0.8
"""Share of what a lane can hold from which on it warns."""


class LaneConfig(BaseModel):
    """Everything of a lane that changes answers; committed to the log and digested."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_layer(layer: int, num_layers: int, field: str) -> None:
    """Refuses a layer that a model of `num_layers` blocks does not have.

    Raises:
        InvalidRequestError: about `field`.
    """
    if not 0 <= layer < num_layers:
        raise InvalidRequestError(
            f"layer {layer} does not exist; the model has layers 0 to {num_layers - 1}.",
            field=field,
        )


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a method promises, so that nobody has to ask which method it is.

    Attributes:
        changes_weights: commits alter the weights for every request (no per-row choice).
        defers: requests that no edit claims are answered bit for bit as by the base model (P8).
        reversal: what reverting an edit means, in one sentence for the user (P11).
    """

    changes_weights: bool
    defers: bool
    reversal: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A batch of edits as a replica applies it.

    Attributes:
        seq: position of the commit in the log.
        edits: names of the batch's edits, in the artifact's column order.
        artifact: the tensors that carry the effect.
    """

    seq: int
    edits: tuple[str, ...]
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class LaneModelCommit:
    """A version of a lane's model, and all edits of the lane as it encodes them.

    Attributes:
        seq: position in the log.
        model: its tensors; None in the snapshot of a lane that has none.
        digest: SHA-256, hex, of the model's bytes; later commits name it. Empty without one.
        edits: names of all edits of the lane in force, oldest first.
        repository: what carries their effect under this model; None if there are none.
    """

    seq: int
    model: Artifact | None
    digest: str
    edits: tuple[str, ...]
    repository: Artifact | None


@dataclass(frozen=True, slots=True)
class LaneModelDump:
    """All that a lane that routes holds, for a snapshot.

    Attributes:
        model_digest: SHA-256, hex, of the lane model's bytes; empty without one.
        edits: in force, oldest first.
        repository: as in `LaneModelCommit`.
    """

    model_digest: str
    edits: tuple[str, ...]
    repository: Artifact | None


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit yields.

    Attributes:
        artifact: what travels to the replicas.
        memory: what later fits of the lane need and replicas do not; None if nothing.
        seconds: wall-clock time of the fit's parts, for telemetry and benchmarks; no part of what
            is committed.
    """

    artifact: Artifact
    memory: Artifact | None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


class LaneState(Protocol):
    """What a replica holds of one lane.

    A change has two steps: `prepare_*` does the work beside the running model and changes
    nothing; the `Swap` that it returns puts the result in, between two batches.
    """

    def prepare_commit(self, commit: Commit) -> Swap:
        """Checks and prepares a commit.

        Raises:
            ArtifactCorruptError: the artifact does not fit lane or model; nothing changed.
        """

    def prepare_revert(self, edits: Sequence[str]) -> Swap:
        """Prepares the absence of `edits`, which may belong to several commits."""

    def digest(self) -> str:
        """SHA-256, hex, of the lane's effect as it is held now."""


class LaneMemory(Protocol):
    """What the writer keeps of a lane between fits (for example the keys of earlier batches)."""

    def add(self, edits: tuple[str, ...], memory: Artifact) -> None:
        """Adds what the fit of a committed batch left behind."""

    def remove(self, edits: Sequence[str]) -> None:
        """Forgets reverted edits."""


class Resources(Protocol):
    """What a fit may use beside model and edits."""

    def text(self) -> Iterable[str]:
        """Plain text for statistics, one paragraph each."""

    @property
    def cache_dir(self) -> Path:
        """A folder for results that are keyed by their inputs' digests."""

    @property
    def adapters(self) -> Sequence[Path]:
        """Folders of PEFT adapters that the lane begins with; mostly none."""


class Prepare(Protocol):
    """Makes the statistics of the base model that fits need, or finds them in the cache."""

    def __call__(
        self,
        model: CausalLM,
        config: Any,
        resources: Resources,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> object:
        """Yields what `Fit` takes as `statistics`; call it before the model carries an edit.

        Args:
            model: holds its base weights.
            config: of the lane.
            resources: text and cache.
            on_progress: called with tokens done and tokens wanted.
        """


class NewState(Protocol):
    """Makes the state of a lane on one replica."""

    def __call__(self, model: Any, config: Any, weights: Any, lane: str) -> LaneState:
        """An empty lane.

        Args:
            model: of the replica: a CausalLM; of methods that route, any BaseLLM.
            config: of the lane.
            weights: the EditedWeights that all lanes of this model share; None where the replica
                has no weights, and the method routes.
            lane: name of the lane; keeps its contributions apart from other lanes'.
        """


class Fit(Protocol):
    """Turns a batch into an artifact: a function of its arguments alone."""

    def __call__(
        self,
        model: CausalLM,
        batch: EditBatch,
        config: Any,
        state: Any,
        memory: Any,
        statistics: Any,
    ) -> FitResult:
        """Fits a batch; the model is unchanged afterwards, whatever happens.

        Raises:
            FitError: nothing was made.
        """


class Attribution(Protocol):
    """Names the edits that a forward pass over prompts answers to (P10)."""

    def __enter__(self) -> Attribution:
        """Starts to listen."""

    def __exit__(self, *exc: object) -> None:
        """Stops to listen."""

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        """For each row of the last forward, (B, T) mask, the edits that shaped it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a lane decided on one prompt.

    Attributes:
        edit: the best edit, whether it claims the prompt or not; empty without edits.
        score: how well it matches; −∞ without edits.
        threshold: what its score must be above.
        cut: the prompt is longer than the lane reads; its start was left out.
        vector: what it was decided by, of a `VectorView`; plans may depend on it.
    """

    edit: str
    score: float
    threshold: float
    cut: bool = False
    vector: Tensor | None = field(default=None, compare=False)

    @property
    def holds(self) -> bool:
        """Whether the edit claims the prompt."""
        return self.score > self.threshold


class RoutingView(Protocol):
    """Routes by what a lane held at one moment; later changes do not reach it."""

    @property
    def vector_view(self) -> VectorView | None:
        """How it decides by vectors that only the LLM can make; None if by the prompts' texts."""

    def claims(self, prompts: Sequence[str]) -> list[Claim]:
        """One for each prompt; asked once for a whole batch, before the LLM runs."""

    def plans(self, claims: Sequence[Claim]) -> list[RowPlan]:
        """What each row gets: what the claiming edit carries, or nothing."""


class VectorView(Protocol):
    """Decides by one vector for each prompt; where there is no LLM, somebody has to send them."""

    @property
    def module(self) -> nn.Module | None:
        """The module of the LLM whose input at a prompt's last token the vector is made of.

        Then it is to be had in the middle of the prompt's own forward pass. None if it is made
        of something else.
        """

    def vectors(self, prompts: Sequence[str]) -> Tensor:
        """(n, width) fp32, by passes of their own."""

    def vectors_of(self, states: Tensor) -> Tensor:
        """(n, width) fp32, of what `module` read at the prompts' last tokens, (n, …)."""

    def claims_of(self, vectors: Tensor) -> list[Claim]:
        """One for each vector."""


class Router(Protocol):
    """Decides which of a lane's edits claim which prompts."""

    def view(self) -> RoutingView:
        """By what the lane holds now; cheap, for indices are shared between views."""

    def resident(self) -> Mapping[str, int]:
        """Sizes, by name, of what is on the device only while it is used; empty if nothing is."""


class NewRouter(Protocol):
    """Makes the router of a lane."""

    def __call__(self, state: Any, indices: Indices) -> Router:
        """A router whose views go by what `state` holds when they are made.

        Args:
            state: of the lane.
            indices: makes the indices that it searches.
        """


@dataclass(frozen=True, slots=True)
class LaneModelSupport:
    """What a method offers whose lanes learn something once that all their edits share.

    Attributes:
        read: folder → the bytes of the lane model in it; raises ModelNotFoundError.
        prepare: (lane state, commit) → swap of a new lane model and of all edits under it, as one
            change; raises ArtifactCorruptError or BaseModelMismatchError if it does not fit.
        encode: (model, lane configuration, lane model's bytes, edits) → what carries all these
            edits under that lane model, for `LaneModelCommit.repository`; None without edits.
            Raises as `prepare`.
        dump: lane state → what it holds now, copied out when called, on any thread; None without
            a lane model.
        restore: (empty lane state, what was dumped) → swap; raises as `prepare`.
        needed: lane configuration → whether such a lane has a lane model at all.
    """

    read: Callable[[Path], bytes]
    prepare: Callable[[Any, LaneModelCommit], Swap]
    encode: Callable[[CausalLM, Any, bytes, Sequence[Edit]], Artifact | None]
    dump: Callable[[Any], Callable[[], LaneModelDump] | None]
    restore: Callable[[Any, LaneModelCommit], Swap]
    needed: Callable[[Any], bool] = lambda config: True


class FitAnew(Protocol):
    """Learns a lane from nothing but its edits in force: a function of its arguments alone."""

    def __call__(
        self,
        model: CausalLM,
        edits: Sequence[Edit],
        config: Any,
        state: Any,
        memory: Any,
        statistics: Any,
        *,
        num_experts: int,
        seed: int,
    ) -> Artifact:
        """Makes what carries all edits; the model is unchanged afterwards, whatever happens.

        Args:
            model: of the writer.
            edits: all of the lane in force, oldest first; at least one.
            config: of the lane.
            state: of the lane.
            memory: of the lane.
            statistics: of the lane.
            num_experts: among which edits are shared out, where there are such; 0 leaves it to
                the configuration.
            seed: of all random choices.

        Raises:
            InvalidRequestError: the lane's configuration, or the number of experts, forbids it.
            FitError: nothing was made.
        """


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a method offers whose lanes carry more than their edits in force.

    Attributes:
        fit: edits in force → one artifact.
        prepare: (lane state, commit of that artifact) → swap to exactly these edits, as one change;
            raises ArtifactCorruptError if it does not fit, or other edits are in force.
    """

    fit: FitAnew
    prepare: Callable[[Any, Commit], Swap]


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What a lane holds.

    Attributes:
        sizes: by name, as in the API's `Lane.sizes`.
        warnings: what somebody should do something about before it stops edits.
    """

    sizes: Mapping[str, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ordering:
    """How a method whose fits are few and large chooses the edits of one fit.

    Attributes:
        size: lane configuration → edits of one fit, at most.
        max_wait_seconds: lane configuration → how long an edit may wait for company.
        plan: (model, lane configuration, a window of edits, seed) → numbers of edits, parted into
            batches of that size, each edit once.
    """

    size: Callable[[Any], int]
    max_wait_seconds: Callable[[Any], float]
    plan: Callable[[CausalLM, Any, Sequence[Edit], int], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Method:
    """One editing method, as its slice registers it.

    Attributes:
        name: as lanes name it.
        config: the lane's configuration model.
        capabilities: what it promises.
        prepare: what its fits need once per base model.
        fit: edits → artifact.
        new_state: what a replica holds of a lane.
        new_memory: lane configuration → what the writer keeps between fits; None if nothing.
        attribute: lane state → attribution of forward passes; None if routing tells it all.
        new_router: how prompts are routed before the LLM runs; None if they are not.
        lane_model: what its lanes learn once; None if nothing.
        ordering: which pending edits are fitted together; None takes the oldest.
        compaction: how a lane is learned anew from its edits in force; None if it need not be.
        report: lane state → what it holds; None where edits in force say it all.
        presets: configurations with a name of their own, as values that differ from the defaults.
    """

    name: str
    config: type[LaneConfig]
    capabilities: Capabilities
    prepare: Prepare
    fit: Fit
    new_state: NewState
    new_memory: Callable[[Any], LaneMemory] | None = None
    attribute: Callable[[Any], Attribution] | None = None
    new_router: NewRouter | None = None
    lane_model: LaneModelSupport | None = None
    ordering: Ordering | None = None
    compaction: Compaction | None = None
    report: Callable[[Any], LaneReport] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def values(self, preset: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """A preset's values, and on top of them others.

        Raises:
            InvalidRequestError: no such preset; the message lists those that exist.
        """
        if preset and preset not in self.presets:
            known = ", ".join(sorted(self.presets)) or "none"
            raise InvalidRequestError(
                f"method {self.name} has no preset {preset!r}; it has: {known}.", field="preset"
            )
        return {**(self.presets[preset] if preset else {}), **values}


def methods() -> dict[str, Method]:
    """All methods by name."""
    from errata.editing import adaple, elder, lemoe, recipe

    slices = (adaple, recipe, elder, lemoe)
    return {method.METHOD.name: method.METHOD for method in slices}


def get_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        InvalidRequestError: no such method; the message lists those that exist.
    """
    known = methods()
    if name not in known:
        raise InvalidRequestError(
            f"no editing method is called {name!r}; choose one of {', '.join(sorted(known))}.",
            field="method",
            method=name,
        )
    return known[name]
