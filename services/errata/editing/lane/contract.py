"""The contract of lanes: their configuration, their operations, and what these yield.

Nothing outside a slice branches on a method's name. The writer and the workers see `Method`
(`lane.method`) and `Lane`; a capability that only some lanes have is an optional member of `Lane`,
None elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from errata.editing.artifact import Artifact
from errata.editing.edit import Edit, EditBatch
from errata.editing.lane.claims import RoutingView
from errata.editing.lane.commits import LaneDump, LaneEntry
from errata.editing.lane.swap import Change
from errata.editing.model.causal_lm import CausalLM
from errata.errors import InvalidRequestError, PreconditionError

NEARLY_FULL = 0.8
"""A lane warns once this share of its capacity is used."""

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Called with the number of tokens read, which never decreases, and the number to read."""


class LaneConfig(BaseModel):
    """Everything about a lane that changes answers; committed to the log and digested."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def needs_lane_model(self) -> bool:
        """Whether such a lane takes edits only once a lane model is committed."""
        return False

    @property
    def takes_gate(self) -> bool:
        """Whether a gate is enough as its lane model; without one, the installed gate is taken."""
        return False

    @property
    def needs_initial_files(self) -> bool:
        """Whether such a lane starts from files that its operator names (`Resources.adapters`)."""
        return False

    @property
    def takes_one_namespace(self) -> bool:
        """Whether all edits of such a lane share what answers: it refuses a second namespace."""
        return False


def require_gathered(gathered: T | None, name: str) -> T:
    """What `Lane.gather` has collected for the lane `name`.

    Raises:
        PreconditionError: it was not called yet.
    """
    if gathered is None:
        raise PreconditionError(f"{name} cannot fit yet; call gather first.", lane=name)
    return gathered


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
    """What a method promises, so that callers need not know which method it is.

    Attributes:
        changes_weights: commits alter the weights for every request (no per-row choice).
        defers: requests that no edit claims are answered bit for bit as by the base model (P8).
        reversal: what reverting an edit means, in one sentence for the user (P11).
        has_lane_models: whether its lanes can have a lane model; the configuration says which do.
    """

    changes_weights: bool
    defers: bool
    reversal: str
    has_lane_models: bool = False


@dataclass(frozen=True, slots=True)
class FitResult:
    """The outcome of a fit.

    Attributes:
        artifact: what travels to the replicas.
        memory: what later fits of the lane need and replicas do not; None if nothing.
        seconds: wall-clock time of the fit's parts, for telemetry and benchmarks; not committed.
    """

    artifact: Artifact
    memory: Artifact | None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)


class Resources(Protocol):
    """What a lane can read in addition to the model and the edits."""

    def text(self) -> Iterable[str]:
        """Plain text for statistics, one paragraph each."""

    @property
    def cache_dir(self) -> Path:
        """A folder for results that are keyed by their inputs' digests."""

    @property
    def adapters(self) -> Sequence[Path]:
        """Folders of PEFT adapters that the lane starts from; usually empty."""


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """How edits are told by the input x of a down projection, for engines with another model.

    Edit j shaped an answer if d_jᵀx reaches the threshold at any token of the prompt.

    Attributes:
        layer: 0-based.
        names: n edits, newest first.
        directions: (d_ff, n) fp32, columns d_j.
        threshold: minimum of the product.
    """

    layer: int
    names: tuple[str, ...]
    directions: Tensor
    threshold: float


class Attribution(Protocol):
    """Names the edits that shaped a forward pass over prompts (P10)."""

    def probes(self) -> Sequence[Probe]:
        """What this reads off a forward pass, as data."""

    def newest_first(self, names: Collection[str]) -> list[str]:
        """The names in the order in which an answer lists them."""

    def __enter__(self) -> Attribution:
        """Starts recording."""

    def __exit__(self, *exc: object) -> None:
        """Stops recording."""

    def edits(self, attention_mask: Tensor) -> list[list[str]]:
        """For each row of the last forward pass, (B, T) mask, the edits that shaped it."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """The sizes of a lane, and its warnings.

    Attributes:
        sizes: by name, as in the API's `Lane.sizes`.
        warnings: what an operator should act on before the lane refuses edits.
    """

    sizes: Mapping[str, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ordering:
    """How a lane with few, large fits chooses the edits of each fit.

    Attributes:
        size: maximum number of edits per fit.
        max_wait_seconds: how long an edit can wait until a batch is full.
        plan: (a window of edits, seed) → indices of edits, split into batches of that size; each
            edit occurs once.
    """

    size: int
    max_wait_seconds: float
    plan: Callable[[Sequence[Edit], int], list[list[int]]]


@dataclass(frozen=True, slots=True)
class LaneModelSupport:
    """The operations of a lane that shares one trained model among all its edits.

    Attributes:
        read: folder → the bytes of the lane model in it; raises ModelNotFoundError.
        encode: (lane model's bytes, edits) → an artifact that carries all these edits under that
            model, for `LaneModelCommit.repository`; None without edits. Raises
            BaseModelMismatchError or ArtifactCorruptError if the model does not fit.
        takes_gate: whether a gate is enough (`LaneConfig.takes_gate`).
    """

    read: Callable[[Path], bytes]
    encode: Callable[[bytes, Sequence[Edit]], Artifact | None]
    takes_gate: bool


class Compact(Protocol):
    """Retrains a lane from its active edits: a function of its arguments and the lane's state."""

    def __call__(self, edits: Sequence[Edit], *, num_experts: int, seed: int) -> Artifact:
        """Returns one artifact that carries all edits; model and lane stay unchanged.

        Args:
            edits: all active edits of the lane, oldest first; at least one.
            num_experts: number of experts that share the edits; 0 uses the configuration's.
            seed: of all random choices.

        Raises:
            InvalidRequestError: the lane's configuration or the number of experts forbids it.
            FitError: the training failed.
        """


class Export(Protocol):
    """Writes what a lane learned in a format that other programs read."""

    def __call__(self, llm: CausalLM, folder: Path, base_model: str) -> Sequence[Path]:
        """Writes one subfolder per adapter.

        Args:
            llm: holds its base weights.
            folder: target folder.
            base_model: name or path that the adapters record for the base model.

        Raises:
            PreconditionError: no edit is committed yet.
            InvalidRequestError: `folder` already holds adapters.
        """


class Lane(Protocol):
    """One configured method with its state, in one process.

    The writer fits; every replica prepares the log's entries and applies the changes in order.
    Lanes derive from it: members that only some lanes have are None by default.
    """

    def gather(self, resources: Resources, *, on_progress: Progress | None = None) -> None:
        """Collects the base model's statistics that fits need, from the cache if available.

        Call it before the model carries an edit.

        Raises:
            PreconditionError: the statistics are not cached, and the model no longer holds its base
                weights.
            InvalidRequestError: the configuration does not fit the model or the resources.
        """

    def fit(self, batch: EditBatch) -> FitResult:
        """Turns a batch into an artifact; model and lane stay unchanged, even after an error.

        Raises:
            PreconditionError: `gather` was not called, or the lane model is missing.
            FitError, InvalidEditError, LaneFullError: the batch cannot be fitted.
        """

    def prepare(self, entry: LaneEntry) -> Change:
        """Checks an entry and prepares its effect; the running model stays unchanged.

        Raises:
            EditNotRevertibleError: an edit of a reversal is not active in this lane.
            PreconditionError: the lane still needs a lane model.
            BaseModelMismatchError, ArtifactCorruptError: the entry does not fit.
        """

    def view(self) -> RoutingView | None:
        """A view that routes by the current contents; cheap. None if the method does not route."""
        return None

    def attribution(self) -> Attribution | None:
        """Names the edits that shape forward passes; None if routing already names them."""
        return None

    def digest(self) -> str:
        """SHA-256, hex, of the lane's current effect."""

    def dump(self) -> Callable[[], LaneDump]:
        """Captures contents and memory; the returned function copies them, on any thread."""

    def report(self) -> LaneReport | None:
        """Sizes and warnings; None if there is only the number of active edits to report."""
        return None

    def device_usage(self) -> Mapping[str, int]:
        """Sizes, by name, of what is on the device only while it is used; usually empty."""
        return {}

    @property
    def ordering(self) -> Ordering | None:
        """Which pending edits are fitted together; None takes the oldest."""
        return None

    @property
    def lane_model(self) -> LaneModelSupport | None:
        """Reads and encodes its lane model; None if its configuration needs none."""
        return None

    @property
    def compact(self) -> Compact | None:
        """Retrains it from its active edits; None if it never holds anything else."""
        return None

    @property
    def export(self) -> Export | None:
        """Writes what it learned for other programs; None if there is no such format."""
        return None
